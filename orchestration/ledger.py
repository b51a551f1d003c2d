"""The only reader and writer of a study's files. JSON, parquet and safetensors; no pickle, ever.

    study.json, quadrats.parquet, references.parquet
    trials/<id>/trial.json                       what was proposed
    trials/<id>/fold-<k>/start-<when>-<pid>.json each time that the fold began
    trials/<id>/fold-<k>/oof.parquet, model.safetensors, attention.parquet if any, then metrics.json (the marker)
    trials/<id>/oof.parquet, then result.json    (the marker)
    trials/<id>/reopened-<when>.json             a failed result that was taken back
    tensorboard/<id>/events...                   derived: for people's eyes
    owner.json                                   who drives the study now (lock.py)
    teachers/<id>/fold-<k>/targets.parquet, then teacher.json (the marker)
    ensembles/<name>/submission.csv, then ensemble.json (the marker: card, and which trials its members are)
    ensembles/test-<id>/members/<trial>.parquet  test predictions, kept for the next blend; shards/ until all are there
    ensembles/oof-flips-<n>/members/<trial>.parquet

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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from biomass_models.config_rules import did_you_mean
from biomass_models.errors import UserError
from biomass_models.targets import TARGETS
from orchestration.storage import Storage, nearest_folder

OOF_COLUMNS = ("image_id", "fold", "group", *TARGETS)


class LedgerError(UserError):
    """A study's files are not what they must be; the text says which and what to do."""


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One proposed configuration. `trial_id` hashes family, config, weights, seed and folds (DESIGN)."""

    trial_id: str
    number: int  # order of proposal in the study
    family: str
    params: dict[str, Any]  # what the search drew: a point of the family's space
    config: dict[str, Any]  # every field of the family's config
    weights: str  # fingerprint of the backbone's weights
    seed: int
    why: str  # first trial | proposed
    proposed_at: float  # seconds since 1970, UTC
    spared: str | None = None  # why it is never pruned


@dataclass(frozen=True)
class TrialRef:
    """A trial and the study that it lies in."""

    study: str  # folder or URI
    trial_id: str


def told_score(result: dict[str, Any]) -> float | None:
    """What Optuna learns of a result: the score, the fold-corrected one of a pruned trial, None for a failure."""
    return result["estimate"] if result["status"] == "pruned" else result["score"]


class Ledger:
    """Reads and writes one study. Cheap to make; holds no state but its storage."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    # -- the study -------------------------------------------------------------------------------------------------

    def study(self) -> dict[str, Any] | None:
        return self._read_json("study.json")

    def write_study(self, record: Mapping[str, Any], quadrats: pd.DataFrame) -> None:
        self.storage.write("quadrats.parquet", _parquet(quadrats))
        self._write_json("study.json", record)

    def quadrats(self) -> pd.DataFrame:
        """image_id, metadata, labels, fold, group; one row an image, in the order that every OOF table has."""
        return _frame(self.storage.read("quadrats.parquet"))

    def references(self) -> pd.DataFrame | None:
        """Long table `reference, image_id, <five targets>` of out-of-fold predictions, or None before they are made."""
        return self._read_frame("references.parquet")

    def write_references(self, frame: pd.DataFrame) -> None:
        self.storage.write("references.parquet", _parquet(frame))

    # -- trials ----------------------------------------------------------------------------------------------------

    def write_trial(self, record: TrialRecord) -> None:
        self._write_json(f"trials/{record.trial_id}/trial.json", asdict(record))

    def trial(self, trial_id: str) -> TrialRecord:
        record = self._read_json(f"trials/{trial_id}/trial.json")
        if record is None:
            names = self.storage.children("trials")
            begun = [name for name in names if trial_id and name.startswith(trial_id)]
            nearest = f"; did you mean {' or '.join(begun[:3])}?" if begun else did_you_mean(trial_id, names)
            hint = nearest or "; `biomass leaderboard` lists them"
            raise LedgerError(f"there is no trial {trial_id} in {self.storage.uri}{hint}")
        return TrialRecord(**record)

    def trials(self, known: Container[str] = ()) -> list[TrialRecord]:
        """Every proposed trial in the order of proposal; those in `known` are not read again."""
        names = [name for name in self.storage.children("trials") if name not in known]
        found = [self._read_json(f"trials/{name}/trial.json") for name in names]
        return sorted((TrialRecord(**record) for record in found if record), key=lambda record: record.number)

    def write_result(self, trial_id: str, result: Mapping[str, Any], oof: pd.DataFrame | None = None) -> None:
        """Close a trial. `result["status"]` is complete, pruned or failed; a complete one brings its OOF table."""
        payload = {} if oof is None else {"oof.parquet": _parquet(oof, self._oof_metadata(trial_id))}
        self._commit(f"trials/{trial_id}", payload, "result.json", result)

    def result(self, trial_id: str) -> dict[str, Any] | None:
        return self._read_json(f"trials/{trial_id}/result.json")

    def results(self, known: Container[str] = ()) -> dict[str, dict[str, Any]]:
        """Results of the trials that have ended, by trial id; those in `known` are not read again."""
        found = {name: self.result(name) for name in self.storage.children("trials") if name not in known}
        return {name: result for name, result in found.items() if result is not None}

    def reopen(self, trial_id: str) -> None:
        """Take a trial's end back; the result is kept aside under a name that no reader counts."""
        content = self.storage.read(f"trials/{trial_id}/result.json")
        self.storage.write(f"trials/{trial_id}/reopened-{int(time.time() * 1000)}.json", content)
        self.storage.remove(f"trials/{trial_id}/result.json")

    def write_events(self, trial_id: str, content: bytes) -> None:
        """TensorBoard events of an ended trial; no result depends on them."""
        self.storage.write(_events(trial_id), content)

    def events(self, trial_id: str) -> bytes | None:
        """The TensorBoard events of a trial, to be shown elsewhere; None where there are none."""
        name = _events(trial_id)
        return None if self.storage.size(name) is None else self.storage.read(name)

    def oof(self, trial_id: str) -> pd.DataFrame:
        """The complete OOF table of a trial, verified against its marker."""
        return _frame(self._payload(f"trials/{trial_id}", "result.json", "oof.parquet"))

    # -- folds -----------------------------------------------------------------------------------------------------

    def note_fold_start(self, trial_id: str, fold: int) -> None:
        """One small file each time that a fold begins, so that repeats can be counted afterwards."""
        now = time.time()
        start = {"started_at": now, "host": socket.gethostname(), "pid": os.getpid()}
        self._write_json(f"{_fold(trial_id, fold)}/start-{int(now * 1000)}-{os.getpid()}.json", start)

    def fold_starts(self, trial_id: str, fold: int) -> list[dict[str, Any]]:
        folder = _fold(trial_id, fold)
        names = [name for name in self.storage.children(folder) if name.startswith("start-")]
        return [start for name in names if (start := self._read_json(f"{folder}/{name}"))]

    def write_fold(
        self,
        trial_id: str,
        fold: int,
        *,
        oof: pd.DataFrame,
        model: bytes,
        metrics: Mapping[str, Any],
        attention: pd.DataFrame | None = None,
    ) -> None:
        """Commit one finished fold: its OOF rows, its trained tensors (safetensors bytes), its metrics.

        attention: what the model looked at in the held-out images (biomass_models.attention), if it can say.
        """
        payload = {"oof.parquet": _parquet(oof, self._oof_metadata(trial_id)), "model.safetensors": model}
        if attention is not None:
            payload["attention.parquet"] = _parquet(attention)
        self._commit(_fold(trial_id, fold), payload, "metrics.json", metrics)

    def fold_metrics(self, trial_id: str, fold: int) -> dict[str, Any] | None:
        """Metrics of a finished fold, or None when the fold is not there whole."""
        folder = _fold(trial_id, fold)
        marker = self._read_json(f"{folder}/metrics.json")
        if marker is None:
            return None
        whole = all(self.storage.size(f"{folder}/{name}") == file["bytes"] for name, file in marker["files"].items())
        return marker if whole else None

    def fold_oof(self, trial_id: str, fold: int) -> pd.DataFrame:
        return _frame(self._payload(_fold(trial_id, fold), "metrics.json", "oof.parquet"))

    def fold_model(self, trial_id: str, fold: int) -> bytes:
        """safetensors bytes of a fold's trained tensors, verified against the fold's marker."""
        return self._payload(_fold(trial_id, fold), "metrics.json", "model.safetensors")

    def fold_attention(self, trial_id: str, fold: int) -> pd.DataFrame | None:
        """What the model looked at in the fold's held-out images, or None for a family without attention."""
        if "attention.parquet" not in (self.fold_metrics(trial_id, fold) or {}).get("files", {}):
            return None
        return _frame(self._payload(_fold(trial_id, fold), "metrics.json", "attention.parquet"))

    # -- teachers --------------------------------------------------------------------------------------------------

    def write_teacher(self, teacher_id: str, fold: int, targets: pd.DataFrame, record: Mapping[str, Any]) -> None:
        """What the teacher of one fold says about its training rows [grams], and its settings and score."""
        self._commit(
            f"teachers/{teacher_id}/fold-{fold}", {"targets.parquet": _parquet(targets)}, "teacher.json", record
        )

    def teacher(self, teacher_id: str, fold: int) -> tuple[pd.DataFrame, dict[str, Any]] | None:
        """Targets and record of a teacher, or None where they are not there whole: it is fitted again then."""
        folder = f"teachers/{teacher_id}/fold-{fold}"
        record = self._read_json(f"{folder}/teacher.json")
        if record is None:
            return None
        try:
            return _frame(self._payload(folder, "teacher.json", "targets.parquet")), record
        except (LedgerError, FileNotFoundError):
            return None

    # -- ensembles -------------------------------------------------------------------------------------------------

    def write_member_prediction(self, name: str, trial_id: str, frame: pd.DataFrame) -> None:
        self.storage.write(f"ensembles/{name}/members/{trial_id}.parquet", _parquet(frame))

    def member_prediction(self, name: str, trial_id: str) -> pd.DataFrame | None:
        return self._read_frame(f"ensembles/{name}/members/{trial_id}.parquet")

    def write_member_shard(self, name: str, trial_id: str, span: tuple[int, int], frame: pd.DataFrame) -> None:
        """A run of images [first, last + 1) that a member has predicted, until all runs are joined."""
        self.storage.write(_shard(name, trial_id, span), _parquet(frame))

    def member_shard(self, name: str, trial_id: str, span: tuple[int, int]) -> pd.DataFrame | None:
        return self._read_frame(_shard(name, trial_id, span))

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
            self.storage.remove(_shard(name, trial_id, span))

    def write_ensemble(
        self,
        name: str,
        card: Mapping[str, Any],
        trials: Mapping[str, TrialRef],
        submission: bytes,
        origin: Mapping[str, Any] | None = None,
    ) -> None:
        """A card, which trials its members are, the submission, and what it was made with (origin.py)."""
        own = self.storage.uri
        refs = {member: ["." if ref.study == own else ref.study, ref.trial_id] for member, ref in trials.items()}
        content = {"card": card, "trials": refs, "origin": origin}
        self._commit(f"ensembles/{name}", {"submission.csv": submission}, "ensemble.json", content)

    def ensemble(self, name: str) -> tuple[dict[str, Any], dict[str, TrialRef]]:
        """The card and its members' trials; LedgerError that lists the ensembles there are."""
        content = self._read_json(f"ensembles/{name}/ensemble.json")
        if content is None or "card" not in content:
            known = [each for each in self.storage.children("ensembles") if not each.startswith(("test-", "oof-"))]
            raise LedgerError(
                f"there is no ensemble {name} of this version in {self.storage.uri}, it has "
                f"{', '.join(known) or 'none'}; `biomass ensemble` makes one"
            )
        own = self.storage.uri
        refs = {
            member: TrialRef(own if study == "." else study, trial_id)
            for member, (study, trial_id) in content["trials"].items()
        }
        return content["card"], refs

    def ensembles(self) -> dict[str, dict[str, Any]]:
        """The marker of each ensemble; one of an older version holds the card's fields itself."""
        names = self.storage.children("ensembles")
        found = {name: self._read_json(f"ensembles/{name}/ensemble.json") for name in names}
        return {name: marker for name, marker in found.items() if marker is not None}

    def submission(self, name: str) -> bytes:
        """The submission of an ensemble, verified against its marker."""
        return self._payload(f"ensembles/{name}", "ensemble.json", "submission.csv")

    # -- how -------------------------------------------------------------------------------------------------------

    def _oof_metadata(self, trial_id: str) -> dict[str, str]:
        record = self.trial(trial_id)
        study = self.study() or {}
        return {
            "trial_id": trial_id,
            "family": record.family,
            "config": json.dumps(record.config, sort_keys=True),
            "seed": str(record.seed),
            "fold_hash": str(study.get("fold_hash")),
        }

    def _commit(self, folder: str, payload: Mapping[str, bytes], marker: str, fields: Mapping[str, Any]) -> None:
        for name, content in payload.items():
            self.storage.write(f"{folder}/{name}", content)
        files = {name: {"bytes": len(content), "sha256": _digest(content)} for name, content in payload.items()}
        self._write_json(f"{folder}/{marker}", {**fields, "files": files})

    def _payload(self, folder: str, marker: str, name: str) -> bytes:
        vouched = self._read_json(f"{folder}/{marker}")
        if vouched is None or name not in vouched["files"]:
            raise LedgerError(
                f"{folder}/{name} is not finished in {self.storage.uri}; run the search again to finish it"
            )
        content = self.storage.read(f"{folder}/{name}")
        if _digest(content) != vouched["files"][name]["sha256"]:
            raise LedgerError(
                f"{folder}/{name} is not the file that {marker} vouches for; delete {folder} and run the search again"
            )
        return content

    def _read_json(self, name: str) -> dict[str, Any] | None:
        """A JSON file, or None when it is not there or not whole (a marker that cannot be read vouches for nothing)."""
        try:
            record = json.loads(self.storage.read(name))
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None
        return record if isinstance(record, dict) else None

    def _write_json(self, name: str, record: Mapping[str, Any]) -> None:
        self.storage.write(name, (json.dumps(record, indent=1, allow_nan=False) + "\n").encode())

    def _read_frame(self, name: str) -> pd.DataFrame | None:
        return None if self.storage.size(name) is None else _frame(self.storage.read(name))


def _fold(trial_id: str, fold: int) -> str:
    return f"trials/{trial_id}/fold-{fold}"


def _events(trial_id: str) -> str:
    return f"tensorboard/{trial_id}/events.out.tfevents.0.{trial_id}"


def _shard(name: str, trial_id: str, span: tuple[int, int]) -> str:
    return f"ensembles/{name}/shards/{trial_id}/{span[0]}-{span[1]}.parquet"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _parquet(frame: pd.DataFrame, metadata: Mapping[str, str] | None = None) -> bytes:
    table = pa.Table.from_pandas(frame, preserve_index=False)
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), **(metadata or {})})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def _frame(content: bytes) -> pd.DataFrame:
    return pq.read_table(pa.BufferReader(content)).to_pandas()


def folds_of(quadrats: pd.DataFrame) -> list[int]:
    """The folds of a quadrats table, ascending, as plain numbers."""
    return sorted(int(fold) for fold in quadrats["fold"].unique())


def open_ledger(study: str) -> Ledger:
    """The ledger of an existing study; LedgerError says what to do when there is none."""
    ledger = Ledger(Storage(study))
    if ledger.study() is None:
        hint = nearest_folder(Path(ledger.storage.uri), "study.json") if ledger.storage.is_local else ""
        raise LedgerError(
            f"a study is a folder with study.json, there is no study in {ledger.storage.uri}"
            + (hint or "; check the path, or run `biomass search` first")
        )
    return ledger
