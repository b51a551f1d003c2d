"""The notebooks of docs/notebooks run; as stored they are what ran, without errors and without traces of a machine."""

from __future__ import annotations

import getpass
import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest
from notebooks import NOTEBOOKS, RAN, SETTINGS, assigned, code_cells, code_hash, read, run, settings_cell
from readme import README

TINY = {  # settings with which a test takes less than a minute on a free machine
    "first_study": 'IMAGES, TEST_IMAGES, WIDTH = 24, 6, 160\nPRESET, TRIALS, INLINE = "smoke", 6, False',
    "own_data": 'PHOTOS, TABLE, AREA, NEW = "phone", "cuts.csv", 0.25, "phone/test"\n'
    'BACKBONES, WEIGHTS, SCALE, TRIALS = "test_vit", "random", "smoke", 4\nDRAWN, WIDTH = 60, 160',
}
LARGEST = 300_000  # bytes of a stored notebook
PICTURES = ("image/png", "image/jpeg")
PATHS = re.compile(r"(?<![\w.<])/(home|root|tmp|usr|work|opt|mnt|var|Users|private)/|[A-Z]:\\")


def outputs(notebook: Any) -> list[dict[str, Any]]:
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def text_of(output: dict[str, Any]) -> str:
    data = {kind: value for kind, value in output.get("data", {}).items() if kind not in PICTURES}
    return json.dumps(data) + output.get("text", "")


def readable(notebook: Any) -> None:
    """What a forge shows: no error, nothing that steers a terminal, no advice, no machine, few pictures."""
    found = outputs(notebook)
    assert not [output for output in found if output["output_type"] == "error" or output.get("name") == "stderr"]
    text = "\n".join(map(text_of, found))
    for mark in ("\x1b", "\\u001b", "\r", "Warning", "Traceback", socket.gethostname()):
        assert mark not in text, mark
    assert not PATHS.search(text), PATHS.search(text)
    assert f"/{getpass.getuser()}/" not in text
    assert sum(any(kind in output.get("data", {}) for kind in PICTURES) for output in found) <= 2
    for output in found:
        kinds = set(output.get("data", {}))
        assert not kinds or (kinds & {"text/plain"} and kinds <= {"text/plain", "text/html", *PICTURES}), kinds


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_stored_notebook_shows_what_its_code_gave(path: Path) -> None:
    notebook = read(path)
    assert notebook.metadata[RAN] == code_hash(notebook), f"{path.name} has changed since it ran: tests/notebooks.py"
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert all(cell.outputs for cell in cells if cell is not settings_cell(notebook))
    assert path.stat().st_size < LARGEST
    readable(notebook)
    text = path.read_text()
    assert "\\u001b" not in text and not re.search(r'"(start_time|shell.execute_reply|iopub)', text)
    for cell in notebook.cells:
        for target in re.findall(r"\]\(([^)#]+)", cell.source if cell.cell_type == "markdown" else ""):
            assert (path.parent / target).exists(), target
    assert f"docs/notebooks/{path.name}" in README.read_text()


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path) -> None:
    """All of its cells as they are stored, but for the cell of settings; each gives the same kinds of output."""
    stored, ran = read(path), run(path, tmp_path / path.stem, TINY[path.stem])
    readable(ran)
    for one, other in zip(code_cells(stored), code_cells(ran), strict=True):
        assert one.source == other.source or SETTINGS in one.metadata["tags"]
        last_one, last_other = (cell.outputs[-1:] for cell in (one, other))
        assert [set(each.get("data", {})) for each in last_one] == [set(each.get("data", {})) for each in last_other]


def test_the_settings_of_a_test_are_those_of_the_notebook() -> None:
    assert set(TINY) == {path.stem for path in NOTEBOOKS}
    for path in NOTEBOOKS:
        assert assigned(TINY[path.stem]) == assigned(settings_cell(read(path)).source)
