"""What a search adds to a nested score by its own luck: the simulation, its figures, and the pages that show them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from commands import output, words_of
from simulate_errors import monte_carlo_error
from simulate_search import COUNTS, optimism_SC, replicate
from told_study import told_study

from ensembles.blend import fit_blend
from ensembles.card import Card
from ensembles.honest import OLD_METHOD
from ensembles.search_optimism import FEWEST, MEASURED, search_optimism
from orchestration.blending.blend import page_of
from orchestration.blending.members import FileMembers, gather
from orchestration.blending.shown import beside_score, blend_score, search_optimism_of, study_library
from orchestration.report.data.context import read_context
from orchestration.report.make import make_report
from orchestration.study.data import StudyData
from orchestration.study.derived.blends import ExamRecord, Origin
from orchestration.study.ledger import Ledger
from orchestration.study.records import TrialRef
from orchestration.study.seeds import content_id
from orchestration.study.settings import proposed_by

COMPLETE = ("complete",) * 13
LUCK = "by its own luck (simulated, not subtracted)"


@pytest.mark.slow
def test_without_luck_to_exploit_a_search_adds_skill_and_no_optimism() -> None:
    """Own errors of all configurations have one direction; only their size, which is skill, depends on the settings."""
    scores_SECK = np.array([replicate(seed, (24,), alike=True).scores_ECK for seed in range(12)])
    optimism_S = optimism_SC(scores_SECK)[:, 0]
    assert abs(optimism_S.mean()) < 2 * monte_carlo_error(optimism_S)
    gain_S = scores_SECK[:, 0, 0, 1] - scores_SECK[:, 1, 0, 1]
    assert gain_S.mean() > -2 * monte_carlo_error(gain_S)


@pytest.mark.long
def test_the_figure_at_60_trials_is_that_of_the_simulation() -> None:
    """In other worlds than those it was measured in, within two Monte Carlo errors."""
    shipped = next(one for one in MEASURED if one.trials == 60)
    optimism_S = optimism_SC(np.array([replicate(seed, (60,)).scores_ECK for seed in range(1000, 1040)]))[:, 0]
    error = np.hypot(monte_carlo_error(optimism_S), shipped.error)
    assert abs(optimism_S.mean() - shipped.value) < 2 * error


def test_figures_are_those_of_the_simulated_counts_and_the_nearest_one_is_shown() -> None:
    assert tuple(one.trials for one in MEASURED) == COUNTS
    assert all(0 < one.error <= 0.003 for one in MEASURED)
    found = {trials: search_optimism(trials) for trials in (0, FEWEST - 1, FEWEST, 37, 39, 80, 90, 10_000)}
    shown = {trials: None if one is None else one.trials for trials, one in found.items()}
    assert shown == {0: None, 11: None, 12: 24, 37: 24, 39: 60, 80: 60, 90: 120, 10_000: 300}


@pytest.mark.slow
def test_pages_show_the_figure_beside_the_score(tmp_path: Path) -> None:
    ledger = told_study(tmp_path / "study", statuses=(*COMPLETE, "failed", "open"), noise=4.0)
    expected = search_optimism(len(COMPLETE))
    assert expected is not None and LUCK in str(expected)
    uri, blend = ledger.storage.uri, tmp_path / "blend"
    card = words_of(output("ensemble", uri, "--out", str(blend)))
    for page in (card, words_of((blend / "ensemble.txt").read_text(encoding="utf-8"))):
        assert f"{expected}; --exam of a search measures it" in page
    report = words_of(make_report(ledger))
    assert f"The search itself saw every fold: {expected}." in report
    assert f"{str(expected).capitalize()}; --exam of a search measures it." in report
    score, _ = blend_score(StudyData(ledger))  # of status and leaderboard
    assert score is not None and score.search_optimism == expected


@pytest.mark.slow
def test_random_search_few_trials_and_old_cards_have_no_figure(tmp_path: Path) -> None:
    ledger = told_study(tmp_path / "study", statuses=COMPLETE, noise=4.0)
    study = StudyData(ledger)
    card = fit_blend(study_library(study), "default", study.blend_seed)
    assert search_optimism_of(study, card) is not None
    assert search_optimism_of(study, replace(card, method=OLD_METHOD)) is None
    for number, record in enumerate(ledger.trials()):  # two are left, of 13: the engine was changed
        ledger.write_trial(replace(record, why="proposed by tpe" if number < 2 else "proposed by random"))
    mixed = StudyData(ledger)
    assert search_optimism_of(mixed, card) is None and beside_score(mixed, card) == []
    assert LUCK not in words_of(page_of(card))


@pytest.mark.slow
def test_a_search_that_aimed_at_the_blend_has_no_figure(tmp_path: Path) -> None:
    """Now, or for one trial before: it was simulated for searches for the score alone."""
    ledger = told_study(tmp_path / "study", statuses=COMPLETE, noise=4.0)
    study, record = StudyData(ledger), ledger.study()
    card = fit_blend(study_library(study), "default", study.blend_seed)
    assert search_optimism_of(study, card) is not None
    ledger.update_study(replace(record, settings=replace(record.settings, aim="blend")))
    now = StudyData(ledger)
    ledger.update_study(record)
    ledger.write_trial(replace(ledger.trials()[3], why=proposed_by("tpe", for_blend=True)))
    before = StudyData(ledger)
    for aimed in (now, before):
        assert search_optimism_of(aimed, card) is None
        assert beside_score(aimed, card) == [
            "what a search adds to such a score by its own luck was not simulated for --aim blend"
        ]
    assert "proposed by tpe, for the blend" in words_of(output("show", ledger.storage.uri, ledger.trials()[3].trial_id))


def test_members_from_files_and_of_several_studies_have_no_figure(tmp_path: Path) -> None:
    ledgers = [told_study(tmp_path / name, statuses=COMPLETE[:2], noise=4.0) for name in ("one", "two")]
    uris = [ledger.storage.uri for ledger in ledgers]
    ledgers[0].oof(ledgers[0].trials()[0].trial_id).to_csv(tmp_path / "oof.csv", index=False)
    beside = FileMembers(oof=(str(tmp_path / "oof.csv"),))
    found = [
        gather(studies, files, test_ids=None, seed=0, say=lambda _: None).study
        for studies, files in ((uris[:1], FileMembers()), (uris, FileMembers()), (uris[:1], beside))
    ]
    assert [study is not None for study in found] == [True, False, False]


def examined(ledger: Ledger) -> tuple[Card, ExamRecord]:
    """Store a blend of the study with an exam."""
    study = StudyData(ledger)
    card = fit_blend(study_library(study), "default", study.blend_seed)
    refs = {member: TrialRef(ledger.storage.uri, member) for member in card.members}
    ledger.write_ensemble("mine", card.to_json(), refs, b"sample_id,target\n", origin=Origin(created_at=1.0))
    record = ExamRecord(
        ensemble="mine", card=content_id(ledger.ensemble("mine").card), images=80, dates=7, score=0.6123, se=0.0456,
        low=0.512, high=0.702, nested_score=card.nested_score, nested_by="date", target_rmse_g={}, looks=(1.0, 2.0),
    )  # fmt: skip
    ledger.write_exam(record)
    return card, record


@pytest.mark.slow
def test_an_exam_takes_the_place_of_the_figure(tmp_path: Path) -> None:
    ledger = told_study(tmp_path / "study", statuses=COMPLETE, noise=4.0)
    record = ledger.study()
    ledger.update_study(replace(record, settings=replace(record.settings, exam=0.2), exam_images=80))
    study, uri = StudyData(ledger), ledger.storage.uri
    card, exam = examined(ledger)
    page = words_of(page_of(card, beside_score(study, card)))
    assert f"`biomass exam {uri} --data DIR` scores the blend" in page and "--exam of a search" not in page
    line = "exam of mine: 0.6123 ± 0.0456, 95 % 0.512 to 0.702; on 80 images of 7 dates that nothing has learned from"
    report = words_of(make_report(ledger))
    headline, _, rest = report.partition("What is best?")
    assert f"{line}; look 2 of this study, at 1 blend" in headline
    assert f"E{line[1:]}; look 2 of this study, at 1 blend" in rest
    assert LUCK not in report and "expect a little less" not in report
    ledger.write_exam(replace(exam, card="another"))  # the blend was made again since it was examined
    ledger.storage.remove(f"exams/mine-{exam.card}.json")
    again = read_context(ledger)
    assert again.exam is None and len(again.exams) == 1 and again.search_optimism is not None
