"""What a study was asked about photographs that are still to be weighed."""

from __future__ import annotations

from orchestration.study import layout
from orchestration.study.derived.advice import LearningCurveRecord, NextRecord
from orchestration.study.files.base import StudyFiles


class AdviceFiles(StudyFiles):
    """The newest answer to each question; one that cannot be read is none."""

    def write_next(self, record: NextRecord) -> None:
        self._write(layout.NEXT, record)

    def next_photographs(self) -> NextRecord | None:
        return self._read(layout.NEXT, NextRecord)

    def write_learning_curve(self, record: LearningCurveRecord) -> None:
        self._write(layout.LEARNING_CURVE, record)

    def learning_curve(self) -> LearningCurveRecord | None:
        return self._read(layout.LEARNING_CURVE, LearningCurveRecord)
