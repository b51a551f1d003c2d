"""Family name -> its search space at a scale."""

from __future__ import annotations

from collections.abc import Mapping

from biomass_models.config_rules import known_name
from biomass_models.families import registry
from search_spaces.domain import SearchSpace
from search_spaces.needs import Needs

SCALES = ("smoke", "demo", "cpu", "gpu")

# Where the user names none: the published ones of the baseline and of the distilled family, and one that pip brings.
DEFAULT_BACKBONES = (
    "vit_small_patch14_dinov2.lvd142m",
    "vit_small_patch16_dinov3.lvd1689m",
    "tf_efficientnet_lite0",
)


def reasons_of(family: str) -> Mapping[str, str]:
    """Why a family's ranges are as they are, by field; a package of others may leave it out."""
    reasons: Mapping[str, str] = getattr(registry.space_module(registry.known(family)), "REASONS", {})
    return reasons


def needs_of(family: str) -> Mapping[str, Needs]:
    """What each field of a family needs of another one to do anything; a package of others may leave it out."""
    needs: Mapping[str, Needs] = getattr(registry.space_module(registry.known(family)), "NEEDS", {})
    return needs


def space_of(family: str, backbones: tuple[str, ...], scale: str) -> SearchSpace:
    """Raises UserError for an unknown family or scale."""
    known_name("a scale", scale, SCALES)
    space: SearchSpace = registry.space_module(registry.known(family)).space(backbones, scale)
    return space
