"""Photographs that are not those of the search, and data directories without test images."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from blended_study import InlinePredictor, finished_study
from PIL import Image, ImageOps
from tiny_study import RANDOM

from biomass_models.data.folds import assign_folds, fold_hash
from biomass_models.data.frames import FITS, Fit
from biomass_models.data.images import digest_of, file_digest
from biomass_models.data.photographs import common_size, unlike_shapes, usual_size
from biomass_models.data.problems import DataError
from biomass_models.data.table import TEST_FILE, read_train
from biomass_models.targets import TARGETS
from orchestration import cli
from orchestration.blending.blend import BlendOptions, run_ensemble
from orchestration.blending.members import FileMembers
from orchestration.inspect.explain import explain
from orchestration.report.make import make_report
from orchestration.search.opening import open_study
from orchestration.study.data_changes import data_fingerprint, data_notices
from orchestration.study.ledger import Ledger
from orchestration.study.settings import StudySettings
from orchestration.study.storage import Storage

pytestmark = pytest.mark.slow


def searched(folder: Path, data: Path) -> Ledger:
    """A study of a data directory without any trial, as a search opens it."""
    quadrats = read_train(data)
    folds = assign_folds(quadrats, n_folds=3)
    quadrats = quadrats.merge(folds, on="image_id", validate="one_to_one")
    paths = [data / path for path in quadrats["image_path"]]
    ledger = Ledger(Storage(folder))
    open_study(
        ledger,
        StudySettings(families=("probe",), backbones=("test_vit",), folds=3),
        quadrats=quadrats,
        data_fingerprint=data_fingerprint(quadrats, digest_of([file_digest(path) for path in paths])),
        fold_hash=fold_hash(folds),
        weights={},
        photograph_size=common_size(paths),
    )
    digests = [file_digest(path) for path in paths]
    ledger.write_photographs(pd.DataFrame({"image_id": quadrats["image_id"], "blake2b": digests}))
    return ledger


def mirrored(data: Path) -> None:
    path = sorted((data / "train").iterdir())[0]
    ImageOps.mirror(Image.open(path)).save(path, quality=90)


def labelled_anew(data: Path) -> None:
    text = (data / "train.csv").read_text().splitlines()
    (data / "train.csv").write_text("\n".join([text[0], text[1].rsplit(",", 1)[0] + ",77.5", *text[2:]]) + "\n")


def one_lost(data: Path) -> None:
    sorted((data / "train").iterdir())[0].unlink()


def one_image_fewer(data: Path) -> None:
    text = (data / "train.csv").read_text().splitlines()
    (data / "train.csv").write_text("\n".join([text[0], *text[6:]]) + "\n")


def square_tests(data: Path) -> None:
    for path in (data / "test").iterdir():
        Image.open(path).resize((100, 100)).save(path)


CHANGES = {
    mirrored: "1 photograph replaced (",
    labelled_anew: "1 label changed (",
    one_lost: "lacks 1 photograph of train.csv (train/",
    one_image_fewer: "1 photograph missing (",
    square_tests: "6 of 6 photographs have another shape than the 160 x 80 px trained on",
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_changed_since_the_search_is_said_by_report_and_ensemble(
    change, own_pasture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = searched(tmp_path / "study", own_pasture)
    assert list(data_notices(ledger, own_pasture)) == []
    change(own_pasture)
    (text,) = data_notices(ledger, own_pasture)
    assert CHANGES[change] in text and len(text) <= 2 * 80 + len(str(own_pasture))
    for command in (["report"], ["ensemble"]):
        monkeypatch.setattr(sys, "argv", ["biomass", *command, str(tmp_path / "study"), "--data", str(own_pasture)])
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit):
            cli.main()
        assert f"warning: {text}" in capsys.readouterr().err


def test_another_test_set_is_left_alone(own_pasture: Path, tmp_path: Path) -> None:
    ledger = searched(tmp_path / "study", own_pasture)
    mirrored(own_pasture)
    (own_pasture / "train.csv").unlink()
    assert list(data_notices(ledger, own_pasture)) == []


@pytest.mark.parametrize(
    "size, odd",
    [((200, 100), False), ((100, 100), True), ((100, 200), True), ((208, 100), False), ((212, 100), True)],
)
@pytest.mark.parametrize("fit", FITS)
def test_photographs_of_another_shape_are_named(tmp_path: Path, size: tuple[int, int], odd: bool, fit: Fit) -> None:
    """By more than 5 %; a portrait is of the same shape where it is turned."""
    Image.new("RGB", size).save(tmp_path / "one.png")
    text = unlike_shapes([tmp_path / "one.png"], (2000, 1000), fit)
    odd &= fit == "stretch" or size != (100, 200)
    assert (text is not None) == odd and (not odd or f"one.png with {size[0]} x {size[1]}" in text)


def test_the_usual_size_is_the_most_common_or_of_the_middle_shape() -> None:
    assert usual_size([(4, 3), (2, 1), (2, 1), (9, 1)]) == (2, 1)
    assert usual_size([(100, 10), (30, 20), (10, 100), (20, 21), (40, 30)]) == (40, 30)
    assert usual_size([]) is None


# -- no test.csv ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def without_tests(tmp_path_factory: pytest.TempPathFactory, tiny_pasture: Path) -> tuple[Path, Ledger]:
    """A data directory without test images, and a finished study of it."""
    folder = tmp_path_factory.mktemp("without")
    shutil.copytree(tiny_pasture, folder / "data")
    (folder / "data" / TEST_FILE).unlink()
    shutil.rmtree(folder / "data" / "test")
    return folder / "data", finished_study(folder / "study", folder / "data", folder / "cache")


def blend(ledger: Ledger, data: Path | None, out: Path, cache: Path) -> list[Path]:
    return run_ensemble(
        [ledger.storage.uri],
        FileMembers(),
        data_dir=data,
        out=out,
        options=BlendOptions(rule="top-5"),
        seed=0,
        open_predictor=lambda data: InlinePredictor(data, cache),
        say=lambda _: None,
        show=lambda *_: None,
    )


def test_a_study_needs_test_images_only_to_predict_them(without_tests: tuple[Path, Ledger], tmp_path: Path) -> None:
    data, ledger = without_tests
    assert "<html" in make_report(ledger, data)
    assert blend(ledger, None, tmp_path / "card", tmp_path / "cache") == []
    assert (tmp_path / "card" / "ensemble.json").is_file()
    trial, image_id = next(iter(ledger.results())), str(read_train(data)["image_id"][0])
    assert explain(ledger, trial, image_id, data, cache_dir=tmp_path, weights=RANDOM).truth_T is not None
    with pytest.raises(DataError, match=r"the test images are named in test\.csv; got none in .*; add it"):
        blend(ledger, data, tmp_path / "submission.csv", tmp_path / "cache")
    assert not (tmp_path / "submission.csv").exists()


def test_members_from_files_need_no_test_images_either(without_tests: tuple[Path, Ledger], tmp_path: Path) -> None:
    data, _ = without_tests
    train = read_train(data)
    noisy = train[["image_id", *TARGETS]].copy()
    noisy[list(TARGETS)] += np.random.default_rng(0).normal(0, 3, (len(train), 5))
    pd.DataFrame(noisy).to_csv(tmp_path / "ash.csv", index=False)
    files = FileMembers(oof=(str(tmp_path / "a*.csv"),), truth=data / "train.csv")
    quiet = {"say": lambda _: None, "show": lambda *_: None, "open_predictor": lambda _: None}
    assert run_ensemble([], files, data_dir=None, out=tmp_path / "out", options=BlendOptions(), seed=0, **quiet) == []
