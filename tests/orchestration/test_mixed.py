"""Folds of one trial that were made on different devices or in different ways: noted, and shown everywhere alike."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tiny_study import make_study
from told_study import told_study

from orchestration.inspect.audit import audit
from orchestration.inspect.leaderboard import leaderboard, render_leaderboard
from orchestration.report.make import make_report
from orchestration.search.trial import run_trial
from orchestration.study.data import StudyData
from orchestration.study.ledger import Ledger
from orchestration.study.mixed import mixed_facts, mixed_text
from orchestration.study.records import FoldMetrics, TrialResult
from orchestration.workers.jobs import FoldJob, Outcome
from orchestration.workers.slots.inline_pool import InlinePool


def fold(number: int, info: dict[str, Any], **environment: Any) -> FoldMetrics:
    return FoldMetrics(fold=number, info=info, environment=environment)


CPU = fold(0, {"device": "cpu"}, gpu=None, precision="float32", encoding="float32")
GPU = fold(1, {"device": "cuda:0"}, gpu="H200", precision="bfloat16", encoding="bfloat16")
OTHER = fold(2, {"device": "cuda"}, gpu="T4", precision="float16", encoding="float16")
CASES = {
    "one fold": ([CPU], None),
    "alike": ([CPU, CPU, replace(CPU, fold=1, host="other", pid=7)], None),
    "a GPU among cores": (
        [CPU, GPU],
        "folds differ in device (H200, cpu), precision (bfloat16, float32), features (bfloat16, float32)",
    ),
    "two kinds of GPU": (
        [GPU, OTHER],
        "folds differ in device (H200, T4), precision (bfloat16, float16), features (bfloat16, float16)",
    ),
    "two slots of one kind": ([GPU, replace(GPU, info={"device": "cuda:3"})], None),
    "compiled from the second fold on": (
        [GPU, replace(GPU, info={"device": "cuda", "compiled": True})], "folds differ in compiled (no, yes)"
    ),
    "the rest in one batch": (
        [CPU, replace(CPU, info={"device": "cpu", "folds_together": 5})], "folds differ in batched (5 folds, no)"
    ),
    "features only": (
        [fold(0, {}, encoding="float32"), fold(1, {}, encoding="bfloat16")],
        "folds differ in features (bfloat16, float32)",
    ),
    "an earlier version's beside a new one": ([replace(CPU, environment={}), CPU], None),
    "none": ([], None),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_folds_do_not_share_is_named(case: str) -> None:
    folds, text = CASES[case]
    mixed = mixed_facts(folds)
    assert mixed_text(mixed) == text == mixed_text(mixed_facts(reversed(folds)))
    result = TrialResult(status="complete", mixed=mixed)
    assert TrialResult.from_json(result.to_json()).mixed == mixed


class Elsewhere(InlinePool):
    """Its folds after the first say that they were made on a GPU."""

    def run(self, jobs: list[FoldJob], priority: Any) -> Iterator[tuple[FoldJob, Outcome]]:
        for job, outcome in super().run(jobs, priority):
            metrics = outcome.metrics
            assert metrics is not None
            if job.fold:
                metrics = replace(
                    metrics, info={**metrics.info, "device": "cuda"}, environment={**metrics.environment, "gpu": "T4"}
                )
            yield job, replace(outcome, metrics=metrics)


@pytest.mark.slow
@pytest.mark.parametrize("family", [0, 2])
def test_a_trial_notes_it_in_its_result(tmp_path: Path, tiny_pasture: Path, family: int) -> None:
    ledger, context, records = make_study(tmp_path / "study", tiny_pasture, tmp_path / "cache")
    result = run_trial(ledger, Elsewhere(context), records[family].trial_id)
    assert result is not None and result.status == "complete" and result.mixed["device"] == ("T4", "cpu")
    assert ledger.results()[records[family].trial_id].mixed == result.mixed


@pytest.mark.slow
def test_leaderboard_report_and_audit_show_it_in_the_same_words(tmp_path: Path) -> None:
    ledger = told_study(tmp_path, statuses=["complete"] * 6)
    names = list(ledger.results())
    text = "folds differ in device (H200, cpu)"
    for name in names[:5]:
        _mix(ledger, name)
    rows = {row.name: row for row in leaderboard(StudyData(ledger))}
    assert [text in rows[name].notes for name in names] == [True] * 5 + [False]
    shown = io.StringIO()
    Console(width=80, file=shown).print(render_leaderboard(list(rows.values())))
    assert "folds differ" in shown.getvalue()
    page = make_report(ledger)
    assert page.count("Note: trial") == 3 and "Note: 2 more trials have folds that differ" in page and text in page
    found = audit(ledger)
    assert found.mixed == [f"trial {name}: {text}" for name in names[:5]]
    assert f"note: trial {names[0]}: {text}" in str(found) and not any("differ" in one for one in found.problems)


def _mix(ledger: Ledger, name: str) -> None:
    for number in range(4):
        metrics = ledger.fold_metrics(name, number)
        assert metrics is not None
        made = {"info": {"device": "cuda" if number else "cpu"}, "environment": {"gpu": "H200" if number else None}}
        ledger.write_fold(name, oof=ledger.fold_oof(name, number), model=b"", metrics=replace(metrics, **made))
    folds = [metrics for number in range(4) if (metrics := ledger.fold_metrics(name, number)) is not None]
    ledger.write_result(name, replace(ledger.results()[name], mixed=mixed_facts(folds)), ledger.oof(name))
