"""Views and decoding, against a full decode and plain resize; broken files; date stamps."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from biomass_models.data.images import (
    ImageError,
    View,
    file_digest,
    find_date_stamp,
    load_views,
    paint_out_stamp,
    probe_image,
    views_for,
)
from biomass_models.pasture.draw import Quadrat, draw_quadrat


def _textured(width: int, height: int, seed: int = 0) -> Image.Image:
    """Noise at several scales: fine detail, as a sward has, that a careless resize turns into aliasing."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for cell in (2, 6, 40):
        noise = rng.integers(0, 255, (height // cell + 1, width // cell + 1, 3), dtype=np.uint8)
        total += np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))
    return Image.fromarray((total / 3).astype(np.uint8))


@pytest.fixture(scope="module")
def photograph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "photograph.jpg"
    _textured(2000, 1000).save(path, quality=92)
    return path


def _reference(path: Path, view: View) -> np.ndarray:
    """The whole picture decoded, then one antialiased resize."""
    image = Image.open(path).convert("RGB")
    left, top, right, bottom = view.box
    box = (left * image.width, top * image.height, right * image.width, bottom * image.height)
    return np.asarray(image.resize((view.width, view.height), Image.Resampling.BICUBIC, box=box)).astype(int)


@pytest.mark.parametrize(
    ("layout", "size"), [("whole", 64), ("whole", 224), ("halves", 224), ("corners4", 96), ("tiles-2x4", 56)]
)
def test_views_equal_a_full_decode(photograph: Path, layout: str, size: int) -> None:
    views = views_for(layout, size)
    for view, pixels in zip(views, load_views(photograph, views), strict=True):
        assert pixels.shape == (size, size, 3) and pixels.dtype == np.uint8
        error = np.abs(_reference(photograph, view) - pixels)
        assert error.mean() < 1.5 and np.quantile(error, 0.99) < 6, view.name  # grey levels of 255


def test_resize_is_antialiased(tmp_path: Path) -> None:
    stripes = np.zeros((512, 1024, 3), dtype=np.uint8)
    stripes[:, ::2] = 200  # finer than the view can show: its mean is all that may be left
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    (pixels,) = load_views(tmp_path / "stripes.png", views_for("whole", 96))
    assert np.abs(pixels.astype(int) - 100).max() <= 3


def test_draft_never_goes_below_the_view(tmp_path: Path) -> None:
    path = tmp_path / "checked.jpg"
    squares = np.kron(np.indices((25, 50)).sum(0) % 2, np.ones((40, 40)))[..., None] * [255, 255, 255]
    Image.fromarray(squares.astype(np.uint8)).save(path, quality=95)
    view = View(name="corner", box=(0, 0, 0.04, 0.08), height=80, width=80)  # one pixel a pixel
    (pixels,) = load_views(path, [view])
    assert pixels[5:35, 5:35].min() < 12 and pixels[5:35, 45:75].min() > 243  # sharp squares, not a blur
    assert np.abs(_reference(path, view) - pixels).max() <= 1


def test_layouts_lie_where_their_names_say() -> None:
    assert [view.name for view in views_for("halves", 8)] == ["left", "right"]
    corners = {view.name: view.box for view in views_for("corners4", 8)}
    assert corners["whole"] == (0, 0, 1, 1)
    assert corners["top-right"] == pytest.approx((0.888, 0, 1, 0.224))
    assert corners["bottom-left"] == pytest.approx((0, 0.776, 0.112, 1))
    assert views_for("corners4", 8, crop=(0.5, 0.5))[1].box == (0, 0, 0.5, 0.5)
    tiles = views_for("tiles-2x3", 8)
    assert [view.name for view in tiles][:4] == ["tile-r0-c0", "tile-r0-c1", "tile-r0-c2", "tile-r1-c0"]
    assert sum((v.box[2] - v.box[0]) * (v.box[3] - v.box[1]) for v in tiles) == pytest.approx(1)


def test_views_show_their_part(tmp_path: Path) -> None:
    colours = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [250, 250, 250]]], dtype=np.uint8)
    Image.fromarray(colours.repeat(100, 0).repeat(200, 1)).save(tmp_path / "four.png")
    tiles = load_views(tmp_path / "four.png", views_for("tiles-2x2", 16))
    for pixels, colour in zip(tiles, colours.reshape(4, 3), strict=True):
        inner = pixels[3:-3, 3:-3]  # the filter reaches over the edge by two of the view's pixels
        np.testing.assert_array_equal(inner, np.broadcast_to(colour, inner.shape))


@pytest.mark.parametrize("layout", ["quarters", "tiles-0x2", "tiles-2", "tiles-2x2x2", ""])
def test_unknown_layouts(layout: str) -> None:
    with pytest.raises(ValueError, match="tiles-RxC"):
        views_for(layout, 8)


def test_views_check_themselves(photograph: Path) -> None:
    for box in ((0, 0, 0, 1), (0, 0, 1.2, 1), (0.5, 0, 0.2, 1), (0, -0.1, 1, 1)):
        with pytest.raises(ValueError, match="box"):
            View(name="x", box=box, height=8, width=8)
    with pytest.raises(ValueError, match="1 x 1"):
        views_for("whole", 0)
    with pytest.raises(ValueError, match="at least one view"):
        load_views(photograph, [])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(tmp_path: Path, orientation: int) -> None:
    upright = _textured(320, 160)
    stored_by = {  # how a camera that was held so stores the upright picture
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    how = stored_by[orientation]
    stored = upright if how is None else upright.transpose(how)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.jpg"
    stored.save(path, quality=97, subsampling=0, exif=exif)
    assert probe_image(path) == (320, 160)
    upright.save(tmp_path / "upright.png")
    view = View(name="left", box=(0, 0, 0.5, 1), height=80, width=80)
    (got,), (expected,) = load_views(path, [view]), load_views(tmp_path / "upright.png", [view])
    assert np.abs(got.astype(int) - expected).mean() < 3


def test_a_turned_photograph_is_drafted_as_large_as_an_upright_one(photograph: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.jpg"
    Image.open(photograph).transpose(Image.Transpose.ROTATE_90).save(path, quality=97, subsampling=0, exif=exif)
    view = View(name="tall", box=(0, 0, 1, 1), height=480, width=60)  # the height of 1000 px must not be halved
    (pixels,) = load_views(path, [view])
    assert np.abs(_reference(photograph, view) - pixels).mean() < 0.3  # 0.17; 0.48 from a draft of half the height


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("picture.jpg" if mode == "CMYK" else "picture.png")
    _textured(128, 64).convert(mode).save(path)
    (pixels,) = load_views(path, views_for("whole", 32))
    assert pixels.shape == (32, 32, 3)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
def test_a_truncated_photograph_is_found(photograph: Path, tmp_path: Path, kept: float, progressive: bool) -> None:
    whole = tmp_path / "whole.jpg"
    Image.open(photograph).save(whole, quality=92, progressive=progressive)
    assert probe_image(whole) == (2000, 1000)
    content = whole.read_bytes()
    path = tmp_path / "cut.jpg"
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ImageError, match="whole"):
        probe_image(path)
    with pytest.raises(ImageError, match="whole"):
        load_views(path, views_for("whole", 32))


def test_files_that_are_no_photographs(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("not a picture")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "script.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    (tmp_path / "folder.jpg").mkdir()
    names = ["text.jpg", "empty.jpg", "script.jpg", "folder.jpg", "nothing.jpg"]
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.jpg")  # must not wait for a writer
        names.append("pipe.jpg")
    for name in names:
        with pytest.raises(ImageError, match=name):
            probe_image(tmp_path / name)


def test_digest_is_of_the_content(tmp_path: Path) -> None:
    for name, content in (("a", b"same"), ("b", b"same"), ("c", b"other")):
        (tmp_path / name).write_bytes(content)
    assert file_digest(tmp_path / "a") == file_digest(tmp_path / "b") != file_digest(tmp_path / "c")
    assert len(file_digest(tmp_path / "a")) == 32


def _sward(stamped: bool, index: int) -> np.ndarray:
    kinds = [
        ("NSW", "Lucerne", 40.0, (50.0, 5.0, 0.0)),
        ("Tas", "Ryegrass_Clover", 4.0, (15.0, 25.0, 5.0)),
        ("WA", "Clover", 2.0, (4.0, 0.0, 30.0)),
        ("WA", "SubcloverLosa", 1.0, (0.0, 0.0, 5.0)),
        ("NSW", "Fescue", 12.0, (60.0, 60.0, 0.0)),
    ]
    state, species, height, (green, dead, clover) = kinds[index % len(kinds)]
    quadrat = Quadrat(
        state=state,
        species=species,
        date=f"2015/9/{index + 1}",
        height_cm=height,
        green_g=green,
        dead_g=dead,
        clover_g=clover,
    )
    return np.asarray(draw_quadrat(quadrat, seed=5, index=index, width=1000, height=500, stamped=stamped))


@pytest.mark.slow
@pytest.mark.parametrize("index", range(5))
def test_a_drawn_stamp_is_found_and_painted_over(index: int) -> None:
    stamped, plain = _sward(True, index), _sward(False, index)
    rows, columns = np.nonzero((stamped != plain).any(-1))
    box = find_date_stamp(stamped)
    assert box is not None
    left, top, right, bottom = box
    assert abs(right - columns.max()) < 25 and abs(top - rows.min()) < 8 and abs(bottom - rows.max()) < 8
    painted = paint_out_stamp(stamped)
    assert find_date_stamp(painted) is None
    there = (slice(top, bottom), slice(left, right))
    before = np.abs(stamped[there].astype(int) - plain[there]).mean()
    colour_gap = np.abs(painted[there].mean((0, 1)) - plain[there].mean((0, 1))).max()
    assert before > 10 and colour_gap < 25  # the sward's colour is back
    outside = painted.copy()
    outside[400:, 550:] = stamped[400:, 550:]
    np.testing.assert_array_equal(outside, stamped)


@pytest.mark.slow
@pytest.mark.parametrize("index", range(5))
def test_without_a_stamp_nothing_changes(index: int) -> None:
    plain = _sward(False, index)
    assert find_date_stamp(plain) is None
    np.testing.assert_array_equal(paint_out_stamp(plain), plain)


def test_orange_things_that_are_no_date() -> None:
    ground = np.asarray(_textured(1000, 500).point(lambda level: level // 2))
    orange = (255, 140, 30)
    leaf, line, straw, middle = (Image.fromarray(ground.copy()) for _ in range(4))
    ImageDraw.Draw(leaf).ellipse((800, 420, 860, 450), fill=orange)
    ImageDraw.Draw(line).rectangle((600, 460, 990, 465), fill=orange)
    ImageDraw.Draw(straw).line((800, 450, 900, 472), fill=orange, width=4)  # as large as a date, in one piece
    ImageDraw.Draw(middle).text((300, 200), "04/09/2015", fill=orange, font=ImageFont.load_default(size=25))
    for picture in (leaf, line, straw, middle):
        pixels = np.asarray(picture)
        assert find_date_stamp(pixels) is None
        np.testing.assert_array_equal(paint_out_stamp(pixels), pixels)


def test_degenerate_pictures_have_no_stamp() -> None:
    for shape in ((1, 1), (3, 2), (64, 64)):
        for level in (0, 255):
            assert find_date_stamp(np.full((*shape, 3), level, dtype=np.uint8)) is None
    assert find_date_stamp(np.broadcast_to(np.array([255, 140, 30], dtype=np.uint8), (200, 400, 3))) is None


@pytest.mark.slow
@pytest.mark.parametrize("index", range(4))
def test_load_views_can_remove_the_stamp(tmp_path: Path, index: int) -> None:
    path = tmp_path / "stamped.jpg"
    Image.fromarray(_sward(True, index)).resize((2000, 1000)).save(path, quality=90)
    plain = tmp_path / "plain.jpg"
    Image.fromarray(_sward(False, index)).resize((2000, 1000)).save(plain, quality=90)
    views = views_for("whole", 32)  # a draft of 250 px would do for the view, but not for finding the date
    (kept,), (removed,) = load_views(path, views), load_views(path, views, stamp="remove")
    (expected,) = load_views(plain, views)
    corner = (slice(28, 31), slice(24, 32))

    def orange(pixels: np.ndarray) -> float:  # mean excess of red over blue
        return float((pixels[corner][..., 0].astype(float) - pixels[corner][..., 2]).mean())

    assert orange(kept) - orange(expected) > 10
    assert abs(orange(removed) - orange(expected)) < 0.3 * (orange(kept) - orange(expected))
    (untouched,) = load_views(plain, views, stamp="remove")
    assert np.abs(untouched.astype(int) - expected).mean() < 1.5
