"""Anybody's files make the same library."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from small_libraries import member_predictions, truth_frame

from biomass_models.table import masses_to_long
from biomass_models.targets import TARGETS
from ensembles.library import LibraryError, library_from_arrays
from ensembles.oof_files import library_from_files, read_members, read_truth


@pytest.fixture
def runs(tmp_path):
    """Five members, each in another format, and the truth as the competition ships it."""
    truth = truth_frame()
    pred_MNT = member_predictions(truth, 5, noise=3.0)
    wide = [pd.DataFrame(pred_NT, columns=list(TARGETS)) for pred_NT in pred_MNT]
    for frame in wide:
        frame.insert(0, "image_id", truth["image_id"])
    paths = [tmp_path / name for name in ("a.csv", "b.csv", "c.parquet", "d.parquet", "e.npy")]
    wide[0].assign(note="x").sample(frac=1, random_state=0).to_csv(paths[0], index=False)
    masses_to_long(wide[1]).sample(frac=1, random_state=1).to_csv(paths[1], index=False)
    wide[2].to_parquet(paths[2])
    masses_to_long(wide[3]).to_parquet(paths[3])
    np.save(paths[4], pred_MNT[4][::-1])
    (tmp_path / "e.ids.txt").write_text("image_id\n" + "\n".join(truth["image_id"][::-1]) + "\n")
    long = masses_to_long(truth[["image_id", *TARGETS]])
    facts = truth.assign(Sampling_Date=["2015/9/" + group[1:] for group in truth["group"]])
    facts = facts.set_index("image_id")[["Sampling_Date", "State"]]
    image_id = long["sample_id"].str.split("__").str[0]
    train = long.assign(**{name: image_id.map(facts[name]) for name in facts})
    train.to_csv(tmp_path / "train.csv", index=False)
    return truth, pred_MNT, paths, tmp_path / "train.csv"


def test_every_format_gives_the_same_members(runs):
    truth, pred_MNT, paths, truth_path = runs
    library = library_from_files(paths, truth_path)
    assert library.names == ("a", "b", "c", "d", "e") and not library.left_out
    expected = library_from_arrays(list("abcde"), pred_MNT, truth)
    np.testing.assert_allclose(library.pred_MNT, expected.pred_MNT, atol=1e-9)
    np.testing.assert_allclose(library.truth_NT, expected.truth_NT)
    assert list(library.image_id_N) == list(truth["image_id"])
    assert len(set(library.group_N)) == 10
    for group in set(library.group_N):  # whole groups in folds
        assert len(set(library.fold_N[library.group_N == group])) == 1
    assert sorted(np.bincount(library.fold_N)) == [12] * 5


def test_unreadable_files_are_named_with_the_reason(runs, tmp_path):
    _, _, paths, truth_path = runs
    (tmp_path / "bare.npy").write_bytes(paths[4].read_bytes())
    (tmp_path / "short.npy").write_bytes(paths[4].read_bytes())
    (tmp_path / "short.ids.txt").write_text("one\ntwo\n")
    np.save(tmp_path / "pickled.npy", np.array([{}], dtype=object))
    (tmp_path / "other.csv").write_text("id,mass\n1,2\n")
    (tmp_path / "strange.csv").write_text("sample_id,target\nID1__Moss_g,2\n")
    (tmp_path / "twice.csv").write_text("sample_id,target\nID1__GDM_g,2\nID1__GDM_g,2\n")
    (tmp_path / "notes.txt").write_text("hello")
    names = ["bare.npy", "short.npy", "pickled.npy", "other.csv", "strange.csv", "twice.csv", "notes.txt", "gone.csv"]
    library = library_from_files([*paths, *(tmp_path / name for name in names)], truth_path)
    reasons = dict(library.left_out)
    assert list(reasons) == [name.split(".")[0] for name in names]
    for name, part in {
        "bare": "found neither",
        "short": "must be [2, 5]",
        "pickled": "cannot be read",
        "other": "got id,mass",
        "strange": "ID1__Moss_g",
        "twice": "must appear once",
        "notes": "got .txt",
        "gone": "gone.csv",
    }.items():
        assert part in reasons[name]


def test_members_of_one_name_are_told_apart_by_their_folders(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "oof.csv").write_text("sample_id,target\nID1__GDM_g,2\n")
    frames, _ = read_members([tmp_path / folder / "oof.csv" for folder in ("one", "two")])
    assert list(frames) == ["one/oof", "two/oof"]
    _, unreadable = read_members([tmp_path / "x.npy", tmp_path / "x.txt"])
    assert len({name for name, _ in unreadable}) == 2


def test_a_truths_own_folds_are_kept_and_groups_are_what_is_asked_for(runs, tmp_path):
    truth, _, _, truth_path = runs
    truth.to_csv(tmp_path / "wide.csv", index=False)
    found = read_truth(tmp_path / "wide.csv", groups=("group",))
    assert list(found["fold"]) == list(truth["fold"]) and list(found["group"]) == list(truth["group"])
    single = read_truth(truth_path, groups=())
    assert single["group"].is_unique
    by_state = read_truth(truth_path, groups=("State",), folds=2)
    assert set(by_state["group"]) == {"NSW", "Vic"} and set(by_state["fold"]) == {0, 1}
    pd.testing.assert_frame_equal(read_truth(truth_path, seed=3), read_truth(truth_path, seed=3))


def test_a_truth_that_cannot_judge_is_an_error(runs, tmp_path):
    _, _, _, truth_path = runs
    with pytest.raises(LibraryError, match="no column Paddock"):
        read_truth(truth_path, groups=("Paddock",))
    with pytest.raises(LibraryError, match="5 folds need as many groups, got 2"):
        read_truth(truth_path, groups=("State",))
    with pytest.raises(LibraryError, match="cannot be read"):
        read_truth(tmp_path / "gone.csv")
