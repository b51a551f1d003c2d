"""Tables meet by image id: any order, any more rows, and a reason that names an image where one is missing or twice."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from biomass_models.data.alignment import AlignmentError, masses_of, places_of, rows_of
from biomass_models.targets import TARGETS


def _table(order: np.ndarray) -> pd.DataFrame:
    table = pd.DataFrame({"image_id": [f"ID{row}" for row in order], "fold": order})
    table[list(TARGETS)] = order[:, None] + np.arange(5) / 10
    return table


@pytest.mark.parametrize("seed", range(5))
def test_rows_stand_in_the_order_that_is_asked_for(seed: int) -> None:
    rng = np.random.default_rng(seed)
    table, wanted = _table(rng.permutation(9)), rng.permutation(9)[:6]
    image_ids = [f"ID{row}" for row in wanted]
    np.testing.assert_array_equal(masses_of(table, image_ids), wanted[:, None] + np.arange(5) / 10)
    rows = rows_of(table, image_ids)
    assert list(rows["image_id"]) == image_ids and list(rows.index) == list(range(6))
    pd.testing.assert_frame_equal(rows, table.set_index("image_id").loc[image_ids].reset_index())
    np.testing.assert_array_equal(table["fold"].to_numpy()[places_of(table["image_id"], image_ids)], wanted)


def test_an_image_that_is_missing_or_twice_is_named() -> None:
    table = _table(np.arange(3))
    with pytest.raises(AlignmentError, match="1 of 2 images have no prediction, such as ID7, and 2 of its"):
        places_of(table["image_id"], ["ID0", "ID7"])
    with pytest.raises(AlignmentError, match="1 image has more than one row, such as ID0"):
        rows_of(pd.concat([table, table[:1]]), ["ID1"])
