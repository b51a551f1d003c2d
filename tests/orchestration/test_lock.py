"""One driver at a time: who holds a study is said, what a dead driver left is taken over, a lost lock is noticed."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

import pytest

from orchestration import lock
from orchestration.ledger import Ledger
from orchestration.lock import LockError, is_alive, read_owner, study_lock
from orchestration.records import SearchFacts
from orchestration.storage import Storage


def owner(storage: Storage, *, host: str = "elsewhere", pid: int = 1, age: float = 0.0) -> None:
    now = time.time()
    facts = {"host": host, "pid": pid, "since": now - 99, "beat": now - age, "token": "theirs", "facts": {}}
    storage.write("owner.json", json.dumps(facts).encode())


@pytest.fixture(params=["local", "object store"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    monkeypatch.setattr(lock, "SETTLE_SECONDS", 0.05)
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.05)
    if request.param == "local":
        return Ledger(Storage(tmp_path))
    return Ledger(Storage(f"file://{tmp_path}"))  # the object-store path of the code


def test_a_free_study_is_held_with_a_heartbeat_and_given_back(ledger: Ledger) -> None:
    said: list[str] = []
    with study_lock(ledger, said.append) as heartbeat:
        first = read_owner(ledger.storage)
        assert first is not None and first.host == socket.gethostname() and is_alive(first)
        heartbeat.publish(SearchFacts(slots=3))
        deadline = time.monotonic() + 10
        while (now := read_owner(ledger.storage)) is None or now.facts.slots != 3 or now.beat <= first.beat:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert read_owner(ledger.storage) is None and said == []


def test_only_the_driver_sweeps_up_what_killed_writers_left(tmp_path: Path) -> None:
    ledger, said = Ledger(Storage(tmp_path)), list[str]()
    left = tmp_path / "trials" / "abc" / "fold-0" / ".oof.parquet.0a1b2c3d.tmp"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    owner(ledger.storage)
    with pytest.raises(LockError), study_lock(ledger):
        pass
    assert left.exists()
    ledger.storage.remove("owner.json")
    with study_lock(ledger, said.append):
        assert not left.exists()
    assert said == ["note: 1 temporary files of killed processes removed"]


def test_a_living_driver_elsewhere_is_respected(ledger: Ledger) -> None:
    owner(ledger.storage, age=lock.STALE_SECONDS / 2)
    with pytest.raises(LockError, match="process 1 on elsewhere since"), study_lock(ledger):
        pass
    left = read_owner(ledger.storage)
    assert left is not None and left.token == "theirs"


@pytest.mark.parametrize(
    "left", [{"age": lock.STALE_SECONDS + 1}, {"host": socket.gethostname(), "pid": 2**22 + 7, "age": 0.0}]
)
def test_what_a_dead_driver_left_is_taken_over_with_a_note(ledger: Ledger, left: dict[str, object]) -> None:
    owner(ledger.storage, **left)  # type: ignore[arg-type]
    said: list[str] = []
    with study_lock(ledger, said.append):
        now = read_owner(ledger.storage)
        assert now is not None and now.token != "theirs"
    assert len(said) == 1 and "taken over" in said[0] and "last sign of life" in said[0]


def test_a_driver_notices_that_its_study_was_taken_over(ledger: Ledger) -> None:
    with study_lock(ledger) as heartbeat:
        deadline = time.monotonic() + 10
        while heartbeat.lost_to is None:
            owner(ledger.storage)
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert "process 1 on elsewhere" in heartbeat.lost_to
    left = read_owner(ledger.storage)
    assert left is not None and left.token == "theirs"  # and leaves the new owner's sign where it is
