"""Family name -> its search space at a scale."""

from __future__ import annotations

import difflib
from collections.abc import Callable

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
    if family not in SPACES:
        close = difflib.get_close_matches(family, SPACES, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"a family is one of {', '.join(SPACES)}, got {family!r}{hint}")
    return family


def space_of(family: str, backbones: tuple[str, ...], scale: str) -> SearchSpace:
    """Raises ValueError for an unknown family or scale."""
    known_family(family)
    if scale not in SCALES:
        raise ValueError(f"a scale is one of {', '.join(SCALES)}, got {scale!r}")
    return SPACES[family](backbones, scale)
