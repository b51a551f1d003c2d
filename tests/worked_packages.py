"""The worked family and the worked engine of docs/extending.md as installed packages, for the tests that use them."""

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
FAMILY, ENGINE = "A family", "An engine"  # headings of the page, each with the files of one package
NAME = "neighbours"  # of the family


def files_of_the_page(section: str = FAMILY) -> dict[str, str]:
    """Content of a section's files by path: the blocks that begin with a comment of their path."""
    (text,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)
    return dict(re.findall(r"```\w+\n# (\S+\.\w+)\n(.*?)```", text, flags=re.DOTALL))


def install(site: Path, section: str = FAMILY) -> None:
    """Put the package into a folder as an installer does: its modules, and a .dist-info with its entry points."""
    files = files_of_the_page(section)
    project = tomllib.loads(files.pop("pyproject.toml"))["project"]
    for path, content in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(content)
        if (site / path).parent != site:
            ((site / path).parent / "__init__.py").write_text("")
    info = site / f"{project['name']}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = project["entry-points"].items()
    lines = [line for group, points in groups for line in (f"[{group}]", *(f"{k} = {v}" for k, v in points.items()))]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


@contextmanager
def installed(site: Path) -> Iterator[None]:
    """Inside, the packages in that folder are of this process's installation."""
    sys.path.append(str(site))
    importlib.invalidate_caches()
    registry.folders.cache_clear()
    try:
        yield
    finally:
        sys.path.remove(str(site))
        registry.folders.cache_clear()
        for name, module in list(sys.modules.items()):
            if (getattr(module, "__file__", None) or "").startswith(f"{site}/"):
                del sys.modules[name]
