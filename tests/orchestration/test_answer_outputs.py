"""What `biomass predict` writes: one at a time at a name, never over what it reads, the user's cells as they are."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from commands import environment
from test_answers import blended, predict  # noqa: F401  a fixture

from biomass_models.errors import UserError
from orchestration.answers.lock import output_lock
from orchestration.answers.opened import BlendPlace, open_blend
from orchestration.answers.parts import Parts
from orchestration.answers.photographs import read_photographs
from orchestration.answers.predict import in_this_process, run_prediction
from orchestration.answers.table import TableOptions, table_bytes
from orchestration.answers.units import conversion
from orchestration.api import open_study
from orchestration.study.mass_unit import GRAMS

pytestmark = pytest.mark.slow
NOTHING = lambda _: None  # noqa: E731  what is said
HOLDER = """
import sys, time
from pathlib import Path
from orchestration.answers.lock import output_lock
with output_lock([Path(name) for name in sys.argv[1:]], print):
    print("held", flush=True)
    time.sleep(100)
"""


class TestLock:
    def test_one_prediction_at_a_time_writes_a_table(self, tmp_path):
        out, other = tmp_path / "new" / "m.csv", tmp_path / "new" / "m-means.csv"
        with output_lock([out, other], NOTHING):
            for paths in ([out], [other], [other, out]):
                with (
                    pytest.raises(UserError, match=r"another one writes .*m.*csv; wait for it"),
                    output_lock(paths, NOTHING),
                ):
                    raise AssertionError
            with output_lock([tmp_path / "new" / "another.csv"], NOTHING):
                pass
        assert not list((tmp_path / "new").iterdir())
        with output_lock([out], NOTHING):
            pass

    def test_of_many_that_come_at_once_one_writes(self, tmp_path):
        """Also while the file that is locked is taken away by the one that ends."""
        inside, most, refused = 0, 0, 0
        count = threading.Lock()

        def run() -> None:
            nonlocal inside, most, refused
            for _ in range(20):
                try:
                    with output_lock([tmp_path / "m.csv"], NOTHING):
                        with count:
                            inside += 1
                            most = max(most, inside)
                        with count:
                            inside -= 1
                except UserError:
                    with count:
                        refused += 1

        threads = [threading.Thread(target=run) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert most == 1 and refused < 8 * 20

    def test_what_a_killed_prediction_holds_is_free(self, tmp_path):
        out = tmp_path / "m.csv"
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(out)], env=environment(tmp_path), text=True, stdout=subprocess.PIPE
        )
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="one prediction at a time"), output_lock([out], NOTHING):
            pass
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        assert (tmp_path / ".m.csv.lock").exists()
        with output_lock([out], NOTHING):
            pass
        assert not (tmp_path / ".m.csv.lock").exists()

    def test_a_folder_without_file_locks_is_named(self, tmp_path, monkeypatch):
        monkeypatch.setattr("orchestration.answers.lock.lock_problem", lambda folder: "no locks available")
        said: list[str] = []
        with output_lock([tmp_path / "m.csv"], said.append):
            pass
        assert said[0].startswith("note: files in") and "no locks available" in said[0]


def test_two_predictions_of_one_name_do_not_mix(blended, tiny_pasture, tmp_path):  # noqa: F811
    """The second is refused while the first works, from the command as well, and neither has the other's masses."""
    _, _, folder = blended
    paths = sorted((tiny_pasture / "test").iterdir())
    blend = open_blend(BlendPlace(str(folder / "study"), None, None))
    whole = in_this_process(blend, cache=folder / "cache")
    out = tmp_path / "m.csv"
    given, other = (read_photographs([str(path) for path in some]) for some in (paths[:3], paths[3:]))
    refused: list[str] = []

    def disturbed(missing):
        for span, table in whole(missing):
            refused.append(predict(folder / "study", *paths[3:], "--out", out, "--cache", folder / "cache", code=1))
            yield span, table

    def run(given, out, work):
        grams = conversion(GRAMS, None, None, given)
        run_prediction(blend, given, out, grams, TableOptions(levels=(0.5,)), work=work, made_with={}, say=NOTHING)

    run(given, out, disturbed)
    assert len(refused) == 1 and "another one writes" in " ".join(refused[0].split())
    run(given, tmp_path / "alone.csv", whole)
    assert out.read_bytes() == (tmp_path / "alone.csv").read_bytes()
    run(other, out, whole)
    run(other, tmp_path / "other.csv", whole)
    assert out.read_bytes() == (tmp_path / "other.csv").read_bytes()
    assert not list(tmp_path.glob("*.parts")) and not list(tmp_path.glob(".*"))


def test_parts_of_another_plan_are_never_joined(tmp_path):
    """A writer without the lock puts its part among those of another plan, of as many photographs."""
    spans = [(0, 1), (1, 2)]
    late = Parts(tmp_path / "m.csv", {"photographs": "a"}, spans)
    now = Parts(tmp_path / "m.csv", {"photographs": "b"}, spans)
    late.write((0, 1), pd.DataFrame({"mass": [1.0]}))
    assert now.missing == spans
    for place, span in enumerate(spans):
        now.write(span, pd.DataFrame({"mass": [float(place)]}))
    assert now.joined()["mass"].tolist() == [0.0, 1.0]


def test_parts_of_an_earlier_version_are_begun_anew(tmp_path):
    plan, spans = {"photographs": "a"}, [(0, 1)]
    begun = Parts(tmp_path / "m.csv", plan, spans)
    Path(begun.folder / "0-1.parquet").write_bytes(b"of a version that named no plan")
    again = Parts(tmp_path / "m.csv", plan, spans)
    assert again.missing == spans
    again.write((0, 1), pd.DataFrame({"mass": [1.0]}))
    assert again.joined()["mass"].tolist() == [1.0]
    again.remove()
    assert not list(tmp_path.iterdir())


class TestOwnCells:
    """Numbers of the user's are written as they were given: in a CSV only masses and what is ours is rounded."""

    AT = (-33.123456789, 151.000000123)

    @pytest.fixture
    def rows(self, tiny_pasture):
        paths = [str(path) for path in sorted((tiny_pasture / "test").iterdir())]
        return pd.DataFrame({"path": paths, "lat": np.linspace(*self.AT, len(paths)), "date": "2026-11-01"})

    def test_of_a_parquet_table_and_of_groups(self, blended, rows, tmp_path):  # noqa: F811
        _, _, folder = blended
        rows.assign(lat=[self.AT[row % 2] for row in range(len(rows))]).to_parquet(tmp_path / "new.parquet")
        options = ("--by", "lat", "--level", "0.5", "--cache", folder / "cache")
        predict(folder / "study", tmp_path / "new.parquet", "--out", tmp_path / "m.csv", *options)
        found = pd.read_csv(tmp_path / "m.csv", dtype={"lat": str})
        assert found["lat"].map(float).tolist() == [self.AT[row % 2] for row in range(len(rows))]
        means = pd.read_csv(tmp_path / "m-means.csv", dtype={"lat": str})
        assert means["lat"].map(float).tolist() == list(self.AT)
        texts = pd.read_csv(tmp_path / "m.csv", dtype=str)
        assert texts["Dry_Total_g"].str.fullmatch(r"\d+\.\d{4}").all()
        assert texts["Dry_Total_g_low_50"].str.fullmatch(r"\d+\.\d{4}").all()

    def test_of_a_dataframe(self, blended, rows, tmp_path):  # noqa: F811
        _, _, folder = blended
        out = tmp_path / "m.csv"
        open_study(folder / "study").predict(rows, out=out, level=0.5, cache=folder / "cache")
        assert pd.read_csv(out, dtype=str)["lat"].map(float).tolist() == rows["lat"].tolist()

    def test_what_is_rounded(self):
        table = pd.DataFrame({"mine": [0.123456789, np.nan], "n": [1, 2], "Dry_Total_g": [0.00004, np.nan]})
        assert table_bytes(table, ".csv", own=("mine",)) == b"mine,n,Dry_Total_g\n0.123456789,1,0.0000\n,2,\n"
        assert table_bytes(table, ".csv", digits=2) == b"mine,n,Dry_Total_g\n0.12,1,0.00\n,2,\n"
