"""TensorBoard events: one file a trial, folds as steps; TensorBoard's own code is the reader and the oracle."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ROOT
from hypothesis import example, given
from hypothesis import strategies as st
from released import STUDIES, copy_of
from tiny_study import make_study

from orchestration.search.trial import run_trial
from orchestration.study.derived.events import VERSION, Scalar, crc32c, event_file, write_events
from orchestration.study.ledger import Ledger
from orchestration.study.storage import Storage
from orchestration.workers.slots.inline_pool import InlinePool

pytest.importorskip("tensorboard", reason="TensorBoard itself reads what is written (dashboard extra)")
from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

Points = dict[str, list[tuple[int, float, float]]]


def read(folder: Path) -> Points:
    """By tag: step, value and time of each point, as TensorBoard has them; records with a wrong checksum are errors."""
    board = EventAccumulator(str(folder), size_guidance={SCALARS: 0})
    board.Reload()
    return {
        tag: [(point.step, point.value, point.wall_time) for point in board.Scalars(tag)]
        for tag in board.Tags()["scalars"]
    }


def test_an_ended_trial_has_its_folds_as_steps(tmp_path: Path, tiny_pasture: Path) -> None:
    ledger, context, records = make_study(tmp_path / "study", tiny_pasture, tmp_path / "cache")
    trial = records[0].trial_id
    result = run_trial(ledger, InlinePool(context), trial)
    assert result is not None
    found = read(tmp_path / "study/tensorboard" / trial)
    assert [step for step, _, _ in found["fold/score"]] == [0, 1, 2]
    assert [value for _, value, _ in found["fold/score"]] == pytest.approx(result.fold_scores, abs=1e-6)
    assert all(seconds > 0 for _, seconds, _ in found["fold/seconds"])
    assert len(found["epoch/loss/fold-1"]) == records[0].config["epochs"]
    ended = [metrics.finished_at for fold in range(3) if (metrics := ledger.fold_metrics(trial, fold))]
    assert [time for _, _, time in found["fold/score"]] == ended


def test_the_points_are_those_that_0_1_0_wrote(tmp_path: Path) -> None:
    """It wrote them with tensorboardX."""
    ledger = copy_of("finished", tmp_path)
    for record in ledger.trials():
        metrics = {fold: one for fold in range(3) if (one := ledger.fold_metrics(record.trial_id, fold)) is not None}
        folder = tmp_path / "finished" / "tensorboard" / record.trial_id
        then = read(folder)
        shutil.rmtree(folder)
        write_events(ledger, record.trial_id, metrics)
        now = read(folder)
        assert now["fold/score"] == then["fold/score"] and list(now) == list(then)
        assert [point[:2] for points in now.values() for point in points] == [
            point[:2] for points in then.values() for point in points
        ]
        first = (folder / f"events.out.tfevents.0.{record.trial_id}").read_bytes()
        write_events(ledger, record.trial_id, metrics)
        assert (folder / f"events.out.tfevents.0.{record.trial_id}").read_bytes() == first


def of_tensorboard(scalars: list[Scalar], wall_time: float) -> bytes:
    file = io.BytesIO()
    writer = RecordWriter(file)
    writer.write(Event(wall_time=wall_time, file_version=VERSION).SerializeToString())
    for scalar in scalars:
        value = Summary.Value(tag=scalar.tag, simple_value=scalar.value)
        event = Event(wall_time=scalar.wall_time, step=scalar.step, summary=Summary(value=[value]))
        writer.write(event.SerializeToString())
    return file.getvalue()


TIMES = st.floats(min_value=0, max_value=1e11)
SCALARS_OF_ANY_KIND = st.builds(
    Scalar,
    tag=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300),
    value=st.floats(allow_nan=False),
    step=st.integers(0, 2**63 - 1),
    wall_time=TIMES,
)


@given(scalars=st.lists(SCALARS_OF_ANY_KIND, max_size=4), wall_time=TIMES)
@example(scalars=[], wall_time=0.0)
@example(scalars=[Scalar(tag="fold/score", value=-1e39, step=0, wall_time=0.0)], wall_time=1e9)
@example(scalars=[Scalar(tag="loss", value=float("nan"), step=128, wall_time=1.5)], wall_time=1e9)
@example(scalars=[Scalar(tag="x" * 127, value=-0.0, step=127, wall_time=1.5)], wall_time=1e9)
@example(scalars=[Scalar(tag="x" * 128, value=1e-46, step=16384, wall_time=1.5)], wall_time=1e9)
def test_bytes_are_those_of_tensorboards_own_writer(scalars: list[Scalar], wall_time: float) -> None:
    assert event_file(scalars, wall_time=wall_time) == of_tensorboard(scalars, wall_time)


def test_checksums_are_those_of_rfc_3720() -> None:
    assert crc32c(b"\0" * 32) == 0x8A9136AA  # RFC 3720, B.4
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    assert crc32c(b"123456789") == 0xE3069283


def test_a_step_before_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="must not be negative, got -1"):
        event_file([Scalar(tag="loss", value=1.0, step=-1, wall_time=0.0)], wall_time=0.0)


@pytest.mark.slow
def test_events_are_written_without_torch(tmp_path: Path) -> None:
    """Coordinators write them, and there are more of those than slots."""
    study = Ledger(Storage(STUDIES / "finished"))
    trial = study.trials()[0].trial_id
    code = (
        "import sys; from orchestration.study.derived.events import write_events;"
        "from orchestration.study.ledger import Ledger;"
        "from orchestration.study.storage import Storage; found, made = (Ledger(Storage(at)) for at in sys.argv[1:3]);"
        "write_events(made, sys.argv[3], {0: found.fold_metrics(sys.argv[3], 0)});"
        "print(sorted({'torch', 'tensorboard', 'tensorboardX', 'scipy'} & set(sys.modules)))"
    )
    arguments = [study.storage.uri, str(tmp_path / "made"), trial]
    ran = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ran.stdout.strip() == "[]"
    assert "fold/score" in read(tmp_path / "made" / "tensorboard" / trial)
