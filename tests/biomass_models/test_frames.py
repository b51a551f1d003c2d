"""What becomes of a photograph that is not 2 : 1: laws between the fits, and hand-made frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from biomass_models.data.frames import CORNERS, FITS, Fit, decoded_size, frame_size, hidden_share, placed
from biomass_models.data.images import DecodeOnce, header_size, load_views, upright_rgb, views_for
from biomass_models.data.stamps import find_date_stamp, paint_out_stamp

LAYOUTS = ("whole", "halves", "corners4", "tiles-2x4")
LEFT, RIGHT = Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_270  # quarter turns


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth, and of another colour at every place."""
    small = np.random.default_rng(seed).integers(0, 255, (6, 9, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def saved(path: Path, image: Image.Image) -> Path:
    image.save(path, **({"quality": 95, "subsampling": 0} if path.suffix == ".jpg" else {}))
    return path


def views_of(path: Path, fit: Fit, layout: str, size: int = 32) -> list[bytes]:
    return [pixels.tobytes() for pixels in load_views(path, views_for(layout, size), fit=fit)]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["1000x500.jpg", "1002x501.jpg", "250x125.jpg", "200x100.png"])
def test_a_photograph_of_2_to_1_has_the_same_bytes_under_every_fit(tmp_path: Path, name: str, layout: str) -> None:
    """Also where a JPEG's draft is rounded to another shape."""
    width, height = map(int, name.split(".")[0].split("x"))
    path = saved(tmp_path / name, picture(width, height))
    stretched = views_of(path, "stretch", layout)
    assert views_of(path, "crop", layout) == stretched == views_of(path, "pad", layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(160, 120), (100, 100), (300, 100), (202, 97)])
def test_a_crop_is_the_middle_cut_out_by_hand(tmp_path: Path, size: tuple[int, int], layout: str) -> None:
    image = picture(*size)
    width, height = (round(side) for side in frame_size(size, "crop"))
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    by_hand = saved(tmp_path / "cut.png", image.crop((left, top, left + width, top + height)))
    path = saved(tmp_path / "all.png", image)
    assert views_of(path, "crop", layout) == views_of(by_hand, "stretch", layout)


@pytest.mark.parametrize("layout", ["whole", "halves", "tiles-2x4"])
@pytest.mark.parametrize("size", [(160, 120), (100, 100), (300, 100)])
def test_padding_is_a_canvas_of_the_mean_colour(tmp_path: Path, size: tuple[int, int], layout: str) -> None:
    """And a padded picture is one of 2 : 1: nothing is left to crop."""
    image = picture(*size)
    width, height = (round(side) for side in frame_size(size, "pad"))
    mean = tuple(np.asarray(image, dtype=float).mean(axis=(0, 1)).round().astype(int).tolist())
    canvas = Image.new("RGB", (width, height), mean)
    canvas.paste(image, ((width - size[0]) // 2, (height - size[1]) // 2))
    by_hand, path = saved(tmp_path / "canvas.png", canvas), saved(tmp_path / "all.png", image)
    assert views_of(path, "pad", layout) == views_of(by_hand, "stretch", layout) == views_of(by_hand, "crop", layout)


@pytest.mark.parametrize("fit", ["crop", "pad"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_portrait_is_the_landscape_turned_to_the_left(tmp_path: Path, layout: str, fit: Fit) -> None:
    portrait = picture(120, 160)
    lying = saved(tmp_path / "lying.png", portrait.transpose(LEFT))
    assert views_of(saved(tmp_path / "p.png", portrait), fit, layout) == views_of(lying, fit, layout)


def test_halves_of_a_portrait_are_its_top_and_its_bottom(tmp_path: Path) -> None:
    portrait = picture(100, 200)
    halves = load_views(saved(tmp_path / "p.png", portrait), views_for("halves", 100), fit="crop")
    for half, box in zip(halves, [(0, 0, 100, 100), (0, 100, 100, 200)], strict=True):
        np.testing.assert_array_equal(Image.fromarray(half).transpose(RIGHT), np.asarray(portrait.crop(box)))


@pytest.mark.parametrize("fit", ["crop", "pad"])
@pytest.mark.parametrize("held", [1, 3, 6, 8])
def test_a_camera_that_was_held_another_way_gives_the_same_views(tmp_path: Path, held: int, fit: Fit) -> None:
    """The orientation of EXIF is undone before the frame is placed."""
    upright = picture(120, 160)
    how = {1: None, 3: Image.Transpose.ROTATE_180, 6: LEFT, 8: RIGHT}[held]
    exif = Image.Exif()
    exif[0x0112] = held
    (upright if how is None else upright.transpose(how)).save(tmp_path / "held.png", exif=exif)
    path = saved(tmp_path / "upright.png", upright)
    assert views_of(tmp_path / "held.png", fit, "halves") == views_of(path, fit, "halves")


@pytest.mark.parametrize("suffix", [".tif", ".png", ".webp", ".jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_of_a_header_is_that_of_the_upright_picture(tmp_path: Path, suffix: str, orientation: int) -> None:
    """Pillow has turned the size of a TIFF when it is opened, that of others it has not."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"held{suffix}"
    picture(120, 90).save(path, exif=exif)
    size = (90, 120) if orientation > 4 else (120, 90)
    assert header_size(path) == size == upright_rgb(Image.open(path), path).size


@pytest.mark.parametrize("size", [(2000, 1500), (1500, 2000), (4000, 3000), (3000, 1000)])
def test_native_views_are_of_the_photograph_also_where_it_is_padded(size: tuple[int, int]) -> None:
    """224 px of a long side of 2000, at the corners of what was photographed: never of the padding."""
    views = {view.name: view for view in placed(views_for("corners4", 224), size, "pad")}
    width, height = frame_size(size, "pad")
    left, top = (width - max(size)) / 2, (height - min(size)) / 2
    native = 224 * max(size) / 2000
    for name in CORNERS:
        box = np.array(views[name].box) * (width, height, width, height)
        np.testing.assert_allclose((box[2] - box[0], box[3] - box[1]), native)
        at = (left if "left" in name else left + max(size) - native, top if "top" in name else top + min(size) - native)
        np.testing.assert_allclose(box[:2], at)
    assert views["whole"].box == (0, 0, 1, 1)


@pytest.mark.slow
@pytest.mark.parametrize("fit", ["crop", "pad"])
@pytest.mark.parametrize("size", [(1600, 1200), (1200, 1600), (1800, 700)])
def test_a_draft_has_pixels_enough_for_the_frame(tmp_path: Path, size: tuple[int, int], fit: Fit) -> None:
    """Views of a JPEG's draft are those of all its pixels, but for rounding; and so are kept decodings."""
    image = picture(*size)
    path, whole = saved(tmp_path / "a.jpg", image), saved(tmp_path / "a.png", image)
    views, decoder = views_for("corners4", 96), DecodeOnce()
    for draft, every, kept in zip(
        load_views(path, views, fit=fit), load_views(whole, views, fit=fit), decoder(path, views, fit=fit), strict=True
    ):
        assert np.abs(draft.astype(int) - every.astype(int)).mean() < 1
        np.testing.assert_array_equal(draft, kept)
    assert decoder.decoded == 1


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", [(2000, 1000), (1000, 2000), (816, 612), (500, 500), (3000, 1000)])
def test_frames_are_as_small_or_as_large_as_they_must_be(size: tuple[int, int], fit: Fit) -> None:
    width, height = frame_size(size, fit)
    share = width * height / (size[0] * size[1])
    assert hidden_share(size, fit) == pytest.approx(max(0.0, 1 - share))
    if fit == "stretch":
        assert (width, height) == size
        return
    assert width == 2 * height and (share <= 1 if fit == "crop" else share >= 1)
    needed = decoded_size(size, fit, width, height)  # as many pixels as the file has, to lose none
    assert needed == pytest.approx(size)


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_a_stamp_is_painted_over_where_the_upright_photograph_has_it(tmp_path: Path, fit: Fit) -> None:
    """At its bottom right, before a portrait is turned and a frame is placed."""
    stamped = Image.new("RGB", (900, 1200), (70, 120, 50))
    ImageDraw.Draw(stamped).text((640, 1120), "15 9 4", fill=(255, 140, 20), font=ImageFont.load_default(50))
    painted = paint_out_stamp(np.asarray(stamped))
    assert (painted == (70, 120, 50)).all() and find_date_stamp(np.asarray(stamped)) is not None
    path, by_hand = saved(tmp_path / "stamped.png", stamped), saved(tmp_path / "painted.png", Image.fromarray(painted))
    views = views_for("halves", 300)
    for removed, expected in zip(
        load_views(path, views, stamp="remove", fit=fit), load_views(by_hand, views, fit=fit), strict=True
    ):
        np.testing.assert_array_equal(removed, expected)
