"""Artefacts per fold that trials share (families.base.Shared), such as the teachers of the distilled family."""

from __future__ import annotations

import pandas as pd

from orchestration.study import layout
from orchestration.study.files.base import LedgerError, StudyFiles, parquet
from orchestration.study.records import SharedRecord


class SharedFiles(StudyFiles):
    """Rows and records of artefacts."""

    def write_shared(self, name: str, identity: str, table: pd.DataFrame, record: SharedRecord) -> None:
        """An artefact of one fold (families.base.Shared `name`): its rows, and its settings and score."""
        folder, marker = layout.shared(name, identity, record.fold), f"{name}.json"
        self._commit(folder, {layout.TARGETS: parquet(table)}, marker, record)

    def shared(self, name: str, identity: str, fold: int) -> tuple[pd.DataFrame, SharedRecord] | None:
        """Rows and record of an artefact, or None where they are not there whole: it is fitted again then."""
        folder, marker = layout.shared(name, identity, fold), f"{name}.json"
        record = self._read(f"{folder}/{marker}", SharedRecord)
        if record is None:
            return None
        try:
            return self._payload_frame(folder, marker, SharedRecord, layout.TARGETS), record
        except LedgerError:
            return None
