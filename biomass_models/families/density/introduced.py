"""Default of every field of the configuration when the field was introduced: only grows (families/introduced.py)."""

from __future__ import annotations

from typing import Any

INTRODUCED: dict[str, Any] = {
    "backbone": "vit_small_patch14_dinov2.lvd142m",
    "size": 224,
    "trained_blocks": 0,
    "head_width": 128,
    "head_width_2": 32,
    "dropout": 0.1,
    "head_lr": 0.001,
    "backbone_lr": 0.0001,
    "min_lr": 1e-06,
    "batch_size": 32,
    "epochs": 30,
    "weight_decay": 0.05,
    "clip_norm": 5.0,
    "ema_decay": 0.0,
    "select_best_epoch": False,
    "flips": 4,
    "prefix_bank": "none",
    "jittered": 0,
    "colour_jitter": 0.05,
    "blur": 1.0,
    "bank_seed": 0,
    "stamp": "keep",
    "layout": "halves",
    "grid": 8,
    "token_bank": "float16",
    "beta": 5.0,
    "interval_bins": 0,
    "interval_weight": 0.1,
    "mixup_alpha": 0.0,
    "predicted_metadata": "none",
    "stamped": 0,
    "adapters": "none",
    "adapter_rank": 8,
}
