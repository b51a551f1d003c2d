"""Second rounds: photographs that are not weighed, which trials label them, and the labels of each fold.

P photographs, T = 5 targets; masses in grams.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from biomass_models.targets import TARGETS, FloatArray
from orchestration.study import layout
from orchestration.study.files.base import LedgerError, StudyFiles, parquet
from orchestration.study.records import LabelsRecord, SecondRoundRecord


class SecondRoundFiles(StudyFiles):
    """What is labelled is written before anything is computed; so labels that are lost can be made again."""

    def write_second_round(self, record: SecondRoundRecord, photographs: pd.DataFrame) -> None:
        """photographs: image_id, image_path, blake2b, share: of its quadrat, what a photograph counts."""
        folder = layout.second_round(record.round_id)
        self._commit(folder, {layout.PHOTOGRAPHS: parquet(photographs)}, layout.SECOND_ROUND, record)

    def find_second_round(self, round_id: str) -> SecondRoundRecord | None:
        return self._read(f"{layout.second_round(round_id)}/{layout.SECOND_ROUND}", SecondRoundRecord)

    def second_round(self, round_id: str) -> SecondRoundRecord:
        """Raises LedgerError where it is not there whole."""
        found, folder = self.find_second_round(round_id), layout.second_round(round_id)
        if found is None:
            raise LedgerError(
                f"{self.storage.uri}/{folder}/{layout.SECOND_ROUND} is not there whole; `biomass search "
                f"{self.storage.uri}` with --second-round and the blend's name writes it"
            )
        return found

    def second_round_ids(self) -> list[str]:
        """Also of those that cannot be read."""
        return self.storage.children(layout.SECOND_ROUNDS)

    def round_photographs(self, round_id: str) -> pd.DataFrame:
        """As given to `write_second_round`; LedgerError where they are not what the marker vouches for."""
        folder = layout.second_round(round_id)
        return self._payload_frame(folder, layout.SECOND_ROUND, SecondRoundRecord, layout.PHOTOGRAPHS)

    def write_member_labels(self, round_id: str, trial_id: str, fold: int, frame: pd.DataFrame) -> None:
        """image_id and the masses that the model of a trial's fold predicts, until all have done so."""
        self.storage.write(layout.member_labels(round_id, trial_id, fold), parquet(frame))

    def member_labels(self, round_id: str, trial_id: str, fold: int) -> pd.DataFrame | None:
        return self._read_frame(layout.member_labels(round_id, trial_id, fold))

    def write_labels(self, round_id: str, labels: pd.DataFrame, record: LabelsRecord) -> None:
        """labels: fold, image_id and the five masses, NaN where they were not measured; of every fold."""
        self._commit(layout.second_round(round_id), {layout.LABELS: parquet(labels)}, layout.LABELS_MADE, record)
        for name in self.storage.children(f"{layout.second_round(round_id)}/members"):
            self.storage.remove(f"{layout.second_round(round_id)}/members/{name}")

    def has_labels(self, round_id: str) -> bool:
        """Whether they are there in their size; what is in them is not read."""
        folder = layout.second_round(round_id)
        found = self._read(f"{folder}/{layout.LABELS_MADE}", LabelsRecord)
        return found is not None and all(
            self.storage.size(f"{folder}/{name}") == mark.bytes for name, mark in found.files.items()
        )

    def labels(self, round_id: str) -> pd.DataFrame:
        """As given to `write_labels`; LedgerError where they are not what the marker vouches for."""
        return self._payload_frame(layout.second_round(round_id), layout.LABELS_MADE, LabelsRecord, layout.LABELS)

    def pseudo_labels(self, round_id: str, folds: Sequence[int]) -> tuple[pd.Series, FloatArray, FloatArray]:
        """image_id, masses [P, T] and share [P] of the photographs; several folds: the mean of their labels."""
        photographs, labels = self.round_photographs(round_id), self.labels(round_id).set_index(["fold", "image_id"])
        image_id = photographs["image_id"]
        of_folds = [labels.loc[fold].loc[image_id, list(TARGETS)].to_numpy(np.float64) for fold in folds]
        return image_id, np.mean(of_folds, axis=0), photographs["share"].to_numpy(np.float64)

    def second_round_problem(self, round_id: str) -> str | None:
        """What is wrong with the files of a second round; labels that were never made are no problem."""
        marker = f"{layout.second_round(round_id)}/{layout.LABELS_MADE}"
        try:
            self.second_round(round_id)
            self.round_photographs(round_id)
            if self.storage.size(marker) is not None:
                self.labels(round_id)
        except LedgerError as error:
            return str(error).rpartition(";")[0]
        return None

    def set_labels_aside(self, round_id: str) -> None:
        """Take the labels of a second round away, so that they are made again."""
        self._set_aside(layout.second_round(round_id), layout.LABELS_MADE)

    def copy_second_round(self, other: SecondRoundFiles, round_id: str) -> None:
        """Take a second round with its labels over from another copy of the study."""
        self.write_second_round(other.second_round(round_id), other.round_photographs(round_id))
        self.write_labels(round_id, other.labels(round_id), LabelsRecord(made_at=0.0))
