"""The README's tree names every module, and no other."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_tree_names_every_module() -> None:
    text = (ROOT / "README.md").read_text()
    for package in ("biomass_models", "search_spaces", "orchestration", "ensembles"):
        block = text.split(f"    {package}/\n")[1]
        named = set(re.findall(r"^      (\w+\.py) ", re.split(r"\n    \S", block)[0], flags=re.MULTILINE))
        assert named == {path.name for path in (ROOT / package).glob("*.py")} - {"__init__.py"}
