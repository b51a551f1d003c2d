"""What lies later, and what is only trained on: what may move which prediction, with real fits of every family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from commands import words_of
from tiny_study import FAMILY_NAMES, RANDOM, make_study

from biomass_models.data.folds import assign_folds
from biomass_models.data.references import reference_predictions
from biomass_models.data.table import read_train
from biomass_models.fold_rows import ALWAYS, training_rows
from biomass_models.pasture.make import make_pasture
from biomass_models.targets import TARGETS, weighted_r2_score
from orchestration.inspect.audit import audit
from orchestration.inspect.explain import explain
from orchestration.report.make import make_report
from orchestration.report.sections.scheme_gap import pairs_of
from orchestration.search.trial import run_trial
from orchestration.study.data import StudyData
from orchestration.study.ledger import LedgerError
from orchestration.workers.jobs import FlipsJob, FoldJob
from orchestration.workers.refit import refit_trial
from orchestration.workers.resources import Resources
from orchestration.workers.runner import JobRunner
from orchestration.workers.slots.inline_pool import inline_slot

pytestmark = pytest.mark.slow

Change = Callable[[pd.DataFrame], pd.DataFrame]


@pytest.fixture(scope="module")
def pasture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough photographs for ten in a first block."""
    folder = tmp_path_factory.mktemp("pasture") / "data"
    make_pasture(folder, images=36, test_images=0, seed=0, width=160, height=80, workers=1)
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def folds_of_study(
    folder: Path, data: Path, cache: Path, fold: int, change: Change, **asked: object
) -> dict[str, bytes]:
    """What a fold says, and its model, by family, of a study whose table was changed."""
    ledger, context, records = make_study(folder, data, cache, FAMILY_NAMES, **asked)  # type: ignore[arg-type]
    ledger.write_study(ledger.study(), change(ledger.quadrats()))
    found = {}
    for record in records:
        outcome = JobRunner(context).run(FoldJob(trial_id=record.trial_id, fold=fold, together=False))
        assert outcome.metrics is not None, outcome.reason
        oof = ledger.fold_oof(record.trial_id, fold)
        quadrats = ledger.quadrats()
        assert oof["image_id"].tolist() == quadrats["image_id"][quadrats["fold"] == fold].tolist()
        found[record.family] = oof[list(TARGETS)].to_numpy().tobytes() + ledger.fold_model(record.trial_id, fold)
    assert found.keys() == set(FAMILY_NAMES)
    return found


def grown(rows: Callable[[pd.DataFrame], pd.Series], shuffle: bool = False) -> Change:
    """A change of the masses of some rows; shuffle: and of which photograph they have, and their order."""

    def change(quadrats: pd.DataFrame) -> pd.DataFrame:
        place = np.flatnonzero(rows(quadrats))
        assert len(place)
        quadrats.loc[place, list(TARGETS)] *= 3.0
        if shuffle:
            turned = np.roll(place, 1)
            quadrats.loc[place, "image_path"] = quadrats["image_path"].to_numpy()[turned]
            order = np.arange(len(quadrats))
            order[place] = place[::-1]
            quadrats = quadrats.iloc[order].reset_index(drop=True)
        return quadrats

    return change


def test_what_lies_later_moves_no_prediction_and_what_lies_before_moves_them(
    tmp_path: Path, pasture: Path, cache: Path
) -> None:
    """Labels, photographs and their order; of every family, and with the teacher that distils."""

    def of(name: str, fold: int, change: Change) -> dict[str, bytes]:
        return folds_of_study(tmp_path / name, pasture, cache, fold, change, scheme="time")

    first = of("first", 0, lambda quadrats: quadrats)
    later = of("later", 0, grown(lambda quadrats: quadrats["fold"] == 1, shuffle=True))
    before = of("before", 0, grown(lambda quadrats: quadrats["fold"] == ALWAYS))
    assert later == first and all(before[family] != first[family] for family in first)
    last, moved = (
        of("last", 1, lambda quadrats: quadrats),
        of("moved", 1, grown(lambda quadrats: quadrats["fold"] == 0)),
    )
    assert all(moved[family] != last[family] for family in last)


@pytest.fixture
def fold_file(tmp_path: Path, pasture: Path) -> Path:
    """Two folds, and the first dates only trained on."""
    table = read_train(pasture)
    days = sorted(table["Sampling_Date"].unique())
    fold = table["Sampling_Date"].isin(days[::2]).astype(int).where(~table["Sampling_Date"].isin(days[:2]), ALWAYS)
    table[["image_id"]].assign(fold=fold).to_csv(tmp_path / "folds.csv", index=False)
    return tmp_path / "folds.csv"


def test_what_is_only_trained_on_moves_every_fold(tmp_path: Path, pasture: Path, cache: Path, fold_file: Path) -> None:
    asked = {"scheme": "file", "file": fold_file}
    for fold in (0, 1):
        one = folds_of_study(tmp_path / f"one{fold}", pasture, cache, fold, lambda quadrats: quadrats, **asked)
        change = grown(lambda quadrats: quadrats["fold"] == ALWAYS)
        other = folds_of_study(tmp_path / f"other{fold}", pasture, cache, fold, change, **asked)
        assert all(one[family] != other[family] for family in one)


@pytest.mark.parametrize("scheme", ["time", "file"])
def test_rows_that_are_only_trained_on_are_pooled_scored_and_refitted_nowhere(
    tmp_path: Path, pasture: Path, cache: Path, fold_file: Path, scheme: str
) -> None:
    file = fold_file if scheme == "file" else None
    ledger, context, records = make_study(tmp_path / "study", pasture, cache, scheme=scheme, file=file)
    with inline_slot(context, Resources(inline=True, cache=cache)) as pool:
        for record in records:
            result = run_trial(ledger, pool, record.trial_id, together=True)
            assert result is not None and result.status == "complete" and len(result.fold_scores) == 2, result
    study, learned = StudyData(ledger), ledger.quadrats()
    scored = learned[learned["fold"] >= 0]
    assert study.truth["image_id"].tolist() == scored["image_id"].tolist() and study.folds == [0, 1]
    for record in records:
        assert ledger.oof(record.trial_id)["image_id"].tolist() == scored["image_id"].tolist()
        by_hand = weighted_r2_score(scored[list(TARGETS)], study.pred_NT(record.trial_id))
        assert study.by_id[record.trial_id].score == pytest.approx(by_hand)
        together = ["folds_together" in study.fold_metrics(record.trial_id)[fold].info for fold in (0, 1)]
        assert ("teacher" in study.fold_metrics(record.trial_id)[0].info) == (record.family == "distilled")
        assert together == [scheme == "file" and record.family == "baseline"] * 2
    assert audit(ledger).found == []
    for record in records:
        assert refit_trial(ledger, record.trial_id, pasture, cache_dir=cache, weights=RANDOM).same
        job = FlipsJob(study=str(tmp_path / "study"), trial_id=record.trial_id, ensemble="oof-flips-2", flips=2)
        assert JobRunner(context).run(job).status == "done"
        flipped = ledger.member_prediction("oof-flips-2", record.trial_id)
        assert flipped is not None and flipped["image_id"].tolist() == scored["image_id"].tolist()
    with pytest.raises(LedgerError, match="every fold of this study has learned from"):
        explain(
            ledger,
            records[0].trial_id,
            str(learned["image_id"][learned["fold"] == ALWAYS].iloc[0]),
            pasture,
            cache_dir=cache,
            weights=RANDOM,
        )


@pytest.mark.parametrize("ordered", [False, True])
def test_references_of_blocks_are_fitted_on_what_lies_before(pasture: Path, ordered: bool) -> None:
    table = read_train(pasture)
    quadrats = table.merge(assign_folds(table, scheme="time", n_folds=3), on="image_id")
    paths = [pasture / str(path) for path in quadrats["image_path"]]

    def of(change: Change) -> pd.DataFrame:
        found = reference_predictions(change(quadrats.copy()), paths, lambda done, total: None, ordered=ordered)
        fold_of = dict(zip(quadrats["image_id"], quadrats["fold"], strict=True))
        return found.assign(fold=found["image_id"].map(fold_of))

    plain, later = of(lambda quadrats: quadrats), of(grown(lambda quadrats: quadrats["fold"] == 1))
    assert set(plain["fold"]) == {0, 1} and plain["reference"].nunique() == 3
    mean = plain[(plain["reference"] == "per-target mean") & (plain["fold"] == 0)]
    rows = training_rows(quadrats["fold"], 0, ordered=ordered)
    np.testing.assert_allclose(mean[list(TARGETS)], np.tile(quadrats.loc[rows, list(TARGETS)].mean(), (len(mean), 1)))
    for _, one in plain[plain["fold"] == 0].groupby("reference"):
        other = later.loc[one.index]
        assert one.equals(other) == ordered


def test_studies_are_compared_on_the_photographs_that_both_score(tmp_path: Path, pasture: Path, cache: Path) -> None:
    ledgers = []
    for scheme in ("date", "time"):
        ledger, context, records = make_study(tmp_path / scheme, pasture, cache, scheme=scheme)
        with inline_slot(context, Resources(inline=True, cache=cache)) as pool:
            (record,) = [one for one in records if one.family == "probe"]
            run_trial(ledger, pool, record.trial_id)
        ledgers.append(ledger)
    here, there = map(StudyData, ledgers)
    (pair,) = pairs_of(here, there)
    both = there.quadrats.set_index("image_id")
    for study, score in ((here, pair.here), (there, pair.there)):
        pred_NT = study.ledger.oof(study.ranked[0].trial_id).set_index("image_id").loc[both.index, list(TARGETS)]
        assert score == pytest.approx(weighted_r2_score(both[list(TARGETS)], pred_NT))
    assert pair.there == pytest.approx(there.ranked[0].score) and pair.here != pytest.approx(here.ranked[0].score)
    page = words_of(make_report(ledgers[0], compare=[ledgers[1]]))
    assert f"Scores of the {len(both)} photographs that both studies score." in page.replace("\xa0", " ")
