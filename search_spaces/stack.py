"""Ranges of the stack family: which frozen embeddings, and what learns from them.

Banks are those that the probe asks for too: statistics of a layer come with any forward pass.
"""

from __future__ import annotations

from typing import Any

from biomass_models.families.stack.config import StackConfig
from search_spaces.domain import Choice, Domain, LogUniform, SearchSpace, Uniform, When
from search_spaces.needs import Needs

SIZES = {"smoke": (64,), "demo": (224,), "cpu": (224, 336), "gpu": (224, 336, 448)}  # px of a view
MORE_SIZES = {"smoke": ("",), "demo": ("",), "cpu": ("", "336"), "gpu": ("", "448", "336+448")}  # beside 224 px
LAYOUTS = ("halves", "whole")
TAPS = {"smoke": ("1", "0.67+1"), "demo": ("0.67+0.83+1",), "cpu": ("0.67+0.83+1", "1"), "gpu": ("0.67+0.83+1", "1")}
REASONS = {
    "size": "each size costs a pass over all images, once",
    "more_sizes": "banks that the probe asks for too",
    "taps": "three layers, as the team of 13th place; without inner ones a team lost .01 to .02",
    "goals": "the mean of both is that team's choice; grams alone lost it .01",
    "penalty": "5 is that team's, on features of a larger backbone",
    "regressor": "ridge is that team's; kernels and trees err otherwise, which a blend wants",
    "tree_features": "thousands of features: a node tries few",
}
NEEDS = {
    "view_merge": Needs(field="layout", other_than=("whole",)),
    "choose_penalty": Needs(field="regressor", one_of=("ridge",)),
    "penalty": Needs(field="choose_penalty", one_of=(False,)),
    "kernel_penalty": Needs(field="regressor", one_of=("kernel",)),
    "kernel_width": Needs(field="regressor", one_of=("kernel", "svr")),
    "svr_c": Needs(field="regressor", one_of=("svr",)),
    "svr_epsilon": Needs(field="regressor", one_of=("svr",)),
    "tree_leaf": Needs(field="regressor", one_of=("trees",)),
    "tree_features": Needs(field="regressor", one_of=("trees",)),
}
REGRESSORS = {
    "smoke": ("ridge", "kernel"),
    "demo": ("ridge", "kernel"),  # a fold in a second
    "cpu": ("ridge", "kernel", "svr", "trees"),
    "gpu": ("ridge", "kernel", "svr", "trees"),
}


def space(backbones: tuple[str, ...], scale: str) -> SearchSpace:
    """The space at one scale: smoke (tests), demo, cpu or gpu."""
    kinds = REGRESSORS[scale]
    domains: dict[str, Domain] = {
        "backbone": Choice(backbones),
        "size": Choice(SIZES[scale]),
        "more_sizes": When("size", (224,), Choice(MORE_SIZES[scale])),
        "taps": Choice(TAPS[scale]),
        "layout": Choice(LAYOUTS),
        "view_merge": NEEDS["view_merge"].when(LAYOUTS, Choice(("concat", "mean"))),
        "pooling": Choice(("mean+max+min+gem", "mean+std", "global+mean+max+min+gem+std")),
        "goals": Choice(("both", "grams", "log1p")),
        "regressor": Choice(kinds),
        "choose_penalty": NEEDS["choose_penalty"].when(kinds, Choice((False, True))),
        "penalty": NEEDS["penalty"].when((False, True), LogUniform(1.0, 1e5)),
        "kernel_penalty": NEEDS["kernel_penalty"].when(kinds, LogUniform(1e-2, 10.0)),
        "kernel_width": NEEDS["kernel_width"].when(kinds, LogUniform(0.1, 10.0)),
    }
    if "svr" in kinds:
        domains |= {
            "svr_c": NEEDS["svr_c"].when(kinds, LogUniform(0.1, 100.0)),
            "svr_epsilon": NEEDS["svr_epsilon"].when(kinds, Uniform(0.0, 0.5)),
        }
    if "trees" in kinds:
        domains |= {
            "tree_leaf": NEEDS["tree_leaf"].when(kinds, Choice((1, 3, 8))),
            "tree_features": NEEDS["tree_features"].when(kinds, Choice((0.01, 0.03, 0.1))),
        }
    plain: dict[str, Any] = {
        "backbone": backbones[0],
        "size": SIZES[scale][0],
        "taps": TAPS[scale][0],
        "layout": "halves",
        "view_merge": "concat",
        "pooling": "mean+max+min+gem",
        "goals": "both",
        "regressor": "ridge",
        "choose_penalty": False,
        "penalty": 5.0,
    }
    if SIZES[scale][0] == 224:
        plain["more_sizes"] = ""
    chosen = {name: value for name, value in plain.items() if name != "penalty"} | {"choose_penalty": True}
    return SearchSpace(family="stack", config_class=StackConfig, domains=domains, first_trials=(plain, chosen))
