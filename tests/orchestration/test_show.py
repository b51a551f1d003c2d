"""`biomass show`: what it says of a trial is what the ledger, the leaderboard and the blends say."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import hand_made_study as hand
import numpy as np
import pytest
from commands import output
from released import DATA, copy_of
from rich.console import Console
from told_study import told_study
from typer.testing import CliRunner

from biomass_models.families import registry
from biomass_models.families.readable import label_of, summary_of
from ensembles.blend import fit_blend
from ensembles.card import Card
from ensembles.card_page import render_card
from ensembles.members.library import library_from_arrays
from orchestration.blending.shown import study_library
from orchestration.cli import app
from orchestration.inspect.show import show_trial
from orchestration.inspect.show_page import render_trial
from orchestration.study.data import StudyData

FAMILIES = ("probe", "baseline")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> StudyData:
    folder = tmp_path_factory.mktemp("told") / "study"
    return StudyData(told_study(folder, statuses=("complete",) * 7 + ("pruned", "failed", "open", "refused")))


def test_its_worth_is_the_difference_of_two_blends(told: StudyData) -> None:
    """The oracle blends twice, from rows: with the trial and without it."""
    whole = fit_blend(study_library(told), "default", told.blend_seed)
    names = [trial.trial_id for trial in told.of("complete")]
    for name in names[:3]:
        rest = [other for other in names if other != name]
        library = library_from_arrays(rest, [told.pred_NT(other) for other in rest], told.truth, unit=told.unit)
        without = fit_blend(library, "default", told.blend_seed)
        shown = show_trial(told, name)
        assert shown.worth is not None and shown.worth.gain is not None, shown.no_worth
        assert shown.worth.weight == whole.members.get(name, 0.0)
        assert shown.worth.nested_score == pytest.approx(whole.nested_score, abs=1e-9)
        assert shown.worth.gain.value == pytest.approx(whole.nested_score - without.nested_score, abs=1e-9)


def test_every_trial_of_every_status_is_shown(told: StudyData) -> None:
    console = Console(width=80, record=True)
    for trial in told.trials:
        shown = show_trial(told, trial.trial_id)
        assert (shown.score, shown.status, shown.reason) == (trial.score, trial.status, trial.reason)
        assert len(shown.folds) == len(told.fold_metrics(trial.trial_id))
        if trial.result is not None and shown.folds:
            assert shown.seconds == pytest.approx(sum(one.seconds for one in shown.folds))
        published = registry.family(trial.family).config_class()
        differ = {name for name, value in trial.record.config.items() if value != getattr(published, name)}
        assert {row.name for row in shown.settings} == differ
        assert all(row.published == getattr(published, row.name) for row in shown.settings)
        assert (shown.worth is None) == (trial.status != "complete") == (not shown.commands)
        console.print(render_trial(shown))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert all(trial.trial_id in text for trial in told.trials) and "expected score" in text


def test_a_trial_is_named_by_its_beginning_and_old_studies_are_shown(tmp_path: Path) -> None:
    ledger = copy_of("finished", tmp_path)
    study = ledger.storage.uri
    for record in ledger.trials():
        text = output("show", study, record.trial_id[:5])
        assert f"Trial {record.trial_id}" in text and "test_vit" in text and "Folds" in text
        found = json.loads(output("show", study, record.trial_id, "--json"))
        assert found["trial_id"] == record.trial_id and len(found["folds"]) == 3
        assert [shlex.split(line)[:4] for line in found["commands"]] == [
            ["biomass", "refit", study, record.trial_id],
            ["biomass", "explain", study, record.trial_id],
        ]
    unknown = CliRunner().invoke(app, ["show", study, "nothing"])
    assert isinstance(unknown.exception, ValueError)


@pytest.mark.long
def test_the_commands_that_it_prints_do_what_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = copy_of("finished", tmp_path)
    monkeypatch.chdir(tmp_path)
    trial = next(record for record in ledger.trials() if record.family == "distilled")
    for line in json.loads(output("show", ledger.storage.uri, trial.trial_id, "--json"))["commands"]:
        words = [str(DATA) if word == "DIR" else word for word in shlex.split(line)[1:]]
        result = CliRunner().invoke(app, [*words, "--cache", str(tmp_path / "cache")])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.output
        assert trial.trial_id in result.output or "Where it looked" in result.output


def test_what_steers_a_terminal_is_escaped_and_a_strange_family_is_shown(tmp_path: Path) -> None:
    ledger = hand.empty_study(tmp_path / "s")
    name = hand.propose(ledger, 0)
    record = ledger.trial(name)
    evil = "\x1b[31mred\u202e"
    config = {**record.config, "transform": evil}
    ledger.write_trial(type(record).from_json({**record.to_json(), "why": evil, "config": config, "family": "gone"}))
    text = output("show", str(tmp_path / "s"), name)
    assert "\x1b" not in text and "\u202e" not in text and "\\x1b[31mred" in text and "gone" in text


def test_a_label_begins_with_backbone_and_size() -> None:
    for family in registry.names():
        config_class = registry.family(family).config_class
        plain = {name: getattr(config_class(), name) for name in config_class.__dataclass_fields__}
        assert label_of(family, plain) == f"{plain['backbone']} {plain['size']} px"
        other = {**plain, "backbone": "net", "size": 64}
        assert label_of(family, other) == "net 64 px" and "backbone=net" in summary_of(family, other)
    assert label_of("gone", {"backbone": "net"}) == "net" and label_of("gone", {}) == ""


def test_a_card_says_what_its_members_are(told: StudyData) -> None:
    card: Card = fit_blend(study_library(told), "default", told.blend_seed)
    console = Console(width=80, record=True)
    long = "distilled: vit_small_patch16_dinov3.lvd1689m 224 px, layout=halves, head_lr=0.0003, 12 more"
    console.print(render_card(card, labels=dict.fromkeys(card.members, long)))
    text = console.export_text()
    assert "what it is" in text and "12 more" in text and max(map(len, text.splitlines())) <= 80
    assert np.isclose(sum(card.members.values()), 1)
