"""More photographs may rename those that were there: IMG_1 is 2023-IMG_1.jpg once there is a 2024/IMG_1.jpg."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from told_study import told_study

from biomass_models.data.folds import assign_folds
from biomass_models.fold_rows import EXAM
from orchestration.blending.followed import followed_blend
from orchestration.search.following import changes_since, known_images
from orchestration.study.data import StudyData
from orchestration.study.data_changes import names_in, photograph_table

pytestmark = pytest.mark.slow

ADDED = 8  # photographs that the older study did not have


@pytest.fixture
def studies(tmp_path: Path) -> tuple[StudyData, StudyData]:
    """An older study, and one with photographs added: three of the old ones are called otherwise."""
    table = told_study(tmp_path / "draft").quadrats()
    digests = [f"content {row}" for row in range(len(table))]
    fewer = table.iloc[ADDED:].reset_index(drop=True)
    old = told_study(tmp_path / "old", quadrats=fewer)
    old.write_photographs(photograph_table(fewer, digests[ADDED:]))
    names = table["image_id"].tolist()
    names[-3:] = [f"train-{name}.jpg" for name in names[-3:]]
    table = table.assign(image_id=names)
    new = told_study(tmp_path / "new", quadrats=table, follows=old.storage.uri)
    new.write_photographs(photograph_table(table, digests))
    return StudyData(old), StudyData(new)


def digests_of(study: StudyData) -> list[str]:
    photographs = study.ledger.photographs()
    assert photographs is not None
    return photographs["blake2b"].tolist()


def test_photographs_are_known_by_what_they_hold(studies: tuple[StudyData, StudyData]) -> None:
    old, new = studies
    names = names_in(old.ledger, new.quadrats["image_id"].tolist(), digests_of(new))
    assert names[ADDED:] == old.quadrats["image_id"].tolist()
    known = known_images(old, new.quadrats, digests_of(new))
    assert known["image_id"].tolist() == new.quadrats["image_id"].tolist()[ADDED:]
    said = changes_since(old, new.quadrats.drop(columns=["fold", "group"]), digests_of(new))
    assert f"{ADDED} photographs added" in said and "missing" not in said


@pytest.mark.parametrize("seed", range(3))
def test_no_exam_holds_a_photograph_that_is_called_otherwise_now(
    studies: tuple[StudyData, StudyData], seed: int
) -> None:
    """Where nothing else says that it is known: no dates, so a photograph is a group of its own."""
    old, new = studies
    here = new.quadrats.assign(kept_whole=new.quadrats["image_id"]).drop(columns=["fold", "group"])
    known = known_images(old, here, digests_of(new)).assign(group="another name")
    folds = assign_folds(here, n_folds=3, seed=seed, exam=0.1, known=known)
    kept = folds["fold"] == EXAM
    assert kept.any() and not kept[ADDED:].any()


def test_blends_are_compared_on_photographs_that_are_called_otherwise_now(
    studies: tuple[StudyData, StudyData],
) -> None:
    old, new = studies
    found, why = followed_blend(new)
    assert found is not None, why
    assert found.photographs == len(old.quadrats)


def test_the_first_of_two_photographs_that_are_the_same_is_the_old_one(studies: tuple[StudyData, StudyData]) -> None:
    old, _ = studies
    name = old.quadrats["image_id"][0]
    assert names_in(old.ledger, ["x", "y"], [f"content {ADDED}"] * 2) == [name, "y"]


def test_what_the_followed_study_followed_is_known_too(studies: tuple[StudyData, StudyData], tmp_path: Path) -> None:
    old, new = studies
    half = new.quadrats.iloc[::2].reset_index(drop=True)  # some of the old photographs are gone from the data
    middle = StudyData(told_study(tmp_path / "middle", quadrats=half, follows=old.ledger.storage.uri))
    known = set(known_images(middle, new.quadrats, digests_of(new))["image_id"])
    assert known == set(half["image_id"]) | set(new.quadrats["image_id"][ADDED:])
    shutil.rmtree(old.ledger.storage.uri)
    assert set(known_images(middle, new.quadrats, digests_of(new))["image_id"]) == set(half["image_id"])
