"""Members fitted on all labelled rows: made once, kept in the study, and what predicts with them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from blended_study import InlinePredictor, finished_study
from commands import output, words_of
from safetensors.torch import load as load_tensors
from tiny_study import RANDOM, make_study

from biomass_models.data.table import read_test, read_train
from biomass_models.families.configs import config_from_params
from biomass_models.families.registry import model
from biomass_models.features.inputs import ImageSet, Inputs
from biomass_models.pasture.make import make_pasture
from biomass_models.targets import TARGETS
from ensembles.card import Card
from orchestration.blending.blend import BlendOptions, run_ensemble
from orchestration.blending.members import FileMembers
from orchestration.bundle.export import export_bundle
from orchestration.bundle.predict import predict_bundle
from orchestration.inspect.audit import audit
from orchestration.inspect.trace import trace
from orchestration.inspect.trace_page import render_trace
from orchestration.report.make import make_report
from orchestration.search.trial import run_trial
from orchestration.study.data_changes import all_quadrats, data_fingerprint, photograph_table
from orchestration.study.ledger import Ledger, LedgerError, predicting_models
from orchestration.study.records import TrialRef
from orchestration.study.storage import Storage
from orchestration.workers.slots.inline_pool import InlinePool

pytestmark = pytest.mark.slow


def as_searched(ledger: Ledger, data: Path) -> Ledger:
    """The study knows its photographs, as one that a search has made."""
    here = read_train(data)
    images = ImageSet.from_table(data, here)
    joined = here.merge(all_quadrats(ledger)[["image_id", "fold", "group"]], on="image_id")
    ledger.write_photographs(photograph_table(here, images.digests))
    ledger.update_study(replace(ledger.study(), data_fingerprint=data_fingerprint(joined, images.digest)))
    return ledger


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, tiny_pasture: Path) -> tuple[Ledger, Path]:
    folder = tmp_path_factory.mktemp("all-rows")
    return as_searched(finished_study(folder / "study", tiny_pasture, folder / "cache"), tiny_pasture), folder / "cache"


@pytest.fixture
def fresh(study: tuple[Ledger, Path], tmp_path: Path) -> tuple[Ledger, Path]:
    ledger, cache = study
    return Ledger(Storage(shutil.copytree(ledger.storage.uri, tmp_path / "study"))), cache


def refs_of(ledger: Ledger) -> dict[str, TrialRef]:
    return {name: TrialRef(ledger.storage.uri, name) for name in ledger.results()}


def models_of(ledger: Ledger) -> dict[str, bytes | None]:
    return {name: ledger.all_rows_model(name) for name in ledger.results()}


def blend(ledger: Ledger, data: Path, predictor: InlinePredictor, out: Path, all_rows: str) -> Path:
    (path,) = run_ensemble(
        [ledger.storage.uri],
        FileMembers(),
        data_dir=data,
        out=out,
        options=BlendOptions(rule="top-5", all_rows=all_rows),
        seed=0,
        open_predictor=lambda _: predictor,
        say=lambda _: None,
        show=lambda *_: None,
    )
    return path


def test_each_mode_predicts_by_the_mean_of_its_models(fresh: tuple[Ledger, Path], tiny_pasture: Path) -> None:
    ledger, cache = fresh
    predictor = InlinePredictor(tiny_pasture, cache)
    refs = refs_of(ledger)
    found = {how: predictor.test(refs, flips=1, all_rows=how) for how in ("none", "instead", "beside")}
    inputs = Inputs(ImageSet.from_table(tiny_pasture, read_test(tiny_pasture)), cache_dir=cache, weights=RANDOM)
    for name in refs:
        record = ledger.trial(name)
        config = config_from_params(record.family, record.config)
        folds = [ledger.fold_model(name, fold) for fold in range(3)]
        all_rows = ledger.all_rows_model(name)
        assert all_rows is not None and ledger.all_rows(name).rows == len(ledger.quadrats())
        for how, models in (("none", folds), ("instead", [all_rows]), ("beside", [*folds, all_rows])):
            by_hand = [model(record.family).predict(config, load_tensors(one), inputs) for one in models]
            np.testing.assert_allclose(found[how][name], np.mean(by_hand, axis=0), rtol=1e-4, atol=1e-4)
            assert [one for _, one in predicting_models(ledger, name, how)] == models


def test_it_is_fitted_once_and_comes_out_the_same(fresh: tuple[Ledger, Path], tiny_pasture: Path) -> None:
    ledger, cache = fresh
    InlinePredictor(tiny_pasture, cache).fit_on_all_rows(refs_of(ledger))
    first = models_of(ledger)
    assert None not in first.values()
    again = InlinePredictor(tiny_pasture, cache)
    again.fit_on_all_rows(refs_of(ledger))
    assert again.outcomes == []
    torn, lost, *_ = refs_of(ledger)
    root = Path(ledger.storage.uri) / "trials"
    (root / torn / "all-rows/model.safetensors").write_bytes(b"torn")
    (root / lost / "all-rows/all-rows.json").unlink()
    assert any("torn" in text for text in audit(ledger).problems)
    with pytest.raises(LedgerError, match="none that is whole"):
        list(predicting_models(ledger, torn, "instead"))
    broken = InlinePredictor(tiny_pasture, cache, stop_after=1)
    with pytest.raises(LedgerError, match="the power went; what is done is kept"):
        broken.fit_on_all_rows(refs_of(ledger))
    last = InlinePredictor(tiny_pasture, cache)
    last.fit_on_all_rows(refs_of(ledger))
    assert models_of(ledger) == first  # the same bytes, whoever went on


def test_a_fold_that_is_not_finished_is_named(fresh: tuple[Ledger, Path], tiny_pasture: Path) -> None:
    ledger, cache = fresh
    trial_id, ref = next(iter(refs_of(ledger).items()))
    marker = Path(ledger.storage.uri) / "trials" / trial_id / "fold-1" / "metrics.json"
    finished = marker.read_bytes()
    marker.unlink()
    with pytest.raises(LedgerError, match=r"fold 1 of trial .* is not finished; run `biomass search` again"):
        InlinePredictor(tiny_pasture, cache).fit_on_all_rows({trial_id: ref})
    marker.write_bytes(finished)  # what a search that goes on ends with
    InlinePredictor(tiny_pasture, cache).fit_on_all_rows({trial_id: ref})
    assert models_of(ledger)[trial_id] is not None


def test_another_label_is_refused(fresh: tuple[Ledger, Path], own_pasture: Path) -> None:
    ledger, cache = fresh
    table = pd.read_csv(own_pasture / "train.csv")
    table.loc[table.index[:5], "target"] *= 2
    table.to_csv(own_pasture / "train.csv", index=False)
    with pytest.raises(LedgerError, match=r"fitted on all rows from what it was made of.*changed"):
        InlinePredictor(own_pasture, cache).fit_on_all_rows(refs_of(ledger))


def test_labels_of_an_exam_change_nothing(study: tuple[Ledger, Path], own_pasture: Path, tmp_path: Path) -> None:
    _, cache = study
    here = read_train(own_pasture)
    groups = here.groupby(["State", "Sampling_Date"], sort=True).ngroup().to_numpy()
    folds = pd.DataFrame({"image_id": here["image_id"], "fold": (groups % 4).astype(str)})
    folds.loc[groups % 4 == 3, "fold"] = "exam"
    folds.to_csv(tmp_path / "folds.csv", index=False)
    ledger, context, records = make_study(
        tmp_path / "study", own_pasture, cache, scheme="file", file=tmp_path / "folds.csv"
    )
    as_searched(ledger, own_pasture)
    for record in records:
        run_trial(ledger, InlinePool(context), record.trial_id)
    kept, learned = ledger.exam_quadrats(), ledger.quadrats()
    assert kept is not None and len(kept) + len(learned) == len(here)
    refs = {record.trial_id: TrialRef(ledger.storage.uri, record.trial_id) for record in records}
    InlinePredictor(own_pasture, cache).fit_on_all_rows(refs)
    first = {name: ledger.all_rows_model(name) for name in refs}
    assert {ledger.all_rows(name).rows for name in refs} == {len(learned)}
    for name in refs:
        shutil.rmtree(Path(ledger.storage.uri) / "trials" / name / "all-rows")
    table = pd.read_csv(own_pasture / "train.csv")
    table.loc[table["image_path"].isin(kept["image_path"]), "target"] *= 3.0
    table.to_csv(own_pasture / "train.csv", index=False)
    kept[list(TARGETS)] *= 3.0
    kept.to_parquet(Path(ledger.storage.uri) / "exam.parquet")
    as_searched(ledger, own_pasture)
    InlinePredictor(own_pasture, cache).fit_on_all_rows(refs)
    assert {name: ledger.all_rows_model(name) for name in refs} == first


def test_under_time_it_has_the_settings_of_the_last_block(tmp_path: Path) -> None:
    data = tmp_path / "data"
    make_pasture(data, images=36, test_images=0, seed=0, width=160, height=80, workers=1)
    ledger, context, records = make_study(tmp_path / "study", data, tmp_path / "cache", scheme="time")
    as_searched(ledger, data)
    record = next(one for one in records if one.family == "baseline")
    run_trial(ledger, InlinePool(context), record.trial_id)
    refs = {record.trial_id: TrialRef(ledger.storage.uri, record.trial_id)}
    InlinePredictor(data, tmp_path / "cache").fit_on_all_rows(refs)
    fold_N = ledger.quadrats()["fold"]
    batch, epochs = record.config["batch_size"], record.config["epochs"]
    steps = -(-int((fold_N < fold_N.max()).sum()) // batch) * epochs
    made = ledger.all_rows(record.trial_id)
    assert made.rows == len(fold_N) and made.epochs == max(1, round(steps / -(-len(fold_N) // batch)))
    assert [name for name, _ in predicting_models(ledger, record.trial_id)] == [f"fold-{fold_N.max()}"]


def test_card_and_pages_name_it_and_a_bundle_gets_the_same_numbers(
    fresh: tuple[Ledger, Path], tiny_pasture: Path, tmp_path: Path
) -> None:
    ledger, cache = fresh
    plain = blend(ledger, tiny_pasture, InlinePredictor(tiny_pasture, cache), tmp_path / "plain.csv", "none")
    assert list(Path(ledger.storage.uri).glob("trials/*/all-rows")) == []
    with pytest.raises(LedgerError, match="give --data"):
        export_bundle(ledger.storage.uri, "plain", tmp_path / "early", weights=RANDOM, all_rows="instead")
    instead = blend(ledger, tiny_pasture, InlinePredictor(tiny_pasture, cache), tmp_path / "instead.csv", "instead")
    cards = {name: ledger.ensemble(name).card for name in ("plain", "instead")}
    assert {key for key in cards["plain"] if cards["plain"][key] != cards["instead"][key]} == {"all_rows"}
    old = {key: value for key, value in cards["plain"].items() if key != "all_rows"}  # of an earlier version
    assert Card.from_json(old) == Card.from_json(cards["plain"])
    said: list[str] = []
    export_bundle(ledger.storage.uri, "instead", tmp_path / "bundle", weights=RANDOM)
    marker = json.loads((tmp_path / "bundle/bundle.json").read_text())
    assert all([Path(path).name for path in one["models"]] == ["all-rows.safetensors"] for one in marker["members"])
    predict_bundle(tmp_path / "bundle", tiny_pasture, tmp_path / "mine.csv", weights=tmp_path, say=said.append)
    mine, theirs, others = (pd.read_csv(path)["target"] for path in (tmp_path / "mine.csv", instead, plain))
    assert (mine - theirs).abs().max() <= 1e-5 < (mine - others).abs().max()
    text = "it has no score of its own"
    assert text in " ".join(said) and text in words_of(make_report(ledger))
    assert "fitted on all rows, instead the fold models" in render_trace(trace(instead, [ledger.storage.uri]))


def test_export_fits_what_it_lacks(fresh: tuple[Ledger, Path], tiny_pasture: Path, tmp_path: Path) -> None:
    ledger, cache = fresh
    blend(ledger, tiny_pasture, InlinePredictor(tiny_pasture, cache), tmp_path / "plain.csv", "none")
    words = ["export", ledger.storage.uri, "plain", "--out", str(tmp_path / "bundle"), "--all-rows", "beside"]
    output(*words, "--data", str(tiny_pasture), "--inline", "--cache", str(cache))
    marker = json.loads((tmp_path / "bundle/bundle.json").read_text())
    names = [f"fold-{fold}.safetensors" for fold in range(3)] + ["all-rows.safetensors"]
    assert all([Path(path).name for path in one["models"]] == names for one in marker["members"])
    assert Card.from_json(marker["card"]).all_rows == "beside"
    masses = tmp_path / "masses.csv"
    output("predict", str(tmp_path / "bundle"), str(tiny_pasture / "test"), "--out", str(masses), "--cache", str(cache))
    for path in (tmp_path / "bundle", masses):  # the ensemble is the one that it was exported from
        assert trace(path, [ledger.storage.uri]).note is None
