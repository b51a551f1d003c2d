"""Ensembles, and what their members predict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from orchestration.study import layout
from orchestration.study.derived.blends import EnsembleRecord, ExamRecord, GivenRecord, Origin
from orchestration.study.derived.profiles import ProfileRecord
from orchestration.study.files.base import LedgerError, StudyFiles, parquet
from orchestration.study.records import TrialRef
from orchestration.study.seeds import content_id


class EnsembleFiles(StudyFiles):
    """Submissions with their cards, and predictions of members."""

    def write_ensemble(
        self,
        name: str,
        card: Mapping[str, Any],
        trials: Mapping[str, TrialRef],
        submission: bytes | None,
        origin: Origin | None = None,
    ) -> None:
        """A card, which trials its members are, the submission if there were photographs to predict, and the origin."""
        own = self.storage.uri
        refs = {member: ref._replace(study=".") if ref.study == own else ref for member, ref in trials.items()}
        record = EnsembleRecord(card=card, trials=refs, origin=origin)
        files = {} if submission is None else {layout.SUBMISSION: submission}
        self._commit(layout.ensemble(name), files, layout.ENSEMBLE, record)

    def ensemble(self, name: str) -> EnsembleRecord:
        """The card and its members' trials; LedgerError that lists the ensembles there are."""
        found = self._ensemble(name)
        if found is None:
            raise LedgerError(
                f"there is no ensemble {name} in {self.storage.uri}, it has "
                f"{', '.join(self.ensembles()) or 'none'}; "
                "`biomass ensemble` makes one"
            )
        return found

    def ensembles(self) -> dict[str, EnsembleRecord]:
        """By name."""
        found = {name: self._ensemble(name) for name in self.storage.children(layout.ENSEMBLES)}
        return {name: record for name, record in found.items() if record is not None}

    def ensemble_names(self) -> list[str]:
        """Ensembles that have a marker, whether it can be read or not."""
        names = [name for name in self.storage.children(layout.ENSEMBLES) if not name.startswith(layout.PREDICTIONS)]
        return [name for name in names if self.storage.size(f"{layout.ensemble(name)}/{layout.ENSEMBLE}") is not None]

    def submission(self, name: str) -> bytes:
        """The submission of an ensemble, verified against its marker."""
        return self._payload(layout.ensemble(name), layout.ENSEMBLE, EnsembleRecord, layout.SUBMISSION)

    def verify_ensemble(self, name: str) -> None:
        """Raises LedgerError where the card cannot be read, or the submission is not what it vouches for."""
        record = self._ensemble(name)
        if record is None or layout.SUBMISSION in record.files:
            self.submission(name)

    def write_exam(self, record: ExamRecord) -> None:
        self._write(layout.exam(record.ensemble, record.card), record)

    def exams(self) -> list[ExamRecord]:
        """Every blend that was examined, in the order of the first looks. LedgerError for a record that is torn."""
        names = [name for name in self.storage.children(layout.EXAMS) if name.endswith(".json")]
        found = {name: self._read(f"{layout.EXAMS}/{name}", ExamRecord) for name in names}
        if torn := [name for name, one in found.items() if one is None]:
            raise LedgerError(
                f"{self.storage.uri}/{layout.EXAMS}/{torn[0]} cannot be read, which says how often the exam was looked "
                "at; copy it back from another copy of the study"
            )
        return sorted((one for one in found.values() if one is not None), key=lambda one: one.looks)

    def write_given(self, record: GivenRecord) -> None:
        """A file that was made with an ensemble, found again by its content."""
        self._write(layout.given(record.file.sha256), record)

    def given(self, sha256: str) -> GivenRecord | None:
        """The file of that content, if the study has made it."""
        record = self._read(layout.given(sha256), GivenRecord)
        return record if record is not None and record.file.sha256 == sha256 else None

    def write_profile(self, record: ProfileRecord) -> None:
        """What predictions cost on a kind of machine, in place of what was measured there before."""
        self._write(f"{layout.PROFILES}/{content_id('device', record.device)}.json", record)

    def profiles(self) -> list[ProfileRecord]:
        """Of every kind of machine; one that cannot be read is left out."""
        names = [name for name in self.storage.children(layout.PROFILES) if name.endswith(".json")]
        found = (self._read(f"{layout.PROFILES}/{name}", ProfileRecord) for name in names)
        return sorted((one for one in found if one is not None), key=lambda one: one.device)

    def set_ensemble_aside(self, name: str) -> None:
        """Take an ensemble away whose card or submission is torn; its members' predictions stay."""
        self._set_aside(layout.ensemble(name), layout.ENSEMBLE)

    def write_member_prediction(self, name: str, trial_id: str, frame: pd.DataFrame) -> None:
        self.storage.write(layout.member_prediction(name, trial_id), parquet(frame))

    def member_prediction(self, name: str, trial_id: str) -> pd.DataFrame | None:
        return self._read_frame(layout.member_prediction(name, trial_id))

    def write_member_shard(self, name: str, trial_id: str, span: tuple[int, int], frame: pd.DataFrame) -> None:
        """The shard of images span[0] to span[1] - 1 that a member has predicted, until all shards are joined."""
        self.storage.write(layout.member_shard(name, trial_id, span), parquet(frame))

    def member_shard(self, name: str, trial_id: str, span: tuple[int, int]) -> pd.DataFrame | None:
        return self._read_frame(layout.member_shard(name, trial_id, span))

    def join_member_shards(self, name: str, trial_id: str, spans: Sequence[tuple[int, int]]) -> None:
        """One table of a member's predictions from those of all its runs, which are removed afterwards."""
        found = [self.member_shard(name, trial_id, span) for span in spans]
        parts = [part for part in found if part is not None]
        if len(parts) != len(spans):
            raise LedgerError(
                f"member {trial_id} has predicted {len(parts)} of {len(spans)} shards of images; run the command again"
            )
        self.write_member_prediction(name, trial_id, pd.concat(parts, ignore_index=True))
        for span in spans:
            self.storage.remove(layout.member_shard(name, trial_id, span))

    def _ensemble(self, name: str) -> EnsembleRecord | None:
        """With the trials of the study itself under its full name."""
        record = self._read(f"{layout.ensemble(name)}/{layout.ENSEMBLE}", EnsembleRecord)
        if record is None:
            return None
        own = self.storage.uri
        refs = {member: ref._replace(study=own) if ref.study == "." else ref for member, ref in record.trials.items()}
        return replace(record, trials=refs)
