"""Embeddings of a study's training photographs, kept beside its ensembles: what unlike photographs are measured by.

ensembles/oof-embeddings-<id>/members/embeddings.parquet: image_id, unit, one column a feature
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from io import BytesIO
from typing import Any, Protocol

import numpy as np
import pandas as pd

from biomass_models.backbones.weights import canonical_name
from biomass_models.data.images import views_for
from biomass_models.families import registry
from biomass_models.families.introduced import config_from_stored
from biomass_models.features.likeness import EmbeddingBank, Likeness
from biomass_models.features.outputs import GLOBAL
from biomass_models.features.spec import FeatureSpec
from biomass_models.fold_units import units_of
from biomass_models.targets import FloatArray
from ensembles.card import Card
from orchestration.study.ledger import Ledger, LedgerError
from orchestration.study.records import TrialRef
from orchestration.study.seeds import content_id
from orchestration.study.storage import Storage

TABLE = "embeddings"


class Encoder(Protocol):
    """What a Predictor does."""

    def train_features(self, ledger: Ledger, trial_id: str, bank: EmbeddingBank) -> FloatArray: ...


def bank_of(card: Card, refs: Mapping[str, TrialRef]) -> EmbeddingBank:
    """What the heaviest member with frozen features sees, as first_bank."""
    return first_bank(refs[member] for member in card.members)


def first_bank(refs: Iterable[TrialRef]) -> EmbeddingBank:
    """What the first trial with frozen features sees; the whole photograph where all train on pictures."""
    fallback: EmbeddingBank | None = None
    for ref in refs:
        ledger = Ledger(Storage(ref.study))
        record, fit = ledger.trial(ref.trial_id), ledger.study().settings.fit
        config = config_from_stored(record.family, record.config)
        model = registry.model(record.family)
        for spec in model.feature_specs(config):
            if spec.trunk is None:
                return EmbeddingBank.of(spec, record.weights, fit)
        if fallback is None:
            size = min(view.height for view in model.views(config))
            whole = FeatureSpec(
                backbone=canonical_name(record.config["backbone"]), views=views_for("whole", size), outputs=(GLOBAL,)
            )
            fallback = EmbeddingBank.of(whole, record.weights, fit)
    assert fallback is not None
    return fallback


def keep_likeness(ledger: Ledger, card: Card, refs: Mapping[str, TrialRef], encoder: Encoder) -> None:
    """As keep_embeddings, of the blend's bank; LedgerError as well where no trial of the blend is the study's own."""
    if (own := own_trial(refs, ledger.storage.uri)) is None:
        raise LedgerError(
            f"embeddings are kept in a study that has trials in the blend, {ledger.storage.uri} has none; predict "
            "without --data"
        )
    keep_embeddings(ledger, bank_of(card, refs), own, encoder)


def own_trial(refs: Mapping[str, TrialRef], study: str) -> str | None:
    """The first trial of a blend that is the study's own."""
    return next((ref.trial_id for ref in refs.values() if ref.study == study), None)


def keep_embeddings(ledger: Ledger, bank: EmbeddingBank, trial_id: str, encoder: Encoder) -> None:
    """Keep the embeddings of the study's photographs, unless that was done; trial_id: of the study, whose photographs
    they must be. LedgerError for others."""
    if ledger.member_prediction(_folder(ledger, bank), TABLE) is not None:
        return
    quadrats = ledger.quadrats()
    feature_LD = encoder.train_features(ledger, trial_id, bank)
    table = pd.DataFrame(feature_LD.astype(np.float32), columns=[f"f{column}" for column in range(feature_LD.shape[1])])
    table.insert(0, "image_id", quadrats["image_id"].astype(str).to_numpy())
    table.insert(1, "unit", units_of(quadrats, ledger.study().settings.scheme).to_numpy())
    ledger.write_member_prediction(_folder(ledger, bank), TABLE, table)


def kept_likeness(ledger: Ledger, card: Card, refs: Mapping[str, TrialRef]) -> Likeness | None:
    """None where they are not kept."""
    return kept_embeddings(ledger, bank_of(card, refs))


def kept_embeddings(ledger: Ledger, bank: EmbeddingBank) -> Likeness | None:
    """None where they are not kept."""
    table = ledger.member_prediction(_folder(ledger, bank), TABLE)
    return None if table is None else stored_likeness(bank.to_json(), table)


def stored_likeness(bank: Mapping[str, Any], table: pd.DataFrame) -> Likeness:
    """From what is stored: a bank as JSON and a table as keep_likeness writes it."""
    return Likeness(
        bank=EmbeddingBank.from_json(bank),
        image_ids=tuple(table["image_id"].astype(str)),
        units=tuple(table["unit"].astype(str)),
        feature_LD=table.drop(columns=["image_id", "unit"]).to_numpy(dtype=np.float64),
    )


def likeness_bytes(likeness: Likeness) -> bytes:
    """Parquet of the table that keep_likeness writes."""
    columns = [f"f{column}" for column in range(likeness.feature_LD.shape[1])]
    table = pd.DataFrame(likeness.feature_LD.astype(np.float32), columns=columns)
    table.insert(0, "image_id", list(likeness.image_ids))
    table.insert(1, "unit", list(likeness.units))
    stream = BytesIO()
    table.to_parquet(stream, index=False)
    return stream.getvalue()


def _folder(ledger: Ledger, bank: EmbeddingBank) -> str:
    return f"oof-embeddings-{content_id(bank.to_json(), ledger.study().data_fingerprint)}"
