"""The notebooks of docs/notebooks: run as they stand or with other settings, stored with what they show.

    python tests/notebooks.py FOLDER    # runs each in a new folder there, and stores it; minutes

A notebook's settings are the assignments of its cell tagged `parameters`; nothing else differs between two runs.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from pathlib import Path
from typing import Any

import nbformat
from kernels import ROOT, own_environment
from nbclient import NotebookClient

NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))
CELL_SECONDS = 900
SETTINGS = "parameters"  # tag of the cell
RAN = "code_sha256"  # metadata of a stored notebook: the code that its outputs are of


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def settings_cell(notebook: Any) -> Any:
    (found,) = (cell for cell in code_cells(notebook) if SETTINGS in cell.metadata.get("tags", ()))
    return found


def assigned(code: str) -> set[str]:
    """Names that a cell of plain assignments gives values."""
    lines = ast.parse(code).body
    assert all(isinstance(line, ast.Assign) for line in lines), "a cell of settings assigns, and does nothing else"
    return {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}


def code_hash(notebook: Any) -> str:
    return hashlib.sha256("\0".join(cell.source for cell in code_cells(notebook)).encode()).hexdigest()


def run(path: Path, folder: Path, settings: str | None = None) -> Any:
    """The notebook with its outputs, run in a folder. settings: in place of its own, for all of its names.

    Raises nbclient's CellExecutionError.
    """
    notebook = read(path)
    if settings is not None:
        cell = settings_cell(notebook)
        assert assigned(settings) == assigned(cell.source), f"the settings of {path.name} are others"
        cell.source = settings
    folder.mkdir(parents=True, exist_ok=True)
    where = {"metadata": {"path": str(folder)}}
    with own_environment(folder.parent) as own:
        client = NotebookClient(notebook, timeout=CELL_SECONDS, kernel_name="python3", resources=where)
        client.execute(env=own)
    return notebook


def store(path: Path, notebook: Any) -> None:
    """As it ran, without what differs between machines."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
            RAN: code_hash(notebook),
        }
    )
    nbformat.validate(notebook)
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for path in NOTEBOOKS:
        store(path, run(path, Path(sys.argv[1]).absolute() / path.stem))
        print(f"stored {path}")
