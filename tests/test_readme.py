"""The README: its tree names every folder, docs/architecture.md every module; its commands and links exist.

test_road.py runs the commands under 'Your own data' with real Ray.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from readme import README, commands
from typer.main import get_command

from biomass_models.families import registry
from orchestration.cli import app
from orchestration.search.engines import registry as engines

ROOT = Path(__file__).parent.parent
PACKAGES = ("biomass_models", "search_spaces", "orchestration", "ensembles")


def test_the_tree_names_every_folder_and_the_page_every_module() -> None:
    folders = {str(path.parent.relative_to(ROOT)) for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    shown = set(re.findall(r"^    (\w+(?:/\w+)*)/ ", README.read_text(), flags=re.MULTILINE))
    assert {folder for folder in folders if folder.count("/") < 2} <= shown
    blocks = re.split(r"^    (\S+)/ .*$", (ROOT / "docs" / "architecture.md").read_text(), flags=re.MULTILINE)
    page = dict(zip(blocks[1::2], blocks[2::2], strict=True))
    assert folders <= set(page), f"docs/architecture.md lacks the folders {sorted(folders - set(page))}"
    for folder in folders:
        named = set(re.findall(r"^      (\w+\.py) ", page[folder], flags=re.MULTILINE))
        there = {path.name for path in (ROOT / folder).glob("*.py")} - {"__init__.py"}
        assert named == there, (
            f"docs/architecture.md has a line for each module of {folder}; mend {sorted(named ^ there)}"
        )


@pytest.mark.parametrize("name", registry.BUILT_IN)
def test_families_are_described_as_they_describe_themselves(name: str) -> None:
    row = f"| `{name}` | {registry.family(name).describe} |"
    assert row in README.read_text(), f"the table of families in README.md lacks a row; add: {row} COST |"


def test_engines_are_listed_where_they_are_explained() -> None:
    page = (ROOT / "docs" / "long-searches.md").read_text()
    for name in engines.BUILT_IN:
        assert f"\n| `{name}` | " in page, (
            f"the table of engines in docs/long-searches.md lacks a row: | `{name}` | ... |"
        )


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
