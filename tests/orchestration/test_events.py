"""TensorBoard events: one file a trial, folds as steps."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event
from tiny_study import make_study

from orchestration.pool import InlinePool
from orchestration.trial import run_trial


def scalars(content: bytes) -> dict[str, dict[int, float]]:
    """By tag and step, from the TFRecord format: length, its checksum, data, its checksum."""
    found: dict[str, dict[int, float]] = {}
    at = 0
    while at < len(content):
        (length,) = struct.unpack_from("<Q", content, at)
        event = Event.FromString(content[at + 12 : at + 12 + length])
        for value in event.summary.value:
            found.setdefault(value.tag, {})[event.step] = value.simple_value
        at += length + 16
    return found


def test_an_ended_trial_has_its_folds_as_steps(tmp_path: Path, tiny_pasture: Path) -> None:
    ledger, context, records = make_study(tmp_path / "study", tiny_pasture, tmp_path / "cache")
    trial = records[0].trial_id
    result = run_trial(ledger, InlinePool(context), trial)
    assert result is not None
    (file,) = (tmp_path / "study/tensorboard" / trial).iterdir()
    found = scalars(file.read_bytes())
    assert sorted(found["fold/score"]) == [0, 1, 2]
    assert list(found["fold/score"].values()) == pytest.approx(result.fold_scores, abs=1e-6)
    assert all(seconds > 0 for seconds in found["fold/seconds"].values())
    assert len(found["epoch/loss/fold-1"]) == records[0].config["epochs"]
