"""One study, one nested score: card, leaderboard, status, report and JSON show the same digits, whatever is stored."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from commands import output, words_of
from released import copy_of
from told_study import told_study
from typer.testing import CliRunner

from biomass_models.targets import TARGETS, weighted_r2_score
from ensembles.blend import fit_blend
from ensembles.card import Card
from ensembles.choice import rule_named
from ensembles.spec import BlendSpec
from orchestration.blending.blend import page_of
from orchestration.blending.members import FileMembers, gather
from orchestration.blending.shown import shown_blend
from orchestration.cli import app
from orchestration.report.data.context import read_context
from orchestration.report.make import make_report
from orchestration.study.data import StudyData
from orchestration.study.derived.blends import Origin
from orchestration.study.ledger import Ledger, LedgerError
from orchestration.study.records import TrialRef

pytestmark = pytest.mark.slow

COMPLETE = ("complete",) * 6


def pages(study: str, tmp_path: Path) -> dict[str, str]:
    """What each page prints."""
    out = tmp_path / "report.html"
    output("report", study, "--out", str(out))
    return {
        "report": words_of(out.read_text()),
        "leaderboard": output("leaderboard", study),
        "status": output("status", study),
    }


def store(ledger: Ledger, name: str, card: Card, created_at: float) -> None:
    refs = {member: TrialRef(ledger.storage.uri, member) for member in card.members}
    ledger.write_ensemble(name, card.to_json(), refs, b"sample_id,target\n", origin=Origin(created_at=created_at))


def require_same_digits(ledger: Ledger, card: Card, tmp_path: Path) -> None:
    study = ledger.storage.uri
    shown, four = pages(study, tmp_path), f"{card.nested_score:.4f} ± {card.nested_se:.4f}"
    assert four in page_of(card) and four in shown["leaderboard"] and four in shown["status"]
    assert f"{card.nested_score:.3f} ± {card.nested_se:.3f}" in shown["report"]
    assert f"nested by {card.nested_by} {card.nested_score:.4f}" in shown["report"]
    low, high = card.interval_for_new(card.units or 0) or (0.0, 0.0)
    interval = f"{low:.3f} to {high:.3f}"
    assert interval in page_of(card) and interval in shown["leaderboard"] and interval in shown["status"]
    assert f"between {low:.3f} and {high:.3f} (95 %)" in shown["report"].replace("−", "-")
    for command in ("leaderboard", "status"):
        blend = json.loads(output(command, study, "--json"))["blend"]
        numbers = (blend["nested_score"], blend["nested_se"], blend["low"], blend["high"], blend["units"])
        assert numbers == (card.nested_score, card.nested_se, low, high, card.units)
    context = read_context(ledger)
    assert context.blend is not None and context.blend.card.nested == card.nested
    for target, score in card.targets.items():
        assert f"{score.nested_rmse:.2f} g" in page_of(card), target
    total = card.targets["Dry_Total_g"]
    assert f"typically {total.nested_rmse:.1f} g off in a quadrat's total" in shown["report"]


def test_the_default_blend_has_the_same_digits_everywhere(tmp_path: Path) -> None:
    ledger = told_study(tmp_path / "study", statuses=COMPLETE, noise=4.0)
    done = json.loads(output("ensemble", ledger.storage.uri, "--out", str(tmp_path / "blend"), "--json"))
    require_same_digits(ledger, Card.from_json(done["cards"][0]), tmp_path)


def test_a_stored_blend_with_follow_ups_has_the_same_digits_everywhere(tmp_path: Path) -> None:
    """Nothing is computed again with the follow-ups that were already decided."""
    ledger = told_study(tmp_path / "study", statuses=COMPLETE, images=160, noise=4.0)
    for trial_id, result in ledger.results().items():  # all trials are shy
        oof = ledger.oof(trial_id)
        oof[list(TARGETS)] *= 0.8
        ledger.write_result(trial_id, result, oof)
    gathered = gather([ledger.storage.uri], FileMembers(), test_ids=None, seed=0, say=print)
    spec = BlendSpec(rule=rule_named("top-3"), tried=("calibration", "zeros"))
    card = fit_blend(gathered.library, spec, gathered.seed)
    assert card.follow_ups == ("calibration",)
    store(ledger, "mine", card, 1.0)
    require_same_digits(ledger, card, tmp_path)


def test_the_newest_blend_is_shown_not_the_luckiest(tmp_path: Path) -> None:
    ledger = told_study(tmp_path / "study", statuses=COMPLETE, noise=4.0)
    gathered = gather([ledger.storage.uri], FileMembers(), test_ids=None, seed=0, say=print)
    single, mean = (fit_blend(gathered.library, rule, gathered.seed) for rule in ("single-best", "top-5"))
    newest, luckiest = sorted((single, mean), key=lambda card: card.nested_score)
    store(ledger, "newest", newest, 2.0)
    store(ledger, "a-luckiest", luckiest, 1.0)
    store(ledger, "z-luckiest", luckiest, 1.0)
    require_same_digits(ledger, newest, tmp_path)
    out = tmp_path / "named.html"
    output("report", ledger.storage.uri, "--ensemble", "z-luckiest", "--out", str(out))
    assert f"{luckiest.nested_score:.3f}\u00a0±\u00a0{luckiest.nested_se:.3f}" in out.read_text()
    with pytest.raises(LedgerError, match="there is no ensemble other"):
        make_report(ledger, ensemble="other")


def test_an_ensemble_of_other_trials_is_named_and_blended_again(tmp_path: Path) -> None:
    ledger = told_study(tmp_path / "study", statuses=COMPLETE, noise=4.0)
    gathered = gather([ledger.storage.uri], FileMembers(), test_ids=None, seed=0, say=print)
    card = fit_blend(gathered.library, "top-3", gathered.seed)
    store(ledger, "mine", card, 1.0)
    ledger.reopen(next(iter(set(gathered.trials) - set(card.members))))
    with pytest.raises(LedgerError, match="mine was made of others, or by another version; blend again"):
        make_report(ledger, ensemble="mine")
    gathered = gather([ledger.storage.uri], FileMembers(), test_ids=None, seed=0, say=print)
    store(ledger, "mine", fit_blend(gathered.library, "top-3", gathered.seed), 2.0)
    assert "ensemble “mine”" in make_report(ledger, ensemble="mine")


def test_a_card_of_0_1_0_keeps_its_number_and_names_its_method(tmp_path: Path) -> None:
    ledger = copy_of("finished", tmp_path)
    stored = ledger.ensemble("submission").card
    card = Card.from_json(stored)
    assert (card.nested_score, card.nested_se) == (stored["nested_score"], stored["nested_se"])
    assert card.method == "nested by fold, bootstrap" and card.interval_for_new(6) is None
    assert "scores and errors: nested by fold, bootstrap" in page_of(card)
    shown, four = pages(ledger.storage.uri, tmp_path), f"{card.nested_score:.4f} ± {card.nested_se:.4f}"
    assert four in shown["leaderboard"] and four in shown["status"]
    assert f"{card.nested_score:.3f} ± {card.nested_se:.3f}" in shown["report"]
    assert "blend again for an interval" in shown["report"] and "nested by fold, bootstrap" in shown["report"]
    done = json.loads(output("ensemble", ledger.storage.uri, "--out", str(tmp_path / "blend"), "--json"))
    assert Card.from_json(done["cards"][0]).interval_for_new(6) is not None


def test_a_trial_has_one_score_on_all_pages(tmp_path: Path) -> None:
    """Blends project their members, and a projected score is another number."""
    ledger = told_study(tmp_path / "study", statuses=COMPLETE, noise=4.0)
    truth_NT = ledger.quadrats()[list(TARGETS)].to_numpy()
    for trial_id, result in ledger.results().items():
        oof = ledger.oof(trial_id)
        oof["GDM_g"] += 3.0  # no longer green + clover
        score = weighted_r2_score(truth_NT, oof[list(TARGETS)].to_numpy())
        ledger.write_result(trial_id, replace(result, score=score), oof)
    card = shown_blend(StudyData(ledger)).card
    store(ledger, "mine", card, 1.0)
    best, own = card.best_single, StudyData(ledger).ranked[0]
    assert best == own.trial_id and own.score is not None
    assert f"{own.score:.3f}" != f"{card.best_single_score:.3f}"
    shown = {**pages(ledger.storage.uri, tmp_path), "card": page_of(card)}
    for page, text in shown.items():
        assert best[:4] in text, page
        assert f"{card.best_single_score:.3f}" not in text, page
    assert f"{own.score:.4f}" in shown["leaderboard"] and f"best {own.score:.4f}" in shown["status"]
    assert f"{own.score:.3f}" in shown["report"]


@pytest.mark.parametrize("scheme", ["date", "random"])
def test_folds_that_cut_dates_are_warned_of_on_every_page(scheme: str, tmp_path: Path) -> None:
    ledger = told_study(tmp_path / "study", statuses=COMPLETE, scheme=scheme, noise=4.0)
    shown = pages(ledger.storage.uri, tmp_path)
    result = CliRunner().invoke(app, ["leaderboard", ledger.storage.uri])
    card = page_of(shown_blend(StudyData(ledger)).card)
    for text in (shown["report"], shown["status"], result.output, card):
        assert ("the folds cut 8 sampling dates" in " ".join(text.split())) == (scheme == "random")
    assert ("trust this" in card) == ("trust this" in shown["report"]) == (scheme == "date")
