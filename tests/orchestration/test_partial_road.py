"""The whole road of a table of one's own, with real models and without Ray: search, blend, report, export, predict."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from readme import commands
from safetensors.torch import load as load_tensors
from typer.testing import CliRunner

from biomass_models.backbones.weights import WeightsSource
from biomass_models.data.table import read_test, read_train
from biomass_models.families import registry
from biomass_models.families.introduced import config_from_stored
from biomass_models.features.inputs import ImageSet, Inputs
from biomass_models.pasture.make import make_pasture
from biomass_models.targets import TARGETS, TOTAL
from ensembles.blend import apply_blend
from ensembles.card import Card
from ensembles.submission import check_submission, masses_at
from orchestration.bundle.predict import predict_bundle
from orchestration.cli import app
from orchestration.study.data import StudyData
from orchestration.study.ledger import Ledger
from orchestration.study.storage import Storage

pytestmark = pytest.mark.slow

DRAWN: dict[str, Any] = {"images": 40, "test_images": 4, "seed": 0, "width": 160, "height": 80, "workers": 1}
TINY = ["--backbone", "test_vit", "--weights", "random", "--scale", "smoke", "--folds", "3", "--inline"]
TWO = ("clover", "total")
DOCS = Path(__file__).parents[2] / "docs"


def biomass(*words: object) -> str:
    """What a command prints; it must succeed."""
    shown = CliRunner().invoke(app, [str(word) for word in words])
    assert shown.exit_code == 0, shown.output
    return " ".join(shown.output.split())


def lend_skill(ledger: Ledger) -> None:
    """Mix half of the truth into pooled out-of-fold rows: random weights have no skill, and a blend wants some."""
    truth_NT = StudyData(ledger).truth_NT
    for name, result in ledger.results().items():
        oof = ledger.oof(name)
        pred_NT = oof[list(TARGETS)].to_numpy()
        oof[list(TARGETS)] = np.where(np.isnan(truth_NT), pred_NT, (pred_NT + truth_NT) / 2)
        ledger.write_result(name, result, oof)


def road(folder: Path, data: Path, *search: str, skilled: bool = False) -> tuple[StudyData, pd.DataFrame, str, str]:
    """The study, what its bundle predicts, all that was said, and the report. skilled: whether the models are."""
    study, cache = folder / "study", ["--cache", folder / "cache"]
    said = biomass("data", "check", data)
    said += biomass("search", study, "--data", data, "--family", "probe", "--trials", 3, *TINY, *cache, *search)
    if not skilled:
        lend_skill(Ledger(Storage(study)))
    blend = ["--out", folder / "masses.csv", "--weights", "random", "--inline", *cache]
    said += biomass("ensemble", study, "--data", data, *blend)
    said += biomass("report", study, "--data", data, "--out", folder / "report.html")
    said += biomass("export", study, "masses", "--out", folder / "bundle", "--weights", "random")
    predict_bundle(folder / "bundle", data, folder / "predicted.csv", weights=folder / "none", say=lambda line: None)
    blended, predicted = pd.read_csv(folder / "masses.csv"), pd.read_csv(folder / "predicted.csv")
    pd.testing.assert_frame_equal(blended, predicted, atol=1e-5)
    return StudyData(Ledger(Storage(study))), predicted, said, (folder / "report.html").read_text()


def masses_hold(predicted: pd.DataFrame, study: StudyData) -> None:
    """Blank where nothing was measured, finite and at least 0 elsewhere."""
    for name in TARGETS:
        column = predicted[name]
        assert column.isna().all() if name not in study.measured else (column >= 0).all(), name


@pytest.fixture
def drawn(tmp_path: Path) -> Callable[..., Path]:
    """Draws the tiny pasture as a table of one's own."""

    def draw(**changes: Any) -> Path:
        make_pasture(tmp_path / "data", form="quadrats", **{**DRAWN, **changes})
        return tmp_path / "data"

    return draw


def test_a_total_in_kilograms_per_hectare_goes_the_whole_road(tmp_path: Path, drawn: Any) -> None:
    data = drawn(targets=("total",), unit="kg/ha", area=0.25)
    study, predicted, said, html = road(tmp_path, data, skilled=True)
    assert study.measured == ("Dry_Total_g",)
    truth_N, pred_N = study.truth_NT[:, TOTAL], study.pred_NT(study.ranked[0].trial_id)[:, TOTAL]
    by_hand = 1 - ((truth_N - pred_N) ** 2).sum() / ((truth_N - truth_N.mean()) ** 2).sum()
    assert study.ranked[0].score == pytest.approx(by_hand)
    masses_hold(predicted, study)
    np.testing.assert_allclose(predicted["Dry_Total_kg_ha"], 40 * predicted["Dry_Total_g"], atol=1e-4)
    assert "not measured here: green, dead, clover, GDM" in said and "left blank: Dry_Green_g" in said
    assert (
        "(R² of total)" in html and "kg/ha" in html and re.search(r"typically \S+ kg/ha off", html.replace("\xa0", " "))
    )
    alone = pd.read_csv(data / "test.csv")
    named = alone.assign(
        quadrat=alone["image_path"].isin(alone["image_path"].unique()[:3]).map({True: "q", False: "r"})
    )
    named.to_csv(data / "test.csv", index=False)
    remarks: list[str] = []
    averaged = tmp_path / "averaged.csv"
    predict_bundle(tmp_path / "bundle", data, averaged, weights=tmp_path / "none", say=remarks.append)
    assert "note: 4 photographs of 2 quadrats: each has the mean mass over the photographs of its quadrat" in remarks
    found = pd.read_csv(averaged)
    assert found["quadrat"].tolist() == ["q", "q", "q", "r"]
    for name in ("Dry_Total_g", "Dry_Total_kg_ha"):
        by_hand = [predicted[name][:3].mean()] * 3 + [predicted[name][3]]
        np.testing.assert_allclose(found[name], by_hand, atol=1e-4)
    cache = ["--weights", "random", "--inline", "--cache", tmp_path / "cache"]
    assert "4 photographs of 2 quadrats" in biomass(
        "ensemble", tmp_path / "study", "--data", data, "--out", tmp_path / "q.csv", *cache
    )
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "q.csv"), found, atol=1e-5)
    truth = tmp_path / "data-truth.csv"
    assert biomass("score", tmp_path / "predicted.csv", "--truth", truth).endswith(
        "not measured here: green, dead, clover, GDM"
    )


def test_the_documented_commands_go_from_phone_pictures_to_a_report(
    tmp_path: Path, drawn: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/data.md, word for word, at the size of a test."""
    data = drawn(test_images=0)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(data / "train", tmp_path / "phone")
    table = read_train(data)
    cuts = pd.DataFrame({"photo": [Path(path).name for path in table["image_path"]]})
    cuts["date"], cuts["paddock"] = table["Sampling_Date"].dt.strftime("%Y-%m-%d"), table["State"]
    cuts["total_g"] = table["Dry_Total_g"]
    cuts.to_csv("cuts.csv", index=False)
    lines = commands("The road in three commands", DOCS / "data.md")
    assert [words[1] for words in lines] == ["data", "search", "report"]
    for words in lines:
        size = [*TINY, "--family", "probe", "--cache", "cache"] if words[1] == "search" else []
        biomass(*["2" if word == "60" else word for word in words[1:]], *size)
    (page,) = tmp_path.glob("*.html")
    assert "(R² of total)" in page.read_text() and "paddock" not in page.read_text().partition("<h2")[0]


@pytest.mark.long
def test_total_and_clover(tmp_path: Path, drawn: Any) -> None:
    data = drawn(targets=("clover", "total"))
    table = pd.read_csv(data / "quadrats.csv")
    table.loc[::4, "clover_g"] = np.nan  # not sorted in every quadrat
    table.to_csv(data / "quadrats.csv", index=False)
    study, predicted, _, html = road(tmp_path, data, "--family", "baseline")
    assert study.measured == ("Dry_Clover_g", "Dry_Total_g")
    masses_hold(predicted, study)
    assert list(predicted) == ["image_id", *TARGETS]
    assert "total, clover (30 of 40)" in html and "measured in 30 of 40" in html


@pytest.mark.long
@pytest.mark.parametrize("areas", [(0.25,), (0.25, 0.5)], ids=["alike", "different"])
def test_five_masses_with_an_area_for_each_quadrat(tmp_path: Path, drawn: Any, areas: tuple[float, ...]) -> None:
    data = drawn(unit="kg/ha", area=0.25)
    table = pd.read_csv(data / "quadrats.csv")
    table["m2"] = [areas[row % len(areas)] for row in range(len(table))]
    masses = [name for name in table if name.endswith("_kg_ha")]
    table[masses] = table[masses].mul(0.25 / table["m2"], axis=0)  # the same grams
    table.to_csv(data / "quadrats.csv", index=False)
    toml = (data / "dataset.toml").read_text()
    (data / "dataset.toml").write_text(re.sub(r"(?m)^area = .*$", 'area = "m2"', toml))
    study, predicted, said, html = road(tmp_path, data)
    assert study.measured == TARGETS and study.weight.ndim == 1
    assert "measured [kg/ha]" in html and "not measured here" not in html
    if len(areas) == 1:
        np.testing.assert_allclose(predicted["GDM_kg_ha"], 40 * predicted["GDM_g"], atol=1e-4)
        assert "quadrats of 0.25 m²" in html
    else:
        assert list(predicted) == ["image_id", *TARGETS] and "areas of quadrats differ" in said
        assert "quadrats of different areas" in html


@pytest.mark.long
@pytest.mark.parametrize("lacking", [("date", "groups"), ("date", "site", "species", "ndvi", "height", "groups")])
def test_without_dates(tmp_path: Path, drawn: Any, lacking: tuple[str, ...]) -> None:
    data = drawn(targets=("total",))
    lines = (data / "dataset.toml").read_text().splitlines()
    (data / "dataset.toml").write_text("\n".join(line for line in lines if line.split(" =")[0] not in lacking) + "\n")
    study, predicted, said, html = road(tmp_path, data)
    masses_hold(predicted, study)
    noun = "group" if "site" not in lacking else "photograph"
    assert study.group_noun == noun and ("By group" in html) == (noun == "group") and "By day" not in html
    assert ("folds are random" in said) == (noun == "photograph")


def test_blocks_of_time_go_the_whole_road(tmp_path: Path, drawn: Any) -> None:
    """The first block is only trained on; an exam is of the last dates; the last block's model predicts."""
    study, predicted, said, html = road(tmp_path, drawn(images=60, targets=TWO), "--scheme", "time", "--exam", 0.2)
    ledger, first, day_N = study.ledger, study.learned["fold"] == -1, study.learned["Sampling_Date"]
    exam = ledger.exam_quadrats()
    assert exam is not None and study.folds == [0, 1] and exam["Sampling_Date"].min() > day_N.max()
    assert day_N[first].max() < day_N[~first].min() and len(study.quadrats) == (~first).sum() < len(study.learned)
    references = ledger.references()
    assert references is not None
    for table in (references, *(ledger.oof(name) for name in ledger.results())):
        assert set(table["image_id"]) == set(study.quadrats["image_id"])
    masses_hold(predicted, study)
    bundle = json.loads((tmp_path / "bundle" / "bundle.json").read_text())
    models = [Path(model).name for member in bundle["members"] for model in member["models"]]
    assert models == ["fold-1.safetensors"] * len(bundle["members"])
    card = Card.from_json(ledger.ensemble("masses").card)
    images = ImageSet.from_table(tmp_path / "data", read_test(tmp_path / "data"))
    inputs = Inputs(images, cache_dir=tmp_path / "cache", weights=WeightsSource("random"), fit=study.settings.fit)
    pred_MNT = {}
    for name in card.members:
        record = ledger.trial(name)
        config, tensors = config_from_stored(record.family, record.config), load_tensors(ledger.fold_model(name, 1))
        pred_MNT[name] = registry.model(record.family).predict(config, tensors, inputs, flips=card.flips)
    expected_NT = pd.DataFrame(apply_blend(card, pred_MNT), columns=list(TARGETS))[list(study.measured)]
    np.testing.assert_allclose(predicted[list(study.measured)], expected_NT, atol=1e-3)
    assert (
        "3 blocks of time in order" in html
        and "the first (" in html
        and "is not scored; the models of the last" in said
    )
    exam_said = biomass(
        "exam",
        study.ledger.storage.uri,
        "--data",
        tmp_path / "data",
        "--weights",
        "random",
        "--inline",
        "--cache",
        tmp_path / "cache",
    )
    assert f"on {len(exam)} images" in exam_said


def test_photographs_that_are_only_trained_on_go_the_whole_road(tmp_path: Path, drawn: Any) -> None:
    data = drawn(targets=TWO)
    table = read_train(data)
    day_N, days = table["Sampling_Date"], sorted(table["Sampling_Date"].unique())
    fold = day_N.isin(days[::2]).astype(int).astype(str)
    fold[day_N.isin(days[:2])], fold[day_N.isin(days[-2:])] = "-1", "exam"
    table[["image_id"]].assign(fold=fold).to_csv(tmp_path / "folds.csv", index=False)
    study, predicted, said, html = road(tmp_path, data, "--fold-file", tmp_path / "folds.csv")
    only_trained_on = set(table["image_id"][fold == "-1"])
    assert only_trained_on == set(study.learned["image_id"]) - set(study.quadrats["image_id"])
    exam = study.ledger.exam_quadrats()
    assert exam is not None and set(exam["image_id"]) == set(table["image_id"][fold == "exam"])
    masses_hold(predicted, study)
    says = f"{len(only_trained_on)} photographs are only trained on (fold -1), not scored"
    assert says in said and says in html and "2 folds of the user&#x27;s own" in html.replace("&#39;", "&#x27;")
    assert not [name for name in only_trained_on if name in html]


@pytest.mark.long
def test_one_site(tmp_path: Path, drawn: Any) -> None:
    data = drawn()
    table = pd.read_csv(data / "quadrats.csv").assign(site="home")
    table.to_csv(data / "quadrats.csv", index=False)
    study, predicted, _, html = road(tmp_path, data)
    assert study.measured == TARGETS and "By day" in html and "By site" not in html
    assert check_submission(tmp_path / "masses.csv", data) == []  # five masses in grams: the competition's form
    assert len(masses_at(tmp_path / "masses.csv")) == 4 and set(predicted) == {"sample_id", "target"}
