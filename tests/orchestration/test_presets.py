"""Named studies: each is valid, any field can be overridden, and a study notes both; `published` is as published."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from biomass_models.families.baseline.config import BaselineConfig
from biomass_models.families.distilled.config import DistilledConfig
from orchestration.cli import app
from orchestration.search.opening import open_study
from orchestration.search.presets.named import PRESETS, overridden, preset_named
from orchestration.search.presets.options import PART_OF, PARTS, Preset
from orchestration.study.ledger import Ledger
from orchestration.study.records import Asked
from orchestration.study.storage import Storage
from search_spaces.spaces import DEFAULT_BACKBONES, space_of


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_builds_settings_spaces_and_first_trials(name: str) -> None:
    preset = preset_named(name)
    preset.check()
    assert preset.budget.trials or preset.budget.hours
    settings = preset.settings(preset.study.backbones or DEFAULT_BACKBONES, weights=preset.study.weights, gpu=False)
    for family in settings.families:
        space = space_of(family, settings.backbones, settings.scale)
        for params in space.first_trials:
            space.check_params(params)
            space.config(params)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_says_command_cost_and_what_to_expect(name: str) -> None:
    text = PRESETS[name].__doc__ or ""
    assert all(f"\n    {word}" in text for word in ("Command:  ", "Cost:     ", "Expect:   "))
    assert f"--preset {name}" in text or name == "demo"
    if (preset_named(name).resources.gpus_per_fold or 0) > 0:  # no machine of ours has one
        assert "ot measured here" in text


def test_the_published_preset_starts_with_what_was_published() -> None:
    preset = preset_named("published")
    assert preset.budget.trials == len(preset.study.families) == 2  # families take turns: one trial each
    assert preset.budget.prune == "off"
    settings = preset.settings(preset.study.backbones, weights="auto", gpu=True)
    baseline, distilled = (
        space.config(space.first_trials[0])
        for space in (space_of(family, settings.backbones, settings.scale) for family in settings.families)
    )
    assert baseline == BaselineConfig() and distilled == DistilledConfig()
    spec_4 = {
        "backbone": "vit_small_patch14_dinov2.lvd142m",
        "size": 980,
        "trained_blocks": 4,
        "head_width": 256,
        "head_width_2": 128,
        "dropout": 0.4,
        "transform": "log1p",
        "head_lr": 3e-5,
        "backbone_lr": 3e-5,
        "min_lr": 1e-6,
        "weight_decay": 0.05,
        "clip_norm": 5.0,
        "batch_size": 32,
        "epochs": 50,
        "colour_jitter": 0.05,
        "flips": 8,
    }
    assert {name: getattr(baseline, name) for name in spec_4} == spec_4
    spec_5 = {
        "backbone": "vit_small_patch16_dinov3.lvd1689m",
        "layout": "corners4",
        "local_size": 224,
        "trained_blocks": 5,
        "pooling_heads": 4,
        "pooling_dropout": 0.1,
        "head_width": 512,
        "dropout": 0.2,
        "total_weight": 3.0,
        "ratio_weight": 1.2,
        "distillation_weight": 0.5,
        "teacher_epochs": 200,
        "teacher_lr": 1e-3,
        "backbone_lr": 1e-4,
        "head_lr": 3e-4,
        "min_lr": 2e-6,
        "batch_size": 20,
        "epochs": 70,
    }
    assert {name: getattr(distilled, name) for name in spec_5} == spec_5


def test_what_the_command_line_names_wins_over_the_preset() -> None:
    typed = {"trials": 3, "families": ["probe"], "gpus_per_fold": 0.0, "hours": None, "cache": Path("fast")}
    preset, note = overridden("kaggle_t4x2", typed)
    study, budget, resources = preset.study, preset.budget, preset.resources
    assert (budget.trials, study.families, resources.gpus_per_fold) == (3, ("probe",), 0.0)
    assert (budget.hours, resources.slots, budget.prune, resources.cache) == (8.0, 2, "strict", Path("fast"))
    assert note == Asked(preset="kaggle_t4x2", overrides={"trials": 3, "families": ("probe",), "gpus_per_fold": 0.0})
    assert overridden(None, {}) == (Preset(), Asked())


def test_a_value_is_set_in_the_part_that_has_its_field() -> None:
    preset = Preset().with_fields(seed=3, hours=2.0, slots=4)
    assert (preset.study.seed, preset.budget.hours, preset.resources.slots) == (3, 2.0, 4)
    changed = {name: value for name, value in preset.values().items() if value != Preset().values()[name]}
    assert changed == {"seed": 3, "hours": 2.0, "slots": 4}
    assert len(PART_OF) == sum(len(fields(part)) for part in PARTS.values())  # no two parts have a field of one name
    with pytest.raises(KeyError, match="sedd"):
        preset.with_fields(sedd=3)


def test_the_note_is_kept_and_never_compared(tmp_path: Path) -> None:
    preset, note = overridden("smoke", {"seed": 3, "trials": 4, "compile": True})
    settings = preset.settings(preset.study.backbones, weights=preset.study.weights, gpu=False)
    ledger = Ledger(Storage(tmp_path))
    facts = {"data_fingerprint": "d", "fold_hash": "f", "weights": {"test_vit": "w"}}
    quadrats = pd.DataFrame({"image_id": ["a"], "fold": [0]})
    open_study(ledger, settings, quadrats=quadrats, **facts, made_with=note)  # type: ignore[arg-type]
    again = open_study(ledger, settings, quadrats=quadrats, **facts)  # type: ignore[arg-type]
    assert again.made_with == Asked(preset="smoke", overrides={"seed": 3, "trials": 4, "compile": True})
    stored = json.loads((tmp_path / "study.json").read_text())
    del stored["made_with"]  # a study that was made before presets were noted
    (tmp_path / "study.json").write_text(json.dumps(stored))
    later = open_study(ledger, settings, quadrats=quadrats, **facts, made_with=note)  # type: ignore[arg-type]
    assert later.made_with == Asked()


def test_presets_are_listed_within_80_columns() -> None:
    listed = CliRunner().invoke(app, ["presets"], env={"COLUMNS": "80"}).stdout
    assert max(map(len, listed.splitlines())) <= 80
    found = json.loads(CliRunner().invoke(app, ["presets", "--json"]).stdout)["presets"]
    assert [preset["name"] for preset in found] == list(PRESETS)
    for preset in found:
        assert preset["name"] in listed and preset["settings"]["folds"] >= 2
        assert {"compile", "images"} <= set(preset["settings"]) and "address" not in preset["settings"]
        one = CliRunner().invoke(app, ["presets", preset["name"]]).stdout
        assert preset["about"] in one and max(map(len, one.splitlines())) <= 80
