"""One contract for every family: what search and prediction rely on."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
import worked_packages
from tiny_inputs import inputs_for, tiny_quadrats

from biomass_models.data.cell_weights import WEIGHT_COLUMNS
from biomass_models.families import registry
from biomass_models.families.baseline.config import BaselineConfig
from biomass_models.families.configs import config_from_params
from biomass_models.families.costs import all_feature_seconds, forward_seconds, measure
from biomass_models.families.density.config import DensityConfig
from biomass_models.families.distilled.config import DistilledConfig
from biomass_models.families.probe.config import ProbeConfig
from biomass_models.families.pseudo_rows import with_pseudo_rows
from biomass_models.families.stack.config import StackConfig
from biomass_models.fold_rows import labelled_rows
from biomass_models.interrupt import StopRequested
from biomass_models.targets import TARGETS, TOTAL, weight_T
from biomass_models.training.all_rows import fit_all_rows
from biomass_models.training.fit import seed_for
from biomass_models.training.maps import MAP_COLUMNS, MASS_MAP_COLUMNS
from search_spaces.spaces import space_of

pytestmark = pytest.mark.slow

TRAINED = BaselineConfig(
    backbone="test_efficientnet", size=64, trained_blocks=2, epochs=2, batch_size=8, head_lr=1e-3, backbone_lr=1e-3
)
FROZEN = BaselineConfig(backbone="test_vit", size=64, trained_blocks=0, head_lr=3e-4)
CASES = {
    "frozen head": ("baseline", replace(FROZEN, epochs=3, jittered=1, ema_decay=0.9)),
    "trained CNN": ("baseline", TRAINED),
    "trained ViT": ("baseline", replace(TRAINED, backbone="test_vit3", transform="sqrt", ema_decay=0.9)),
    "trained on prefixes": (
        "baseline", replace(TRAINED, backbone="test_vit2", prefix_bank="float16", flips=2, jittered=1)
    ),
    "student on prefixes": (
        "distilled",
        DistilledConfig(
            backbone="test_efficientnet", size=64, layout="tiles-1x2", local_size=32, trained_blocks=1, grid=1,
            epochs=1, batch_size=8, head_width=32, head_width_2=16, teacher_epochs=20, prefix_bank="float32", flips=1,
        ),
    ),
    "student on tokens": (
        "distilled",
        DistilledConfig(
            backbone="test_convnext", size=64, layout="corners4", local_size=32, trained_blocks=0, grid=2, epochs=2,
            batch_size=8, jittered=1, head_width=32, head_width_2=16, teacher_epochs=20,
        ),
    ),
    "trained student": (
        "distilled",
        DistilledConfig(
            backbone="test_vit2", size=48, layout="halves", local_size=32, trained_blocks=1, epochs=2, batch_size=8,
            head_width=32, head_width_2=16, ema_decay=0.9, select_best_epoch=True, teacher_epochs=20,
        ),
    ),
    "student alone": (
        "distilled",
        DistilledConfig(
            backbone="test_efficientnet", size=64, layout="none", trained_blocks=1, grid=1, epochs=1,
            distillation_weight=0.0, ratio_weight=0.0, group_weights=False,
        ),
    ),
    "interval heads": ("baseline", replace(FROZEN, epochs=2, interval_bins=7, ema_decay=0.9)),
    "mixup": (
        "baseline",
        replace(TRAINED, backbone="test_vit2", prefix_bank="float32", flips=2, mixup_alpha=0.4, stamped=1),
    ),
    "predicted metadata": ("baseline", replace(FROZEN, epochs=2, predicted_metadata="film", ema_decay=0.9)),
    "student with options": (
        "distilled",
        DistilledConfig(
            backbone="test_vit", size=64, layout="none", trained_blocks=0, grid=2, epochs=2, batch_size=8,
            head_width=32, head_width_2=16, teacher_epochs=20, interval_bins=7,
            mixup_alpha=0.4, predicted_metadata="film",
        ),
    ),
    "ridge": ("probe", ProbeConfig(backbone="test_convnext", size=64)),
    "ridge of taps and sizes": (
        "probe",
        ProbeConfig(
            backbone="test_vit", size=32, more_sizes="48+64", layout="halves", taps="0.5+0.83+1",
            pooling="mean+max+min+gem", transform="sqrt",
        ),
    ),
    "ridge of stages": (
        "probe",
        ProbeConfig(
            backbone="test_efficientnet", size=64, layout="halves", view_merge="mean", taps="0.6+1",
            pooling="global+mean+max+min+gem+std", flips=2,
        ),
    ),
    "wide ridge": (
        "probe",
        ProbeConfig(
            backbone="test_vit2", size=32, layout="tiles-1x2", layers=2, pooling="global+mean+std", flips=4,
            transform="none", alpha_per_target=True,
        ),
    ),
    "stack of ridges": ("stack", StackConfig(backbone="test_vit", size=32, more_sizes="48")),
    "stack with penalties chosen": (
        "stack",
        StackConfig(
            backbone="test_convnext", size=64, layout="tiles-1x2", view_merge="mean", taps="1", pooling="global+std",
            choose_penalty=True, penalties=4, goals="log1p", flips=2,
        ),
    ),
    "stack of kernels": ("stack", StackConfig(backbone="test_efficientnet", size=64, regressor="kernel", taps="0.6+1")),
    "stack of SVRs": ("stack", StackConfig(backbone="test_vit2", size=32, regressor="svr", layout="whole", taps="1")),
    "stack of trees": (
        "stack",
        StackConfig(backbone="test_vit", size=32, regressor="trees", trees=6, goals="grams", taps="1"),
    ),
    "densities of tokens": (
        "density",
        DensityConfig(backbone="test_convnext", size=64, epochs=2, batch_size=8, head_width=16, head_width_2=8,
                      ema_decay=0.9, flips=2, jittered=1, stamped=1, mixup_alpha=0.5),
    ),
    "densities, trained": (
        "density",
        DensityConfig(backbone="test_vit3", size=32, layout="tiles-1x2", trained_blocks=1, epochs=1, batch_size=8),
    ),
    "densities on prefixes": (
        "density",
        DensityConfig(backbone="test_vit2", size=32, layout="whole", trained_blocks=1, prefix_bank="float32", epochs=1,
                      batch_size=8, flips=2, select_best_epoch=True),
    ),
}  # fmt: skip
if find_spec("peft"):
    CASES["adapters of densities"] = (
        "density",
        replace(CASES["densities, trained"][1], backbone="test_vit", adapters="lora", adapter_rank=4),
    )
    CASES["adapters"] = ("baseline", replace(TRAINED, backbone="test_vit", adapters="dora", adapter_rank=4))
WORKED = "worked example of the page"  # its package is there while these tests run


@pytest.fixture(scope="module", autouse=True)
def worked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    site = tmp_path_factory.mktemp("site")
    worked_packages.install(site)
    with worked_packages.installed(site):
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("photographs")
    quadrats, fold_N = tiny_quadrats(folder)
    return inputs_for(folder, quadrats, tmp_path_factory.mktemp("cache")), quadrats, fold_N, folder


def first_trial(family: str) -> tuple[str, Any]:
    """The first trial of a family's smallest space: the case of a family that has no own one."""
    space = space_of(family, ("test_vit",), "smoke")
    return family, space.config(space.first_trials[0])


CASES |= {name: first_trial(name) for name in registry.BUILT_IN if name not in {family for family, _ in CASES.values()}}


def case_of(name: str) -> tuple[str, Any]:
    if name == WORKED:
        return worked_packages.NAME, config_from_params(worked_packages.NAME, {"backbone": "test_vit", "size": 64})
    return CASES[name]


@pytest.fixture(params=[*CASES, WORKED])
def named(request: pytest.FixtureRequest) -> tuple[str, Any]:
    """A family's name and a configuration."""
    return case_of(request.param)


@pytest.fixture
def case(named: tuple[str, Any]) -> Any:
    """The model of a family, and a configuration."""
    name, config = named
    return registry.model(name), config


def test_every_family_has_a_case_and_its_config() -> None:
    cases = [case_of(name) for name in (*CASES, WORKED)]
    assert {family for family, _ in cases} == set(registry.names()) == {*registry.BUILT_IN, worked_packages.NAME}
    assert all(type(config) is registry.family(name).config_class for name, config in cases)


@pytest.mark.parametrize("name", [*registry.BUILT_IN, worked_packages.NAME])
def test_a_family_describes_itself_without_torch(name: str) -> None:
    family = registry.family(name)
    assert family.describe and "\n" not in family.describe and len(family.describe) < 120
    assert family.summary(family.config_class()) == ""
    code = (
        f"import sys; from biomass_models.families import registry; registry.family('{name}'); "
        f"registry.space_module('{name}'); print('torch' in sys.modules)"
    )
    path = {"PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | path
    )
    assert result.stdout.strip() == "False"


def test_a_summary_is_a_line_that_tells_configurations_apart(named: tuple[str, Any]) -> None:
    name, config = named
    summary = registry.family(name).summary
    assert summary(config) and "\n" not in summary(config) and len(summary(config)) < 120
    assert summary(config).startswith("backbone=") or not getattr(config, "distillation_weight", 1)
    assert summary(replace(config, size=96)) != summary(config) or "more" in summary(config)


@pytest.mark.parametrize("name", [*registry.BUILT_IN, worked_packages.NAME])
def test_optional_parts_come_with_what_they_need(name: str) -> None:
    family, model = registry.family(name), registry.model(name)
    assert bool(family.map_unit) == (model.maps is not None)
    if model.shared is not None:
        settings = model.shared.settings(family.config_class())
        assert settings is None or json.dumps(asdict(settings))


def test_five_finite_masses_for_each_held_out_row(case: Any, world: Any) -> None:
    family, config = case
    inputs, quadrats, fold_N, _ = world
    result = family.fit(config, quadrats, fold_N, 1, inputs, seed=0)
    assert result.row_N.tolist() == np.flatnonzero(fold_N == 1).tolist()
    assert result.pred_NT.shape == (len(result.row_N), 5)
    assert result.pred_NT.dtype == np.float64
    assert np.isfinite(result.pred_NT).all()
    assert (result.pred_NT >= 0).all()
    assert "score" in result.epochs[-1]
    json.dumps(result.info)


def test_saved_tensors_predict_the_same_without_metadata(case: Any, world: Any, tmp_path: Path) -> None:
    """Another process, another cache, another order of images; nothing but photographs and tensors."""
    family, config = case
    inputs, quadrats, fold_N, folder = world
    result = family.fit(config, quadrats, fold_N, 0, inputs, seed=0)
    safetensors.torch.save_file(result.tensors, tmp_path / "model.safetensors")
    tensors = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(tensors[name], result.tensors[name]) for name in result.tensors)
    held_out = quadrats.iloc[result.row_N[::-1]][["image_id", "image_path"]]
    fresh = inputs_for(folder, held_out, tmp_path / "cache")
    np.testing.assert_allclose(family.predict(config, tensors, fresh)[::-1], result.pred_NT, atol=1e-3, rtol=1e-4)
    again = family.predict(config, tensors, inputs)
    assert again.shape == (len(quadrats), 5)
    np.testing.assert_allclose(again[result.row_N], result.pred_NT, atol=1e-4)


def test_same_seed_same_bytes(case: Any, world: Any) -> None:
    family, config = case
    inputs, quadrats, fold_N, _ = world
    first = family.fit(config, quadrats, fold_N, 0, inputs, seed=5)
    torch.rand(1)  # what others draw must not matter
    second = family.fit(config, quadrats, fold_N, 0, inputs, seed=5)
    assert first.pred_NT.tobytes() == second.pred_NT.tobytes()
    assert all(torch.equal(first.tensors[name], second.tensors[name]) for name in first.tensors)


def test_every_row_trains_a_model_on_all_rows(case: Any, world: Any) -> None:
    """The first one's copy stands on the held-out side: the first itself counts all the same."""
    family, config = case
    inputs, quadrats, _, _ = world

    def tensors(table: pd.DataFrame) -> bytes:
        torch.rand(1)  # what others draw must not matter
        result = fit_all_rows(family.fit, config, table, inputs, seed=5)
        assert result.info.get("train_rows", len(quadrats)) == len(quadrats)
        pred_NT = family.predict(config, result.tensors, inputs)
        assert pred_NT.shape == (len(quadrats), 5) and np.isfinite(pred_NT).all()
        return safetensors.torch.save(result.tensors)

    made = tensors(quadrats)
    assert tensors(quadrats) == made
    heavier = quadrats.copy()
    heavier.loc[0, list(TARGETS)] = 2 * quadrats.loc[0, list(TARGETS)] + 5
    assert tensors(heavier) != made


def test_held_out_labels_touch_nothing(case: Any, world: Any) -> None:
    family, config = case
    inputs, quadrats, fold_N, _ = world
    changed = quadrats.copy()
    changed.loc[fold_N == 2, list(TARGETS)] = changed.loc[fold_N == 2, list(TARGETS)] * 9 + 50
    changed.loc[fold_N == 2, ["State", "Species"]] = ["WA", "Lucerne"]
    changed.loc[fold_N == 2, ["Pre_GSHH_NDVI", "Height_Ave_cm"]] = [0.01, 99.0]
    first, second = (family.fit(config, table, fold_N, 2, inputs, seed=1) for table in (quadrats, changed))
    assert first.pred_NT.tobytes() == second.pred_NT.tobytes()
    assert all(torch.equal(first.tensors[name], second.tensors[name]) for name in first.tensors)
    changed.loc[fold_N == 1, "Dry_Total_g"] += 30.0  # training labels do matter
    third = family.fit(config, changed, fold_N, 2, inputs, seed=1)
    assert np.abs(third.pred_NT - first.pred_NT).max() > 1e-3


def test_what_was_not_measured_is_not_looked_at(case: Any, world: Any) -> None:
    """The total in all rows, the other masses in two of three."""
    family, config = case
    inputs, quadrats, fold_N, _ = world
    mass_NT = quadrats[list(TARGETS)].to_numpy()
    measured_NT = (np.arange(len(quadrats)) % 3 > 0)[:, None] | (np.arange(5) == TOTAL)
    pred = set()
    for value in (np.nan, 0.0, 1e9):
        table = quadrats.assign(**dict(zip(TARGETS, np.where(measured_NT, mass_NT, value).T, strict=True)))
        if not np.isnan(value):
            table[list(WEIGHT_COLUMNS)] = np.where(measured_NT, weight_T, 0.0)
        result = family.fit(config, table, fold_N, 1, inputs, seed=0)
        assert np.isfinite(result.pred_NT).all() and (result.pred_NT >= 0).all()
        pred.add(result.pred_NT.tobytes())
    assert len(pred) == 1


def second_round(quadrats: pd.DataFrame, fold_N: np.ndarray, weight: float) -> tuple[pd.DataFrame, np.ndarray]:
    """The table without fold 2, whose photographs models have labelled instead; and its folds."""
    seen, asked = quadrats[fold_N != 2], quadrats[fold_N == 2]
    label_PT = asked[list(TARGETS)].to_numpy() * 0.5 + 3
    table = with_pseudo_rows(seen.assign(fold=fold_N[fold_N != 2]), asked["image_id"], label_PT, np.ones(len(asked)), 1)
    table.loc[labelled_rows(table) == 0, list(WEIGHT_COLUMNS)] *= weight
    return table, table["fold"].to_numpy()


def test_rows_that_models_have_labelled_count_by_their_weight(named: tuple[str, Any], world: Any) -> None:
    """Rows of weight 0 change no byte of a fit; others do, and are neither scored nor counted as weighed."""
    name, config = named
    inputs, quadrats, fold_N, _ = world
    if not registry.family(name).pseudo_labels:
        assert name == worked_packages.NAME
        return
    fit = registry.model(name).fit
    (table, more_N), (nothing, _) = (second_round(quadrats, fold_N, weight) for weight in (0.5, 0.0))
    plain = table[labelled_rows(table)]
    given, none, without = (
        fit(config, own, own_N, 0, inputs, seed=4)
        for own, own_N in ((table, more_N), (nothing, more_N), (plain, more_N[: len(plain)]))
    )
    assert none.pred_NT.tobytes() == without.pred_NT.tobytes() != given.pred_NT.tobytes()
    assert safetensors.torch.save(none.tensors) == safetensors.torch.save(without.tensors)
    assert given.row_N.tolist() == without.row_N.tolist()
    assert given.info["train_rows"] == without.info["train_rows"] == int((fold_N == 1).sum())


@pytest.mark.parametrize("name", ["ridge", "wide ridge", "stack of ridges", "stack of kernels"])
def test_what_is_fitted_beside_the_predictor_has_not_seen_them(name: str, world: Any) -> None:
    """Scales, penalties and inner folds are those of the weighed rows: a weight near 0 is as good as none."""
    family, config = CASES[name]
    inputs, quadrats, fold_N, _ = world
    (light, more_N), (nothing, _) = (second_round(quadrats, fold_N, weight) for weight in (1e-9, 0.0))
    first, second = (registry.model(family).fit(config, own, more_N, 0, inputs, seed=4) for own in (light, nothing))
    np.testing.assert_allclose(first.pred_NT, second.pred_NT, rtol=1e-5, atol=1e-5)
    assert {key: value for key, value in first.info.items() if key in ("alpha", "penalty", "level2")} == {
        key: value for key, value in second.info.items() if key in ("alpha", "penalty", "level2")
    }


def test_table_may_be_a_part_of_the_images_in_another_order(case: Any, world: Any) -> None:
    family, config = case
    inputs, quadrats, fold_N, _ = world
    order = np.argsort(quadrats["image_id"].to_numpy())[:15]
    part, part_fold = quadrats.iloc[order].reset_index(drop=True), fold_N[order]
    result = family.fit(config, part, part_fold, 0, inputs, seed=0)
    ids = part["image_id"].to_numpy()[result.row_N]
    pred_NT = family.predict(config, result.tensors, inputs)[inputs.images.rows(list(ids))]
    np.testing.assert_allclose(pred_NT, result.pred_NT, atol=1e-4)


def test_stop_is_honoured(case: Any, world: Any) -> None:
    family, config = case
    inputs, quadrats, fold_N, _ = world
    with pytest.raises(StopRequested):
        family.fit(config, quadrats, fold_N, 0, inputs, seed=0, should_stop=lambda: True)


def test_folds_are_batched_by_the_families_whose_configuration_says_so(named: tuple[str, Any], world: Any) -> None:
    """A coordinator decides from the configuration alone, without torch; a worker then calls `fit_folds`."""
    name, config = named
    inputs, quadrats, fold_N, _ = world
    if not registry.family(name).batches_folds(config):
        return
    fit_folds = registry.model(name).fit_folds
    assert fit_folds is not None
    results = fit_folds(config, quadrats, fold_N, [2, 0], inputs, seeds=[1, 2])
    assert [set(fold_N[result.row_N]) for result in results] == [{2}, {0}]


def test_feature_specs_say_what_is_cached(case: Any) -> None:
    family, config = case
    specs = family.feature_specs(config)
    assert bool(specs) == (getattr(config, "trained_blocks", 0) == 0 or config.prefix_bank != "none")
    assert all(spec.backbone == config.backbone for spec in specs)


def test_a_shared_artefact_is_what_a_fit_makes_itself(case: Any, world: Any) -> None:
    """Trials that share one, and a fit that has none, differ in the seed of the artefact alone."""
    model, config = case
    inputs, quadrats, fold_N, _ = world
    if model.shared is None or (settings := model.shared.settings(config)) is None:
        return
    made = model.shared.fit(settings, quadrats, fold_N, 0, seed=seed_for(3, model.shared.name))
    assert made.table["image_id"].tolist() == quadrats["image_id"][fold_N != 0].tolist()
    given, own = (model.fit(config, quadrats, fold_N, 0, inputs, seed=3, **more) for more in ({"shared": made}, {}))
    assert given.pred_NT.tobytes() == own.pred_NT.tobytes()


def test_maps_of_held_out_images_are_stored_and_made_again(case: Any, world: Any) -> None:
    model, config = case
    inputs, quadrats, fold_N, _ = world
    result = model.fit(config, quadrats, fold_N, 0, inputs, seed=0)
    assert (result.maps is None) == (model.maps is None)
    if result.maps is None:
        return
    names = {view.name for view in model.views(config)}
    masses = set(result.maps.get("mass", [""]))  # one map a view, or one for each mass
    columns = MAP_COLUMNS if masses == {""} else MASS_MAP_COLUMNS
    assert tuple(result.maps.columns) == columns and masses <= {"", *TARGETS}
    assert set(result.maps["view"]) == names
    ids = list(quadrats["image_id"][fold_N == 0])
    assert sorted(result.maps["image_id"]) == sorted(ids * len(names) * len(masses))
    if masses == {""}:
        assert [float(look.sum()) for look in result.maps["look"]] == pytest.approx([1.0] * len(result.maps), abs=1e-5)
    for mass in masses - {""}:
        table = result.maps[result.maps["mass"] == mass]
        mean_N = table["look"].map(np.mean).groupby(table["image_id"]).mean().loc[ids]
        np.testing.assert_allclose(mean_N, result.pred_NT[:, TARGETS.index(mass)], rtol=1e-3)
    again = model.maps(config, result.tensors, inputs)
    assert tuple(again.columns) == columns and len(again) == len(quadrats) * len(names) * len(masses)


def test_estimates_need_no_images(case: Any) -> None:
    model, config = case
    trained = [config.backbone] if getattr(config, "trained_blocks", 0) else []
    assert 0 < model.fold_seconds(config, 286, measure(trained, "cpu")) < 600
    assert 0 <= all_feature_seconds(model.feature_specs(config), 357, "cpu") < 600


def test_estimates_grow_with_what_is_asked() -> None:
    assert forward_seconds("test_vit", 320, 320, "cpu") > 3 * forward_seconds("test_vit", 160, 160, "cpu")
    model, half = registry.model("baseline"), replace(TRAINED, epochs=1)
    speed = measure([TRAINED.backbone, BaselineConfig().backbone], "cpu")
    assert model.fold_seconds(half, 100, speed) < model.fold_seconds(TRAINED, 100, speed)
    # core-weeks for a study, 12 s for one forward pass of one image
    assert model.fold_seconds(BaselineConfig(), 286, speed) > 3600


class Looks:
    """A `should_stop` that counts how often work looks at it, and is true after so many looks."""

    def __init__(self, most: int | None = None) -> None:
        self.count, self._most = 0, most

    def __call__(self) -> bool:
        self.count += 1
        return self._most is not None and self.count > self._most


def test_every_batch_of_a_fit_and_of_a_prediction_is_a_sign_of_life(case: Any, world: Any) -> None:
    """--fold-timeout ends what gives none: a fold may take as long as it likes as long as it goes on."""
    family, config = case
    inputs, quadrats, fold_N, _ = world
    held_out, train = int((fold_N == 0).sum()), int((fold_N != 0).sum())
    fit = {"config": config, "quadrats": quadrats, "fold_N": fold_N, "fold": 0, "inputs": inputs, "seed": 0}
    cached = family.fit(**fit)  # features give their own
    looks, predicting = Looks(), Looks()
    family.fit(**fit, should_stop=looks)
    with pytest.raises(StopRequested):
        family.fit(**fit, should_stop=Looks(looks.count // 2))
    if not hasattr(config, "batch_size"):  # no loop: its prediction is one product of two matrices
        inner = getattr(config, "inner_folds", 1)
        assert looks.count >= min(inner, quadrats.loc[fold_N != 0, "group"].nunique())
        return
    flips = min(2, config.flips)
    family.predict(config, cached.tensors, inputs, flips=flips, should_stop=predicting)
    size = config.batch_size
    assert looks.count >= config.epochs * math.ceil(train / size) + math.ceil(held_out / size)
    assert predicting.count >= flips * math.ceil(len(inputs.images.paths) / size)
    with pytest.raises(StopRequested):
        family.predict(config, cached.tensors, inputs, flips=flips, should_stop=Looks(predicting.count // 2))


def test_every_batch_of_folds_in_one_batch_is_a_sign_of_life(named: tuple[str, Any], world: Any) -> None:
    name, config = named
    inputs, quadrats, fold_N, _ = world
    if not registry.family(name).batches_folds(config):
        return
    looks, fit_folds = Looks(), registry.model(name).fit_folds
    assert fit_folds is not None
    fit_folds(config, quadrats, fold_N, [0, 1, 2], inputs, seeds=[1, 2, 3], should_stop=looks)
    assert looks.count >= config.epochs * math.ceil((fold_N != 0).sum() / config.batch_size)
