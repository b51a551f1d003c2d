"""How likely photographs are of each state, for the state rule: from frozen features of a backbone of the study.

The chances of a study's own photographs are out of fold, by its folds, and kept in it (ensembles/oof-states-<id>/), so
that its pages need no photograph; what predicts new ones lies in the card.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import pandas as pd

from biomass_models.counted import counted
from biomass_models.data.alignment import places_of, rows_of
from biomass_models.errors import UserError
from biomass_models.targets import FloatArray
from ensembles.card import Card
from ensembles.members.library import Library
from ensembles.states import States
from orchestration.study.ledger import Ledger, LedgerError, open_ledger
from orchestration.study.records import TrialRef
from orchestration.study.seeds import content_id

if TYPE_CHECKING:  # it loads torch and Ray
    from biomass_models.features.states import StateBank, StateModel
    from orchestration.blending.predict import Predictor

STATE = "state"  # the follow-up
KEPT = "chances"  # of the table that is kept


def states_of(quadrats: pd.DataFrame) -> list[str]:
    """The states of a study, sorted. Raises UserError where photographs have none, or all are of one."""
    if "State" not in quadrats:
        raise UserError("--post state needs the state (site) of each photograph, this study has none; leave it out")
    if (missing := quadrats["State"].isna()).any():
        raise UserError(
            f"--post state needs the state (site) of each photograph, {counted(int(missing.sum()), 'photograph')} of "
            f"{len(quadrats)} have none, such as {quadrats.loc[missing, 'image_id'].iloc[0]}; leave it out"
        )
    states = sorted(map(str, quadrats["State"].unique()))
    if len(states) < 2:
        raise UserError(f"--post state recognises states, this study has one ({states[0]}); leave it out")
    return states


def encoding_study(studies: Sequence[str], members: Mapping[str, TrialRef]) -> str:
    """The first study that has a member: it is one of its backbones that states are recognised by.

    The trials of a study may all be left out, broken or repeating those of another. Raises UserError without any.
    """
    of_members = {ref.study for ref in members.values()}
    uri = next((uri for uri in (open_ledger(study).storage.uri for study in studies) if uri in of_members), None)
    if uri is None:
        raise UserError(
            "--post state recognises states by the backbone of a trial, and none is among the members; leave it out"
        )
    return uri


def fit_study_states(
    studies: Sequence[str], members: Mapping[str, TrialRef], library: Library, predictor: Predictor
) -> tuple[Library, StateModel]:
    """The library with its chances of states, and the model for new photographs, fitted on all rows of the study.

    studies: the folds and states of the first one count; all are about the same photographs. Raises UserError,
    LedgerError.
    """
    from biomass_models.features.states import fit_states, out_of_fold_states

    ledger, encoding = open_ledger(studies[0]), open_ledger(encoding_study(studies, members))
    quadrats = ledger.quadrats()
    states = states_of(quadrats)
    bank, trial_id = bank_of(encoding, [ref.trial_id for ref in members.values() if ref.study == encoding.storage.uri])
    place_N = places_of(encoding.quadrats()["image_id"], quadrats["image_id"])
    feature_NF = predictor.train_features(encoding, trial_id, bank)[place_N]
    state_N = quadrats["State"].astype(str).to_numpy()
    likely_NS = out_of_fold_states(
        bank,
        states,
        feature_NF,
        state_N,
        quadrats["fold"].to_numpy(),
        ordered=ledger.study().settings.ordered,
    )
    table = pd.DataFrame(likely_NS, columns=states)
    table.insert(0, "image_id", quadrats["image_id"].astype(str).to_numpy())
    model = fit_states(bank, states, feature_NF, state_N)
    ledger.write_member_prediction(_folder(model.to_json()), KEPT, table.dropna())
    return with_states(library, table, states), model


def bank_of(ledger: Ledger, trial_ids: Iterable[str]) -> tuple[StateBank, str]:
    """The study's first backbone that a trial has, at the smallest size that one sees, and that trial: nothing is
    chosen by a score."""
    from biomass_models.backbones.weights import canonical_name
    from biomass_models.families import registry
    from biomass_models.families.introduced import config_from_stored
    from biomass_models.features.states import StateBank

    order = [canonical_name(name) for name in ledger.study().settings.backbones]
    found = []
    for record in map(ledger.trial, trial_ids):
        name = canonical_name(record.config["backbone"])
        views = registry.model(record.family).views(config_from_stored(record.family, record.config))
        place = order.index(name) if name in order else len(order)
        found.append((place, name, min(view.height for view in views), record.trial_id, record.weights))
    _, backbone, size, trial_id, weights = min(found)
    return StateBank(backbone=backbone, size=size, weights=weights, fit=ledger.study().settings.fit), trial_id


def with_states(library: Library, table: pd.DataFrame, states: list[str]) -> Library:
    """table: image_id and the chance of each state."""
    likely_NS = rows_of(table, pd.Series(library.image_id_N))[states].to_numpy(dtype="float64")
    return replace(library, states=States(names=tuple(states), likely_NS=likely_NS))


def kept_states(ledger: Ledger, library: Library, card: Card) -> Library:
    """The library with the chances that a card's blend was made with; LedgerError where they are gone."""
    if card.state_model is None:
        return library
    table = ledger.member_prediction(_folder(card.state_model), KEPT)
    if table is None:
        raise LedgerError(f"the chances of states are missing in {ledger.storage.uri}; blend again with --post state")
    return with_states(library, table, list(card.state_model["states"]))


def likely_states(card: Card, predictor: Predictor | None, study: str, *, exam: bool = False) -> FloatArray | None:
    """Chances [N, S] of test.csv's photographs, or of those of the study's exam; None for a blend without a state rule.

    study: the encoding one, or that of the exam.
    """
    assert predictor is not None or card.state_rule is None
    if predictor is None or card.state_rule is None or card.state_model is None:
        return None
    from biomass_models.features.states import StateModel

    model = StateModel.from_json(card.state_model)
    return model.likely(predictor.new_features(open_ledger(study), model.bank, exam=exam))


def _folder(model: Mapping[str, object]) -> str:
    return f"oof-states-{content_id(model)}"
