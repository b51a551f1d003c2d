"""What `biomass predict` reads: path columns, tables of several kinds together; it is never replaced."""

from __future__ import annotations

import os
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_answers import blended, predict  # noqa: F401  a fixture
from typer.testing import CliRunner

from biomass_models.errors import UserError
from orchestration.answers.photographs import PATH, of_table, read_photographs, require_not_read
from orchestration.answers.table import TableOptions
from orchestration.api import open_study
from orchestration.cli import app
from orchestration.python.typed import OptionError

pytestmark = pytest.mark.slow


@pytest.fixture
def new(tiny_pasture, tmp_path):
    """A folder of two photographs, from whose parent paths of tables are."""
    (tmp_path / "img").mkdir()
    for path, name in zip(sorted((tiny_pasture / "test").iterdir()), ("1.jpg", "2.jpg"), strict=False):
        shutil.copy(path, tmp_path / "img" / name)
    return tmp_path


class TestPathColumns:
    def test_a_table_is_merged_onto_what_it_became(self, blended, new):  # noqa: F811
        _, _, folder = blended
        own = pd.DataFrame({"image_path": ["img/1.jpg", "img/2.jpg"], "plot": ["a", "b"]})
        own.to_csv(new / "new.csv", index=False)
        predict(folder / "study", new / "new.csv", "--out", new / "m.csv", "--cache", folder / "cache")
        found = pd.read_csv(new / "m.csv")
        assert list(found)[:3] == [PATH, "image_path", "plot"]
        assert found[PATH].tolist() == [str(new / path) for path in own["image_path"]]
        assert own.merge(found, on=["image_path", "plot"])["Dry_Total_g"].notna().sum() == 2

    def test_a_column_with_our_name_is_kept_beside_ours(self, new):
        given = of_table(pd.DataFrame({"photograph": ["img/1.jpg"], "n": [1]}), new, "it")
        assert given.iloc[0].to_dict() == {PATH: str(new / "img/1.jpg"), "photograph_given": "img/1.jpg", "n": 1}
        given = of_table(pd.DataFrame({"photograph": ["IMG1"], "Path": ["img/1.jpg"]}), new, "it")
        assert given.iloc[0].to_dict() == {
            PATH: str(new / "img/1.jpg"),
            "photograph_given": "IMG1",
            "Path": "img/1.jpg",
        }

    def test_the_first_column_whose_files_are_there(self, new):
        table = pd.DataFrame({"photo": ["IMG1", ""], "path": ["img/1.jpg", "img/2.jpg"], "image": ["img/2.jpg"] * 2})
        assert of_table(table, new, "it")[PATH].tolist() == [str(new / "img/1.jpg"), str(new / "img/2.jpg")]
        partly = table.assign(path=["img/1.jpg", "img/gone.jpg"])
        assert of_table(partly, new, "it")[PATH].tolist() == [str(new / "img/1.jpg"), str(new / "img/gone.jpg")]
        gone = table.drop(columns=["photo", "image"]).assign(file=["x", "y"], path=["a.jpg", "b.jpg"])
        assert of_table(gone, new, "it")[PATH].tolist() == [str(new / "a.jpg"), str(new / "b.jpg")]

    def test_home_is_home_in_tables_as_in_lists(self, new, monkeypatch):
        monkeypatch.setenv("HOME", str(new / "img"))
        (new / "list.txt").write_text("~/1.jpg\n~nobody-of-that-name/2.jpg\n")
        pd.DataFrame({"path": ["~/1.jpg", "~nobody-of-that-name/2.jpg"]}).to_csv(new / "t.csv", index=False)
        wanted = [str(new / "img/1.jpg"), str(new / "~nobody-of-that-name/2.jpg")]
        for name in ("list.txt", "t.csv"):
            assert read_photographs([str(new / name)])[PATH].tolist() == wanted
        with pytest.raises(UserError, match="is not there"):
            read_photographs(["~nobody-of-that-name"])

    def test_columns_of_one_name_are_refused(self, new):
        with pytest.raises(UserError, match="several plot; rename one"):
            of_table(pd.DataFrame([["img/1.jpg", 1, 2]], columns=["path", "plot", "plot"]), new, "it")


class TestTablesTogether:
    @pytest.mark.parametrize("suffix", [".csv", ".parquet"])
    def test_numbers_of_one_and_texts_of_another_are_texts(self, blended, new, suffix):  # noqa: F811
        """And one group: 5 of a parquet is the 5 of a CSV; a day is written as it is there."""
        _, _, folder = blended
        day = pd.Timestamp("2026-11-01")
        pd.DataFrame({"path": ["img/1.jpg"], "plot": [5], "date": [day]}).to_parquet(new / "a.parquet")
        pd.DataFrame({"path": ["img/2.jpg"], "plot": ["5"], "date": ["2026-11-01"]}).to_csv(new / "b.csv", index=False)
        out, options = new / f"m{suffix}", ("--by", "plot,date", "--level", "0.5", "--cache", folder / "cache")
        predict(folder / "study", new / "a.parquet", new / "b.csv", new / "img", "--out", out, *options)
        read = pd.read_parquet if suffix == ".parquet" else pd.read_csv
        found, means = read(out), read(out.with_name(f"m-means{suffix}"))
        assert found["plot"].dropna().astype(int).tolist() == [5, 5] and len(found) == 4
        assert found["date"].dropna().tolist() == ["2026-11-01"] * 2
        assert means["photographs"].tolist() == [2, 2]

    @pytest.mark.parametrize("suffix", [".csv", ".parquet"])
    def test_whole_numbers_stay_whole_beside_a_folder(self, blended, new, suffix):  # noqa: F811
        _, _, folder = blended
        own = pd.DataFrame({"path": ["img/1.jpg", "img/2.jpg"], "plot": [5, 2**60 + 1], "few": np.uint8([1, 2])})
        own.to_parquet(new / "a.parquet")
        out, options = new / f"m{suffix}", ("--by", "plot", "--level", "0.5", "--cache", folder / "cache")
        predict(folder / "study", new / "a.parquet", new / "img", "--out", out, *options)
        tables = [out, out.with_name(f"m-means{suffix}")]
        found, means = (
            pd.read_parquet(path) if suffix == ".parquet" else pd.read_csv(path, dtype=str) for path in tables
        )
        for column in (found["plot"], means["plot"]):
            assert column.dropna().astype(str).tolist() == ["5", str(2**60 + 1)]
        assert found["few"].dropna().astype(str).tolist() == ["1", "2"] and means["photographs"].astype(int).sum() == 4

    def test_a_dataframe_of_anything_becomes_parquet(self, blended, new):  # noqa: F811
        _, _, folder = blended
        rows = pd.DataFrame({"path": [new / "img/1.jpg", new / "img/2.jpg"], "note": ["a", 5]})
        rows = rows.assign(raw=pd.Series(["caf\udce9", None], dtype=object), large=pd.Series([2**70, 1], dtype=object))
        out = new / "m.parquet"
        open_study(folder / "study").predict(rows, out=out, level=0.5, cache=folder / "cache")
        found = pd.read_parquet(out)
        assert found["note"].tolist() == ["a", "5"] and found["raw"].tolist()[0] == "caf\\udce9"
        assert found["path"].tolist() == [str(path) for path in rows["path"]]
        assert found["large"].tolist() == [str(2**70), "1"]


class TestInputsStay:
    """A file that is read is never written, by whatever name it goes."""

    @pytest.fixture
    def table(self, new):
        pd.DataFrame({"path": ["img/1.jpg", "img/2.jpg"], "plot": ["a", "b"]}).to_csv(new / "new.csv", index=False)
        return new / "new.csv"

    def test_of_predict(self, blended, table, new, monkeypatch):  # noqa: F811
        _, _, folder = blended
        monkeypatch.chdir(new)
        shutil.copy(table, new / "masses.csv")
        shutil.copy(table, new / "x-means.csv")
        (new / "list.csv").symlink_to(table)
        (new / "torn.txt").write_text("new.csv\nimg/1.jpg\n")
        before = {path: path.read_bytes() for path in new.glob("*.*")}
        for arguments in (
            ("masses.csv",),
            (table, "--out", "../" + new.name + "/new.csv"),
            (table, "--out", "list.csv"),
            ("list.csv", "--out", "new.csv"),
            ("x-means.csv", "--by", "plot", "--out", "x.csv"),
            ("img", "masses.csv", "--out", "masses.csv"),
            ("torn.txt", "--out", "new.csv"),
            ("*.csv", "--out", "new.csv"),
        ):
            said = " ".join(predict(folder / "study", *arguments, code=1).split())
            assert "--out does not replace what is read" in said and "give another" in said
        assert {path: path.read_bytes() for path in new.glob("*.*")} == before
        predict(folder / "study", "x-means.csv", "--out", "x.csv", "--cache", folder / "cache")  # no means are written

    def test_from_python(self, blended, table):  # noqa: F811
        study = open_study(blended[2] / "study")
        rows = pd.DataFrame({"path": [str(table)]})
        for photographs in (table, [str(table)], rows):
            with pytest.raises(UserError, match=r"out does not replace what is read, .*new\.csv"):
                study.predict(photographs, out=table)

    def test_of_next(self, blended, table, new):  # noqa: F811
        shutil.copy(new / "img/1.jpg", new / "img/3.png")
        study = str(blended[2] / "study")
        for option, path in (("--out", table), ("--sheet", new / "img/3.png")):
            for asked in ((table, "--for", new / "img"), (new / "img", "--for", table)):
                words = ["next", study, *map(str, asked), option, str(path)]
                result = CliRunner().invoke(app, words)
                assert isinstance(result.exception, UserError), result.output
                assert f"{option} does not replace what is read" in str(result.exception)

    def test_what_is_not_there_yet_or_another_file_is_written(self, table, new):
        given = read_photographs([str(table), str(new / "img")])
        copy = new / "copy.csv"
        require_not_read([copy], [str(table)], given, "--out")
        shutil.copy(table, copy)
        require_not_read([copy, Path("gone\0")], [str(table), "*.jpg"], given, "--out")
        os.link(copy, new / "hard.csv")
        with pytest.raises(UserError):
            require_not_read([new / "hard.csv"], [str(copy)], given, "--out")


class TestLevels:
    @pytest.mark.parametrize(
        ("level", "levels"),
        [
            (0.5, ["50"]),
            (np.float32(0.8), ["80"]),
            (np.array([0.8, 0.9, 0.8], dtype=np.float32), ["80", "90"]),
            (np.array(0.5), None),
            (Fraction(1, 2), ["50"]),
            ("0.8", None),
            (["0.8"], None),
            ((), None),
            (None, None),
            (True, None),
        ],
    )
    def test_from_python(self, blended, new, level, levels):  # noqa: F811
        """Numbers of any kind, several of them; whether dates suffice does not depend on how one is kept."""
        study = open_study(blended[2] / "study")
        if levels is None:
            with pytest.raises(OptionError, match=r"level is a number such as 0.8, or a list of such, got"):
                study.predict(new / "img", level=level)
            return
        found = study.predict(new / "img", level=level, cache=blended[2] / "cache")
        assert [name.rpartition("_")[2] for name in found if name.startswith("Dry_Total_g_low")] == levels

    def test_a_file_that_is_called_like_a_level(self, blended, new, monkeypatch):  # noqa: F811
        monkeypatch.chdir(new)
        (new / "img").rename(new / "0.9")
        predict(blended[2] / "study", "0.9", "--level", "0.5", "--out", "m.csv", "--cache", blended[2] / "cache")
        assert len(pd.read_csv(new / "m.csv")) == 2

    def test_none_at_all(self):
        with pytest.raises(UserError, match="one level or more"):
            TableOptions(levels=())
