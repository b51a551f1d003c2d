"""Drawn stamps: what finds real ones finds them, and banks of other settings stay as they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_inputs import inputs_for, tiny_quadrats

from biomass_models.data.images import views_for
from biomass_models.data.stamps import find_date_stamp, paint_out_stamp
from biomass_models.features import stamped as module
from biomass_models.features.outputs import GLOBAL
from biomass_models.features.spec import FeatureSpec
from biomass_models.features.stamped import stamped

WHOLE = (0.0, 0.0, 1.0, 1.0)


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def as_pixels(image_BCHW: torch.Tensor) -> np.ndarray:
    return (image_BCHW[0].permute(1, 2, 0) * 255).round().byte().numpy()


@pytest.mark.parametrize("seed", range(8))
def test_a_drawn_stamp_is_found_where_cameras_print_it_and_painted_over(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RED", (0.3, 0.5, 0.2))  # dots as the sward, which show nowhere but on the date
    sward = torch.tensor([0.3, 0.5, 0.2])[:, None, None].expand(3, 500, 1000)[None].contiguous()
    marked = as_pixels(stamped(sward, WHOLE, draws(seed)))
    box = find_date_stamp(marked)
    rows, columns = np.nonzero((marked != as_pixels(sward)).any(-1))
    assert box is not None
    assert np.abs(np.array(box) - [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).max() <= 1
    assert find_date_stamp(paint_out_stamp(marked)) is None


def test_dots_are_red_small_and_few() -> None:
    grey = torch.full((1, 3, 200, 400), 0.5)
    marked = stamped(grey, WHOLE, draws(1))
    red_HW = (marked[0, 0] > 0.7) & (marked[0, 1] < 0.3)
    orange_HW = (marked[0, 0] > 0.8) & (marked[0, 1] > 0.45) & (marked[0, 2] < 0.3)
    assert 0 < red_HW.float().mean() < 0.01 and 0 < orange_HW.float().mean() < 0.02
    assert ((marked >= 0) & (marked <= 1)).all() and grey.eq(0.5).all()


def test_views_show_their_part_of_the_same_marks() -> None:
    torch.manual_seed(0)
    picture = torch.rand(1, 3, 200, 400)
    whole = stamped(picture, WHOLE, draws(5))
    right = stamped(picture[..., 200:], (0.5, 0.0, 1.0, 1.0), draws(5))
    corner = stamped(picture[..., 100:, 300:], (0.75, 0.5, 1.0, 1.0), draws(5))
    torch.testing.assert_close(right, whole[..., 200:], atol=1e-5, rtol=0)
    torch.testing.assert_close(corner, whole[..., 100:, 300:], atol=1e-5, rtol=0)
    assert (corner != picture[..., 100:, 300:]).any()


def test_copies_are_added_and_none_is_renamed() -> None:
    spec = FeatureSpec(backbone="test_vit", views=views_for("whole", 64), flips=2, jittered=1)
    more = replace(spec, stamped=2)
    assert more.copies()[:3] == spec.copies() and len(set(more.copies())) == 5
    assert more.unchanged() == spec.unchanged()
    assert not set(replace(more, bank_seed=1).copies()[3:]) & set(more.copies()[3:])


def test_only_the_stamped_copy_is_computed_beside_a_bank_that_is_there(tmp_path: Path) -> None:
    folder = tmp_path / "photographs"
    folder.mkdir()
    table, _ = tiny_quadrats(folder, images=6)
    spec = FeatureSpec(backbone="test_vit", views=views_for("halves", 64), flips=2)
    plain = inputs_for(folder, table, tmp_path / "cache").features(spec)
    more = inputs_for(folder, table, tmp_path / "cache").features(replace(spec, stamped=1))
    stack_NCVD = more.stack(GLOBAL)
    assert torch.equal(stack_NCVD[:, :2], plain.stack(GLOBAL))
    assert (stack_NCVD[:, 2] != stack_NCVD[:, 0]).any()
    assert len(list((tmp_path / "cache").glob("*/bank.json"))) == 1
    alone = inputs_for(folder, table.iloc[[4]], tmp_path / "other").features(replace(spec, stamped=1))
    assert torch.equal(alone.stack(GLOBAL)[0], stack_NCVD[4])
