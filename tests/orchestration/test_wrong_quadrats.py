"""Wrong tables of one's own through the command line: each rule of docs/data.md broken once, and several together.

`data check` and `search` list all errors at once, alike ones together, each with its line and what to do; the search
ends before it writes anything.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest
from typer.testing import CliRunner

from biomass_models.pasture.make import make_pasture
from orchestration.cli import app

pytestmark = pytest.mark.slow

Table = pd.DataFrame


class Fault(NamedTuple):
    """What is done to a sound directory, and what every command says of it: place, rule and remedy."""

    table: Callable[[Table], Table] | None
    settings: tuple[str, str] | None  # text of dataset.toml, and what stands in its place
    place: str
    rule: str
    remedy: str


def cell(column: str, row: int, value: str) -> Callable[[Table], Table]:
    def change(table: Table) -> Table:
        table = table.copy()
        table.loc[row, column] = value
        return table

    return change


def every(column: str, value: str) -> Callable[[Table], Table]:
    return lambda table: table.assign(**{column: value})


def quadrats(values: Callable[[int], str]) -> Callable[[Table], Table]:
    return lambda table: table.assign(q=[values(row) for row in range(len(table))])


MASSES = ("green_g", "dead_g", "clover_g", "gdm_g", "total_g")
TOP = 'unit = "g"'
QUADRAT = ("[columns]", '[columns]\nquadrat = "q"')
FAULTS: dict[str, Fault] = {
    # dataset.toml
    "unit": Fault(None, (TOP, 'unit = "lb"'), "dataset.toml:1", "unit is one of g, g/m2, kg/ha", 'unit = "kg/ha"'),
    "no unit": Fault(None, (TOP, "# none"), "dataset.toml", "unit is one of", "write it like unit"),
    "area": Fault(None, (TOP, f"{TOP}\narea = 2500"), "dataset.toml:2", "area is m2, 1e-06 to 100", "area = 0.25"),
    "unit without area": Fault(None, (TOP, 'unit = "g/m2"'), "dataset.toml:1", "need the area", "add area = 0.25"),
    "groups": Fault(None, (TOP, f'{TOP}\ngroups = "site"'), "dataset.toml:2", "a list of columns", 'groups = ["site"'),
    "groups twice": Fault(
        None, (TOP, f'{TOP}\ngroups = ["site", "site"]'), "dataset.toml:2", "names a column once", "remove the repeti"
    ),
    "fit": Fault(None, (TOP, f'{TOP}\nfit = "squash"'), "dataset.toml:2", "fit is one of", 'fit = "crop"'),
    "weights": Fault(None, (TOP, f"{TOP}\nweights = {{total = -1}}"), "dataset.toml:2", "above 0", "total = 0.5"),
    "weights of some": Fault(
        None, (TOP, f"{TOP}\nweights = {{total = 1}}"), "dataset.toml", "weights name the masses", "add its weight"
    ),
    "no TOML": Fault(None, (TOP, "unit = g"), "dataset.toml:1", "dataset.toml is TOML", "texts stand in quotes"),
    "key": Fault(None, (TOP, f"{TOP}\ngruops = []"), "dataset.toml:2", "has the keys", "did you mean groups?"),
    "column that is not there": Fault(
        None, ('"date"', '"dat"'), "dataset.toml", "names columns of quadrats.csv", "did you mean date?"
    ),
    "no photographs": Fault(None, ("photo =", "# photo ="), "dataset.toml:2", "names the photographs", "add photo ="),
    # quadrats.csv
    "text for a mass": Fault(cell("total_g", 3, "n/a"), None, "quadrats.csv:5", "finite number", "mend the cell"),
    "a mass below 0": Fault(cell("dead_g", 0, "-1"), None, "quadrats.csv:2", "of at least 0", "mend the cell"),
    "decimal commas": Fault(
        lambda table: table.assign(total_g=table["total_g"].str.replace(".", ",")), None,
        "quadrats.csv", "24 rows: total_g is a finite number", "write a decimal point",
    ),
    "no mass in a row": Fault(
        lambda table: table.assign(**{name: table[name].where(table.index != 4, "") for name in MASSES}), None,
        "quadrats.csv:6", "a row has one mass or more", "leave the row out",
    ),
    "no mass in a column": Fault(every("clover_g", ""), None, "quadrats.csv", "clover_g holds masses", "remove clover"),
    "a date of another order": Fault(
        every("date", "4.9.2015"), None, "quadrats.csv", "24 rows: date is a day of the calendar", "2015-09-04"
    ),
    "a blank date": Fault(cell("date", 2, ""), None, "quadrats.csv:4", "has no blank cells", "or remove date"),
    "a blank site": Fault(cell("site", 2, ""), None, "quadrats.csv:4", "has no blank cells", "or remove site"),
    "a blank species": Fault(cell("species", 2, ""), None, "quadrats.csv:4", "has no blank cells", "or remove species"),
    "NDVI": Fault(cell("ndvi", 1, "62"), None, "quadrats.csv:3", "finite number in [-1, 1]", "mend the cell"),
    "height": Fault(cell("height", 1, "-2"), None, "quadrats.csv:3", "at least 0", "mend the cell"),
    "a photograph twice": Fault(
        lambda table: table.assign(photo=table["photo"].where(table.index != 5, table["photo"][0])), None,
        "quadrats.csv:7", "a photograph has one row", "remove one",
    ),
    "a path outside": Fault(cell("photo", 1, "../a.jpg"), None, "quadrats.csv:3", "stays inside", "write it like"),
    "a photograph that is not there": Fault(
        cell("photo", 1, "train/none.jpg"), None, "quadrats.csv:3", "a photograph is needed", "check image_path"
    ),
    "a group with blanks": Fault(
        lambda table: table.assign(plot=["", *["p"] * 23]), (TOP, f'{TOP}\ngroups = ["plot"]'),
        "quadrats.csv:2", "plot has no blank cells", "remove plot from groups",
    ),
    "a quadrat of two masses": Fault(
        quadrats(lambda row: "q" if row < 2 else f"r{row}"), QUADRAT, "quadrats.csv:3", "have the same masses", "mend"
    ),
    "a quadrat without name": Fault(
        quadrats(lambda row: f"q{row}" if row else ""), QUADRAT, "quadrats.csv:2", "q has no blank cells", "fill it in"
    ),
    "an area that is none": Fault(
        every("m2", "0"), (TOP, 'unit = "g/m2"\narea = "m2"'), "quadrats.csv", "24 rows: m2 is an area", "0.25"
    ),
}  # fmt: skip
TOGETHER = (
    ("text for a mass", "a blank site", "NDVI", "a photograph twice"),
    ("fit", "key", "groups", "unit"),
    ("decimal commas", "a date of another order", "a path outside"),
    ("no mass in a row", "height", "a quadrat without name", "a photograph that is not there"),
)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("sound") / "data"
    make_pasture(data, form="quadrats", images=24, test_images=0, width=160, height=80, workers=1)
    _, _, columns = (data / "dataset.toml").read_text().partition("[columns]")
    (data / "dataset.toml").write_text(f"{TOP}\n[columns]{columns}")
    return data


def spoilt(sound: Path, folder: Path, names: tuple[str, ...]) -> Path:
    data = Path(shutil.copytree(sound, folder / "data"))
    table, settings = pd.read_csv(data / "quadrats.csv", dtype=str, keep_default_na=False), data / "dataset.toml"
    text = settings.read_text()
    for name in names:
        fault = FAULTS[name]
        table = table if fault.table is None else fault.table(table)
        if fault.settings is not None:
            assert fault.settings[0] in text, text
            text = text.replace(*fault.settings, 1)
    settings.write_text(text)
    table.to_csv(data / "quadrats.csv", index=False)
    return data


def place_of(fault: Fault, names: tuple[str, ...]) -> str:
    """How a line of the fault begins; lines of dataset.toml move where several of them are wrong."""
    return f"{fault.place}: " if fault.settings is None or len(names) == 1 else fault.place.partition(":")[0]


@pytest.mark.parametrize("names", [*((name,) for name in FAULTS), *TOGETHER], ids=" + ".join)
def test_a_wrong_table_ends_check_and_search_before_anything_runs(
    names: tuple[str, ...], sound: Path, tmp_path: Path
) -> None:
    data = spoilt(sound, tmp_path, names)
    study = tmp_path / "study"
    search = [
        "search",
        str(study),
        "--data",
        str(data),
        "--trials",
        "1",
        "--inline",
        "--cache",
        str(tmp_path / "cache"),
    ]
    for command in (["data", "check", str(data)], search):
        shown = CliRunner().invoke(app, command, env={"COLUMNS": "300"})
        said = shown.output if shown.exception is None or (shown.exit_code == 1 and shown.output) else ""
        said += str(shown.exception or "")
        assert shown.exit_code == 1, said
        errors = [line for line in said.splitlines() if ": error: " in line]
        for fault in (FAULTS[name] for name in names):
            hits = [
                line for line in errors
                if line.startswith(place_of(fault, names)) and fault.rule in line and fault.remedy in line
            ]  # fmt: skip
            assert len(hits) == 1, said
        assert len(errors) <= 2 * len(names), errors  # what follows from one fault is not told over and over
    assert not study.exists() and not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_every_rule_is_broken_once_and_some_together() -> None:
    assert len(FAULTS) >= 20 and {name for names in TOGETHER for name in names} <= FAULTS.keys()


def test_a_sound_table_passes(sound: Path) -> None:
    assert CliRunner().invoke(app, ["data", "check", str(sound)]).exit_code == 0
