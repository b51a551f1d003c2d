"""The measurement of how often intervals hold: its shares by hand, and misses counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from measure_coverage import BOX, NAMES, coverage, dates_of_tests, measure, render

from biomass_models.data.table import read_test
from biomass_models.pasture.make import make_pasture

IDS = [f"ID{row}" for row in range(6)]
DATES = pd.Series(["a", "a", "a", "a", "b", "b"], index=IDS)


def predicted(high_N: list[float]) -> pd.DataFrame:
    """From 0 to these bounds, for each mass at both levels."""
    table = pd.DataFrame({"photograph": [f"test/{name}.jpg" for name in IDS]})
    for target in NAMES:
        for level in (80, 90):
            table[f"{target}_low_{level}"], table[f"{target}_high_{level}"] = 0.0, high_N
    return table


def test_shares_are_means_over_dates_and_misses_count() -> None:
    """True masses are 1, but the last photograph's clover: of date a half is held, of b the first alone for clover."""
    truth = pd.DataFrame(1.0, index=IDS, columns=list(NAMES))
    truth.loc["ID5", "Dry_Clover_g"] = 3.0
    alone, box = predicted([2.0, 2.0, 0.5, np.nan, 2.0, 2.0]), predicted([2.0, 2.0, 2.0, np.nan, 2.0, 2.0])
    found = coverage(alone, box, truth, DATES)
    assert found["80%"]["total"] == found["90%"]["total"] == pytest.approx((0.5 + 1.0) / 2)
    assert found["80%"]["clover"] == pytest.approx((0.5 + 0.5) / 2)
    assert found["80%"][BOX] == pytest.approx((0.75 + 0.5) / 2)
    assert found["poor dates"] == {**dict.fromkeys(NAMES.values(), 0.5), "clover": 1.0, BOX: 0.5}
    page = render({0: found, 1: found})
    assert page.count("\n") == 10 and "| mean | | 80% | **0.750** ± " in page and "| 1 | 2 | 90% | 0.750 |" in page


@pytest.mark.slow
def test_dates_of_the_drawn_test_photographs_are_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("measure_coverage.IMAGES", 8)
    made = make_pasture(tmp_path / "data", images=8, test_images=6, seed=3, width=100, height=50, workers=1)
    dates = dates_of_tests(6, 3)
    assert set(dates.index) == set(read_test(tmp_path / "data")["image_id"]) and dates.nunique() == made.test_dates


@pytest.mark.long
def test_the_measurement_runs_the_commands_that_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("measure_coverage.IMAGES", 60)
    monkeypatch.setattr("measure_coverage.WIDTH", 200)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = measure(tmp_path, 0, trials=2, tests=8, cache=str(tmp_path / "cache"))
    assert all(0 <= share <= 1 for level in ("80%", "90%", "poor dates") for share in found[level].values())
    assert found["dates"]["dates"] >= 1 and set(found["80%"]) == {*NAMES.values(), BOX}
    assert measure(tmp_path, 0, trials=2, tests=8, cache="nowhere") == found  # what was measured is read
