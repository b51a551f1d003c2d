"""TensorBoard events of an ended trial: derived from the ledger, never read back. `tensorboard --logdir STUDY`.

Needs neither torch nor TensorBoard: those who end trials are light processes, and the packages that write events load
torch, or a web server's worth of modules. The format has not changed since TensorFlow 1.0: records of a length
(8 bytes), its checksum, the data and their checksum, all little-endian; the data are a protocol buffer, `Event` of
TensorFlow's event.proto:

    Event     1 wall_time (double), 2 step (varint), 3 file_version (string) or 5 summary (Summary)
    Summary   1 value (Value)
    Value     1 tag (string), 2 simple_value (float)
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from orchestration.study.ledger import Ledger
from orchestration.study.records import FoldMetrics

FOLD_VALUES = ("score", "seconds", "gpu_seconds", "peak_memory_mb")
EPOCH_VALUES = ("loss", "score")
VERSION = "brain.Event:2"
CASTAGNOLI = 0x82F63B78  # the polynomial of CRC-32C, bits reversed
MASK_DELTA = 0xA282EAD8  # checksums are turned and shifted, for they lie among data that they may be taken of
VARINT, DOUBLE, BYTES, FLOAT = 0, 1, 2, 5  # wire types of protocol buffers


@dataclass(frozen=True, kw_only=True)
class Scalar:
    """One point of a curve."""

    tag: str
    value: float  # kept in single precision
    step: int  # not negative
    wall_time: float  # s since 1970


def write_events(ledger: Ledger, trial_id: str, metrics: Mapping[int, FoldMetrics]) -> None:
    """One event file for a trial: `fold/<value>` with step = fold index, `epoch/<value>/fold-<k>` with step = epoch.

    All of a fold bears the time at which it ended. Written whole, like every file of a study, so that it also works
    where files cannot grow (object stores); the same metrics give the same bytes.
    """
    began = min((fold.started_at for fold in metrics.values()), default=0.0)
    ledger.write_events(trial_id, event_file(_scalars(metrics), wall_time=began))


def _scalars(metrics: Mapping[int, FoldMetrics]) -> Iterator[Scalar]:
    for fold, values in sorted(metrics.items()):
        for name in FOLD_VALUES:
            if (value := getattr(values, name)) is not None:
                yield Scalar(tag=f"fold/{name}", value=value, step=fold, wall_time=values.finished_at)
        for epoch in values.epochs:
            for name in EPOCH_VALUES:
                if (value := epoch.get(name)) is not None:
                    step = int(epoch["epoch"] or 0)
                    yield Scalar(tag=f"epoch/{name}/fold-{fold}", value=value, step=step, wall_time=values.finished_at)


# -- the format --------------------------------------------------------------------------------------------------------


def event_file(scalars: Iterable[Scalar], *, wall_time: float) -> bytes:
    """The content of a file `events.out.tfevents...`; wall_time: when it began, s since 1970."""
    head = _double(1, wall_time) + _bytes(3, VERSION.encode())
    return b"".join(_record(data) for data in (head, *map(_event, scalars)))


def _event(scalar: Scalar) -> bytes:
    with np.errstate(over="ignore"):  # what single precision cannot hold is infinite
        single = np.float32(scalar.value).astype("<f4").tobytes()
    value = _bytes(1, scalar.tag.encode()) + _key(2, FLOAT) + single
    step = _key(2, VARINT) + _varint(scalar.step) if scalar.step else b""  # zero is what a reader takes for nothing
    return _double(1, scalar.wall_time) + step + _bytes(5, _bytes(1, value))


def _record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + _checksum(length) + data + _checksum(data)


def _checksum(data: bytes) -> bytes:
    crc = crc32c(data)
    turned = (crc >> 15 | crc << 17) & 0xFFFFFFFF
    return struct.pack("<I", (turned + MASK_DELTA) & 0xFFFFFFFF)


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli), as in RFC 3720."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC_OF_BYTE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def _crc_table() -> Iterator[int]:
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (CASTAGNOLI if byte & 1 else 0)
        yield byte


_CRC_OF_BYTE = tuple(_crc_table())


def _key(field: int, wire_type: int) -> bytes:
    return _varint(field << 3 | wire_type)


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; the highest bit says that more follow."""
    if number < 0:
        raise ValueError(f"a step must not be negative, got {number}")
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def _double(field: int, number: float) -> bytes:
    return _key(field, DOUBLE) + struct.pack("<d", number) if number else b""


def _bytes(field: int, content: bytes) -> bytes:
    return _key(field, BYTES) + _varint(len(content)) + content
