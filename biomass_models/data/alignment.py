"""Rows of a table in the order of other images: the one place where tables meet by image id.

N images. A table has a column `image_id` with one row an image; more images than are asked for do no harm.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from biomass_models.counted import counted
from biomass_models.errors import UserError
from biomass_models.targets import TARGETS, FloatArray, IntArray

Ids = pd.Series | pd.Index | Sequence[str]


class AlignmentError(UserError):
    """A table lacks images, or has more than one row of some; the text says how many, and names one."""


def places_of(own: Ids, image_ids: Ids, of: str = "images") -> IntArray:
    """The row of each image among a table's own ids: [N]. of: what the images are, for the message.

    Raises AlignmentError.
    """
    have, wanted = pd.Index(own), pd.Index(image_ids)
    if have.has_duplicates:
        twice = have[have.duplicated()].unique()
        raise AlignmentError(f"{counted(len(twice), 'image has', 'images have')} more than one row, such as {twice[0]}")
    place_N = have.get_indexer(wanted)
    if (place_N < 0).any():
        missing = wanted[place_N < 0]
        strange = len(have.difference(wanted))
        also = f", and {strange} of its images are unknown" if strange else ""
        raise AlignmentError(f"{len(missing)} of {len(wanted)} {of} have no prediction, such as {missing[0]}{also}")
    return place_N.astype(np.int64, copy=False)


def rows_of(table: pd.DataFrame, image_ids: Ids) -> pd.DataFrame:
    """The rows of these images in their order, with an index from 0. Raises AlignmentError."""
    return table.iloc[places_of(table["image_id"], image_ids)].reset_index(drop=True)


def masses_of(table: pd.DataFrame, image_ids: Ids) -> FloatArray:
    """The five targets of these images in their order: [N, 5] grams. Raises AlignmentError."""
    return rows_of(table, image_ids)[list(TARGETS)].to_numpy(dtype=np.float64)
