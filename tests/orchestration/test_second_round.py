"""`biomass search --second-round`: what is labelled, by whom, and that no label of a fold finds a way back into it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import worked_packages
from blended_study import Remembering
from commands import output, words_of
from safetensors.torch import load as load_tensors
from second_rounds import BLEND, blend, blended_study, search, write_blend
from tiny_study import RANDOM, make_study
from typer.testing import CliRunner

from biomass_models.data.table import read_test
from biomass_models.families import registry
from biomass_models.families.introduced import config_from_stored
from biomass_models.families.registry import model
from biomass_models.features.inputs import ImageSet, Inputs
from biomass_models.fold_rows import folds_in
from biomass_models.pasture.make import make_pasture
from biomass_models.targets import TARGETS, project_coherent
from ensembles.card import Card
from orchestration.blending.shown import beside_score
from orchestration.bundle.export import export_bundle
from orchestration.bundle.predict import predict_bundle
from orchestration.cli import app
from orchestration.inspect.audit import audit
from orchestration.inspect.repair import repair
from orchestration.report.make import make_report
from orchestration.search.proposer import Proposer
from orchestration.search.second_round import (
    PREFIX,
    families_without,
    keep_second_round,
    label,
    make_labels,
    plan_second_round,
    rounds_to_label,
)
from orchestration.search.trial import run_trial
from orchestration.study.data import StudyData
from orchestration.study.data_changes import all_quadrats
from orchestration.study.ids import make_round_id, make_trial_id, trial_id_of
from orchestration.study.ledger import Ledger, LedgerError
from orchestration.study.records import TrialRecord, TrialRef, TrialRound
from orchestration.study.settings import StudyError
from orchestration.study.spaces import stored_spaces
from orchestration.study.storage import Storage
from orchestration.workers.context import WorkerContext
from orchestration.workers.refit import refit_trial, restore_models
from orchestration.workers.slots.inline_pool import InlinePool
from search_spaces.range_files import read_changes

pytestmark = pytest.mark.slow

ASKED = {"second_round": BLEND}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, tiny_pasture: Path) -> Path:
    """The folder of a study of two trials and its blend, with its cache."""
    folder = tmp_path_factory.mktemp("first-round")
    blended_study(folder, tiny_pasture)
    return folder


@pytest.fixture(scope="module")
def both(first: Path, tmp_path_factory: pytest.TempPathFactory, tiny_pasture: Path) -> Path:
    """The same with a second round of two trials."""
    folder = Path(shutil.copytree(first, tmp_path_factory.mktemp("both") / "copy"))
    search(folder / "study", tiny_pasture, 4, **ASKED)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_pasture: Path) -> Path:
    """Both rounds of all families."""
    folder, families = tmp_path_factory.mktemp("all-families"), {"families": registry.BUILT_IN}
    blended_study(folder, tiny_pasture, len(registry.BUILT_IN), **families)
    search(folder / "study", tiny_pasture, 2 * len(registry.BUILT_IN), **families, **ASKED)
    return folder


def copied(folder: Path, to: Path) -> Ledger:
    return Ledger(Storage(shutil.copytree(folder, to) / "study"))


@pytest.fixture
def fresh(first: Path, tmp_path: Path) -> Ledger:
    return copied(first, tmp_path / "fresh")


@pytest.fixture
def fresh_both(both: Path, tmp_path: Path) -> Ledger:
    return copied(both, tmp_path / "both")


def folder_of(ledger: Ledger) -> Path:
    return Path(ledger.storage.uri)


def of_second_round(ledger: Ledger) -> list[TrialRecord]:
    return [record for record in ledger.trials() if record.second_round is not None]


def round_of(ledger: Ledger) -> str:
    (name,) = ledger.second_round_ids()
    return name


def pool_of(ledger: Ledger, data: Path, stop_after: int | None = None) -> Remembering:
    cache = folder_of(ledger).parent / "cache"
    context = WorkerContext(study=ledger.storage.uri, data_dir=str(data), cache=str(cache), weights=RANDOM)
    return Remembering(context, [], stop_after)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# -- what it is --------------------------------------------------------------------------------------------------------


def test_labels_of_a_fold_are_the_plain_mean_of_the_models_of_that_fold(both: Path, tiny_pasture: Path) -> None:
    ledger = Ledger(Storage(both / "study"))
    record, card = ledger.second_round(round_of(ledger)), ledger.ensemble(BLEND).card
    assert set(record.members) == set(card["members"]) and record.ensemble == BLEND and len(record.members) > 1
    tests = ImageSet.from_table(tiny_pasture, read_test(tiny_pasture))
    inputs = Inputs(tests, cache_dir=both / "cache", weights=RANDOM)
    for fold in folds_in(ledger.quadrats()["fold"]):
        said = []
        for member in record.members:
            trial = ledger.trial(member)
            config = config_from_stored(trial.family, trial.config)
            tensors = load_tensors(ledger.fold_model(member, fold))
            said.append(project_coherent(model(trial.family).predict(config, tensors, inputs)))
        image_id, label_PT, share_P = ledger.pseudo_labels(record.round_id, [fold])
        assert image_id.tolist() == [f"{PREFIX}{name}" for name in tests.image_ids] and (share_P == 1).all()
        np.testing.assert_allclose(label_PT, np.mean(said, axis=0), rtol=1e-5, atol=1e-5)
    several = ledger.pseudo_labels(record.round_id, [0, 2])[1]
    alone = [ledger.pseudo_labels(record.round_id, [fold])[1] for fold in (0, 2)]
    np.testing.assert_array_equal(several, np.mean(alone, axis=0))


@pytest.mark.long
def test_members_settings_come_first_and_learn_from_the_labels(whole: Path) -> None:
    ledger = Ledger(Storage(whole / "study"))
    asked = TrialRound(round_id=round_of(ledger), weight=0.3)
    first = {record.family: record for record in ledger.trials() if record.second_round is None}
    assert {record.family for record in of_second_round(ledger)} == set(first) == set(registry.BUILT_IN)
    for record in of_second_round(ledger):
        earlier = first[record.family]
        assert record.second_round == asked and record.config == earlier.config and record.params == earlier.params
        assert record.trial_id == trial_id_of(record, ledger.study().fold_hash) != earlier.trial_id
        for fold in folds_in(ledger.quadrats()["fold"]):
            metrics, before = ledger.fold_metrics(record.trial_id, fold), ledger.fold_metrics(earlier.trial_id, fold)
            assert metrics is not None and before is not None
            assert metrics.info["pseudo_rows"] == 6 and "folds_together" not in metrics.info
            assert metrics.info["train_rows"] == before.info["train_rows"]
            assert metrics.info.get("teacher") == before.info.get("teacher")  # one teacher, of what was weighed
            assert ledger.fold_model(record.trial_id, fold) != ledger.fold_model(earlier.trial_id, fold)
        assert list(ledger.oof(record.trial_id)["image_id"]) == list(ledger.quadrats()["image_id"])


def test_ids_tell_rounds_weights_and_photographs_apart() -> None:
    base = ("probe", {"a": 1}, "w", 0, "f")
    plain = make_trial_id(*base)
    rounds = [TrialRound(round_id=name, weight=weight) for name, weight in (("r", 0.3), ("r", 0.4), ("s", 0.3))]
    assert make_trial_id(*base, None) == plain
    assert len({plain, *(make_trial_id(*base, one) for one in rounds)}) == 4
    same = make_round_id(["b", "a"], ["1", "2"], ["x", "y"])
    assert same == make_round_id(["a", "b"], ["1", "2"], ["x", "y"])
    others = [(["a"], ["1", "2"], ["x", "y"]), (["a", "b"], ["1"], ["x"]), (["a", "b"], ["1", "2"], ["x", "z"])]
    assert len({same, *(make_round_id(*other) for other in others)}) == 4


@pytest.mark.long
def test_a_search_of_one_round_observes_the_first_and_its_own(fresh: Ledger, tiny_pasture: Path) -> None:
    from orchestration.search.prepare import prepare_search

    study = folder_of(fresh)
    search(study, tiny_pasture, 3, **ASKED)
    search(study, tiny_pasture, 4, pseudo_weight=0.8, **ASKED)
    record = fresh.study()

    def seen(**asked: Any) -> set[str]:
        proposer = prepare_search(
            fresh, tiny_pasture, record.settings, fingerprints=record.weights, max_trials=9, say=lambda _: None, **asked
        )
        engines = [own for (name, _), own in proposer._engines.items() if name == proposer._engine]
        return {name for engine in engines for name in engine._observed}

    trials = {record.trial_id: record.second_round for record in fresh.trials()}
    plain = {name for name, own in trials.items() if own is None}
    light = {name for name, own in trials.items() if own is not None and own.weight == 0.3}
    assert seen() == plain and seen(**ASKED) == plain | light and len(light) == 1


def test_members_settings_outside_of_the_ranges_of_now_are_moved_into_them(fresh: Ledger, tiny_pasture: Path) -> None:
    """And a family without a member begins with its own first trials."""
    from orchestration.search.prepare import prepare_search

    record, said = fresh.study(), list[str]()

    def begins(typed: str) -> dict[str, list[dict[str, Any]]]:
        search = prepare_search(
            fresh, tiny_pasture, record.settings, fingerprints=record.weights, max_trials=9, say=said.append,
            changes=read_changes(None, [typed]), **ASKED,
        )  # fmt: skip
        return {name: list(map(dict, points)) for name, points in search._first.items()}

    members = {record.family: dict(record.params) for record in fresh.trials()}
    plain = begins("probe.alphas=13")
    assert all(plain[family] == [params] for family, params in members.items())
    (moved,) = begins("probe.pooling=mean+std")["probe"]
    assert moved == {name: value for name, value in members["probe"].items() if name != "pooling"}
    assert any("(probe) are moved to the ranges of now: pooling=mean+std" in line for line in said)
    spaces = stored_spaces(fresh.study())
    bare = Proposer(spaces, fresh, seed=0, fold_hash="f", weights={}, first={"stack": [members["stack"]]})
    assert [len(points) for points in bare._first.values()] == [len(spaces["probe"].first_trials), 1]


# -- no way back -------------------------------------------------------------------------------------------------------


def labelled_twice(tmp_path: Path, data: Path, changed: Path, **more: Any) -> tuple[Ledger, Ledger, str]:
    """Two studies of the same trials and folds, the second with the labels of `changed`, and the id of their round."""
    found = []
    for name, folder in (("one", data), ("other", changed)):
        ledger, context, records = make_study(tmp_path / name, folder, tmp_path / "cache", **more)
        for record in records:
            run_trial(ledger, InlinePool(context), record.trial_id)
        found.append(ledger)
    one, other = found
    assert [record.trial_id for record in one.trials()] == [record.trial_id for record in other.trials()]
    members = {record.trial_id: TrialRef(one.storage.uri, record.trial_id) for record in one.trials()}
    for ledger, folder in zip(found, (data, changed), strict=True):
        write_blend(ledger, list(members))
        planned = plan_second_round(ledger, BLEND, 0.3, folder)
        keep_second_round(ledger, planned)
        label(ledger, pool_of(ledger, folder), [planned.record.round_id])
    assert round_of(one) == round_of(other)
    return one, other, round_of(one)


def heavier(data: Path, tmp_path: Path, image_ids: set[str]) -> Path:
    """A copy of the data in which some photographs weigh three times as much."""
    copy = Path(shutil.copytree(data, tmp_path / "heavier"))
    table = pd.read_csv(copy / "train.csv")
    own = table["sample_id"].str.partition("__")[0].isin(image_ids)
    assert own.sum() == 5 * len(image_ids)
    table.loc[own, "target"] *= 3
    table.to_csv(copy / "train.csv", index=False)
    return copy


@pytest.mark.parametrize(
    ("scheme", "families"),
    [
        ("date", ("probe", "stack")),
        pytest.param("date", registry.BUILT_IN, marks=pytest.mark.long),
        pytest.param("time", ("baseline", "stack"), marks=pytest.mark.long),
    ],
)
def test_labels_of_a_fold_do_not_depend_on_the_masses_of_that_fold(
    tmp_path: Path, tiny_pasture: Path, scheme: str, families: tuple[str, ...]
) -> None:
    """The list is fixed, the masses of fold 1 are others, and round one is fitted again."""
    data = tiny_pasture
    if scheme == "time":  # the first of three blocks must be enough to learn from
        data = tmp_path / "more"
        make_pasture(data, images=60, test_images=4, seed=0, width=160, height=80, workers=1)
    first, _, _ = make_study(tmp_path / "drawn", data, tmp_path / "cache", scheme=scheme)
    quadrats = first.quadrats()
    others = heavier(data, tmp_path, set(quadrats.loc[quadrats["fold"] == 1, "image_id"]))
    one, other, round_id = labelled_twice(tmp_path, data, others, families=families, scheme=scheme)
    assert (one.quadrats()["fold"] == other.quadrats()["fold"]).all()
    for fold in folds_in(quadrats["fold"]):
        before, after = (ledger.pseudo_labels(round_id, [fold])[1] for ledger in (one, other))
        saw_it = fold > 1 if scheme == "time" else fold != 1
        assert (before.tobytes() != after.tobytes()) == saw_it
        assert bool(np.abs(before - after).max() > 0.1) == saw_it


@pytest.mark.long
def test_what_a_trial_of_the_second_round_predicts_of_a_fold_does_not_depend_on_its_masses(
    tmp_path: Path, tiny_pasture: Path
) -> None:
    first, _, _ = make_study(tmp_path / "drawn", tiny_pasture, tmp_path / "cache")
    quadrats = first.quadrats()
    others = heavier(tiny_pasture, tmp_path, set(quadrats.loc[quadrats["fold"] == 1, "image_id"]))
    one, other, round_id = labelled_twice(tmp_path, tiny_pasture, others, families=("probe", "distilled"))
    asked = TrialRound(round_id=round_id, weight=0.5)
    for family in ("probe", "distilled"):
        said: list[dict[int, bytes]] = []
        for ledger, data in ((one, tiny_pasture), (other, others)):
            plain = next(record for record in ledger.trials() if record.family == family)
            record = replace(plain, trial_id=f"second{family}"[:10], second_round=asked)
            ledger.write_trial(record)
            assert run_trial(ledger, pool_of(ledger, data), record.trial_id) is not None
            rows = {fold: ledger.fold_oof(record.trial_id, fold) for fold in range(3)}
            said.append({fold: row[list(TARGETS)].to_numpy().tobytes() for fold, row in rows.items()})
        assert [said[0][fold] == said[1][fold] for fold in range(3)] == [False, True, False]


# -- which photographs -------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_what_the_study_or_its_exam_has_is_never_labelled(tmp_path: Path, own_pasture: Path) -> None:
    """Photographs of the exam and of the study stand in test.csv, under other names; and one twice."""
    ledger = blended_study(tmp_path, own_pasture, exam=0.25)
    kept, table = ledger.exam_quadrats(), pd.read_csv(own_pasture / "test.csv")
    assert kept is not None and len(all_quadrats(ledger)) == 24
    tests = read_test(own_pasture)["image_path"]
    for place, path in enumerate((*kept["image_path"][:2], ledger.quadrats()["image_path"][0], tests[3])):
        shutil.copy(own_pasture / path, own_pasture / "test" / f"again{place}.jpg")
        rows = [
            {"sample_id": f"again{place}__{target}", "image_path": f"test/again{place}.jpg", "target_name": target}
            for target in TARGETS
        ]
        table = pd.concat([table, pd.DataFrame(rows)], ignore_index=True)
    table.to_csv(own_pasture / "test.csv", index=False)
    said: list[str] = []
    search(tmp_path / "study", own_pasture, 3, said, exam=0.25, **ASKED)
    assert any("3 test photographs not labelled: the study, or its exam, has it" in line for line in said)
    photographs = ledger.round_photographs(round_of(ledger))
    assert photographs["image_path"].tolist() == tests.tolist()
    digests = ledger.photographs()
    assert digests is not None and not set(photographs["blake2b"]) & set(digests["blake2b"])
    assert audit(ledger).clean


@pytest.mark.long
def test_masses_that_were_not_measured_have_no_label(tmp_path: Path, own_pasture: Path) -> None:
    """The total alone was weighed, of photographs of which some show one quadrat."""
    from biomass_models.data.table import read_train

    table, own = read_train(own_pasture), own_pasture
    tests = read_test(own).drop(columns="image_id")
    total = table[["image_path", "Dry_Total_g"]].rename(columns={"image_path": "photo", "Dry_Total_g": "total"})
    total["date"] = table["Sampling_Date"].dt.strftime("%Y-%m-%d")
    total["quadrat"] = [f"q{row // 2}" for row in range(len(total))]
    for column in ("date", "total"):
        total[column] = total.groupby("quadrat")[column].transform("first")
    (own / "train.csv").unlink()
    total.to_csv(own / "quadrats.csv", index=False)
    (own / "dataset.toml").write_text(
        'unit = "g"\n[columns]\nphoto = "photo"\ntotal = "total"\ndate = "date"\nquadrat = "quadrat"\n'
    )
    test = pd.read_csv(own / "test.csv")
    test["quadrat"] = test["image_path"].map({path: f"t{row // 2}" for row, path in enumerate(tests["image_path"])})
    test.to_csv(own / "test.csv", index=False)
    ledger = blended_study(tmp_path, own)
    search(tmp_path / "study", own, 4, **ASKED)
    _, label_PT, share_P = ledger.pseudo_labels(round_of(ledger), [0])
    assert np.isnan(label_PT[:, :4]).all() and (label_PT[:, 4] >= 0).all() and (share_P == 0.5).all()
    assert len(of_second_round(ledger)) == 2 and audit(ledger).clean


# -- it is whole -------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_fitted_again_the_rows_are_the_same_and_the_study_is_sound(whole: Path, tiny_pasture: Path) -> None:
    ledger = Ledger(Storage(whole / "study"))
    assert audit(ledger).clean and rounds_to_label(ledger, None) == []
    for record in of_second_round(ledger):
        found = refit_trial(ledger, record.trial_id, tiny_pasture, cache_dir=whole / "cache", weights=RANDOM)
        assert found.same and found.different_here == (), str(found)


@pytest.mark.long
def test_a_dropped_model_of_a_second_round_is_restored_to_the_byte(fresh_both: Ledger, tiny_pasture: Path) -> None:
    record = of_second_round(fresh_both)[-1]
    before = fresh_both.fold_model(record.trial_id, 1)
    fresh_both.drop_model(record.trial_id, 1, "a test")
    cache = folder_of(fresh_both).parent / "cache"
    restore_models(fresh_both, record.trial_id, tiny_pasture, cache_dir=cache, weights=RANDOM)
    assert fresh_both.fold_model(record.trial_id, 1) == before


@pytest.mark.long
def test_pages_say_what_it_is_and_blends_take_its_trials(
    fresh_both: Ledger, tiny_pasture: Path, tmp_path: Path
) -> None:
    study, sentence = fresh_both.storage.uri, "2 trials are of a second round: labels of a fold come from models that"
    board = CliRunner().invoke(app, ["leaderboard", study], env={"COLUMNS": "80"})
    assert sentence in " ".join(board.stderr.split()) and "second" in board.stdout
    rows = {row["name"]: row for row in json.loads(output("leaderboard", study, "--json"))["rows"]}
    assert all("second round, weight 0.3" in rows[one.trial_id]["notes"] for one in of_second_round(fresh_both))
    assert sentence in output("status", study)
    assert sentence in words_of(make_report(fresh_both, tiny_pasture))
    path = blend(fresh_both, tiny_pasture, tmp_path / "second.csv")
    submission = pd.read_csv(path)
    assert len(submission) == 30 and (submission["target"] >= 0).all()
    members = set(fresh_both.ensemble("second").card["members"])
    ours = [record for record in of_second_round(fresh_both) if record.trial_id in members]
    beside = beside_score(StudyData(fresh_both), Card.from_json(fresh_both.ensemble("second").card))
    assert ours and "of a second round: labels of a fold come from models that never saw it" in beside[0]
    first = Card.from_json(fresh_both.ensemble(BLEND).card)
    assert not any("second round" in line for line in beside_score(StudyData(fresh_both), first))
    traced = output("trace", str(path), "--study", study)
    assert traced.count(f"second round {round_of(fresh_both)}: test photographs that models labelled count 0.3") == len(
        ours
    )
    bundle = tmp_path / "bundle"
    export_bundle(study, "second", bundle, weights=RANDOM)
    predict_bundle(bundle, tiny_pasture, tmp_path / "b.csv", weights=bundle / "weights", say=lambda _: None)
    bundled = pd.read_csv(tmp_path / "b.csv")
    np.testing.assert_allclose(bundled["target"], submission["target"], rtol=1e-3, atol=1e-3)


@pytest.mark.long
def test_a_model_on_all_rows_learns_from_the_mean_of_the_folds_labels(
    whole: Path, tiny_pasture: Path, tmp_path: Path
) -> None:
    fresh_both = copied(whole, tmp_path / "whole")
    from blended_study import InlinePredictor

    cache = folder_of(fresh_both).parent / "cache"
    refs = {one.trial_id: TrialRef(fresh_both.storage.uri, one.trial_id) for one in fresh_both.trials()}
    InlinePredictor(tiny_pasture, cache).fit_on_all_rows(refs)
    made = {name: fresh_both.all_rows_model(name) for name in refs}
    for record in of_second_round(fresh_both):
        marker = fresh_both.all_rows(record.trial_id)
        assert marker is not None and marker.rows == 24
        plain = next(one for one in fresh_both.trials() if one.config == record.config and not one.second_round)
        assert made[record.trial_id] != made[plain.trial_id]
        (folder_of(fresh_both) / "trials" / record.trial_id / "all-rows" / "all-rows.json").unlink()
    InlinePredictor(tiny_pasture, cache).fit_on_all_rows(refs)
    assert {name: fresh_both.all_rows_model(name) for name in refs} == made


def test_a_round_that_was_stopped_goes_on_where_it_was(fresh: Ledger, both: Path, tiny_pasture: Path) -> None:
    """While photographs are labelled, between two trials, and in the middle of one."""
    whole, study = Ledger(Storage(both / "study")), folder_of(fresh)
    planned = plan_second_round(fresh, BLEND, 0.3, tiny_pasture)
    keep_second_round(fresh, planned)
    stopping = pool_of(fresh, tiny_pasture, stop_after=3)
    with pytest.raises(StudyError, match="came to an end: the power went; what is done is kept"):
        label(fresh, stopping, [planned.record.round_id])
    there = contents(study / "second-rounds" / planned.record.round_id / "members")
    assert len(there) == 4 and not fresh.has_labels(planned.record.round_id)
    with pytest.raises(StudyError, match=r"has not labelled for fold \d; run the same command again"):
        make_labels(fresh, planned.record.round_id)
    assert rounds_to_label(fresh, planned.of_trial) == [planned.record.round_id]
    search(study, tiny_pasture, 3, **ASKED)
    assert fresh.labels(planned.record.round_id).equals(whole.labels(planned.record.round_id))
    (begun,) = of_second_round(fresh)
    fresh.reopen(begun.trial_id)
    fresh.set_fold_aside(begun.trial_id, 2)
    search(study, tiny_pasture, 3)  # an open trial goes on without the option
    search(study, tiny_pasture, 4, **ASKED)
    ours = {one.trial_id for one in of_second_round(fresh)}
    assert ours == {one.trial_id for one in of_second_round(whole)} and len(fresh.trials()) == 4
    for name in ours:
        assert fresh.oof(name).equals(whole.oof(name))
    assert audit(fresh).clean


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def refused(ledger: Ledger, data: Path, text: str, trials: int = 6, **asked: Any) -> None:
    """A search is refused so, and leaves the study as it was."""
    before = contents(folder_of(ledger))
    with pytest.raises((StudyError, LedgerError), match=text):
        search(folder_of(ledger), data, trials, **{**ASKED, **asked})
    after = {name: content for name, content in contents(folder_of(ledger)).items() if name != "owner.json"}
    assert after == {name: content for name, content in before.items() if name != "owner.json"}


def test_a_study_or_a_blend_that_is_not_there(tmp_path: Path, fresh: Ledger, tiny_pasture: Path) -> None:
    with pytest.raises(StudyError, match="follows the blend of a study, there is no study in"):
        search(tmp_path / "none", tiny_pasture, 6, **ASKED)
    assert not (tmp_path / "none" / "study.json").exists()
    refused(fresh, tiny_pasture, f"there is no ensemble other .*it has {BLEND}", second_round="other")


@pytest.mark.long
def test_members_from_elsewhere(fresh: Ledger, tiny_pasture: Path, tmp_path: Path) -> None:
    """From another study, or from a file; blended alone, the study labels."""
    one, *others = [record.trial_id for record in fresh.trials()]
    write_blend(fresh, [one, *others], {one: TrialRef(str(tmp_path / "elsewhere"), one)})
    refused(
        fresh, tiny_pasture, f"1 member of {BLEND} not, such as {one} .a trial of .*elsewhere.; blend the study alone"
    )
    ensemble = fresh.ensemble(BLEND)
    fresh.write_ensemble(BLEND, ensemble.card, {name: ensemble.trials[name] for name in others}, b"")
    refused(fresh, tiny_pasture, rf"such as {one} \(from a file\); blend the study alone: biomass ensemble")
    blend(fresh, tiny_pasture, tmp_path / f"{BLEND}.csv")
    search(folder_of(fresh), tiny_pasture, 3, **ASKED)
    assert len(of_second_round(fresh)) == 1


@pytest.mark.long
def test_a_member_that_is_not_complete_any_more(fresh: Ledger, tiny_pasture: Path, tmp_path: Path) -> None:
    from orchestration.study.records import PRUNED

    member = fresh.trials()[0].trial_id
    result = fresh.result(member)
    assert result is not None
    fresh.write_result(member, replace(result, status=PRUNED))
    refused(fresh, tiny_pasture, f"labelled by complete trials, member {member} of {BLEND} is pruned; blend the study")
    blend(fresh, tiny_pasture, tmp_path / f"{BLEND}.csv")
    search(folder_of(fresh), tiny_pasture, 3, **ASKED)
    assert member not in fresh.second_round(round_of(fresh)).members


@pytest.mark.long
def test_models_that_were_dropped_or_lost_are_brought_back(fresh: Ledger, tiny_pasture: Path) -> None:
    dropped, lost = [record.trial_id for record in fresh.trials()]
    fresh.drop_model(dropped, 1, "a test")
    said = rf"those of trial {dropped} were dropped to keep --weights-gb \(fold 1\); `biomass refit .* --restore`"
    refused(fresh, tiny_pasture, said)
    cache = folder_of(fresh).parent / "cache"
    output("refit", fresh.storage.uri, dropped, "--data", str(tiny_pasture), "--restore", "--cache", str(cache))
    (folder_of(fresh) / "trials" / lost / "fold-2" / "model.safetensors").unlink()
    refused(fresh, tiny_pasture, f"trial {lost} has lost fold 2; `biomass repair .*` reopens it")
    repair(fresh, lambda _: None)
    search(folder_of(fresh), tiny_pasture, 2)
    search(folder_of(fresh), tiny_pasture, 3, **ASKED)
    fresh.drop_model(lost, 0, "a test")  # once there are labels, no model is needed
    search(folder_of(fresh), tiny_pasture, 4, **ASKED)
    assert len(of_second_round(fresh)) == 2


@pytest.mark.long
def test_members_that_keep_the_best_epoch_do_not_label(whole: Path, tiny_pasture: Path, tmp_path: Path) -> None:
    """What chose its epoch on a fold says something of that fold's masses."""
    fresh = copied(whole, tmp_path / "whole")
    chooser = next(record for record in fresh.trials() if record.family == "baseline")
    fresh.write_trial(replace(chooser, config={**chooser.config, "select_best_epoch": True}))
    planned = plan_second_round(fresh, BLEND, 0.3, tiny_pasture)
    assert chooser.trial_id not in planned.record.members and len(planned.record.members) == 4
    assert any(f"member {chooser.trial_id} labels nothing: it kept the epoch" in line for line in planned.lines)
    write_blend(fresh, [chooser.trial_id])
    refused(fresh, tiny_pasture, "needs members that have not chosen on the fold they label, all 1 of")


def test_no_test_photographs(fresh: Ledger, own_pasture: Path) -> None:
    kept = (own_pasture / "test.csv").read_bytes()
    (own_pasture / "test.csv").unlink()
    refused(fresh, own_pasture, "labels test photographs, .* has no test.csv; add it")
    for test, train in zip(read_paths(own_pasture, kept), fresh.quadrats()["image_path"], strict=False):
        shutil.copy(own_pasture / train, own_pasture / test)
    refused(fresh, own_pasture, "that the study does not have, got all 6 of .*; give other --data")


def read_paths(data: Path, kept: bytes) -> list[str]:
    (data / "test.csv").write_bytes(kept)
    return read_test(data)["image_path"].tolist()


@pytest.mark.parametrize(("weight", "trials", "said"), [
    (0.0, 6, "above 0 and at most 1, got 0; leave --second-round out for none"),
    (1.5, 6, "above 0 and at most 1, got 1.5"),
    (0.3, 2, r"--trials counts all trials of the study, .* has 2, got 2; give more, such as --trials 14"),
])  # fmt: skip
def test_weights_and_numbers_that_make_no_round(
    fresh: Ledger, tiny_pasture: Path, weight: float, trials: int, said: str
) -> None:
    refused(fresh, tiny_pasture, said, trials, pseudo_weight=weight)


def test_the_command_checks_and_passes_on_what_was_typed(fresh: Ledger, tiny_pasture: Path) -> None:
    command = ["search", fresh.storage.uri, "--data", str(tiny_pasture), "--inline", "--trials", "3"]
    cache = ["--cache", str(folder_of(fresh).parent / "cache")]
    alone = CliRunner().invoke(app, [*command, "--pseudo-weight", "0.5"])
    assert "--pseudo-weight is of a second round, got 0.5 without one" in str(alone.exception)
    strange = CliRunner().invoke(app, [*command, "--second-round", "other"])
    assert "there is no ensemble other" in str(strange.exception)
    done = CliRunner().invoke(app, [*command, *cache, "--second-round", BLEND, "--pseudo-weight", "0.5"])
    assert done.exit_code == 0, done.output
    assert [one.second_round for one in of_second_round(fresh)] == [TrialRound(round_id=round_of(fresh), weight=0.5)]
    assert "6 test photographs, labelled by the plain mean of 2 members, count 0.5" in " ".join(done.stderr.split())


def test_a_family_that_cannot_is_left_out(tmp_path: Path) -> None:
    worked_packages.install(tmp_path)
    with worked_packages.installed(tmp_path):
        assert families_without(["probe", worked_packages.NAME, "baseline"]) == [worked_packages.NAME]


@pytest.mark.long
def test_other_test_photographs_are_refused_where_a_trial_goes_on(fresh_both: Ledger, own_pasture: Path) -> None:
    record = of_second_round(fresh_both)[0]
    cache = folder_of(fresh_both).parent / "cache"
    first, *_ = read_test(own_pasture)["image_path"]
    kept = (own_pasture / first).read_bytes()

    def refit() -> Any:
        return refit_trial(fresh_both, record.trial_id, own_pasture, cache_dir=cache, weights=RANDOM)

    shutil.copy(own_pasture / read_test(own_pasture)["image_path"][1], own_pasture / first)
    assert "1 is another in" in str(refit()) and "give the --data of that search" in str(refit())
    (own_pasture / first).unlink()
    assert f"lacks 1 photograph of 6, such as {first}" in str(refit())
    (own_pasture / first).write_bytes(kept)
    assert refit().same


@pytest.mark.long
@pytest.mark.parametrize("harm", ["torn", "gone"])
def test_labels_that_are_lost_are_named_and_made_again(fresh_both: Ledger, tiny_pasture: Path, harm: str) -> None:
    name, study = round_of(fresh_both), folder_of(fresh_both)
    path, before = study / "second-rounds" / name / "labels.parquet", fresh_both.labels(name)
    path.unlink() if harm == "gone" else path.write_bytes(path.read_bytes()[:-9] + b"123456789")
    (problem,) = audit(fresh_both).problems
    assert f"second round {name}" in problem
    shown = CliRunner().invoke(app, ["repair", str(study), "--yes"]).stdout
    assert f"second round {name} is made anew" in shown
    (problem,) = audit(fresh_both).problems
    assert f"has no labels, and trials learn in it; `biomass search` with --second-round {BLEND} makes" in problem
    search(study, tiny_pasture, 4, **ASKED)
    assert fresh_both.labels(name).equals(before) and audit(fresh_both).clean


@pytest.mark.long
def test_photographs_that_are_lost_are_written_again(fresh_both: Ledger, tiny_pasture: Path) -> None:
    name, study = round_of(fresh_both), folder_of(fresh_both)
    (study / "second-rounds" / name / "second-round.json").unlink()
    with pytest.raises(LedgerError, match="with --second-round and the blend's name writes it"):
        fresh_both.second_round(name)
    assert any(f"second round {name}" in text for text in audit(fresh_both).problems)
    search(study, tiny_pasture, 4, **ASKED)
    assert audit(fresh_both).clean


@pytest.mark.long
def test_a_fold_whose_round_has_no_labels_leaves_the_trial_open(fresh_both: Ledger, tiny_pasture: Path) -> None:
    record, name = of_second_round(fresh_both)[0], round_of(fresh_both)
    fresh_both.reopen(record.trial_id)
    fresh_both.set_fold_aside(record.trial_id, 0)
    fresh_both.set_labels_aside(name)
    from orchestration.search.trial import BlockedError

    with pytest.raises(BlockedError, match="with --second-round and the blend's name makes it"):
        run_trial(fresh_both, pool_of(fresh_both, tiny_pasture), record.trial_id)
    assert rounds_to_label(fresh_both, None) == [name]
    search(folder_of(fresh_both), tiny_pasture, 4, **ASKED)
    assert fresh_both.result(record.trial_id) is not None and audit(fresh_both).clean
