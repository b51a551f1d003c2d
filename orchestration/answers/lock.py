"""One prediction at a time writes a table: a file lock beside it, which the kernel frees when its holder dies."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import filelock

from biomass_models.errors import UserError
from biomass_models.file_locks import lock_problem
from orchestration.progress import Say

WAIT = 0.2  # seconds: a holder that ends takes its file away, and the next one makes another


@contextlib.contextmanager
def output_lock(paths: Sequence[Path], say: Say) -> Iterator[None]:
    """Hold the tables that a prediction writes, from its first part to the last of them. UserError where another does.

    The file that is locked goes with the block; what a killed holder leaves of it is free.
    """
    with contextlib.ExitStack() as stack:
        for path in sorted(set(paths)):  # in one order, so that of two that share a table one goes on
            stack.enter_context(_held(path, say))
        yield


@contextlib.contextmanager
def _held(path: Path, say: Say) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    if why := lock_problem(path.parent):
        say(f"note: files in {path.parent} cannot be locked ({why}); let no other prediction write {path.name}")
        yield
        return
    held = path.with_name(f".{path.name}.lock")
    lock = filelock.FileLock(held)
    try:
        lock.acquire(timeout=WAIT)
    except filelock.Timeout:
        raise UserError(
            f"one prediction at a time writes a table, another one writes {path}; wait for it, or give another --out"
        ) from None
    try:
        yield
    finally:
        held.unlink(missing_ok=True)  # while it is held: who opened it meanwhile sees that it is gone, and looks again
        lock.release()
