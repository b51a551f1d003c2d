"""Tables of `biomass predict`: units and areas, columns of the user's, quadrats, means of groups."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from test_answers import blended  # noqa: F401  a fixture

from biomass_models.errors import UserError
from biomass_models.targets import TARGETS, TOTAL
from ensembles.intervals.levels import Intervals
from orchestration.answers.groups import require_groups
from orchestration.answers.opened import BlendPlace, open_blend
from orchestration.answers.photographs import PATH
from orchestration.answers.predict import prediction_notes
from orchestration.answers.shard import NEAREST, PERCENTILE, REASON
from orchestration.answers.table import TableOptions, mean_table, photograph_table
from orchestration.answers.units import Conversion, conversion
from orchestration.study.mass_unit import GRAMS, MassUnit

pytestmark = pytest.mark.slow


class TestUnits:
    def test_by_hand(self):
        own = MassUnit(name="kg/ha", area_m2=0.25)
        none = pd.DataFrame()
        assert conversion(own, None, None, none).per_gram_N == pytest.approx([40.0])  # 1 g on 0.25 m2 is 40 kg/ha
        assert conversion(own, "g/m2", 0.25, none).per_gram_N == pytest.approx([4.0])
        assert conversion(own, "g", 1.0, none).per_gram_N == pytest.approx([4.0])
        assert conversion(GRAMS, "kg/ha", 0.21, none).per_gram_N == pytest.approx([10 / 0.21])
        assert conversion(GRAMS, None, None, none).per_gram_N == pytest.approx([1.0])
        areas = conversion(MassUnit(name="g/m2", area_column="area"), None, None, pd.DataFrame({"area": ["0.5", "2"]}))
        assert areas.per_gram_N == pytest.approx([2.0, 0.5])

    def test_what_would_change_what_models_see_is_refused(self):
        none = pd.DataFrame()
        for own, unit, area, message in (
            (MassUnit(name="g/m2", area_m2=0.25), None, 0.5, "photographs must show as much"),
            (GRAMS, "g", 0.21, "its area is not known"),
            (GRAMS, "kg/ha", None, "give --area"),
            (MassUnit(name="g/m2", area_column="area"), None, None, "a column area, or --area"),
            (GRAMS, "kg", None, "--unit is one of"),
            (GRAMS, "kg/ha", -1.0, "1e-06 to 100, got -1"),
            (GRAMS, "kg/ha", 1e-310, "1e-06 to 100"),
            (GRAMS, "kg/ha", float("nan"), "1e-06 to 100"),
        ):
            with pytest.raises(UserError, match=message):
                conversion(own, unit, area, none)


class TestTables:
    """Of predictions that are given."""

    GIVEN = pd.DataFrame({PATH: list("abcdef"), "plot": list("xxxyyy"), "date": ["1", "1", "1", "1", "2", "1"]})

    @pytest.fixture
    def predicted(self):
        rng = np.random.default_rng(0)
        mass_N3 = rng.gamma(2, 10, (6, 3))
        table = pd.DataFrame(
            mass_N3 @ np.array([[1, 0, 0, 1, 1], [0, 1, 0, 0, 1], [0, 0, 1, 1, 1]]), columns=list(TARGETS)
        )
        table[REASON] = ["", "", "torn", "", "", ""]
        table.loc[2, list(TARGETS)] = np.nan
        return table.assign(**{PERCENTILE: [1.0, 99.5, np.nan, 3.0, 4.0, 5.0], NEAREST: "t1", "odd_shape": False})

    @pytest.fixture(scope="class")
    def intervals(self, blended):  # noqa: F811
        blend = open_blend(BlendPlace(str(blended[2] / "study"), None, None))
        assert blend.intervals is not None
        return blend.intervals

    def test_units_convert_masses_and_bounds_alike(self, predicted, intervals):
        made = [
            photograph_table(self.GIVEN, predicted, intervals, Conversion(unit=unit, per_gram_N=np.array([factor])),
                             TARGETS, TableOptions(levels=(0.5,)))
            for unit, factor in (("g", 1.0), ("kg/ha", 40.0))
        ]  # fmt: skip
        for end in ("", "_low_50", "_high_50"):
            grams, other = made[0][f"Dry_Total_g{end}"], made[1][f"Dry_Total_kg_ha{end}"]
            assert (40 * grams).to_numpy() == pytest.approx(other.to_numpy(), nan_ok=True)
        assert made[0]["unlike"].tolist() == [False, True, None, False, False, False]

    def test_unlike_is_blank_where_it_is_not_known(self, predicted, intervals):
        """As in the row that cannot be read."""
        grams, options = Conversion(unit="g", per_gram_N=np.ones(1)), TableOptions(levels=(0.5,))
        predicted.loc[3:, PERCENTILE] = np.nan
        found = photograph_table(self.GIVEN, predicted, intervals, grams, TARGETS, options)["unlike"]
        assert found.tolist() == [False, True, None, None, None, None]

    def test_means_are_of_what_could_be_read_on_one_date(self, predicted, intervals):
        options = TableOptions(levels=(0.5,), by=("plot",))
        grams = Conversion(unit="g", per_gram_N=np.ones(1))
        found = mean_table(self.GIVEN, predicted, intervals, grams, TARGETS, options).set_index("plot")
        assert found["photographs"].tolist() == [2, 3]
        mean_T = predicted.loc[[0, 1], list(TARGETS)].to_numpy().mean(0)
        assert found.loc["x", list(TARGETS)].to_numpy(dtype=float) == pytest.approx(mean_T)
        low_T, high_T = intervals.of_mean(mean_T, 2, 0.5)
        assert [found.loc["x", f"Dry_Total_g_{end}_50"] for end in ("low", "high")] == [low_T[TOTAL], high_T[TOTAL]]
        assert found.loc["x", "no_interval"] == "" and np.isnan(found.loc["y", "Dry_Total_g_low_50"])
        assert found.loc["y", "no_interval"] == "its photographs are of 2 dates"
        blind = mean_table(self.GIVEN.drop(columns="date"), predicted, intervals, grams, TARGETS, options)
        assert (
            blind["no_interval"].tolist() == ["the date of its photographs is not known; --date names its column"] * 2
        )
        with pytest.raises(UserError, match="did you mean plot"):
            require_groups(self.GIVEN, ("plots",), None)

    @pytest.mark.parametrize("column", ["quadrat", "Quadrat", " QUADRAT"])
    def test_photographs_of_a_quadrat_count_as_one(self, predicted, intervals, column):
        given = self.GIVEN.assign(**{column: ["q", "q", "q", "r", "s", "s"]})
        grams, options = Conversion(unit="g", per_gram_N=np.ones(1)), TableOptions(levels=(0.5,), by=("plot",))
        rows = photograph_table(given, predicted, intervals, grams, TARGETS, options)["Dry_Total_g"]
        assert rows[0] == rows[1] == pytest.approx(predicted.loc[:1, "Dry_Total_g"].mean()) and np.isnan(rows[2])
        means = mean_table(given, predicted, intervals, grams, TARGETS, options)
        assert means["photographs"].tolist() == [1, 2] and means["Dry_Total_g"][0] == pytest.approx(rows[0])

    def test_a_blank_quadrat_is_the_photographs_own(self, predicted, intervals):
        """Blank in a table, and of a folder beside it; they are no quadrat together."""
        given = self.GIVEN.assign(quadrat=["q", "q", "", " ", np.nan, None])
        grams, options = Conversion(unit="g", per_gram_N=np.ones(1)), TableOptions(levels=(0.5,), by=("plot",))
        rows = photograph_table(given, predicted, intervals, grams, TARGETS, options)["Dry_Total_g"]
        assert rows[3:].tolist() == predicted["Dry_Total_g"][3:].tolist() and rows[0] == rows[1]
        means = mean_table(given, predicted, intervals, grams, TARGETS, options)
        assert means["photographs"].tolist() == [1, 3]

    def test_a_quadrat_of_several_groups_or_dates_is_refused(self):
        """Numbers within a paddock; a date or a site that differs, named or not."""
        given = pd.DataFrame({PATH: list("abcd"), "paddock": list("NNSS"), "quadrat": list("1212")})
        require_groups(given.rename(columns={"paddock": "cut"}), (), None)  # nothing shows that they are several
        require_groups(given.assign(quadrat=["N1", "N2", "", ""]), ("paddock",), None)
        with pytest.raises(UserError, match=r"quadrat 1 with N \(a\) and S \(c\), 2 quadrats so; .* such as S-1"):
            require_groups(given, ("paddock",), None)
        with pytest.raises(UserError, match=r"one paddock, .* N .* and blank"):
            require_groups(given.assign(paddock=["N", "N", np.nan, ""]), ("paddock",), None)
        for column in ("Date", "Sampling_Date", "day", "state", "site", "Paddock", "plot", "FIELD", "farm"):
            alike = {"date": "2026-11-01", "State": "NSW"}  # of the first column that is looked at
            for first in alike if column not in ("Date", "state") else ():
                with pytest.raises(UserError, match=f"of one {column}, got quadrat 1"):
                    require_groups(given.rename(columns={"paddock": column}).assign(**{first: alike[first]}), (), None)
            with pytest.raises(UserError, match=f"of one {column}"):
                require_groups(given.rename(columns={"paddock": column}), (), None)
        with pytest.raises(UserError, match="got quadrat 1 with"):
            require_groups(given.rename(columns={"quadrat": "Quadrat"}), ("paddock",), None)
        with pytest.raises(UserError, match="of one cut"):
            require_groups(given.assign(field="f", cut=list("1123")), ("field",), "cut")
        alone = given.drop(columns="paddock")
        require_groups(alone.assign(date=["1", "1", "", np.nan]), (), None)  # a date that is not known may be any
        minutes = alone.assign(date=[f"2026-11-01 08:0{row}" for row in range(4)])
        require_groups(minutes, (), None)  # a day
        with pytest.raises(UserError, match=r"of one date, got quadrat 1 with 2026-11-01 .* and 2026-11-02"):
            require_groups(alone.assign(date=["2026-11-01 08:00"] * 2 + ["2026/11/2"] * 2), (), None)

    def test_means_of_unknown_dates_have_no_interval(self, predicted, intervals):
        given = self.GIVEN.assign(date=["1", "", "1", np.nan, " ", None])
        grams, options = Conversion(unit="g", per_gram_N=np.ones(1)), TableOptions(levels=(0.5,), by=("plot",))
        found = mean_table(given, predicted, intervals, grams, TARGETS, options)
        assert found["no_interval"].tolist() == [
            "the date of 1 of its photographs is not known", "the date of its photographs is not known",
        ]  # fmt: skip
        assert found["Dry_Total_g_low_50"].isna().all() and found["Dry_Total_g"].notna().all()

    @pytest.mark.parametrize(
        ("columns", "dates"),
        [
            (
                {"date": ["2026-11-01 08:00", "2026-11-01T09:30:00Z", "", "2026/11/1", "2026-11-1", "2026-11-02"]},
                (1, 2),
            ),
            ({"date": pd.date_range("2026-11-01 08:00", periods=6, freq="12h")}, (1, 2)),
            ({"Day": ["31.5.2026 8:15", "31.5.2026", "", "1.6.2026", "1.6.2026 17:00", "2.6.2026"]}, (1, 2)),
            ({"month": list("121212"), "day": list("555555")}, (None, None)),
            ({"day": [5, 5, 5, 6, 6, 6], "sampling_date": ["2026-11-01"] * 6}, (1, 1)),
        ],
    )
    def test_a_date_is_a_whole_day(self, predicted, intervals, columns, dates):
        """Without its time, written in one way; a day of a month is none. A group of one has its interval."""
        given = self.GIVEN.drop(columns="date").assign(**columns)
        grams, options = Conversion(unit="g", per_gram_N=np.ones(1)), TableOptions(levels=(0.5,), by=("plot",))
        found = mean_table(given, predicted, intervals, grams, TARGETS, options)
        unknown = "the date of its photographs is not known; --date names its column"
        texts = {None: unknown, 1: "", 2: "its photographs are of 2 dates"}
        assert found["no_interval"].tolist() == [texts[number] for number in dates]
        assert found["Dry_Total_g_low_50"].notna().tolist() == [number == 1 for number in dates]

    @pytest.mark.parametrize("unit", ["photograph", "quadrat", "group", "state"])
    def test_why_means_have_no_interval_without_dates(self, predicted, intervals, unit):
        """Of one photograph its own interval holds. A column of groups is named by --date."""
        other = Intervals(replace(intervals.calibration, unit=unit))
        given = self.GIVEN.assign(plot=list("xxxyyz"))
        grams, options = Conversion(unit="g", per_gram_N=np.ones(1)), TableOptions(levels=(0.5,), by=("plot",))
        found = mean_table(given, predicted, other, grams, TARGETS, options)
        if unit in ("photograph", "quadrat"):
            why = (
                f"intervals are of single {unit}s: without dates in the training data what a mean errs by is not known"
            )
            assert found["no_interval"].tolist() == [why, why, ""]
            assert found["Dry_Total_g_high_50"].notna().tolist() == [False, False, True]
            return
        assert set(found["no_interval"]) == {f"the {unit} of its photographs is not known; --date names its column"}
        named = TableOptions(levels=(0.5,), by=("plot",), date="date")
        again = mean_table(given, predicted, other, grams, TARGETS, named)
        assert again["no_interval"].tolist() == ["", f"its photographs are of 2 {unit}s", ""]

    def test_blank_groups_of_several_tables_are_one(self, predicted, intervals):
        given = self.GIVEN.assign(plot=["x", "", " ", np.nan, None, "x"])
        grams, options = Conversion(unit="g", per_gram_N=np.ones(1)), TableOptions(levels=(0.5,), by=("plot",))
        assert mean_table(given, predicted, intervals, grams, TARGETS, options)["photographs"].tolist() == [2, 3]

    def test_columns_of_the_user_have_names_of_their_own(self, predicted, intervals):
        given = self.GIVEN.assign(Dry_Total_g=1.0, Dry_Total_g_given=2.0, nearest="mine")
        grams = Conversion(unit="g", per_gram_N=np.ones(1))
        found = photograph_table(given, predicted, intervals, grams, TARGETS, TableOptions(levels=(0.5,)))
        assert found.columns.is_unique and found["nearest_given"].eq("mine").all()
        assert found["Dry_Total_g_given"].eq(2.0).all() and found["Dry_Total_g_given_given"].eq(1.0).all()
        options = TableOptions(levels=(0.5,), by=("photographs", "plot", "plot"))
        given = given.assign(photographs=["by me"] * 6)
        means = mean_table(given, predicted, intervals, grams, TARGETS, options)
        assert list(means)[:3] == ["photographs_given", "plot", "photographs"] and means["photographs"].tolist() == [
            2,
            3,
        ]

    def test_columns_of_the_user_are_kept(self, predicted, intervals):
        given = self.GIVEN.assign(Dry_Total_g=range(6))
        grams, options = Conversion(unit="g", per_gram_N=np.ones(1)), TableOptions(joint=True, levels=(0.5,))
        found = photograph_table(given, predicted, intervals, grams, ("Dry_Total_g",), options)
        assert found["Dry_Total_g_given"].tolist() == list(range(6)) and "Dry_Dead_g" not in found
        box = Intervals(intervals.calibration).box(predicted[list(TARGETS)].to_numpy(), 0.5)
        assert found["Dry_Total_g_high_50"].to_numpy() == pytest.approx(box.high_NT[:, TOTAL], nan_ok=True)


@pytest.mark.parametrize(
    ("cut", "unit", "noted"),
    [
        (0, "date", None),
        (0, "state", None),
        (1, "date", "the folds cut 1 sampling date: models have seen the days"),
        (12, "group", "the folds cut 12 groups: models have seen the groups .* less than their level on new ones"),
        (0, "photograph", "no date, site or group says .* on new days"),
        (0, "quadrat", "no date, site or group says"),
    ],
)
def test_intervals_of_folds_that_cut_dates_have_a_note(blended, cut, unit, noted):  # noqa: F811
    """Of the blend as a whole; none where it has no intervals."""
    blend = open_blend(BlendPlace(str(blended[2] / "study"), None, None))
    given = pd.DataFrame({PATH: ["a"]})
    row = dict.fromkeys(TARGETS, 1.0) | {REASON: "", PERCENTILE: 1.0, NEAREST: "t1", "odd_shape": False}
    grams = conversion(GRAMS, None, None, given)
    assert blend.card.intervals is not None
    card = replace(blend.card, cut_groups=cut, intervals=replace(blend.card.intervals, unit=unit))

    def notes(card):
        return list(prediction_notes(replace(blend, card=card), given, pd.DataFrame([row]), grams, TableOptions()))

    found = [note for note in notes(card) if "intervals are made from" in note]
    assert len(found) == (noted is not None) and all(re.match(noted, note) for note in found)
    assert not [note for note in notes(replace(card, intervals=None)) if "intervals are made from" in note]
