"""Folders without file locks, and those that cannot be written: where features go instead."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from biomass_models import file_locks
from biomass_models.features.cache_folder import require_usable, usable_cache
from biomass_models.features.rows import CacheError
from biomass_models.file_locks import lock_problem, own_temp_folder

NO_LOCKS = [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP]
Refuse = Callable[[Path, int], None]


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Refuse:
    """refuse(folder, error): the kernel locks no file below it, as a mount without a lock service."""

    def begin(folder: Path, error: int) -> None:
        flock = fcntl.flock

        def no_flock(file: Any, operation: int) -> None:
            number = file if isinstance(file, int) else file.fileno()
            if Path(f"/proc/self/fd/{number}").readlink().is_relative_to(folder):
                raise OSError(error, os.strerror(error))
            flock(file, operation)

        monkeypatch.setattr(fcntl, "flock", no_flock)

    return begin


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_a_usual_folder_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert usable_cache(tmp_path / "new" / "cache") == (tmp_path / "new" / "cache", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert usable_cache(Path("~/.cache/biomass")) == (tmp_path / ".cache" / "biomass", "")
    assert lock_problem(tmp_path) == ""


@pytest.mark.parametrize("error", NO_LOCKS)
def test_a_mount_without_locks_is_replaced_with_the_reason(
    error: int, refuse: Refuse, temporary: Path, tmp_path: Path
) -> None:
    refuse(tmp_path / "mount", error)
    folder, why = usable_cache(tmp_path / "mount" / "cache")
    assert folder == temporary / f"biomass-cache-{os.getuid()}" and stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert f"cannot be locked: {os.strerror(error).lower()}" in why and str(folder) in why
    assert usable_cache(tmp_path / "mount" / "cache")[0] == folder  # every process of the node goes there


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("/proc/cache", "no such file or directory"),
        ("~/.cache/biomass", "no such file or directory"),
    ],
)
def test_a_folder_that_cannot_be_made_is_replaced(
    asked: str, said: str, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/proc")  # in which not even root can make a folder
    folder, why = usable_cache(Path(asked))
    assert folder.parent == temporary and said in why and asked in why


def test_nobody_has_a_cache(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(self: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", homeless)
    folder, why = usable_cache(Path("~/.cache/biomass"))
    assert folder.parent == temporary and "no home directory" in why


def test_a_temporary_folder_without_locks_is_passed_over(
    refuse: Refuse, temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "short").mkdir()
    monkeypatch.setattr(file_locks, "SHORT_FOLDERS", (str(tmp_path / "short"),))
    refuse(temporary, errno.ENOLCK)
    assert own_temp_folder("cache").parent == tmp_path / "short"
    monkeypatch.setattr(file_locks, "SHORT_FOLDERS", ())
    with pytest.raises(OSError, match="no locks available"):
        own_temp_folder("cache")


def test_another_error_is_not_taken_for_missing_locks(refuse: Refuse, tmp_path: Path) -> None:
    refuse(tmp_path, errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        lock_problem(tmp_path)


@pytest.mark.parametrize(
    ("asked", "said"),
    [("/dev/null", "file exists"), ("/dev/null/cache", "not a directory"), ("x" * 300, "file name too long")],
)
def test_a_wrong_name_is_not_replaced(asked: str, said: str) -> None:
    with pytest.raises(CacheError, match=f"must be a folder that can be written, got {asked}: {said}; give --cache"):
        usable_cache(Path(asked))


def test_what_is_usable_no_more_is_an_error_and_not_replaced(refuse: Refuse, tmp_path: Path) -> None:
    folder, _ = usable_cache(tmp_path / "above" / "cache")
    require_usable(folder)
    (tmp_path / "above").rename(tmp_path / "aside")
    (tmp_path / "above").write_text("")
    with pytest.raises(CacheError, match=r"got .*above/cache: not a directory; give --cache"):
        require_usable(folder)
    refuse(tmp_path / "aside", errno.ENOLCK)
    with pytest.raises(CacheError, match="files there cannot be locked: no locks available"):
        require_usable(tmp_path / "aside" / "cache")


def test_where_not_even_the_replacement_can_be_made_is_an_error(
    refuse: Refuse, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_locks, "SHORT_FOLDERS", ())
    refuse(temporary, errno.ENOLCK)
    with pytest.raises(CacheError, match="got /proc/cache: no locks available; give --cache"):
        usable_cache(Path("/proc/cache"))
