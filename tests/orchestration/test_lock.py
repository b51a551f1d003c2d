"""One driver at a time: who holds a study is said, what a dead driver left is taken over, a lost lock is noticed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestration.study import layout, lock
from orchestration.study.ledger import Ledger
from orchestration.study.lock import LockError, is_alive, read_owner, study_lock
from orchestration.study.records import SearchFacts
from orchestration.study.storage import Storage

HOUR = 3600.0


def owner(storage: Storage, *, host: str = "elsewhere", pid: int = 1, age: float = 0.0, **more: str) -> None:
    """The sign of another driver; age of its beat in seconds, below 0 from a clock that is ahead."""
    now = time.time()
    facts = {"host": host, "pid": pid, "since": now - 99, "beat": now - age, "token": "theirs", "facts": {}, **more}
    storage.write("owner.json", json.dumps(facts).encode())


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("SETTLE", 0.05), ("BEAT", 0.05), ("LOOK", 0.01), ("STALE", 0.3)):
        monkeypatch.setattr(lock, f"{name}_SECONDS", seconds)


@pytest.fixture(params=["local", "object store"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path, quick: None) -> Ledger:
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


@contextlib.contextmanager
def beating(storage: Storage, ahead: float = 0.0, **who: Any) -> Iterator[None]:
    """A driver elsewhere whose clock is so many seconds ahead, and who writes its beat anew all the time."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(0.02):
            owner(storage, age=-ahead, **who)

    owner(storage, age=-ahead, **who)
    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_only_the_driver_sweeps_up_what_killed_writers_left(tmp_path: Path) -> None:
    ledger, said = Ledger(Storage(tmp_path)), list[str]()
    left = tmp_path / "trials" / "abc" / "fold-0" / ".oof.parquet.0a1b2c3d.tmp"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    with beating(ledger.storage, 0.0), pytest.raises(LockError), study_lock(ledger):
        pass
    assert left.exists()
    ledger.storage.remove("owner.json")
    with study_lock(ledger, said.append):
        assert not left.exists()
    assert said == ["note: 1 temporary file of killed processes removed"]


@pytest.mark.parametrize("ahead", [0.0, 26 * HOUR, 90.0, -90.0, -26 * HOUR])
def test_a_living_driver_elsewhere_is_respected_whatever_its_clock_says(
    ledger: Ledger, ahead: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "STALE_SECONDS", 60.0)  # it ends at the next beat, not after these
    with (
        beating(ledger.storage, ahead),
        pytest.raises(LockError, match="process 1 on elsewhere since"),
        study_lock(ledger),
    ):
        pass
    left = read_owner(ledger.storage)
    assert left is not None and left.token == "theirs"


@pytest.mark.slow
@pytest.mark.parametrize("age", [0.0, 90.0, -90.0, -26 * HOUR])
def test_a_beat_that_stands_still_is_of_a_dead_driver_whatever_its_clock_said(ledger: Ledger, age: float) -> None:
    owner(ledger.storage, age=age)
    said: list[str] = []
    with study_lock(ledger, said.append):
        now = read_owner(ledger.storage)
        assert now is not None and now.token != "theirs"
    assert len(said) == 2 and "process 1 on elsewhere" in said[0] and "waiting up to" in said[0]
    assert "taken over" in said[1] and "last sign of life" in said[1]


def test_a_dead_process_of_this_machine_is_taken_over_at_once(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "STALE_SECONDS", HOUR)
    owner(ledger.storage, host=socket.gethostname(), pid=2**22 + 7)
    said: list[str] = []
    with study_lock(ledger, said.append):
        pass
    assert len(said) == 1 and "taken over" in said[0]


def test_a_study_that_is_given_back_while_one_waits_is_free(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "STALE_SECONDS", HOUR)
    owner(ledger.storage)
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        ledger.storage.remove(layout.OWNER)

    with study_lock(ledger, say):
        pass
    assert len(said) == 1 and "waiting up to" in said[0]


@pytest.mark.parametrize("ahead", [HOUR, -HOUR])
@pytest.mark.parametrize(("beats", "alive"), [(True, True), (False, False)])
def test_status_watches_a_driver_whose_clock_is_another(ledger: Ledger, beats: bool, alive: bool, ahead: float) -> None:
    owner(ledger.storage, age=-ahead)
    found = read_owner(ledger.storage)
    assert found is not None
    with beating(ledger.storage, ahead) if beats else contextlib.nullcontext():
        assert is_alive(found, ledger.storage) == alive


class Cutting(Storage):
    """An object store on which each file is replaced by a longer one while it is read for the first time."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self._seen = b""

    def read(self, name: str) -> bytes:
        content = super().read(name)
        before, self._seen = self._seen, content
        return content if content == before else content[:-9]


def test_a_sign_of_life_that_was_cut_short_is_read_again(quick: None, tmp_path: Path) -> None:
    storage, said = Cutting(f"file://{tmp_path}"), list[str]()
    owner(storage)
    with study_lock(Ledger(storage), said.append) as heartbeat:  # its own sign is cut as well
        assert "waiting up to" in said[0] and "taken over" in said[1]
        owner(storage)
        deadline = time.monotonic() + 10
        while heartbeat.lost_to is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    storage.write("owner.json", b"{")
    assert read_owner(storage) is None  # nor is one that stays as it is waited for


# -- mounts without file locks ----------------------------------------------------------------------------------------


@pytest.fixture(params=[errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP], ids=["ENOLCK", "ENOSYS", "EOPNOTSUPP"])
def lockless(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None) -> Path:
    """A folder in which the kernel refuses file locks, as NFS without a lock service and Lustre without flock do."""
    folder, flock = tmp_path / "mount", fcntl.flock
    folder.mkdir()

    def refuse(file: Any, operation: int) -> None:
        number = file if isinstance(file, int) else file.fileno()
        if Path(f"/proc/self/fd/{number}").readlink().is_relative_to(folder):
            raise OSError(request.param, os.strerror(request.param))
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", refuse)
    return folder


def test_without_file_locks_the_sign_of_life_keeps_one_driver_at_a_time(lockless: Path) -> None:
    said: list[str] = []
    ledger = Ledger(Storage(lockless / "study"))
    with study_lock(ledger, said.append):
        with pytest.raises(LockError, match="held by process"), study_lock(Ledger(ledger.storage)):
            pass
        left = read_owner(ledger.storage)
        assert left is not None and left.pid == os.getpid()
    assert len(said) == 1 and "cannot be locked" in said[0] and read_owner(ledger.storage) is None


def test_without_file_locks_a_driver_of_another_container_of_this_name_is_waited_for(lockless: Path) -> None:
    """Its process id means nothing here."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    ledger = Ledger(Storage(lockless / "study"))
    who = {"host": socket.gethostname(), "pid": dead.pid, "machine": "another"}
    owner(ledger.storage, **who)
    found = read_owner(ledger.storage)
    assert found is not None and is_alive(found) and not is_alive(replace(found, machine=lock.this_machine()))
    with beating(ledger.storage, **who), pytest.raises(LockError, match="held by process"), study_lock(ledger):
        pass


def test_without_file_locks_a_killed_driver_of_this_machine_is_taken_over_at_once(
    lockless: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "STALE_SECONDS", HOUR)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    ledger = Ledger(Storage(lockless / "study"))
    owner(ledger.storage, host=socket.gethostname(), pid=dead.pid)
    said: list[str] = []
    with study_lock(ledger, said.append):
        pass
    assert "taken over" in said[-1]


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
