"""Ranges of the density family: which tokens, and the small network that each of them passes.

A grid of tokens takes much room, so a scale that runs on a CPU offers few sizes and turns.
"""

from __future__ import annotations

from typing import Any

from biomass_models.families.density.config import DensityConfig
from search_spaces.domain import Choice, Domain, Integer, LogUniform, SearchSpace, Uniform
from search_spaces.needs import Needs
from search_spaces.options import NEEDS as OPTION_NEEDS
from search_spaces.options import REASONS as OPTION_REASONS
from search_spaces.options import option_domains, switched_off

SIZES = {"smoke": (64,), "demo": (224,), "cpu": (224, 336), "gpu": (224, 448, 672)}  # px, of a view
LAYOUTS = {"smoke": ("whole", "halves"), "demo": ("halves",), "cpu": ("halves",), "gpu": ("halves", "tiles-2x4")}
GRIDS = {"smoke": (8,), "demo": (8,), "cpu": (8,), "gpu": (8, 16)}  # of cached tokens
TRAINED_BLOCKS: dict[str, tuple[int, ...]] = {"smoke": (), "demo": (), "cpu": (), "gpu": (2, 4)}  # beside none
EPOCHS = {"smoke": (2, 4, 1), "demo": (6, 12, 2), "cpu": (10, 40, 5), "gpu": (20, 60, 10)}
WIDTHS = {"smoke": (16, 128), "demo": (64, 32), "cpu": (64, 128), "gpu": (64, 128, 256)}  # every token passes them
FLIPS = {"smoke": 2, "demo": 1, "cpu": 4, "gpu": 8}


REASONS = {
    **OPTION_REASONS,
    "size": "a grid of tokens takes much room, so a CPU is offered few sizes",
    "grid": "at least 8 x 8 a half: fewer tokens average away what differs",
    "head_width": "every token passes the network, so it is small",
    "beta": "5 g is published; 20 g is nearer to the squared error that is scored",
}
NEEDS = {**OPTION_NEEDS, "grid": Needs(field="trained_blocks", one_of=(0,))}  # trained backbones keep all tokens
OPTIONS = ("mixup_alpha", "stamped", "adapters", "adapter_rank")  # the others are of a photograph, not of a patch


def space(backbones: tuple[str, ...], scale: str) -> SearchSpace:
    """The space at one scale: smoke (tests), demo, cpu (all frozen, tokens cached) or gpu (blocks may train)."""
    trained, plain = TRAINED_BLOCKS[scale], DensityConfig()
    domains: dict[str, Domain] = {
        "backbone": Choice(backbones),
        "size": Choice(SIZES[scale]),
        "layout": Choice(LAYOUTS[scale]),
        "head_lr": LogUniform(1e-4, 1e-2),
        "head_width": Choice(WIDTHS[scale]),
        "dropout": Uniform(0.0, 0.5),
        "beta": LogUniform(1.0, 20.0),
        "weight_decay": LogUniform(1e-3, 0.5),
        "epochs": Integer(*EPOCHS[scale]),
        "ema_decay": Choice((0.0, 0.98)),
    }
    options = {name: one for name, one in option_domains(scale, (0, *trained)).items() if name in OPTIONS}
    if trained:
        domains |= {
            "trained_blocks": Choice((0, *trained)),
            "grid": NEEDS["grid"].when((0, *trained), Choice(GRIDS[scale])),
            "backbone_lr": NEEDS["backbone_lr"].when((0, *trained), LogUniform(1e-5, 4e-4)),
        }
    else:
        domains["grid"] = Choice(GRIDS[scale])
    first: dict[str, Any] = {
        "backbone": backbones[0],
        "size": SIZES[scale][0],
        "layout": "halves",
        "grid": GRIDS[scale][0],
        "epochs": min(plain.epochs, EPOCHS[scale][1]),
    }
    if trained:
        first["trained_blocks"] = 0
    first["head_width"] = plain.head_width if plain.head_width in WIDTHS[scale] else WIDTHS[scale][0]
    domains |= options
    kept = ("head_lr", "dropout", "beta", "weight_decay", "ema_decay")
    first |= {name: getattr(plain, name) for name in kept}
    first |= switched_off(options, first)
    wide = {**first, "beta": 20.0, "dropout": 0.3}  # nearer to the squared error that is scored
    return SearchSpace(
        family="density",
        config_class=DensityConfig,
        domains=domains,
        fixed={"flips": FLIPS[scale]},
        first_trials=(first, wide),
    )
