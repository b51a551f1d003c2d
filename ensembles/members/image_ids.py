"""Image ids that are written otherwise: as paths, with a suffix, as numbers with a decimal point."""

from __future__ import annotations

import re

import pandas as pd

_SUFFIX = re.compile(r"\.(?:jpe?g|png|tiff?|webp|bmp|npy|0)$", re.IGNORECASE)


def plain_id(image_id: str) -> str:
    """What is left of an id without folders and suffix: train/ID1.jpg -> ID1."""
    return _SUFFIX.sub("", re.split(r"[/\\]", image_id.strip())[-1])


def matched_ids(own: pd.Index, wanted: pd.Index) -> pd.Index:
    """Own ids as the wanted ones are written: as they are where any is known, else by what plain_id leaves of both."""
    if own.isin(wanted).any():
        return own
    by_plain = {plain_id(name): name for name in wanted}
    if len(by_plain) < len(wanted):  # two wanted images would be one
        return own
    return pd.Index([by_plain.get(plain_id(name), name) for name in own])
