"""Folds: groups whole, folds even, independent of row order, and refusals that say what to do."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from directories import field_table
from hypothesis import given, settings
from hypothesis import strategies as st

from biomass_models.data.folds import FoldError, _even_cuts, assign_folds, fold_hash
from biomass_models.fold_rows import ALWAYS, EXAM, folds_in, predicting_folds, scored_rows, training_rows
from biomass_models.fold_units import cut_groups, unit_name, units_of


@pytest.fixture(scope="module")
def quadrats() -> pd.DataFrame:
    return field_table()


def write_folds(folds: pd.DataFrame, path: Path) -> Path:
    """A fold file as a user has it."""
    folds[["image_id", "fold"]].replace({"fold": {EXAM: "exam"}}).to_csv(path, index=False)
    return path


def days_of(quadrats: pd.DataFrame) -> np.ndarray:
    return quadrats["Sampling_Date"].to_numpy()


@pytest.mark.parametrize("scheme", ["date", "random", "species", "state"])
def test_every_image_has_a_fold_and_its_group(quadrats: pd.DataFrame, scheme: str) -> None:
    folds = assign_folds(quadrats, scheme=scheme)
    assert list(folds.columns) == ["image_id", "fold", "group"]
    assert folds["image_id"].tolist() == quadrats["image_id"].tolist()
    assert set(folds["fold"]) == set(range(4 if scheme == "state" else 5)) and folds["fold"].dtype == np.int64
    assert folds["group"].iloc[0] == "NSW|2015-05-01" and folds["group"].nunique() == 30


@pytest.mark.parametrize(
    ("scheme", "unit", "units"), [("date", "date", 30), ("random", "date", 30), ("state", "state", 4)]
)
def test_errors_are_counted_by_what_folds_keep_whole_and_never_finer_than_a_date(
    quadrats: pd.DataFrame, scheme: str, unit: str, units: int
) -> None:
    table = quadrats.merge(assign_folds(quadrats, scheme=scheme), on="image_id")
    assert unit_name(table, scheme) == unit and units_of(table, scheme).nunique() == units
    assert (cut_groups(table) > 20) == (scheme == "random") and (cut_groups(table) == 0) == (scheme != "random")


@pytest.mark.parametrize("scheme", ["date", "random", "species", "state"])
def test_row_order_does_not_matter_and_the_seed_does(quadrats: pd.DataFrame, scheme: str) -> None:
    folds = assign_folds(quadrats, scheme=scheme, seed=3)
    shuffled = assign_folds(quadrats.sample(frac=1, random_state=0), scheme=scheme, seed=3)
    pd.testing.assert_frame_equal(
        shuffled.sort_values("image_id", ignore_index=True), folds.sort_values("image_id", ignore_index=True)
    )
    assert fold_hash(shuffled) == fold_hash(folds)
    hashes = {fold_hash(assign_folds(quadrats, scheme=scheme, seed=seed)) for seed in range(5)}
    assert len(hashes) == (1 if scheme == "state" else 5)


@pytest.mark.parametrize("n_folds", [2, 5, 10])
def test_dates_stay_whole_and_folds_are_even(n_folds: int) -> None:
    for seed in range(5):
        quadrats = field_table(seed)
        folds = assign_folds(quadrats, n_folds=n_folds, seed=seed)
        assert (folds.groupby("group")["fold"].nunique() == 1).all()
        sizes = folds["fold"].value_counts()
        share = len(quadrats) / n_folds
        assert len(sizes) == n_folds and sizes.min() > 0.7 * share and sizes.max() < 1.3 * share
        for column in ("Dry_Clover_g", "Dry_Dead_g"):
            present = (quadrats[column] > 0).groupby(folds["fold"]).mean()
            assert present.max() - present.min() < (0.25 if n_folds <= 5 else 0.5)


@pytest.mark.parametrize("scheme", ["date", "random", "species", "state"])
@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_an_exam_takes_whole_dates_and_its_share(scheme: str, share: float) -> None:
    for seed in range(5):
        quadrats = field_table(seed)
        folds = assign_folds(quadrats, scheme=scheme, seed=seed, exam=share)
        kept = folds["fold"] == EXAM
        assert not set(folds["group"][kept]) & set(folds["group"][~kept])
        largest = int(folds.groupby("group").size().max())
        assert abs(kept.sum() - share * len(folds)) <= largest and folds["group"][kept].nunique() >= 2
        assert set(folds["fold"][~kept]) == set(range(4 if scheme == "state" else 5))
        again = assign_folds(quadrats.sample(frac=1, random_state=1), scheme=scheme, seed=seed, exam=share)
        assert fold_hash(again) == fold_hash(folds) == fold_hash(folds[~kept])


def test_without_an_exam_the_folds_are_what_they_were(quadrats: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(assign_folds(quadrats, exam=0.0), assign_folds(quadrats))
    assert (assign_folds(quadrats)["fold"] >= 0).all()


def test_a_file_names_the_images_of_an_exam_itself(quadrats: pd.DataFrame, tmp_path: Path) -> None:
    folds = assign_folds(quadrats)
    folds.loc[folds["fold"] == 4, "fold"] = EXAM
    write_folds(folds, tmp_path / "folds.csv")
    cut, lone = folds.copy(), assign_folds(quadrats)
    cut.loc[folds.index[folds["fold"] == 0][0], "fold"] = EXAM
    lone.loc[lone["group"] == lone["group"].iloc[0], "fold"] = EXAM
    for wrong, why in ((cut, "holds whole sampling dates, "), (lone, "2 sampling dates or more, got 1")):
        write_folds(wrong, tmp_path / "wrong.csv")
        with pytest.raises(FoldError, match=why):
            assign_folds(quadrats, scheme="file", file=tmp_path / "wrong.csv")
    read = assign_folds(quadrats, scheme="file", file=tmp_path / "folds.csv")
    assert read["fold"].tolist() == folds["fold"].tolist()
    with pytest.raises(FoldError, match="names the images of an exam itself, by exam; leave --exam out"):
        assign_folds(quadrats, scheme="file", file=tmp_path / "folds.csv", exam=0.2)


def test_what_trains_a_fold(quadrats: pd.DataFrame) -> None:
    fold_N = np.array([0, ALWAYS, 2, 1, EXAM, 0, 2])
    assert folds_in(fold_N) == [0, 1, 2]
    by_hand = {False: {0: [1, 2, 3, 6], 1: [0, 1, 2, 5, 6], 2: [0, 1, 3, 5]}, True: {0: [1], 1: [0, 1, 5]}}
    for ordered, rows in by_hand.items():
        for fold, train in rows.items():
            assert np.flatnonzero(training_rows(fold_N, fold, ordered=ordered)).tolist() == train
    assert np.flatnonzero(training_rows(fold_N, 2, ordered=True)).tolist() == [0, 1, 3, 5]
    assert predicting_folds(fold_N) == [0, 1, 2] and predicting_folds(fold_N, ordered=True) == [2]
    table = pd.DataFrame({"fold": fold_N, "row": range(7)})
    assert scored_rows(table)["row"].tolist() == [0, 2, 3, 5, 6] and scored_rows(table).index.tolist() == [*range(5)]


@pytest.mark.parametrize("scheme", ["date", "random", "species", "state", "time"])
def test_the_rows_that_train_a_fold_are_none_of_its_own_and_under_time_lie_before_it(scheme: str) -> None:
    for seed in range(3):
        quadrats = field_table(seed)
        for exam in (0.0, 0.2):
            fold_N = assign_folds(quadrats, scheme=scheme, seed=seed, exam=exam)["fold"].to_numpy()
            day_N, held_out = days_of(quadrats), np.zeros(len(fold_N), dtype=int)
            for fold in folds_in(fold_N):
                train = training_rows(fold_N, fold, ordered=scheme == "time")
                held_out += fold_N == fold
                assert train.any() and not (train & ((fold_N == fold) | (fold_N == EXAM))).any()
                if scheme == "time":
                    assert day_N[train].max() < day_N[fold_N == fold].min()
                else:
                    assert (train | (fold_N == fold) | (fold_N == EXAM)).all()
            assert (held_out == (fold_N >= 0)).all()
            assert (fold_N == ALWAYS).any() == (scheme == "time") and (fold_N == EXAM).any() == (exam > 0)


@pytest.mark.parametrize("blocks", [2, 3, 5, 10])
def test_blocks_of_time_are_whole_dates_in_order_and_about_equal(blocks: int) -> None:
    for seed in range(5):
        quadrats = field_table(seed)
        folds = assign_folds(quadrats, scheme="time", n_folds=blocks, seed=seed)
        day_N, fold_N = days_of(quadrats), folds["fold"].to_numpy()
        assert sorted(set(fold_N)) == list(range(ALWAYS, blocks - 1))
        ends = [(day_N[fold_N == fold].min(), day_N[fold_N == fold].max()) for fold in range(ALWAYS, blocks - 1)]
        assert all(before[1] < after[0] for before, after in itertools.pairwise(ends))
        assert len(set(day_N[fold_N == ALWAYS])) >= 2
        size_B, largest = np.bincount(fold_N + 1), int(np.unique(day_N, return_counts=True)[1].max())
        assert np.ptp(size_B) <= 2 * largest
        again = assign_folds(quadrats.sample(frac=1, random_state=1), scheme="time", n_folds=blocks, seed=seed + 1)
        assert fold_hash(again, ordered=True) == fold_hash(folds, ordered=True)


@given(size_D=st.lists(st.integers(1, 9), min_size=4, max_size=8), blocks=st.integers(2, 3))
def test_no_other_cut_of_the_dates_is_more_even(size_D: list[int], blocks: int) -> None:
    def unevenness(ends: tuple[int, ...]) -> int:
        return sum(sum(size_D[a:b]) ** 2 for a, b in itertools.pairwise((0, *ends)))

    found = tuple(_even_cuts(np.array(size_D), blocks).tolist())
    assert found[0] >= 2 and found[-1] == len(size_D)
    others = itertools.combinations(range(2, len(size_D)), blocks - 1)
    assert unevenness(found) == min(unevenness((*cuts, len(size_D))) for cuts in others)


def test_an_exam_under_time_is_of_the_last_dates(quadrats: pd.DataFrame) -> None:
    folds = assign_folds(quadrats, scheme="time", exam=0.2)
    kept, day_N = (folds["fold"] == EXAM).to_numpy(), days_of(quadrats)
    assert day_N[kept].min() > day_N[~kept].max() and 0.1 < kept.mean() < 0.3
    late = folds[day_N == day_N.max()]
    other = assign_folds(quadrats, scheme="time", exam=0.2, known=late)
    kept_too = (other["fold"] == EXAM).to_numpy()
    assert day_N.max() not in day_N[kept_too] and len(set(day_N[kept_too])) >= 2


def test_blocks_of_time_need_dates_and_ten_rows_before_each(quadrats: pd.DataFrame) -> None:
    undated, lacking = quadrats.drop(columns="Sampling_Date").assign(kept_whole="a"), quadrats.copy()
    lacking.loc[3, "Sampling_Date"] = pd.NaT
    few = quadrats[quadrats["Sampling_Date"] <= np.sort(quadrats["Sampling_Date"].unique())[4]]
    for table, why in (
        (undated, "folds by time need the column Sampling_Date"),
        (lacking, "need the date of every photograph, 1 has none"),
        (few, "5 blocks of time need 6 sampling dates, 2 of them in the first, got 5; ask for fewer"),
    ):
        with pytest.raises(FoldError, match=why):
            assign_folds(table.reset_index(drop=True), scheme="time")
    thin = quadrats.groupby("Sampling_Date").head(1).reset_index(drop=True).head(20)
    with pytest.raises(
        FoldError, match=r"10 measured photographs or more, before fold 0 there are \d; measure more, cut"
    ):
        assign_folds(thin, scheme="time", n_folds=4)
    first = assign_folds(quadrats, scheme="time")["fold"] == ALWAYS
    early = quadrats.assign(Dry_Clover_g=quadrats["Dry_Clover_g"].where(first))
    with pytest.raises(
        FoldError, match="what is learned is scored, Dry_Clover_g is measured only in images that are not"
    ):
        assign_folds(early, scheme="time")
    late = quadrats.assign(Dry_Clover_g=quadrats["Dry_Clover_g"].where(~first))
    with pytest.raises(FoldError, match=r"Dry_Clover_g is learned from 10 .* before fold 0 there are 0"):
        assign_folds(late, scheme="time")


def test_photographs_that_a_file_always_trains_on(quadrats: pd.DataFrame, tmp_path: Path) -> None:
    folds = assign_folds(quadrats)
    folds["fold"] = folds["fold"].replace({4: ALWAYS, 3: EXAM})
    read = assign_folds(quadrats, scheme="file", file=write_folds(folds, tmp_path / "folds.csv"))
    assert read["fold"].tolist() == folds["fold"].tolist()
    assert fold_hash(read) not in {fold_hash(scored_rows(read)), fold_hash(read, ordered=True)}
    alone = folds.assign(fold=folds["fold"].where(folds["fold"].isin([0, ALWAYS]), ALWAYS))
    assert set(assign_folds(quadrats, scheme="file", file=write_folds(alone, tmp_path / "alone.csv"))["fold"]) == {
        0,
        -1,
    }
    cut = assign_folds(quadrats)
    cut.loc[cut["group"].duplicated() & (cut["group"] == cut["group"].iloc[0]), "fold"] = ALWAYS
    assert cut_groups(assign_folds(quadrats, scheme="file", file=write_folds(cut, tmp_path / "cut.csv"))) == 1


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            {"0": "-1", "1": "-1", "2": "-1", "3": "-1", "4": "-1"},
            r"at least two, or one beside .* -1; got \[\] and -1",
        ),
        ({"1": "0", "2": "0", "3": "0", "4": "0"}, r"or one beside images of fold -1; got \[0\]$"),
        ({"0": "-1"}, r"numbered 0, 1, ... without gaps, .*; got \[1, 2, 3, 4\] and -1"),
        ({"4": "-2"}, "-1 for an image that is only trained on, or exam, got '-2'"),
        ({"4": "test"}, "or exam, got 'test'"),
    ],
)
def test_a_file_that_says_no_folds(quadrats: pd.DataFrame, tmp_path: Path, change: dict[str, str], why: str) -> None:
    folds = assign_folds(quadrats).astype({"fold": str}).replace({"fold": change})
    folds[["image_id", "fold"]].to_csv(tmp_path / "folds.csv", index=False)
    with pytest.raises(FoldError, match=why):
        assign_folds(quadrats, scheme="file", file=tmp_path / "folds.csv")


def test_hashes_without_rows_that_are_always_trained_on_are_what_they_were() -> None:
    folds = pd.DataFrame({"image_id": ["a", "b", "c", "d"], "fold": [0, 1, 0, EXAM], "group": ["x", "y", "z", "u"]})
    assert fold_hash(folds) == hashlib.blake2b(b"a\t0\nb\t1\nc\t0\n", digest_size=6).hexdigest()


@pytest.mark.parametrize(("share", "why"), [(0.6, "at most 0.5, got 0.6"), (-0.1, "above 0")])
def test_a_share_that_is_none_is_refused(quadrats: pd.DataFrame, share: float, why: str) -> None:
    with pytest.raises(FoldError, match=why):
        assign_folds(quadrats, exam=share)


def test_an_exam_leaves_dates_to_learn_from(quadrats: pd.DataFrame) -> None:
    of_state = quadrats[quadrats["State"] == "NSW"]
    few = of_state[of_state["Sampling_Date"].isin(sorted(of_state["Sampling_Date"].unique())[:2])]
    with pytest.raises(FoldError, match="needs 2 sampling dates, and others to learn from"):
        assign_folds(few, n_folds=2, exam=0.5)


@given(sizes=st.lists(st.integers(1, 30), min_size=2, max_size=12), n_folds=st.integers(2, 12), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_no_fold_is_empty_however_odd_the_groups(sizes: list[int], n_folds: int, seed: int) -> None:
    days = np.repeat(np.arange(len(sizes)), sizes)
    quadrats = pd.DataFrame(
        {
            "image_id": [f"I{i}" for i in range(len(days))],
            "State": "Vic",
            "Sampling_Date": pd.Timestamp(2015, 1, 1) + pd.to_timedelta(days, unit="D"),
            "Dry_Clover_g": (days % 2).astype(float),
            "Dry_Dead_g": 1.0,
        }
    )
    if n_folds > len(sizes):
        with pytest.raises(FoldError, match=f"{n_folds} are needed, got {len(sizes)}; ask for fewer folds"):
            assign_folds(quadrats, n_folds=n_folds, seed=seed)
    else:
        folds = assign_folds(quadrats, n_folds=n_folds, seed=seed)
        assert set(folds["fold"]) == set(range(n_folds))
        assert (folds.groupby("group")["fold"].nunique() == 1).all()


def test_a_date_in_two_states_is_two_groups(quadrats: pd.DataFrame) -> None:
    folds = assign_folds(quadrats)
    assert {"NSW|2015-05-01", "Tas|2015-05-01"} <= set(folds["group"])


def test_random_folds_differ_by_one_image_in_every_stratum(quadrats: pd.DataFrame) -> None:
    fold = assign_folds(quadrats, scheme="random")["fold"]
    assert np.ptp(fold.value_counts()) <= 1
    strata = (quadrats["Dry_Clover_g"] > 0).astype(str) + (quadrats["Dry_Dead_g"] > 0).astype(str)
    counts = pd.crosstab(strata, fold)
    assert (counts.max(axis=1) - counts.min(axis=1)).max() <= 1
    shared = set(quadrats.loc[fold == 0, "Sampling_Date"]) & set(quadrats.loc[fold == 1, "Sampling_Date"])
    assert shared  # by image: dates are on both sides, which is what makes these folds optimistic


def test_species_folds_spread_each_species_and_pool_the_rare(quadrats: pd.DataFrame) -> None:
    species = quadrats["Species"].to_numpy(dtype=object)
    species[:3], species[3:6] = "Rare", "Rarer"
    changed = quadrats.assign(Species=pd.Series(species, index=quadrats.index, dtype="str"))
    fold = assign_folds(changed, scheme="species")["fold"]
    counts = pd.crosstab(changed["Species"].where(~changed["Species"].isin(["Rare", "Rarer"]), "pooled"), fold)
    assert (counts.max(axis=1) - counts.min(axis=1)).max() <= 1
    assert sorted(counts.loc["pooled"]) == [1, 1, 1, 1, 2]


def test_state_folds_leave_one_state_out(quadrats: pd.DataFrame) -> None:
    folds = assign_folds(quadrats, scheme="state", n_folds=7)
    assert folds.groupby("fold")["group"].agg(lambda g: {x.split("|")[0] for x in g}).tolist() == [
        {"NSW"},
        {"Tas"},
        {"Vic"},
        {"WA"},
    ]
    with pytest.raises(FoldError, match="2 are needed, got 1"):
        assign_folds(quadrats[quadrats["State"] == "WA"], scheme="state")


def test_what_was_not_measured_is_a_stratum_of_its_own(quadrats: pd.DataFrame) -> None:
    """Folds of a whole table stay what they were; unmeasured clover is spread as evenly as clover is."""
    unknown = np.random.default_rng(0).random(len(quadrats)) < 0.4
    part = quadrats.assign(Dry_Clover_g=quadrats["Dry_Clover_g"].where(~unknown))
    fold = assign_folds(part, scheme="random")["fold"]
    strata = np.where(unknown, "unknown", (part["Dry_Clover_g"] > 0).astype(str))
    counts = pd.crosstab(strata, fold)
    assert set(counts.index) == {"True", "False", "unknown"} and (counts.max(axis=1) - counts.min(axis=1)).max() <= 2
    by_date = pd.crosstab(strata, assign_folds(part)["fold"])
    assert (by_date.loc["unknown"] > 0).all()


@pytest.mark.parametrize("scheme", ["date", "random", "state"])
def test_a_target_with_too_few_measured_rows_is_refused_before_anything_is_fitted(
    quadrats: pd.DataFrame, scheme: str
) -> None:
    few = np.arange(len(quadrats)) % 40 == 0  # 9 of 357 images
    enough = np.arange(len(quadrats)) % 9 == 0
    assert (
        assign_folds(quadrats.assign(Dry_Clover_g=quadrats["Dry_Clover_g"].where(enough)), scheme=scheme)["fold"] >= 0
    ).all()
    part = quadrats.assign(Dry_Clover_g=quadrats["Dry_Clover_g"].where(few))
    with pytest.raises(FoldError, match=r"Dry_Clover_g is learned from 10 measured photographs or more, without fold "):
        assign_folds(part, scheme=scheme)
    never = quadrats.assign(Dry_Clover_g=np.nan)
    assert (assign_folds(never, scheme=scheme)["fold"] >= 0).all()
    assert (assign_folds(quadrats.head(8), scheme="random", n_folds=4)["fold"] >= 0).all()


def test_folds_from_a_file(quadrats: pd.DataFrame, tmp_path: Path) -> None:
    drawn = assign_folds(quadrats, scheme="random", n_folds=3)
    path = tmp_path / "folds.csv"
    drawn.sample(frac=1, random_state=1).to_csv(path, index=False)
    read = assign_folds(quadrats, scheme="file", file=path)
    pd.testing.assert_frame_equal(read, drawn)


def test_a_fold_file_that_does_not_fit_is_refused_with_every_reason(quadrats: pd.DataFrame, tmp_path: Path) -> None:
    drawn = assign_folds(quadrats, n_folds=3)[["image_id", "fold"]].astype({"fold": "str"})
    path = tmp_path / "folds.csv"
    wrong = drawn.iloc[1:].copy()  # the first image is missing
    wrong.iloc[0, 0] = "stranger"
    wrong.iloc[4, 1] = "1.5"
    wrong["fold"] = wrong["fold"].replace("1", "7")
    pd.concat([wrong, wrong.iloc[[8]]]).to_csv(path, index=False)
    with pytest.raises(FoldError) as caught:
        assign_folds(quadrats, scheme="file", file=path)
    text = str(caught.value)
    for part in ("folds.csv", "'1.5'", drawn["image_id"][0], "'stranger'", wrong.iloc[8, 0], "[0, 2, 7]"):
        assert part in text
    with pytest.raises(FoldError, match="no such file"):
        assign_folds(quadrats, scheme="file", file=tmp_path / "nothing.csv")
    drawn.assign(fold="0").to_csv(path, index=False)
    with pytest.raises(FoldError, match="at least two"):
        assign_folds(quadrats, scheme="file", file=path)


def test_arguments_that_make_no_sense(quadrats: pd.DataFrame, tmp_path: Path) -> None:
    for arguments in ({"scheme": "dates"}, {"n_folds": 1}, {"scheme": "file"}, {"file": tmp_path / "x.csv"}):
        with pytest.raises(FoldError):
            assign_folds(quadrats, **arguments)
    with pytest.raises(FoldError, match="repeated image ids"):
        assign_folds(pd.concat([quadrats, quadrats.head(1)]))
    with pytest.raises(FoldError, match="400 are needed, got 357"):
        assign_folds(quadrats, scheme="random", n_folds=400)


def test_hash_depends_on_who_is_where() -> None:
    folds = pd.DataFrame({"image_id": ["a", "b", "c"], "fold": [0, 1, 0], "group": ["x", "y", "z"]})
    assert fold_hash(folds) == fold_hash(folds[::-1]) == fold_hash(folds.astype({"fold": "int32"}))
    assert len(fold_hash(folds)) == 12 and int(fold_hash(folds), 16) >= 0
    assert fold_hash(folds) != fold_hash(folds.assign(fold=[1, 0, 1]))
    assert fold_hash(folds) != fold_hash(folds.assign(image_id=["a", "b", "d"]))
