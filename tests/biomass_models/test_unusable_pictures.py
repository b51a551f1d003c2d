"""Files that Pillow opens and models cannot use: found by whoever looks, as errors of the photograph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from directories import write_directory
from PIL import Image, ImageOps
from unusable_pictures import PIXELS, strip, turned_with_a_wrong_tag, without_an_8_bit_form

from biomass_models.data.check import check_directory
from biomass_models.data.frames import Fit
from biomass_models.data.images import (
    ImageError,
    as_rgb,
    header_size,
    load_views,
    open_photograph,
    probe_image,
    upright_rgb,
    views_for,
)
from biomass_models.data.photographs import look_at

pytestmark = pytest.mark.slow


def test_a_probe_refuses_what_loading_refuses(tmp_path: Path) -> None:
    for path in without_an_8_bit_form(tmp_path):
        assert header_size(path) == (120, 60)
        for read in (probe_image, look_at, lambda path: load_views(path, views_for("whole", 8))):
            with pytest.raises(ImageError, match="8 or 16 bits"):
                read(path)


def test_a_wrong_tag_beside_the_orientation_does_no_harm(tmp_path: Path) -> None:
    """Pixels alone are turned."""
    path = turned_with_a_wrong_tag(tmp_path / "a.jpg")
    with Image.open(path) as image, pytest.raises(Exception):  # noqa: B017  struct.error, TypeError: it depends
        ImageOps.exif_transpose(image)
    assert probe_image(path) == header_size(path) == (120, 60)
    with open_photograph(path) as image:
        assert np.abs(np.asarray(upright_rgb(image, path)).astype(int) - PIXELS).mean() < 4


@pytest.mark.parametrize("orientation", range(9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_pictures_are_turned_as_pillow_turns_them(tmp_path: Path, suffix: str, orientation: int) -> None:
    """To the byte; 0 is no orientation."""
    exif, path = Image.Exif(), tmp_path / f"a.{suffix}"
    exif[0x0112] = orientation
    Image.fromarray(PIXELS).save(path, exif=exif)
    with open_photograph(path) as mine, Image.open(path) as theirs:
        np.testing.assert_array_equal(upright_rgb(mine, path), as_rgb(ImageOps.exif_transpose(theirs), path))


@pytest.mark.parametrize(
    "fault", [TypeError, KeyError, AttributeError, ZeroDivisionError, Image.DecompressionBombError]
)
def test_whatever_pillow_raises_is_of_the_photograph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: type[Exception]
) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(PIXELS).save(path)

    def broken(*_: object) -> None:
        raise fault("badly written")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", broken)
    with pytest.raises(ImageError, match="badly written"):
        load_views(path, views_for("whole", 8))


@pytest.mark.parametrize(("fit", "refused"), [("stretch", False), ("crop", False), ("pad", True)])
def test_a_frame_that_takes_all_memory_is_refused_by_the_header(tmp_path: Path, fit: Fit, refused: bool) -> None:
    path = strip(tmp_path / "a.png")
    assert header_size(path) == header_size(path, ["stretch", "crop"]) == (60_000, 1)
    if not refused:
        assert load_views(path, views_for("whole", 8), fit=fit)[0].shape == (8, 8, 3)
        return
    for read in (lambda: header_size(path, [fit]), lambda: load_views(path, views_for("whole", 8), fit=fit)):
        with pytest.raises(ImageError, match="60000 x 1 px, whose frame with fit = pad is 60000 x 30000"):
            read()


def test_a_check_finds_such_a_frame_before_a_search(tmp_path: Path) -> None:
    root = write_directory(tmp_path / "data")
    path = sorted((root / "test").iterdir())[0]
    Image.new("RGB", (30_000, 32)).save(path)
    assert not any("the frame of" in problem.rule for problem in check_directory(root, fit="stretch"))
    assert sum("the frame of" in problem.rule for problem in check_directory(root, fit="pad")) == 1
