"""Files are there whole or not at all, also when their writer is killed; what a killed writer leaves is swept up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from biomass_models.whole_files import remove_left_over, whole_file, whole_folder, write_whole

WRITER = """
import sys
from pathlib import Path
from biomass_models.whole_files import whole_file
with whole_file(Path(sys.argv[1])) as unfinished:
    unfinished.write_bytes(b"half")
    print(unfinished.name, flush=True)
    sys.stdin.read()  # until it is killed, or may go on
    unfinished.write_bytes(b"whole")
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def writer(path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process in the middle of writing `path`, and its temporary file."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], **pipes) as process:  # type: ignore[call-overload]
        yield process, path.with_name(process.stdout.readline().strip())
        process.kill()


def test_a_file_takes_its_name_when_it_is_done(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    with whole_file(path) as unfinished:
        unfinished.write_text("first")
        assert not path.exists()
    assert path.read_text() == "first" and names(path.parent) == ["file.txt"]
    with pytest.raises(ValueError, match="not right"), whole_file(path) as unfinished:
        unfinished.write_text("second")
        raise ValueError("not right")
    assert path.read_text() == "first" and names(path.parent) == ["file.txt"]
    write_whole(path, b"third")
    assert path.read_text() == "third" and path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def test_a_folder_takes_its_name_when_it_is_full(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    with pytest.raises(ValueError, match="not right"), whole_folder(folder) as unfinished:
        (unfinished / "file").touch()
        raise ValueError("not right")
    assert not names(folder.parent)
    folder.mkdir()
    with whole_folder(folder) as unfinished:
        (unfinished / "file").touch()
        assert not names(folder)
    assert names(folder) == ["file"] and names(folder.parent) == ["folder"]
    with pytest.raises(OSError), whole_folder(folder):
        pass
    assert names(folder) == ["file"] and names(folder.parent) == ["folder"]


def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError) as raised, whole_file(tmp_path / "file"):
        raise OSError(28, "No space left on device")
    assert raised.value.filename == str(tmp_path / "file") and not names(tmp_path)


def test_what_a_killed_writer_left_is_swept_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    others = [".config.tmp", ".x.12345678.tmp.swp", "y.12345678.tmp", ".z.1234567g.tmp", ".lock"]
    for name in others:
        (tmp_path / name).touch()
    (tmp_path / ".old.0123abcd.tmp").touch()  # as version 0.1.0 left them, without a lock
    with writer(tmp_path / "deep" / "dead") as (dead, left), writer(tmp_path / "living") as (living, unfinished):
        dead.send_signal(signal.SIGKILL)
        dead.wait()
        assert left.read_bytes() == b"half" and unfinished.read_bytes() == b"half"
        assert remove_left_over(tmp_path) == [tmp_path / ".old.0123abcd.tmp", left]
        assert not left.exists() and unfinished.exists()
        living.communicate()
        assert (tmp_path / "living").read_bytes() == b"whole"
    assert remove_left_over(tmp_path) == []
    assert sorted(path.name for path in tmp_path.rglob("*")) == sorted([*others, "deep", "living"])


def test_a_sweep_between_making_and_locking_costs_the_writer_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import biomass_models.whole_files as module

    real, swept = module.fcntl.flock, list[Path]()

    def sweep_first(lock: int, how: int) -> None:
        if not swept:
            swept.append(next(tmp_path.iterdir()))
            swept[0].unlink()
        real(lock, how)

    monkeypatch.setattr(module.fcntl, "flock", sweep_first)
    write_whole(tmp_path / "file", b"content")
    assert swept and (tmp_path / "file").read_bytes() == b"content" and names(tmp_path) == ["file"]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
