"""Frozen features by which photographs are compared: those of a study's best frozen member, kept in the study."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from biomass_models.counted import counted
from biomass_models.features.likeness import EmbeddingBank, Likeness
from orchestration.blending.likeness import Encoder, bank_of, first_bank, keep_embeddings, kept_embeddings
from orchestration.blending.shown import newest_of, stored_ensembles
from orchestration.study.data import StudyData
from orchestration.study.ledger import LedgerError
from orchestration.study.records import TrialRef


class StudyBank(NamedTuple):
    """Features of a study's photographs."""

    bank: EmbeddingBank
    of: str  # whose they are, in words

    @property
    def text(self) -> str:
        """In words."""
        views = self.bank.views
        sizes = "+".join(dict.fromkeys(f"{view.height}" for view in views))
        return f"{self.bank.backbone}, {counted(len(views), 'view')} at {sizes} px, of {self.of}"


def bank_of_study(data: StudyData) -> StudyBank:
    """Backbone and views of the newest blend's heaviest member with frozen features, since these are kept already;
    without a blend, of the best trial with such. LedgerError for a study without a complete trial."""
    newest = newest_of(each for each in stored_ensembles(data) if each.card is not None)
    if newest is not None and newest.card is not None:
        refs = data.ledger.ensemble(newest.name).trials
        if all(member in refs for member in newest.card.members):
            return StudyBank(bank_of(newest.card, refs), f"the blend {newest.name}")
    uri = data.ledger.storage.uri
    if not data.ranked:
        raise LedgerError(f"features are those of a complete trial, {uri} has none; go on with biomass search")
    return StudyBank(first_bank(TrialRef(uri, trial.trial_id) for trial in data.ranked), "the best trial")


def embeddings_of(data: StudyData, bank: EmbeddingBank, encoder: Callable[[], Encoder] | None) -> Likeness:
    """Of the study's photographs; made once, with an encoder that has them. LedgerError without, and for others."""
    kept = kept_embeddings(data.ledger, bank)
    if kept is None:
        if encoder is None:
            raise LedgerError(
                f"embeddings of the weighed photographs are not kept in {data.ledger.storage.uri}; give --data, that "
                "of the search, once"
            )
        keep_embeddings(data.ledger, bank, data.ranked[0].trial_id, encoder())
        kept = kept_embeddings(data.ledger, bank)
        assert kept is not None
    if list(kept.image_ids) != data.learned["image_id"].astype(str).tolist():
        raise LedgerError(
            f"embeddings in {data.ledger.storage.uri} are of other photographs than its labels; delete its folder "
            "ensembles/oof-embeddings-*, and give --data"
        )
    return kept
