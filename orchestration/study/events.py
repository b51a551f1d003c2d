"""TensorBoard events of an ended trial: derived from the ledger, never read back. `tensorboard --logdir STUDY`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from orchestration.study.event_file import Scalar, event_file
from orchestration.study.ledger import Ledger
from orchestration.study.records import FoldMetrics

FOLD_VALUES = ("score", "seconds", "gpu_seconds", "peak_memory_mb")
EPOCH_VALUES = ("loss", "score")


def write_events(ledger: Ledger, trial_id: str, metrics: Mapping[int, FoldMetrics]) -> None:
    """One event file for a trial: `fold/<value>` with step = fold index, `epoch/<value>/fold-<k>` with step = epoch.

    All of a fold bears the time at which it ended. Written whole, like every file of a study, so that it also works
    where files cannot grow (object stores); the same metrics give the same bytes.
    """
    began = min((fold.started_at for fold in metrics.values()), default=0.0)
    ledger.write_events(trial_id, event_file(_scalars(metrics), wall_time=began))


def _scalars(metrics: Mapping[int, FoldMetrics]) -> Iterator[Scalar]:
    for fold, values in sorted(metrics.items()):
        for name in FOLD_VALUES:
            if (value := getattr(values, name)) is not None:
                yield Scalar(tag=f"fold/{name}", value=value, step=fold, wall_time=values.finished_at)
        for epoch in values.epochs:
            for name in EPOCH_VALUES:
                if (value := epoch.get(name)) is not None:
                    step = int(epoch["epoch"] or 0)
                    yield Scalar(tag=f"epoch/{name}/fold-{fold}", value=value, step=step, wall_time=values.finished_at)
