"""Ranges of the distilled family, and the settings it starts from.

Why these ranges: views and sizes are what the best teams gained most by; each grid, layout and size costs a pass over
all images, once, so a scale that runs on a CPU offers few. The teacher's settings are few and discrete, so that trials
share its fits. The first two trials differ in the distillation alone: every study shows what the teacher brings.
"""

from __future__ import annotations

from typing import Any

from biomass_models.families.distilled.config import DistilledConfig
from search_spaces.domain import Choice, Domain, Integer, LogUniform, SearchSpace, Uniform, When
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
TAUGHT = (0.5, 0.25, 1.0, 2.0)  # weights of the distillation term


def space(backbones: tuple[str, ...], scale: str) -> SearchSpace:
    """The space at one scale: smoke (tests), demo, cpu (all frozen, tokens cached) or gpu (blocks trained)."""
    blocks, published = TRAINED_BLOCKS[scale], DistilledConfig()
    trained = tuple(count for count in blocks if count)
    views = tuple(layout for layout in LAYOUTS[scale] if layout != "none")
    options = option_domains(scale, trained)
    domains: dict[str, Domain] = {
        "backbone": Choice(backbones),
        "size": Choice(SIZES[scale]),
        "layout": Choice(LAYOUTS[scale]),
        "local_size": When("layout", views, Choice(LOCAL_SIZES[scale])),
        "trained_blocks": Choice(blocks),
        "grid": When("trained_blocks", (0,), Choice(GRIDS[scale])),
        "backbone_lr": When("trained_blocks", trained, LogUniform(1e-5, 4e-4)),
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
        "distillation_weight": Choice((*TAUGHT, 0.0)),
        "teacher_epochs": When("distillation_weight", TAUGHT, Choice((100, 200, 400))),
        "teacher_width": When("distillation_weight", TAUGHT, Choice((128, 32))),
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
