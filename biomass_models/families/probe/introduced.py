"""Default of every field of the configuration when the field was introduced: only grows (families/introduced.py)."""

from __future__ import annotations

from typing import Any

INTRODUCED: dict[str, Any] = {
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
    "more_sizes": "",
    "taps": "",
}
