"""What was renamed stays accepted: commands and options as they were typed, fields as they were stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from released import STUDIES
from typer.main import get_command
from typer.testing import CliRunner

from orchestration.cli import app
from orchestration.old_names import COMMANDS, FIELDS, OPTIONS, STORED
from orchestration.search.presets.options import OPTION_FIELDS
from orchestration.study import records, settings
from orchestration.study.records import Asked, StudyRecord

pytestmark = pytest.mark.slow


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "80"})
    return result.exit_code, result.stdout, f"{result.stderr}{result.exception or ''}"


def test_the_table_names_what_is_there_today() -> None:
    group: Any = get_command(app)
    options = {word for command in group.commands.values() for one in command.params for word in one.opts}
    assert set(COMMANDS.values()) <= set(group.commands) and not set(COMMANDS) & set(group.commands)
    assert set(OPTIONS.values()) <= options and not set(OPTIONS) & options
    assert set(FIELDS.values()) <= set(OPTION_FIELDS) and not set(FIELDS) & set(OPTION_FIELDS)
    for name, fields in STORED.items():
        kind = getattr(records, name, None) or getattr(settings, name)
        assert set(fields) <= set(kind.__dataclass_fields__) and not set(fields.values()) & set(
            kind.__dataclass_fields__
        )


@pytest.mark.parametrize("old", COMMANDS)
def test_a_command_answers_to_its_old_name(old: str) -> None:
    new = COMMANDS[old]
    assert run(old)[:2] == run(new)[:2] and run(old, "smoke")[:2] == run(new, "smoke")[:2]
    assert f" {old}  " not in run("--help")[1]
    (there,) = json.loads(run(old, "smoke", "--json")[1]).items()
    (here,) = json.loads(run(new, "smoke", "--json")[1]).items()
    assert (there[0], here[0]) == (old, new)
    was, now = there[1][0]["settings"], here[1][0]["settings"]
    assert "compiles" in was and {FIELDS.get(name, name): value for name, value in was.items()} == now


@pytest.mark.parametrize("typed", [["--recipe", "kaggle"], ["--recipe=kaggle"], ["--preset", "kaggle"]])
def test_an_option_is_taken_under_its_old_spelling(typed: list[str], tiny_pasture: Path) -> None:
    for command in (["search", "s", "--data", str(tiny_pasture)], ["demo", "d"]):
        code, _, said = run(*command, *typed)
        assert code == 1 and "a preset is one of" in said and "'kaggle'" in said


def test_what_follows_two_dashes_is_no_option(tmp_path: Path) -> None:
    code, _, said = run("status", "--", "--recipe")
    assert code == 1 and "--recipe" in said


@pytest.mark.parametrize("name", ["finished", "killed"])
def test_a_released_study_is_read_and_written_under_its_first_names(name: str) -> None:
    stored = json.loads((STUDIES / name / "study.json").read_text())
    record = StudyRecord.from_json(stored)
    assert record.settings.folds == stored["settings"]["n_folds"] == 3
    assert record.made_with.preset == stored["made_with"]["recipe"] == "smoke"
    written = json.loads(json.dumps(record.to_json()))
    assert {name: written["settings"][name] for name in stored["settings"]} == stored["settings"]
    assert {name: written[name] for name in stored if name != "settings"} == {
        name: value for name, value in stored.items() if name != "settings"
    }  # later versions add fields
    assert "folds" not in written["settings"] and "preset" not in written["made_with"]


def test_a_note_has_the_fields_under_their_first_names() -> None:
    stored = {"recipe": "kaggle_t4x2", "overrides": {"compiles": True, "trials": 3}}
    note = Asked.from_json(stored)
    assert note == Asked(preset="kaggle_t4x2", overrides={"compile": True, "trials": 3})
    assert note.to_json() == stored
