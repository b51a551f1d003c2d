"""What the family study searches: the ranges of the scale `demo`, and what is widened by cached features alone.

Sizes, layouts and flips each cost a pass over all photographs, so there are few of them, the same for all families.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from search_spaces.domain import Choice, Domain, SearchSpace, When
from search_spaces.probe import INNER, WIDER
from search_spaces.spaces import space_of

FAMILIES = ("probe", "baseline", "distilled", "stack", "density")
FIRST = FAMILIES[:3]  # those that there were before `stack` and `density`
RECORDED = ("probe", "baseline", "stack")  # of long recordings: a trial of a frozen head takes seconds
BACKBONES = ("tf_efficientnet_lite0.in1k", "vit_small_patch14_dinov2.lvd142m")
MORE_SIZES = ("", "336")
FLIPS = 2  # of the networks' banks

# Options of networks that gained on seeds 10 to 12 beside their control: none did (docs/measured.md, pair by pair).
CHOSEN: Mapping[str, Mapping[str, Domain]] = {}
_WIDER: Mapping[str, Mapping[str, Domain]] = {
    "probe": {
        "pooling": Choice(WIDER),
        "more_sizes": When("size", (224,), Choice(MORE_SIZES)),
    },
    "stack": {
        "taps": Choice((INNER, "1")),
        "more_sizes": When("size", (224,), Choice(MORE_SIZES)),
    },
}
_FIRST: Mapping[str, Mapping[str, Any]] = {"probe": {"taps": "", "more_sizes": ""}}


def demo_space(family: str, backbone: str) -> SearchSpace:
    """The ranges of the demo on one backbone, with fewer flips."""
    demo = space_of(family, (backbone,), "demo")
    fixed = {**demo.fixed, "flips": FLIPS} if "flips" in demo.fixed and demo.fixed["flips"] > 1 else demo.fixed
    return replace(demo, fixed=fixed)


def study_space(family: str, backbone: str) -> SearchSpace:
    """The demo's, widened: what the family study searches of a family on one backbone."""
    demo = demo_space(family, backbone)
    chosen = CHOSEN.get(family, {})
    domains = {**demo.domains, **_WIDER.get(family, {}), **chosen}
    off = {**{name: _first_option(domain) for name, domain in chosen.items()}, **_FIRST.get(family, {})}
    return replace(demo, domains=domains, first_trials=tuple({**one, **off} for one in demo.first_trials))


def _first_option(domain: Domain) -> Any:
    choice = domain.domain if isinstance(domain, When) else domain
    assert isinstance(choice, Choice), "an option that was chosen is on or off"
    return choice.options[0]
