"""The golden tiny run: seeded, on the CPU. A refactoring must not move these scores.

When a score moves on purpose (the generator, a model, the folds), the new one is stored with the reason in the commit.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_study import FAMILY_NAMES, make_study

from biomass_models.families import registry
from orchestration.search.trial import run_trial
from orchestration.workers.slots.inline_pool import InlinePool

# a new family adds what the test says
SCORES = {
    "baseline": 0.15387,
    "probe": 0.19428,
    "distilled": 0.17376,
    "stack": 0.15521,
}


@pytest.mark.slow
def test_scores_of_the_tiny_study_have_not_moved(tmp_path: Path, tiny_pasture: Path) -> None:
    ledger, context, records = make_study(tmp_path / "study", tiny_pasture, tmp_path / "cache", FAMILY_NAMES)
    results = {record.family: run_trial(ledger, InlinePool(context), record.trial_id) for record in records}
    scores = {family: result.score for family, result in results.items() if result is not None}
    assert set(scores) == set(registry.BUILT_IN)
    new = {family: round(score, 5) for family, score in scores.items() if family not in SCORES}
    assert not new, f"a family has its golden score here; add to SCORES: {new}"
    assert scores == {family: pytest.approx(score, abs=2e-4) for family, score in SCORES.items()}
