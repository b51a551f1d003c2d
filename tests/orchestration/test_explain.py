"""`biomass explain`: the numbers of the ledger, and a picture that shows where the model looked."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from safetensors.torch import save_file
from tiny_study import FIRST, RANDOM, make_study
from typer.testing import CliRunner

from biomass_models.backbones.adapter import build_backbone
from biomass_models.backbones.weights import WeightsSource
from biomass_models.data.table import read_test
from biomass_models.targets import TARGETS
from orchestration.cli import app
from orchestration.inspect.explain import (
    PANEL,
    Explanation,
    draw_explanation,
    explain,
    render_explanation,
)
from orchestration.inspect.maps import ViewMap, maps_in_unit
from orchestration.overlay import BAR
from orchestration.search.trial import run_trial
from orchestration.study.ledger import Ledger, LedgerError
from orchestration.study.mass_unit import MassUnit
from orchestration.study.storage import Storage
from orchestration.workers.slots.inline_pool import InlinePool

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_pasture: Path) -> Any:
    folder = tmp_path_factory.mktemp("explained")
    families = (*FIRST, "density")
    ledger, context, records = make_study(folder / "study", tiny_pasture, folder / "cache", families)
    for record in records:
        run_trial(ledger, InlinePool(context), record.trial_id)
    return ledger, {record.family: record.trial_id for record in records}, tiny_pasture, folder


def ask(world: Any, family: str, image_id: str) -> Explanation:
    ledger, trials, data_dir, folder = world
    return explain(ledger, trials[family], image_id, data_dir, cache_dir=folder / "cache", weights=RANDOM)


def page(explanation: Explanation) -> str:
    console = Console(width=80)
    with console.capture() as capture:
        console.print(render_explanation(explanation))
    return capture.get()


def test_a_training_image_is_explained_from_the_ledger(world: Any) -> None:
    ledger, trials, *_ = world
    quadrat = ledger.quadrats().iloc[5]
    found = ask(world, "distilled", quadrat["image_id"])
    oof = ledger.oof(trials["distilled"]).set_index("image_id")
    np.testing.assert_array_equal(found.pred_T, oof.loc[quadrat["image_id"], list(TARGETS)])
    assert found.truth_T is not None and found.truth_T.tolist() == quadrat[list(TARGETS)].tolist()
    assert [one.view for one in found.maps] == ["whole", "left", "right"]
    assert sum(one.weight for one in found.maps[1:]) == pytest.approx(1, abs=1e-5)
    assert f"{found.pred_T[0]:.1f}" in page(found) and "left" in page(found)
    picture = draw_explanation(found)
    assert picture.width > PANEL and picture.height > 3 * PANEL // 2


def test_the_picture_is_yellow_where_the_model_looked_and_not_where_it_did_not(world: Any) -> None:
    found = ask(world, "distilled", str(world[0].quadrats()["image_id"].iloc[5]))
    corner = np.zeros((4, 4))
    corner[0, 3] = 1.0  # top right
    even = [ViewMap("left", 0.9, np.full((2, 2), 0.25)), ViewMap("right", 0.1, np.full((2, 2), 0.25))]
    found = replace(found, maps=(ViewMap("whole", np.nan, corner), *even))
    pixels = np.asarray(draw_explanation(found)).astype(float)
    tops = [30, 30 + PANEL // 2 + 30, 30 + 2 * (PANEL // 2 + 30) + BAR]  # a photograph of 2 : 1, captions, a scale

    def yellow(panel: int, right: bool) -> float:
        """More red and green than blue, in the upper half's outer quarter."""
        columns = slice(-PANEL // 4, -40) if right else slice(80, PANEL // 4)
        part = pixels[tops[panel] + 20 : tops[panel] + 80, columns]
        return float((part[..., :2].mean(-1) - part[..., 2]).mean())

    assert yellow(1, right=True) > yellow(1, right=False) + 50
    assert yellow(2, right=False) > yellow(2, right=True) + 50
    assert pixels[tops[1] : tops[1] + PANEL // 2, 20:-20].mean() > 60  # nothing is black


def test_a_portrait_keeps_its_shape(world: Any, tmp_path: Path) -> None:
    portrait = tmp_path / "tall.jpg"
    Image.new("RGB", (300, 600), "green").save(portrait)
    found = replace(ask(world, "baseline", str(world[0].quadrats()["image_id"].iloc[0])), path=portrait)
    green = np.asarray(draw_explanation(found))[..., 1].astype(int) - np.asarray(draw_explanation(found))[..., 0]
    rows, columns = np.nonzero(green > 50)
    assert np.ptp(rows) == pytest.approx(2 * np.ptp(columns), rel=0.02)


def test_a_test_image_is_explained_by_all_fold_models(world: Any) -> None:
    _, _, data_dir, _ = world
    image_id = str(read_test(data_dir)["image_id"].iloc[0])
    found = ask(world, "distilled", image_id)
    assert found.truth_T is None and found.how == "mean of 3 fold models"
    assert len(found.maps) == 3
    assert all(one.map_HW.sum() == pytest.approx(1, abs=1e-4) for one in found.maps)
    assert "measured" not in page(found)


def test_densities_are_drawn_in_g_per_m2_where_the_area_is_known(world: Any) -> None:
    ledger, *_ = world
    image_id = str(ledger.quadrats()["image_id"].iloc[5])
    found = ask(world, "density", image_id)
    assert found.map_unit == "g per quadrat"  # train.csv has no areas
    masses = ["Dry_Green_g", "Dry_Clover_g", "Dry_Dead_g"]
    assert list(dict.fromkeys(one.mass for one in found.maps)) == masses
    for mass in masses:
        mean = np.mean([one.map_HW.mean() for one in found.maps if one.mass == mass])
        assert mean == pytest.approx(found.pred_T[TARGETS.index(mass)], rel=1e-3)
        assert f"{mean:.1f}" in page(found)
    picture = draw_explanation(found)
    assert picture.height > 4 * PANEL // 2  # the photograph and three masses
    assert found.to_json()["looks"][0]["mass"] == "Dry_Green_g" and "g per quadrat" in page(found)
    in_g_m2, unit = maps_in_unit(found.maps, "density", np.array([4.0]))
    assert unit == "g/m2" and (in_g_m2[0].map_HW == 4 * found.maps[0].map_HW).all()
    looked = ask(world, "distilled", image_id)
    assert maps_in_unit(looked.maps, "distilled", np.array([4.0])) == (looked.maps, "share of the attention")


def test_a_density_of_a_test_image_is_the_mean_of_the_fold_models(world: Any) -> None:
    _, _, data_dir, _ = world
    found = ask(world, "density", str(read_test(data_dir)["image_id"].iloc[0]))
    green = [one.map_HW.mean() for one in found.maps if one.mass == "Dry_Green_g"]
    assert np.mean(green) == pytest.approx(found.pred_T[0], rel=1e-3)


def test_masses_are_explained_in_the_unit_that_was_weighed(world: Any, tmp_path: Path) -> None:
    ledger, trials, data_dir, folder = world
    copied = Ledger(Storage(shutil.copytree(Path(ledger.storage.uri), tmp_path / "study")))
    image_id, test_id = str(copied.quadrats()["image_id"].iloc[5]), str(read_test(data_dir)["image_id"].iloc[0])
    plain, record = ask(world, "distilled", image_id), copied.study()
    total, mass = TARGETS[-1], plain.pred_T[-1]
    for unit, area_m2, of_test in (
        (MassUnit(name="kg/ha", area_m2=0.25), 0.25, "kg/ha"),
        (MassUnit(name="kg/ha", area_column="area"), 0.5, "g"),  # the area of a new quadrat is not known
    ):
        areas = np.where(copied.quadrats()["image_id"] == image_id, 0.5, 0.25)
        copied.write_study(replace(record, mass_unit=unit), copied.quadrats().assign(area=areas))
        here = (copied, trials, data_dir, folder)
        found, new = ask(here, "distilled", image_id), ask(here, "distilled", test_id)
        assert found.unit == "kg/ha" and found.pred_T[-1] == mass
        shown = found.to_json()
        assert shown["masses_g"][total]["predicted"] == mass
        assert shown["masses"][total]["predicted"] == pytest.approx(10 * mass / area_m2)  # 1 g/m2 is 10 kg/ha
        assert f"{10 * mass / area_m2:.1f}" in page(found) and "predicted kg/ha" in page(found)
        assert new.unit == of_test and f"predicted {of_test} " in page(new)
    assert "predicted g" in page(plain) and plain.to_json()["masses"] == plain.to_json()["masses_g"]


@pytest.mark.parametrize("family", ["baseline", "probe"])
def test_a_family_without_attention_says_so(family: str, world: Any) -> None:
    image_id = str(world[0].quadrats()["image_id"].iloc[0])
    found = ask(world, family, image_id)
    assert found.maps == ()
    assert "no maps" in page(found)
    assert draw_explanation(found).height < PANEL


def test_other_weights_do_not_explain_a_test_image(world: Any, tmp_path: Path) -> None:
    ledger, trials, data_dir, folder = world
    image_id = str(read_test(data_dir)["image_id"].iloc[0])
    tensors = build_backbone("test_vit", RANDOM).model.state_dict()
    save_file({name: tensor + 0.5 for name, tensor in tensors.items()}, tmp_path / "test_vit.safetensors")
    other = WeightsSource("folder", tmp_path)
    with pytest.raises(LedgerError, match="leave --weights out"):
        explain(ledger, trials["distilled"], image_id, data_dir, cache_dir=folder / "cache", weights=other)


def test_an_image_of_nobody_is_refused(world: Any) -> None:
    with pytest.raises(LedgerError, match="the study has such as"):
        ask(world, "distilled", "nobody")


def test_the_command_writes_a_picture(world: Any, tmp_path: Path) -> None:
    ledger, trials, data_dir, _ = world
    image_id = str(ledger.quadrats()["image_id"].iloc[3])
    out = tmp_path / "deep" / "one.png"
    arguments = ["explain", ledger.storage.uri, trials["distilled"], "--image", image_id, "--data", str(data_dir)]
    result = CliRunner().invoke(app, [*arguments, "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert image_id in result.output
    with Image.open(out) as picture:
        assert picture.format == "PNG"
