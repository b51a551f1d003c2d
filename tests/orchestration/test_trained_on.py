"""Training photographs are shown from the data of the search alone: a directory is known by its contents."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from starlette.testclient import TestClient
from test_serving import HERE, parts, photographs, served, world  # noqa: F401  a blend of a probe and a family with maps
from tiny_study import RANDOM
from typer.testing import CliRunner

from biomass_models.data.table import read_train
from biomass_models.errors import UserError
from orchestration.answers.opened import BlendPlace, OpenBlend, open_blend
from orchestration.answers.trained_on import training_photographs, unlike_note
from orchestration.bundle.export import export_bundle
from orchestration.cli import app
from orchestration.serving.app import Served, make_app
from orchestration.serving.pictures import TrainingPhotographs

pytestmark = pytest.mark.slow


@pytest.fixture(params=["study", "bundle"])
def blend(world: tuple[Any, Path], tmp_path: Path, request: pytest.FixtureRequest) -> OpenBlend:  # noqa: F811
    if request.param == "study":
        return world[0]
    export_bundle(str(world[1] / "study"), world[0].name, tmp_path / "bundle", weights=RANDOM)
    return open_blend(BlendPlace(str(tmp_path / "bundle"), None, None))


def other_pictures(pasture: Path, folder: Path) -> Path:
    """The same names, and the first two photographs changed for each other."""
    shutil.copytree(pasture, folder)
    first, second, *_ = read_train(folder)["image_path"]
    (folder / first).rename(folder / "between")
    (folder / second).rename(folder / first)
    (folder / "between").rename(folder / second)
    return folder


def test_the_directory_of_the_search_is_known_wherever_it_lies(
    blend: OpenBlend, tiny_pasture: Path, tmp_path: Path
) -> None:
    found = training_photographs(blend, shutil.copytree(tiny_pasture, tmp_path / "copy"))
    assert set(found) >= set(blend.likeness.image_ids if blend.likeness else ()) != set()


def test_another_directory_with_the_same_names_is_refused(blend: OpenBlend, tiny_pasture: Path, tmp_path: Path) -> None:
    other = other_pictures(tiny_pasture, tmp_path / "other")
    for make in (training_photographs, TrainingPhotographs):
        with pytest.raises(UserError, match=r"training photographs are shown from what .*replaced.*give"):
            make(blend, other)
    result = CliRunner().invoke(app, ["serve", blend.place.where, "--data", str(other)])
    assert result.exit_code == 1 and "replaced" in str(result.exception or result.output)


def test_a_directory_that_lacks_photographs_is_refused(blend: OpenBlend, tiny_pasture: Path, tmp_path: Path) -> None:
    fewer = shutil.copytree(tiny_pasture, tmp_path / "fewer")
    table = pd.read_csv(fewer / "train.csv")
    table[table["image_path"] != table["image_path"][0]].to_csv(fewer / "train.csv", index=False)
    with pytest.raises(UserError, match=r"(lacks|missing or replaced) .*--data of the search"):
        training_photographs(blend, fewer)


def test_a_bundle_without_contents_is_exported_again(
    served: Served,  # noqa: F811
    world: tuple[Any, Path],  # noqa: F811
    tiny_pasture: Path,
    tmp_path: Path,
) -> None:
    """As the message says; then the page has the pictures of the nearest."""
    bundle = tmp_path / "bundle"
    export_bundle(str(world[1] / "study"), world[0].name, bundle, weights=RANDOM)
    marker = json.loads((bundle / "bundle.json").read_text())
    del marker["photographs"]
    (bundle / "bundle.json").write_text(json.dumps(marker))
    with pytest.raises(UserError, match="or export it again from a study"):
        training_photographs(open_blend(BlendPlace(str(bundle), None, None)), tiny_pasture)
    shutil.rmtree(bundle)
    export_bundle(str(world[1] / "study"), world[0].name, bundle, weights=RANDOM)
    again = open_blend(BlendPlace(str(bundle), None, None))
    shown = replace(served, blend=again, trained=TrainingPhotographs(again, tiny_pasture))
    client = TestClient(make_app(shown), base_url=HERE)
    page = client.post("/", files=parts(photographs(tiny_pasture)[0])).text
    assert len(re.findall('alt="training photograph ', page)) == 3


def test_what_is_advised_where_unlike_photographs_are_not_recognised_helps(
    world: tuple[Any, Path],  # noqa: F811
    tiny_pasture: Path,
    tmp_path: Path,
) -> None:
    """Of a study and of a bundle of it; one that cannot be helped is advised nothing."""
    study = shutil.copytree(world[1] / "study", tmp_path / "study")
    for kept in (study / "ensembles").glob("oof-embeddings-*"):
        shutil.rmtree(kept)

    def note(where: Path) -> str | None:
        return unlike_note(open_blend(BlendPlace(str(where), None, None)))

    marker = study / "ensembles" / world[0].name / "ensemble.json"
    content = marker.read_text()
    foreign = json.loads(content)
    foreign["trials"] = {name: [str(world[1] / "study"), trial] for name, (_, trial) in foreign["trials"].items()}
    marker.write_text(json.dumps(foreign))
    assert "no trials in the blend" in (note(study) or "") and "biomass" not in (note(study) or "")
    marker.write_text(content)
    export_bundle(str(study), world[0].name, tmp_path / "bundle", weights=RANDOM)
    assert "export it again from its study" in (note(tmp_path / "bundle") or "")
    assert "PHOTOS --data DIR`, with that of the search, keeps them" in (note(study) or "")
    command = ["predict", str(study), str(tiny_pasture / "test"), "--data", str(tiny_pasture)]
    result = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "m.csv"), "--cache", str(world[1] / "cache")])
    assert result.exit_code == 0 and note(study) is None
    export_bundle(str(study), world[0].name, tmp_path / "again", weights=RANDOM)
    assert note(tmp_path / "again") is None
