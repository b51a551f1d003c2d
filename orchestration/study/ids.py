"""Ids of trials: the same configuration on the same folds is the same trial, whoever proposes it.

An id hashes only the fields that tell a configuration from the family's defaults at their introduction, so that neither
a new field nor a changed default gives a known trial another id. Trials of 0.1.0, whose records have no schema number,
keep the ids that it gave them, from the whole stored configuration. A trial of a second round hashes what that is as
well: its members, its photographs, and what a pseudo-label counts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from biomass_models.families.introduced import distinct_fields, fill_config
from orchestration.study.records import Params, TrialRecord, TrialRound
from orchestration.study.seeds import content_id


def make_trial_id(
    family: str, config: Params, weights: str, seed: int, fold_hash: str, second_round: TrialRound | None = None
) -> str:
    """10 hex digits."""
    learns_from = () if second_round is None else (second_round.round_id, second_round.weight)
    fields = distinct_fields(family, config)
    return content_id("trial", family, fields, weights, seed, fold_hash, *learns_from, length=10)


def make_round_id(members: Sequence[str], image_ids: Sequence[str], digests: Sequence[str]) -> str:
    """10 hex digits of a second round. members: trials that label, in any order; then names and content hashes of the
    photographs. Nothing else of a blend decides what its members say."""
    return content_id("second round", sorted(members), list(image_ids), list(digests), length=10)


def trial_id_of(record: TrialRecord, fold_hash: str) -> str:
    """The id that a record's content gives, derived as when it was written."""
    if record.schema == 0:
        return content_id(record.family, dict(record.config), record.weights, record.seed, fold_hash, length=10)
    return make_trial_id(record.family, record.config, record.weights, record.seed, fold_hash, record.second_round)


def content_key(record: TrialRecord) -> str:
    """Alike for two trials of one study exactly where they would compute the same, whatever their ids."""
    learns_from = None if record.second_round is None else record.second_round.to_json()
    config = fill_config(record.family, record.config)
    return json.dumps([record.family, config, record.weights, learns_from], sort_keys=True)
