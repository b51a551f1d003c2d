"""Maps in colours over a photograph: the scale is that of the map, and its text says so."""

from __future__ import annotations

import numpy as np
import pytest

from biomass_models.data.images import views_for
from orchestration.overlay import (
    FAINT,
    STRONG,
    VIRIDIS,
    WHOLE,
    Placed,
    colours,
    overlaid,
    scale_end,
    tile_boxes,
    with_scale,
)

PHOTOGRAPH = np.random.default_rng(0).integers(0, 255, (60, 120, 3), dtype=np.uint8)


def test_colours_go_from_the_first_to_the_last_and_grow_brighter() -> None:
    found = colours(np.array([-1.0, 0.0, 1 / 9, 1.0, 2.0]))
    np.testing.assert_array_equal(found, VIRIDIS[[0, 0, 1, -1, -1]])
    light = colours(np.linspace(0, 1, 50)) @ np.array([0.299, 0.587, 0.114])
    assert (np.diff(light) > 0).all()  # also readable in grey


@pytest.mark.parametrize(
    ("largest", "end"), [(158.7, 200), (200.0, 200), (0.37, 0.4), (1.01, 1.5), (9.0, 10), (0.0, 1), (7e-4, 8e-4)]
)
def test_a_scale_ends_at_a_round_number_not_below_the_largest(largest: float, end: float) -> None:
    assert scale_end(largest) == pytest.approx(end)


def test_a_place_has_the_colour_of_its_value_and_the_photograph_stays_visible() -> None:
    flat = np.full_like(PHOTOGRAPH, 130)
    map_HW = np.array([[0.0, 5.0]])
    painted = overlaid(flat, [Placed(WHOLE, map_HW)], end=10.0).astype(float)
    grey = 130.0
    expected = [(1 - part) * grey + part * colours(np.array(share))
                for part, share in ((FAINT, 0.0), ((FAINT + STRONG) / 2, 0.5))]  # fmt: skip
    np.testing.assert_allclose(painted[:, :20], np.broadcast_to(expected[0], (60, 20, 3)), atol=1)
    np.testing.assert_allclose(painted[:, -20:], np.broadcast_to(expected[1], (60, 20, 3)), atol=1)
    structured = overlaid(PHOTOGRAPH, [Placed(WHOLE, np.ones((2, 2)))], end=1.0).astype(float)
    assert structured.mean(-1).std() > 5


def test_a_dark_photograph_is_as_visible_as_a_bright_one() -> None:
    dark = (PHOTOGRAPH // 8).astype(np.uint8)
    bright, pale = (overlaid(one, [], 1.0).astype(float) for one in (PHOTOGRAPH, dark))
    assert bright.std() == pytest.approx(pale.std(), rel=0.1)
    assert (pale[..., 0] == pale[..., 1]).all()  # grey where no map lies


def test_maps_lie_in_their_boxes_and_labelled_ones_are_outlined() -> None:
    flat = np.full_like(PHOTOGRAPH, 130)
    left = overlaid(flat, [Placed((0, 0, 0.5, 1), np.ones((1, 1)))], end=1.0)
    assert (left[:, 60:] == 130).all() and (left[:, :60] != 130).any(-1).all()
    labelled = overlaid(flat, [Placed((0.5, 0, 1, 1), np.ones((1, 1)), "0.5")], end=1.0)
    assert (labelled[0, 60:] == 255).all()


@pytest.mark.parametrize("layout", ["whole", "halves", "tiles-2x4", "tiles-1x1"])
def test_boxes_follow_from_the_names_of_views_that_tile(layout: str) -> None:
    boxes = {view.name: view.box for view in views_for(layout, 32)}
    assert tile_boxes(list(boxes)) == boxes
    area = sum((right - left) * (bottom - top) for left, top, right, bottom in boxes.values())
    assert area == pytest.approx(1)


def test_other_views_have_no_boxes() -> None:
    assert tile_boxes(["top-left", "somewhere"]) == {}


def test_the_scale_below_a_picture_runs_through_all_colours() -> None:
    found = with_scale(PHOTOGRAPH, "green", 200.0, "g/m2")
    assert found.shape[1] == 120 and (found[:60] == PHOTOGRAPH).all()
    strip = found[60:].reshape(-1, 3).astype(int)
    for colour in (VIRIDIS[0], VIRIDIS[-1]):
        assert (np.abs(strip - colour).max(1) <= 1).any()
