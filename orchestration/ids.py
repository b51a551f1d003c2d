"""Ids of trials: the same configuration on the same folds is the same trial, whoever proposes it."""

from __future__ import annotations

from orchestration.records import Params, TrialRecord
from orchestration.seeds import content_id


def make_trial_id(family: str, config: Params, weights: str, seed: int, fold_hash: str) -> str:
    return content_id(family, dict(config), weights, seed, fold_hash, length=10)


def trial_id_of(record: TrialRecord, fold_hash: str) -> str:
    """The id that a record's content gives."""
    return make_trial_id(record.family, record.config, record.weights, record.seed, fold_hash)
