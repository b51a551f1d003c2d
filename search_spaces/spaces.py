"""Family name -> its search space at a scale."""

from __future__ import annotations

from collections.abc import Callable

from biomass_models.families.configs import known_name
from search_spaces.baseline import baseline_space
from search_spaces.distilled import distilled_space
from search_spaces.domain import SearchSpace
from search_spaces.probe import probe_space

SCALES = ("smoke", "demo", "cpu", "gpu")
SPACES: dict[str, Callable[[tuple[str, ...], str], SearchSpace]] = {
    "baseline": baseline_space,
    "probe": probe_space,
    "distilled": distilled_space,
}

# Where the user names none: the published ones of the baseline and of the distilled family, and one that pip brings.
DEFAULT_BACKBONES = (
    "vit_small_patch14_dinov2.lvd142m",
    "vit_small_patch16_dinov3.lvd1689m",
    "tf_efficientnet_lite0",
)


def known_family(family: str) -> str:
    """The name itself; ValueError with the nearest name where no family is called so."""
    return known_name("a family", family, SPACES)


def space_of(family: str, backbones: tuple[str, ...], scale: str) -> SearchSpace:
    """Raises ValueError for an unknown family or scale."""
    known_name("a scale", scale, SCALES)
    return SPACES[known_family(family)](backbones, scale)
