"""Studies that released versions wrote (tests/studies), and how a command goes on with a copy of one, without Ray."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from biomass_models.backbones.weights import WeightsSource
from orchestration.search.prepare import prepare_search
from orchestration.search.presets.named import overridden
from orchestration.search.proposer import Proposer
from orchestration.search.start import resolve
from orchestration.search.trial import run_trial
from orchestration.study.ledger import Ledger
from orchestration.study.records import TrialResult
from orchestration.study.storage import Storage
from orchestration.workers.context import WorkerContext
from orchestration.workers.resources import Resources
from orchestration.workers.slots.inline_pool import InlinePool

STUDIES = Path(__file__).parents[1] / "studies" / "0.1.0"
DATA = STUDIES / "data"
RANDOM = WeightsSource("random")


def copy_of(name: str, folder: Path) -> Ledger:
    """A study that a test may go on with."""
    shutil.copytree(STUDIES / name, folder / name)
    return Ledger(Storage(folder / name))


def go_on(
    ledger: Ledger,
    *,
    trials: int,
    preset: str | None = "smoke",
    data: Path = DATA,
    source: WeightsSource = RANDOM,
    say: Callable[[str], Any] = lambda text: None,
    **typed: Any,
) -> Proposer:
    """What `biomass search STUDY --data DIR --preset smoke --trials N` does before Ray starts."""
    asked, made_with = overridden(preset, {"trials": trials, **typed})
    resources = Resources(gpus_per_fold=0.0)
    wanted = resolve(ledger, asked, made_with, weights=source, resources=resources, say=say)
    return prepare_search(
        ledger, data, wanted.settings, fingerprints=wanted.fingerprints, max_trials=trials, say=say,
        made_with=made_with,
        fold_file=asked.study.fold_file,
    )  # fmt: skip


def finish(proposer: Proposer, cache: Path, data: Path = DATA) -> dict[str, TrialResult]:
    """Run what the proposer still has, in this process; results by trial id."""
    ledger, found = proposer.ledger, {}
    context = WorkerContext(study=ledger.storage.uri, data_dir=str(data), cache=str(cache), weights=RANDOM)
    pool = InlinePool(context)
    while (record := proposer.propose()) is not None:
        result = run_trial(ledger, pool, record.trial_id)
        assert result is not None
        proposer.record_result(record.trial_id, result)
        found[record.trial_id] = result
    return found


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
