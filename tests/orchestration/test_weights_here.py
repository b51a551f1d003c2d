"""Weights of a study's trials come from where its search had them, unless another source is typed."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import hand_made_study as hand
import pytest
import study_records as records

from biomass_models.backbones.weights import WeightsSource, fingerprint
from orchestration.study.ledger import LedgerError, open_ledger
from orchestration.study.records import Asked, TrialRef
from orchestration.workers.weights_here import source_of_study, source_of_trials

RANDOM, AUTO = WeightsSource("random"), WeightsSource()
MARK = fingerprint(records.BACKBONE, RANDOM)


def searched_with(folder: Path, kind: str, trained: str = MARK, **typed: Any) -> TrialRef:
    """A study of that kind of weights, with one trial that was trained with weights of that fingerprint."""
    ledger = hand.empty_study(folder)
    settings = {"backbones": (records.BACKBONE,), "weights": kind}
    ledger.update_study(records.study_record(settings, made_with=Asked(overrides=typed)))
    trial = records.trial_record(weights=trained, **records.drawn("probe"))
    ledger.write_trial(trial)
    return TrialRef(ledger.storage.uri, trial.trial_id)


@pytest.mark.parametrize("kind", ["random", "auto"])
def test_a_study_knows_its_kind_of_weights(tmp_path: Path, kind: str) -> None:
    ref = searched_with(tmp_path, kind, weights="auto")
    assert source_of_study(open_ledger(ref.study).study()) == WeightsSource(kind)


def test_a_study_knows_its_folder_as_long_as_it_is_there(tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    ref = searched_with(tmp_path / "study", "folder", weights=str(folder))
    record = open_ledger(ref.study).study()
    assert source_of_study(record) is None
    folder.mkdir()
    assert source_of_study(record) == WeightsSource("folder", folder)


def test_what_is_not_typed_is_the_searchs(tmp_path: Path) -> None:
    one, other = (searched_with(tmp_path / name, "random") for name in ("one", "other"))
    assert source_of_trials([one, other], None) == RANDOM
    assert source_of_trials([one, other], RANDOM) == RANDOM
    assert source_of_trials([], None) == AUTO


def message(refs: list[TrialRef], typed: WeightsSource | None) -> str:
    """What is said where the weights are not those of the trials: short."""
    with pytest.raises(LedgerError) as raised:
        source_of_trials(refs, typed)
    assert len(textwrap.wrap(str(raised.value).replace(refs[0].study, "STUDY"), 80)) <= 3
    return str(raised.value)


def test_other_weights_than_the_trials_are_refused_in_short(tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    ref = searched_with(tmp_path / "study", "random")
    for typed, has in ((AUTO, "--weights auto has none"), (WeightsSource("folder", folder), f"{folder} has none")):
        said = message([ref], typed)
        assert has in said and said.endswith("leave --weights out")
    gone = searched_with(tmp_path / "gone", "folder", trained="0123", weights=str(tmp_path / "nowhere"))
    assert message([gone], None).endswith("put the old ones back, or name them with --weights")
    assert f"has {MARK}" in message([gone], RANDOM)


def test_searches_with_different_weights_are_told_apart(tmp_path: Path) -> None:
    one, other = searched_with(tmp_path / "one", "random"), searched_with(tmp_path / "other", "auto")
    assert "one source, got random and auto" in message([one, other], None)
