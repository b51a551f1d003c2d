from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from biomass_models.features.augment import TURNS, Draw, change, draw_changes, turn


def draw(**values: float) -> Draw:
    plain = {"turn": 0, "brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "sigma": 0.0} | values
    return Draw(**{f"{name}_B": torch.tensor([value]) for name, value in plain.items()})


def test_turns_are_the_eight_of_a_square() -> None:
    picture = torch.arange(16.0).view(1, 1, 4, 4)
    seen = {tuple(turn(picture, index).flatten().tolist()) for index in range(len(TURNS))}
    assert len(seen) == 8
    # the first 2 and the first 4 are groups: turning twice leads to nothing new
    for size in (1, 2, 4, 8):
        group = {tuple(turn(picture, a).flatten().tolist()) for a in range(size)}
        twice = {tuple(turn(turn(picture, a), b).flatten().tolist()) for a in range(size) for b in range(size)}
        assert twice == group


def test_nothing_drawn_changes_nothing() -> None:
    picture = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(change(picture, draw()), picture)


def test_colour_factors_by_hand() -> None:
    picture = torch.full((1, 3, 2, 2), 0.5)
    picture[:, 0] = 0.7
    torch.testing.assert_close(change(picture, draw(brightness=0.5)), picture * 0.5)
    grey = 0.299 * 0.7 + 0.701 * 0.5
    washed = change(picture, draw(saturation=0.0))
    torch.testing.assert_close(washed, torch.full_like(picture, grey))
    torch.testing.assert_close(change(picture, draw(contrast=0.0)), torch.full_like(picture, grey))


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_blur_is_scipys(sigma: float) -> None:
    picture = torch.rand(1, 3, 20, 24, dtype=torch.float64)
    expected = gaussian_filter(picture.numpy(), (0, 0, sigma, sigma), mode="mirror", radius=int(np.ceil(3 * sigma)))
    np.testing.assert_allclose(change(picture, draw(sigma=sigma)).numpy(), expected, atol=1e-6)


def test_each_picture_has_its_own_draw_within_bounds() -> None:
    drawn = draw_changes(400, torch.Generator().manual_seed(0), flips=4, colour=0.05, blur=1.5)
    assert set(drawn.turn_B.tolist()) == {0, 1, 2, 3}
    for factor in (drawn.brightness_B, drawn.contrast_B, drawn.saturation_B):
        assert 0.95 <= factor.min() < factor.max() <= 1.05
    assert drawn.sigma_B.max() <= 1.5
    assert 0.4 < (drawn.sigma_B > 0).float().mean() < 0.6
    pictures = torch.rand(400, 3, 6, 6)
    together = change(pictures, drawn)
    alone = Draw(
        *(getattr(drawn, f"{part}_B")[7:8] for part in ("turn", "brightness", "contrast", "saturation", "sigma"))
    )
    torch.testing.assert_close(together[7:8], change(pictures[7:8], alone), atol=2e-3, rtol=0)  # kernel length differs
