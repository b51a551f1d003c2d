"""A count and its noun agree, `1 fold` and `2 folds`: both are written by `counted`, or by the report's `count`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from biomass_models.counted import counted
from orchestration.report.words import GAP, count

ROOT = Path(__file__).parent.parent
PACKAGES = ("biomass_models", "ensembles", "orchestration", "search_spaces")
NOUNS = (
    *("images", "photographs", "quadrats", "rows", "labels", "lines", "cells", "columns", "files"),
    *("trials", "folds", "slots", "workers", "nodes", "jobs", "CPUs", "GPUs", "cores", "epochs", "hours"),
    *("members", "models", "ensembles", "blends", "looks", "dates", "days", "groups", "units", "states", "sites"),
    *("families", "problems", "errors", "warnings", "points", "times", "ones", "others"),
)
KINDS = "more|other|new|open|complete|failed|refused|training|test|sampling|temporary|such"
COUNTED = re.compile(rf"^ (?:(?:{KINDS}) )?(?:{'|'.join(NOUNS)})\b")
WHOLE = re.compile(r"\b(?:of|of the) $")  # `1 of 357 images`
TWO_OR_MORE = {
    "{len(names)} files": "one a fold, found because several names differ in a number",
    "{len(alike)} rows": "what is grouped is three or more",
    "{len(alike)} times": "what is grouped is three or more",
    "{count_of[name]} times": "a column that is there twice",
    "{folds} folds": "StudySettings and the option take two or more",
    "{plan.folds} folds": "the option takes two or more",
    "{together} folds": "a batch of all folds",
    "{of} folds": "of the study: two or more",
    "{self.trials} trials": "of a simulation: 24 or more",
    "{most} trials": "a fixed limit",
    "{entry.tries} times": "a first try is followed by another",
    "{config.epochs} epochs": "a stop that nobody reads",
    "{len(rows.labelled_M)} training rows": "a mistake of a family's code",
    "{name} labels": "a member's name, and what it does",
    "{len(span.digests)} rows": "a mistake of the store's code",
}


def texts_with_a_count(path: Path) -> Iterator[tuple[int, str]]:
    """(line, `{number} noun`) of the f-strings of a module; numbers that the module itself fixes are left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for text in (node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)):
        before = [None, *text.values]
        for ahead, value, after in zip(before, text.values, text.values[1:], strict=False):
            if not isinstance(value, ast.FormattedValue) or not isinstance(after, ast.Constant):
                continue
            if isinstance(value.value, ast.Call) and ast.unparse(value.value.func).endswith(
                ("count", "counted", ".join")
            ):
                continue  # `3 trials have` folds; several kinds of photographs
            fixed = isinstance(value.value, ast.Name) and value.value.id.isupper()
            whole = isinstance(ahead, ast.Constant) and WHOLE.search(str(ahead.value))
            rounded = value.format_spec is not None  # a ratio or a time
            if not fixed and not whole and not rounded and (noun := COUNTED.match(str(after.value))):
                yield text.lineno, f"{{{ast.unparse(value.value)}}}{noun[0]}"


@pytest.mark.slow
def test_a_count_goes_with_its_noun() -> None:
    found = [
        (f"{path.relative_to(ROOT)}:{line}", text)
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        for line, text in texts_with_a_count(path)
    ]
    assert not [(where, text) for where, text in found if text not in TWO_OR_MORE]
    assert not TWO_OR_MORE.keys() - {text for _, text in found}, "nobody writes these any more"


@pytest.mark.parametrize(("number", "expected"), [(0, "0 slots"), (1, "1 slot"), (2, "2 slots"), (1.0, "1 slot")])
def test_one_of_a_kind_is_singular(number: float, expected: str) -> None:
    assert counted(number, "slot") == expected
    has = "1 slot has" if number == 1 else f"{number} slots have"
    assert counted(number, "slot has", "slots have") == has
    assert counted(0.5, "CPU") == "0.5 CPUs"


def test_the_report_groups_thousands() -> None:
    assert [count(n, "family", "families") for n in (1, 1200)] == ["1 family", f"1{GAP}200 families"]
