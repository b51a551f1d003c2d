"""Named studies: each is valid, any field can be overridden, and a study notes both; `published` is SPEC 4 and 5."""

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
from orchestration.search.presets import PRESETS, Preset, overridden, preset_named
from orchestration.study.ledger import Ledger
from orchestration.study.records import Asked
from orchestration.study.storage import Storage
from search_spaces.spaces import DEFAULT_BACKBONES, space_of


@pytest.mark.parametrize("name", PRESETS)
def test_every_recipe_builds_settings_spaces_and_first_trials(name: str) -> None:
    recipe = preset_named(name)
    recipe.check()
    assert recipe.trials or recipe.hours
    settings = recipe.settings(recipe.backbones or DEFAULT_BACKBONES, weights=recipe.weights, gpu=False)
    for family in settings.families:
        space = space_of(family, settings.backbones, settings.scale)
        for params in space.first_trials:
            space.check_params(params)
            space.config(params)


@pytest.mark.parametrize("name", PRESETS)
def test_every_recipe_says_command_cost_and_what_to_expect(name: str) -> None:
    text = PRESETS[name].__doc__ or ""
    assert all(f"\n    {word}" in text for word in ("Command:  ", "Cost:     ", "Expect:   "))
    assert f"--recipe {name}" in text or name == "demo"
    if (preset_named(name).gpus_per_fold or 0) > 0:  # no machine of ours has one
        assert "ot measured here" in text


def test_the_published_recipe_starts_with_what_was_published() -> None:
    recipe = preset_named("published")
    assert recipe.trials == len(recipe.families) == 2 and recipe.prune == "off"  # families take turns: one trial each
    settings = recipe.settings(recipe.backbones, weights="auto", gpu=True)
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


def test_what_the_command_line_names_wins_over_the_recipe() -> None:
    given = {"trials": 3, "families": ("probe",), "gpus_per_fold": 0.0, "hours": None}
    recipe, note = overridden("kaggle_t4x2", given)
    assert (recipe.trials, recipe.families, recipe.gpus_per_fold) == (3, ("probe",), 0.0)
    assert (recipe.hours, recipe.slots, recipe.prune) == (8.0, 2, "strict")
    assert note == Asked(recipe="kaggle_t4x2", overrides={"trials": 3, "families": ("probe",), "gpus_per_fold": 0.0})
    assert overridden(None, {}) == (Preset(), Asked())


def test_every_field_of_a_recipe_has_an_option_of_search() -> None:
    text = CliRunner().invoke(app, ["search", "--help"], env={"COLUMNS": "200"}).stdout
    spelt = {"families": "family", "shares": "family", "backbones": "backbone", "compiles": "compile"}
    demo_only = {"images", "test_images", "width"}
    for name in {field.name for field in fields(Preset)} - demo_only:
        assert f"--{spelt.get(name, name).replace('_', '-')} " in text, name


def test_the_note_is_kept_and_never_compared(tmp_path: Path) -> None:
    recipe, note = overridden("smoke", {"seed": 3, "trials": 4})
    settings = recipe.settings(recipe.backbones, weights=recipe.weights, gpu=False)
    ledger = Ledger(Storage(tmp_path))
    facts = {"data_fingerprint": "d", "fold_hash": "f", "weights": {"test_vit": "w"}}
    quadrats = pd.DataFrame({"image_id": ["a"], "fold": [0]})
    open_study(ledger, settings, quadrats=quadrats, **facts, made_with=note)  # type: ignore[arg-type]
    again = open_study(ledger, settings, quadrats=quadrats, **facts)  # type: ignore[arg-type]
    assert again.made_with == Asked(recipe="smoke", overrides={"seed": 3, "trials": 4})
    stored = json.loads((tmp_path / "study.json").read_text())
    del stored["made_with"]  # a study that was made before recipes were noted
    (tmp_path / "study.json").write_text(json.dumps(stored))
    later = open_study(ledger, settings, quadrats=quadrats, **facts, made_with=note)  # type: ignore[arg-type]
    assert later.made_with == Asked()


def test_recipes_are_listed_within_80_columns() -> None:
    listed = CliRunner().invoke(app, ["recipes"], env={"COLUMNS": "80"}).stdout
    assert max(map(len, listed.splitlines())) <= 80
    found = json.loads(CliRunner().invoke(app, ["recipes", "--json"]).stdout)["recipes"]
    assert [recipe["name"] for recipe in found] == list(PRESETS)
    for recipe in found:
        assert recipe["name"] in listed and recipe["settings"]["folds"] >= 2
        one = CliRunner().invoke(app, ["recipes", recipe["name"]]).stdout
        assert recipe["about"] in one and max(map(len, one.splitlines())) <= 80
