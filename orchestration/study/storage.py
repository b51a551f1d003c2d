"""Whole files under one root: a local folder or any URI that pyarrow's filesystems open (s3://, gs://).

A file is there whole or not at all: a temporary name and a rename locally, one PUT on an object store (a multipart
upload from 10 MB on).
Names are relative and stay inside the root.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pyarrow.fs

from biomass_models.config_rules import nearest
from biomass_models.errors import StoreError, UserError
from biomass_models.whole_files import remove_left_over, write_whole

AT_ONCE = 32  # requests to an object store
AGAIN_SECONDS = 0.05  # before content that cannot be parsed is read again
ONE_PUT = "allow_delayed_open"  # of pyarrow's S3: nothing is begun there before a small file is complete
Answer = TypeVar("Answer")


class Storage:
    """One root and the whole files below it: `filesystem` is pyarrow's, `base` the root's path in it."""

    def __init__(self, root: str | Path) -> None:
        text = str(root)
        self.is_local = "://" not in text
        self.uri = str(Path(text).expanduser().resolve()) if self.is_local else text.rstrip("/")
        self.filesystem: pyarrow.fs.FileSystem
        if self.is_local:
            self.filesystem, self.base = pyarrow.fs.LocalFileSystem(), self.uri
        else:
            try:
                with _naming(self.uri):
                    self.filesystem, self.base = pyarrow.fs.FileSystem.from_uri(_opened(self.uri))
            except pyarrow.ArrowException as error:
                rule = "a study is a folder, or a URI that pyarrow opens, such as s3://bucket/study"
                raise UserError(f"{rule}; got {self.uri} ({error}); check the part before ://") from error

    def read(self, name: str) -> bytes:
        """The whole content; FileNotFoundError if it is not there."""
        with self._naming(name), self.filesystem.open_input_file(self._path(name)) as stream:
            return stream.read()

    def parsed(self, name: str, parse: Callable[[bytes], Answer]) -> Answer:
        """What `parse` makes of a file's content. Raises its ValueError, and what `read` raises.

        A file is cut short where an object store replaces it by a longer one between saying how long it is and giving
        its content. So what cannot be parsed there is read again, until it is the same twice.
        """
        content = self.read(name)
        while True:
            try:
                return parse(content)
            except ValueError:
                if self.is_local:
                    raise
                time.sleep(AGAIN_SECONDS)
                before, content = content, self.read(name)
                if content == before:
                    raise

    def write(self, name: str, content: bytes) -> None:
        """Put a whole file in place; a reader sees the old content or the new one, never a part."""
        path = self._path(name)
        if not self.is_local:
            with self._naming(name):
                _uninterrupted(lambda: self._upload(path, content))
            return
        write_whole(Path(path), content)

    def _upload(self, path: str, content: bytes) -> None:
        with self.filesystem.open_output_stream(path) as stream:
            stream.write(content)

    def remove(self, name: str) -> None:
        """Delete a file; one that is not there is no error."""
        with contextlib.suppress(FileNotFoundError), self._naming(name):
            self.filesystem.delete_file(self._path(name))

    def sweep(self) -> int:
        """Delete the temporary files of writers that were killed; returns how many. An object store has none."""
        return len(remove_left_over(Path(self.base))) if self.is_local else 0

    def size(self, name: str) -> int | None:
        """Bytes of a file, or None if there is no such file."""
        with self._naming(name):
            info = self.filesystem.get_file_info(self._path(name))
        return info.size if info.type == pyarrow.fs.FileType.File else None

    def each(self, question: Callable[[str], Answer], names: Iterable[str]) -> list[Answer]:
        """What a question about one file, or one folder, answers for each name, in their order.

        An object store is asked AT_ONCE questions at a time: what takes long there is the way.
        """
        if self.is_local:
            return [question(name) for name in names]
        with ThreadPoolExecutor(AT_ONCE) as threads:
            return list(threads.map(question, names))

    def children(self, folder: str) -> list[str]:
        """Sorted names of what lies directly in a folder; temporary files and a missing folder count as nothing."""
        if self.is_local:
            # pyarrow's listing looks at every entry again and fails when one is renamed or made meanwhile
            try:
                with os.scandir(self._path(folder)) as entries:
                    names = [entry.name for entry in entries]
            except FileNotFoundError:
                names = []
        else:
            selector = pyarrow.fs.FileSelector(self._path(folder), allow_not_found=True)
            with self._naming(folder):
                names = [info.base_name for info in self.filesystem.get_file_info(selector)]
        return sorted(name for name in names if not name.startswith("."))

    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes of every file below a folder, by its name from there; a missing folder has none. One listing."""
        if self.is_local:
            top, found = Path(self._path(folder)), {}
            for inside, _, names in os.walk(top):
                for path in (Path(inside, name) for name in names if not name.startswith(".")):
                    with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                        found[path.relative_to(top).as_posix()] = path.stat().st_size
            return found
        selector = pyarrow.fs.FileSelector(self._path(folder), allow_not_found=True, recursive=True)
        with self._naming(folder):
            infos = self.filesystem.get_file_info(selector)
        start = len(self._path(folder)) + 1
        return {info.path[start:]: info.size for info in infos if info.type == pyarrow.fs.FileType.File}

    def _naming(self, name: str) -> contextlib.AbstractContextManager[None]:
        return _naming(f"{self.uri}/{name}")

    def _path(self, name: str) -> str:
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if name.startswith("/") or ".." in parts:
            raise UserError(f"a file of a study lies inside its folder, got the name {name!r}")
        return "/".join([self.base, *parts])


def _opened(uri: str) -> str:
    """The URI with the options that a study needs and that pyarrow does not set by itself."""
    if not uri.startswith("s3://") or ONE_PUT in uri:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}{ONE_PUT}=true"


@contextlib.contextmanager
def _naming(path: str) -> Iterator[None]:
    """pyarrow's errors without a file get the name of theirs, and those of an object store become StoreError: who
    computes a trial must see that they are not the trial's fault."""
    try:
        yield
    except OSError as error:
        if error.errno is None and "://" in path:
            raise StoreError.of(error) from error
        if error.errno is not None and error.filename is None:
            error.filename = path
        raise


def _uninterrupted(work: Callable[[], None]) -> None:
    """Do what must not end half-way, and wait for it: a signal is raised here afterwards.

    Python raises KeyboardInterrupt between any two steps of the main thread, and of no other. A stream that was opened
    and lost to one completes its upload when it is deleted: the file would be there, empty.
    """
    if threading.current_thread() is not threading.main_thread():
        work()
        return
    with ThreadPoolExecutor(1) as thread:
        thread.submit(int).result()  # one that a signal meets while it starts would not be waited for
        thread.submit(work).result()


def nearest_folder(path: Path, marker: str) -> str:
    """The end of a message about a wrong path: `; did you mean DIR?`, where one inside or beside it holds `marker`."""

    def holders(folder: Path) -> list[str]:
        try:
            return sorted(child.name for child in folder.iterdir() if (child / marker).is_file())
        except OSError:  # not there, no folder, or not ours to look into
            return []

    found = [path / name for name in holders(path)]
    found += [path.parent / name for name in nearest(path.name, holders(path.parent))]
    return f"; did you mean {found[0]}?" if found else ""
