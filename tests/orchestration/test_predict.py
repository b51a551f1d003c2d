"""Test predictions: sharded by image, decoded once, resumable, kept; flips measured before they are used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from blended_study import InlinePredictor, finished_study
from safetensors.torch import load as load_tensors
from tiny_study import RANDOM

from biomass_models.data import images
from biomass_models.data.images import DecodeOnce, load_views, views_for
from biomass_models.data.table import read_test
from biomass_models.families.configs import config_from_params
from biomass_models.families.registry import model
from biomass_models.features.inputs import ImageSet, Inputs
from biomass_models.targets import TARGETS
from ensembles.submission import check_submission
from orchestration.blending.blend import BlendOptions, run_ensemble
from orchestration.blending.members import FileMembers, gather
from orchestration.blending.predict import Predictor
from orchestration.study.ledger import Ledger, LedgerError
from orchestration.study.records import TrialRef
from orchestration.workers import shards

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def study(tmp_path_factory, tiny_pasture):
    folder = tmp_path_factory.mktemp("blended")
    return finished_study(folder / "study", tiny_pasture, folder / "cache"), folder / "cache"


@pytest.fixture
def fresh(study, tmp_path):
    """The finished study without any prediction in it."""
    ledger, cache = study
    copy = tmp_path / "study"
    for name in ["study.json", "quadrats.parquet"]:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(ledger.storage.read(name))
    (copy / "trials").symlink_to(Path(ledger.storage.uri) / "trials")
    return Ledger(type(ledger.storage)(copy)), cache


def trial_refs(ledger: Ledger) -> dict[str, TrialRef]:
    return {name: TrialRef(ledger.storage.uri, name) for name in ledger.results()}


def by_hand(ledger: Ledger, data_dir: Path, cache: Path, flips: int) -> dict[str, np.ndarray]:
    """All test images at once through each fold model, averaged."""
    inputs = Inputs(ImageSet.from_table(data_dir, read_test(data_dir)), cache_dir=cache, weights=RANDOM)
    found = {}
    for name in ledger.results():
        record = ledger.trial(name)
        config = config_from_params(record.family, record.config)
        models = [load_tensors(ledger.fold_model(name, fold)) for fold in range(3)]
        found[name] = np.mean([model(record.family).predict(config, m, inputs, flips=flips) for m in models], axis=0)
    return found


@pytest.mark.parametrize("flips", [1, 4])
def test_shards_give_what_all_images_at_once_give(fresh, tiny_pasture, tmp_path, monkeypatch, flips):
    ledger, cache = fresh
    monkeypatch.setattr(shards, "SHARD_IMAGES", 4)
    predictor = InlinePredictor(tiny_pasture, tmp_path / "other-cache")
    found = predictor.test(trial_refs(ledger), flips=flips)
    expected = by_hand(ledger, tiny_pasture, cache, flips)
    assert found.keys() == expected.keys() and len(found) == 3  # a trial of each family
    for name, pred_NT in found.items():
        np.testing.assert_allclose(pred_NT, expected[name], rtol=1e-4, atol=1e-4)
    assert [outcome.members for outcome in predictor.outcomes] == [3, 3]  # 4 and 2 images, all members each
    again = InlinePredictor(tiny_pasture, tmp_path / "third-cache")
    for name, pred_NT in again.test(trial_refs(ledger), flips=flips).items():
        np.testing.assert_array_equal(pred_NT, found[name])
    assert again.outcomes == []  # kept: no second inference
    kept = list(Path(ledger.storage.uri).glob("ensembles/test-*/members/*.parquet"))
    assert len(kept) == 3 and not list(Path(ledger.storage.uri).glob("ensembles/test-*/shards/*/*"))


def test_each_photograph_is_decoded_once_for_all_members(fresh, tiny_pasture, tmp_path, monkeypatch):
    ledger, _ = fresh
    loads = []
    plain = images._load
    monkeypatch.setattr(
        images, "_load", lambda image, path: (loads.append((path.name, image.size)), plain(image, path))
    )
    predictor = InlinePredictor(tiny_pasture, tmp_path / "cache")
    predictor.test(trial_refs(ledger), flips=2)
    assert len(ledger.results()) == 3 and len(loads) == len(set(loads))  # once a scale that they ask for
    assert [outcome.decoded for outcome in predictor.outcomes] == [len(loads)] and len(loads) in (6, 12)


def test_kept_decodings_are_those_of_load_views_at_every_size(tiny_pasture):
    path = next((tiny_pasture / "train").iterdir())
    decoder = DecodeOnce()
    for layout, size in (("whole", 16), ("halves", 40), ("tiles-2x2", 16), ("whole", 16), ("whole", 64)):
        for stamp in ("keep", "remove"):
            views = views_for(layout, size)
            for one, other in zip(decoder(path, views, stamp=stamp), load_views(path, views, stamp=stamp), strict=True):
                np.testing.assert_array_equal(one, other)
    assert 1 < decoder.decoded <= 4  # one a scale


def test_an_interrupted_prediction_goes_on_where_it_was(fresh, tiny_pasture, tmp_path, monkeypatch):
    ledger, _ = fresh
    monkeypatch.setattr(shards, "SHARD_IMAGES", 2)
    broken = InlinePredictor(tiny_pasture, tmp_path / "cache", stop_after=1)
    with pytest.raises(LedgerError, match=r"the power went; what is done is kept"):
        broken.test(trial_refs(ledger), flips=1)
    second = InlinePredictor(tiny_pasture, tmp_path / "cache")
    found = second.test(trial_refs(ledger), flips=1)
    assert [outcome.members for outcome in second.outcomes] == [0, 0, 3]  # the second was done when the power went
    expected = by_hand(ledger, tiny_pasture, tmp_path / "cache", 1)
    for name, pred_NT in found.items():
        np.testing.assert_allclose(pred_NT, expected[name], rtol=1e-4, atol=1e-4)


def test_a_member_that_cannot_predict_is_named(fresh, tiny_pasture, tmp_path, monkeypatch):
    ledger, _ = fresh
    trial = next(iter(ledger.results()))
    monkeypatch.setattr(Ledger, "fold_model", lambda *_: b"no tensors")
    with pytest.raises(LedgerError, match=f"member {trial}"):
        InlinePredictor(tiny_pasture, tmp_path / "cache").test({trial: trial_refs(ledger)[trial]}, flips=1)


def test_out_of_fold_rows_without_flips_are_the_trials_own(fresh, tiny_pasture):
    """The same road with one copy must give the rows that the fit itself wrote down."""
    ledger, cache = fresh
    image_id = ledger.quadrats()["image_id"]
    found = InlinePredictor(tiny_pasture, cache).out_of_fold(trial_refs(ledger), image_id, flips=1)
    for name, pred_NT in found.items():
        rows = pd.concat([ledger.fold_oof(name, fold) for fold in range(3)]).set_index("image_id").loc[image_id]
        np.testing.assert_allclose(pred_NT, rows[list(TARGETS)], rtol=1e-4, atol=1e-4)
    flipped = InlinePredictor(tiny_pasture, cache).out_of_fold(trial_refs(ledger), image_id, flips=4)
    assert all(np.abs(flipped[name] - found[name]).max() > 1e-3 for name in found)


def ensemble(ledger: Ledger, data_dir: Path, predictor: Predictor | None, out: Path, **options) -> list[Path]:
    return run_ensemble(
        [ledger.storage.uri],
        FileMembers(),
        data_dir=data_dir,
        out=out,
        options=BlendOptions(**options),
        seed=0,
        open_predictor=lambda _: predictor,
        say=lambda _: None,
        show=lambda *_: None,
    )


def test_flips_are_measured_out_of_fold_and_used_only_where_they_gain(fresh, tiny_pasture, tmp_path):
    ledger, cache = fresh
    predictor = InlinePredictor(tiny_pasture, cache)
    (path,) = ensemble(ledger, tiny_pasture, predictor, tmp_path / "with.csv", flips=4, rule="top-5")
    assert check_submission(path, tiny_pasture) == []
    card = ledger.ensemble("with").card
    gain = card["flips_gain"]
    assert gain is not None and card["flips"] == (4 if gain["value"] > gain["se"] else 1)
    folders = {each.name.split("-flips-")[-1] for each in Path(ledger.storage.uri).glob("ensembles/test-*")}
    assert ("4" in folders) == (card["flips"] == 4)
    with pytest.raises(ValueError, match="flips must be 1"):
        BlendOptions(flips=3)


def test_candidates_are_written_side_by_side_and_valid(fresh, tiny_pasture, tmp_path):
    ledger, cache = fresh
    paths = ensemble(ledger, tiny_pasture, InlinePredictor(tiny_pasture, cache), tmp_path / "both", candidates=2)
    assert [path.name for path in paths] == ["submission.csv", "submission-2.csv"][: len(paths)]
    for path in paths:
        assert check_submission(path, tiny_pasture) == []
    card = json.loads((tmp_path / "both" / "ensemble.json").read_text())
    assert set(card["members"]) <= set(ledger.results())
    assert "trust this" in (tmp_path / "both" / "ensemble.txt").read_text()
    refs = ledger.ensemble("both").trials
    assert {ref.trial_id for ref in refs.values()} == set(card["members"])
    with pytest.raises(LedgerError, match="it has both"):
        ledger.ensemble("neither")


def test_two_studies_and_files_are_one_library(fresh, tiny_pasture, tmp_path):
    ledger, cache = fresh
    quadrats = ledger.quadrats()
    noise = np.random.default_rng(0).normal(0, 10, (24, 5))
    made = quadrats[["image_id"]].copy()
    made[list(TARGETS)] = np.maximum(quadrats[list(TARGETS)].to_numpy() + noise, 0)
    (tmp_path / "runs").mkdir()
    made.to_csv(tmp_path / "runs" / "mine.csv", index=False)
    tests = made[list(TARGETS)].head(6).copy()
    tests.insert(0, "image_id", read_test(tiny_pasture)["image_id"])
    tests.to_csv(tmp_path / "mine_test.csv", index=False)
    other = finished_study(tmp_path / "second", tiny_pasture, cache)
    cards = []
    files = FileMembers(oof=(str(tmp_path / "runs/*.csv"),), tests=(str(tmp_path / "*_test.csv"),))
    paths = run_ensemble(
        [ledger.storage.uri, other.storage.uri],
        files,
        data_dir=tiny_pasture,
        out=tmp_path / "mixed",
        options=BlendOptions(rule="top-9"),
        seed=0,
        open_predictor=lambda _: InlinePredictor(tiny_pasture, cache),
        say=lambda _: None,
        show=lambda card, *_: cards.append(card),
    )
    assert check_submission(paths[0], tiny_pasture) == []
    names = {*cards[0].members, *dict(cards[0].merged), *dict(cards[0].left_out)}
    assert names == {f"{folder}/{trial}" for folder in ("study", "second") for trial in ledger.results()} | {"mine"}
    assert cards[0].members["mine"] > 0


def test_studies_of_other_images_are_refused(fresh, tmp_path):
    ledger, _ = fresh
    shutil.copytree(ledger.storage.uri, tmp_path / "other")
    other = Ledger(type(ledger.storage)(tmp_path / "other"))
    quadrats = ledger.quadrats()
    quadrats.loc[0, "image_id"] = "stranger"
    other.write_study(ledger.study(), quadrats)
    with pytest.raises(LedgerError, match="2 are in only one of"):
        gather([ledger.storage.uri, other.storage.uri], FileMembers(), test_ids=None, seed=0, say=lambda _: None)
    quadrats = ledger.quadrats()
    quadrats.loc[0, "GDM_g"] += 1
    other.write_study(ledger.study(), quadrats)
    with pytest.raises(LedgerError, match="the same masses"):
        gather([ledger.storage.uri, other.storage.uri], FileMembers(), test_ids=None, seed=0, say=lambda _: None)
