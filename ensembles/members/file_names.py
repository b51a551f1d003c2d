"""Names for members that come as files: what the wildcards of a pattern stand for.

    runs/*.csv          runs/resnet.csv -> resnet
    runs/oof_*.csv      runs/oof_resnet.csv -> resnet
    runs/*/oof.csv      runs/resnet/oof.csv -> resnet

So `runs/*/oof.csv` and `runs/*/test.csv` name the same members. A path without wildcards is named by its stem.
"""

from __future__ import annotations

import glob
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ensembles.members.library import LibraryError

_WILDCARD = re.compile(r"(\*\*/?|\*|\?|\[[^]]+\])")
_IDS = re.compile(r"(^|\.)ids\.txt$")  # companions of .npy files, no members


def named_files(patterns: Sequence[str]) -> dict[str, Path]:
    """Files that the patterns match, by member name, in order of name within a pattern.

    Names that two files share get as many folders before them as keep them apart. Raises LibraryError for a pattern
    with wildcards that matches no file.
    """
    found: dict[Path, str] = {}
    for pattern in patterns:
        pattern = str(Path(pattern).expanduser())
        if not glob.has_magic(pattern):
            found.setdefault(Path(pattern), Path(pattern).stem)
            continue
        # Path.glob takes no absolute pattern
        paths = [Path(path) for path in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207
        paths = [path for path in paths if path.is_file() and not _IDS.search(path.name)]
        if not paths:
            raise LibraryError(f"a pattern must match at least one file, {pattern!r} matches none; check the path")
        for path in paths:
            found.setdefault(path, _stands_for(pattern, path))
    often = Counter(found.values())
    names = [name if often[name] == 1 else "" for name in found.values()]
    apart = _with_folders([path for path, name in zip(found, names, strict=True) if not name])
    named = {name or apart[path]: path for path, name in zip(found, names, strict=True)}
    return named if len(named) == len(found) else {str(path): path for path in found}


def _stands_for(pattern: str, path: Path) -> str:
    """The text of a path that a pattern's wildcards match, joined by "/"; its stem where that is nothing."""
    parts = []
    for piece in _WILDCARD.split(pattern):
        if piece.startswith("**"):
            parts.append("(.*)")
        elif piece == "*":
            parts.append("([^/]*)")
        elif piece == "?":
            parts.append("([^/])")
        elif piece.startswith("[") and piece.endswith("]"):
            parts.append(f"([{'^' + piece[2:-1] if piece[1] == '!' else piece[1:-1]}])")
        else:
            parts.append(re.escape(piece))
    match = re.fullmatch("".join(parts), str(path))
    texts = [text.strip("/") for text in match.groups() if text.strip("/")] if match else []
    name = "/".join(texts)
    return name.removesuffix(path.suffix) or path.stem


def _with_folders(paths: Sequence[Path]) -> dict[Path, str]:
    """The shortest ends of the paths, suffix left out, that differ for all; the whole path if none does."""
    for depth in range(1, 1 + max((len(path.parts) for path in paths), default=0)):
        names = ["/".join((*path.parts[-depth:-1], path.stem)) for path in paths]
        if len(set(names)) == len(names):
            return dict(zip(paths, names, strict=True))
    return {path: str(path) for path in paths}
