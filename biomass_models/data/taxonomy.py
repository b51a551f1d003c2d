"""Species strings to tags: what grows in a quadrat as a multi-hot vector.

A species string joins names with "_" ("Ryegrass_Clover"); each name carries several tags, from the broad
group down to the cultivar.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

OTHER = "other"  # the tag of a name that the table below does not know

_TAGS_OF: dict[str, tuple[str, ...]] = {
    "barley": ("grass", "barley"),
    "brome": ("grass", "brome"),
    "fescue": ("grass", "fescue"),
    "phalaris": ("grass", "phalaris"),
    "rye": ("grass", "rye"),
    "silver": ("grass", "silver"),
    "spear": ("grass", "spear"),
    "clover": ("clover",),
    "whiteclover": ("clover", "white"),
    "subcloverdalkeith": ("clover", "subclover", "dalkeith"),
    "subcloverlosa": ("clover", "subclover", "losa"),
    "lucerne": ("legume", "lucerne"),
    "capeweed": ("broadleaf", "capeweed"),
    "crumbweed": ("broadleaf", "crumbweed"),
    "mixed": ("mixed",),
}
TAGS: tuple[str, ...] = tuple(dict.fromkeys(tag for tags in _TAGS_OF.values() for tag in tags))
TAG_COLUMNS: tuple[str, ...] = (*TAGS, OTHER)  # columns of tag_matrix


def species_tags(species: str) -> frozenset[str]:
    """Tags of a species string; a name that is not known gives `other`, and so does an empty string."""
    names = _names(species) or [""]
    return frozenset(tag for name in names for tag in _TAGS_OF.get(_key(name), (OTHER,)))


def tag_matrix(species: Sequence[str]) -> NDArray[np.float64]:
    """N species strings -> multi-hot [N, 20], columns in the order of TAG_COLUMNS (19 tags and `other`)."""
    tags_of = {text: species_tags(text) for text in set(species)}
    row_of = {text: [tag in tags for tag in TAG_COLUMNS] for text, tags in tags_of.items()}
    return np.array([row_of[text] for text in species], dtype=np.float64).reshape(-1, len(TAG_COLUMNS))


def unknown_names(species: str | Iterable[str]) -> tuple[str, ...]:
    """The names, as written and sorted, that no tag is known for, in one species string or in many."""
    texts = {species} if isinstance(species, str) else set(species)
    return tuple(sorted({name for text in texts for name in _names(text) if _key(name) not in _TAGS_OF}))


def _names(species: str) -> list[str]:
    return [name.strip() for name in species.split("_") if name.strip()]


def _key(name: str) -> str:
    """BarleyGrass, Barleygrass, "barley grass" and Barley are one name."""
    letters = "".join(letter for letter in name.casefold() if letter.isalnum())
    return letters.removesuffix("grass")
