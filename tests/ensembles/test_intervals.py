"""Intervals of new masses: by hand, by laws, and on simulated pastures whose new dates are known."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog
from simulate_intervals import COLUMNS, LEVELS, covered
from small_libraries import member_predictions, partial_frame, small_library, truth_frame

from biomass_models.errors import UserError
from biomass_models.targets import CLOVER, DEAD, FROM_COMPONENTS, GREEN, TARGETS, TOTAL
from ensembles.blend import fit_blend
from ensembles.card import Card
from ensembles.choice import rule_named as rule
from ensembles.intervals.conformal import bounds, least_units, order_quantile, propagated, scaled, unit_quantile
from ensembles.intervals.coverage import coverage
from ensembles.intervals.levels import Intervals
from ensembles.intervals.rows import IntervalRows
from ensembles.members.library import library_from_arrays
from ensembles.nests import fold_nests
from ensembles.spec import BlendSpec, nested_rows


def rows_of(truth_NT: np.ndarray, pred_NT: np.ndarray, units: list[str], unit: str = "date") -> IntervalRows:
    return IntervalRows.of(truth_NT, pred_NT, ~np.isnan(truth_NT), units, unit=unit, seed=0)


def random_rows(units: int = 12, seed: int = 0) -> IntervalRows:
    rng = np.random.default_rng(seed)
    unit_N = np.repeat(np.arange(units), rng.integers(2, 9, units))
    truth_NT = rng.gamma(1.5, [12.0, 6.0, 4.0], (len(unit_N), 3)) @ FROM_COMPONENTS.T
    pred_NT = np.maximum(truth_NT[:, :3] + rng.normal(0, 4, (len(unit_N), 3)), 0) @ FROM_COMPONENTS.T
    return rows_of(truth_NT, pred_NT, [f"d{unit:02d}" for unit in unit_N])


class TestQuantiles:
    def test_by_hand(self) -> None:
        """Two units: a's rows have 1/6 each, b's row 1/3, and 1/3 is at infinity."""
        score_N, unit_N = np.array([3.0, 2.0, 1.0]), np.array(["a", "b", "a"])
        assert unit_quantile(score_N, unit_N, 1 / 6) == 1
        assert unit_quantile(score_N, unit_N, 0.17) == 2
        assert unit_quantile(score_N, unit_N, 0.5) == 2
        assert unit_quantile(score_N, unit_N, 0.51) == 3
        assert unit_quantile(score_N, unit_N, 2 / 3) == 3
        assert unit_quantile(score_N, unit_N, 0.67) == math.inf

    @pytest.mark.parametrize(("level", "units"), [(0.5, 1), (0.8, 4), (0.9, 9), (0.95, 19), (0.99, 99)])
    def test_as_many_units_as_the_level_needs_are_enough(self, level: float, units: int) -> None:
        assert least_units(level) == units
        score_N = np.arange(float(units))
        assert unit_quantile(score_N, np.arange(units), level) == units - 1 == order_quantile(score_N, level)
        assert unit_quantile(score_N[1:], np.arange(units)[1:], level) == math.inf
        assert order_quantile(score_N[1:], level) == math.inf

    @given(st.integers(0, 200), st.sampled_from([0.5, 0.8, 0.9]))
    def test_neither_order_nor_repetition_nor_unmeasured_rows_matter(self, seed: int, level: float) -> None:
        rng = np.random.default_rng(seed)
        unit_N, score_N = rng.integers(0, 15, 60), rng.gamma(2.0, 1.0, 60)
        found = unit_quantile(score_N, unit_N, level)
        order = rng.permutation(60)
        assert unit_quantile(score_N[order], unit_N[order], level) == found
        assert unit_quantile(np.tile(score_N, 3), np.tile(unit_N, 3), level) == found
        blank_N = np.concatenate([score_N, np.full(5, np.nan)])
        assert unit_quantile(blank_N, np.concatenate([unit_N, np.arange(5) + 99]), level) == found
        assert unit_quantile(score_N, unit_N, min(level + 0.03, 0.93)) >= found

    def test_a_large_unit_counts_as_much_as_a_small_one(self) -> None:
        """One date of 100 bad photographs beside nine of one good one moves the 80 % quantile no more than a row."""
        score_N, unit_N = np.r_[np.full(100, 9.0), np.full(9, 1.0)], np.r_[np.zeros(100), np.arange(1, 10)]
        assert unit_quantile(score_N, unit_N, 0.8) == 1.0

    def test_errors_without_a_scale(self) -> None:
        found = scaled(np.array([0.0, -2.0, 3.0, np.nan]), np.array([0.0, 0.0, 2.0, 1.0]))
        assert np.array_equal(found, [0.0, np.inf, 1.5, np.nan], equal_nan=True)

    def test_bounds_by_hand(self) -> None:
        low_NT, high_NT = bounds(np.array([[16.0, 0.0]]), np.array([2.0, np.inf]), np.array([9.0, 1.0]))
        assert np.array_equal(low_NT, [[6.0, np.nan]], equal_nan=True)
        assert np.array_equal(high_NT, [[26.0, np.nan]], equal_nan=True)
        assert bounds(np.array([[1.0]]), np.array([2.0]), np.array([3.0]))[0] == 0


class TestBox:
    @pytest.mark.parametrize("seed", range(20))
    def test_propagation_finds_the_least_box(self, seed: int) -> None:
        """Against linear programs over the components."""
        rng = np.random.default_rng(seed)
        mass_T = FROM_COMPONENTS @ rng.gamma(1.5, [12.0, 6.0, 4.0])
        low_T, high_T = np.maximum(mass_T - rng.gamma(1, 6, 5), 0), mass_T + rng.gamma(1, 6, 5)
        low_NT, high_NT = propagated(low_T[None], high_T[None])
        sides, limits = np.vstack([FROM_COMPONENTS, -FROM_COMPONENTS]), np.r_[high_T, -low_T]
        for column, row_3 in enumerate(FROM_COMPONENTS):
            ends = [sign * linprog(sign * row_3, A_ub=sides, b_ub=limits).fun for sign in (1, -1)]
            assert [low_NT[0, column], high_NT[0, column]] == pytest.approx(ends, abs=1e-7)

    def test_a_mass_without_bounds_is_none(self) -> None:
        low_NT = np.array([[2.0, np.nan, 1.0, 0.0, np.nan]])
        high_NT = np.array([[5.0, np.nan, 2.0, 99.0, np.nan]])
        low, high = propagated(low_NT, high_NT)
        assert np.array_equal(low, [[2.0, np.nan, 1.0, 3.0, np.nan]], equal_nan=True)
        assert np.array_equal(high, [[5.0, np.nan, 2.0, 7.0, np.nan]], equal_nan=True)

    def test_an_empty_interval_is_as_it_was(self) -> None:
        low, high = propagated(np.array([[5.0, 0, 5.0, 0.0, 0]]), np.array([[6.0, 9, 6.0, 4.0, 99]]))
        assert (low <= high).all() and (low[0, 3], high[0, 3]) == (0.0, 4.0)

    def test_a_target_without_errors_is_left_out_and_named(self) -> None:
        rows = random_rows()
        truth_NT = rows.calibration.pred_NT + rows.calibration.error_NT
        truth_NT[:, DEAD] = rows.calibration.pred_NT[:, DEAD]
        units = [rows.unit_names[unit] for unit in rows.calibration.unit_N]
        box = Intervals(rows_of(truth_NT, rows.calibration.pred_NT, units).calibration).box(truth_NT, 0.8)
        assert box.left_out == ("Dry_Dead_g",)
        assert np.isnan(box.low_NT[:, DEAD]).all() and np.isfinite(np.delete(box.high_NT, DEAD, axis=1)).all()


class TestLevels:
    def test_intervals_widen_with_the_level_and_hold_the_prediction(self) -> None:
        intervals = Intervals(random_rows().calibration)
        pred_NT = intervals.calibration.pred_NT
        (low_80, high_80), (low_90, high_90) = (intervals.of_photographs(pred_NT, level) for level in (0.8, 0.9))
        assert (low_90 <= low_80).all() and (high_80 <= high_90).all()
        assert (low_80 <= pred_NT).all() and (pred_NT <= high_80).all()

    def test_not_enough_units_is_said(self) -> None:
        intervals = Intervals(random_rows(units=8).calibration)
        assert intervals.shortage(0.8) is None and intervals.enough(0.8)
        assert intervals.shortage(0.9) == "not enough dates for intervals at 0.9: they need 9, got 8"
        assert np.isnan(intervals.of_photographs(intervals.calibration.pred_NT, 0.9)[1]).all()
        assert np.isnan(intervals.box(intervals.calibration.pred_NT, 0.9).high_NT).all()
        for level in (0.0, 1.0, 80.0):
            with pytest.raises(UserError, match="between 0 and 1"):
                intervals.quantiles(level)

    def test_a_mean_of_one_photograph_by_hand(self) -> None:
        """Five dates of one photograph: the largest of five scaled errors at 5/6, the fourth at 0.6."""
        truth_NT = np.tile(np.array([[10.0]]), (5, 5)) + np.arange(5)[:, None]
        pred_NT = np.full((5, 5), 10.0)
        intervals = Intervals(rows_of(truth_NT, pred_NT, list("abcde")).calibration)
        scale = math.sqrt(10 + 0.3 * 12)
        assert intervals.mean_quantiles(1, 5 / 6).q_T == pytest.approx(np.full(5, 4 / scale))
        assert intervals.mean_quantiles(1, 0.6).q_T == pytest.approx(np.full(5, 3 / scale))

    def test_a_mean_is_of_photographs_that_units_have(self) -> None:
        """Of twelve dates six have 2 photographs, six have 6; errors cancel in pairs."""
        units = [f"d{unit:02d}" for unit in range(12) for _ in range(2 if unit % 2 else 6)]
        error_N = np.concatenate([np.tile([3.0, -3.0], 1 if unit % 2 else 3) for unit in range(12)])
        pred_NT = np.full((len(units), 5), 20.0)
        intervals = Intervals(rows_of(pred_NT + error_N[:, None], pred_NT, units).calibration)
        of_six = intervals.mean_quantiles(6, 0.8)
        assert of_six.photographs_T == (6,) * 5 and (of_six.q_T == 0).all()
        assert intervals.mean_quantiles(40, 0.8).photographs_T == (6,) * 5
        assert intervals.mean_quantiles(1, 0.8).q_T == pytest.approx(np.full(5, 3 / math.sqrt(26)))
        assert np.isinf(intervals.mean_quantiles(1, 0.95).q_T).all()

    def test_coverage_leaves_the_unit_out(self) -> None:
        """Ten dates of one photograph, errors 1 to 10: only the largest is outside at 0.9 of nine others."""
        truth_NT = np.full((10, 5), 20.0) + np.arange(1, 11)[:, None]
        found = coverage(rows_of(truth_NT, np.full((10, 5), 20.0), [f"d{row}" for row in range(10)]), 0.9)
        assert found.share_GT.sum(0).tolist() == [9.0] * 5 and found.share_GT[9].tolist() == [0.0] * 5
        assert found.mean_T == pytest.approx(np.full(5, 0.9)) and found.badly_T == pytest.approx(np.full(5, 0.1))
        assert np.isnan(coverage(random_rows(units=9), 0.9).mean_T).all()


class TestCards:
    def test_rows_are_predicted_without_their_fold(self) -> None:
        library = small_library()
        card = fit_blend(library, "top-5")
        assert card.intervals is not None and card.intervals.unit == "group"
        nests = fold_nests(library.gram)
        assert nests is not None and sorted(set(nests[0])) == [0, 1, 2, 3, 4]
        pred_NT = nested_rows(library, BlendSpec(rule=rule("top-5")), nest_RC=nests)[0]
        order = np.argsort(library.group_N, kind="stable")
        assert card.intervals.calibration.pred_NT == pytest.approx(pred_NT[order], abs=1e-4)
        error_NT = library.truth_NT - pred_NT
        assert card.intervals.calibration.error_NT == pytest.approx(error_NT[order], abs=1e-4)
        assert card.intervals.offset_g["Dry_Total_g"] == pytest.approx(0.3 * library.truth_NT[:, TOTAL].mean())

    def test_a_card_keeps_them_and_an_old_one_opens(self) -> None:
        card = fit_blend(small_library(), "top-5")
        content = json.loads(json.dumps(card.to_json(), allow_nan=False))
        assert Card.from_json(content) == card
        del content["intervals"]
        assert Card.from_json(content) == replace(card, intervals=None)

    def test_units_are_what_the_folds_keep_whole(self) -> None:
        library = small_library()
        library = replace(library, unit_N=np.array(list("ABCDE"))[library.fold_N], unit="site")
        card = fit_blend(library, "top-5")
        assert card.intervals is not None and card.intervals.unit_names == tuple("ABCDE")
        assert Intervals(card.intervals.calibration).shortage(0.9) == (
            "not enough sites for intervals at 0.9: they need 9, got 5"
        )

    @pytest.mark.parametrize("kind", ["total", "total, some all"])
    def test_what_stands_in_an_unmeasured_cell_plays_no_part(self, kind: str) -> None:
        pred_MNT = member_predictions(truth_frame(), 4)
        cards = [
            fit_blend(library_from_arrays(list("abcd"), list(pred_MNT), partial_frame(kind, fill=fill)), "top-5")
            for fill in (0.0, 1e9)
        ]
        assert cards[0].intervals == cards[1].intervals is not None
        measured = cards[0].intervals.calibration
        assert (measured.targets == ("Dry_Total_g",)) == (kind == "total")
        low_NT, _ = Intervals(measured).of_photographs(measured.pred_NT, 0.8)
        assert np.isnan(low_NT[:, [GREEN, CLOVER]]).all() == (kind == "total") and np.isfinite(low_NT[:, TOTAL]).all()


def test_new_dates_are_covered_as_promised() -> None:
    """Each target: no less than nominal less two Monte Carlo errors, no more than .05 above; the box no less."""
    replicates = 24
    covered_RLC = np.stack([covered(seed) for seed in range(replicates)])
    error_LC = covered_RLC.std(axis=0, ddof=1) / math.sqrt(replicates)
    for level, share_C, error_C in zip(LEVELS, covered_RLC.mean(0), error_LC, strict=True):
        least = dict(zip(COLUMNS, share_C + 2 * error_C - level, strict=True))
        most = dict(zip(TARGETS, share_C - level - 0.05, strict=False))
        assert {name: short for name, short in least.items() if short < 0} == {}
        assert {name: over for name, over in most.items() if over > 0} == {}
