"""The README: its tree names every module and no other, its commands and links exist.

test_road.py runs the commands under 'Your own data' with real Ray.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from readme import README, commands
from typer.main import get_command

from orchestration.cli import app

ROOT = Path(__file__).parent.parent


def test_the_tree_names_every_module() -> None:
    text = (ROOT / "README.md").read_text()
    for package in ("biomass_models", "search_spaces", "orchestration", "ensembles"):
        block = text.split(f"    {package}/\n")[1]
        named = set(re.findall(r"^      (\w+\.py) ", re.split(r"\n    \S", block)[0], flags=re.MULTILINE))
        assert named == {path.name for path in (ROOT / package).glob("*.py")} - {"__init__.py"}


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_is_one_that_exists_with_its_options(
    words: list[str], tiny_pasture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "DIR").symlink_to(tiny_pasture)
    monkeypatch.chdir(tmp_path)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
        return
    assert words[0] == "biomass"
    command = get_command(app)
    rest = words[1:]
    while hasattr(command, "commands"):
        command = command.commands[rest.pop(0)]
    # parsing checks options, their values and the number of arguments; nothing runs
    command.make_context(command.name, rest, resilient_parsing=False)


def test_make_targets_of_the_text_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"(?<!data )\bmake ([a-z]+)\b", README.read_text())) <= targets


@pytest.mark.parametrize("page", [README, *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        assert there.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", there.read_text(), flags=re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, target
