"""What timm said is noted: found once, found again where that may have changed, and never in anybody's way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
from test_weights import NAME

from biomass_models.backbones import noted as notes
from biomass_models.backbones import weights
from biomass_models.backbones.adapter import create_timm
from biomass_models.backbones.noted import noted, notes_in
from biomass_models.backbones.published import hub_names, published_names
from biomass_models.backbones.weights import WeightsFileError, WeightsSource, canonical_name, verify_weights

DINOV3 = "vit_small_patch16_dinov3.lvd1689m"


class Found:
    """Counts how often it was asked."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> str:
        self.times += 1
        return f"answer {self.times}"


def the_file(folder: Path) -> Path:
    (path,) = (folder / notes.FOLDER).iterdir()
    return path


def test_what_was_found_is_not_looked_for_again(tmp_path: Path) -> None:
    found = Found()
    with notes_in(tmp_path):
        assert [noted("name", "x", found), noted("name", "x", found)] == ["answer 1"] * 2
        assert noted("file", "x", found) == "answer 2"  # another kind of key
        assert noted("name", "y", found) == "answer 3"
    with notes_in(tmp_path / "elsewhere"):
        assert noted("name", "x", found) == "answer 4"
    assert noted("name", "x", found) == "answer 5"  # where nobody has named a folder nothing is read or written


def test_notes_of_other_packages_or_of_other_code_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Found()
    with notes_in(tmp_path):
        noted("name", "x", found)
        monkeypatch.setattr(notes, "version", lambda package: "0.0")
        assert noted("name", "x", found) == "answer 2"
        monkeypatch.setattr(notes, "version", lambda package: "0.1")
        monkeypatch.setattr(notes, "files", lambda package: tmp_path)
        (tmp_path / "one.py").write_text("a")
        assert noted("name", "x", found) == "answer 3" == noted("name", "x", found)
        (tmp_path / "one.py").write_text("b")
        assert noted("name", "x", found) == "answer 4"


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff", b"[]", b'{"name": []}', b'{"name": {"x": 3}}', b'{"name": null}']
)
def test_a_torn_or_strange_file_is_as_none(content: bytes, tmp_path: Path) -> None:
    found = Found()
    with notes_in(tmp_path):
        noted("name", "x", found)
        the_file(tmp_path).write_bytes(content)
        assert noted("name", "x", found) == "answer 2" == noted("name", "x", found)
    assert json.loads(the_file(tmp_path).read_bytes()) == {"name": {"x": "answer 2"}}


def test_a_folder_that_cannot_be_written_costs_the_note_only(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = Found()
    with notes_in(tmp_path / "file"):
        assert [noted("name", "x", found), noted("name", "x", found)] == ["answer 1", "answer 2"]


def test_mistakes_are_not_noted(tmp_path: Path) -> None:
    with notes_in(tmp_path):
        for _ in range(2):
            with pytest.raises(weights.WeightsError, match="did you mean"):
                canonical_name("test_vitt")
        assert canonical_name("test_vit") == canonical_name(NAME) == NAME
    assert json.loads(the_file(tmp_path).read_bytes()) == {"name": {"test_vit": NAME, NAME: NAME}}


def test_where_weights_are_published_is_noted_as_it_is_without_notes(tmp_path: Path) -> None:
    names = (
        NAME,
        "tf_efficientnet_lite0.in1k",
        "vit_small_patch14_dinov2.lvd142m",
        "vit_small_patch16_dinov3.lvd1689m",
        "no",
    )

    def all_of_them() -> list[object]:
        return [found(name) for name in names for found in (published_names, hub_names, weights._hub_place)]

    plain = all_of_them()
    with notes_in(tmp_path):
        assert all_of_them() == plain == all_of_them()


def test_weights_are_compared_once_and_again_when_the_file_is_another(tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    path, source = folder / f"{NAME}.safetensors", WeightsSource("folder", folder)
    state = create_timm(NAME).state_dict()
    with notes_in(tmp_path):
        safetensors.torch.save_file(state, path)
        verify_weights(NAME, source)
        noted_first = the_file(tmp_path).read_bytes()
        verify_weights(NAME, source)
        assert the_file(tmp_path).read_bytes() == noted_first
        safetensors.torch.save_file({name: state[name] for name in list(state)[1:]}, path)
        for _ in range(2):
            with pytest.raises(WeightsFileError, match="1 missing"):
                verify_weights(NAME, source)
        assert the_file(tmp_path).read_bytes() == noted_first
