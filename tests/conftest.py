"""Shared by all tests: one tiny pasture, drawn once a session."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

# Golden scores and comparisons to float tolerance must not depend on whether this CPU multiplies bfloat16 natively;
# tests of that path ask for it. Set before Ray starts: its workers inherit it.
os.environ["BIOMASS_ENCODING"] = "float32"

# Nor on weights that this user has got.
os.environ["XDG_DATA_HOME"] = "/nowhere"

from biomass_models.pasture.make import make_pasture


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of two processes one runs all that starts Ray, first and one at a time; a file's other tests stay together."""

    def group(item: pytest.Item) -> str:
        return "ray" if item.get_closest_marker("ray") else item.nodeid.split("::")[0]

    for item in items:
        item.add_marker(pytest.mark.xdist_group(group(item)))
    items.sort(key=lambda item: (group(item) != "ray", item.get_closest_marker("long") is not None))


@pytest.fixture(scope="session")
def tiny_pasture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 training and 6 test images of 160 x 80 px; the test truth lies beside it as data-truth.csv."""
    folder = tmp_path_factory.mktemp("pasture") / "data"
    make_pasture(folder, images=24, test_images=6, seed=0, width=160, height=80, workers=1)
    return folder


@pytest.fixture
def own_pasture(tiny_pasture: Path, tmp_path: Path) -> Path:
    """A copy of the tiny pasture that a test may spoil."""
    return Path(shutil.copytree(tiny_pasture, tmp_path / "pasture"))
