"""A study of more labelled photographs: it begins with what was best before, encodes what is new, and is compared."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from biomass_models.backbones.weights import WeightsSource
from biomass_models.data.folds import FoldError, assign_folds
from biomass_models.data.table import read_train
from biomass_models.families.probe.config import ProbeConfig
from biomass_models.features import inputs
from biomass_models.fold_rows import EXAM
from biomass_models.targets import TARGETS, weighted_r2_score
from orchestration.blending.followed import followed_blend
from orchestration.blending.nested import blend_of
from orchestration.cli import app
from orchestration.search.following import begin_with
from orchestration.search.preflight import check_search
from orchestration.search.presets.options import Preset
from orchestration.search.start import start_search
from orchestration.study.data import StudyData
from orchestration.study.ledger import Ledger
from orchestration.study.records import Asked
from orchestration.study.settings import StudyError
from orchestration.study.storage import Storage
from orchestration.workers.resources import Resources
from search_spaces.own_ranges import changed_space
from search_spaces.range_files import read_changes
from search_spaces.ranges_text import space_toml
from search_spaces.spaces import space_of

pytestmark = pytest.mark.slow

ADDED = 6  # photographs that the older study did not have


def preset(folder: Path, **typed: Any) -> Preset:
    tiny = Preset(resources=Resources(inline=True, cache=folder / "cache")).with_fields(
        families=("probe",), backbones=("test_vit",), weights="random", scale="smoke", folds=3, trials=4
    )
    return tiny.with_fields(**typed)


def search(folder: Path, name: str, data: Path, **typed: Any) -> list[str]:
    """What a search says."""
    said: list[str] = []
    asked = preset(folder, **typed)
    start_search(
        str(folder / name),
        data,
        asked,
        weights=WeightsSource("random"),
        resources=asked.resources,
        say=said.append,
        made_with=Asked(overrides=typed),
    )
    return said


def read(folder: Path, name: str) -> StudyData:
    return StudyData(Ledger(Storage(folder / name)))


def give_skill(study: StudyData) -> None:
    """Mixes half of the truth into the pooled rows: random weights have no skill, and such trials are not blended."""
    for trial in study.ranked:
        assert trial.result is not None
        oof = study.ledger.oof(trial.trial_id)
        truth = study.quadrats.set_index("image_id").loc[oof["image_id"], list(TARGETS)]
        oof[list(TARGETS)] = (oof[list(TARGETS)].to_numpy() + truth.to_numpy()) / 2
        study.ledger.write_result(trial.trial_id, trial.result, oof)


@dataclass(frozen=True)
class Made:
    folder: Path
    data: Path
    fewer: Path  # the same data without some photographs, and with one other label
    said: str
    encoded: list[str]  # image ids that the newer search encoded


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_pasture: Path) -> Made:
    folder = tmp_path_factory.mktemp("following")
    fewer = Path(shutil.copytree(tiny_pasture, folder / "fewer"))
    table = pd.read_csv(fewer / "train.csv")
    kept = table["image_path"].unique()[ADDED:]
    table = table[table["image_path"].isin(kept)]
    table.iloc[-1, table.columns.get_loc("target")] += 1.0
    table.to_csv(fewer / "train.csv", index=False)
    search(folder, "old", fewer)
    encoded: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        real = inputs.encode

        def noted(*given: Any, **named: Any) -> Any:
            encoded.extend(Path(path).stem for path in given[2])
            return real(*given, **named)

        patch.setattr(inputs, "encode", noted)
        said = search(folder, "new", tiny_pasture, from_=str(folder / "old"))
    for name in ("old", "new"):
        give_skill(read(folder, name))
    return Made(folder=folder, data=tiny_pasture, fewer=fewer, said="\n".join(said), encoded=encoded)


def test_it_begins_with_the_best_settings_and_observes_no_old_score(made: Made) -> None:
    old, new = read(made.folder, "old"), read(made.folder, "new")
    best = [dict(trial.record.params) for trial in old.ranked[:5]]
    assert [dict(trial.record.params) for trial in new.trials[: len(best)]] == best
    assert len(new.trials) == 4 and {trial.trial_id for trial in new.trials}.isdisjoint(old.by_id)
    assert new.record.follows == old.ledger.storage.uri and old.record.follows is None


def test_settings_outside_of_its_ranges_are_moved_into_them(made: Made, tmp_path: Path) -> None:
    """Each once, and ranges that are wider later have them as they were."""
    old, said = read(made.folder, "old"), list[str]()
    best = [trial.record for trial in old.ranked]
    own = space_of("probe", (str(best[0].config["backbone"]),), "smoke")
    narrow = changed_space(own, read_changes(None, ["probe.pooling=mean", "probe.alphas=9"]), lambda line: None)
    found = begin_with(old, {"probe": narrow}, said.append)["probe"]
    configs = [found.config(params) for params in found.first_trials]
    assert {(one.pooling, one.alphas) for one in configs} == {("mean", 9)} and len(set(map(str, configs))) == len(
        configs
    )
    kept = [dict(record.params) for record in best]
    assert {one.layout for one in configs} >= {str(params["layout"]) for params in kept}
    assert any("is moved to the ranges of this search: " in line and "alphas=9" in line for line in said)
    assert any(line.startswith("probe begins with the ") for line in said)
    (tmp_path / "my.toml").write_text(
        space_toml(own) + f"alphas = {ProbeConfig.__dataclass_fields__['alphas'].default}"
    )
    wide = changed_space(found, read_changes(tmp_path / "my.toml"), lambda line: None)
    assert [dict(params) for params in wide.first_trials[: len(kept)]] == kept
    other = begin_with(old, {"probe": space_of("probe", ("another",), "smoke")}, said.append)["probe"]
    assert {params["backbone"] for params in other.first_trials} == {"another"}
    assert "has a backbone of this search" in said[-1]


def test_it_says_what_is_another(made: Made) -> None:
    assert f"{ADDED} photographs added" in made.said
    assert "1 label changed" in made.said
    assert "probe begins with the 4 best settings" in made.said


def test_only_new_photographs_are_encoded(made: Made) -> None:
    added = set(read_train(made.data)["image_id"]) - set(read_train(made.fewer)["image_id"])
    assert len(added) == ADDED and set(made.encoded) == added


def test_both_blends_are_scored_on_the_photographs_and_masses_that_the_newer_has(made: Made) -> None:
    old, new = read(made.folder, "old"), read(made.folder, "new")
    found, why = followed_blend(new)
    assert found is not None, why
    both = new.quadrats["image_id"].isin(old.quadrats["image_id"]).to_numpy()
    truth_NT = new.quadrats.loc[both, list(TARGETS)].to_numpy()
    assert found.photographs == both.sum() == len(old.quadrats)
    (here, _), (there, _) = blend_of(new), blend_of(old)
    assert here is not None and there is not None
    place = pd.Index(old.quadrats["image_id"]).get_indexer(new.quadrats.loc[both, "image_id"])
    scores = [
        np.mean([weighted_r2_score(truth_NT, rows_NT) for rows_NT in rows_RNT])
        for rows_RNT in (here.nested_RNT[:, both], there.nested_RNT[:, place])
    ]
    assert [found.score.value, found.old_score.value] == pytest.approx(scores)
    assert found.gain.value == pytest.approx(scores[0] - scores[1])
    page = CliRunner().invoke(app, ["leaderboard", str(made.folder / "new")]).output
    assert " ".join(str(found).split()) in " ".join(page.split())
    assert followed_blend(old) == (None, None)


def test_a_study_that_is_gone_costs_the_comparison_only(made: Made, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made.folder / "new", tmp_path / "new"))
    ledger = Ledger(Storage(folder))
    record = ledger.study()
    ledger.update_study(type(record).from_json(record.to_json() | {"follows": str(tmp_path / "gone")}))
    found, why = followed_blend(StudyData(ledger))
    assert found is None and why is not None and "gone" in why


def test_a_search_goes_on_when_the_study_that_it_follows_was_moved_or_removed(made: Made, tmp_path: Path) -> None:
    """Its best settings lie in the study that follows it, which is resumed with its first trials still to come."""
    shutil.copytree(made.folder / "old", tmp_path / "old")
    first = str(tmp_path / "old")
    search(tmp_path, "new", made.data, from_=first, trials=1)
    best = [dict(trial.record.params) for trial in read(tmp_path, "old").ranked[:3]]
    (tmp_path / "old").rename(tmp_path / "archived")

    def again(follows: str, trials: int) -> str:
        asked = preset(tmp_path, from_=follows)
        check_search(str(tmp_path / "new"), made.data, asked, Asked(overrides={"from_": follows}), lambda text: None)
        return "\n".join(search(tmp_path, "new", made.data, from_=follows, trials=trials))

    said = again(first, 2)
    assert f"is not in {first} any more; its best settings are kept" in said
    assert read(tmp_path, "new").record.follows == first
    moved = str(tmp_path / "archived")
    assert f"was {first} and is read from {moved} now" in again(moved, 3)
    new = read(tmp_path, "new")
    assert new.record.follows == moved and [dict(trial.record.params) for trial in new.trials] == best
    assert "follows" not in again(moved, 3)
    shutil.rmtree(moved)
    assert "any more" in again(moved, 3) and "any more" in again(str(tmp_path / "nowhere"), 3)
    with pytest.raises(StudyError, match="from: "):
        again(str(tmp_path / "new"), 3)


def test_what_cannot_be_followed_is_refused_before_anything_starts(made: Made, tmp_path: Path) -> None:
    def check(name: str, follows: str) -> None:
        asked = preset(tmp_path, from_=follows)
        given = Asked(overrides={"from_": follows})
        check_search(str(made.folder / name), made.data, asked, given, lambda text: None)

    with pytest.raises(StudyError, match="there is none in"):
        check("third", str(tmp_path / "nowhere"))
    with pytest.raises(StudyError, match="follows another one"):
        check("third", str(made.folder / "third"))
    with pytest.raises(StudyError, match=r"from: .*old.* -> .*third"):
        check("new", str(made.folder / "third"))
    check("new", str(made.folder / "old"))
    assert not (made.folder / "third").exists()


def test_an_exam_holds_dates_that_the_old_study_does_not_know() -> None:
    days = np.repeat(np.arange(10), 3)
    table = pd.DataFrame(
        {
            "image_id": [f"i{row}" for row in range(30)],
            "State": "NSW",
            "Sampling_Date": pd.Timestamp("2015-01-01") + pd.to_timedelta(days, unit="D"),
            **dict.fromkeys(TARGETS, 1.0),
        }
    )
    folds = assign_folds(table, n_folds=3)
    known = folds[days < 6][["image_id", "group"]]
    for seed in range(5):
        drawn = assign_folds(table, n_folds=3, seed=seed, exam=0.2, known=known)
        assert set(days[drawn["fold"] == EXAM]) <= {6, 7, 8, 9} and (drawn["fold"] == EXAM).sum() == 6
    with pytest.raises(FoldError, match="2 sampling dates that no search has learned from, got 1"):
        assign_folds(table, n_folds=3, exam=0.2, known=folds[days < 9])


def test_a_fold_file_with_an_exam_of_known_dates_is_refused(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"image_id": list("abcdef"), "Sampling_Date": pd.to_datetime(["2015-01-01", "2015-02-01", "2015-03-01"] * 2)}
    )
    file = tmp_path / "folds.csv"
    table.assign(fold=["exam", "exam", 0, "exam", "exam", 1])[["image_id", "fold"]].to_csv(file, index=False)
    known = pd.DataFrame({"image_id": ["x"], "group": ["2015-02-01"]})
    with pytest.raises(FoldError, match=r"2015-02-01.* known to the study that this one follows"):
        assign_folds(table, scheme="file", file=file, known=known)
