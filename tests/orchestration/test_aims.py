"""What proposals are to raise: a trial's score, or what it brings the blend of all others."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import study_records as records
from test_family_shares import erring, made_study, run

from biomass_models.targets import FloatArray
from ensembles.rules import greedy_bags
from orchestration.inspect.status import render_status, status_of
from orchestration.search.engines.base import Observation
from orchestration.search.engines.tpe import STARTUP_TRIALS, TpeEngine
from orchestration.search.gains.aims import BlendAim, new_aim
from orchestration.search.gains.family_gains import STEPS
from orchestration.search.gains.fold_errors import FoldErrors
from orchestration.search.gains.trial_gains import trial_gains
from orchestration.search.gains.turns import Proposed
from orchestration.search.proposer import Proposer
from orchestration.study import layout
from orchestration.study.data import StudyData
from orchestration.study.ledger import Ledger
from orchestration.study.records import TrialRecord
from orchestration.study.settings import StudyError
from orchestration.study.storage import Storage
from search_spaces.spaces import space_of

SPACES = {"probe": space_of("probe", ("net",), "cpu")}


def proposer(ledger: Ledger, **options: Any) -> Proposer:
    facts: dict[str, Any] = {"seed": 1, "fold_hash": "f", "weights": {"net": "w"}, "engine": "tpe"}
    return Proposer(SPACES, ledger, **{**facts, "aim": new_aim("blend", StudyData(ledger)), **options})


# -- gains -------------------------------------------------------------------------------------------------------------


def test_gains_of_trials_by_hand() -> None:
    """Two trials whose errors have nothing in common: of losses 1 and 3, mixing in the better one brings 9 / 4."""
    one_KMM = np.tile(np.diag([0.5, 1.5]), (2, 1, 1))
    assert trial_gains(one_KMM) == pytest.approx([9 / 4, 1 / 4])  # d = 3 and 1, D = 4
    copy_KMM = np.tile(0.5 * np.ones((2, 2)), (2, 1, 1))
    assert trial_gains(copy_KMM) == pytest.approx([0.0, 0.0])  # a copy of all others
    worse_KMM = np.tile(0.5 * np.array([[1.0, 2.0], [2.0, 4.0]]), (2, 1, 1))  # the same error, twice as large
    assert trial_gains(worse_KMM) == pytest.approx([4.0, -1.0])
    assert trial_gains(one_KMM[:, :1, :1]).tolist() == [0.0] and trial_gains(one_KMM[:1]).tolist() == [0.0, 0.0]
    assert trial_gains(np.zeros((3, 0, 0))).tolist() == []


def test_a_gain_is_what_the_best_share_of_a_trial_brings_out_of_fold() -> None:
    """Against blends of the others written out, and shares tried one by one."""
    rng = np.random.default_rng(3)
    common_K1E = rng.standard_normal((4, 1, 12))
    error_KME = common_K1E + rng.standard_normal((4, 7, 12)) * rng.uniform(0.4, 2.0, (7, 1))
    error_KME[:, 5:6] = 3 * common_K1E  # what all have, and more of it
    gram_KMM = error_KME @ error_KME.transpose(0, 2, 1)
    gain_M = trial_gains(gram_KMM)
    share_S = np.linspace(0, 1.5, 15001)
    for trial in range(7):
        others = [one for one in range(7) if one != trial]
        loss_S = np.zeros(len(share_S))
        for held in range(4):
            train_MM = gram_KMM.sum(0) - gram_KMM[held]
            weight_m = greedy_bags(train_MM[np.ix_(others, others)], np.ones((1, 6), dtype=bool), STEPS)[0]
            blend_E, own_E = weight_m @ error_KME[held, others], error_KME[held, trial]
            mixed_SE = blend_E + share_S[:, None] * (own_E - blend_E)
            loss_S += (mixed_SE**2).sum(1)
        brought = loss_S[0] - loss_S.min()
        assert max(gain_M[trial], 0.0) == pytest.approx(brought, abs=1e-4)
    assert (gain_M > 0).any() and (gain_M < 0).any()


# -- values ------------------------------------------------------------------------------------------------------------


def test_values_of_all_kinds_of_ended_trials(tmp_path: Path) -> None:
    ledger = made_study(tmp_path)
    search = proposer(ledger, aim=None, engine="random")
    run(ledger, 5, lambda trial, truth_NT: erring(trial, truth_NT, 5.0 + trial.number), search)
    data = StudyData(ledger)
    names = [trial.trial_id for trial in data.trials]
    ended = [Proposed(trial.record, trial.result) for trial in data.trials]
    expected = dict(zip(sorted(names), trial_gains(FoldErrors(data).of(sorted(names))[1]).tolist(), strict=True))
    more = [
        Proposed(records.trial_record(90), records.pruned(0.9)),
        Proposed(records.trial_record(91), records.failed("no")),
        Proposed(records.trial_record(92), None),
    ]
    values = BlendAim(FoldErrors(data)).values([*ended, *more])
    least = min(expected.values())
    assert values == {**expected, f"{90:010x}": least, f"{91:010x}": None}
    (tmp_path / layout.trial(names[2]) / layout.OOF).write_bytes(b"torn")
    torn = BlendAim(FoldErrors(StudyData(ledger))).values(ended)
    assert torn[names[2]] == min(value for name, value in torn.items() if name != names[2])
    assert BlendAim(FoldErrors(data)).values(more[1:2]) == {f"{91:010x}": None}


def test_engines_are_told_what_trials_bring_the_blend_of_the_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is complete by then: the engine's last observation of each trial is its present value."""
    told: dict[str, float | None] = {}
    observe = TpeEngine.observe

    def noted(engine: TpeEngine, observation: Observation) -> bool:
        told[observation.trial_id] = observation.value
        return observe(engine, observation)

    monkeypatch.setattr(TpeEngine, "observe", noted)
    ledger = made_study(tmp_path)
    search = proposer(ledger)
    for _ in range(6):
        trial = search.propose()
        assert trial is not None
        data = StudyData(ledger)
        ended = [Proposed(one.record, one.result) for one in data.trials if one.result is not None]
        assert told == BlendAim(FoldErrors(data)).values(ended)
        result, pred_NT = erring(trial, data.truth_NT, 8.0)
        ledger.write_result(trial.trial_id, result, records.oof_of(ledger.quadrats(), pred_NT=pred_NT))
        search.record_result(trial.trial_id, result)


@pytest.mark.slow
def test_a_rebuilt_search_proposes_what_the_living_one_would(tmp_path: Path) -> None:
    """With trials under way that end out of order, fail and are pruned; and not what a search for the score would."""

    def ends(trial: TrialRecord, truth_NT: FloatArray) -> Any:
        kind = trial.number % 7
        if kind in (2, 5):
            return (records.failed("no") if kind == 2 else records.pruned(0.1)), None
        return erring(trial, truth_NT, 5.0 + trial.number % 5)

    ledger = made_study(tmp_path / "living")
    living, under_way, differed = proposer(ledger), list[TrialRecord](), 0
    for step in range(STARTUP_TRIALS * 3):
        looked = step % 5 == 4  # a new process looks at what the living one has written
        if looked:
            shutil.copytree(tmp_path / "living", tmp_path / f"{step}")
            folder = Ledger(Storage(tmp_path / f"{step}"))
            rebuilt = proposer(folder)
            assert [rebuilt.propose() for _ in under_way] == under_way
            expected = rebuilt.propose()
            shutil.rmtree(tmp_path / f"{step}" / layout.trial(expected.trial_id))
            for_score = proposer(folder, aim=None)
            assert [for_score.propose() for _ in under_way] == under_way
            differed += for_score.propose().trial_id != expected.trial_id
        trial = living.propose()
        assert trial is not None
        if looked:
            assert replace(expected, proposed_at=trial.proposed_at) == trial
        under_way.append(trial)
        if len(under_way) == 3:
            ended = under_way.pop(step % 3)
            result, pred_NT = ends(ended, StudyData(ledger).truth_NT)
            oof = None if pred_NT is None else records.oof_of(ledger.quadrats(), pred_NT=pred_NT)
            ledger.write_result(ended.trial_id, result, oof)
            living.record_result(ended.trial_id, result)
    assert differed > 0


def test_a_trial_notes_that_it_was_proposed_for_the_blend(tmp_path: Path) -> None:
    """By an engine that observes gains; random search observes nothing, and another aim is another word."""
    found = {}
    for engine, aim in (("tpe", "blend"), ("tpe", "score"), ("random", "blend")):
        ledger = made_study(tmp_path / f"{engine}-{aim}")
        search = proposer(ledger, engine=engine, aim=new_aim(aim, StudyData(ledger)))
        proposed = iter(search.propose, None)
        found[engine, aim] = next(record.why for record in proposed if record.why != "first trial")
    assert found == {
        ("tpe", "blend"): "proposed by tpe, for the blend",
        ("tpe", "score"): "proposed by tpe",
        ("random", "blend"): "proposed by random",
    }


def test_the_aim_of_a_study_is_shown_and_may_be_changed(tmp_path: Path) -> None:
    ledger = made_study(tmp_path)
    assert "aim " not in render_status(status_of(ledger))
    settings = replace(ledger.study().settings, aim="blend")
    ledger.update_study(replace(ledger.study(), settings=settings))
    found = status_of(ledger)
    assert found.aim == "blend" and "aim     blend: what a trial brings the blend" in render_status(found)
    assert new_aim("score", StudyData(ledger)) is None
    with pytest.raises(StudyError, match="score or blend, the study has luck; give one of them with --aim"):
        new_aim("luck", StudyData(ledger))
