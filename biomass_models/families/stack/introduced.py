"""Default of every field of the configuration when the field was introduced: only grows (families/introduced.py)."""

from __future__ import annotations

from typing import Any

INTRODUCED: dict[str, Any] = {
    "backbone": "vit_small_patch14_dinov2.lvd142m",
    "size": 224,
    "layout": "halves",
    "view_merge": "concat",
    "more_sizes": "",
    "pooling": "mean+max+min+gem",
    "taps": "0.67+0.83+1",
    "flips": 1,
    "goals": "both",
    "regressor": "ridge",
    "penalty": 5.0,
    "choose_penalty": False,
    "log10_penalty_low": 0.0,
    "log10_penalty_high": 5.0,
    "penalties": 11,
    "kernel_penalty": 0.3,
    "kernel_width": 1.0,
    "svr_c": 1.0,
    "svr_epsilon": 0.1,
    "trees": 100,
    "tree_leaf": 3,
    "tree_features": 0.03,
    "level2_penalty": 1.0,
    "inner_folds": 5,
    "stamp": "keep",
}
