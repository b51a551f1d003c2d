"""quadrats.csv and dataset.toml: what is read, in which unit, what follows; each fault names row and remedy."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from directories import IMAGES, photograph, write_directory

from biomass_models.data.cell_weights import WEIGHT_COLUMNS, cell_weights, row_weights
from biomass_models.data.check import check_directory
from biomass_models.data.dataset import Dataset, dataset_toml, inspect_dataset
from biomass_models.data.folds import FoldError, assign_folds
from biomass_models.data.problems import DataError, errors_of, grouped
from biomass_models.data.quadrats import derive, image_ids, inspect_quadrats
from biomass_models.data.table import METADATA, fit_of, read_train
from biomass_models.fold_units import is_grouped, ungrouped_notice, unit_name
from biomass_models.targets import TARGETS, from_components, weight_T

COLUMNS = ("photo", "green", "dead", "clover")
SETTINGS = 'unit = "g"\n[columns]\nphoto = "photo"\ngreen = "green"\ndead = "dead"\nclover = "clover"\n'
ROWS = ("a.jpg,10,5,1", "b.jpg,20,0,0", "c.jpg,7.5,2,3")


def write(root: Path, rows: tuple[str, ...] = ROWS, header: str = ",".join(COLUMNS), settings: str = SETTINGS) -> Path:
    """A directory with quadrats.csv and dataset.toml; no photographs."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "quadrats.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    (root / "dataset.toml").write_text(settings, encoding="utf-8")
    return root


def test_three_components_give_all_five_masses(tmp_path: Path) -> None:
    table = read_train(write(tmp_path))
    assert list(table.columns) == ["image_id", "image_path", *TARGETS, "kept_whole"]
    assert table["image_id"].tolist() == ["a", "b", "c"] and table["image_path"].tolist() == ["a.jpg", "b.jpg", "c.jpg"]
    wanted = [[10, 5, 1, 11, 16], [20, 0, 0, 20, 20], [7.5, 2, 3, 10.5, 12.5]]
    np.testing.assert_array_equal(table[list(TARGETS)].to_numpy(), wanted)


@pytest.mark.parametrize(
    ("unit", "area", "grams"),
    [
        ("g", None, 10.0),
        ("g", "0.25", 10.0),  # an area changes nothing of grams per quadrat
        ("g/m2", "0.25", 2.5),
        ("kg/ha", "0.25", 0.25),  # 10 kg/ha = 1 g/m2
        ("kg/ha", "1", 1.0),
        ("g/m2", '"m2"', 5.0),  # a column: 0.5 m2 in the first row
    ],
)
def test_units_are_converted_to_grams_per_quadrat(tmp_path: Path, unit: str, area: str | None, grams: float) -> None:
    settings = SETTINGS.replace('"g"', f'"{unit}"' + ("" if area is None else f"\narea = {area}"))
    rows = tuple(f"{row},{m2}" for row, m2 in zip(ROWS, (0.5, 0.25, 1), strict=True))
    table = read_train(write(tmp_path, rows, "photo,green,dead,clover,m2", settings))
    assert table.loc[0, "Dry_Green_g"] == pytest.approx(grams, rel=1e-15)
    assert table["m2"].tolist() == [0.5, 0.25, 1.0]  # kept beside, as any further column
    if area == '"m2"':
        assert table["Dry_Total_g"].tolist() == [8.0, 5.0, 12.5]


@pytest.mark.parametrize("measured", list(itertools.combinations(range(5), 3)))
def test_what_the_identities_give_is_derived_and_nothing_else(measured: tuple[int, ...]) -> None:
    """Oracle: three masses determine the others when their rows of the identities' matrix have full rank."""
    whole_NT = from_components([10.0, 3.0], [5.0, 0.0], [1.0, 4.0])
    known_NT = np.full_like(whole_NT, np.nan)
    known_NT[:, measured] = whole_NT[:, measured]
    derived_NT, refused_NT = derive(known_NT)
    solvable = np.linalg.matrix_rank(from_components(*np.eye(3)).T[list(measured)]) == 3
    known = np.isfinite(derived_NT)
    np.testing.assert_allclose(derived_NT[known], whole_NT[known], atol=1e-12)
    assert known.all() == solvable and not np.isfinite(refused_NT).any()


def test_a_derived_mass_below_zero_is_a_warning_and_stays_unknown(tmp_path: Path) -> None:
    settings = SETTINGS.replace("clover", "gdm")
    root = write(tmp_path, ("a.jpg,10,5,11", "b.jpg,20,0,19", "c.jpg,20,0,19.995"), "photo,green,dead,gdm", settings)
    table, problems = inspect_quadrats(root)
    warnings = [p for p in problems if p.level == "warning" and "follows" in p.rule]
    assert [(p.row, p.got) for p in warnings] == [(3, "-1 g")] and "Dry_Clover_g" in warnings[0].rule
    assert table["Dry_Clover_g"].isna().tolist() == [False, True, False] and table.loc[2, "Dry_Clover_g"] == 0.0
    assert not errors_of(problems)


TOTAL_CLOVER = 'unit = "g"\n[columns]\nphoto = "photo"\ntotal = "total"\nclover = "clover"\n'


def test_a_blank_was_not_measured_and_what_follows_is_derived_row_by_row(tmp_path: Path) -> None:
    rows = ("a.jpg,10,1,4", "b.jpg,20,,", "c.jpg,,3,", "d.jpg,9,2,0")
    settings = TOTAL_CLOVER + 'dead = "dead"\n'
    table = read_train(write(tmp_path, rows, "photo,total,clover,dead", settings))
    nan = np.nan
    wanted = [[5, 4, 1, 6, 10], [nan, nan, nan, nan, 20], [nan, nan, 3, nan, nan], [7, 0, 2, 9, 9]]
    np.testing.assert_array_equal(table[list(TARGETS)].to_numpy(), wanted)
    assert not set(WEIGHT_COLUMNS) & set(table.columns)
    np.testing.assert_array_equal(cell_weights(table), np.where(np.isnan(wanted), 0.0, weight_T))


def test_a_table_of_totals_in_another_unit_is_warned_of_too(tmp_path: Path) -> None:
    rows = tuple(f"{i}.jpg,{1000 + i},2024-05-{i + 10}" for i in range(5))
    settings = 'unit = "g"\n[columns]\nphoto = "photo"\ntotal = "t"\ndate = "day"\n'
    (warning,) = inspect_quadrats(write(tmp_path, rows, "photo,t,day", settings))[1]
    assert "looks like kg/ha" in warning.got


def test_the_users_weights_are_those_of_the_cells(tmp_path: Path) -> None:
    settings = "weights = {total = 1.5, clover = 0.5}\n" + TOTAL_CLOVER
    table = read_train(write(tmp_path, ("a.jpg,10,1", "b.jpg,20,", "c.jpg,,3"), "photo,total,clover", settings))
    np.testing.assert_allclose(cell_weights(table), [[0, 0, 0.25, 0, 0.75], [0, 0, 0, 0, 0.75], [0, 0, 0.25, 0, 0]])


QUADRATS = "photo,total,clover,day,q"
OF_QUADRATS = TOTAL_CLOVER + 'date = "day"\nquadrat = "q"\n'


def test_photographs_of_a_quadrat_count_as_one_and_stay_together(tmp_path: Path) -> None:
    rows = tuple(f"{i}.jpg,{10 + i // 2},{i // 2},2024-05-{1 + i // 6:02},q{i // 2}" for i in range(48))
    rows += tuple(f"lone{i}.jpg,30,1,2024-06-0{i + 1},lone{i}" for i in range(4))
    table = read_train(write(tmp_path, rows, QUADRATS, OF_QUADRATS))
    cells = cell_weights(table)
    np.testing.assert_allclose(cells[[0, -1]], [[0, 0, 0.05, 0, 0.25], [0, 0, 0.1, 0, 0.5]])
    assert (row_weights(cells, len(table)) == np.where(table["quadrat"].str.startswith("lone"), 1.0, 0.5)).all()
    for scheme in ("date", "random"):
        folds = assign_folds(table, scheme=scheme, n_folds=3)
        assert folds.groupby(table["quadrat"])["fold"].nunique().max() == 1
    own = folds.assign(fold=np.arange(len(folds)) % 3)
    own[["image_id", "fold"]].to_csv(tmp_path / "folds.csv", index=False)
    with pytest.raises(FoldError, match="photographs of a quadrat lie in one fold, those of 'q0'"):
        assign_folds(table, scheme="file", file=tmp_path / "folds.csv")


def test_quadrats_without_dates_and_groups_are_dealt_whole_with_the_warning(tmp_path: Path) -> None:
    rows = tuple(f"{i}.jpg,{10 + i // 2},1,{i // 2}" for i in range(40))
    settings = TOTAL_CLOVER + 'quadrat = "q"\n'
    root = write(tmp_path, rows, "photo,total,clover,q", settings)
    assert any("folds are random" in problem.remedy for problem in inspect_quadrats(root)[1])
    table = read_train(root)
    folds = assign_folds(table, n_folds=4)
    assert folds.groupby("group")["fold"].nunique().max() == 1 and folds["group"].nunique() == 20
    assert unit_name(table, "date") == "quadrat" and ungrouped_notice(table) is not None


def test_metadata_and_further_columns_are_kept(tmp_path: Path) -> None:
    settings = SETTINGS + 'date = "day"\nsite = "paddock"\nndvi = "NDVI"\n'
    rows = ("a.jpg,1,2,3,2024-05-01,North,0.5,wet,4,x", "b.jpg,4,5,6,2024/5/2,North,,dry,5,y")
    root = write(tmp_path, rows, "photo,green,dead,clover,day,paddock,NDVI,soil,plot,fold", settings)
    table = read_train(root)
    first = ["image_id", "image_path", "Sampling_Date", "State", "Pre_GSHH_NDVI", *TARGETS]
    assert list(table.columns) == [*first, "soil", "plot", "fold_"]  # `fold` is a name of the study's own
    assert table["Sampling_Date"].tolist() == [pd.Timestamp(2024, 5, 1), pd.Timestamp(2024, 5, 2)]
    assert table["Pre_GSHH_NDVI"].isna().tolist() == [False, True]
    assert table["plot"].dtype == np.float64 and table["soil"].tolist() == ["wet", "dry"]


def test_names_of_photographs_are_unique_and_can_be_files() -> None:
    paths = pd.Series(["a/IMG_1.jpg", "b/IMG_1.jpg", "b/IMG_2.HEIC", "c/.hidden.png", "d/x:y.png"])
    names = image_ids(paths).tolist()
    assert names == ["a-IMG_1.jpg", "b-IMG_1.jpg", "IMG_2", "_hidden", "x_y"]


@pytest.mark.parametrize(
    ("groups", "kept", "unit"),
    [
        (None, ["North|2024-05-01", "North|2024-05-02", "South|2024-05-01"], "date"),
        ('["site", "date"]', ["North|2024-05-01", "North|2024-05-02", "South|2024-05-01"], "date"),
        ('["site"]', ["North", "North", "South"], "group"),
        ('["date"]', ["2024-05-01", "2024-05-02", "2024-05-01"], "group"),
        ('["plot", "date"]', ["1|2024-05-01", "1|2024-05-02", "2|2024-05-01"], "group"),
        ("[]", ["a", "b", "c"], "photograph"),
    ],
)
def test_folds_keep_the_groups_whole(tmp_path: Path, groups: str | None, kept: list[str], unit: str) -> None:
    settings = ("" if groups is None else f"groups = {groups}\n") + SETTINGS + 'date = "day"\nsite = "site"\n'
    rows = ("a.jpg,1,2,3,2024-05-01,North,1", "b.jpg,4,5,6,2024/5/2,North,1", "c.jpg,4,5,7,2024/05/01,South,2")
    table = read_train(write(tmp_path, rows, "photo,green,dead,clover,day,site,plot", settings))
    folds = assign_folds(table, n_folds=2)
    assert folds["group"].tolist() == kept and unit_name(table, "date") == unit
    assert folds.groupby("group")["fold"].nunique().max() == 1
    assert is_grouped(table) == (unit != "photograph") and (ungrouped_notice(table) is None) == is_grouped(table)


def test_without_groups_folds_by_date_are_random_ones_with_a_warning(tmp_path: Path) -> None:
    rows = tuple(f"{i}.jpg,{i},{i % 3},{i % 2}" for i in range(20))
    root = write(tmp_path, rows)
    (warning,) = inspect_quadrats(root)[1]
    assert warning.level == "warning" and "folds are random" in warning.remedy and warning.file == "dataset.toml"
    table = read_train(root)
    by_date, random = (assign_folds(table, scheme=scheme, seed=3) for scheme in ("date", "random"))
    pd.testing.assert_frame_equal(by_date, random)
    for scheme, column in (("state", "State"), ("species", "Species")):
        with pytest.raises(FoldError, match=f"need the column {column}, which these data do not have"):
            assign_folds(table, scheme=scheme)


def test_both_forms_of_a_table_are_one_quadrats_table(tmp_path: Path) -> None:
    """The competition's layout and the same rows by hand."""
    competition = read_train(write_directory(tmp_path / "competition"))
    settings = SETTINGS + 'date = "day"\nsite = "state"\nspecies = "species"\nndvi = "ndvi"\nheight = "cm"\n'
    rows = tuple(
        f"train/{name}.jpg,{green},{dead},{clover},{date},{state},{species},{ndvi},{height}"
        for name, state, date, species, ndvi, height, (green, dead, clover) in IMAGES
    )
    own = read_train(write(tmp_path / "own", rows, "photo,green,dead,clover,day,state,species,ndvi,cm", settings))
    assert list(own.columns) == ["image_id", "image_path", *METADATA, *TARGETS]
    pd.testing.assert_frame_equal(own, competition)
    pd.testing.assert_frame_equal(assign_folds(own, n_folds=2), assign_folds(competition, n_folds=2))


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    columns = {"photo": 'a "quoted" name', "total": "back\\slash", "green": "größe\t"}
    weights = {"total": 0.75, "green": 0.25}
    dataset = Dataset(columns=columns, unit="kg/ha", area="m2", groups=("site", "a\nb"), weights=weights)
    (tmp_path / "dataset.toml").write_text(dataset_toml(dataset), encoding="utf-8")
    assert inspect_dataset(tmp_path) == (dataset, [])


def test_photographs_of_a_table_of_ones_own_are_cropped_unless_it_says_otherwise(tmp_path: Path) -> None:
    for settings, fit in (("", "crop"), ('fit = "pad"\n', "pad"), ('fit = "stretch"\n', "stretch")):
        assert fit_of(write(tmp_path, settings=settings + SETTINGS)) == fit
    assert fit_of(write_directory(tmp_path / "competition")) == "stretch"
    with pytest.raises(DataError, match="fit is one of"):
        fit_of(write(tmp_path, settings='fit = "no"\n' + SETTINGS))


HEADER = ",".join(COLUMNS)
WRONG: dict[str, tuple[tuple[str, ...], str, str, str, str]] = {  # rows, header, settings, what is said, remedy
    "no settings": (ROWS, HEADER, "", "[columns] names the columns", "add [columns]"),
    "no TOML": (ROWS, HEADER, "unit = g\n", "dataset.toml:1: error: dataset.toml is TOML", "texts stand in quotes"),
    "unknown unit": (ROWS, HEADER, SETTINGS.replace('"g"', '"lb"'), "dataset.toml:1: error: unit is one of g", "kg/ha"),
    "unit without area": (ROWS, HEADER, SETTINGS.replace('"g"', '"kg/ha"'), "need the area", "add area = 0.25"),
    "area in cm2": (ROWS, HEADER, "area = 2500\n" + SETTINGS, "dataset.toml:1: error: area is m2", "50 x 50 cm"),
    "misspelt key": (ROWS, HEADER, "gruops = []\n" + SETTINGS, "dataset.toml:1: error", "did you mean groups?"),
    "unknown fit": (ROWS, HEADER, 'fit = "squash"\n' + SETTINGS, "toml:1: error: fit is one of", 'fit = "crop"'),
    "fit that is no text": (ROWS, HEADER, "fit = [2, 1]\n" + SETTINGS, "fit is one of stretch, crop, pad", "write it"),
    "role at the top": (ROWS, HEADER, 'total = "t"\n' + SETTINGS, "has the keys", "it belongs below [columns]"),
    "misspelt role": (ROWS, HEADER, SETTINGS + 'hieght = "h"\n', "dataset.toml:7: error", "did you mean height?"),
    "one column twice": (ROWS, HEADER, SETTINGS + 'total = "green"\n', "'green' for green and total", "remove one"),
    "column that is not there": (ROWS, HEADER, SETTINGS + 'total = "geen"\n', 'total = "geen"', "did you mean green?"),
    "group that is not there": (ROWS, HEADER, 'groups = ["plot"]\n' + SETTINGS, "groups plot", "mend the name"),
    "no photograph": (ROWS, HEADER, SETTINGS.replace('photo = "photo"\n', ""), "no photo", "add photo ="),
    "no masses": (ROWS, HEADER, 'unit = "g"\n[columns]\nphoto = "photo"\n', "at least one of the masses", "total ="),
    "text for a mass": (("a.jpg,n/a,1,1", *ROWS[1:]), HEADER, SETTINGS, "csv:2: error: green", "mend the cell"),
    "decimal commas": (('a.jpg,"1,5",1,1', *ROWS[1:]), HEADER, SETTINGS, "quadrats.csv:2", "write a decimal point"),
    "a mass below zero": ((*ROWS[:2], "c.jpg,1,-1,1"), HEADER, SETTINGS, "csv:4: error: dead", "mend the cell"),
    "a photograph twice": ((*ROWS, ROWS[0]), HEADER, SETTINGS, "again, first in line 2", "remove one of the rows"),
    "a path outside": (("../a.jpg,1,1,1", *ROWS[1:]), HEADER, SETTINGS, "stays inside", "write it like"),
    "a blank photograph": ((",1,1,1", *ROWS[1:]), HEADER, SETTINGS, "image_path names a file", "fill the cell in"),
    "semicolons": (("a.jpg;1;1;1",), HEADER.replace(",", ";"), SETTINGS, "separated by commas", "save it as CSV"),
    "a date of another order": (
        tuple(f"{row},4.9.2015" for row in ROWS), HEADER + ",day", SETTINGS + 'date = "day"\n',
        "3 rows: day is a day of the calendar, year first", "write it like 2015-09-04",
    ),
    "a blank site": (
        ("a.jpg,1,1,1,", *(f"{row},N" for row in ROWS[1:])), HEADER + ",site", SETTINGS + 'site = "site"\n',
        "quadrats.csv:2: error: site has no blank cells", "fill it in",
    ),
    "a row without masses": (("a.jpg,,,", *ROWS[1:]), HEADER, SETTINGS, "csv:2: error: a row has one", "leave the row"),
    "a column of blanks": (
        tuple(f"{row}," for row in ROWS), HEADER + ",t", SETTINGS + 'total = "t"\n',
        "t holds masses; got blanks in all of 3 rows", "remove total",
    ),
    "weights that are no table": (ROWS, HEADER, "weights = 1\n" + SETTINGS, "toml:1: error: weights", "total = 1.0"),
    "a weight of nothing": (ROWS, HEADER, "weights = {totl = 1}\n" + SETTINGS, "toml:1: error", "did you mean total?"),
    "a weight of 0": (ROWS, HEADER, "weights = {total = 0}\n" + SETTINGS, "a number above 0; got total = '0'", "0.5"),
    "a mass without weight": (
        ROWS, HEADER, "weights = {green = 1, dead = 1, clover = 1, total = 1}\n" + SETTINGS,
        "gdm, which was measured or follows", "add its weight",
    ),
    "a weight without mass": (
        tuple(row.rsplit(",", 1)[0] for row in ROWS), "photo,green,dead",
        "weights = {green = 1, dead = 1, total = 1}\n" + SETTINGS.replace('clover = "clover"\n', ""),
        "total, which has a weight and was not measured", "remove its weight",
    ),
    "a quadrat with two masses": (
        ("a.jpg,10,5,1,q", "b.jpg,20,0,0,q", "c.jpg,1,2,3,r"), HEADER + ",q", SETTINGS + 'quadrat = "q"\n',
        "quadrats.csv:3: error: photographs of a quadrat have the same masses; got 'q', first in line 2", "mend the",
    ),
    "a quadrat of two days": (
        ("a.jpg,10,5,1,q,2024-05-01", "b.jpg,10,5,1,q,2024-05-02"), HEADER + ",q,day",
        SETTINGS + 'quadrat = "q"\ndate = "day"\n',
        "quadrats.csv:3: error: photographs of a quadrat have the same date", "mend the date",
    ),
    "a photograph of no quadrat": (
        ("a.jpg,10,5,1,q", "b.jpg,10,5,1,"), HEADER + ",q", SETTINGS + 'quadrat = "q"\n',
        "quadrats.csv:3: error: q has no blank cells", "fill it in",
    ),
    "an area of another unit": (
        tuple(f"{row},2500" for row in ROWS), HEADER + ",area",
        'area = "area"\n' + SETTINGS.replace('"g"', '"g/m2"'), "3 rows: area is an area in m2", "50 x 50 cm is 0.25",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_table_is_one_grouped_error_with_row_and_remedy(tmp_path: Path, fault: str) -> None:
    rows, header, settings, said, remedy = WRONG[fault]
    root = write(tmp_path, rows, header, settings)
    errors = [str(problem) for problem in grouped(errors_of(inspect_quadrats(root)[1]))]
    hits = [text for text in errors if said in text and remedy in text]
    assert len(hits) == 1 and len(errors) <= 2, errors
    assert all(len(text) <= 3 * 80 for text in errors), errors
    with pytest.raises(DataError) as caught:
        read_train(root)
    assert said in str(caught.value)


def test_a_directory_with_both_tables_or_without_settings_is_refused(tmp_path: Path) -> None:
    root = write_directory(tmp_path / "data")
    write(root)
    assert "move one elsewhere" in str(*errors_of(check_directory(root)))
    (root / "train.csv").unlink()
    (root / "dataset.toml").unlink()
    (error,) = errors_of(inspect_quadrats(root)[1])
    assert error.file == "dataset.toml" and "biomass data import" in error.remedy


def test_the_check_opens_the_photographs_of_quadrats(tmp_path: Path) -> None:
    root = write(tmp_path, tuple(f"{row},2024-05-0{i}" for i, row in enumerate(ROWS, 1)), HEADER + ",day",
                 SETTINGS + 'date = "day"\n')  # fmt: skip
    photograph(root / "a.jpg", seed=1)
    photograph(root / "b.jpg", seed=2)
    (problem,) = check_directory(root)
    assert (problem.file, problem.row) == ("quadrats.csv", 4) and "c.jpg" in problem.got
    photograph(root / "c.jpg", seed=3)
    assert check_directory(root) == []


def test_a_table_in_another_unit_than_it_says_is_warned_of(tmp_path: Path) -> None:
    rows = tuple(f"{i}.jpg,{1000 + i},500,100,2024-05-{i + 10}" for i in range(5))
    settings = SETTINGS + 'date = "day"\n'
    (warning,) = inspect_quadrats(write(tmp_path / "a", rows, HEADER + ",day", settings))[1]
    assert "looks like kg/ha" in warning.got
    settings = "area = 0.25\n" + settings.replace('"g"', '"kg/ha"')
    assert inspect_quadrats(write(tmp_path / "b", rows, HEADER + ",day", settings))[1] == []
