"""Photographs as cameras make them, from search to bundle and report: portraits, HEIC, other shapes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pillow_heif
import pytest
from blended_study import InlinePredictor
from deep_pictures import png_of_48_bits, tiff_of_48_bits
from PIL import Image
from released import copy_of
from tiny_study import RANDOM

from biomass_models.data.check import check_directory
from biomass_models.data.images import upright_rgb
from biomass_models.data.table import read_test, read_train
from biomass_models.pasture.make import make_pasture
from biomass_models.targets import TARGETS
from orchestration.blending.blend import BlendOptions, run_ensemble
from orchestration.blending.members import FileMembers
from orchestration.bundle.export import export_bundle
from orchestration.bundle.predict import predict_bundle
from orchestration.inspect.explain import PANEL, draw_explanation, explain
from orchestration.report.make import make_report
from orchestration.search.presets.options import Preset
from orchestration.search.start import start_search
from orchestration.study.data_changes import data_notices
from orchestration.study.ledger import Ledger
from orchestration.study.records import Asked, TrialRef
from orchestration.study.settings import StudyError
from orchestration.study.storage import Storage
from orchestration.workers.resources import Resources

pytestmark = pytest.mark.slow

TINY = Preset().with_fields(families=("probe",), backbones=("test_vit",), weights="random", scale="smoke", folds=3)


def as_portraits(data: Path) -> None:
    """Each photograph as a portrait in HEIC; how the camera was held differs."""
    pillow_heif.register_heif_opener()
    held = {1: None, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}  # how the upright picture is stored
    for number, path in enumerate(sorted(data.rglob("*.jpg"))):
        upright = Image.open(path).transpose(Image.Transpose.ROTATE_270)
        orientation, how = list(held.items())[number % 3]
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = upright if how is None else upright.transpose(how)
        stored.save(path.with_suffix(".heic"), quality=90, exif=exif.tobytes())
        path.unlink()
    renamed(data, ".jpg", ".heic")


def renamed(data: Path, old: str, new: str) -> None:
    for name in ("quadrats.csv", "test.csv"):
        (data / name).write_text((data / name).read_text().replace(old, new))


def search(folder: Path, data: Path, trials: int, **typed: object) -> list[str]:
    """What a search says."""
    said: list[str] = []
    resources = Resources(inline=True, cache=folder.parent / "cache")
    start_search(
        str(folder), data, TINY.with_fields(trials=trials, **typed), weights=RANDOM, resources=resources,
        say=said.append, made_with=Asked(overrides=typed),
    )  # fmt: skip
    return said


def with_skill(ledger: Ledger) -> None:
    """Random weights have none, and a blend leaves such members out: half of the truth is mixed into pooled rows."""
    truth_NT = ledger.quadrats()[list(TARGETS)].to_numpy()
    for trial_id, result in ledger.results().items():
        oof = ledger.oof(trial_id)
        oof[list(TARGETS)] = (oof[list(TARGETS)].to_numpy() + truth_NT) / 2
        ledger.write_result(trial_id, result, oof)


@pytest.fixture(scope="module")
def phone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pasture of portraits of 120 x 160 px in HEIC."""
    folder = tmp_path_factory.mktemp("phone") / "data"
    make_pasture(folder, form="quadrats", images=24, test_images=6, width=160, height=120, workers=1)
    as_portraits(folder)
    return folder


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, phone: Path) -> tuple[Ledger, Path, list[str]]:
    """A study of the portraits, a bundle of its blend, and what the search said."""
    folder = tmp_path_factory.mktemp("portraits")
    families = ("probe", "baseline", "distilled")
    said = search(folder / "study", phone, 3, families=families)
    ledger = Ledger(Storage(folder / "study"))
    with_skill(ledger)
    run_ensemble(
        [ledger.storage.uri],
        FileMembers(),
        data_dir=phone,
        out=folder / "submission.csv",
        options=BlendOptions(rule="top-5"),
        seed=0,
        open_predictor=lambda data: InlinePredictor(data, folder / "cache"),
        say=said.append,
        show=lambda *_: None,
    )
    export_bundle(ledger.storage.uri, "submission", folder / "bundle", weights=RANDOM)
    return ledger, folder, said


def predicted(folder: Path, data: Path, out: Path, say: Callable[[str], None] = lambda text: None) -> pd.Series:
    predict_bundle(folder / "bundle", data, out, weights=folder / "weights", say=say)
    return pd.read_csv(out)["target"]


@pytest.mark.long
def test_portraits_in_heic_go_the_whole_road(searched: tuple[Ledger, Path, list[str]], phone: Path) -> None:
    """Search, blend, report, export and predict; the fit of quadrats.csv is stored and is that of every page."""
    ledger, folder, said = searched
    assert check_directory(phone) == []
    assert len(ledger.results()) == 3 and {one.status for one in ledger.results().values()} == {"complete"}
    assert ledger.study().settings.fit == "crop" and ledger.study().photograph_size == (120, 160)
    (note,) = [text for text in said if "fit = crop" in text]
    assert note.startswith("note: fit = crop cuts 33% off photographs of 120 x 160 px")
    assert not any("another shape" in text for text in said)
    members = json.loads((folder / "bundle" / "bundle.json").read_text())["members"]
    assert {member["fit"] for member in members} == {"crop"} and len(members) == 3
    mine, theirs = predicted(folder, phone, folder / "mine.csv"), pd.read_csv(folder / "submission.csv")["target"]
    assert (mine - theirs).abs().max() <= 1e-5
    html = make_report(ledger, phone)
    assert "fit of photographs that are not 2 : 1" in html and "data:image/jpeg" in html


def test_a_bundle_sees_a_portrait_as_the_landscape_that_it_is_turned(
    searched: tuple[Ledger, Path, list[str]], phone: Path, tmp_path: Path
) -> None:
    _, folder, _ = searched
    lying = Path(shutil.copytree(phone, tmp_path / "lying"))
    for path in sorted((lying / "test").iterdir()):
        upright = Image.open(path).convert("RGB")  # HEIC is upright as it is opened
        assert upright.size == (120, 160)
        upright.transpose(Image.Transpose.ROTATE_90).save(path.with_suffix(".png"))
    renamed(lying, ".heic", ".png")
    said: list[str] = []
    one, other = predicted(folder, phone, tmp_path / "a.csv"), predicted(folder, lying, tmp_path / "b.csv", said.append)
    pd.testing.assert_series_equal(one, other, check_exact=True)
    assert not any("shape" in text for text in said)


def test_test_photographs_of_another_shape_are_counted_by_bundle_and_check(
    searched: tuple[Ledger, Path, list[str]], phone: Path, tmp_path: Path
) -> None:
    _, folder, _ = searched
    mixed = Path(shutil.copytree(phone, tmp_path / "mixed"))
    squares = sorted((mixed / "test").iterdir())[:2]
    for path in squares:
        Image.open(path).convert("RGB").crop((0, 0, 120, 120)).save(path, quality=90)
    said: list[str] = []
    predicted(folder, mixed, tmp_path / "out.csv", said.append)
    text = f"2 of 6 photographs have another shape than the 120 x 160 px trained on, such as {squares[0].name}"
    assert any(one.startswith(f"warning: {text} with 120 x 120: another share of them is cut off") for one in said)
    (problem,) = check_directory(mixed)
    assert problem.file == "test.csv" and "2 of 6 photographs, the first" in problem.got
    assert "one shape (most: 120 x 160 px)" in problem.rule


def test_a_blend_and_an_explanation_warn_of_another_shape_too(
    searched: tuple[Ledger, Path, list[str]], phone: Path, tmp_path: Path
) -> None:
    """Also for studies of released versions, which did not note the size of their photographs."""
    ledger, folder, _ = searched
    odd = Path(shutil.copytree(phone, tmp_path / "odd"))
    square = sorted((odd / "test").iterdir())[0]
    Image.open(square).convert("RGB").crop((0, 0, 120, 120)).save(square, quality=90)
    (notice,) = data_notices(ledger, odd)
    said: list[str] = []
    run_ensemble(
        [ledger.storage.uri], FileMembers(), data_dir=odd, out=tmp_path / "odd.csv", options=BlendOptions(rule="top-5"),
        seed=0, open_predictor=lambda data: InlinePredictor(data, folder / "cache"), say=said.append,
        show=lambda *_: None,
    )  # fmt: skip
    assert notice.startswith("1 of 6 photographs have another shape than the 120 x 160 px") and square.name in notice
    assert f"warning: {notice}" in said
    (trial,) = [record.trial_id for record in ledger.trials() if record.family == "probe"]
    for path, warned in ((square, True), (sorted((odd / "test").iterdir())[1], False)):
        image_id = str(read_test(odd).set_index("image_path")["image_id"][f"test/{path.name}"])
        found = explain(ledger, trial, image_id, odd, cache_dir=folder / "cache", weights=RANDOM)
        assert (found.warning is not None) == warned
    record = ledger.study()
    ledger.update_study(replace(record, photograph_size=None))
    try:
        assert all("another shape than the 2000 x 1000 px" in text for text in data_notices(ledger, odd))
    finally:
        ledger.update_study(record)


def in_other_forms(data: Path) -> None:
    """Each picture as another camera or program writes it, without loss but for JPEG and HEIC: those are read first."""
    names = {}
    for number, path in enumerate(sorted(data.rglob("*.jpg"))):
        pixels, kind = np.asarray(Image.open(path).convert("RGB")), number % 6
        turned, deep = np.rot90(pixels), pixels.astype(np.uint16) * 257
        if kind == 0:
            png_of_48_bits(path.with_suffix(".png"), deep)
        elif kind == 1:
            tiff_of_48_bits(path.with_suffix(".tif"), np.rot90(deep), orientation=6)
        elif kind == 2:
            Image.fromarray(pixels).save(path.with_suffix(".webp"), lossless=True)
        elif kind == 3:
            Image.fromarray(pixels).save(path.with_suffix(".heic"), quality=90)
        elif kind == 4:
            exif = Image.Exif()
            exif[0x0112] = 6
            Image.fromarray(turned).save(path.with_suffix(".jpeg"), quality=95, exif=exif)
        else:
            Image.fromarray(pixels).save(path.with_suffix(".tiff"), compression="tiff_lzw")
        names[path.name] = next(one.name for one in path.parent.glob(f"{path.stem}.*") if one != path)
        path.unlink()
    for table in ("quadrats.csv", "test.csv"):
        text = (data / table).read_text()
        for old, new in names.items():
            text = text.replace(old, new)
        (data / table).write_text(text)


def as_pngs(data: Path) -> None:
    """Each photograph upright with 8 bits a channel."""
    suffixes = {path.suffix for path in data.rglob("*/*.*")}
    for path in sorted(data.rglob("*/*.*")):
        pixels = upright_rgb(Image.open(path), path)
        path.unlink()
        pixels.save(path.with_suffix(".png"))
    for suffix in sorted(suffixes, key=len, reverse=True):  # .tiff before .tif
        renamed(data, suffix, ".png")


def test_whatever_a_camera_writes_is_searched_and_predicted_as_the_picture_that_it_shows(tmp_path: Path) -> None:
    """16-bit PNG, 16-bit TIFF lying on its side, WebP, HEIC, JPEG of a camera that was turned, LZW TIFF."""
    mixed = tmp_path / "mixed"
    make_pasture(mixed, form="quadrats", images=24, test_images=6, width=120, height=160, workers=1)
    in_other_forms(mixed)
    plain = Path(shutil.copytree(mixed, tmp_path / "plain"))
    as_pngs(plain)
    assert len({path.suffix for path in mixed.rglob("test/*.*")}) == 6 and check_directory(mixed) == []
    assert check_directory(plain) == []
    found = []
    for data in (mixed, plain):
        said = search(tmp_path / f"{data.name}-study", data, 1)
        assert not any("another shape" in text for text in said)
        ledger = Ledger(Storage(tmp_path / f"{data.name}-study"))
        ((trial_id, result),) = ledger.results().items()
        assert result.status == "complete"
        ref = {"one": TrialRef(ledger.storage.uri, trial_id)}
        found.append((ledger.oof(trial_id), InlinePredictor(data, tmp_path / "cache").test(ref, flips=1)["one"]))
    (one, one_NT), (other, other_NT) = found
    pd.testing.assert_frame_equal(one, other, check_exact=True)
    np.testing.assert_array_equal(one_NT, other_NT)


def test_what_is_explained_is_the_frame(searched: tuple[Ledger, Path, list[str]], phone: Path) -> None:
    ledger, folder, _ = searched
    (trial,) = [record.trial_id for record in ledger.trials() if record.family == "distilled"]
    for image_id in (str(read_train(phone)["image_id"][3]), str(read_test(phone)["image_id"][1])):
        found = explain(ledger, trial, image_id, phone, cache_dir=folder / "cache", weights=RANDOM)
        assert found.fit == "crop"
        sheet = np.asarray(draw_explanation(found))
        assert sheet.shape[1] > PANEL and sheet.shape[0] > 3 * PANEL // 2  # three panels of 2 : 1


def test_members_of_studies_of_other_fits_each_see_their_own(phone: Path, tmp_path: Path) -> None:
    refs = {}
    for fit in ("stretch", "crop", "pad"):
        search(tmp_path / fit, phone, 1, fit=fit)
        ledger = Ledger(Storage(tmp_path / fit))
        assert ledger.study().settings.fit == fit
        (trial_id,) = ledger.results()
        refs[fit] = TrialRef(ledger.storage.uri, trial_id)
    assert len({ref.trial_id for ref in refs.values()}) == 1  # the same configuration and folds
    together = InlinePredictor(phone, tmp_path / "together")
    found = together.test(refs, flips=1)
    assert sum(outcome.decoded for outcome in together.outcomes) == 6  # a photograph once, for all fits
    for ref in refs.values():
        for kept in Path(ref.study).glob("ensembles/test-*"):
            shutil.rmtree(kept)
    for fit, ref in refs.items():
        alone = InlinePredictor(phone, tmp_path / f"alone-{fit}")
        np.testing.assert_array_equal(alone.test({fit: ref}, flips=1)[fit], found[fit])
        assert [outcome.members for outcome in alone.outcomes] == [1]
    assert len({pred_NT.tobytes() for pred_NT in found.values()}) == 3


def test_a_study_keeps_its_fit(phone: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(phone, tmp_path / "data"))
    search(tmp_path / "study", data, 1)
    with pytest.raises(StudyError, match="fit: 'crop' -> 'pad'"):
        search(tmp_path / "study", data, 2, fit="pad")
    assert not any("keeps its fit" in text for text in search(tmp_path / "study", data, 2, fit="crop"))
    settings = (data / "dataset.toml").read_text()
    (data / "dataset.toml").write_text(settings.replace('fit = "crop"', 'fit = "stretch"'))
    said = search(tmp_path / "study", data, 2)
    assert any(f"the study keeps its fit = crop, {data} says stretch now" in text for text in said)
    assert Ledger(Storage(tmp_path / "study")).study().settings.fit == "crop"
    search(tmp_path / "other", data, 1)
    assert Ledger(Storage(tmp_path / "other")).study().settings.fit == "stretch"


@pytest.mark.parametrize("name", ["finished", "killed"])
def test_studies_of_released_versions_stretch(tmp_path: Path, name: str) -> None:
    assert copy_of(name, tmp_path).study().settings.fit == "stretch"
