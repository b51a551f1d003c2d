"""Shares that families earn: from the errors of trials to the family of the next one."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import study_records as records
from hypothesis import given
from hypothesis import strategies as st

from biomass_models.targets import TARGETS, FloatArray, from_components, norm_of, project_coherent, weighted_r2_score
from ensembles.gram import error_gram
from orchestration.inspect.status import render_status, status_of
from orchestration.search.gains.family_gains import STEPS, blend_losses, family_gains
from orchestration.search.gains.fold_errors import FoldErrors
from orchestration.search.gains.turns import (
    FLOOR,
    START,
    EarnedTurns,
    EqualTurns,
    Proposed,
    earned_shares,
    new_turns,
    seconds_charged,
)
from orchestration.search.proposer import Proposer
from orchestration.study import layout
from orchestration.study.data import StudyData
from orchestration.study.ledger import Ledger
from orchestration.study.records import TrialRecord, TrialResult
from orchestration.study.settings import StudyError
from orchestration.study.storage import Storage
from search_spaces.spaces import space_of

pytestmark = pytest.mark.slow

FAMILIES = ("baseline", "density", "probe")
SPACES = {family: space_of(family, ("net",), "cpu") for family in FAMILIES}
IMAGES, FOLDS = 60, 4
Ends = Callable[[TrialRecord, FloatArray], tuple[TrialResult, FloatArray | None]]


def made_study(folder: Path, families: tuple[str, ...] = FAMILIES) -> Ledger:
    """A study of drawn masses, without a trial."""
    rng = np.random.default_rng(7)
    quadrats = pd.DataFrame({"image_id": [f"ID{row:03d}" for row in range(IMAGES)]})
    quadrats["group"] = [f"d{row // 5:02d}" for row in range(IMAGES)]
    quadrats["fold"] = [row // 5 % FOLDS for row in range(IMAGES)]
    quadrats[list(TARGETS)] = from_components(*rng.gamma(2.0, 10.0, (3, IMAGES)))
    ledger = Ledger(Storage(folder))
    settings = {"families": families, "folds": FOLDS, "sharing": "earned"}
    ledger.write_study(records.study_record(settings), quadrats)
    return ledger


def proposer(ledger: Ledger, **options: Any) -> Proposer:
    settings = ledger.study().settings
    turns = new_turns(settings.sharing, settings.share_of, StudyData(ledger))
    facts: dict[str, Any] = {"seed": 1, "fold_hash": "f", "weights": {"net": "w"}, "engine": "random", "turns": turns}
    spaces = {family: SPACES[family] for family in settings.families}
    return Proposer(spaces, ledger, **{**facts, **options})


def end(ledger: Ledger, search: Proposer, trial: TrialRecord, ends: Ends) -> None:
    truth_NT = ledger.quadrats()[list(TARGETS)].to_numpy()
    result, pred_NT = ends(trial, truth_NT)
    if pred_NT is not None:
        result = replace(result, score=weighted_r2_score(truth_NT, pred_NT))
    ledger.write_result(
        trial.trial_id, result, None if pred_NT is None else records.oof_of(ledger.quadrats(), pred_NT=pred_NT)
    )
    search.record_result(trial.trial_id, result)


def run(ledger: Ledger, trials: int, ends: Ends, search: Proposer | None = None) -> list[str]:
    """Families of the next trials, one after the other."""
    search, families = search or proposer(ledger), []
    for _ in range(trials):
        trial = search.propose()
        assert trial is not None
        families.append(trial.family)
        end(ledger, search, trial, ends)
    return families


def erring(trial: TrialRecord, truth_NT: FloatArray, error_g: float, seconds: float = 10.0) -> Any:
    """A complete trial with errors of its own."""
    rng = np.random.default_rng(int(trial.trial_id, 16))
    pred_NT = project_coherent(truth_NT + error_g * rng.standard_normal(truth_NT.shape))
    return records.complete(0.0, seconds=seconds), pred_NT


# -- shares ------------------------------------------------------------------------------------------------------------


def test_shares_by_hand() -> None:
    """A half as given, a half by the root of the gain: .02 and .01 are two thirds and one."""
    shares = earned_shares({"a": 1.0, "b": 1.0}, {"a": 0.0004, "b": 0.0001})
    assert shares == pytest.approx({"a": 0.25 + 0.5 * 2 / 3, "b": 0.25 + 0.5 / 3})
    given = earned_shares({"a": 1.0, "b": 3.0}, {"a": 0.0009, "b": 0.0001})  # 1 x 3 and 3 x 1
    assert given == pytest.approx({"a": 0.125 + 0.25, "b": 0.375 + 0.25})


@given(st.dictionaries(st.sampled_from("abcdef"), st.tuples(st.floats(0.1, 9), st.floats(0, 0.1)), min_size=1))
def test_laws_of_shares(families: dict[str, tuple[float, float]]) -> None:
    given_ = {name: share for name, (share, _) in families.items()}
    gains = {name: gain for name, (_, gain) in families.items()}
    total = sum(given_.values())
    shares = earned_shares(given_, gains)
    assert sum(shares.values()) == pytest.approx(1)
    for name, share in given_.items():
        assert shares[name] >= FLOOR * share / total * (1 - 1e-12)
        if sum(gains.values()) > 0 and gains[name] == 0:
            assert shares[name] == pytest.approx(FLOOR * share / total)  # its floor and no more
            without = earned_shares(given_, {other: gains[other] for other in gains if other != name})
            assert without == pytest.approx(shares)
    for gain in (0.0, 0.01):
        alike = earned_shares(given_, dict.fromkeys(families, gain))
        assert alike == pytest.approx({name: share / total for name, share in given_.items()})
    assert earned_shares(given_, {}) == pytest.approx(alike)
    nothing = earned_shares({**given_, "failing": 1.0}, dict.fromkeys(families, 0.0))
    assert nothing["failing"] == pytest.approx(FLOOR / (total + 1))


def test_seconds_that_are_charged_by_hand() -> None:
    def trial(number: int, family: str, result: TrialResult | None) -> Proposed:
        return Proposed(records.trial_record(number, family=family), result)

    trials = [
        trial(0, "a", records.complete(0.5, seconds=10.0)),
        trial(1, "a", records.pruned(0.1, seconds=2.0)),  # costs what it took
        trial(2, "a", records.failed("no", seconds=1.0)),  # 6, as those that ended well
        trial(3, "a", records.failed("no", seconds=50.0)),  # what it took, which is more
        trial(4, "a", None),  # 6
        trial(5, "b", records.failed("no")),  # none of its family ended well: 6, the mean of all
        trial(6, "c", None),
    ]
    assert seconds_charged(trials) == {"a": 10 + 2 + 6 + 50 + 6, "b": 6, "c": 6}
    assert seconds_charged([trial(0, "a", None), trial(1, "a", records.failed("no"))]) == {"a": 2.0}


# -- gains -------------------------------------------------------------------------------------------------------------


def test_gains_by_hand() -> None:
    """Errors that have nothing in common: the mean of n trials of loss .4 has .4 / n."""
    family_M, half_M = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    alike_KMM = np.tile(0.2 * np.eye(4), (2, 1, 1))
    assert family_gains(alike_KMM, family_M, half_M, 3) == pytest.approx([0.4 / 3 - 0.1, 0.4 / 3 - 0.1, 0.0])
    bad_KMM = np.tile(np.diag([0.2, 0.2, 5.0, 5.0]), (2, 1, 1))
    assert family_gains(bad_KMM, family_M, half_M, 2) == pytest.approx([0.2, 0.0])
    lucky_KMM = np.stack([np.diag([0.2, 0.2, 0.0, 9.0]), np.diag([0.2, 0.2, 9.0, 0.0])])  # each good on one fold only
    assert family_gains(lucky_KMM, family_M, half_M, 2)[1] == 0.0
    same_KMM = np.tile(0.2 * np.array([[1, 0, 1, 0], [0, 1, 0, 1]] * 2), (2, 1, 1))  # one family is the other's copy
    assert family_gains(same_KMM, family_M, half_M, 2) == pytest.approx([0.0, 0.0])
    assert family_gains(alike_KMM[:1], family_M, half_M, 2).tolist() == [0.0, 0.0]  # nothing is out of fold
    assert family_gains(np.zeros((4, 0, 0)), np.zeros(0, int), np.zeros(0, int), 2).tolist() == [0.0, 0.0]
    only = np.zeros(1, dtype=int)  # without its only trial the mean is predicted: R2 0
    assert family_gains(np.full((2, 1, 1), 0.2), only, only, 1) == pytest.approx([0.6 / 2])


def test_blends_are_chosen_without_the_fold_that_they_are_scored_on() -> None:
    """Against hill-climbing written out, on sets that are drawn."""
    rng = np.random.default_rng(0)
    error_KME = rng.standard_normal((3, 6, 9))
    gram_KMM = error_KME @ error_KME.transpose(0, 2, 1)
    allowed_BM = np.concatenate([np.ones((1, 6)), rng.integers(0, 2, (8, 6)), np.zeros((1, 6))]).astype(bool)
    for loss, allowed_M in zip(blend_losses(gram_KMM, allowed_BM), allowed_BM, strict=True):
        expected, members = 0.0, np.flatnonzero(allowed_M)
        for held in range(3) if len(members) else ():
            train_MM = gram_KMM.sum(0) - gram_KMM[held]
            picks: list[int] = []
            prefixes = []
            for _ in range(STEPS):
                picks.append(min(members, key=lambda one: _loss(train_MM, [*picks, one])))
                prefixes.append(list(picks))
            expected += _loss(gram_KMM[held], min(prefixes, key=lambda picks: _loss(train_MM, picks)))
        assert loss == pytest.approx(expected if len(members) else 1.0)


def _loss(gram_MM: FloatArray, picks: list[int]) -> float:
    weight_M = np.bincount(picks, minlength=len(gram_MM)) / len(picks)
    return float(weight_M @ gram_MM @ weight_M)


def test_errors_are_those_of_the_blending_gram_however_they_were_asked_for(tmp_path: Path) -> None:
    ledger = made_study(tmp_path)
    run(ledger, 8, lambda trial, truth_NT: erring(trial, truth_NT, 6.0))
    data = StudyData(ledger)
    names = [trial.trial_id for trial in data.trials]
    grown = FoldErrors(data)
    for some in (names[:3], names[2:6], names):  # some are forgotten and read again
        found, gram_KMM = grown.of(some)
        pred_MNT = np.stack([data.pred_NT(name) for name in some])
        gram = error_gram(
            project_coherent(pred_MNT), data.truth_NT, data.quadrats["fold"], data.quadrats["group"], None, data.weight
        )
        expected = [gram.select(gram.fold_C == fold).product_MM / gram.sst for fold in range(FOLDS)]
        assert found == some and gram_KMM == pytest.approx(np.array(expected))
    fresh = FoldErrors(data).of(names[::-1])[1][:, ::-1, ::-1]
    assert (fresh == gram_KMM).all()  # to the bit, in whatever order trials have ended
    score = 1 - gram_KMM.sum(0)[4, 4]
    assert score == pytest.approx(data.by_id[names[4]].score)
    (tmp_path / layout.trial(names[1]) / layout.OOF).write_bytes(b"torn")
    assert FoldErrors(StudyData(ledger)).of(names)[0] == [names[0], *names[2:]]


def test_masses_that_were_not_measured_are_not_looked_at(tmp_path: Path) -> None:
    ledger = made_study(tmp_path)
    run(ledger, 3, lambda trial, truth_NT: erring(trial, truth_NT, 6.0))
    names = [trial.trial_id for trial in ledger.trials()]
    quadrats = ledger.quadrats()
    for measured in (40, 0):
        quadrats.loc[quadrats.index >= measured, "Dry_Clover_g"] = np.nan
        partial = Ledger(Storage(tmp_path / f"{measured}"))
        partial.write_study(records.study_record(), quadrats)
        data = StudyData(partial)
        for name in names:
            oof = ledger.oof(name)
            partial.write_trial(ledger.trial(name))
            partial.write_result(name, records.complete(0.5), oof)
        gram_MM = FoldErrors(data).of(names)[1].sum(0)
        pred_MNT = project_coherent(np.stack([data.pred_NT(name) for name in names]), norm_of(data.weight))
        expected = [1 - weighted_r2_score(data.truth_NT, pred_NT, data.weight) for pred_NT in pred_MNT]
        assert gram_MM.diagonal() == pytest.approx(expected)


# -- turns -------------------------------------------------------------------------------------------------------------


def test_the_first_turns_are_equal_and_then_a_family_of_noise_keeps_its_floor(tmp_path: Path) -> None:
    """Of three families two gain alike: 5/12 each, and 1/6 for the third."""
    ledger = made_study(tmp_path)

    def ends(trial: TrialRecord, truth_NT: FloatArray) -> Any:
        return erring(trial, truth_NT, 200.0 if trial.family == "probe" else 8.0)

    families = run(ledger, 72, ends)
    assert families[: START * 3] == list(FAMILIES) * START
    count = Counter(families)
    assert abs(count["probe"] - 72 / 6) <= 1 and min(count["baseline"], count["density"]) > 20


def test_alike_families_get_alike_shares_of_the_seconds(tmp_path: Path) -> None:
    """One of them takes four times as long; none has errors that another lacks."""
    ledger = made_study(tmp_path)

    def ends(trial: TrialRecord, truth_NT: FloatArray) -> Any:
        same = np.random.default_rng(0).standard_normal(truth_NT.shape)
        seconds = 40.0 if trial.family == "density" else 10.0
        return records.complete(0.0, seconds=seconds), project_coherent(truth_NT + 5 * same)

    seconds = Counter[str]()
    for family in run(ledger, 60, ends):
        seconds[family] += 40 if family == "density" else 10
    assert max(seconds.values()) - min(seconds.values()) <= 40


@pytest.mark.parametrize("kind", ["failed", "pruned"])
def test_a_family_without_a_complete_trial_keeps_its_floor_and_no_more(tmp_path: Path, kind: str) -> None:
    """Trials that fail at once cost nothing, and are charged like others; pruned ones what they took."""
    ledger = made_study(tmp_path)

    def ends(trial: TrialRecord, truth_NT: FloatArray) -> Any:
        if trial.family != "density":
            return erring(trial, truth_NT, 8.0)
        return (records.failed("no"), None) if kind == "failed" else (records.pruned(-1.0, seconds=5.0), None)

    count = Counter(run(ledger, 60, ends))
    others = 10 * (count["baseline"] + count["probe"])
    own = (10 if kind == "failed" else 5) * count["density"]
    assert own / (own + others) == pytest.approx(FLOOR / 3, abs=0.03)


def test_refused_trials_take_no_turn(tmp_path: Path) -> None:
    """Every proposal of a family is too expensive: it has no more points, the others share what there is."""

    class Expensive:
        is_ready, unknown = True, None

        def seconds(self, family: str, config: Any) -> float:
            return 1e6 if family == "density" else 1.0

    ledger = made_study(tmp_path)
    search = proposer(ledger, costs=Expensive(), max_fold_seconds=60.0)
    families = run(ledger, 20, lambda trial, truth_NT: erring(trial, truth_NT, 8.0), search)
    assert set(families) == {"baseline", "probe"} and search.trials.count("refused") > 0
    assert "refused" in str(search.why_exhausted["density"])


@pytest.mark.slow
def test_a_resumed_search_takes_the_turns_of_an_undisturbed_one(tmp_path: Path) -> None:
    """With trials under way that end out of order, fail, are pruned, and differ in what they bring and cost."""

    def ends(trial: TrialRecord, truth_NT: FloatArray) -> Any:
        kind = trial.number % 7
        if kind in (2, 5):
            return (records.failed("no", seconds=1.0) if kind == 2 else records.pruned(0.1, seconds=3.0)), None
        error = {"baseline": 5.0, "density": 9.0, "probe": 40.0}[trial.family]
        return erring(trial, truth_NT, error, seconds=5.0 + trial.number % 4)

    ledger = made_study(tmp_path / "living")
    living, under_way, families = proposer(ledger), list[TrialRecord](), Counter[str]()
    for step in range(45):
        if step % 4 == 0:
            shutil.copytree(tmp_path / "living", tmp_path / f"{step}")
            resumed = proposer(Ledger(Storage(tmp_path / f"{step}")))
            assert [resumed.propose() for _ in under_way] == under_way
            expected = resumed.propose()
        trial = living.propose()
        assert trial is not None and expected is not None
        if step % 4 == 0:
            assert replace(expected, proposed_at=trial.proposed_at) == trial
        families[trial.family] += 1
        under_way.append(trial)
        if len(under_way) == 3:
            end(ledger, living, under_way.pop(step % 3), ends)
    assert max(families.values()) > 1.5 * min(families.values())  # shares were no longer equal


def test_shares_of_a_study_are_shown_and_may_be_changed(tmp_path: Path) -> None:
    ledger = made_study(tmp_path)
    found = status_of(ledger)
    assert found.shares == "earned" and "shares  earned: of the seconds, by what" in render_status(found)
    settings = ledger.study().settings
    shares = settings.share_of
    assert shares == dict.fromkeys(FAMILIES, 1.0)
    assert isinstance(new_turns(settings.sharing, shares, StudyData(ledger)), EarnedTurns)
    assert isinstance(new_turns("equal", shares, StudyData(ledger)), EqualTurns)
    with pytest.raises(StudyError, match="equal or earned, the study has lent; give one of them with --shares"):
        new_turns("lent", shares, StudyData(ledger))
    ledger.update_study(replace(ledger.study(), settings=replace(settings, sharing="equal")))
    assert "shares" not in render_status(status_of(ledger))
