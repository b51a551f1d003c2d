"""`biomass next` and `biomass learning-curve` on a study of the tiny pasture."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import altair as alt
import numpy as np
import pandas as pd
import pytest
from blended_study import InlinePredictor, finished_study
from PIL import Image
from test_all_rows import as_searched
from typer.testing import CliRunner

from orchestration.advice.bank import bank_of_study, embeddings_of
from orchestration.advice.curve import REPEATS, Sampled, measure_curve
from orchestration.advice.curve_read import CurveReading
from orchestration.cli import app
from orchestration.report.data.context import read_context
from orchestration.report.html import Figure
from orchestration.report.make import make_report
from orchestration.report.new_photographs.advice import advice_sections
from orchestration.study.data import StudyData
from orchestration.study.ledger import Ledger, LedgerError
from orchestration.study.storage import Storage

pytestmark = pytest.mark.slow


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "80"})
    assert result.exit_code == code, f"{result.output} {result.exception!r}"
    return result.stdout if code == 0 else f"{result.output} {result.exception}"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, tiny_pasture: Path) -> tuple[Ledger, Path]:
    """A study whose embeddings are kept, without a blend; and its cache."""
    folder = tmp_path_factory.mktemp("advice")
    ledger = as_searched(finished_study(folder / "study", tiny_pasture, folder / "cache", ("probe",)), tiny_pasture)
    data = StudyData(ledger)
    with pytest.raises(LedgerError, match="give --data, that of the search, once"):
        embeddings_of(data, bank_of_study(data).bank, None)
    embeddings_of(data, bank_of_study(data).bank, lambda: InlinePredictor(tiny_pasture, folder / "cache"))
    return ledger, folder / "cache"


@pytest.fixture
def own(study: tuple[Ledger, Path], tmp_path: Path) -> Ledger:
    """A copy that a test may write into."""
    return Ledger(Storage(shutil.copytree(study[0].storage.uri, tmp_path / "study")))


@pytest.fixture
def pool(tiny_pasture: Path, tmp_path: Path) -> Path:
    """Four new photographs, a copy of one of them, one that the study has labels of, and a text file."""
    folder = tmp_path / "pool"
    folder.mkdir()
    new = sorted((tiny_pasture / "test").iterdir())
    for path in new[:4]:
        shutil.copy(path, folder)
    shutil.copy(new[0], folder / "zz-copy.jpg")
    shutil.copy(sorted((tiny_pasture / "train").iterdir())[0], folder / "under-another-name.jpg")
    (folder / "text.jpg").write_text("no photograph")
    return folder


class TestNext:
    @pytest.mark.skipif(sys.platform != "linux", reason="other file systems refuse such names")
    def test_a_name_that_is_not_utf_8_is_written_with_escapes(self, own, study, tiny_pasture, tmp_path):
        (tmp_path / "pool").mkdir()
        path = os.fsdecode(os.fsencode(tmp_path / "pool") + b"/caf\xe9.jpg")
        shutil.copy(sorted((tiny_pasture / "test").iterdir())[0], path)
        files = ("--out", tmp_path / "next.csv", "--sheet", tmp_path / "next.png", "--cache", study[1])
        page = run("next", own.storage.uri, tmp_path / "pool", "--for", tiny_pasture / "test", *files)
        assert "caf\\udce9.jpg" in page and own.next_photographs().picks[0].photograph == path
        assert Path(pd.read_csv(tmp_path / "next.csv")["photograph"][0]).name == "caf\\udce9.jpg"

    def test_what_is_chosen_and_what_is_left_out(self, own, study, pool, tiny_pasture, tmp_path):
        targets = sorted((tiny_pasture / "test").iterdir())[4:]
        asked = ("next", own.storage.uri, pool, *(word for path in targets for word in ("--for", path)), "--number", 3)
        files = ("--out", tmp_path / "next.csv", "--sheet", tmp_path / "next.png")
        page = run(*asked, *files, "--cache", study[1])
        assert max(map(len, page.split("Chosen from")[0].splitlines())) <= 80
        for line in ("1 photograph of the pool left out, the study", "1 photograph of the pool left out, the same"):
            assert line in page
        assert len([line for line in page.splitlines() if "text.jpg" in line]) == 1
        table = pd.read_csv(tmp_path / "next.csv")
        assert table["rank"].tolist() == [1, 2, 3] and table["photograph"].is_unique
        assert not table["photograph"].str.contains("zz-copy|another-name|text").any()
        assert table["covers"].sum() == len(targets)
        assert (table["settles"].to_numpy() >= 0).all() and table["settled"].iloc[-1] <= 1
        assert set(";".join(table["nearest"]).split(";")) == set(map(str, targets))
        with Image.open(tmp_path / "next.png") as sheet:
            assert sheet.width > 900 and np.asarray(sheet).std() > 20
        found = json.loads(run(*asked, "--cache", study[1], "--json"))["next"]
        assert [pick["photograph"] for pick in found["record"]["picks"]] == table["photograph"].tolist()
        assert found["record"]["pool"] == 4 and found["record"]["targets"] == 2
        assert own.next_photographs().picks[0].photograph == table["photograph"][0]

    def test_columns_of_a_table_stay(self, own, study, pool, tiny_pasture, tmp_path):
        rows = [
            {"path": f"{path}", "paddock": "a", "rank": 7, "lat": -33.123456789}
            for path in sorted(pool.glob("*.jpg"))[:3]
        ]
        pd.DataFrame(rows).to_parquet(tmp_path / "pool.parquet")
        out = tmp_path / "next.csv"
        page = run("next", own.storage.uri, tmp_path / "pool.parquet", "--for", tiny_pasture / "test", "--out", out,
                   "--cache", study[1])  # fmt: skip
        found = pd.read_csv(out)
        assert (found["paddock"] == "a").all() and (found["rank_given"] == 7).all()
        assert pd.read_csv(out, dtype=str)["lat"].eq("-33.123456789").all()
        assert "that can be weighed, all are listed" in page

    def test_a_study_that_cannot_be_written_costs_nobody_the_choice(
        self, own, study, pool, tiny_pasture, tmp_path, monkeypatch
    ):
        def refused(*_: object) -> None:
            raise PermissionError(13, "Permission denied", "next.json")

        monkeypatch.setattr(Ledger, "write_next", refused)
        files = ("--out", tmp_path / "next.csv", "--sheet", tmp_path / "next.png", "--cache", study[1])
        arguments = ["next", own.storage.uri, pool, "--for", tiny_pasture / "test", *files]
        result = CliRunner().invoke(app, list(map(str, arguments)))
        assert result.exit_code == 0 and "cannot be written (Permission denied)" in " ".join(result.output.split())
        assert len(pd.read_csv(tmp_path / "next.csv")) == 4 and (tmp_path / "next.png").stat().st_size > 0
        assert "Chosen from" in result.stdout

    def test_what_it_is_for_is_required_and_why(self, own, pool):
        assert "no better than random" in run("next", own.storage.uri, pool, code=1)

    def test_a_pool_without_anything_new(self, own, study, tiny_pasture):
        train = tiny_pasture / "train"
        said = run("next", own.storage.uri, train, "--for", tiny_pasture / "test", "--cache", study[1], code=1)
        assert "it has labels of all that can be read" in said

    def test_nothing_that_can_be_read(self, own, study, pool, tmp_path):
        said = run("next", own.storage.uri, pool / "text.jpg", "--for", pool, "--cache", study[1], code=1)
        assert "no photograph of the pool (1 photograph) can be read" in said
        said = run("next", own.storage.uri, pool, "--for", pool / "text.jpg", "--cache", study[1], code=1)
        assert "no photograph of --for can be read" in said

    def test_a_sheet_is_a_png(self, own, pool):
        said = run("next", own.storage.uri, pool, "--for", pool, "--sheet", "a.pdf", code=1)
        assert "--sheet is a .png file" in said


class TestSampled:
    @pytest.fixture
    def sampled(self, study, tiny_pasture):
        data = StudyData(study[0])
        return data, Sampled(data, embeddings_of(data, bank_of_study(data).bank, None))

    def test_larger_sizes_hold_smaller_ones_and_groups_stay_whole(self, sampled):
        data, curve = sampled
        group_N, fold_N = data.learned["group"].to_numpy(), data.learned["fold"].to_numpy()
        assert len(curve.sizes) >= 3 and curve.sizes[0] == 2
        for fold in data.folds:
            before: tuple[set[int], set[int]] = (set(), set())
            for size in curve.sizes:
                whole, mixed = curve.rows(0, fold, size)
                assert (fold_N[whole] != fold).all() and (fold_N[mixed] != fold).all()
                groups = set(group_N[whole])
                assert len(groups) == size and len(whole) == (np.isin(group_N, list(groups)) & (fold_N != fold)).sum()
                assert len(mixed) == len(whole) and len(set(group_N[mixed])) >= 2
                assert before[0] <= set(whole) and before[1] <= set(mixed)
                before = set(whole), set(mixed)

    def test_repeats_are_other_draws_of_the_same_seed(self, sampled):
        data, curve = sampled
        first, again, other = (curve.rows(repeat, data.folds[0], 2)[1].tolist() for repeat in (0, 0, 1))
        assert first == again and first != other


class TestLearningCurve:
    def test_it_goes_on_where_it_was_stopped(self, own, study):
        data = StudyData(own)
        features = bank_of_study(data)
        embeddings = embeddings_of(data, features.bank, None)

        def measure(repeats: int, stop_at: int | None = None):
            def update(done: int, _total: int) -> None:
                if done == stop_at:
                    raise KeyboardInterrupt

            return measure_curve(data, embeddings, repeats, features=features.text, update=update)

        with pytest.raises(KeyboardInterrupt):
            measure(3, stop_at=2)
        kept = own.learning_curve()
        assert {point.repeat for point in kept.points} == {0, 1}
        whole = measure(3)
        assert whole.points[: len(kept.points)] == kept.points
        own.storage.remove("advice/learning-curve.json")
        assert measure(3).points == whole.points
        own.write_learning_curve(replace(whole, curve_id="of other labels"))
        assert {point.repeat for point in measure(2).points} == {0, 1}

    def test_the_command_and_what_the_report_shows(self, own, study, pool, tiny_pasture):
        before = make_report(own)
        assert 'id="curve"' not in before and 'id="next"' not in before
        page = run("learning-curve", own.storage.uri, "--repeats", 2, "--more", 10, "--cache", study[1])
        assert max(map(len, page.split("photographs of")[0].splitlines())) <= 80
        groups = own.quadrats()["group"].nunique()
        assert f"24 photographs of {groups} days: below 150 photographs days count for more" in page
        found = json.loads(run("learning-curve", own.storage.uri, "--repeats", 2, "--more", 10, "--json"))
        for forecast in ("with_groups", "same_groups"):
            one = found["learning_curve"][forecast]
            assert one["band"] is None or one["band"] >= 0.05
            assert one["reason"] or one["gain"] > one["band"]
        assert "more than twice" in run("learning-curve", own.storage.uri, "--repeats", 2, "--more", 100)
        run("next", own.storage.uri, pool, "--for", tiny_pasture / "test", "--cache", study[1])
        after = make_report(own)
        assert 'id="curve"' in after and 'id="next"' in after
        assert Path(own.next_photographs().picks[0].photograph).name in after
        (curve,) = (one for one in advice_sections(read_context(own)) if one.anchor == "curve")
        (figure,) = (block for block in curve.blocks if isinstance(block, Figure))
        alt.LayerChart.from_dict(figure.panels[0].spec)  # raises SchemaValidationError

    def test_sizes_that_cannot_be_fitted_are_left_out(self, own, study):
        data = StudyData(own)
        features = bank_of_study(data)
        record = measure_curve(
            data, embeddings_of(data, features.bank, None), 2, features=features.text, update=lambda *_: None
        )
        torn = (replace(record.points[0], by_images=None), *record.points[1:])
        sizes = len(CurveReading.of(record).group_S)
        assert len(CurveReading.of(replace(record, points=torn)).group_S) == sizes - 1
        assert REPEATS >= 2
