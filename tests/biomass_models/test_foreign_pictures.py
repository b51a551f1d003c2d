"""Pictures of other depths and modes, photographs that are there twice, files that are almost where they should be."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from deep_pictures import png_of_48_bits
from directories import change, one, write_directory
from PIL import Image

from biomass_models.data import images
from biomass_models.data.check import check_directory, check_test_directory
from biomass_models.data.frames import FITS, Fit
from biomass_models.data.images import ImageError, load_views, open_photograph, probe_image, upright_size, views_for
from biomass_models.data.photographs import look_at
from biomass_models.data.problems import errors_of

pytestmark = pytest.mark.slow

GRADIENT = np.linspace(0, 1, 200 * 100).reshape(100, 200)  # brightness, from black to white


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_directory(tmp_path / "data")


# -- depths -----------------------------------------------------------------------------------------------------------


def grey_16_bit_png(path: Path) -> None:
    Image.fromarray((GRADIENT * 65535).astype(np.uint16)).save(path, "PNG")


def grey_16_bit_tiff(path: Path) -> None:
    Image.fromarray((GRADIENT * 65535).astype(np.uint16)).save(path, "TIFF")


def grey_32_bit_tiff(path: Path) -> None:
    Image.fromarray((GRADIENT * 65535).astype(np.int32)).save(path, "TIFF")


def colour_16_bit_png(path: Path) -> None:
    png_of_48_bits(path, np.repeat((GRADIENT * 65535).astype(np.uint16)[..., None], 3, axis=2))


@pytest.mark.parametrize("write", [grey_16_bit_png, grey_16_bit_tiff, grey_32_bit_tiff, colour_16_bit_png])
def test_channels_of_16_bits_are_scaled_by_their_range(tmp_path: Path, write: Callable[[Path], None]) -> None:
    write(tmp_path / "deep")
    (pixels,) = load_views(tmp_path / "deep", views_for("whole", 64))
    Image.fromarray(np.floor(GRADIENT * 255.999).astype(np.uint8)).save(tmp_path / "plain.png")
    (expected,) = load_views(tmp_path / "plain.png", views_for("whole", 64))
    assert np.abs(pixels.astype(int) - expected).max() <= 1
    assert pixels.min() < 10 and pixels.max() > 245


def float_tiff(path: Path) -> None:
    Image.fromarray(GRADIENT.astype(np.float32)).save(path, "TIFF")


def too_deep_tiff(path: Path) -> None:
    Image.fromarray((GRADIENT * 1e6).astype(np.int32)).save(path, "TIFF")


def negative_tiff(path: Path) -> None:
    Image.fromarray((GRADIENT * 100 - 50).astype(np.int32)).save(path, "TIFF")


def lab_tiff(path: Path) -> None:
    Image.fromarray(np.full((100, 200, 3), 90, dtype=np.uint8), "LAB").save(path, "TIFF")


@pytest.mark.parametrize("write", [float_tiff, too_deep_tiff, negative_tiff, lab_tiff])
def test_what_has_no_8_bit_form_is_refused(root: Path, write: Callable[[Path], None]) -> None:
    write(root / "train/ID12.jpg")
    with pytest.raises(ImageError, match="8 or 16 bits a channel"):
        load_views(root / "train/ID12.jpg", views_for("whole", 64))
    problem = one(errors_of(check_directory(root)))
    assert problem.row == 7 and "export it as 8-bit" in problem.remedy and "ID12.jpg" in problem.got


# -- formats ----------------------------------------------------------------------------------------------------------

FORMATS = {"png": {}, "tif": {}, "tiff": {"compression": "tiff_lzw"}, "webp": {"quality": 95}, "bmp": {}, "jpg": {},
           "heic": {"quality": 95}, "heif": {"quality": 95}}  # fmt: skip


def saved(path: Path) -> Path:
    """A smooth picture of 200 x 150 px in the format of the suffix."""
    pillow_heif.register_heif_opener()
    small = np.random.default_rng(0).integers(0, 255, (3, 4, 3), dtype=np.uint8)
    smooth = Image.fromarray(small).resize((200, 150), Image.Resampling.BICUBIC)
    smooth.save(path, **FORMATS[path.suffix[1:]])
    return path


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("fit", FITS)
def test_formats_of_cameras_show_the_same(tmp_path: Path, suffix: str, fit: Fit) -> None:
    paths = saved(tmp_path / f"a.{suffix}"), saved(tmp_path / "plain.png")
    for views in zip(*(load_views(path, views_for("halves", 48), fit=fit) for path in paths), strict=True):
        one_view, other = (view.astype(int) for view in views)
        assert np.abs(one_view - other).mean() < 4


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
def test_a_file_that_ends_too_early_is_found_in_every_format(tmp_path: Path, suffix: str, share: float) -> None:
    path = saved(tmp_path / f"a.{suffix}")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    for fit in FITS:
        with pytest.raises(ImageError, match=f"a.{suffix}"):
            load_views(path, views_for("whole", 32), fit=fit)
    for read in (probe_image, look_at):
        with pytest.raises(ImageError, match=f"a.{suffix}"):
            read(path)


# -- modes that lose something ----------------------------------------------------------------------------------------


def rainbow() -> np.ndarray:
    return np.stack([GRADIENT, GRADIENT[::-1], GRADIENT[:, ::-1]], axis=2) * 255


def see_through(path: Path) -> None:
    alpha = np.where(GRADIENT > 0.5, 255, 0)[..., None]
    Image.fromarray(np.concatenate([rainbow(), alpha], axis=2).astype(np.uint8)).save(path, "PNG")


def palette_with_a_hole(path: Path) -> None:
    Image.fromarray(rainbow().astype(np.uint8)).quantize(16).save(path, "PNG", transparency=3)


def inks(path: Path) -> None:
    Image.fromarray(rainbow().astype(np.uint8)).convert("CMYK").save(path, "JPEG")


def black_and_white(path: Path) -> None:
    Image.fromarray(GRADIENT > 0.5).save(path, "PNG")


def grey(path: Path) -> None:
    Image.fromarray((GRADIENT * 255).astype(np.uint8)).save(path, "JPEG")


def two_pages(path: Path) -> None:
    pages = [Image.fromarray(rainbow().astype(np.uint8)), Image.fromarray(rainbow()[::-1].astype(np.uint8))]
    pages[0].save(path, "TIFF", save_all=True, append_images=pages[1:])


def white(path: Path) -> None:
    Image.new("RGB", (200, 100), (255, 255, 255)).save(path, "PNG")


def twelve_bits_in_sixteen(path: Path) -> None:
    png_of_48_bits(path, (rainbow() / 255 * 1023).astype(np.uint16))


@pytest.mark.parametrize(
    "write, got",
    [
        (see_through, "transparent parts"),
        (palette_with_a_hole, "transparent parts"),
        (inks, "in CMYK"),
        (black_and_white, "in grey"),
        (grey, "in grey"),
        (two_pages, "with 2 pictures"),
        (white, "between 255 and 255"),
        (twelve_bits_in_sixteen, "between 0 and 3"),
    ],
)
def test_what_a_cast_loses_is_a_warning(root: Path, write: Callable[[Path], None], got: str) -> None:
    write(root / "train/ID12.jpg")
    problem = one(check_directory(root))
    assert problem.level == "warning" and problem.row == 7 and problem.remedy
    assert got in problem.got and "ID12.jpg" in problem.got


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_sound_pictures_of_other_modes_pass_and_keep_their_pixels(root: Path, mode: str) -> None:
    few = Image.open(root / "train/ID12.jpg").convert("RGB").quantize(64)
    few.convert("RGB").save(root / "plain.png")
    (few if mode == "P" else few.convert("RGB").convert(mode)).save(root / "train/ID12.jpg", "PNG")
    assert check_directory(root) == []
    (expected,), (pixels,) = (
        load_views(path, views_for("whole", 64)) for path in (root / "plain.png", root / "train/ID12.jpg")
    )
    np.testing.assert_array_equal(pixels, expected)


# -- photographs that are there twice ---------------------------------------------------------------------------------


def copied(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)


def changed(how: Image.Transpose, quality: int = 90) -> Callable[[Path, Path], None]:
    def write(source: Path, target: Path) -> None:
        Image.open(source).transpose(how).save(target, "JPEG", quality=quality)

    return write


def smaller(source: Path, target: Path) -> None:
    Image.open(source).resize((140, 70)).save(target, "JPEG", quality=80)


def as_png(source: Path, target: Path) -> None:
    Image.open(source).save(target, "PNG")


@pytest.mark.parametrize(
    "write, how",
    [
        (copied, "again"),
        (as_png, "in another encoding"),
        (smaller, "in another encoding"),
        (changed(Image.Transpose.FLIP_LEFT_RIGHT), "mirrored"),
        (changed(Image.Transpose.FLIP_TOP_BOTTOM), "mirrored upside down"),
        (changed(Image.Transpose.ROTATE_180), "turned by 180 degrees"),
        (changed(Image.Transpose.ROTATE_90), "turned by"),
        (changed(Image.Transpose.TRANSPOSE), "mirrored and turned"),
    ],
)
@pytest.mark.parametrize("table", ["train", "test"])
def test_a_photograph_that_is_there_twice(
    root: Path, table: str, write: Callable[[Path, Path], None], how: str
) -> None:
    name = {"train": "train/ID13.jpg", "test": "test/ID91.jpg"}[table]
    write(root / "train/ID11.jpg", root / name)
    problems = [problem for problem in check_directory(root) if "photographs have one" not in problem.rule]
    problem = one(problems)
    assert problem.level == "warning" and problem.file == f"{table}.csv"
    assert f"'{name}', which is 'train/ID11.jpg' {how}" in problem.got
    assert ("a training photograph" in problem.rule) == (table == "test")


def test_empty_pictures_are_not_called_the_same(root: Path) -> None:
    for name in ("train/ID11", "train/ID12"):
        Image.new("RGB", (200, 100), (30, 90, 30)).save(root / f"{name}.jpg")
    assert all("shows something" in problem.rule for problem in check_directory(root))


def test_test_photographs_are_checked_without_a_train_table(root: Path) -> None:
    (root / "train.csv").unlink()
    shutil.copyfile(root / "test/ID92.jpg", root / "test/ID91.jpg")
    Image.open(root / "test/ID92.jpg").resize((90, 90)).save(root / "test/ID92.jpg")
    problems = check_test_directory(root, fit="stretch")
    assert [(problem.file, problem.row, problem.level) for problem in problems] == [
        ("test.csv", 7, "warning"),  # of another shape than the first
        ("test.csv", 7, "warning"),  # the same
    ]
    assert "1 of 2 photographs, the first 'test/ID91.jpg' with 200 x 100" in problems[0].got
    assert "'test/ID91.jpg', which is 'test/ID92.jpg' in another encoding" in problems[1].got


# -- near misses of paths ---------------------------------------------------------------------------------------------


def upper_case(root: Path) -> None:
    for path in (root / "train").iterdir():
        path.rename(path.with_suffix(".JPG"))


def other_suffix(root: Path) -> None:
    for path in (root / "train").iterdir():
        path.rename(path.with_suffix(".jpeg"))


def no_folder(root: Path) -> None:
    for path in (root / "train").iterdir():
        path.rename(root / path.name)
    (root / "train").rmdir()


def one_folder_too_deep(root: Path) -> None:
    (root / "train").rename(root / "unpacked")
    (root / "train").mkdir()
    (root / "unpacked").rename(root / "train" / "train")


def path_without_folder(root: Path) -> None:
    for row, name in enumerate(("ID11", "ID12", "ID13")):
        for line in range(2 + 5 * row, 7 + 5 * row):
            change(root, line, "image_path", f"{name}.jpg")


def not_unpacked(root: Path) -> None:
    shutil.rmtree(root / "train")


@pytest.mark.parametrize(
    "spoil, got",
    [
        (upper_case, "'train/ID11.jpg', the folder has 'ID11.JPG', first in line 2"),
        (other_suffix, "'train/ID11.jpg', the folder has 'ID11.jpeg'"),
        (no_folder, "'train/ID11.jpg', the file is 'ID11.jpg'"),
        (one_folder_too_deep, "'train/ID11.jpg', the file is 'train/train/ID11.jpg'"),
        (path_without_folder, "'ID11.jpg', the file is 'train/ID11.jpg'"),
        (not_unpacked, "no folder 'train' for 'train/ID11.jpg'"),
    ],
)
def test_the_near_file_is_named_once_for_all_rows(root: Path, spoil: Callable[[Path], None], got: str) -> None:
    spoil(root)
    problem = one(check_directory(root))
    assert problem.level == "error" and problem.rule.startswith("3 rows: ") and got in problem.got


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_heic_photograph_is_read_upright(tmp_path: Path, orientation: int) -> None:
    """The same picture with the same EXIF orientation as PNG."""
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 255, (4, 8, 3), dtype=np.uint8)).resize(
        (256, 128), Image.Resampling.BICUBIC
    )
    exif = Image.Exif()
    exif[0x0112] = orientation
    smooth.save(tmp_path / "a.png", exif=exif)
    pillow_heif.register_heif_opener()
    smooth.save(tmp_path / "a.heic", quality=95, exif=exif.tobytes())
    assert (tmp_path / "a.heic").read_bytes()[4:12] == b"ftypheic"
    views = views_for("halves", 64)
    for view, same in zip(load_views(tmp_path / "a.heic", views), load_views(tmp_path / "a.png", views), strict=True):
        assert np.abs(view.astype(int) - same.astype(int)).mean() < 4
    with open_photograph(tmp_path / "a.heic") as image, open_photograph(tmp_path / "a.png") as png:
        sizes = {upright_size(image, tmp_path), upright_size(png, tmp_path)}
        assert sizes == {(128, 256) if orientation in (5, 6, 7, 8) else (256, 128)}


def test_a_heic_photograph_without_pillow_heif_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pillow_heif.from_pillow(Image.new("RGB", (64, 64))).save(tmp_path / "a.HEIC")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    images._formats.cache_clear()
    try:
        with pytest.raises(ImageError, match="pip install pillow-heif"):
            open_photograph(tmp_path / "a.HEIC")
    finally:
        monkeypatch.undo()
        images._formats.cache_clear()
    open_photograph(tmp_path / "a.HEIC").close()
