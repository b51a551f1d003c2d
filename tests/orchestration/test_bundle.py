"""A bundle predicts without the project, the study, Ray or a network, and gets the study's own numbers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from blended_study import blend_five, finished_study
from hand_made_study import empty_study
from PIL import Image, ImageOps
from tiny_study import BACKBONE, FAMILY_NAMES, RANDOM
from typer.testing import CliRunner

from biomass_models.backbones.adapter import create_timm
from biomass_models.backbones.weights import WeightsError, WeightsSource, canonical_name, find_weights, load_weights
from biomass_models.errors import UserError
from biomass_models.targets import FROM_COMPONENTS, TARGETS
from ensembles.blend import fit_blend
from ensembles.budget import Budgeted, PredictionCosts, budget_of
from ensembles.choice import SINGLE_BEST
from ensembles.members.library import LibraryError, library_from_arrays
from ensembles.spec import BlendSpec
from orchestration.answers.opened import BlendPlace, open_blend
from orchestration.blending.blend import BlendOptions, run_ensemble
from orchestration.blending.members import FileMembers
from orchestration.blending.predict import Predictor
from orchestration.bundle import export as export_module
from orchestration.bundle import predict as bundle_predict
from orchestration.bundle.export import export_bundle
from orchestration.bundle.predict import BundleError, predict_bundle
from orchestration.cli import app
from orchestration.study.environment import environment
from orchestration.study.ledger import Ledger, LedgerError
from orchestration.study.records import TrialRef
from orchestration.study.storage import Storage
from orchestration.wheel import PACKAGES, project_wheel

pytestmark = pytest.mark.slow

# A network that is there but answers nobody, where the kernel does not let us take it away.
NO_NETWORK = """
import socket
def refuse(*_arguments, **_options):
    raise OSError("the network is off")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refuse
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory, tiny_pasture):
    """A study with a blend of all families, the blend's submission, and the bundle of it."""
    folder = tmp_path_factory.mktemp("bundle")
    ledger = finished_study(folder / "study", tiny_pasture, folder / "cache", FAMILY_NAMES)
    submission = blend_five(ledger, tiny_pasture, folder)
    needed = export_bundle(ledger.storage.uri, "submission", folder / "bundle", weights=RANDOM)
    assert [entry.backbone for entry in needed] == [canonical_name(BACKBONE)]
    return ledger, submission, folder / "bundle"


def test_a_fresh_environment_without_network_gets_the_same_numbers(exported, tiny_pasture, tmp_path):
    _, submission, bundle = exported
    moved = tmp_path / "elsewhere"
    shutil.copytree(bundle, moved)
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv/bin/python"
    site = next((tmp_path / "venv/lib").glob("python*/site-packages"))
    (site / "installed.pth").write_text(
        sysconfig.get_paths()["purelib"] + "\n"
    )  # torch and the like, no .pth of theirs
    (site / "sitecustomize.py").write_text(NO_NETWORK)
    isolated = ["unshare", "--user", "--map-root-user", "--net"]
    if shutil.which("unshare") is None or subprocess.run([*isolated, "true"], capture_output=True).returncode:
        isolated = []

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
        environment["BIOMASS_ENCODING"] = os.environ["BIOMASS_ENCODING"]  # as the study's own prediction here
        return subprocess.run([*isolated, *command], capture_output=True, text=True, cwd=tmp_path, env=environment)

    for package in PACKAGES:
        assert "ModuleNotFoundError" in run(str(python), "-c", f"import {package}").stderr
    online = run(
        str(python), "-c", "import urllib.request; urllib.request.urlopen('https://huggingface.co', timeout=5)"
    )
    assert online.returncode != 0
    code = (
        f"import runpy, sys; sys.argv = ['predict.py', {str(tiny_pasture)!r}, 'out/mine.csv']; "
        f"runpy.run_path({str(moved / 'predict.py')!r}, run_name='__main__'); "
        "print({'ray', 'optuna'} & set(sys.modules), sys.modules['orchestration.bundle.predict'].__file__)"
    )
    result = run(str(python), "-c", code)
    assert result.returncode == 0, result.stderr
    loaded, origin = result.stdout.splitlines()[-1].split(maxsplit=1)
    assert loaded == "set()" and str(moved) in origin and ".whl" in origin
    mine, theirs = pd.read_csv(tmp_path / "out/mine.csv"), pd.read_csv(submission)
    assert list(mine["sample_id"]) == list(theirs["sample_id"])
    assert (mine["target"] - theirs["target"]).abs().max() <= 1e-5  # both are written with six decimals


def test_a_bundle_computes_with_the_threads_of_the_profile(monkeypatch, capsys, tmp_path):
    """Minutes of a budget are those of a number of threads."""
    seen = []
    monkeypatch.setattr(bundle_predict, "predict_bundle", lambda *_, **__: seen.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    for words in ([], ["--threads", "3"]):
        monkeypatch.setattr(sys, "argv", ["predict.py", "data", "out.csv", *words])
        bundle_predict.main(tmp_path)
    assert seen == [before, 3] and torch.get_num_threads() == before
    monkeypatch.setattr(sys, "argv", ["predict.py", "data", "out.csv", "--threads", "0"])
    with pytest.raises(SystemExit):
        bundle_predict.main(tmp_path)
    assert "a number of threads is at least 1, got 0" in capsys.readouterr().err


@pytest.mark.parametrize("all_rows", ["beside", "instead"])
def test_a_blend_within_a_budget_is_exported_with_the_models_that_were_counted(all_rows, tmp_path, monkeypatch):
    """Models on all rows take time that no profile has measured. Refused before one of them is fitted."""
    rng, rows = np.random.default_rng(0), 20
    truth_NT = rng.gamma(2.0, 10.0, (rows, 3)) @ FROM_COMPONENTS.T
    truth = pd.DataFrame(truth_NT, columns=list(TARGETS)).assign(fold=np.arange(rows) % 5)
    truth = truth.assign(image_id=[f"ID{row}" for row in range(rows)], group=[f"d{row % 10}" for row in range(rows)])
    noisy = [np.maximum(truth_NT + rng.normal(0, 3, truth_NT.shape), 0) for _ in range(3)]
    library = library_from_arrays(["a", "b", "c"], noisy, truth)
    costs = PredictionCosts.of(library.names, dict.fromkeys(library.names, 60.0), {}, {})
    rule = Budgeted(SINGLE_BEST, costs, 300.0)
    card = fit_blend(library, BlendSpec(rule=rule), 0)
    weight_M = [card.members.get(name, 0.0) for name in library.names]
    budget = budget_of(library.gram, rule, weight_M, images=800, device="T4", seed=0)
    ledger = empty_study(tmp_path / "study")
    ledger.write_ensemble("within", replace(card, budget=budget).to_json(), {}, b"")
    with pytest.raises(UserError, match=f"--all-rows {all_rows}; leave --all-rows out, or blend without --budget"):
        export_bundle(ledger.storage.uri, "within", tmp_path / "bundle", weights=RANDOM, all_rows=all_rows)
    monkeypatch.setattr(Predictor, "fit_on_all_rows", lambda *_: pytest.fail("models are fitted first"))
    words = ["export", ledger.storage.uri, "within", "--all-rows", all_rows, "--out", str(tmp_path / "bundle")]
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train.csv").touch()
    result = CliRunner().invoke(app, [*words, "--data", str(tmp_path / "data")])
    assert "a budget counts what fold models take" in str(result.exception), result.output
    assert not (tmp_path / "bundle").exists()


def test_the_bundle_holds_what_it_says_and_no_pickle(exported):
    ledger, _, bundle = exported
    content = json.loads((bundle / "bundle.json").read_text())
    there = {str(path.relative_to(bundle)) for path in bundle.rglob("*") if path.is_file()}
    assert there == {*content["files"], "bundle.json"}
    assert {Path(path).suffix for path in there} == {".whl", ".py", ".txt", ".json", ".safetensors"}
    assert all(len(member["models"]) == 3 for member in content["members"])
    assert sorted(member["family"] for member in content["members"]) == sorted(FAMILY_NAMES)
    assert len((bundle / "predict.py").read_text().splitlines()) < 15
    with zipfile.ZipFile(next(bundle.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
    assert {"biomass_models/targets.py", "orchestration/bundle/predict.py"} <= names
    assert not any(name.endswith((".pyc", ".pkl")) for name in names)
    with pytest.raises(LedgerError, match="new or empty folder"):
        export_bundle(ledger.storage.uri, "submission", bundle, weights=RANDOM)
    with pytest.raises(LedgerError, match="it has submission"):
        export_bundle(ledger.storage.uri, "other", bundle.parent / "none", weights=RANDOM)
    assert not (bundle.parent / "none").exists()


def test_damage_and_a_missing_marker_are_found_before_anything_is_read(exported, tmp_path):
    _, _, bundle = exported
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    model = next(copy.glob("members/*/fold-1.safetensors"))
    model.write_bytes(model.read_bytes()[:-1])
    arguments = {"weights": copy / "weights", "say": lambda _: None}
    with pytest.raises(BundleError, match=r"1 file is missing .* such as members/.*fold-1"):
        predict_bundle(copy, tmp_path / "no-data", tmp_path / "out.csv", **arguments)
    (copy / "bundle.json").unlink()
    with pytest.raises(BundleError, match="no whole bundle"):
        predict_bundle(copy, tmp_path / "no-data", tmp_path / "out.csv", **arguments)


def test_a_package_that_a_member_needs_is_named_and_missed_at_once(exported, tmp_path, monkeypatch):
    """Adapters are made by peft, which not every installation has; a notebook without network cannot fetch it."""
    whole, _, bundle = exported
    assert "peft" not in (bundle / "requirements.txt").read_text() and "peft" not in environment("baseline")
    ledger = Ledger(Storage(shutil.copytree(whole.storage.uri, tmp_path / "study")))
    record = next(one for one in ledger.trials() if one.family == "baseline")
    adapted = {**record.config, "adapters": "lora", "trained_blocks": 1}
    ledger.write_trial(replace(record, config=adapted))
    refs = {name: TrialRef(ledger.storage.uri, name) for name in ledger.ensemble("submission").trials}
    ledger.write_ensemble("submission", ledger.ensemble("submission").card, refs, b"")
    export_bundle(ledger.storage.uri, "submission", tmp_path / "bundle", weights=RANDOM)
    wanted = f"peft=={version('peft')}"
    assert wanted in (tmp_path / "bundle" / "requirements.txt").read_text().splitlines()
    assert environment("baseline", config=adapted) == {**environment("baseline"), "peft": version("peft")}
    monkeypatch.setitem(sys.modules, "peft", None)
    for road in (
        lambda: predict_bundle(
            tmp_path / "bundle", tmp_path / "no-data", tmp_path / "out.csv", weights=tmp_path, say=lambda _: None
        ),
        lambda: open_blend(BlendPlace(str(tmp_path / "bundle"), None, None)),
        lambda: open_blend(BlendPlace(ledger.storage.uri, "submission", RANDOM)),
    ):
        with pytest.raises(UserError, match=f"{record.trial_id} needs the package peft, which cannot be imported"):
            road()


def test_what_is_odd_about_the_photographs_is_said(exported, own_pasture, tmp_path):
    _, _, bundle = exported
    squares = sorted((own_pasture / "test").iterdir())[:2]
    for path in squares:
        Image.open(path).resize((120, 120)).save(path)
    ImageOps.mirror(Image.open(squares[0])).save(squares[1], quality=95)
    said: list[str] = []
    predict_bundle(bundle, own_pasture, tmp_path / "out.csv", weights=bundle / "weights", say=said.append)
    text = "\n".join(said)
    assert "2 of 6 photographs have another shape than the 2000 x 1000 px trained on" in text
    assert f"such as {squares[0].name} with 120 x 120: they are stretched" in text and "mirrored" in text
    squares[0].write_bytes(b"torn")
    squares[1].rename(squares[1].with_suffix(".JPG"))
    with pytest.raises(BundleError, match="a photograph is one of"):
        predict_bundle(bundle, own_pasture, tmp_path / "two.csv", weights=bundle / "weights", say=lambda _: None)
    assert not (tmp_path / "two.csv").exists()


def test_a_submission_that_is_not_valid_never_has_its_name(exported, tiny_pasture, tmp_path, monkeypatch):
    from orchestration.bundle import predict as module

    _, _, bundle = exported
    whole = module.submission_bytes
    monkeypatch.setattr(module, "submission_bytes", lambda *given: whole(*given)[:-20])
    with pytest.raises(UserError, match="does not pass the validator"):
        predict_bundle(bundle, tiny_pasture, tmp_path / "out.csv", weights=bundle / "weights", say=lambda _: None)
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_breaks_off_leaves_nothing_and_can_be_repeated(exported, tmp_path):
    """One model of the last member is torn: all members before it have been copied by then."""
    ledger, _, bundle = exported
    content = json.loads((bundle / "bundle.json").read_text())
    trial = Path(content["members"][-1]["models"][-1]).parent.name.split("-", 1)[1]
    name = f"trials/{trial}/fold-2/model.safetensors"
    model = ledger.storage.read(name)
    ledger.storage.write(name, model[:-1])
    try:
        with pytest.raises(LedgerError, match="fold-2"):
            export_bundle(ledger.storage.uri, "submission", tmp_path / "bundle", weights=RANDOM)
        assert list(tmp_path.iterdir()) == []
    finally:
        ledger.storage.write(name, model)
    export_bundle(ledger.storage.uri, "submission", tmp_path / "bundle", weights=RANDOM)
    assert (tmp_path / "bundle" / "bundle.json").read_bytes() == (bundle / "bundle.json").read_bytes()


def test_the_wheel_is_one_that_pip_installs(tmp_path):
    name, content = project_wheel()
    assert project_wheel() == (name, content)
    (tmp_path / name).write_bytes(content)
    pip = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--target", str(tmp_path / "site")]
    result = subprocess.run([*pip, str(tmp_path / name)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for package in PACKAGES:
        installed, here = tmp_path / "site" / package, Path(__file__).parents[2] / package
        names = [{str(path.relative_to(folder)) for path in folder.rglob("*.py")} for folder in (installed, here)]
        assert names[0] == names[1]


def test_weights_are_listed_copied_and_asked_for(exported, tiny_pasture, tmp_path, monkeypatch):
    """The same study as if its backbone had come from a folder."""
    import safetensors.torch

    ledger, _, _ = exported
    folder, name = tmp_path / "weights", canonical_name(BACKBONE)
    folder.mkdir()
    model = create_timm(name)
    load_weights(model, name, RANDOM)
    safetensors.torch.save_file(model.state_dict(), folder / f"{name}.safetensors")
    source = WeightsSource("folder", folder)
    # the trials were made with random weights
    monkeypatch.setattr(export_module, "source_of_trials", lambda _, typed: typed)
    listed = export_bundle(ledger.storage.uri, "submission", tmp_path / "listed", weights=source)
    (entry,) = listed
    assert entry.file == f"{name}.safetensors" and entry.bytes == (folder / str(entry.file)).stat().st_size
    assert len(entry.sha256 or "") == 64 and entry.origin == "folder"
    with pytest.raises(BundleError, match=rf"put {name}.safetensors \(\d+ bytes, sha256 {entry.sha256}"):
        predict_bundle(
            tmp_path / "listed", tiny_pasture, tmp_path / "o.csv", weights=tmp_path / "nowhere", say=lambda _: None
        )
    export_bundle(ledger.storage.uri, "submission", tmp_path / "full", weights=source, with_weights=True)
    copied = find_weights(name, WeightsSource("folder", tmp_path / "full" / "weights"))
    assert copied.path.read_bytes() == (folder / str(entry.file)).read_bytes()


def test_a_packages_checkpoint_is_known_in_a_folder_too(tmp_path):
    name = "tf_efficientnet_lite0.in1k"
    with pytest.raises(WeightsError):
        find_weights(name, WeightsSource("folder", tmp_path))
    (tmp_path / "efficientnet-lite0-0123abcd.pth").touch()
    found = find_weights(name, WeightsSource("folder", tmp_path))
    assert found.path.parent == tmp_path and found.rename is not None


def test_members_that_came_as_files_cannot_be_exported(exported, tmp_path):
    ledger, _, _ = exported
    found = ledger.ensemble("submission")
    card, refs = {**found.card, "members": {**found.card["members"], "mine": 0.0}}, found.trials
    ledger.write_ensemble("with-files", card, refs, b"")
    with pytest.raises(LedgerError, match="mine came as files"):
        export_bundle(ledger.storage.uri, "with-files", tmp_path / "out", weights=RANDOM)
    with pytest.raises(LibraryError, match="need --truth"):
        run_ensemble(
            [],
            FileMembers(oof=("x.csv",)),
            data_dir=None,
            out=tmp_path,
            options=BlendOptions(),
            seed=0,
            open_predictor=lambda _: None,
            say=lambda _: None,
            show=lambda *_: None,
        )
