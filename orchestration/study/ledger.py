"""The only reader and writer of a study's files (layout.py). JSON, parquet and safetensors; no pickle, ever.

One commit rule: payload first, then the marker, which holds the size and hash of what it vouches for. What has no
valid marker does not exist for a reader, so a process may die between any two writes.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from biomass_models.config_rules import did_you_mean
from biomass_models.errors import UserError
from biomass_models.targets import TARGETS
from orchestration.study import layout
from orchestration.study.record import NewerRecordError, Record
from orchestration.study.records import (
    DroppedModel,
    EnsembleRecord,
    FileMark,
    FoldMetrics,
    FoldStart,
    Origin,
    RestoredModel,
    SharedRecord,
    StudyRecord,
    TrialRecord,
    TrialRef,
    TrialResult,
)
from orchestration.study.storage import Storage, nearest_folder

OOF_COLUMNS = ("image_id", "fold", "group", *TARGETS)
Stored = TypeVar("Stored", bound=Record)
Marker = TypeVar("Marker", TrialResult, FoldMetrics, SharedRecord, EnsembleRecord)


class LedgerError(UserError):
    """A study's files are not what they must be; the text says which and what to do.

    The ledger raises no other error of its own: a file that is gone, torn or another than its marker vouches for. What
    the operating system or the store refuses stays an OSError.
    """


class Ledger:
    """Reads and writes one study. Cheap to make; holds no state but its storage."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    # -- the study -------------------------------------------------------------------------------------------------

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
        self.storage.write(layout.QUADRATS, _parquet(quadrats))
        self._write(layout.STUDY, record)

    def update_study(self, record: StudyRecord) -> None:
        """Write study.json anew: what was resolved later, such as ranges that 0.1.0 did not store."""
        self._write(layout.STUDY, record)

    def quadrats(self) -> pd.DataFrame:
        """image_id, metadata, labels, fold, group; one row an image, in the order that every OOF table has."""
        remedy = "copy it back from another copy of the study, or search in another folder"
        table = self._frame(layout.QUADRATS, self._content(layout.QUADRATS, remedy), remedy)
        if absent := [name for name in OOF_COLUMNS if name not in table]:
            raise LedgerError(f"{self.storage.uri}/{layout.QUADRATS} lacks the column {absent[0]}; {remedy}")
        return table

    def photographs(self) -> pd.DataFrame | None:
        """image_id, sha256 of each photograph's content; None in a study of 0.1.0."""
        return self._read_frame(layout.PHOTOGRAPHS)

    def write_photographs(self, frame: pd.DataFrame) -> None:
        self.storage.write(layout.PHOTOGRAPHS, _parquet(frame))

    def references(self) -> pd.DataFrame | None:
        """Long table `reference, image_id, <five targets>` of out-of-fold predictions, or None before they are made."""
        return self._read_frame(layout.REFERENCES)

    def write_references(self, frame: pd.DataFrame) -> None:
        self.storage.write(layout.REFERENCES, _parquet(frame))

    # -- trials ----------------------------------------------------------------------------------------------------

    def write_trial(self, record: TrialRecord) -> None:
        self._write(layout.trial_record(record.trial_id), record)

    def trial(self, trial_id: str) -> TrialRecord:
        record = self._read(layout.trial_record(trial_id), TrialRecord)
        if record is None and self.storage.size(layout.trial_record(trial_id)) is not None:
            raise LedgerError(
                f"{self.storage.uri}/{layout.trial_record(trial_id)} cannot be read; `biomass repair "
                f"{self.storage.uri}` sets the trial aside"
            )
        if record is None:
            names = self.storage.children(layout.TRIALS)
            begun = [name for name in names if trial_id and name.startswith(trial_id)]
            nearest = f"; did you mean {' or '.join(begun[:3])}?" if begun else did_you_mean(trial_id, names)
            hint = nearest or "; `biomass leaderboard` lists them"
            raise LedgerError(f"there is no trial {trial_id} in {self.storage.uri}{hint}")
        return record

    def trials(self, known: Container[str] = ()) -> list[TrialRecord]:
        """Every proposed trial in the order of proposal; those in `known` are not read again."""
        names = [name for name in self.storage.children(layout.TRIALS) if name not in known]
        found = [self._read(layout.trial_record(name), TrialRecord) for name in names]
        return sorted((record for record in found if record is not None), key=lambda record: record.number)

    def write_result(self, trial_id: str, result: TrialResult, oof: pd.DataFrame | None = None) -> None:
        """Close a trial; a complete one brings its OOF table."""
        payload = {} if oof is None else {layout.OOF: _parquet(oof, self._oof_metadata(trial_id))}
        self._commit(layout.trial(trial_id), payload, layout.RESULT, result)

    def result(self, trial_id: str) -> TrialResult | None:
        return self._read(layout.result(trial_id), TrialResult)

    def results(self, known: Container[str] = ()) -> dict[str, TrialResult]:
        """Results of the trials that have ended, by trial id; those in `known` are not read again."""
        found = {name: self.result(name) for name in self.storage.children(layout.TRIALS) if name not in known}
        return {name: result for name, result in found.items() if result is not None}

    def reopen(self, trial_id: str) -> None:
        """Take a trial's end back; the result is kept aside under a name that no reader counts."""
        content = self.storage.read(layout.result(trial_id))
        self.storage.write(layout.reopened(trial_id, int(time.time() * 1000)), content)
        self.storage.remove(layout.result(trial_id))

    def set_trial_aside(self, trial_id: str) -> None:
        """Take a trial out of the study whose record cannot be read; its folds serve whoever proposes it again."""
        self._set_aside(layout.trial(trial_id), layout.TRIAL)
        if self.storage.size(layout.result(trial_id)) is not None:
            self.reopen(trial_id)

    def torn_trials(self, known: Container[str]) -> list[str]:
        """Folders of trials that are not among the known ones and were not set aside: their record cannot be read."""
        unknown = [name for name in self.storage.children(layout.TRIALS) if name not in known]
        return [name for name in unknown if not self._is_set_aside(name)]

    def is_pooled_whole(self, trial_id: str, result: TrialResult) -> bool:
        """Whether a complete trial's pooled table is there in its size; what is in it is not read."""
        mark = result.files.get(layout.OOF)
        return mark is not None and self.storage.size(f"{layout.trial(trial_id)}/{layout.OOF}") == mark.bytes

    def write_events(self, trial_id: str, content: bytes) -> None:
        """TensorBoard events of an ended trial; no result depends on them."""
        self.storage.write(layout.events(trial_id), content)

    def events(self, trial_id: str) -> bytes | None:
        """The TensorBoard events of a trial, to be shown elsewhere; None where there are none."""
        name = layout.events(trial_id)
        return None if self.storage.size(name) is None else self.storage.read(name)

    def oof(self, trial_id: str) -> pd.DataFrame:
        """The complete OOF table of a trial, verified against its marker."""
        return self._payload_frame(layout.trial(trial_id), layout.RESULT, TrialResult, layout.OOF)

    # -- folds -----------------------------------------------------------------------------------------------------

    def note_fold_start(self, trial_id: str, fold: int) -> None:
        """One small file each time that a fold begins, so that repeats can be counted afterwards."""
        now, pid = time.time(), os.getpid()
        start = FoldStart(started_at=now, host=socket.gethostname(), pid=pid)
        self._write(layout.fold_start(trial_id, fold, int(now * 1000), pid), start)

    def fold_starts(self, trial_id: str, fold: int) -> list[FoldStart]:
        folder = layout.fold(trial_id, fold)
        names = [name for name in self.storage.children(folder) if name.startswith(layout.START)]
        return [start for name in names if (start := self._read(f"{folder}/{name}", FoldStart))]

    def write_fold(
        self,
        trial_id: str,
        *,
        oof: pd.DataFrame,
        model: bytes,
        metrics: FoldMetrics,
        maps: pd.DataFrame | None = None,
    ) -> None:
        """Commit one finished fold: its OOF rows, its trained tensors (safetensors bytes), its metrics.

        maps: where the model looked in the held-out images (training.maps), if it can say.
        """
        payload = {layout.OOF: _parquet(oof, self._oof_metadata(trial_id)), layout.MODEL: model}
        if maps is not None:
            payload[layout.MAPS] = _parquet(maps)
        self.storage.remove(layout.dropped_model(trial_id, metrics.fold))
        self._commit(layout.fold(trial_id, metrics.fold), payload, layout.METRICS, metrics)

    def fold_metrics(self, trial_id: str, fold: int) -> FoldMetrics | None:
        """Metrics of a finished fold, or None when the fold is not there whole."""
        marker = self._read(layout.metrics(trial_id, fold), FoldMetrics)
        if marker is None:
            return None
        whole = all(self._is_whole(trial_id, fold, name, file.bytes) for name, file in marker.files.items())
        return marker if whole else None

    def lost_fold_files(self, trial_id: str, fold: int) -> list[str]:
        """Files that a finished fold has and this one lacks, by their names alone."""
        names = {name: name for name in self.storage.children(layout.fold(trial_id, fold))}
        if layout.DROPPED in names:
            names[layout.MODEL] = layout.DROPPED
        return [name for name in (layout.METRICS, layout.OOF, layout.MODEL) if name not in names]

    def fold_problem(self, trial_id: str, fold: int) -> str | None:
        """What is wrong with the files of a fold that was finished; None when they are whole, or it never was."""
        folder = layout.fold(trial_id, fold)
        marker = self._read(layout.metrics(trial_id, fold), FoldMetrics)
        if marker is None:
            there = self.storage.size(layout.metrics(trial_id, fold)) is not None
            return f"{self.storage.uri}/{folder}/{layout.METRICS} cannot be read" if there else None
        try:
            for name in marker.files:
                if name == layout.MODEL and self.dropped_model(trial_id, fold) is not None:
                    continue
                if name.endswith(".parquet"):
                    self._payload_frame(folder, layout.METRICS, FoldMetrics, name)
                else:
                    self._payload(folder, layout.METRICS, FoldMetrics, name)
        except LedgerError as error:
            return str(error).rpartition(";")[0]
        return None

    def set_fold_aside(self, trial_id: str, fold: int) -> None:
        """Take a fold's marker away, so that the fold is computed again."""
        self._set_aside(layout.fold(trial_id, fold), layout.METRICS)
        self.storage.remove(layout.dropped_model(trial_id, fold))

    def fold_oof(self, trial_id: str, fold: int) -> pd.DataFrame:
        return self._payload_frame(layout.fold(trial_id, fold), layout.METRICS, FoldMetrics, layout.OOF)

    def fold_model(self, trial_id: str, fold: int) -> bytes:
        """safetensors bytes of a fold's trained tensors, verified against the fold's marker."""
        return self._payload(layout.fold(trial_id, fold), layout.METRICS, FoldMetrics, layout.MODEL)

    def fold_maps(self, trial_id: str, fold: int) -> pd.DataFrame | None:
        """Where the model looked in the fold's held-out images, or None for a family without maps."""
        metrics = self.fold_metrics(trial_id, fold)
        if metrics is None or layout.MAPS not in metrics.files:
            return None
        return self._payload_frame(layout.fold(trial_id, fold), layout.METRICS, FoldMetrics, layout.MAPS)

    def drop_model(self, trial_id: str, fold: int, why: str) -> None:
        """Delete a fold's model, on record; the fold stays finished."""
        self._write(layout.dropped_model(trial_id, fold), DroppedModel(dropped_at=time.time(), why=why))
        self.storage.remove(f"{layout.fold(trial_id, fold)}/{layout.MODEL}")

    def model_bytes(self, trial_id: str, fold: int) -> int:
        """Size of a fold's model; 0 where there is none, or it was dropped."""
        size = self.storage.size(f"{layout.fold(trial_id, fold)}/{layout.MODEL}")
        return 0 if size is None or self.dropped_model(trial_id, fold) is not None else size

    def dropped_model(self, trial_id: str, fold: int) -> DroppedModel | None:
        return self._read(layout.dropped_model(trial_id, fold), DroppedModel)

    def restore_model(self, trial_id: str, fold: int, model: bytes, restored: RestoredModel) -> None:
        """Put back a model that was dropped, or another one of the same fold that predicts other rows."""
        folder, marker = layout.fold(trial_id, fold), self.fold_metrics(trial_id, fold)
        if marker is None:
            raise LedgerError(f"{self.storage.uri}/{folder} is not finished; {self._remedy(folder)}")
        self.storage.write(f"{folder}/{layout.MODEL}", model)
        mark = FileMark(bytes=len(model), sha256=_digest(model))
        if mark != marker.files[layout.MODEL]:
            files = {**marker.files, layout.MODEL: mark}
            self._write(layout.metrics(trial_id, fold), replace(marker, files=files, restored=restored))
        self.storage.remove(layout.dropped_model(trial_id, fold))

    # -- what trials share -----------------------------------------------------------------------------------------

    def write_shared(self, name: str, identity: str, table: pd.DataFrame, record: SharedRecord) -> None:
        """An artefact of one fold (families.base.Shared `name`): its rows, and its settings and score."""
        folder, marker = layout.shared(name, identity, record.fold), f"{name}.json"
        self._commit(folder, {layout.TARGETS: _parquet(table)}, marker, record)

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

    # -- ensembles -------------------------------------------------------------------------------------------------

    def write_member_prediction(self, name: str, trial_id: str, frame: pd.DataFrame) -> None:
        self.storage.write(layout.member_prediction(name, trial_id), _parquet(frame))

    def member_prediction(self, name: str, trial_id: str) -> pd.DataFrame | None:
        return self._read_frame(layout.member_prediction(name, trial_id))

    def write_member_shard(self, name: str, trial_id: str, span: tuple[int, int], frame: pd.DataFrame) -> None:
        """A run of images [first, last + 1) that a member has predicted, until all runs are joined."""
        self.storage.write(layout.member_shard(name, trial_id, span), _parquet(frame))

    def member_shard(self, name: str, trial_id: str, span: tuple[int, int]) -> pd.DataFrame | None:
        return self._read_frame(layout.member_shard(name, trial_id, span))

    def join_member_shards(self, name: str, trial_id: str, spans: Sequence[tuple[int, int]]) -> None:
        """One table of a member's predictions from those of all its runs, which are removed afterwards."""
        found = [self.member_shard(name, trial_id, span) for span in spans]
        parts = [part for part in found if part is not None]
        if len(parts) != len(spans):
            raise LedgerError(
                f"member {trial_id} has predicted {len(parts)} of {len(spans)} runs of images; run the command again"
            )
        self.write_member_prediction(name, trial_id, pd.concat(parts, ignore_index=True))
        for span in spans:
            self.storage.remove(layout.member_shard(name, trial_id, span))

    def write_ensemble(
        self,
        name: str,
        card: Mapping[str, Any],
        trials: Mapping[str, TrialRef],
        submission: bytes,
        origin: Origin | None = None,
    ) -> None:
        """A card, which trials its members are, the submission, and what it was made with (origin.py)."""
        own = self.storage.uri
        refs = {member: ref._replace(study=".") if ref.study == own else ref for member, ref in trials.items()}
        record = EnsembleRecord(card=card, trials=refs, origin=origin)
        self._commit(layout.ensemble(name), {layout.SUBMISSION: submission}, layout.ENSEMBLE, record)

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

    def set_ensemble_aside(self, name: str) -> None:
        """Take an ensemble away whose card or submission is torn; its members' predictions stay."""
        self._set_aside(layout.ensemble(name), layout.ENSEMBLE)

    def remove_references(self) -> None:
        """They are made again by the next search."""
        self.storage.remove(layout.REFERENCES)

    def submission(self, name: str) -> bytes:
        """The submission of an ensemble, verified against its marker."""
        return self._payload(layout.ensemble(name), layout.ENSEMBLE, EnsembleRecord, layout.SUBMISSION)

    # -- how -------------------------------------------------------------------------------------------------------

    def _is_whole(self, trial_id: str, fold: int, name: str, size: int) -> bool:
        """Whether a file of a fold has its size, or is a model that was dropped on record."""
        if self.storage.size(f"{layout.fold(trial_id, fold)}/{name}") == size:
            return True
        return name == layout.MODEL and self.dropped_model(trial_id, fold) is not None

    def _set_aside(self, folder: str, name: str) -> None:
        if self.storage.size(f"{folder}/{name}") is not None:
            self.storage.write(layout.torn(folder, int(time.time() * 1000)), self.storage.read(f"{folder}/{name}"))
            self.storage.remove(f"{folder}/{name}")

    def _is_set_aside(self, trial_id: str) -> bool:
        names = self.storage.children(layout.trial(trial_id))
        return layout.TRIAL not in names and any(name.startswith(layout.TORN) for name in names)

    def _ensemble(self, name: str) -> EnsembleRecord | None:
        """With the trials of the study itself under its full name."""
        record = self._read(f"{layout.ensemble(name)}/{layout.ENSEMBLE}", EnsembleRecord)
        if record is None:
            return None
        own = self.storage.uri
        refs = {member: ref._replace(study=own) if ref.study == "." else ref for member, ref in record.trials.items()}
        return replace(record, trials=refs)

    def _oof_metadata(self, trial_id: str) -> dict[str, str]:
        record = self.trial(trial_id)
        return {
            "trial_id": trial_id,
            "family": record.family,
            "config": json.dumps(dict(record.config), sort_keys=True),
            "seed": str(record.seed),
            "fold_hash": self.study().fold_hash,
        }

    def _commit(self, folder: str, payload: Mapping[str, bytes], name: str, marker: Marker) -> None:
        for file, content in payload.items():
            self.storage.write(f"{folder}/{file}", content)
        files = {file: FileMark(bytes=len(content), sha256=_digest(content)) for file, content in payload.items()}
        self._write(f"{folder}/{name}", replace(marker, files=files))

    def _payload(self, folder: str, marker: str, kind: type[Marker], name: str) -> bytes:
        """A file that its marker vouches for. Raises LedgerError where it is not there whole and unchanged."""
        vouched, remedy = self._read(f"{folder}/{marker}", kind), self._remedy(folder)
        if vouched is None or name not in vouched.files:
            raise LedgerError(f"{self.storage.uri}/{folder}/{name} is not finished; {remedy}")
        if name == layout.MODEL and self.storage.size(f"{folder}/{layout.DROPPED}") is not None:
            trial_id = folder.split("/")[1]
            raise LedgerError(
                f"the model of {self.storage.uri}/{folder} was dropped to keep --weights-gb; `biomass refit "
                f"{self.storage.uri} {trial_id} --data DIR --restore` brings it back"
            )
        content = self._content(f"{folder}/{name}", remedy)
        if _digest(content) != vouched.files[name].sha256:
            raise LedgerError(f"{self.storage.uri}/{folder}/{name} is not the file that {marker} vouches for; {remedy}")
        return content

    def _payload_frame(self, folder: str, marker: str, kind: type[Marker], name: str) -> pd.DataFrame:
        content = self._payload(folder, marker, kind, name)
        return self._frame(f"{folder}/{name}", content, self._remedy(folder))

    def _remedy(self, folder: str) -> str:
        """What brings back the files of a folder of this study."""
        top, *rest = folder.split("/")
        if top == layout.ENSEMBLES:
            return "`biomass ensemble` makes it anew"
        if top == layout.TRIALS and self.storage.size(layout.result(rest[0])) is None:
            return "the command of the search goes on with it"
        return f"`biomass repair {self.storage.uri}` reopens it"

    def _content(self, name: str, remedy: str) -> bytes:
        try:
            return self.storage.read(name)
        except (FileNotFoundError, NotADirectoryError):
            raise LedgerError(f"{self.storage.uri}/{name} is gone; {remedy}") from None

    def _frame(self, name: str, content: bytes, remedy: str) -> pd.DataFrame:
        try:
            return pq.read_table(pa.BufferReader(content)).to_pandas()
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:  # all of them mean: not such a table
            said = str(error).partition("\n")[0][:100]
            raise LedgerError(f"{self.storage.uri}/{name} is no whole table ({said}); {remedy}") from None

    def _read(self, name: str, kind: type[Stored]) -> Stored | None:
        """A record, or None when its file is not there or not whole: a marker that cannot be read vouches for nothing.

        Raises LedgerError for a record of a newer version.
        """
        try:
            return kind.from_json(json.loads(self.storage.read(name)))
        except NewerRecordError as error:
            raise LedgerError(f"{self.storage.uri}/{name}: {error}") from None
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None

    def _write(self, name: str, record: Record) -> None:
        self.storage.write(name, (json.dumps(record.to_json(), indent=1, allow_nan=False) + "\n").encode())

    def _read_frame(self, name: str) -> pd.DataFrame | None:
        """A table that can be made again at any time; None where it is not there whole."""
        if self.storage.size(name) is None:
            return None
        try:
            return self._frame(name, self._content(name, ""), "")
        except LedgerError:
            return None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _parquet(frame: pd.DataFrame, metadata: Mapping[str, str] | None = None) -> bytes:
    table = pa.Table.from_pandas(frame, preserve_index=False)
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), **(metadata or {})})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def folds_of(quadrats: pd.DataFrame) -> list[int]:
    """The folds of a quadrats table, ascending, as plain numbers."""
    return sorted(int(fold) for fold in quadrats["fold"].unique())


def open_ledger(study: str) -> Ledger:
    """The ledger of an existing study; LedgerError says what to do when there is none."""
    ledger = Ledger(Storage(study))
    ledger.study()
    return ledger
