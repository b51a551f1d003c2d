"""Ranges of the probe family: which frozen embeddings, how pooled, of which views.

The penalty is not searched here: each fit chooses it by inner folds grouped by date.
"""

from __future__ import annotations

from biomass_models.families.probe.config import ProbeConfig
from search_spaces.domain import Choice, Domain, SearchSpace, When
from search_spaces.needs import Needs

SIZES = {"smoke": (64,), "demo": (224,), "cpu": (224, 336), "gpu": (224, 336, 448)}  # px of a view
LAYOUTS = {
    "smoke": ("whole", "halves"),
    "demo": ("whole", "halves"),
    "cpu": ("whole", "halves", "tiles-2x4"),
    "gpu": ("whole", "halves", "tiles-2x4", "corners4"),
}
NEEDS = {
    "view_merge": Needs(field="layout", other_than=("whole",)),
    "taps": Needs(field="layers", one_of=(1,)),
}
POOLINGS = ("global", "mean", "mean+std", "global+mean+std")
WIDER = (*POOLINGS, "mean+max+min+gem", "global+mean+max+min+gem+std")
REASONS = {
    "size": "each size costs a pass over all images, once",
    "layout": "halves are the choice of most top teams; more views cost more passes",
    "pooling": "mean alone, without max, min and GeM, cost its author .04",
    "more_sizes": "banks that other trials have too",
    "taps": "inner layers gained .02 (photographs) to .07 out of fold (docs/measured.md)",
    "layers": "each further layer and flip costs a pass over all images, once",
    "flips": "each further layer and flip costs a pass over all images, once",
    "transform": "log targets predict below the mean, which R2 punishes",
}
MORE_SIZES = {"cpu": ("", "336"), "gpu": ("", "448", "336+448")}  # beside 224 px: banks that other trials have too
INNER = "0.67+0.83+1"  # relative depths; the stack family asks for them as well


def space(backbones: tuple[str, ...], scale: str) -> SearchSpace:
    """The space at one scale: smoke (tests), demo, cpu or gpu."""
    layouts = LAYOUTS[scale]  # each layout, and each further layer and flip, costs a pass over all images, once
    domains: dict[str, Domain] = {
        "backbone": Choice(backbones),
        "size": Choice(SIZES[scale]),
        "layout": Choice(layouts),
        "view_merge": NEEDS["view_merge"].when(layouts, Choice(("concat", "mean"))),
        "pooling": Choice(WIDER if scale in MORE_SIZES else POOLINGS),
        "layers": Choice((1,) if scale == "demo" else (1, 2)),
        "flips": Choice((1,) if scale == "demo" else (1, 4)),
        "transform": Choice(("log1p", "sqrt", "none")),
        "alpha_per_target": Choice((False, True)),
    }
    plain = {
        "backbone": backbones[0],
        "size": SIZES[scale][0],
        "layout": "whole",
        "pooling": "global",
        "layers": 1,
        "flips": 1,
        "transform": "sqrt",
        "alpha_per_target": False,
    }
    if scale in MORE_SIZES:
        domains["more_sizes"] = When("size", (224,), Choice(MORE_SIZES[scale]))
        plain |= {"more_sizes": ""}
    halves = {**plain, "layout": "halves", "view_merge": "mean", "pooling": "mean+std"}
    if scale != "smoke":
        domains["taps"] = NEEDS["taps"].when((1, 2), Choice(("", INNER)))
        plain, halves = plain | {"taps": ""}, halves | {"taps": INNER}
    return SearchSpace(family="probe", config_class=ProbeConfig, domains=domains, first_trials=(plain, halves))
