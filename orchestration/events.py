"""TensorBoard events of an ended trial: derived from the ledger, never read back. `tensorboard --logdir STUDY`."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from orchestration.ledger import Ledger
from orchestration.records import FoldMetrics

FOLD_VALUES = ("score", "seconds", "gpu_seconds", "peak_memory_mb")
EPOCH_VALUES = ("loss", "score")


def write_events(ledger: Ledger, trial_id: str, metrics: Mapping[int, FoldMetrics]) -> None:
    """One event file for a trial: `fold/<value>` with step = fold index, `epoch/<value>/fold-<k>` with step = epoch.

    Written whole, like every file of a study, so that it also works where files cannot grow (object stores).
    """
    from tensorboardX import SummaryWriter

    with tempfile.TemporaryDirectory() as folder:
        writer = SummaryWriter(folder)
        for fold, values in sorted(metrics.items()):
            for name in FOLD_VALUES:
                if (value := getattr(values, name)) is not None:
                    writer.add_scalar(f"fold/{name}", value, fold, walltime=values.finished_at)
            for epoch in values.epochs:
                for name in EPOCH_VALUES:
                    if epoch.get(name) is not None:
                        writer.add_scalar(f"epoch/{name}/fold-{fold}", epoch[name], int(epoch["epoch"] or 0))
        writer.close()
        content = b"".join(path.read_bytes() for path in sorted(Path(folder).glob("events.*")))
    ledger.write_events(trial_id, content)
