"""Blends within minutes, from a profile of a study's own members: measured, kept, asked for, refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from blended_study import finished_study
from commands import output
from tiny_study import RANDOM
from typer.testing import CliRunner

from orchestration.blending import budget as budgets
from orchestration.blending.device import device_name, kind
from orchestration.blending.nested import blend_of
from orchestration.blending.profile import profile_study
from orchestration.blending.shown import shown_blend
from orchestration.cli import app
from orchestration.study.data import StudyData
from orchestration.study.derived.profiles import MemberCost, ProfileRecord, UnitCost
from orchestration.study.ledger import Ledger

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, tiny_pasture: Path) -> Ledger:
    folder = tmp_path_factory.mktemp("budget")
    ledger = finished_study(folder / "study", tiny_pasture, folder / "cache", ("probe", "baseline"))
    said: list[str] = []
    profile_study(StudyData(ledger), tiny_pasture, weights=RANDOM, device="cpu", cpus=1, say=said.append)
    assert said == []
    return ledger


def refused(*words: str) -> str:
    result = CliRunner().invoke(app, list(words))
    assert isinstance(result.exception, ValueError), result.output
    return str(result.exception)


def test_a_profile_has_every_member_and_each_shared_bank_once(study: Ledger, tiny_pasture: Path) -> None:
    (profile,) = study.profiles()
    assert profile.device == device_name("cpu", 1) and profile.images == 24
    assert set(profile.members) == {trial.trial_id for trial in StudyData(study).ranked}
    for member in profile.members.values():
        assert member.seconds > 0 and member.units and set(member.units) <= set(profile.units)
    assert all(unit.seconds > 0 and "test_vit" in unit.label for unit in profile.units.values())
    again = output("doctor", study.storage.uri, "--data", str(tiny_pasture), "--profile", "--gpus-per-fold", "0")
    assert profile.device in again and "ms a photograph" in again
    (newer,) = study.profiles()  # in place of the one before
    assert newer.measured_at > profile.measured_at and set(newer.units) == set(profile.units)


def test_a_blend_within_a_budget_is_the_one_that_pages_show(study: Ledger, tmp_path: Path) -> None:
    """Costs are written by hand: two members that share a bank, on a machine of another kind."""
    names = [trial.trial_id for trial in StudyData(study).ranked]
    cheap, dear = names[1], names[0]
    units = {"a": UnitCost(seconds=0.5, label="small"), "b": UnitCost(seconds=4.0, label="large")}
    members = {cheap: MemberCost(seconds=0.1, units=("a",)), dear: MemberCost(seconds=0.2, units=("a", "b"))}
    study.write_profile(ProfileRecord(device="Tesla T4", measured_at=1.0, images=9, units=units, members=members))
    words = ["ensemble", study.storage.uri, "--images", "600", "--device", "tesla", "--out", str(tmp_path / "within")]
    card = json.loads(output(*words, "--budget-minutes", "7", "--json"))["cards"][0]
    assert set(card["members"]) == {cheap} and card["budget"]["device"] == "Tesla T4"
    assert card["budget"]["used_minutes"] == pytest.approx(600 * 0.6 / 60)
    assert (card["budget"]["next_member"], card["budget"]["next_minutes"]) == (dear, pytest.approx(600 * 4.7 / 60))
    text = output(*words, "--budget-minutes", "7")
    assert "within 7 min on Tesla T4" in text and "the next member would be" in text
    shown = shown_blend(StudyData(study))
    assert shown.card.budget is not None and set(shown.card.members) == {cheap}
    blend, reason = blend_of(StudyData(study))
    assert blend is not None, reason
    score = 1 - blend.library.loss_by_cell(blend.nested_RNT).mean(0).sum() / blend.library.gram.sst
    assert score == pytest.approx(card["nested_score"], abs=1e-9)  # made again from the card
    assert "In the blend (ensemble within)" in output("show", study.storage.uri, cheap)
    both = json.loads(output(*words, "--budget-minutes", "48.1", "--json"))["cards"][0]
    plain = json.loads(output("ensemble", study.storage.uri, "--out", str(tmp_path / "plain"), "--json"))["cards"][0]
    assert both["members"] == plain["members"] and both["nested_score"] == plain["nested_score"]


def test_what_no_profile_or_no_minute_is_for_is_refused(study: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["ensemble", study.storage.uri, "--budget-minutes", "5"]
    asked = [*words, "--images", "600"]
    assert "doctor STUDY --data DIR --profile" in refused(*asked, "--device", "H200")
    monkeypatch.setattr(budgets, "device_name", lambda: "Tesla K80")
    assert "a budget needs a profile of Tesla K80" in refused(*asked)
    assert "the cheapest takes" in refused(*words[:-1], "0.0001", "--images", "600", "--device", device_name("cpu", 1))
    assert "leave --candidates" in refused(*asked, "--candidates", "2")
    assert "--post per-target" in refused(*asked, "--post", "per-target")
    assert "--budget-minutes is above 0" in refused(*words[:-1], "0", "--images", "600")
    for wrong in (words, ["ensemble", study.storage.uri, "--images", "3"], ["doctor", "--profile"]):
        assert CliRunner().invoke(app, wrong).exit_code == 2


def test_a_budget_is_refused_until_a_profile_is_there(study: Ledger, tmp_path: Path, tiny_pasture: Path) -> None:
    bare = shutil.copytree(study.storage.uri, tmp_path / "bare", ignore=shutil.ignore_patterns("profiles"))
    asked = ["ensemble", str(bare), "--budget-minutes", "60", "--images", "90", "--out", str(tmp_path / "out")]
    remedy = refused(*asked)
    assert "the study has none; run `biomass doctor STUDY --data DIR --profile` there" in remedy
    output("doctor", str(bare), "--data", str(tiny_pasture), "--profile", "--gpus-per-fold", "0")
    assert "this blend takes" in " ".join(output(*asked).split())


def test_another_number_of_threads_is_the_same_kind_of_machine() -> None:
    assert kind("AMD EPYC x 4") == kind("AMD EPYC x 1") == "AMD EPYC" and kind("Tesla T4") == "Tesla T4"


def test_members_of_a_profile_that_is_older_than_they_are_not_chosen(study: Ledger, tmp_path: Path) -> None:
    (here,) = [one for one in study.profiles() if one.device == device_name("cpu", 1)]
    name, cost = next(iter(here.members.items()))
    study.write_profile(replace(here, device="old machine", members={name: cost}))
    words = ["ensemble", study.storage.uri, "--images", "9", "--device", "old", "--budget-minutes", "600"]
    shown = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "old")], catch_exceptions=False)
    assert "not profiled on old machine" in " ".join(shown.output.split())
    (card,) = [record.card for stored, record in study.ensembles().items() if stored == "old"]
    assert set(card["members"]) == {name} and np.isclose(sum(card["members"].values()), 1)
