"""Ids of trials: the same configuration on the same folds is the same trial, whoever proposes it.

An id hashes only the fields that tell a configuration from the family's defaults at their introduction, so that neither
a new field nor a changed default gives a known trial another id. Trials of 0.1.0, whose records have no schema number,
keep the ids that it gave them, from the whole stored configuration.
"""

from __future__ import annotations

import json

from biomass_models.families.introduced import distinct_fields, fill_config
from orchestration.study.records import Params, TrialRecord
from orchestration.study.seeds import content_id


def make_trial_id(family: str, config: Params, weights: str, seed: int, fold_hash: str) -> str:
    """10 hex digits."""
    return content_id("trial", family, distinct_fields(family, config), weights, seed, fold_hash, length=10)


def trial_id_of(record: TrialRecord, fold_hash: str) -> str:
    """The id that a record's content gives, derived as when it was written."""
    if record.schema == 0:
        return content_id(record.family, dict(record.config), record.weights, record.seed, fold_hash, length=10)
    return make_trial_id(record.family, record.config, record.weights, record.seed, fold_hash)


def content_key(family: str, config: Params, weights: str) -> str:
    """Alike for two trials of one study exactly where they would compute the same, whatever their ids."""
    return json.dumps([family, fill_config(family, config), weights], sort_keys=True)
