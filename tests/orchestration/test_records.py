"""What is stored as types: read tolerantly, written back whole, refused where it cannot be understood."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestration.study.derived.blends import EnsembleRecord
from orchestration.study.record import SCHEMA, Part, Record, RecordError
from orchestration.study.records import (
    FoldMetrics,
    FoldStart,
    Owner,
    SharedRecord,
    StudyRecord,
    TrialRecord,
    TrialRef,
    TrialResult,
)

STUDIES = Path(__file__).parents[1] / "studies" / "0.1.0"
KINDS: dict[str, type[Record]] = {
    "study.json": StudyRecord,
    "trial.json": TrialRecord,
    "result.json": TrialResult,
    "metrics.json": FoldMetrics,
    "teacher.json": SharedRecord,
    "ensemble.json": EnsembleRecord,
    "owner.json": Owner,
}


@dataclass(frozen=True, kw_only=True)
class Inner(Part):
    name: str
    size: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Outer(Record):
    inner: Inner
    ref: TrialRef | None = None
    many: tuple[Inner, ...] = ()
    by_name: dict[str, tuple[int, int]] | None = None


def stored() -> list[tuple[type[Record], Path]]:
    files = [path for path in sorted(STUDIES.rglob("*.json")) if path.name.startswith("start-") or path.name in KINDS]
    return [(KINDS.get(path.name, FoldStart), path) for path in files]


def holds(written: Any, said: Any) -> bool:
    """Whether all that was said is there, at every depth; fields that came later may stand beside it."""
    if isinstance(said, dict):
        return all(name in written and holds(written[name], value) for name, value in said.items())
    return bool(written == said)


def test_every_file_of_0_1_0_is_read_and_written_back_with_all_it_said() -> None:
    files = stored()
    assert {kind for kind, _ in files} == {*KINDS.values(), FoldStart}
    for kind, path in files:
        content = json.loads(path.read_text())
        record = kind.from_json(content)
        assert record.schema == 0 and record.rest == {}, path
        written = record.to_json()
        assert holds(written, content), path
        assert kind.from_json(written) == record


def test_unknown_fields_are_kept_at_every_depth_and_missing_ones_have_defaults() -> None:
    content = {"inner": {"name": "a", "later": [1]}, "many": [{"name": "b", "x": None}], "colour": "green"}
    record = Outer.from_json(content | {"ref": ["study", "trial"], "by_name": {"c": [1, 2]}})
    assert (record.inner.size, record.ref, record.by_name) == (0.5, TrialRef("study", "trial"), {"c": (1, 2)})
    assert record.rest == {"colour": "green"} and record.many[0].rest == {"x": None}
    written = record.to_json()
    assert written["inner"] == {"name": "a", "size": 0.5, "later": [1]} and written["colour"] == "green"
    assert Outer.from_json(json.loads(json.dumps(written))) == record


def test_a_new_record_has_a_schema_and_one_of_0_1_0_stays_without() -> None:
    assert Outer(inner=Inner(name="a")).to_json()["schema"] == SCHEMA
    assert "schema" not in Outer.from_json({"inner": {"name": "a"}}).to_json()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({}, "has the field inner"),
        ({"inner": {}}, "inner of a Outer: a Inner has the field name"),
        ({"inner": {"name": 3}}, "must be of type str, got 3"),
        ({"inner": {"name": "a", "size": True}}, "must be a number"),
        ({"inner": {"name": "a"}, "many": 3}, "field many of a Outer"),
        ({"inner": {"name": "a"}, "ref": ["one"]}, "field ref"),
        ({"inner": {"name": "a"}, "schema": SCHEMA + 1}, "upgrade"),
        ({"inner": {"name": "a"}, "schema": "two"}, "upgrade"),
        ([], "a JSON object"),
    ],
)
def test_what_cannot_be_understood_is_refused_with_the_field(content: object, says: str) -> None:
    with pytest.raises(RecordError, match=says):
        Outer.from_json(content)
