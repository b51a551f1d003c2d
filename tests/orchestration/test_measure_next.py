"""The measurement of `biomass next`, tiny: what it has is not measured again, and its error is over pastures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from measure_next import FEW, Drawing, Measured, Pasture, gain_over_pastures, labelled_rows, run, table

from biomass_models.backbones.weights import WeightsSource


def test_the_error_is_over_pastures_by_hand() -> None:
    gains = {0: (0.1, 0.3), 1: (0.4, 0.4)}
    found = [
        Measured(pasture=number, repeat=repeat, start="all dates", before=0.0, chosen=0.5 + gain, random=0.5)
        for number, pair in gains.items()
        for repeat, gain in enumerate(pair)
    ]
    assert gain_over_pastures(found) == pytest.approx((0.3, 0.1))


def test_a_start_from_few_dates_has_few() -> None:
    group_N = np.repeat(list("abcdefgh"), 10)
    nothing = np.empty((0, 0))
    pasture = Pasture(feature_ND=nothing, mass_NT=nothing, group_N=group_N, test_JD=nothing, truth_JT=nothing)
    few, all_dates = (
        len(set(group_N[labelled_rows(pasture, start, 30, np.random.default_rng(0))]))
        for start in ("few dates", "all dates")
    )
    assert few == FEW and all_dates > FEW


@pytest.mark.slow
def test_repeats_that_are_there_are_not_measured_again(tmp_path: Path) -> None:
    def measured(repeats: int, labelled: int = 8) -> list[Measured]:
        drawing = Drawing(images=24, tests=6, width=160, backbone="test_vit")
        source = WeightsSource(kind="random")
        return run(tmp_path, pastures=1, repeats=repeats, labelled=labelled, drawing=drawing, source=source)

    first = measured(1)
    assert len(first) == 2 and "| few dates |" in table(first)
    lines = (tmp_path / "gains.jsonl").read_text().splitlines()
    both = measured(2)
    assert (tmp_path / "gains.jsonl").read_text().splitlines()[:2] == lines
    assert [one for one in both if one.repeat == 0] == first and len(both) == 4
    assert {one.labelled for one in measured(1, labelled=6)} == {6}, "repeats from another start are others"
