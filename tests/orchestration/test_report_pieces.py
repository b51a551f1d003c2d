"""The parts of a report that are plain functions: escaping, judging, time, importance, colours, pictures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from told_study import told_study

from biomass_models.targets import TARGETS, weighted_r2_score
from ensembles.honest import Estimate
from ensembles.scorer import Scorer
from orchestration.report.charts import RAMP, ink_on, luminance, ramp_colour
from orchestration.report.data.importance import importance_of, what_the_best_share
from orchestration.report.data.scorer import binned_mean, parts
from orchestration.report.data.timeline import Clock, Work, busy_share, lanes_of
from orchestration.report.html import Cell, Column, Html, Table, as_html, embed_json, tag
from orchestration.report.sections.photographs import Photographs, density_maps, whole_map
from orchestration.report.sections.scheme_gap import pairs_of
from orchestration.report.words import (
    CLEAR,
    SHORT,
    count,
    duration,
    listed,
    number,
    percent,
    plus_minus,
    setting,
    verdict,
)  # fmt: skip
from orchestration.study.data import StudyData
from orchestration.study.records import TrialResult

HOSTILE = "</script><img src=x onerror=alert(1)>&\"'"


def test_text_is_escaped_and_html_is_not() -> None:
    assert as_html("<b>") == "&lt;b&gt;"
    assert as_html(Html("<b>")) == "<b>"
    assert tag("td", HOSTILE, title=HOSTILE).count("<") == 2
    assert tag("p", "x", class_="a", data_sort=1, title=None) == '<p class="a" data-sort="1">x</p>'
    table = Table(title=HOSTILE, columns=(Column(name=HOSTILE, gloss=HOSTILE),), rows=[[Cell(HOSTILE, HOSTILE)]])
    assert "<img" not in table.html()


def test_embedded_json_cannot_end_its_element_and_reads_back() -> None:
    text = embed_json({"a": HOSTILE, "b": "<!--"})
    assert "<" not in text and ">" not in text
    assert json.loads(text) == {"a": HOSTILE, "b": "<!--"}
    with pytest.raises(ValueError, match="JSON compliant"):
        embed_json(float("nan"))


def test_numbers_read_as_people_write_them() -> None:
    assert [number(value) for value in (None, float("nan"), -0.5, -0.0001, 2)] == ["–", "–", "−0.500", "0.000", "2.000"]
    assert number(0.5, 1, sign=True) == "+0.5"
    assert plus_minus(Estimate(value=0.5, se=0.01, low=0, high=1)) == "0.500\u00a0±\u00a00.010"
    assert plus_minus(Estimate(value=0.5, se=float("nan"), low=0, high=1)) == "0.500"
    assert [percent(0.123), percent(None)] == ["12\u00a0%", "–"]
    assert [count(1, "day"), count(12_000, "day")] == ["1 day", "12\u00a0000 days"]
    assert [duration(value) for value in (3, 60, 600, 7200, 400_000)] == [
        "3.0 s",
        "60 s",
        "10 min",
        "2.0 h",
        "4.6 days",
    ]
    assert [listed(["a"]), listed(["a", "b"]), listed(list("abcde"))] == ["a", "a and b", "a, b, c and 2 more"]
    assert [setting(value) for value in (True, 3e-5, 0.25, (1, 2))] == ["yes", "3e−5", "0.25", "1, 2"]


def test_a_verdict_counts_standard_errors() -> None:
    def says(value: float, se: float) -> str:
        return verdict(Estimate(value=value, se=se, low=0, high=0))

    assert says(-0.2, 0.1) == CLEAR
    assert says(0.15, 0.1) == "perhaps chance"
    assert says(0.05, 0.1) == "chance can explain it"
    assert says(0.05, float("nan")) == says(0.0, 0.0) == "its error is not known"


def test_a_scorer_scores_as_the_metric_and_pairs_over_groups(tmp_path: Path) -> None:
    study = StudyData(told_study(tmp_path))
    scorer = Scorer(study.truth)
    first, second = list(study.predictions(trial.trial_id for trial in study.ranked).values())[:2]
    assert scorer.score(first).value == pytest.approx(weighted_r2_score(scorer.truth_NT, first))
    gain = scorer.gain(second, first)
    assert gain.value == pytest.approx(scorer.score(second).value - scorer.score(first).value)
    group_N = study.quadrats["group"].to_numpy()
    left_out = [
        [weighted_r2_score(scorer.truth_NT[group_N != group], pred_NT[group_N != group]) for pred_NT in (second, first)]
        for group in np.unique(group_N)
    ]
    value_G = np.array(left_out) @ [1, -1]
    assert gain.se == pytest.approx(np.sqrt((len(value_G) - 1) * value_G.var()))


def test_parts_of_several_partitions_are_means_of_their_losses() -> None:
    rng = np.random.default_rng(0)
    truth_NT, pred_RNT = rng.gamma(2, 10, (12, 5)), rng.gamma(2, 10, (8, 12, 5))
    key = ["a"] * 7 + ["b"] * 5
    for each, alone in zip(
        parts(truth_NT, pred_RNT, key), zip(*(parts(truth_NT, pred_NT, key) for pred_NT in pred_RNT), strict=True),
        strict=True,
    ):  # fmt: skip
        assert each.r2 == pytest.approx(np.mean([one.r2 for one in alone]))
        assert each.main.bias == pytest.approx(np.mean([one.main.bias for one in alone]))


def test_parts_hold_all_of_the_error_and_none_of_what_does_not_vary() -> None:
    truth_NT = np.tile(np.array([[10.0], [20.0], [30.0], [7.0], [7.0]]), (1, 5))
    pred_NT = truth_NT + np.array([[2.0], [0.0], [-2.0], [0.0], [4.0]])
    first, alike = parts(truth_NT, pred_NT, ["a", "a", "a", "b", "b"])
    assert (first.images, first.r2) == (3, pytest.approx(1 - 8 / 200))
    assert (alike.images, alike.r2, alike.main.bias) == (2, None, 2.0)
    assert [first.share, alike.share] == [pytest.approx(8 / 24), pytest.approx(16 / 24)]
    assert alike.error == pytest.approx(np.sqrt(8))


def test_binned_means_keep_equal_values_together() -> None:
    assert binned_mean(np.full(5, 3.0), np.arange(5.0)) == []
    assert binned_mean(np.array([1.0, 1, 1, 2]), np.array([0.0, 3, 6, 9]), bins=2) == [(1.0, 3.0, 3), (2.0, 9.0, 1)]
    x, y = np.arange(80.0), np.arange(80.0)
    assert [size for _, _, size in binned_mean(x, y)] == [10] * 8


def test_a_clock_cuts_pauses_and_keeps_short_gaps() -> None:
    clock = Clock([(1000.0, 1100.0), (1050.0, 1200.0), (1230.0, 1300.0), (91_300.0, 91_400.0)])
    assert clock.gaps == [(1300.0, 91_300.0)]
    assert [clock.at(moment) for moment in (1000.0, 1300.0, 40_000.0, 91_300.0, 91_350.0)] == [0, 300, 300, 300, 350]
    assert clock.seconds == 400
    assert Clock([]).seconds == 0


def test_a_new_worker_takes_the_lane_that_is_free_on_its_host() -> None:
    spans = [("a", 1, 0, 10), ("a", 2, 0, 20), ("b", 1, 5, 9), ("a", 1, 10, 15), ("a", 3, 15, 30), ("a", 2, 20, 25)]
    work = [
        Work(trial="t", family="f", folds=(0,), score=None, host=host, pid=pid, start=start, end=end)
        for host, pid, start, end in spans
    ]
    assert lanes_of(work) == [0, 1, 2, 0, 0, 1]
    assert busy_share(work, Clock([(one.start, one.end) for one in work])) == pytest.approx(59 / 90)
    assert busy_share([], Clock([])) is None


def test_importance_finds_the_setting_that_decides(tmp_path: Path) -> None:
    ledger = told_study(tmp_path, statuses=("open",) * 40, families=("baseline",))
    for record in ledger.trials():
        score = 0.8 if record.params["head_lr"] > 3e-4 else 0.2
        ledger.write_result(record.trial_id, TrialResult(status="complete", score=score))
    study = StudyData(ledger)
    found = importance_of(study, "baseline")
    shares = list(found.shares.values())
    assert next(iter(found.shares)) == "head_lr" and shares[0] > 0.6 and all(share < 0.3 for share in shares[1:])
    words = what_the_best_share(study.trials, "head_lr")
    assert words is not None and "the best third has a median of 0.00" in words
    assert importance_of(study, "unknown").missing is not None
    few = StudyData(told_study(tmp_path / "few", statuses=("complete",)))
    assert "at least 4" in str(importance_of(few, "probe").missing)


def test_a_setting_under_a_condition_does_not_take_the_credit_of_the_condition(tmp_path: Path) -> None:
    """The layout separates all trials; which merge is taken exists under one of its values and changes nothing."""
    ledger = told_study(tmp_path, statuses=("open",) * 40, families=("baseline",))
    for place, record in enumerate(ledger.trials()):
        halves = place % 2 == 0
        params = {"layout": "halves", "view_merge": ("mean", "max")[place % 4 // 2]} if halves else {"layout": "full"}
        ledger.write_trial(replace(record, params=params))
        score = (0.8 if halves else 0.2) + 0.001 * (7 * place % 40)
        ledger.write_result(record.trial_id, TrialResult(status="complete", score=score))
    shares = importance_of(StudyData(ledger), "baseline").shares
    assert next(iter(shares)) == "layout" and shares["layout"] > 0.7
    assert shares.get("view_merge", 0.0) < 0.05


def test_the_share_of_a_setting_is_that_of_an_analysis_of_variance(tmp_path: Path) -> None:
    """By hand: ranks 1, 2, 3 and 4, 5, 6; between 13.5, total 17.5, error 1: omega squared 12.5 / 18.5."""
    ledger = told_study(tmp_path, statuses=("open",) * 6, families=("baseline",))
    for place, record in enumerate(ledger.trials()):
        ledger.write_trial(replace(record, params={"layout": "full" if place < 3 else "halves"}))
        ledger.write_result(record.trial_id, TrialResult(status="complete", score=0.1 * place))
    shares = importance_of(StudyData(ledger), "baseline").shares
    assert shares == {"layout": pytest.approx(12.5 / 18.5)}


def test_pairs_are_the_same_configuration_in_both_studies(tmp_path: Path) -> None:
    here = StudyData(told_study(tmp_path / "date"))
    more = told_study(tmp_path / "random", statuses=("complete", "failed", "complete"), scheme="random",
                      quadrats=here.quadrats)  # fmt: skip
    for record in more.trials():  # of a version that knows one setting more
        more.write_trial(replace(record, config={**record.config, "precision": "auto"}))
    there = StudyData(more)
    pairs = pairs_of(here, there)
    assert {pair.name: (pair.here, pair.there) for pair in pairs} == {
        f"probe {number}pr": (_score(here, number), _score(there, number)) for number in ("0000", "0002")
    }


def _score(study: StudyData, number: str) -> float | None:
    return next(trial.score for trial in study.trials if trial.trial_id.startswith(number))


def test_text_on_any_colour_of_the_ramp_can_be_read() -> None:
    assert [ramp_colour(0), ramp_colour(0.5), ramp_colour(1)] == list(RAMP)
    assert ramp_colour(0.25) == "#a6693f"  # half-way between the first two, channel by channel
    for share in np.linspace(0, 1, 101):
        background = ramp_colour(share)
        light, ink = luminance(background), luminance(ink_on(background))
        assert (max(light, ink) + 0.05) / (min(light, ink) + 0.05) >= 4.5
    for colour in RAMP:  # as a mark, on both papers
        for paper in ("#ffffff", "#14191f"):
            pair = sorted([luminance(colour), luminance(paper)])
            assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 3


def test_no_photograph_outside_of_the_folder_is_opened(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for path in (tmp_path / "secret.jpg", folder / "own.jpg"):
        Image.new("RGB", (800, 400), "green").save(path)
    photographs = Photographs(folder)
    own = photographs.thumbnail("own.jpg")
    assert own is not None and own.shape == (180, 360, 3)
    for strange in ("../secret.jpg", str(tmp_path / "secret.jpg"), "a/../../secret.jpg", "..\\secret.jpg", "none.jpg"):
        assert photographs.thumbnail(strange) is None
    (folder / "torn.jpg").write_bytes((folder / "own.jpg").read_bytes()[:200])
    assert photographs.thumbnail("torn.jpg") is None
    assert Photographs(None).thumbnail("own.jpg") is None


def test_maps_of_a_fold_are_found_by_image_mass_and_view() -> None:
    table = pd.DataFrame(
        {
            "image_id": ["a", "a", "b"], "view": ["whole", "left", "whole"], "weight": [np.nan, 1.0, np.nan],
            "rows": 1, "columns": 2, "look": [np.array([1.0, 0.0]), np.array([0.5, 0.5]), np.array([0.0, 1.0])],
        }
    )  # fmt: skip
    looked = whole_map(table, "a")
    assert looked is not None and looked.tolist() == [[1.0, 0.0]]
    assert whole_map(table, "c") is None and density_maps(table, "a") == {}
    dense = table.assign(mass=["Dry_Green_g", "Dry_Dead_g", "Dry_Green_g"])
    found = density_maps(dense, "a")
    assert list(found) == ["Dry_Green_g", "Dry_Dead_g"] and found["Dry_Dead_g"]["left"].tolist() == [[0.5, 0.5]]
    assert density_maps(dense, "c") == {}


def test_the_words_of_the_targets_are_plain() -> None:
    assert list(SHORT) == list(TARGETS) and "gdm" not in "".join(SHORT.values()).lower()


def test_a_number_that_is_not_known_is_sorted_as_an_empty_cell() -> None:
    columns = (Column(name="R²", numeric=True),)
    page = Table(title="x", columns=columns, rows=[[Cell("–", float("nan"))], [Cell("0.5", 0.5)]]).html()
    assert "nan" not in page and page.count("data-sort") == 1
