"""Other people's prediction files: each kind of wrong one is left out with its reason, and changes nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from foreign_files import WRONG, Field, Wrong, array, make_field, wide

from biomass_models.data.table import masses_to_long
from biomass_models.targets import TARGETS
from orchestration.blending.blend import BlendOptions, run_ensemble
from orchestration.blending.members import FileMembers, gather

pytestmark = pytest.mark.slow


@pytest.fixture
def field(tmp_path: Path) -> Field:
    return make_field(tmp_path)


def members(folder: Path, *, tests: bool = True, oof: str = "oof/*") -> FileMembers:
    return FileMembers(
        oof=(str(folder / oof),), truth=folder / "train.csv", tests=(str(folder / "pred/*"),) if tests else ()
    )


def gathered(field: Field, *, tests: bool = True) -> tuple[tuple[str, ...], dict[str, str], str]:
    """Names in the library, reasons by name of what is left out, and all that was said."""
    said: list[str] = []
    found = gather([], members(field.folder, tests=tests), test_ids=None, seed=0, say=said.append)
    return found.library.names, dict(found.library.left_out), "\n".join(said)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.member)
def test_a_wrong_file_is_left_out_with_its_reason(field: Field, wrong: Wrong) -> None:
    wrong.write(field, "bad")
    names, left_out, _ = gathered(field)
    assert len(names) == 10 and all(name.startswith("sound") for name in names)
    reasons = set(left_out.values())
    assert len(reasons) == 1 and all(name.startswith("bad") for name in left_out)
    assert all(len(f"left out: {name}: {reason}") <= 3 * 80 for name, reason in left_out.items())
    with pytest.raises(ValueError, match=wrong.reason):
        raise ValueError(reasons.pop())


def test_each_kind_has_three_inputs() -> None:
    kinds = [wrong.kind for wrong in WRONG]
    assert all(kinds.count(kind) >= 3 for kind in kinds)


def test_one_wrong_file_of_each_kind_among_ten_sound_ones_changes_nothing(field: Field, tmp_path: Path) -> None:
    def blend(out: str) -> tuple[dict, bytes]:
        (path,) = run_ensemble(
            [],
            members(field.folder),
            data_dir=None,
            out=tmp_path / out,
            options=BlendOptions(),
            seed=0,
            open_predictor=lambda _: None,
            say=lambda _: None,
            show=lambda *_: None,
        )
        return json.loads((tmp_path / out / "ensemble.json").read_text()), path.read_bytes()

    sound, submission = blend("sound")
    kinds = {wrong.kind: wrong for wrong in WRONG}
    for wrong in kinds.values():
        wrong.write(field, wrong.member.replace("/", ""))
    card, again = blend("all")
    assert card["members"] == sound["members"] and again == submission
    assert card["nested_score"] == sound["nested_score"]
    left_out = dict(card["left_out"])
    for wrong in kinds.values():
        reasons = {reason for name, reason in left_out.items() if name.startswith(wrong.member.replace("/", ""))}
        assert len(reasons) == 1, wrong.member


def test_all_wrong_files_at_once_leave_the_sound_ones(field: Field) -> None:
    for wrong in WRONG:
        if wrong.kind != "too good":  # held against the others' median: they are one kind that must not be the majority
            wrong.write(field, wrong.member.replace("/", ""))
    names, _, _ = gathered(field)
    assert len(names) == 10 and all(name.startswith("sound") for name in names)


# -- what is understood -----------------------------------------------------------------------------------------------


def label_beside_prediction(field: Field) -> pd.DataFrame:
    long = masses_to_long(wide(field.ids, field.truth_NT))
    return long.assign(y_pred=masses_to_long(wide(field.ids, field.oof_NT))["target"], fold=0)


def label_before_wide_prediction(field: Field) -> pd.DataFrame:
    pred = wide(field.ids, field.oof_NT).rename(columns={name: f"oof_{name}" for name in TARGETS})
    return wide(field.ids, field.truth_NT).merge(pred, on="image_id")


def named_labels_beside_plain_predictions(field: Field) -> pd.DataFrame:
    label = wide(field.ids, field.truth_NT).rename(columns={name: f"{name}_true" for name in TARGETS})
    return label.merge(wide(field.ids, field.oof_NT), on="image_id")


def only_named_predictions(field: Field) -> pd.DataFrame:
    pred = wide(field.ids, field.oof_NT).rename(columns={name: f"{name}_Prediction" for name in TARGETS})
    return pred.assign(**{f"{name}_std": 1.0 for name in TARGETS})


def ids_with_suffix(field: Field) -> pd.DataFrame:
    return wide([f"{name}.JPG" for name in field.ids], field.oof_NT)


def ids_are_absolute_paths(field: Field) -> pd.DataFrame:
    return wide([f"/kaggle/input/train/{name}.jpeg" for name in field.ids], field.oof_NT)


def ids_are_windows_paths(field: Field) -> pd.DataFrame:
    return wide([rf"C:\data\train\{name}.png" for name in field.ids], field.oof_NT)


def sample_ids_are_paths(field: Field) -> pd.DataFrame:
    return masses_to_long(wide([f"train/{name}.jpg" for name in field.ids], field.oof_NT))


def paths_only(field: Field) -> pd.DataFrame:
    return wide([f"train/{name}.jpg" for name in field.ids], field.oof_NT).rename(columns={"image_id": "image_path"})


def header_in_capitals(field: Field) -> pd.DataFrame:
    return wide(field.ids, field.oof_NT).rename(columns=str.upper)


def spaces_everywhere(field: Field) -> pd.DataFrame:
    return wide([f" {name} " for name in field.ids], field.oof_NT).rename(columns=lambda name: f" {name}")


def target_names_apart(field: Field) -> pd.DataFrame:
    long = masses_to_long(wide(field.ids, field.oof_NT))
    long[["image_id", "target_name"]] = long["sample_id"].str.split("__", expand=True)
    return long.drop(columns="sample_id")


def columns_and_rows_in_another_order(field: Field) -> pd.DataFrame:
    return wide(field.ids, field.oof_NT)[["GDM_g", "image_id", *sorted(set(TARGETS) - {"GDM_g"})]].sample(frac=1)


def numbers_as_text(field: Field) -> pd.DataFrame:
    return wide(field.ids, field.oof_NT).astype(str)


UNDERSTOOD = (
    label_beside_prediction, label_before_wide_prediction, named_labels_beside_plain_predictions,
    only_named_predictions, ids_with_suffix, ids_are_absolute_paths, ids_are_windows_paths, sample_ids_are_paths,
    paths_only, header_in_capitals, spaces_everywhere, target_names_apart, columns_and_rows_in_another_order,
    numbers_as_text,
)  # fmt: skip


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("make", UNDERSTOOD, ids=lambda make: make.__name__)
def test_a_file_that_is_almost_right_gives_the_same_member(
    field: Field, make: Callable[[Field], pd.DataFrame], suffix: str
) -> None:
    frame = make(field)
    if suffix == "csv":
        field.oof("other.csv", frame)
    else:
        frame.to_parquet(field.folder / "oof" / "other.parquet")
    found = gather([], members(field.folder, tests=False), test_ids=None, seed=0, say=lambda _: None)
    assert not found.library.left_out
    pred_NT = found.library.pred_MNT[found.library.names.index("other")]
    np.testing.assert_allclose(pred_NT, field.oof_NT, atol=1e-9)


@pytest.mark.parametrize("mark", [b"\xef\xbb\xbf", b"", b"\n"], ids=["mark", "returns", "blank line"])
def test_marks_do_no_harm(field: Field, mark: bytes) -> None:
    text = wide(field.ids, field.oof_NT).to_csv(index=False).replace("\n", "\r\n").encode()
    field.oof("other.CSV", mark + text)
    names, left_out, _ = gathered(field, tests=False)
    assert "other" in names and not left_out


def test_what_is_passed_over_is_said(field: Field) -> None:
    field.oof("long.csv", label_beside_prediction(field))
    field.oof("wide.csv", label_before_wide_prediction(field))
    _, _, said = gathered(field, tests=False)
    assert "long.csv: predictions are those of y_pred, target is the label" in said
    assert "wide.csv: predictions are those of oof_* (* is a target), the plain columns are labels" in said


# -- one file a fold --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place, pattern, member",
    [
        ("exp7/fold_{}/oof.csv", "exp7/fold_*/oof.csv", "exp7"),
        ("runs/net-fold{}.csv", "runs/*.csv", "net"),
        ("cv/{}/valid.csv", "cv/*/valid.csv", "cv"),
        ("runs/oof_f{}.parquet", "runs/*.parquet", "oof"),
    ],
)
def test_one_file_a_fold_is_joined_and_its_test_files_averaged(
    field: Field, place: str, pattern: str, member: str
) -> None:
    for fold in range(4):
        rows = [row for row in range(len(field.ids)) if row % 4 == fold]
        frame = wide([field.ids[row] for row in rows], field.oof_NT[rows])
        path = field.folder / place.format(fold)
        path.parent.mkdir(parents=True, exist_ok=True)
        frame.to_parquet(path) if path.suffix == ".parquet" else frame.to_csv(path, index=False)
        test = field.folder / "tests" / place.format(fold).replace(".parquet", ".csv")
        test.parent.mkdir(parents=True, exist_ok=True)
        wide(field.test_ids, field.test_NT + fold - 1.5).to_csv(test, index=False)
    files = FileMembers(
        oof=(str(field.folder / pattern),),
        truth=field.folder / "train.csv",
        tests=(str(field.folder / "tests" / pattern.replace(".parquet", ".csv")),),
    )
    said: list[str] = []
    found = gather([], files, test_ids=None, seed=0, say=said.append)
    assert found.library.names == (member,) and not found.library.left_out
    np.testing.assert_allclose(found.library.pred_MNT[0], field.oof_NT, atol=1e-9)
    np.testing.assert_allclose(found.tests.pred_NT[member], field.test_NT, atol=1e-9)
    assert any("4 files" in text and "joined into one member" in text for text in said)


def test_seeds_of_a_model_stay_members_of_their_own(field: Field) -> None:
    rng = np.random.default_rng(0)
    for seed in range(3):
        pred_NT = np.maximum(field.oof_NT + rng.normal(0, 3, field.oof_NT.shape), 0)
        field.oof(f"net_seed{seed}.csv", wide(field.ids, pred_NT))
    names, left_out, _ = gathered(field, tests=False)
    assert {f"net_seed{seed}" for seed in range(3)} < set(names) and not left_out


# -- remarks and false alarms -----------------------------------------------------------------------------------------


def test_folds_that_split_dates_are_said(field: Field) -> None:
    field.oof("random.csv", wide(field.ids, field.oof_NT).assign(fold=np.arange(len(field.ids)) // 16))
    field.oof("dated.csv", wide(field.ids, field.oof_NT * 0.98).assign(fold=field.date_N % 5))
    _, left_out, said = gathered(field, tests=False)
    assert "random: its folds split 16 of 16 groups" in said and "dated" not in said and not left_out


def test_a_far_better_member_is_said_and_a_single_one_too(field: Field) -> None:
    good = wide(field.ids, 0.4 * field.truth_NT + 0.6 * field.oof_NT)
    field.oof("good.csv", good)
    names, left_out, said = gathered(field, tests=False)
    assert "good" in names and not left_out
    assert "good: scores 0.9" in said and "did it see the rows" in said
    for path in (field.folder / "oof").glob("sound*"):
        path.unlink()
    _, _, said = gathered(field, tests=False)
    assert "there is no other member to compare with" in said


@pytest.mark.parametrize("factor", [0.8, 1.3, 1.7])
def test_test_images_of_a_heavier_or_lighter_season_are_no_fault(field: Field, factor: float) -> None:
    for path in (field.folder / "pred").iterdir():
        frame = pd.read_csv(path)
        frame[list(TARGETS)] *= 1.5 * factor
        frame.to_csv(path, index=False)
    names, left_out, said = gathered(field)
    assert len(names) == 10 and not left_out and "test predictions" not in said


@pytest.mark.parametrize("seed", range(12))
def test_sound_members_of_any_field_stay(tmp_path: Path, seed: int) -> None:
    field = make_field(tmp_path, seed)
    field.sound_oof("one-more")
    field.sound_test("one-more")
    names, left_out, said = gathered(field)
    assert len(names) == 11 and not left_out and "one-more" not in said


def test_a_shy_member_is_one_in_both_of_its_files(field: Field) -> None:
    field.oof("shy.csv", wide(field.ids, 0.6 * field.oof_NT))
    field.test("shy.csv", wide(field.test_ids, 0.6 * field.test_NT))
    names, left_out, _ = gathered(field)
    assert "shy" in names and not left_out


def test_a_somewhat_larger_test_file_is_said(field: Field) -> None:
    field.sound_oof("large")
    field.test("large.csv", wide(field.test_ids, 1.55 * field.test_NT))
    names, left_out, said = gathered(field)
    assert "large" in names and not left_out
    assert "large: test predictions are 1.5 times" in said or "large: test predictions are 1.6 times" in said


@pytest.mark.parametrize("factor, sound", [(1.0, True), (2.0, True), (5.0, False), (1 / 0.021, False), (0.05, False)])
def test_one_member_alone_is_held_against_its_own_rows(field: Field, factor: float, sound: bool) -> None:
    for path in [*(field.folder / "oof").glob("sound[b-j].csv"), *(field.folder / "pred").glob("sound[b-j].csv")]:
        path.unlink()
    field.test("sounda.csv", wide(field.test_ids, factor * field.test_NT))
    if sound:
        assert gathered(field)[0] == ("sounda",)
    else:
        with pytest.raises(ValueError, match=r"at least one sound member, got none \(sounda: no use for a submission"):
            gathered(field)


def test_of_two_members_the_one_that_left_its_own_rows_is_named(field: Field) -> None:
    for path in [*(field.folder / "oof").glob("sound[c-j].csv"), *(field.folder / "pred").glob("sound[c-j].csv")]:
        path.unlink()
    field.test("soundb.csv", wide(field.test_ids, np.log1p(field.test_NT)))
    names, left_out, _ = gathered(field)
    assert names == ("sounda",) and "looks like log1p" in left_out["soundb"]


def test_an_array_needs_no_header_and_its_ids_may_be_paths(field: Field) -> None:
    array(field.folder / "oof", "net", [f"train/{name}.jpg" for name in field.ids], field.oof_NT.astype(np.float32))
    names, left_out, _ = gathered(field, tests=False)
    assert "net" in names and not left_out
