"""A family's ranges under a file of the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from search_spaces.domain import SearchSpace
from search_spaces.own_ranges import changed_space
from search_spaces.range_files import read_changes
from search_spaces.spaces import space_of

NETS = ("net_a", "net_b")


def written(folder: Path, text: str) -> Path:
    (folder / "my.toml").write_text(text)
    return folder / "my.toml"


def changed(
    folder: Path, text: str, family: str = "distilled", scale: str = "cpu", typed: Sequence[str] = ()
) -> tuple[SearchSpace, list[str]]:
    """A family's space under a file, and what was said."""
    said: list[str] = []
    changes = read_changes(written(folder, text), typed)
    return changed_space(space_of(family, NETS, scale), changes, said.append), said
