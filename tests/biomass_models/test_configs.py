from __future__ import annotations

import json
import subprocess
import sys

import pytest

from biomass_models.families import registry
from biomass_models.families.baseline.config import BaselineConfig
from biomass_models.families.configs import config_from_params, config_to_params
from biomass_models.families.distilled.config import DistilledConfig
from biomass_models.families.probe.config import ProbeConfig


@pytest.mark.parametrize("family", registry.names())
def test_params_come_back_through_json(family: str) -> None:
    config = registry.family(family).config_class(size=96)
    assert config_from_params(family, json.loads(json.dumps(config_to_params(config)))) == config


def test_reference_is_the_published_setting() -> None:
    published = {"size": 980, "trained_blocks": 4, "dropout": 0.4, "head_lr": 3e-5, "backbone_lr": 3e-5, "epochs": 50}
    params = config_to_params(BaselineConfig())
    assert {name: params[name] for name in published} == published
    assert params["backbone"] == "vit_small_patch14_dinov2.lvd142m"


def test_the_distilled_defaults_are_the_published_setting() -> None:
    published = {
        "layout": "corners4", "local_size": 224, "trained_blocks": 5, "pooling_heads": 4, "pooling_dropout": 0.1,
        "crop_width": 128, "head_width": 512, "head_width_2": 128, "dropout": 0.2, "total_weight": 3.0,
        "ratio_weight": 1.2, "distillation_weight": 0.5, "teacher_width": 128, "teacher_width_2": 64,
        "teacher_epochs": 200, "teacher_lr": 1e-3, "head_lr": 3e-4, "backbone_lr": 1e-4, "min_lr": 2e-6,
        "weight_decay": 0.05, "clip_norm": 5.0, "batch_size": 20, "epochs": 70,
    }  # fmt: skip
    params = config_to_params(DistilledConfig())
    assert {name: params[name] for name in published} == published
    assert params["backbone"] == "vit_small_patch16_dinov3.lvd1689m"


@pytest.mark.parametrize(
    ("family", "params", "word"),
    [
        ("forest", {}, "baseline"),
        ("baseline", {"head_rate": 1e-3}, "head_lr"),
        ("baseline", {"epochs": 2.5}, "epochs"),
        ("baseline", {"epochs": True}, "epochs"),
        ("baseline", {"size": "224"}, "size"),
        ("baseline", {"select_best_epoch": 1}, "select_best_epoch"),
        ("baseline", {"dropout": 1.0}, "dropout"),
        ("baseline", {"head_lr": float("nan")}, "head_lr"),
        ("baseline", {"min_lr": 1e-2}, "min_lr"),
        ("baseline", {"jittered": 2, "trained_blocks": 1}, "trained_blocks=0"),
        ("baseline", {"prefix_bank": "float16", "trained_blocks": 0}, "prefix_bank=none"),
        ("baseline", {"prefix_bank": "float64"}, "float16"),
        ("baseline", {"flips": 3}, "flips"),
        ("baseline", {"stamped": 1}, "stamped copies belong to a bank"),
        ("distilled", {"stamped": 1, "grid": 2, "trained_blocks": 0, "stamp": "remove"}, "stamp=keep"),
        ("distilled", {"adapters": "qlora"}, "none, lora, dora"),
        ("baseline", {"adapters": "lora", "trained_blocks": 0}, "adapters=none"),
        ("baseline", {"interval_bins": 1}, "interval_bins"),
        ("distilled", {"interval_weight": 0.0}, "interval_weight"),
        ("baseline", {"mixup_alpha": -1.0}, "mixup_alpha"),
        ("distilled", {"predicted_metadata": "concat"}, "none, film, shuffled"),
        ("distilled", {"trained_blocks": 0}, "caches its tokens on a grid"),
        ("distilled", {"layout": "whole"}, "none, halves, corners4 or tiles-RxC"),
        ("distilled", {"teacher_inner_folds": 1}, "teacher_inner_folds"),
        ("distilled", {"total_weight": 0.0}, "total_weight"),
        ("probe", {"layout": "tiles-0x2"}, "tiles-RxC"),
        ("probe", {"pooling": "median"}, "pooling"),
        ("probe", {"log10_alpha_low": 2.0, "log10_alpha_high": 1.0}, "log10_alpha_high"),
        ("density", {"grid": 4}, "grid"),
        ("density", {"layout": "corners4"}, "whole, halves or tiles-RxC"),
        ("density", {"beta": 0.0}, "beta"),
        ("density", {"interval_bins": 7}, "interval_bins=0"),
        ("density", {"predicted_metadata": "film"}, "predicted_metadata=none"),
        ("density", {"token_bank": "float64"}, "float16"),
        ("stack", {"regressor": "forest"}, "ridge, kernel, svr, trees"),
        ("stack", {"goals": "sqrt"}, "both, grams, log1p"),
        ("stack", {"taps": ""}, "1 is the last"),
        ("stack", {"more_sizes": "224"}, "other sizes than size"),
        ("stack", {"regressor": "svr", "choose_penalty": True}, "choose_penalty=false"),
        ("stack", {"penalty": 0.0}, "penalty"),
        ("stack", {"tree_features": 0.0}, "tree_features"),
    ],
)
def test_bad_params_are_refused_by_name(family: str, params: dict[str, object], word: str) -> None:
    with pytest.raises(ValueError, match=word.replace("(", r"\(")):
        config_from_params(family, params)


def test_whole_numbers_are_fine_for_float_fields() -> None:
    config = config_from_params("baseline", {"dropout": 0})
    assert config == BaselineConfig(dropout=0.0)
    assert type(config.dropout) is float  # type: ignore[union-attr]
    assert type(ProbeConfig(log10_alpha_high=2).log10_alpha_high) is float


def test_configs_load_without_torch() -> None:
    code = "import sys, biomass_models.families.configs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
