"""Anybody's files make the same library."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_libraries import member_predictions, truth_frame

from biomass_models.data.table import masses_to_long
from biomass_models.targets import TARGETS
from ensembles.members.file_names import named_files
from ensembles.members.library import Library, LibraryError, library_from_arrays, library_from_frames
from ensembles.members.matched_tests import match_tests
from ensembles.members.oof_files import read_members, read_truth


def library_from_files(paths: list[Path], truth_path: Path) -> Library:
    frames, unreadable = read_members(named_files([str(path) for path in paths]))
    return library_from_frames(frames, read_truth(truth_path), left_out=unreadable)


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
    (tmp_path / "empty.npy").touch()
    names = [
        "bare.npy",
        "short.npy",
        "pickled.npy",
        "other.csv",
        "strange.csv",
        "twice.csv",
        "notes.txt",
        "gone.csv",
        "empty.npy",
    ]
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
        "empty": "cannot be read",
    }.items():
        assert part in reasons[name]


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_a_member_is_called_what_the_wildcards_stand_for(tmp_path):
    touch(tmp_path, "runs/m1.csv", "runs/m2.parquet", "runs/m3.npy", "runs/m3.ids.txt", "runs/ids.txt")
    touch(tmp_path, "a/oof.csv", "a/test.csv", "b/oof.csv", "b/test.csv", "deep/x/y/oof_1.csv", "deep/z/oof_2.csv")
    for pattern, names in {
        "runs/*.csv": ["m1"],
        "runs/*": ["m1", "m2", "m3"],
        "runs/m?.*": ["1/csv", "2/parquet", "3/npy"],
        "runs/m[12].*": ["1/csv", "2/parquet"],
        "runs/m[!1].p*": ["2/arquet"],
        "?/oof.csv": ["a", "b"],
        "*/test.csv": ["a", "b"],
        "deep/**/oof_*.csv": ["x/y/1", "z/2"],
        "runs/m1.csv": ["m1"],
    }.items():
        assert list(named_files([str(tmp_path / pattern)])) == names, pattern
    both = named_files([str(tmp_path / "runs/*.csv"), str(tmp_path / "runs/m1.csv")])
    assert list(both) == ["m1"]  # one file is one member, however often it is named
    with pytest.raises(LibraryError, match=r"at least one file, .*\*\.txtt"):
        named_files([str(tmp_path / "*.txtt")])


def test_members_of_one_name_are_told_apart_by_their_folders(tmp_path):
    touch(tmp_path, "one/oof.csv", "two/oof.csv", "two/other.csv")
    files = named_files([str(tmp_path / name) for name in ("one/*.csv", "two/*.csv")])
    assert files == {
        "one/oof": tmp_path / "one/oof.csv",
        "two/oof": tmp_path / "two/oof.csv",
        "other": tmp_path / "two/other.csv",
    }
    assert len(named_files([str(tmp_path / "x.npy"), str(tmp_path / "x.txt")])) == 2


def test_test_predictions_are_matched_by_name_and_what_has_none_is_named():
    oof = dict(zip("abcdef", map(wide, member_predictions(truth_frame(), 6, noise=3.0)), strict=True))
    ids = truth_frame(20)["image_id"]
    base = [wide(pred, ids) for pred in member_predictions(truth_frame(20), 6, noise=3.0)]
    heavy = base[3].assign(**{name: base[3][name] * 1000 for name in TARGETS})
    broken = base[4].assign(GDM_g=np.nan)
    tests = {"a": base[0], "b": base[1].iloc[::-1], "c": base[2].iloc[1:], "d": heavy, "e": broken, "z": base[5]}
    found = match_tests(oof, tests, [])
    assert list(found.pred_NT) == ["a", "b"] and found.image_ids == tuple(ids)
    np.testing.assert_allclose(found.pred_NT["b"], base[1][list(TARGETS)])
    reasons = dict(found.left_out)
    assert list(reasons) == ["c", "d", "e", "f"]
    parts = {"c": "1 of 20 test images", "d": "milligrams to grams", "e": "20 test images have NaN", "f": "no file"}
    assert all(part in reasons[name] for name, part in parts.items())
    assert "torn" in dict(match_tests(oof, {"a": base[0]}, [("b", "torn")]).left_out)["b"]
    fewer = match_tests(oof, tests, [], image_ids=list(ids[:5]))
    assert fewer.image_ids == tuple(ids[:5]) and len(fewer.pred_NT["a"]) == 5
    with pytest.raises(LibraryError, match=r"none of x is one of a, b, c"):
        match_tests(oof, {"x": base[0]}, [])
    with pytest.raises(LibraryError, match="could be read"):
        match_tests(oof, {}, [("a", "torn")])


def wide(pred_NT: np.ndarray, image_id: pd.Series | None = None) -> pd.DataFrame:
    frame = pd.DataFrame(pred_NT, columns=list(TARGETS))
    frame.insert(0, "image_id", truth_frame()["image_id"] if image_id is None else image_id)
    return frame


def test_a_truths_own_folds_are_kept_and_groups_are_what_is_asked_for(runs, tmp_path):
    truth, _, _, truth_path = runs
    truth.to_csv(tmp_path / "wide.csv", index=False)
    found = read_truth(tmp_path / "wide.csv", groups=("group",))
    assert list(found["fold"]) == list(truth["fold"]) and list(found["group"]) == list(truth["group"])
    single = read_truth(truth_path, groups=())
    assert single["group"].is_unique
    dates = read_truth(truth_path)
    for found in (single, dates):  # errors are counted by dates, also where groups are finer
        assert (found["unit"] == dates["group"]).all()
    assert "unit" not in read_truth(truth_path, groups=("State",), folds=2)
    members = library_from_arrays(["a"], [dates[list(TARGETS)].to_numpy() + 1.0], single, unit="date")
    assert members.cut_groups == dates["group"].nunique() and len(set(members.gram.unit_C)) == members.cut_groups
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


def test_rows_of_a_truth_that_no_fold_holds_out_are_left_out(runs, tmp_path):
    table = runs[0].drop(columns="fold")
    ids = sorted(set(table["image_id"]))
    own = dict(zip(ids, ["exam", "-1", *(str(row % 2) for row in range(len(ids) - 2))], strict=True))
    given = table.assign(fold=table["image_id"].map(own))
    given.to_csv(tmp_path / "truth.csv", index=False)
    found = read_truth(tmp_path / "truth.csv", groups=("group",))
    assert sorted(found["image_id"]) == ids[2:] and set(found["fold"]) == {0, 1}
    for wrong in ("1.5", "", "-3", "left"):
        given.assign(fold=given["fold"].replace("0", wrong)).to_csv(tmp_path / "wrong.csv", index=False)
        with pytest.raises(LibraryError, match="a whole number from 0, -1 for what is only trained on, or exam; got"):
            read_truth(tmp_path / "wrong.csv", groups=("group",))
    given.assign(fold=-1).to_csv(tmp_path / "none.csv", index=False)
    with pytest.raises(LibraryError, match="has rows that a fold holds out, got none"):
        read_truth(tmp_path / "none.csv", groups=("group",))
