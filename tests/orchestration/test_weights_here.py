"""Weights of a study's trials come from where its search had them, unless another source is typed."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import hand_made_study as hand
import pytest
import study_records as records

from biomass_models.backbones.weights import FOLDER_VARIABLE, WeightsSource, canonical_name, find_weights, fingerprint
from biomass_models.data.images import views_for
from biomass_models.features.likeness import EmbeddingBank
from biomass_models.features.spec import FeatureSpec
from biomass_models.features.states import StateBank
from orchestration.study.ledger import LedgerError, open_ledger
from orchestration.study.records import Asked, TrialRef
from orchestration.workers.weights_here import Bank, source_of_bank, source_of_study, source_of_trials

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


def of_whole(backbone: str, weights: str) -> EmbeddingBank:
    """Embeddings of whole photographs."""
    return EmbeddingBank.of(FeatureSpec(backbone=backbone, views=views_for("whole", 32)), weights, "stretch")


def of_states(backbone: str, weights: str) -> StateBank:
    return StateBank(backbone=backbone, size=32, weights=weights)


@pytest.mark.parametrize("bank_of", [of_states, of_whole])
def test_a_banks_weights_are_found_beside_those_of_the_members(
    bank_of: Callable[[str, str], Bank], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its backbone may be one of which no member says anything: another file of that name must not serve."""
    backbone, member = records.BACKBONE, canonical_name("test_vit2")
    for place in ("then", "now"):
        (tmp_path / place).mkdir()
        for name in (backbone, member):
            (tmp_path / place / f"{name}.safetensors").write_bytes(f"{name} {place}".encode())
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "now"))
    old, new = WeightsSource(folder=tmp_path / "then"), WeightsSource()
    assert fingerprint(backbone, old) != fingerprint(backbone, new)
    bank = bank_of(backbone.partition(".")[0], fingerprint(backbone, old))
    with pytest.raises(LedgerError) as raised:
        source_of_bank(new, bank)
    assert bank.weights in str(raised.value) and fingerprint(backbone, new) in str(raised.value)
    assert str(raised.value).endswith("name the old ones with --weights")
    assert len(textwrap.wrap(str(raised.value), 80)) <= 3
    own = tmp_path / "biomass" / "weights"
    own.mkdir(parents=True)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    for name in (backbone, member):
        (tmp_path / "then" / f"{name}.safetensors").rename(own / f"{name}.safetensors")
    kept = new.keeping({member: fingerprint(member, WeightsSource("folder", own))})
    found = source_of_bank(kept, bank)
    assert {find_weights(name, found).path.parent for name in (backbone, member)} == {own}
    assert (
        fingerprint(backbone, source_of_bank(found, replace(bank, weights=fingerprint(backbone, new)))) != bank.weights
    )
