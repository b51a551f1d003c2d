"""A folder that TensorBoard can read: the study's own where it is a local one with events, else a temporary copy."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from orchestration.study.derived.events import write_events
from orchestration.study.ledger import Ledger
from orchestration.study.storage import Storage


class EventFolder:
    """`path` holds a folder a trial. Nothing is written into the study."""

    def __init__(self, ledger: Ledger, temporary: Path) -> None:
        """temporary: an empty folder, for a study in an object store or one that was made without events."""
        self._ledger, own = ledger, Path(ledger.storage.uri) / "tensorboard"
        self._copy = None if ledger.storage.is_local and own.is_dir() else Ledger(Storage(temporary))
        self.path = own if self._copy is None else temporary / "tensorboard"
        self.path.mkdir(parents=True, exist_ok=True)
        self._copied: set[str] = set()

    def refresh(self, ended: Collection[str], folds: Iterable[int]) -> None:
        """Copy the events of trials that have ended since; make them where a study has none."""
        if self._copy is None:
            return
        self._copied &= set(ended)  # a failed trial that was taken up again ends again
        for trial_id in ended:
            if trial_id in self._copied:
                continue
            if (content := self._ledger.events(trial_id)) is not None:
                self._copy.write_events(trial_id, content)
            else:
                found = {fold: self._ledger.fold_metrics(trial_id, fold) for fold in folds}
                if metrics := {fold: one for fold, one in found.items() if one is not None}:
                    write_events(self._copy, trial_id, metrics)
            self._copied.add(trial_id)
