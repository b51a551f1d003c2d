"""Models of trials that were fitted on every labelled row: they predict, and have no score."""

from __future__ import annotations

from orchestration.study import layout
from orchestration.study.files.base import StudyFiles, digest
from orchestration.study.records import AllRowsRecord


class AllRowsFiles(StudyFiles):
    """One model a trial at most; what is torn is as good as missing, since it can be fitted again."""

    def write_all_rows(self, trial_id: str, model: bytes, record: AllRowsRecord) -> None:
        """model: safetensors bytes."""
        self._commit(layout.all_rows(trial_id), {layout.MODEL: model}, layout.ALL_ROWS, record)

    def all_rows(self, trial_id: str) -> AllRowsRecord | None:
        """The marker, whether or not its model is whole."""
        return self._read(f"{layout.all_rows(trial_id)}/{layout.ALL_ROWS}", AllRowsRecord)

    def all_rows_model(self, trial_id: str) -> bytes | None:
        """safetensors bytes, verified against the marker; None where the model is not there whole."""
        record, name = self.all_rows(trial_id), f"{layout.all_rows(trial_id)}/{layout.MODEL}"
        if record is None or layout.MODEL not in record.files or self.storage.size(name) is None:
            return None
        model = self.storage.read(name)
        return model if digest(model) == record.files[layout.MODEL].sha256 else None
