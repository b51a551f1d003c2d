"""What a study is: its record, its quadrats, their photographs and the references."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd

from biomass_models.counted import counted
from biomass_models.fold_rows import EXAM
from biomass_models.targets import TARGETS
from orchestration.study import layout
from orchestration.study.files.base import LedgerError, StudyFiles, parquet
from orchestration.study.records import StudyRecord
from orchestration.study.storage import nearest_folder

OOF_COLUMNS = ("image_id", "fold", "group", *TARGETS)


class SettingFiles(StudyFiles):
    """study.json and the tables beside it."""

    def study(self) -> StudyRecord:
        """Raises LedgerError where there is no study, or none that can be read."""
        record = self.find_study()
        if record is None:
            hint = nearest_folder(Path(self.storage.uri), layout.STUDY) if self.storage.is_local else ""
            raise LedgerError(
                f"a study is a folder with study.json, there is no study in {self.storage.uri}"
                + (hint or "; check the path, or run `biomass search` first")
            )
        return record

    def find_study(self) -> StudyRecord | None:
        """The study's record, or None in a folder without a study.

        Raises LedgerError where trials, teachers or ensembles lie beside a study.json that is missing or cannot be
        read: a new study in their place would draw other folds and mix them with these.
        """
        record = self._read(layout.STUDY, StudyRecord)
        if record is not None:
            return record
        there = self.storage.size(layout.STUDY) is not None
        folders = (layout.TRIALS, layout.TEACHERS, layout.SHARED, layout.ENSEMBLES)
        beside = [name for name in folders if self.storage.children(name)]
        if not there and not beside:
            return None
        what = "cannot be read" if there else "is missing"
        kept = f", beside its {' and '.join(beside)}" if beside else ""
        raise LedgerError(
            f"{self.storage.uri}/{layout.STUDY} {what}{kept}; put it back from a copy, or search in another folder"
        )

    def write_study(self, record: StudyRecord, quadrats: pd.DataFrame) -> None:
        """quadrats: with folds; what is in none (fold_rows.EXAM) is kept apart, where no reader looks that learns."""
        kept = quadrats["fold"] == EXAM
        if kept.any():
            self.storage.write(layout.EXAM, parquet(quadrats[kept].reset_index(drop=True)))
        self.storage.write(layout.QUADRATS, parquet(quadrats[~kept].reset_index(drop=True)))
        self._write(layout.STUDY, replace(record, exam_images=int(kept.sum())))

    def update_study(self, record: StudyRecord) -> None:
        """Write study.json anew: what was resolved later, such as ranges that 0.1.0 did not store."""
        self._write(layout.STUDY, record)

    def quadrats(self) -> pd.DataFrame:
        """image_id, metadata, labels, fold, group; one row an image of which models learn, in the order that every OOF
        table has. Only those that a fold holds out are predicted and scored (fold_rows.scored_rows)."""
        remedy = "copy it back from another copy of the study, or search in another folder"
        table = self._frame(layout.QUADRATS, self._content(layout.QUADRATS, lambda: remedy), lambda: remedy)
        if absent := [name for name in OOF_COLUMNS if name not in table]:
            raise LedgerError(f"{self.storage.uri}/{layout.QUADRATS} lacks the column {absent[0]}; {remedy}")
        return table

    def exam_quadrats(self) -> pd.DataFrame | None:
        """Labels and metadata of the images that an exam keeps from the study, as `quadrats`; None without an exam.

        study.json says how many there are: LedgerError where the table is gone, torn or another one.
        """
        if (images := self.study().exam_images) == 0:
            return None
        table = self._read_frame(layout.EXAM)
        if table is None or len(table) != images:
            got = "no readable one" if table is None else str(len(table))
            raise LedgerError(
                f"{self.storage.uri}/{layout.EXAM} holds the {counted(images, 'image')} of the study's exam, got "
                f"{got}; copy it back from another copy of the study"
            )
        return table

    def photographs(self) -> pd.DataFrame | None:
        """image_id, blake2b of each photograph's content; None in a study of 0.1.0."""
        return self._read_frame(layout.PHOTOGRAPHS)

    def write_photographs(self, frame: pd.DataFrame) -> None:
        self.storage.write(layout.PHOTOGRAPHS, parquet(frame))

    def references(self) -> pd.DataFrame | None:
        """Long table `reference, image_id, <five targets>` of out-of-fold predictions, or None before they are made."""
        return self._read_frame(layout.REFERENCES)

    def write_references(self, frame: pd.DataFrame) -> None:
        self.storage.write(layout.REFERENCES, parquet(frame))

    def remove_references(self) -> None:
        """They are made again by the next search."""
        self.storage.remove(layout.REFERENCES)
