"""Tables as spreadsheets write them: what their columns hold, what is mended with a note, what is refused."""

from __future__ import annotations

import shutil
import sys
import zipfile
from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path

import openpyxl
import pandas as pd
import pytest
from directories import photograph
from PIL import Image
from typer.testing import CliRunner

from biomass_models.data.importing import import_table, propose_columns, read_any_table, unit_in
from biomass_models.data.table import read_train
from biomass_models.errors import UserError
from biomass_models.targets import TARGETS
from orchestration.cli import app

ROWS = ("IMG_1;1.5.2024;North;10,5;2;NA;x", "IMG_2.jpg;2.5.2024;North;20;0;1;y", "sub/IMG_3.jpg;3.5.2024;South;5;3;2;z")
PHOTOS = ("IMG_1", "IMG_2", "IMG_3")
HEADER = "Photo;Cut day;Paddock;Green DM (g);Dead_g;Clover g;Remark"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """cuts.csv with three rows, and phone/ with four photographs."""
    for seed, name in enumerate(("IMG_1.JPG", "IMG_2.jpg", "sub/IMG_3.jpg", "IMG_4.jpg")):
        photograph(tmp_path / "phone" / name, seed=seed)
    (tmp_path / "cuts.csv").write_text("\n".join([HEADER, *(row.replace("NA", "0") for row in ROWS)]))
    return tmp_path


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("photo,date,paddock,total_g", {"photo": "photo", "total": "total_g", "date": "date", "site": "paddock"}),
        ("Filename,DryGreen,Dry Dead,Legume %,GDM,Height_cm", {
            "photo": "Filename", "green": "DryGreen", "dead": "Dry Dead", "clover": "Legume %", "gdm": "GDM",
            "height": "Height_cm"}),
        ("image_path,Sampling_Date,State,Species,Pre_GSHH_NDVI,Height_Ave_cm,Dry_Total_g", {
            "photo": "image_path", "total": "Dry_Total_g", "date": "Sampling_Date", "site": "State",
            "species": "Species", "ndvi": "Pre_GSHH_NDVI", "height": "Height_Ave_cm"}),
        ("evergreen,deadline,nothing", {}),  # parts of words say nothing
    ],
)  # fmt: skip
def test_names_say_what_columns_hold(header: str, columns: dict[str, str]) -> None:
    assert propose_columns(header.split(",")) == columns


@pytest.mark.parametrize(
    ("name", "unit"),
    [("total_g", "g"), ("Dead (kg/ha)", "kg/ha"), ("green kgDM/ha", "kg/ha"), ("clover_g_m2", "g/m2"),
     ("total [g/m²]", "g/m2"), ("yield_kg_ha", "kg/ha"), ("total", None), ("lodging", None), ("leg", None)],
)  # fmt: skip
def test_a_unit_is_read_from_the_end_of_a_name(name: str, unit: str | None) -> None:
    assert unit_in(name) == unit


def test_a_table_and_a_folder_become_a_data_directory(folder: Path) -> None:
    ran = CliRunner().invoke(
        app,
        ["data", "import", str(folder / "cuts.csv"), "--photos", str(folder / "phone"), "--out", str(folder / "out")],
    )
    assert ran.exit_code == 0, ran.output
    assert "green    Green DM (g)" in ran.output and "1 decimal comma read as a point" in ran.output
    assert "photos/IMG_1.JPG; North; 2024-05-01; green 10.5 g; dead 2 g; clover 0 g; gdm 10.5 g" in ran.output
    table = read_train(folder / "out")
    assert table["image_path"].tolist() == ["photos/IMG_1.JPG", "photos/IMG_2.jpg", "photos/sub/IMG_3.jpg"]
    assert table[list(TARGETS)].to_numpy()[2].tolist() == [5.0, 3.0, 2.0, 7.0, 10.0]
    assert table["Remark"].tolist() == ["x", "y", "z"] and table["State"].tolist() == ["North", "North", "South"]
    original = (folder / "phone" / "sub" / "IMG_3.jpg").read_bytes()
    assert (folder / "out" / "photos" / "sub" / "IMG_3.jpg").read_bytes() == original
    assert CliRunner().invoke(app, ["data", "check", str(folder / "out")]).exit_code == 0


def test_photographs_that_lie_in_the_directory_stay_there(folder: Path) -> None:
    out = folder / "data"
    out.mkdir()
    shutil.move(folder / "phone", out / "phone")
    arguments = ["data", "import", str(folder / "cuts.csv"), "--photos", str(out / "phone"), "--out", str(out)]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert read_train(out)["image_path"].tolist()[0] == "phone/IMG_1.JPG" and not (out / "photos").exists()
    again = CliRunner().invoke(app, arguments)
    assert (
        again.exit_code == 1
        and isinstance(again.exception, UserError)
        and "has a table already" in str(again.exception)
    )


def test_masses_that_were_not_measured_are_blank(folder: Path) -> None:
    (folder / "cuts.csv").write_text("\n".join([HEADER, *ROWS]))
    ran = CliRunner().invoke(
        app,
        ["data", "import", str(folder / "cuts.csv"), "--photos", str(folder / "phone"), "--out", str(folder / "out")],
    )
    assert ran.exit_code == 0 and "1 cell such as 'NA' read as not measured" in ran.output
    assert "photos/IMG_1.JPG; North; 2024-05-01; green 10.5 g; dead 2 g\n" in ran.output
    known = read_train(folder / "out")[list(TARGETS)].notna().to_numpy()
    assert known.tolist() == [[True, True, False, False, False], [True] * 5, [True] * 5]


@pytest.mark.parametrize(
    ("quadrats", "masses", "found"),
    [
        (("q1", "q1", "q2"), ("1", "1", "2"), True),
        (("q1", "q1", "q2"), ("1", "3", "2"), False),  # numbers of quadrats within a plot
        (("q1", "q2", "q3"), ("1", "1", "2"), False),  # a photograph each
        (("q1", "q1", ""), ("1", "1", "2"), False),
    ],
)
def test_a_column_of_quadrats_is_one_where_photographs_share_name_and_masses(
    folder: Path, quadrats: tuple[str, ...], masses: tuple[str, ...], found: bool
) -> None:
    rows = [f"{photo},{name},{mass}" for photo, name, mass in zip(PHOTOS, quadrats, masses, strict=True)]
    (folder / "cuts.csv").write_text("\n".join(["photo,Quadrat,total_g", *rows]))
    how = {"unit": None, "area": None}
    dataset = import_table(folder / "cuts.csv", folder / "phone", given={}, **how).dataset
    assert ("quadrat" in dataset.columns) is found
    asked = import_table(folder / "cuts.csv", folder / "phone", given={"quadrat": "Quadrat"}, **how).dataset
    assert asked.columns["quadrat"] == "Quadrat"


@pytest.mark.parametrize(
    ("header", "proposed"),
    [
        (("photo", "total g per quadrat", "clover g per quadrat"), {"total": 1, "clover": 2}),
        (("photo", "Quadrat total (g)", "quadrat_dead_g", "quadrat"), {"total": 1, "dead": 2, "quadrat": 3}),
        (("photo", "quadrat_date", "quadrat_height", "quadrat_no"), {"date": 1, "height": 2, "quadrat": 3}),
        (("photo", "site_quadrat", "total_g", "paddock"), {"quadrat": 1, "total": 2, "site": 3}),
    ],
)
def test_what_is_measured_in_a_quadrat_is_no_name_of_one(header: tuple[str, ...], proposed: dict[str, int]) -> None:
    assert propose_columns(header) == {"photo": "photo", **{role: header[at] for role, at in proposed.items()}}


def test_a_column_of_quadrats_that_is_left_out_is_named(folder: Path) -> None:
    (folder / "cuts.csv").write_text(
        "photo;Quadrat;total_g\n"
        + "\n".join(
            f"{photo};{name};{mass}" for photo, name, mass in zip(PHOTOS, "112", ("1,5", "1.5", "2"), strict=True)
        )
    )
    how = {"given": {}, "unit": None, "area": None}
    alike = import_table(folder / "cuts.csv", folder / "phone", **how)
    assert alike.dataset.columns["quadrat"] == "Quadrat"  # 1,5 is 1.5
    (folder / "cuts.csv").write_text((folder / "cuts.csv").read_text().replace("1.5", "1.7"))
    unlike = import_table(folder / "cuts.csv", folder / "phone", **how)
    assert "quadrat" not in unlike.dataset.columns
    assert any(note.startswith("Quadrat: not read as quadrats") for note in unlike.notes)


def test_options_win_over_names(folder: Path) -> None:
    given = {"dead": "Green DM (g)", "green": "Dead_g", "site": "Remark"}
    found = import_table(
        folder / "cuts.csv", folder / "phone", given=given, unit="kg/ha", area="0.25", groups=["Paddock"]
    )
    assert dict(found.dataset.columns) == {"photo": "Photo", "clover": "Clover g", "date": "Cut day", **given}
    assert (found.dataset.unit, found.dataset.area) == ("kg/ha", 0.25) and found.dataset.groups == ("Paddock",)


CHANGES = {  # what is replaced in the table by what, options, and what is said
    "a column that is not there": ("", "", {"given": {"total": "Totl"}}, "--total names a column, got 'Totl'"),
    "a group that is not there": ("", "", {"groups": ["Padock"]}, "did you mean Paddock?"),
    "no photographs": ("Photo", "Foto", {}, "give --photo COLUMN"),
    "no masses": ("(g);Dead_g;Clover g", ";a;b", {}, "give --total COLUMN"),
    "two units": ("Dead_g", "Dead kg/ha", {}, "the columns say g, kg/ha"),
    "no area": ("", "", {"unit": "kg/ha"}, "give --area 0.25"),
    "an area in cm2": ("", "", {"area": "2500"}, "50 x 50 cm is 0.25"),
    "a photograph that is missing": ("IMG_2", "IMG_9", {}, "1 of 3 photographs of the table are not in"),
    "a short row": (";x", "", {}, "row 2 of cuts.csv must have 7 cells as the header, got 6"),
    "a column twice": ("Remark", "Photo", {}, "'Photo' is there twice"),
    "an unknown unit": ("", "", {"unit": "lb"}, "a unit of masses is one of g, g/m2, kg/ha"),
}


@pytest.mark.parametrize("fault", CHANGES)
def test_what_cannot_be_understood_is_refused_with_what_to_do(folder: Path, fault: str) -> None:
    old, new, options, said = CHANGES[fault]
    table = folder / "cuts.csv"
    table.write_text(table.read_text().replace(old, new) if old else table.read_text())
    if fault == "no masses":
        table.write_text(table.read_text().replace("Green DM", "c"))
    with pytest.raises(UserError) as caught:
        import_table(table, folder / "phone", **{"given": {}, "unit": None, "area": None, **options})
    assert said in str(caught.value) and len(str(caught.value)) <= 4 * 80


# -- spreadsheets -----------------------------------------------------------------------------------------------------


def workbook(path: Path, *rows: Sequence[object], more: int = 0) -> Path:
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(list(row))
    for _ in range(more):
        book.create_sheet()
    book.save(path)
    return path


CELLS = (
    ("Photo", "Cut day", "Total (g)", None, "Plot", ""),
    ("IMG_1", datetime(2024, 5, 1), 0.1 + 0.2, None, 7, None),
    ("IMG_2.jpg", date(2024, 5, 2), 12, None, 8.5, None),
    (None, None, None),
    ("sub/IMG_3.jpg", datetime(2024, 5, 3, 0, 0), "10,5", None, "x", None),
)


def test_a_workbook_is_the_csv_that_it_would_be_saved_as(folder: Path) -> None:
    """Its first sheet; dates, numbers and empty cells as a CSV has them, without columns and rows that are empty."""
    notes: list[str] = []
    found = read_any_table(workbook(folder / "cuts.xlsx", *CELLS, more=1), notes)
    text = "Photo;Cut day;Total (g);Plot\nIMG_1;2024-05-01;0.3;7\nIMG_2.jpg;2024-05-02;12;8.5\n"
    (folder / "cuts.csv").write_text(text + "sub/IMG_3.jpg;2024-05-03;10,5;x\n")
    pd.testing.assert_frame_equal(found, read_any_table(folder / "cuts.csv"))
    assert notes == ["the first sheet is read, 'Sheet', of 2"]
    books = [
        import_table(folder / name, folder / "phone", given={"site": "Plot"}, unit=None, area=None)
        for name in ("cuts.xlsx", "cuts.csv")
    ]
    pd.testing.assert_frame_equal(*(book.table for book in books))
    assert books[0].dataset == books[1].dataset and notes[0] in books[0].notes


def test_a_formula_that_was_never_computed_is_no_blank_cell(folder: Path) -> None:
    book = workbook(folder / "cuts.xlsx", ("photo", "total_g"), ("IMG_1", 3), ("IMG_2", "=B2*2"))
    with pytest.raises(UserError, match=r"has not computed Sheet!B3, '=B2\*2'; open and save it"):
        read_any_table(book)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("cuts.xlsx", b"not a zip", "cuts.xlsx is no workbook"),
        ("cuts.xlsx", b"", "cuts.xlsx is no workbook"),
        ("cuts.xls", b"\xd0\xcf\x11\xe0", "save it as .xlsx or CSV"),
        ("cuts.ods", b"PK", "save it as .xlsx or CSV"),
    ],
)
def test_what_is_no_workbook_is_refused(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        read_any_table(tmp_path / name)


@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_half_a_workbook_is_refused(folder: Path, share: float) -> None:
    book = workbook(folder / "cuts.xlsx", *CELLS)
    book.write_bytes(book.read_bytes()[: int(share * book.stat().st_size)])
    with pytest.raises(UserError, match="is no workbook"):
        read_any_table(book)


def test_a_zip_without_a_workbook_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "cuts.xlsx", "w") as archive:
        archive.writestr("word/document.xml", "<a/>")
    with pytest.raises(UserError, match="is no workbook"):
        read_any_table(tmp_path / "cuts.xlsx")


def test_a_workbook_without_openpyxl_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    book = workbook(folder / "cuts.xlsx", *CELLS)
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(UserError, match="pip install openpyxl, or save it as CSV"):
        read_any_table(book)


@pytest.mark.slow
def test_import_and_check_say_how_much_of_a_photograph_is_cut_off(folder: Path) -> None:
    for path in (folder / "phone").rglob("*.*"):
        Image.open(path).resize((160, 120)).save(path, "JPEG")
    out = folder / "out"
    arguments = ["data", "import", str(folder / "cuts.csv"), "--photos", str(folder / "phone"), "--out", str(out)]
    said = "note: fit = crop cuts 33% off photographs of 160 x 120 px"
    for command in (arguments, ["data", "check", str(out)]):
        ran = CliRunner().invoke(app, command)
        assert ran.exit_code == 0 and said in " ".join(ran.output.split()), ran.output
    text = (out / "dataset.toml").read_text()
    assert 'fit = "crop"' in text
    (out / "dataset.toml").write_text(text.replace('fit = "crop"', 'fit = "pad"'))
    ran = CliRunner().invoke(app, ["data", "check", str(out)])
    assert ran.exit_code == 0 and "cuts" not in ran.output
