"""`--post state` on the whole road: chances from photographs, card, submission, pages, bundle."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from blended_study import InlinePredictor, finished_study
from PIL import Image
from test_all_rows import as_searched
from tiny_study import BACKBONE, RANDOM

from biomass_models.errors import UserError
from biomass_models.features.states import StateBank, StateModel, fit_states, out_of_fold_states
from biomass_models.fold_rows import EXAM
from biomass_models.pasture.make import make_pasture
from biomass_models.targets import FROM_COMPONENTS, TARGETS, weighted_r2_score
from ensembles.blend import apply_blend
from ensembles.card import Card
from orchestration.answers.opened import BlendPlace, open_blend
from orchestration.blending.blend import BlendOptions, make_cards, run_ensemble
from orchestration.blending.exam import examine
from orchestration.blending.likeness import keep_likeness
from orchestration.blending.members import FileMembers, gather
from orchestration.blending.nested import blend_of
from orchestration.blending.states import fit_study_states, likely_states
from orchestration.bundle.export import export_bundle
from orchestration.bundle.predict import predict_bundle
from orchestration.study.data import StudyData
from orchestration.study.ledger import Ledger, LedgerError
from orchestration.study.storage import Storage

pytestmark = pytest.mark.slow

BANK = StateBank(backbone=BACKBONE, size=32, weights="w")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two states: WA, whose photographs are brighter, has no clover."""
    folder = tmp_path_factory.mktemp("states") / "data"
    make_pasture(folder, images=60, test_images=8, seed=0, width=160, height=80, workers=1)
    table = pd.read_csv(folder / "train.csv")
    dates = sorted(table["Sampling_Date"].unique())
    table["State"] = np.where(table["Sampling_Date"].isin(dates[::2]), "WA", "NSW")
    wide = table.pivot(index="image_path", columns="target_name", values="target")
    western = table.loc[table["State"] == "WA", "image_path"].unique()
    wide.loc[western, "Dry_Clover_g"] = 0.0
    wide["GDM_g"] = wide["Dry_Green_g"] + wide["Dry_Clover_g"]
    wide["Dry_Total_g"] = wide["GDM_g"] + wide["Dry_Dead_g"]
    table["target"] = [
        wide.loc[path, name] for path, name in zip(table["image_path"], table["target_name"], strict=True)
    ]
    table.to_csv(folder / "train.csv", index=False)
    tests = pd.read_csv(folder / "test.csv")["image_path"].unique()
    for path in [*western, *tests[:4]]:
        Image.open(folder / path).point(lambda value: 128 + value // 2).save(folder / path, quality=95)
    return folder


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, data: Path) -> tuple[Ledger, Path]:
    folder = tmp_path_factory.mktemp("state-rule")
    ledger = as_searched(finished_study(folder / "study", data, folder / "cache"), data)
    for place, (name, result) in enumerate(sorted(ledger.results().items())):
        oof, rng = ledger.oof(name), np.random.default_rng(place)
        truth_N3 = ledger.quadrats()[list(TARGETS[:3])].to_numpy()
        seen_N3 = truth_N3 + rng.gamma(4.0, [0.5, 0.5, 2.0], truth_N3.shape)  # clover is seen everywhere
        oof[list(TARGETS)] = seen_N3 @ FROM_COMPONENTS.T
        ledger.write_result(name, result, oof)
    return ledger, folder / "cache"


def blend(ledger: Ledger, data: Path | None, cache: Path, out: Path) -> list[Path]:
    return run_ensemble(
        [ledger.storage.uri],
        FileMembers(),
        data_dir=data,
        out=out,
        options=BlendOptions(rule="top-5", follow_ups=("state",)),
        seed=0,
        open_predictor=lambda given: InlinePredictor(given, cache),
        say=lambda _: None,
        show=lambda *_: None,
    )


def test_from_photographs_to_a_bundle(study: tuple[Ledger, Path], data: Path, tmp_path: Path) -> None:
    ledger, cache = study
    (path,) = blend(ledger, data, cache, tmp_path / "submission.csv")
    card = ledger.ensemble("submission").card
    gain = card["follow_up_gains"]["state"]
    assert card["follow_ups"] == ["state"] and gain["value"] > gain["se"]
    assert card["state_rule"]["never"] == {"NSW": [], "WA": ["Dry_Clover_g"]}
    bank = card["state_model"]["bank"]
    assert bank["backbone"].startswith(BACKBONE) and len(card["state_model"]["coefficients"]) == 2
    written = pd.read_csv(path)
    clover = written[written["sample_id"].str.endswith("Dry_Clover_g")].set_index("sample_id")["target"]
    ids = [Path(one).stem for one in pd.read_csv(data / "test.csv")["image_path"].unique()]
    assert (clover[[f"{one}__Dry_Clover_g" for one in ids[:4]]] == 0).all()  # they look like WA
    assert (clover[[f"{one}__Dry_Clover_g" for one in ids[4:]]] > 0).any()
    export_bundle(ledger.storage.uri, "submission", tmp_path / "bundle", weights=RANDOM)
    predict_bundle(tmp_path / "bundle", data, tmp_path / "mine.csv", weights=tmp_path, say=lambda _: None)
    assert (pd.read_csv(tmp_path / "mine.csv")["target"] - written["target"]).abs().max() <= 1e-5
    marker = json.loads((tmp_path / "bundle/bundle.json").read_text())
    assert marker["card"]["state_model"] == card["state_model"]
    found, why = blend_of(StudyData(ledger))  # pages make the nested rows again, without photographs
    assert found is not None, why
    rows_RNT = found.nested_RNT
    loss = found.library.loss_by_cell(rows_RNT).sum(-1).mean()
    assert 1 - loss / found.library.gram.sst == pytest.approx(card["nested_score"])


def test_lost_chances_are_made_again_by_another_blend(study: tuple[Ledger, Path], data: Path, tmp_path: Path) -> None:
    ledger, cache = Ledger(Storage(shutil.copytree(study[0].storage.uri, tmp_path / "study"))), study[1]
    for _ in range(2):
        blend(ledger, data, cache, tmp_path / "submission.csv")
        assert blend_of(StudyData(ledger))[0] is not None
        (kept,) = Path(ledger.storage.uri).glob("ensembles/oof-states-*")
        shutil.rmtree(kept)
        found, why = blend_of(StudyData(ledger))
        assert found is None and "blend again with --post state" in str(why)


def test_an_exam_is_scored_with_it(study: tuple[Ledger, Path], data: Path, tmp_path: Path) -> None:
    ledger, cache = study
    blend(ledger, data, cache, tmp_path / "examined.csv")
    copy = Ledger(Storage(shutil.copytree(ledger.storage.uri, tmp_path / "copy")))
    quadrats = copy.quadrats()
    copy.write_study(copy.study(), quadrats.assign(fold=np.where(quadrats.index < 9, EXAM, quadrats["fold"])))
    kept, predictor = copy.exam_quadrats(), InlinePredictor(data, cache)
    card = Card.from_json(copy.ensemble("examined").card)
    likely_NS = likely_states(card, predictor, copy.storage.uri, exam=True)
    assert kept is not None and likely_NS is not None and likely_NS.shape == (9, 2)
    members = {member: ref for member, ref in copy.ensemble("examined").trials.items() if member in card.members}
    pred_NT = apply_blend(card, predictor.exam(copy, members, flips=1), likely_NS)
    record = examine(copy, predictor, "examined")
    assert record.score == pytest.approx(weighted_r2_score(kept[list(TARGETS)].to_numpy(), pred_NT))


def test_it_is_refused_without_photographs_states_or_trials(
    study: tuple[Ledger, Path], data: Path, tmp_path: Path
) -> None:
    ledger, cache = study
    with pytest.raises(UserError, match="needs the photographs"):
        blend(ledger, None, cache, tmp_path / "out")
    with pytest.raises(UserError, match="needs the photographs and a study's trials"):
        run_ensemble(
            [],
            FileMembers(oof=("x.csv",), truth=data),
            data_dir=None,
            out=tmp_path / "out",
            options=BlendOptions(follow_ups=("state",)),
            seed=0,
            open_predictor=lambda _: None,  # type: ignore[arg-type, return-value]
            say=lambda _: None,
            show=lambda *_: None,
        )
    copy = Ledger(Storage(shutil.copytree(ledger.storage.uri, tmp_path / "copy")))
    quadrats = copy.quadrats()
    for change, text in (
        (quadrats.assign(State="WA"), r"this study has one \(WA\)"),
        (quadrats.drop(columns="State"), "this study has none"),
        (quadrats.assign(State=quadrats["State"].where(quadrats.index > 2)), "3 photographs of 60 have none"),
    ):
        copy.write_study(copy.study(), change)
        with pytest.raises(UserError, match=text):
            blend(copy, data, cache, tmp_path / "out")


def test_a_first_study_without_members_leaves_the_backbone_to_the_next(
    study: tuple[Ledger, Path], data: Path, tmp_path: Path
) -> None:
    """Its trials repeat those of the other study, in another order of the photographs, and are worse."""
    other, cache = study
    first = Ledger(Storage(shutil.copytree(other.storage.uri, tmp_path / "first")))
    order = np.random.default_rng(0).permutation(len(first.quadrats()))
    first.write_study(first.study(), first.quadrats().iloc[order].reset_index(drop=True))
    for name, result in first.results().items():
        oof = first.oof(name)
        oof[list(TARGETS)] *= 1 + 1e-9
        first.write_result(name, replace(result, score=(result.score or 0) - 1e-9), oof)
    studies = [first.storage.uri, other.storage.uri]
    files, ids = FileMembers(), [Path(one).stem for one in pd.read_csv(data / "test.csv")["image_path"].unique()]
    gathered = gather(studies, files, test_ids=ids, seed=0, say=lambda _: None)
    predictor = InlinePredictor(data, cache)
    members = gathered.trials
    assert {ref.study for ref in members.values()} == {other.storage.uri}
    library, model = fit_study_states(studies, members, gathered.library, predictor)
    alone, same = fit_study_states(studies[1:], members, gathered.library, predictor)
    assert library.states is not None and alone.states is not None
    np.testing.assert_allclose(library.states.likely_NS, alone.states.likely_NS, atol=1e-6)
    np.testing.assert_allclose(model.coefficients, same.coefficients, atol=1e-4)
    with pytest.raises(UserError, match="none is among the members; leave it out"):
        fit_study_states(studies, {}, gathered.library, predictor)
    with pytest.raises(LedgerError, match="has none; predict without --data"):
        keep_likeness(first, make_cards(gathered, BlendOptions(), None, lambda _: None)[0], members, predictor)


def test_other_weights_of_its_backbone_are_refused_on_every_road(
    study: tuple[Ledger, Path], data: Path, tmp_path: Path
) -> None:
    """The members' weights are as they were: the state model's backbone is another choice."""
    ledger, cache = Ledger(Storage(shutil.copytree(study[0].storage.uri, tmp_path / "study"))), study[1]
    blend(ledger, data, cache, tmp_path / "submission.csv")
    record, place = ledger.ensemble("submission"), BlendPlace(ledger.storage.uri, "submission", RANDOM)
    assert open_blend(place).state_model is not None
    card = json.loads(json.dumps(record.card))
    card["state_model"]["bank"]["weights"] = "0123456789abcdef"
    ledger.write_ensemble("submission", card, record.trials, b"")
    changed, predictor = Card.from_json(card), InlinePredictor(data, cache)
    bank = StateModel.from_json(card["state_model"]).bank
    trial = next(iter(record.trials))
    for road in (
        lambda: open_blend(place),
        lambda: open_blend(place._replace(weights=None)),
        lambda: export_bundle(ledger.storage.uri, "submission", tmp_path / "bundle", weights=RANDOM),
        lambda: likely_states(changed, predictor, ledger.storage.uri),
        lambda: predictor.train_features(ledger, trial, bank),
    ):
        with pytest.raises(LedgerError, match=r"the state rule was fitted on .* with weights 0123456789abcdef, got"):
            road()


def test_chances_are_scikit_learns_and_sum_to_one() -> None:
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    for names in (("A", "B"), ("A", "B", "C")):
        state_N = np.array(names)[np.arange(60) % len(names)]
        feature_NF = rng.normal(3, 2, (60, 5)) + (state_N == "B")[:, None]
        model = StateModel.from_json(fit_states(BANK, names, feature_NF, state_N).to_json())
        scaled_NF = (feature_NF - feature_NF.mean(0)) / feature_NF.std(0) / np.sqrt(5)
        oracle = LogisticRegression(C=10.0, max_iter=5000).fit(scaled_NF, state_N)
        np.testing.assert_allclose(model.likely(feature_NF), oracle.predict_proba(scaled_NF), atol=1e-8)


def test_no_state_of_a_fold_reaches_its_chances() -> None:
    rng = np.random.default_rng(1)
    feature_NF, fold_N = rng.normal(size=(40, 4)), np.arange(40) % 4
    state_N = np.where(rng.random(40) < 0.5, "A", "B")

    def chances(state_N: np.ndarray) -> np.ndarray:
        return out_of_fold_states(BANK, ("A", "B", "C"), feature_NF, state_N, fold_N, ordered=False)

    before_NS = chances(state_N)
    np.testing.assert_allclose(before_NS.sum(1), 1)
    assert (before_NS[:, 2] == 0).all()  # a state that no row has
    after_NS = chances(np.where(fold_N == 2, "C", state_N))
    np.testing.assert_array_equal(before_NS[fold_N == 2], after_NS[fold_N == 2])
    assert (before_NS[fold_N != 2] != after_NS[fold_N != 2]).any()
