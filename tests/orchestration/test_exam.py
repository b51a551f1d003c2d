"""Dates that nothing learns from: kept apart from the begin, scored once for each blend, every look on record."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from commands import output
from released import STUDIES
from typer.testing import CliRunner

from biomass_models.backbones.weights import WeightsSource
from biomass_models.data.folds import fold_hash
from biomass_models.data.table import read_train
from biomass_models.fold_rows import EXAM
from biomass_models.targets import TARGETS, weighted_r2_score
from ensembles.blend import apply_blend
from ensembles.card import Card
from orchestration.blending.exam import exam_lines, examine
from orchestration.blending.predict import Predictor
from orchestration.cli import app
from orchestration.inspect.audit import audit
from orchestration.inspect.explain import explain
from orchestration.search.presets.options import Preset, StudyOptions
from orchestration.search.start import start_search
from orchestration.study.derived.blends import Origin
from orchestration.study.ledger import Ledger, LedgerError
from orchestration.study.records import Asked, TrialRef
from orchestration.study.settings import StudyError
from orchestration.study.storage import Storage
from orchestration.workers.resources import Resources

pytestmark = pytest.mark.slow

RANDOM = WeightsSource("random")
TINY = StudyOptions(families=("probe",), backbones=("test_vit",), weights="random", scale="smoke", folds=3, exam=0.25)


def search(study: Path, data: Path, options: StudyOptions = TINY, **typed: Any) -> Ledger:
    resources = Resources(inline=True, cache=study.parent / "cache")
    start_search(
        str(study),
        data,
        Preset(study=options, resources=resources).with_fields(trials=2),
        weights=RANDOM,
        resources=resources,
        say=lambda text: None,
        made_with=Asked(overrides=typed),
    )
    return Ledger(Storage(study))


def store_blend(ledger: Ledger, name: str, weights: list[float], created_at: float | None = None) -> Card:
    """A blend of the study's trials with these weights; only its members and weights matter here."""
    written = (STUDIES / "finished" / "ensembles" / "submission" / "ensemble.json").read_text()
    names = sorted(ledger.results())
    content = json.loads(written)["card"] | {"members": dict(zip(names, weights, strict=True)), "flips": 1}
    card = Card.from_json(content | {"target_weights": None, "calibration": None, "floors": None})
    refs = {name: TrialRef(ledger.storage.uri, name) for name in names}
    origin = None if created_at is None else Origin(created_at=created_at)
    ledger.write_ensemble(name, card.to_json(), refs, b"sample_id,target\n", origin=origin)
    return card


@pytest.fixture(scope="module")
def examined(tmp_path_factory: pytest.TempPathFactory, tiny_pasture: Path) -> Path:
    folder = tmp_path_factory.mktemp("exam")
    search(folder / "study", tiny_pasture)
    return folder


@pytest.fixture
def study(examined: Path, tmp_path: Path) -> Ledger:
    return Ledger(Storage(Path(shutil.copytree(examined / "study", tmp_path / "study"))))


def predictor(data: Path, folder: Path) -> Predictor:
    return Predictor(data, resources=Resources(inline=True, cache=folder / "cache"), weights=RANDOM)


def test_whole_dates_are_kept_from_all_that_learns(examined: Path, tiny_pasture: Path) -> None:
    ledger = Ledger(Storage(examined / "study"))
    kept, learned, here = ledger.exam_quadrats(), ledger.quadrats(), read_train(tiny_pasture)
    assert kept is not None and set(kept["fold"]) == {EXAM}
    assert not set(kept["group"]) & set(learned["group"]) and kept["group"].nunique() >= 2
    assert sorted([*kept["image_id"], *learned["image_id"]]) == sorted(here["image_id"])
    assert 0.1 <= len(kept) / len(here) <= 0.4
    tables = [ledger.oof(name) for name in ledger.results()]
    references = ledger.references()
    assert references is not None
    for table in [*tables, references]:
        assert set(table["image_id"]) == set(learned["image_id"])
    assert audit(ledger).clean


def test_what_an_exam_holds_changes_nothing_that_is_learned(examined: Path, own_pasture: Path, tmp_path: Path) -> None:
    ledger = Ledger(Storage(examined / "study"))
    kept = ledger.exam_quadrats()
    assert kept is not None
    table = pd.read_csv(own_pasture / "train.csv")
    exam_rows = table["image_path"].isin(kept["image_path"])
    table.loc[exam_rows, "target"] *= 3.0
    table.to_csv(own_pasture / "train.csv", index=False)
    other = search(tmp_path / "study", own_pasture)
    assert other.results().keys() == ledger.results().keys()
    for name in ledger.results():
        pd.testing.assert_frame_equal(other.oof(name), ledger.oof(name), check_exact=True)


def test_the_score_is_that_of_the_blend_on_the_kept_dates(study: Ledger, examined: Path, tiny_pasture: Path) -> None:
    card = store_blend(study, "mean", [0.5, 0.5])
    predict = predictor(tiny_pasture, examined)
    record = examine(study, predict)
    kept = study.exam_quadrats()
    assert kept is not None
    members = predict.exam(study, study.ensemble("mean").trials, flips=1)
    truth_NT = kept[list(TARGETS)].to_numpy()
    pred_NT = apply_blend(card, members)
    assert record.score == pytest.approx(weighted_r2_score(truth_NT, pred_NT), abs=1e-12)
    assert (record.images, record.dates) == (len(kept), kept["group"].nunique())
    rmse_T = np.sqrt(((truth_NT - pred_NT) ** 2).mean(0))
    assert list(record.target_rmse_g.values()) == pytest.approx(list(rmse_T))
    assert record.nested_score == card.nested_score


def test_the_command_takes_the_weights_of_the_search(study: Ledger, examined: Path, tiny_pasture: Path) -> None:
    store_blend(study, "mean", [0.5, 0.5])
    words = ["exam", study.storage.uri, "--data", str(tiny_pasture), "--inline", "--cache", str(examined / "cache")]
    other = CliRunner().invoke(app, [*words, "--weights", "auto"])
    assert isinstance(other.exception, LedgerError) and str(other.exception).endswith("leave --weights out")
    assert "exam of mean" in output(*words)


def test_every_look_is_on_record_and_a_second_blend_is_warned_of(
    study: Ledger, examined: Path, tiny_pasture: Path
) -> None:
    store_blend(study, "mean", [0.5, 0.5])
    predict = predictor(tiny_pasture, examined)
    first = examine(study, predict)
    assert "the first look" in "\n".join(exam_lines(first, study.exams()))
    again = examine(study, predict, "mean")
    assert again.score == first.score and again.looks[:1] == first.looks and len(again.looks) == 2
    store_blend(study, "other", [1.0, 0.0])
    other = examine(study, predict, "other")
    text = "\n".join(exam_lines(other, study.exams()))
    assert "look 3 of this study, at 2 blends" in text and "flattered" in text
    store_blend(study, "other", [0.9, 0.1])  # another blend under the same name is another look at another blend
    examine(study, predict, "other")
    assert [len(one.looks) for one in study.exams()] == [2, 1, 1]


def test_an_exam_needs_kept_dates_a_blend_and_members_of_the_study(
    study: Ledger, examined: Path, tiny_pasture: Path, tmp_path: Path
) -> None:
    predict = predictor(tiny_pasture, examined)
    with pytest.raises(LedgerError, match="has none; make one: biomass ensemble"):
        examine(study, predict)
    store_blend(study, "mean", [0.5, 0.5])
    stored = study.ensemble("mean")
    foreign = {name: ref._replace(study="/elsewhere") for name, ref in stored.trials.items()}
    study.write_ensemble("foreign", stored.card, foreign, b"sample_id,target\n")
    with pytest.raises(LedgerError, match="from elsewhere"):
        examine(study, predict, "foreign")
    plain = search(tmp_path / "plain" / "study", tiny_pasture, replace(TINY, exam=0.0))
    assert plain.exam_quadrats() is None
    with pytest.raises(LedgerError, match="keeps none; search another study"):
        examine(plain, predict)


def test_what_is_lost_or_torn_is_named_and_not_taken_for_nothing(
    study: Ledger, examined: Path, tiny_pasture: Path
) -> None:
    store_blend(study, "mean", [0.5, 0.5])
    predict = predictor(tiny_pasture, examined)
    examine(study, predict)
    (record,) = Path(study.storage.uri).glob("exams/*.json")
    whole = record.read_bytes()
    record.write_bytes(whole[:40])
    with pytest.raises(LedgerError, match="how often the exam was looked at; copy it back from another copy"):
        examine(study, predict)
    assert not audit(study).clean
    record.write_bytes(whole)
    assert audit(study).clean and len(examine(study, predict).looks) == 2
    table = Path(study.storage.uri) / "exam.parquet"
    content = table.read_bytes()
    table.unlink()
    with pytest.raises(LedgerError, match=r"holds the \d+ images of the study's exam, got no readable one"):
        examine(study, predict)
    assert not audit(study).clean
    table.write_bytes(content)
    assert audit(study).clean


def test_a_table_that_an_earlier_try_left_behind_is_no_exam(examined: Path, tiny_pasture: Path, tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    shutil.copy(examined / "study" / "exam.parquet", tmp_path / "study")
    plain = search(tmp_path / "study", tiny_pasture, replace(TINY, exam=0.0))
    assert plain.exam_quadrats() is None and plain.study().exam_images == 0
    assert search(tmp_path / "study", tiny_pasture, replace(TINY, exam=0.0)).results().keys() == plain.results().keys()


def test_other_photographs_than_those_that_were_kept_are_refused(
    study: Ledger, examined: Path, own_pasture: Path
) -> None:
    store_blend(study, "mean", [0.5, 0.5])
    kept = study.exam_quadrats()
    assert kept is not None
    one, other = (own_pasture / str(path) for path in kept["image_path"][:2])
    shutil.copy(one, other)
    with pytest.raises(LedgerError, match="photographs that the study has kept, 1 is another"):
        examine(study, predictor(own_pasture, examined))
    assert study.exams() == []


def test_the_exam_is_of_the_blend_that_pages_show(study: Ledger, examined: Path, tiny_pasture: Path) -> None:
    """Candidates of one command have one moment: the first of them is the default's blend."""
    for name, weights in (("sub", [0.5, 0.5]), ("sub-2", [1.0, 0.0]), ("sub-10", [0.0, 1.0])):
        store_blend(study, name, weights, created_at=7.0)
    assert examine(study, predictor(tiny_pasture, examined)).ensemble == "sub"


def test_an_image_of_the_exam_is_not_explained(study: Ledger, tiny_pasture: Path, tmp_path: Path) -> None:
    kept = study.exam_quadrats()
    assert kept is not None
    with pytest.raises(LedgerError, match="is no image of the exam"):
        explain(
            study,
            next(iter(study.results())),
            str(kept["image_id"].iloc[0]),
            tiny_pasture,
            cache_dir=tmp_path,
            weights=RANDOM,
        )


def test_the_share_belongs_to_the_study(examined: Path, tiny_pasture: Path) -> None:
    before = fold_hash(Ledger(Storage(examined / "study")).quadrats())
    with pytest.raises(StudyError, match=r"exam: 0.25 -> 0.4"):
        search(examined / "study", tiny_pasture, replace(TINY, exam=0.4), exam=0.4)
    search(examined / "study", tiny_pasture, replace(TINY, exam=0.0))  # not typed: the study's own
    assert fold_hash(Ledger(Storage(examined / "study")).quadrats()) == before


def test_a_photograph_of_the_exam_stays_what_it_was(examined: Path, own_pasture: Path, tmp_path: Path) -> None:
    study = Path(shutil.copytree(examined / "study", tmp_path / "study"))
    kept = Ledger(Storage(study)).exam_quadrats()
    assert kept is not None
    one, other = (own_pasture / str(path) for path in kept["image_path"][:2])
    shutil.copy(one, other)
    with pytest.raises(StudyError, match="1 photograph replaced"):
        search(study, own_pasture)
