"""Replays of recorded studies: what is read, when a blend is looked at, and that a better way to search is found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import replay_search
import study_records as records
from recordings import (
    ALIKE,
    NOISY,
    SimulatedFamily,
    read_recordings,
    simulate_recording,
    simulate_world,
    simulated_trial,
)
from replay_search import DECIDES, Clock, Comparison, compare_shares, distance, nearest, render
from simulate_search import SPACE
from test_family_shares import erring, made_study, proposer, run

from biomass_models.data.table import masses_to_long
from biomass_models.targets import TARGETS, from_components, project_coherent, weighted_r2_score
from ensembles.choice import DEFAULT
from ensembles.nests import fit_weights
from orchestration.search.gains.aims import BlendAim
from orchestration.search.gains.fold_errors import FoldErrors
from orchestration.search.gains.trial_gains import trial_gains
from orchestration.study.data import StudyData

# -- recordings --------------------------------------------------------------------------------------------------------


def test_a_recording_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Two studies of one family each, on the same images and folds."""
    rng = np.random.default_rng(5)
    image_ids = [f"T{row}" for row in range(30)]
    truth_MT = from_components(*rng.gamma(2.0, 10.0, (3, 30)))
    expected = {}
    for family in ("density", "probe"):
        folder, tables = tmp_path / "10" / "net" / family, []
        ledger = made_study(folder / "study", (family,))
        search = proposer(ledger)
        run(ledger, 3, lambda trial, truth_NT: erring(trial, truth_NT, 9.0), search)
        for trial in ledger.trials():
            expected[trial.trial_id] = truth_MT + 9 * rng.standard_normal(truth_MT.shape)
            shuffled = rng.permutation(30)
            table = pd.DataFrame(expected[trial.trial_id][shuffled], columns=list(TARGETS))
            table.insert(0, "image_id", [image_ids[row] for row in shuffled])
            tables.append(table.assign(trial_id=trial.trial_id))
            for fold in range(4):
                metrics = records.fold_metrics(fold, cpu_seconds=1.0 + fold + trial.number)
                oof = records.oof_of(ledger.quadrats(), fold=fold)
                ledger.write_fold(trial.trial_id, oof=oof, model=b"", metrics=metrics)
        pd.concat(tables).to_parquet(folder / "test.parquet")
    truth = pd.DataFrame(truth_MT, columns=list(TARGETS), index=pd.Index(image_ids, name="image_id"))
    masses_to_long(truth).to_csv(tmp_path / "10" / "truth.csv", index=False)
    (recording,) = read_recordings(tmp_path)
    assert recording.name == "10/net" and recording.families == ("density", "probe") == tuple(recording.spaces)
    names = [one.record.trial_id for one in recording.trials]
    assert sorted(names) == sorted(expected) and recording.cpu_seconds_M.tolist() == [10.0, 14.0, 18.0] * 2
    weight_M = fit_weights(recording.gram, DEFAULT)
    blend_MT = sum(w * project_coherent(expected[name]) for w, name in zip(weight_M, names, strict=True))
    assert recording.true_score(names) == pytest.approx(weighted_r2_score(truth_MT, blend_MT))
    data = StudyData(ledger)
    own = [trial.trial_id for trial in data.trials]
    assert recording.of(own)[1] == pytest.approx(FoldErrors(data).of(own)[1])
    quadrats = ledger.quadrats()
    quadrats["fold"] = (quadrats["fold"] + 1) % 4
    quadrats.loc[0, "fold"] = 3
    ledger.write_study(ledger.study(), quadrats)
    with pytest.raises(ValueError, match="one set of folds"):
        read_recordings(tmp_path)
    with pytest.raises(ValueError, match="got none"):
        read_recordings(tmp_path / "10" / "net")


def test_a_blend_is_of_what_had_ended_by_its_budget() -> None:
    recording = simulate_recording({"a": SimulatedFamily()}, 0, trials=4, images=60, dates=10)
    recording.cpu_seconds_M[:] = [10, 20, 30, 40]
    names = [one.record.trial_id for one in recording.trials]
    clock = Clock(recording, (0.05, 0.1, 0.29, 0.3, 0.6, 1.0))
    for trial in recording.trials:
        assert not clock.is_over
        clock.end(trial)
    # before the first one ends it is what there is; 30 s are over when the second one ends
    assert clock.scores() == [recording.true_score(names[:count]) for count in (1, 1, 1, 2, 3, 4)]
    assert clock.is_over


# -- proposals among recorded trials -----------------------------------------------------------------------------------


def test_distances_by_hand() -> None:
    one = {"head_lr": 1e-4, "dropout": 0.0, "epochs": 10, "transform": "log1p", "layout": "whole"}
    other = {"head_lr": 1e-3, "dropout": 0.3, "epochs": 80, "transform": "sqrt", "layout": "halves"}
    # half of the range, half of it, all of it, another choice twice, and a field that only the other one has
    assert distance(SPACE, one, {**other, "view_merge": "mean"}) == pytest.approx(0.5 + 0.5 + 1 + 1 + 1 + 1)
    trials = [simulated_trial(place, "simulated", params, 1.0) for place, params in enumerate((other, one, one))]
    assert nearest(SPACE, {**one, "dropout": 0.01}, trials) == 1 and nearest(SPACE, None, trials) == 0


@pytest.mark.slow
def test_aims_are_replayed_with_what_their_engines_would_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sampler finds better trials than chance for the score, and trials that bring the blend more for the blend."""
    told: dict[str, list[dict[str, float | None]]] = {"score": [], "blend": []}
    recording = simulate_world(0, trials=60)
    for aim in (None, BlendAim(recording)):
        values: dict[str, float | None] = {}
        engine = replay_search.new_engine("tpe", SPACE)
        observe = engine.observe
        monkeypatch.setattr(
            engine,
            "observe",
            lambda one, values=values, observe=observe: values.update({one.trial_id: one.value}) or observe(one),
        )
        monkeypatch.setattr(replay_search, "new_engine", lambda name, space, engine=engine: engine)
        replay_search.replay_aim(recording, "tpe", aim, 0, (0.5,))
        told["score" if aim is None else "blend"].append(dict(values))
    monkeypatch.undo()
    (scores,), (gains,) = told["score"], told["blend"]
    assert all(recording.trials[recording.place_of[name]].result.score == value for name, value in scores.items())
    names = sorted(gains)
    expected = trial_gains(recording.of(names)[1])
    assert [gains[name] for name in names] == pytest.approx(expected.tolist()) and len(names) == 30


# -- what a comparison finds -------------------------------------------------------------------------------------------


def test_gains_and_verdicts_by_hand() -> None:
    score_SAB = np.array([[[0.5, 0.7], [0.6, 0.71]], [[0.4, 0.6], [0.5, 0.63]]])
    found = Comparison(
        arms=("equal", "earned"), budgets=(0.1, 0.2), names=("x", "y"), score_SAB=score_SAB, decisive=0.2
    )
    assert found.gain("earned", 0.1) == pytest.approx((0.1, 0.0), abs=1e-12)
    assert found.gain("earned", 0.2) == pytest.approx((0.02, 0.01))
    recordings = [simulate_recording({"a": SimulatedFamily()}, seed, trials=2, images=40, dates=8) for seed in (0, 1)]
    text = render(found, recordings, 3)
    assert "| 20 % (decides) | 0.6500 | +0.0200 ± 0.0100 |" in text and "x +0.0100, y +0.0300" in text
    assert not replace(found, score_SAB=0 * score_SAB).decides("earned")
    better = replace(found, score_SAB=score_SAB + np.array([0.0, 0.001])[:, None])
    assert better.decides("earned") and not replace(found, score_SAB=score_SAB[:, ::-1]).decides("earned")


@pytest.mark.slow
def test_earned_shares_beat_equal_ones_where_families_are_noise_and_lose_nothing_where_all_are_alike() -> None:
    budget = (DECIDES["shares"],)
    noisy = [simulate_recording(NOISY, seed, trials=25, images=200) for seed in range(12)]
    gain = compare_shares(noisy, orders=1, budgets=budget).gain("earned", *budget)
    assert gain.value > 2 * gain.error and gain.value > 0.01
    alike = [simulate_recording(ALIKE, seed, trials=25) for seed in range(8)]
    gain = compare_shares(alike, orders=2, budgets=budget).gain("earned", *budget)
    assert abs(gain.value) < 0.004
