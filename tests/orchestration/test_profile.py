"""Blends within minutes, from a profile of a study's own members: measured, kept, asked for, refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from blended_study import finished_study
from commands import output, words_of
from hand_made_study import complete, empty_study, propose
from tiny_study import RANDOM
from typer.testing import CliRunner

from biomass_models.counted import counted
from biomass_models.targets import TARGETS
from orchestration.blending import budget as budgets
from orchestration.blending import profile
from orchestration.blending.blend import BlendOptions, make_cards
from orchestration.blending.device import device_name
from orchestration.blending.members import FileMembers, gather
from orchestration.blending.nested import blend_of
from orchestration.blending.profile import profile_study
from orchestration.blending.shown import shown_blend
from orchestration.cli import app
from orchestration.report.make import make_report
from orchestration.study.data import StudyData
from orchestration.study.derived.profiles import MemberCost, ProfileRecord, UnitCost
from orchestration.study.ledger import Ledger, LedgerError
from orchestration.study.storage import Storage
from orchestration.workers.shards import MemberError

pytestmark = pytest.mark.slow
SHARDS_OF_600 = 624  # photographs of 13 whole shards


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
    assert card["budget"]["used_minutes"] == pytest.approx(SHARDS_OF_600 * 0.6 / 60)
    assert (card["budget"]["next_member"], card["budget"]["next_minutes"]) == (
        dear,
        pytest.approx(SHARDS_OF_600 * 4.7 / 60),
    )
    text = output(*words, "--budget-minutes", "7")
    assert "within 7 min on Tesla T4" in text and "the next member would be" in text
    shown = shown_blend(StudyData(study))
    assert shown.card.budget is not None and set(shown.card.members) == {cheap}
    blend, reason = blend_of(StudyData(study))
    assert blend is not None, reason
    score = 1 - blend.library.loss_by_cell(blend.nested_RNT).mean(0).sum() / blend.library.gram.sst
    assert score == pytest.approx(card["nested_score"], abs=1e-9)  # made again from the card
    for page in (("show", study.storage.uri, cheap), ("leaderboard", study.storage.uri), ("status", study.storage.uri)):
        assert "(ensemble within, within 7 min on Tesla T4)" in " ".join(output(*page).split())
    assert "It predicts 600 photographs within 7 min on Tesla T4." in words_of(make_report(study))
    both = json.loads(output(*words, "--budget-minutes", "50", "--json"))["cards"][0]
    plain = json.loads(output("ensemble", study.storage.uri, "--out", str(tmp_path / "plain"), "--json"))["cards"][0]
    assert both["members"] == plain["members"] and both["nested_score"] == plain["nested_score"]


def test_a_cheap_repetition_of_an_expensive_member_can_be_chosen(study: Ledger, tmp_path: Path) -> None:
    """The expensive one, which is the better of the two, is what is merged: no budget of such minutes can choose it."""
    own = Ledger(Storage(shutil.copytree(study.storage.uri, tmp_path / "study")))
    data = StudyData(own)
    dear, cheap = (trial.trial_id for trial in data.ranked[:2])
    oof = own.oof(dear)
    truth_NT = own.quadrats().set_index("image_id").loc[oof["image_id"], list(TARGETS)].to_numpy()
    oof[list(TARGETS)] += 0.001 * (oof[list(TARGETS)] - truth_NT)  # the same errors, a little larger
    own.write_result(cheap, data.results[cheap], oof)
    plain = gather([own.storage.uri], FileMembers(), test_ids=None, seed=0, say=print).library
    assert plain.merged == ((cheap, dear),)
    members = {dear: MemberCost(seconds=9.0), cheap: MemberCost(seconds=0.1)}
    own.write_profile(ProfileRecord(device="Tesla T4", measured_at=1.0, images=9, units={}, members=members))
    words = ["ensemble", own.storage.uri, "--images", "48", "--device", "Tesla T4", "--out", str(tmp_path / "within")]
    card = json.loads(output(*words, "--budget-minutes", "1", "--json"))["cards"][0]
    assert set(card["members"]) == {cheap} and card["merged"] == [[dear, cheap]]
    blend, reason = blend_of(StudyData(own))
    assert blend is not None and blend.library.merged == ((dear, cheap),), reason
    both = json.loads(output(*words, "--budget-minutes", "60", "--json"))["cards"][0]
    assert both["merged"] == [[cheap, dear]]


def test_what_no_profile_or_no_minute_is_for_is_refused(study: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["ensemble", study.storage.uri, "--budget-minutes", "5"]
    asked = [*words, "--images", "600"]
    assert "--data DIR --profile` there, or name another" in refused(*asked, "--device", "H200")
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
    remedy = re.search(r"the study has none; run `biomass (.*)` here$", refused(*asked))
    assert remedy is not None
    output(*remedy[1].replace("DIR", str(tiny_pasture)).split(), "--gpus-per-fold", "0")
    assert "this blend takes" in " ".join(output(*asked).split())


def test_another_number_of_threads_is_another_machine_unless_it_is_named(study: Ledger, tmp_path: Path) -> None:
    """Predictions run with one thread a slot: a profile with 16 says nothing of them."""
    bare = Ledger(Storage(shutil.copytree(study.storage.uri, tmp_path / "bare")))
    shutil.rmtree(tmp_path / "bare" / "profiles")
    (here,) = [one for one in study.profiles() if one.device == device_name("cpu", 1)]
    sixteen = device_name("cpu", 16)
    bare.write_profile(replace(here, device=sixteen))
    asked = ["ensemble", bare.storage.uri, "--budget-minutes", "60", "--images", "90", "--out", str(tmp_path / "out")]
    text = refused(*asked)
    assert f"needs a profile of {here.device}, the study has {sixteen}" in text and "name another with --device" in text
    processor = sixteen.rpartition(" x ")[0]
    assert f"on {sixteen}" in " ".join(output(*asked, "--device", processor.upper()).split())
    bare.write_profile(here)
    assert f"on {here.device}" in " ".join(output(*asked).split())
    assert "give one as --device" in refused(*asked, "--device", processor)
    assert f"on {here.device}:" in " ".join(output(*asked, "--device", here.device).split())  # how 16 begins as well


@pytest.mark.parametrize(("images", "charged"), [(1, 48), (48, 48), (49, 96), (800, 816)])
def test_time_counts_by_whole_shards(images: int, charged: int) -> None:
    assert budgets.Budget(minutes=1.0, images=images).charged == charged


def test_the_photographs_of_a_test_set_are_said_and_an_example_of_one_is_refused(
    study: Ledger, tiny_pasture: Path, tmp_path: Path
) -> None:
    """The test.csv of a competition lists one photograph; where it runs there are hundreds."""
    few = tmp_path / "few"
    few.mkdir()
    ids = [f"ID{row:04d}" for row in range(60)]
    table = pd.DataFrame(
        {
            "sample_id": [f"{name}__{target}" for name in ids for target in TARGETS],
            "image_path": [f"test/{name}.jpg" for name in ids for _ in TARGETS],
            "target_name": list(TARGETS) * len(ids),
        }
    )
    table.iloc[:5].to_csv(few / "test.csv", index=False)
    with pytest.raises(budgets.HalfBudget, match=r"test\.csv lists 1, as an example.*; give --images N"):
        budgets.asked_budget(5.0, None, None, few)
    assert budgets.asked_budget(5.0, 3, None, few) == budgets.Budget(minutes=5.0, images=3)
    words = ["ensemble", study.storage.uri, "--data", str(few), "--budget-minutes", "5", "--out", str(tmp_path / "x")]
    assert CliRunner().invoke(app, words).exit_code == 2
    table.to_csv(few / "test.csv", index=False)
    asked = budgets.asked_budget(5.0, None, device_name("cpu", 1), few)
    assert asked is not None and (asked.images, asked.listed) == (60, True)
    said: list[str] = []
    gathered = gather([study.storage.uri], FileMembers(), test_ids=None, seed=0, say=said.append)
    make_cards(gathered, BlendOptions(budget=asked), None, said.append)
    assert "note: the budget is for 60 photographs of test.csv; --images N counts others" in said


def test_trials_beyond_the_hundred_best_are_profiled_too(
    study: Ledger, tmp_path: Path, tiny_pasture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Members that a score on all rows left out would be chosen with the rows that a nest scores them by."""
    bare = Ledger(Storage(shutil.copytree(study.storage.uri, tmp_path / "bare")))
    data = StudyData(bare)
    names = {f"t{number}" for number in range(130)}
    many = SimpleNamespace(
        ranked=[SimpleNamespace(trial_id=name, record=data.ranked[0].record) for name in sorted(names)],
        ledger=bare,
        settings=data.settings,
    )
    monkeypatch.setattr(profile, "require_same", lambda *_, **__: None)
    monkeypatch.setattr(profile, "predicting_models", lambda *_: [])
    monkeypatch.setattr(profile, "source_of_trials", lambda *_: RANDOM)
    monkeypatch.setattr(profile, "_member", lambda *_: MemberCost(seconds=0.1))
    found = profile_study(many, tiny_pasture, weights=RANDOM, device="cpu", cpus=1, say=print)  # type: ignore[arg-type]
    assert set(found.members) == names


@pytest.mark.parametrize(
    ("step", "error"),
    [
        ("source_of_trials", LedgerError("with weights w, got none")),
        ("require_packages", MemberError("needs the package peft")),
        ("require_same", LedgerError("other labels")),
        ("predicting_models", LedgerError("torn")),
        ("_member", RuntimeError("CUDA out of memory")),
        ("_member", KeyError("of a family of others")),
    ],
)
def test_what_one_trial_lacks_costs_that_trial_alone(
    step: str, error: Exception, tmp_path: Path, tiny_pasture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best trial, which would also be the one that wakes the device up. Where all lack it there is no profile."""
    ledger = empty_study(tmp_path / "study")
    names = [propose(ledger, number) for number in range(3)]
    for name, score in zip(names, (0.9, 0.8, 0.7), strict=True):
        complete(ledger, name, score)
    broken = {names[0]}
    answers: dict[str, tuple[Callable[..., str], object]] = {  # whose trial it is, and the answer
        "source_of_trials": (lambda refs, _: refs[0].trial_id, RANDOM),
        "require_packages": (lambda members: members[0].name, None),
        "require_same": (lambda what, ledger, record, *_, **__: record.trial_id, None),
        "predicting_models": (lambda _, trial_id: trial_id, None),
        "_member": (lambda family, config, models, inputs: models[0], MemberCost(seconds=0.1)),
    }

    def stand_in(name: str) -> Callable[..., object]:
        whose, answer = answers[name]

        def call(*given: object, **named: object) -> object:
            trial_id = whose(*given, **named)
            if name == step and trial_id in broken:
                raise error
            return [("fold-0", trial_id)] if name == "predicting_models" else answer

        return call

    for name in answers:
        monkeypatch.setattr(profile, name, stand_in(name))
    said: list[str] = []
    asked = {"weights": RANDOM, "device": "cpu", "cpus": 1, "say": said.append}
    found = profile_study(StudyData(ledger), tiny_pasture, **asked)
    assert set(found.members) == {*names} - broken
    (line,) = said
    assert line.startswith(f"{names[0]} is left out: ") and str(error) in line
    broken |= set(names)
    with pytest.raises(LedgerError, match="a trial that can predict here, got none; the lines before say why of each"):
        profile_study(StudyData(ledger), tiny_pasture, **asked)
    assert len(said) == 1 + len(names)


def test_members_of_a_profile_that_is_older_than_they_are_not_chosen(study: Ledger, tmp_path: Path) -> None:
    (here,) = [one for one in study.profiles() if one.device == device_name("cpu", 1)]
    name, cost = next(iter(here.members.items()))
    study.write_profile(replace(here, device="old machine", members={name: cost}))
    words = ["ensemble", study.storage.uri, "--images", "9", "--device", "old", "--budget-minutes", "600"]
    shown = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "old")], catch_exceptions=False)
    assert "not profiled on old machine" in " ".join(shown.output.split())
    (card,) = [record.card for stored, record in study.ensembles().items() if stored == "old"]
    assert set(card["members"]) == {name} and np.isclose(sum(card["members"].values()), 1)
    others = len(StudyData(study).ranked) - 1
    assert card["budget"]["unknown"] == others
    assert f"{counted(others, 'member has', 'members have')} no profile there" in " ".join(shown.output.split())
