"""Ranges of the distilled family, and the settings it starts from.

Why these ranges: views and sizes are what the best teams gained most by; each grid, layout and size costs a pass over
all images, once, so a scale that runs on a CPU offers few. The teacher's settings are few and discrete, so that trials
share its fits. The first two trials differ in the distillation alone: every study shows what the teacher brings.
"""

from __future__ import annotations

from typing import Any

from biomass_models.families.distilled.config import DistilledConfig
from search_spaces.domain import Choice, Domain, Integer, LogUniform, SearchSpace, Uniform, When
from search_spaces.needs import Needs
from search_spaces.options import NEEDS as OPTION_NEEDS
from search_spaces.options import REASONS as OPTION_REASONS
from search_spaces.options import option_domains, switched_off

SIZES = {"smoke": (64,), "demo": (224,), "cpu": (224, 336), "gpu": (224, 448, 672)}  # px, of the whole image
LOCAL_SIZES = {"smoke": (32,), "demo": (224,), "cpu": (224,), "gpu": (224, 448)}  # px, of a local view
LAYOUTS = {
    "smoke": ("halves", "none"),
    "demo": ("halves", "none"),
    "cpu": ("corners4", "halves", "none"),
    "gpu": ("corners4", "halves", "tiles-2x4", "none"),
}
TRAINED_BLOCKS = {"smoke": (0,), "demo": (0,), "cpu": (0,), "gpu": (5, 0, 2, 8)}
GRIDS = {"smoke": (2,), "demo": (3,), "cpu": (3, 6), "gpu": (4, 8)}  # of cached tokens
EPOCHS = {"smoke": (2, 4, 1), "demo": (10, 25, 5), "cpu": (10, 40, 5), "gpu": (30, 90, 10)}
FLIPS = {"smoke": 2, "demo": 4, "cpu": 4, "gpu": 8}
REASONS = {
    **OPTION_REASONS,
    "size": "more pixels are what the best teams gained most by; each costs a pass over all images, once",
    "layout": "left and right halves are the choice of most top teams; corners4 is published",
    "trained_blocks": "5 is published; 0 caches what a frozen backbone sees",
    "grid": "a grid of cached tokens takes room: 6 x 6 four times that of 3 x 3",
    "backbone_lr": "1e-4 is published; a trained backbone tears far above it",
    "distillation_weight": "few values, so that trials share the teacher's fits; 0 shows what it brings",
    "teacher_epochs": "few values, so that trials share the teacher's fits",
    "teacher_width": "few values, so that trials share the teacher's fits",
    "huber_delta": "1 is published; smaller ones mind outliers less",
}
DISTILLATION_WEIGHTS = (0.5, 0.25, 1.0, 2.0, 0.0)
TEACHER = ("width", "width_2", "epochs", "lr", "weight_decay", "inner_folds")
NEEDS = {
    **OPTION_NEEDS,
    "local_size": Needs(field="layout", other_than=("none",)),
    **{f"teacher_{name}": Needs(field="distillation_weight", other_than=(0.0,)) for name in TEACHER},
}


def space(backbones: tuple[str, ...], scale: str) -> SearchSpace:
    """The space at one scale: smoke (tests), demo, cpu (all frozen, tokens cached) or gpu (blocks trained)."""
    blocks, published = TRAINED_BLOCKS[scale], DistilledConfig()
    options = option_domains(scale, blocks)
    domains: dict[str, Domain] = {
        "backbone": Choice(backbones),
        "size": Choice(SIZES[scale]),
        "layout": Choice(LAYOUTS[scale]),
        "local_size": NEEDS["local_size"].when(LAYOUTS[scale], Choice(LOCAL_SIZES[scale])),
        "trained_blocks": Choice(blocks),
        "grid": When("trained_blocks", (0,), Choice(GRIDS[scale])),
        "backbone_lr": NEEDS["backbone_lr"].when(blocks, LogUniform(1e-5, 4e-4)),
        "head_lr": LogUniform(5e-5, 3e-3),
        "pooling_heads": Choice((1, 4, 8)),
        "pooling_dropout": Uniform(0.0, 0.4),
        "head_width": Choice((128, 256, 512)),
        "head_width_2": Choice((64, 128)),
        "dropout": Uniform(0.0, 0.6),
        "total_weight": LogUniform(1.0, 6.0),
        "ratio_weight": LogUniform(0.3, 3.0),
        "huber_delta": LogUniform(0.3, 3.0),
        "group_weights": Choice((True, False)),
        "distillation_weight": Choice(DISTILLATION_WEIGHTS),
        "teacher_epochs": NEEDS["teacher_epochs"].when(DISTILLATION_WEIGHTS, Choice((100, 200, 400))),
        "teacher_width": NEEDS["teacher_width"].when(DISTILLATION_WEIGHTS, Choice((128, 32))),
        "weight_decay": LogUniform(1e-3, 0.5),
        "epochs": Integer(*EPOCHS[scale]),
        "ema_decay": Choice((0.0, 0.98)),
        **options,
    }
    first: dict[str, Any] = {
        "backbone": next((name for name in backbones if "dinov3" in name), backbones[0]),
        "size": SIZES[scale][0],
        "layout": LAYOUTS[scale][0],
        "local_size": LOCAL_SIZES[scale][0],
        "trained_blocks": blocks[0],
        **({"backbone_lr": published.backbone_lr} if blocks[0] else {"grid": GRIDS[scale][0]}),
        "epochs": min(published.epochs, EPOCHS[scale][1]),
    }
    kept = ("head_lr", "pooling_heads", "pooling_dropout", "head_width", "head_width_2", "dropout", "total_weight",
            "ratio_weight", "huber_delta", "group_weights", "distillation_weight", "teacher_epochs", "teacher_width",
            "weight_decay", "ema_decay")  # fmt: skip
    first |= {name: getattr(published, name) for name in kept}
    first |= switched_off(options, first)
    alone = {name: value for name, value in first.items() if name not in ("teacher_epochs", "teacher_width")}
    return SearchSpace(
        family="distilled",
        config_class=DistilledConfig,
        domains=domains,
        fixed={"flips": FLIPS[scale]},
        first_trials=(first, {**alone, "distillation_weight": 0.0}),
    )
