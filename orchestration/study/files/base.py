"""How a study's files are written and read: JSON, parquet and safetensors; no pickle, ever.

One commit rule: payload first, then the marker, which holds the size and hash of what it vouches for. What has no
valid marker does not exist for a reader, so a process may die between any two writes.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TypeVar

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from biomass_models.errors import UserError
from orchestration.study import layout
from orchestration.study.derived.blends import EnsembleRecord
from orchestration.study.record import NewerRecordError, Record
from orchestration.study.records import (
    AllRowsRecord,
    FileMark,
    FoldMetrics,
    LabelsRecord,
    SecondRoundRecord,
    SharedRecord,
    TrialResult,
)
from orchestration.study.storage import Storage

Stored = TypeVar("Stored", bound=Record)
Marker = TypeVar(
    "Marker",
    TrialResult,
    FoldMetrics,
    AllRowsRecord,
    SharedRecord,
    SecondRoundRecord,
    LabelsRecord,
    EnsembleRecord,
)


class LedgerError(UserError):
    """A study's files are not what they must be; the text says which and what to do.

    The ledger raises no other error of its own: a file that is gone, torn or another than its marker vouches for. What
    the operating system or the store refuses stays an OSError.
    """


class StudyFiles:
    """Whole files of one study. Cheap to make; holds no state but its storage."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def _commit(self, folder: str, payload: Mapping[str, bytes], name: str, marker: Marker) -> None:
        for file, content in payload.items():
            self.storage.write(f"{folder}/{file}", content)
        files = {file: FileMark(bytes=len(content), sha256=digest(content)) for file, content in payload.items()}
        self._write(f"{folder}/{name}", replace(marker, files=files))

    def _payload(self, folder: str, marker: str, kind: type[Marker], name: str) -> bytes:
        """A file that its marker vouches for. Raises LedgerError where it is not there whole and unchanged."""
        vouched, remedy = self._read(f"{folder}/{marker}", kind), partial(self._remedy, folder)
        if vouched is None or name not in vouched.files:
            raise LedgerError(f"{self.storage.uri}/{folder}/{name} is not finished; {remedy()}")
        if name == layout.MODEL and self.storage.size(f"{folder}/{layout.DROPPED}") is not None:
            trial_id = folder.split("/")[1]
            raise LedgerError(
                f"the model of {self.storage.uri}/{folder} was dropped to keep --weights-gb; `biomass refit "
                f"{self.storage.uri} {trial_id} --data DIR --restore` brings it back"
            )
        content = self._content(f"{folder}/{name}", remedy)
        if digest(content) != vouched.files[name].sha256:
            path = f"{self.storage.uri}/{folder}/{name}"
            raise LedgerError(f"{path} is not the file that {marker} vouches for; {remedy()}")
        return content

    def _payload_frame(self, folder: str, marker: str, kind: type[Marker], name: str) -> pd.DataFrame:
        content = self._payload(folder, marker, kind, name)
        return self._frame(f"{folder}/{name}", content, partial(self._remedy, folder))

    def _remedy(self, folder: str) -> str:
        """What brings back the files of a folder of this study; it asks the storage, so only an error asks for it."""
        top, *rest = folder.split("/")
        if top == layout.ENSEMBLES:
            return "`biomass ensemble` makes it anew"
        if top == layout.SECOND_ROUNDS and self.storage.size(f"{folder}/{layout.LABELS_MADE}") is None:
            return f"`biomass search {self.storage.uri}` with --second-round and the blend's name makes it"
        if top == layout.TRIALS and self.storage.size(layout.result(rest[0])) is None:
            return "run `biomass search` again to resume it"
        return f"`biomass repair {self.storage.uri}` reopens it"

    def _content(self, name: str, remedy: Callable[[], str]) -> bytes:
        try:
            return self.storage.read(name)
        except (FileNotFoundError, NotADirectoryError):
            raise LedgerError(f"{self.storage.uri}/{name} is gone; {remedy()}") from None

    def _frame(self, name: str, content: bytes, remedy: Callable[[], str]) -> pd.DataFrame:
        try:
            return pq.read_table(pa.BufferReader(content)).to_pandas()
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:  # all of them mean: not such a table
            said = str(error).partition("\n")[0][:100]
            raise LedgerError(f"{self.storage.uri}/{name} is no whole table ({said}); {remedy()}") from None

    def _read(self, name: str, kind: type[Stored]) -> Stored | None:
        """A record, or None when its file is not there or not whole: a marker that cannot be read vouches for nothing.

        Raises LedgerError for a record of a newer version.
        """
        try:
            return self.storage.parsed(name, lambda content: kind.from_json(json.loads(content)))
        except NewerRecordError as error:
            raise LedgerError(f"{self.storage.uri}/{name}: {error}") from None
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None

    def _write(self, name: str, record: Record) -> None:
        self.storage.write(name, (json.dumps(record.to_json(), indent=1, allow_nan=False) + "\n").encode())

    def _read_frame(self, name: str) -> pd.DataFrame | None:
        """A table that can be made again at any time; None where it is not there whole."""
        try:
            return self._frame(name, self._content(name, str), str)
        except LedgerError:
            return None

    def _set_aside(self, folder: str, name: str) -> None:
        if self.storage.size(f"{folder}/{name}") is not None:
            self.storage.write(layout.torn(folder, int(time.time() * 1000)), self.storage.read(f"{folder}/{name}"))
            self.storage.remove(f"{folder}/{name}")


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def parquet(frame: pd.DataFrame, metadata: Mapping[str, str] | None = None) -> bytes:
    table = pa.Table.from_pandas(frame, preserve_index=False)
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), **(metadata or {})})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()
