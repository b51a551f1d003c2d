"""The worked family of docs/extending.md as an installed package, for the tests that use it."""

from __future__ import annotations

import importlib
import re
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from biomass_models.families import registry

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
NAME = "neighbours"


def files_of_the_page() -> dict[str, str]:
    """Content of the page's files by path: the blocks that begin with a comment of their path."""
    blocks = re.findall(r"```\w+\n# (\S+\.\w+)\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    return dict(blocks)


def install(site: Path) -> None:
    """Put the package into a folder as an installer does: its modules, and a .dist-info with its entry points."""
    files = files_of_the_page()
    project = tomllib.loads(files.pop("pyproject.toml"))["project"]
    for path, content in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(content)
    (site / NAME / "__init__.py").write_text("")
    info = site / f"{project['name']}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = project["entry-points"].items()
    lines = [line for group, points in groups for line in (f"[{group}]", *(f"{k} = {v}" for k, v in points.items()))]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


@contextmanager
def installed(site: Path) -> Iterator[None]:
    """Inside, the package in that folder is one of this process's installation."""
    sys.path.append(str(site))
    importlib.invalidate_caches()
    registry.folders.cache_clear()
    try:
        yield
    finally:
        sys.path.remove(str(site))
        registry.folders.cache_clear()
        for name in [name for name in sys.modules if name.split(".")[0] == NAME]:
            del sys.modules[name]
