"""Every field of every family's configuration with its default when the field was introduced. Frozen.

A trial's id leaves out the fields that equal their default here, and a stored configuration that lacks a field has the
default here: neither a new field nor a default that changes moves a trial. A new field gets a line, with the default
that does what the family did before it existed. No line ever changes or goes, not even with its field or its family.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from biomass_models.families.configs import Config, config_from_params

INTRODUCED: dict[str, dict[str, Any]] = {
    "baseline": {
        "backbone": "vit_small_patch14_dinov2.lvd142m",
        "size": 980,
        "trained_blocks": 4,
        "head_width": 256,
        "head_width_2": 128,
        "dropout": 0.4,
        "head_lr": 3e-05,
        "backbone_lr": 3e-05,
        "min_lr": 1e-06,
        "batch_size": 32,
        "epochs": 50,
        "weight_decay": 0.05,
        "clip_norm": 5.0,
        "ema_decay": 0.0,
        "select_best_epoch": False,
        "flips": 8,
        "prefix_bank": "none",
        "jittered": 0,
        "colour_jitter": 0.05,
        "blur": 1.0,
        "bank_seed": 0,
        "stamp": "keep",
        "transform": "log1p",
    },
    "probe": {
        "backbone": "vit_small_patch14_dinov2.lvd142m",
        "size": 224,
        "layout": "whole",
        "view_merge": "concat",
        "pooling": "global",
        "layers": 1,
        "flips": 1,
        "transform": "log1p",
        "log10_alpha_low": -5.0,
        "log10_alpha_high": 1.0,
        "alphas": 13,
        "inner_folds": 4,
        "alpha_per_target": False,
        "stamp": "keep",
    },
    "distilled": {
        "backbone": "vit_small_patch16_dinov3.lvd1689m",
        "size": 224,
        "trained_blocks": 5,
        "head_width": 512,
        "head_width_2": 128,
        "dropout": 0.2,
        "head_lr": 0.0003,
        "backbone_lr": 0.0001,
        "min_lr": 2e-06,
        "batch_size": 20,
        "epochs": 70,
        "weight_decay": 0.05,
        "clip_norm": 5.0,
        "ema_decay": 0.0,
        "select_best_epoch": False,
        "flips": 8,
        "prefix_bank": "none",
        "jittered": 0,
        "colour_jitter": 0.05,
        "blur": 1.0,
        "bank_seed": 0,
        "stamp": "keep",
        "layout": "corners4",
        "local_size": 224,
        "grid": 0,
        "pooling_heads": 4,
        "pooling_dropout": 0.1,
        "crop_width": 128,
        "total_weight": 3.0,
        "ratio_weight": 1.2,
        "distillation_weight": 0.5,
        "huber_delta": 1.0,
        "group_weights": True,
        "teacher_width": 128,
        "teacher_width_2": 64,
        "teacher_epochs": 200,
        "teacher_lr": 0.001,
        "teacher_weight_decay": 0.01,
        "teacher_inner_folds": 4,
    },
}


def fill_config(family: str, stored: Mapping[str, Any]) -> dict[str, Any]:
    """A stored configuration with every field that was introduced after it was stored."""
    return {**INTRODUCED.get(family, {}), **stored}


def distinct_fields(family: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that do not equal their default at introduction: what tells one configuration from another."""
    known = INTRODUCED.get(family, {})
    return {name: value for name, value in config.items() if name not in known or not _same(value, known[name])}


def config_from_stored(family: str, stored: Mapping[str, Any]) -> Config:
    """The configuration of a trial in a ledger. Raises ValueError for an unknown family or field."""
    return config_from_params(family, fill_config(family, stored))


def _same(one: Any, other: Any) -> bool:
    """As JSON: 1 is not 1.0 and not true."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
