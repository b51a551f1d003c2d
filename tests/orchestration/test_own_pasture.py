"""Searches of a table of one's own: the same numbers as from the competition's, and what is said without metadata."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from biomass_models.backbones.weights import WeightsSource
from biomass_models.data.check import check_directory
from biomass_models.data.table import read_train
from biomass_models.pasture.make import make_pasture
from orchestration.cli import app
from orchestration.report.make import make_report
from orchestration.search.presets.options import Preset
from orchestration.search.start import start_search
from orchestration.study.data import StudyData
from orchestration.study.ledger import Ledger
from orchestration.study.records import Asked
from orchestration.study.settings import StudyError
from orchestration.study.storage import Storage
from orchestration.workers.resources import Resources

pytestmark = pytest.mark.slow

TINY = Preset().with_fields(
    families=("probe", "baseline", "distilled"), backbones=("test_vit",), weights="random", scale="smoke", folds=3
)
DRAWN: dict[str, Any] = {"images": 24, "test_images": 0, "seed": 0, "width": 160, "height": 80, "workers": 1}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny pasture as quadrats.csv, in grams."""
    folder = tmp_path_factory.mktemp("own") / "data"
    make_pasture(folder, form="quadrats", **DRAWN)
    return folder


@pytest.fixture
def without(own: Path, tmp_path: Path) -> Any:
    """Makes a copy whose dataset.toml lacks the lines that begin with these words."""

    def copy(*words: str) -> Path:
        folder = Path(shutil.copytree(own, tmp_path / "without"))
        lines = (own / "dataset.toml").read_text().splitlines()
        kept = [line for line in lines if line.split(" =")[0] not in words]
        (folder / "dataset.toml").write_text("\n".join(kept) + "\n")
        return folder

    return copy


def search(folder: Path, data: Path, trials: int, *, families: Sequence[str] = (), **asked: Any) -> list[str]:
    """What a search says."""
    said: list[str] = []
    typed = {**asked, **({"families": tuple(families)} if families else {})}
    start_search(
        str(folder),
        data,
        TINY.with_fields(trials=trials, **typed),
        weights=WeightsSource("random"),
        resources=Resources(inline=True, cache=folder.parent / "cache"),
        say=said.append,
        made_with=Asked(overrides=typed),
    )
    return said


@pytest.mark.long
def test_both_forms_of_a_pasture_give_the_same_study(tmp_path: Path, tiny_pasture: Path, own: Path) -> None:
    pd.testing.assert_frame_equal(read_train(own), read_train(tiny_pasture), check_exact=True)
    assert check_directory(own) == []
    for name, data in (("own", own), ("competition", tiny_pasture)):
        search(tmp_path / name, data, 4)
    one, other = (Ledger(Storage(tmp_path / name)) for name in ("own", "competition"))
    assert one.study().data_fingerprint == other.study().data_fingerprint
    assert one.study().fold_hash == other.study().fold_hash and one.results().keys() == other.results().keys()
    for name in one.results():
        path = f"trials/{name}/oof.parquet"
        assert (tmp_path / "own" / path).read_bytes() == (tmp_path / "competition" / path).read_bytes()
    pd.testing.assert_frame_equal(one.references(), other.references(), check_exact=True)


def test_masses_per_area_are_the_same_pasture(tmp_path: Path, own: Path) -> None:
    make_pasture(tmp_path / "kg", form="quadrats", unit="kg/ha", area=0.25, **DRAWN)
    pd.testing.assert_frame_equal(read_train(tmp_path / "kg"), read_train(own), rtol=1e-6)
    assert '"kg/ha"' in (tmp_path / "kg" / "dataset.toml").read_text()


def test_a_search_with_random_folds_says_that_they_cut_groups(tmp_path: Path, without: Any) -> None:
    data = without("date", "groups")  # sites are left
    said = {scheme: " ".join(search(tmp_path / scheme, data, 1, scheme=scheme)) for scheme in ("random", "date")}
    assert "the folds cut" in said["random"] and "score less on new ones" in said["random"]
    assert "the folds cut" not in said["date"]


def test_a_search_without_dates_and_sites_warns_and_goes_through(tmp_path: Path, without: Any) -> None:
    """Search, leaderboard and report of photographs and masses alone."""
    data = without("date", "site", "species", "ndvi", "height", "groups")
    said = search(tmp_path / "study", data, 3)
    assert any("folds are random, scores too good for new days and places" in line for line in said)
    assert any("family distilled learns from metadata" in line and "left out of the search" in line for line in said)
    assert any("metadata trees are left out of the references: no Sampling_Date, State" in line for line in said)
    study = StudyData(Ledger(Storage(tmp_path / "study")))
    assert study.settings.families == ("probe", "baseline") and study.unit == "photograph"
    assert set(study.references) == {"per-target mean", "colour ridge"}
    assert "no date, site or group says which photographs belong together" in " ".join(study.notices)
    assert search(tmp_path / "study", data, 3) and len(study.results) == 3  # the same command goes on

    shown = CliRunner().invoke(app, ["leaderboard", str(tmp_path / "study")])
    assert shown.exit_code == 0 and "folds are random" in " ".join(shown.output.split()), shown.output
    html = make_report(study.ledger)
    assert "This study has no Sampling_Date, Height_Ave_cm, Pre_GSHH_NDVI, Species." in html


@pytest.mark.parametrize(
    ("lacking", "column"), [(("ndvi",), "Pre_GSHH_NDVI"), (("height",), "Height_Ave_cm"), (("species",), "Species")]
)
def test_a_family_that_was_asked_for_says_what_it_lacks(
    tmp_path: Path, without: Any, lacking: tuple[str, ...], column: str
) -> None:
    data = without(*lacking)
    with pytest.raises(StudyError, match=f"not every photograph has here: {column}; add them to the data or search"):
        search(tmp_path / "study", data, 3, families=("probe", "distilled"))
    with pytest.raises(StudyError, match=f"{column}; add them to the data$"):
        search(tmp_path / "study", data, 3, families=("distilled",))
    assert not (tmp_path / "study" / "study.json").exists()


def test_sites_alone_are_kept_whole(tmp_path: Path, without: Any) -> None:
    data = without("date", "groups")
    search(tmp_path / "study", data, 2)
    study = StudyData(Ledger(Storage(tmp_path / "study")))
    assert study.unit == "group" and study.cut_groups == 0
    assert (study.quadrats["group"] == study.quadrats["State"]).all()
    assert '<section id="folds">' in make_report(study.ledger)
