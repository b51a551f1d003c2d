"""Libraries: aligned by image, coherent, nothing broken inside and nothing dropped in silence."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_libraries import member_predictions, truth_frame

from biomass_models.targets import TARGETS, identity_gap, weighted_r2_score
from ensembles.gram import error_gram
from ensembles.members.duplicates import duplicates_of
from ensembles.members.library import LibraryError, library_from_arrays, library_from_frames


def frame_of(truth: pd.DataFrame, pred_NT: np.ndarray) -> pd.DataFrame:
    frame = pd.DataFrame(pred_NT, columns=list(TARGETS))
    frame.insert(0, "image_id", truth["image_id"].to_numpy())
    return frame


def frames(members: int = 4, **settings: int) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    truth = truth_frame(**settings)
    return truth, {f"m{k}": frame_of(truth, p) for k, p in enumerate(member_predictions(truth, members, noise=3.0))}


def test_rows_are_aligned_by_image_and_strangers_ignored():
    truth, members = frames()
    shuffled = members["m1"].sample(frac=1, random_state=0)
    shuffled = pd.concat([shuffled, shuffled.iloc[:1].assign(image_id="elsewhere")])
    library = library_from_frames({**members, "m1": shuffled}, truth)
    assert library.names == ("m0", "m1", "m2", "m3") and not library.left_out and not library.merged
    np.testing.assert_allclose(library.pred_MNT[1], members["m1"][list(TARGETS)], atol=1e-9)
    assert list(library.image_id_N) == list(truth["image_id"])
    assert list(library.state_N) == list(truth["State"])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), noise=st.floats(0.1, 8))
def test_projection_makes_members_coherent_and_never_lowers_a_score(seed, noise):
    truth = truth_frame(seed=seed)
    truth_NT = truth[list(TARGETS)].to_numpy()
    raw_MNT = truth_NT + np.random.default_rng(seed).normal(0, noise, (5, *truth_NT.shape))
    library = library_from_arrays([str(k) for k in range(5)], raw_MNT, truth)
    assert identity_gap(library.pred_MNT).max() < 1e-9 and (library.pred_MNT >= 0).all()
    for name, pred_NT in zip(library.names, library.pred_MNT, strict=True):
        assert weighted_r2_score(truth_NT, pred_NT) >= weighted_r2_score(truth_NT, raw_MNT[int(name)]) - 1e-12


def with_nan(frame, rng):
    frame.loc[3, "GDM_g"] = np.nan
    return frame


def constant(frame, rng):
    frame[list(TARGETS)] = frame[list(TARGETS)].mean().to_numpy()
    return frame


def in_milligrams(frame, rng):
    frame[list(TARGETS)] *= 1000
    return frame


def in_kilograms(frame, rng):
    frame[list(TARGETS)] *= 0.001
    return frame


def one_target_in_kilograms(frame, rng):
    frame["Dry_Total_g"] *= 0.001
    return frame


def permuted(frame, rng):
    frame["image_id"] = rng.permutation(frame["image_id"])
    return frame


def reversed_rows(frame, rng):
    frame["image_id"] = frame["image_id"].to_numpy()[::-1]
    return frame


def image_missing(frame, rng):
    return frame.iloc[1:]


def other_images(frame, rng):
    return frame.assign(image_id="x" + frame["image_id"])


def image_twice(frame, rng):
    return pd.concat([frame, frame.iloc[:1]])


def column_missing(frame, rng):
    return frame.drop(columns="Dry_Dead_g")


def words(frame, rng):
    return frame.astype({"GDM_g": object}).assign(GDM_g="much")


@pytest.mark.parametrize(
    ("breaks", "reason"),
    [
        (with_nan, "1 of 60 images have NaN"),
        (constant, "constant over all images"),
        (in_milligrams, "wrong units: .* about 1000 times the truth"),
        (in_kilograms, "wrong units: .* about 0.001 times the truth"),
        (one_target_in_kilograms, "wrong units: Dry_Total_g about 0.001 times"),
        (permuted, "rows look permuted or misaligned"),
        (reversed_rows, "rows look permuted: .* in the order of reversed rows"),
        (image_missing, "1 of 60 labelled images have no prediction"),
        (other_images, "60 of 60 labelled images have no prediction, such as .* 60 of its images are unknown"),
        (image_twice, "1 image has more than one row"),
        (column_missing, "columns missing: Dry_Dead_g"),
        (words, "predictions must be numbers"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_broken_members_are_named_with_the_reason(breaks, reason):
    truth, members = frames()
    members["broken"] = breaks(members["m2"].copy(), np.random.default_rng(0))
    library = library_from_frames(members, truth)
    assert library.names == ("m0", "m1", "m2", "m3")
    ((name, said),) = library.left_out
    assert name == "broken"
    with pytest.raises(ValueError, match=reason):
        raise ValueError(said)


def test_rows_in_the_order_of_the_folds_are_recognised():
    truth, _ = frames()
    pred_MNT = member_predictions(truth, 3, noise=3.0)
    pred_MNT[1] = pred_MNT[1][np.argsort(truth["fold"], kind="stable")]
    library = library_from_arrays(["a", "b", "c"], pred_MNT, truth)
    assert library.names == ("a", "c")
    assert "in the order of folds" in library.left_out[0][1]


def test_a_member_without_skill_is_not_called_permuted():
    truth, members = frames(images=200)
    rng = np.random.default_rng(0)
    mean_T = truth[list(TARGETS)].mean().to_numpy()
    timid = mean_T * (1 + 0.2 * rng.normal(size=(200, 1)))  # the right size, no idea, and little spread
    library = library_from_frames({**members, "timid": frame_of(truth, timid)}, truth)
    assert not library.left_out  # whether it has skill is decided in each nest
    ((name, reason),) = library.unskilled
    assert name == "timid" and "permuted" not in reason and "below the per-target mean's" in reason


def test_members_of_which_none_has_skill_are_refused():
    truth, members = frames()
    frame = members["m2"].copy()
    frame[list(TARGETS)] = frame[list(TARGETS)].max().to_numpy() - frame[list(TARGETS)]
    assert [name for name, _ in library_from_frames({**members, "wrong": frame}, truth).unskilled] == ["wrong"]
    with pytest.raises(LibraryError, match=r"sound member.*wrong: .*below the per-target mean's"):
        library_from_frames({"wrong": frame}, truth)


def test_sound_but_odd_members_stay():
    truth, _ = frames()
    pred_MNT = member_predictions(truth, 3, noise=3.0)
    pred_MNT[0] *= 0.6  # shy
    pred_MNT[1][:, 2] = 0  # has given up on clover
    pred_MNT[2] -= 2.0  # negative here and there, off the identities
    assert len(library_from_arrays(["a", "b", "c"], pred_MNT, truth).names) == 3


def test_duplicates_are_merged_into_the_better_member():
    truth, members = frames()
    truth_NT = truth[list(TARGETS)].to_numpy()
    copy = members["m1"].copy()
    near = members["m2"].copy()
    near[list(TARGETS)] += 0.001 * (near[list(TARGETS)].to_numpy() - truth_NT)  # the same residuals, a little larger
    library = library_from_frames({"near": near, **members, "copy": copy}, truth)
    assert library.names == ("m0", "m1", "m2", "m3")
    assert dict(library.merged) == {"near": "m2", "copy": "m1"}


@pytest.mark.parametrize("block", [1, 3, 512])
def test_duplicates_by_brute_force_whatever_the_block(block):
    truth = truth_frame()
    rng = np.random.default_rng(0)
    base_MNT = member_predictions(truth, 6, noise=4.0)
    source = rng.integers(0, 6, 20)
    truth_NT = truth[list(TARGETS)].to_numpy()
    scale = 1 + 0.02 * rng.random((20, 1, 1))
    pred_MNT = truth_NT + scale * (base_MNT[source] - truth_NT)
    gram = error_gram(pred_MNT, truth_NT, truth["fold"], truth["group"])
    twins = duplicates_of(gram, block=block)
    best = {s: min(np.flatnonzero(source == s), key=lambda m: scale[m, 0, 0]) for s in set(source)}
    assert twins == {m: best[source[m]] for m in range(20) if m != best[source[m]]}


def test_perfect_members_are_one():
    truth = truth_frame()
    truth_NT = truth[list(TARGETS)].to_numpy()
    pred_MNT = np.stack([truth_NT, member_predictions(truth, 1)[0], truth_NT])
    assert duplicates_of(error_gram(pred_MNT, truth_NT, truth["fold"], truth["group"])) == {2: 0}


def test_nothing_to_blend_and_unusable_truths_are_errors():
    truth, members = frames()
    with pytest.raises(LibraryError, match="none was given"):
        library_from_frames({}, truth)
    with pytest.raises(LibraryError, match=r"sound member.*m0: .*constant"):
        library_from_frames({"m0": constant(members["m0"], None)}, truth)
    with pytest.raises(LibraryError, match="columns fold"):
        library_from_frames(members, truth.drop(columns="fold"))
    with pytest.raises(LibraryError, match="twice"):
        library_from_frames(members, pd.concat([truth, truth.iloc[:1]]))
    with pytest.raises(LibraryError, match="finite"):
        library_from_frames(members, truth.assign(GDM_g=np.inf))
    with pytest.raises(LibraryError, match="60 of 60 have none, such as ID"):
        library_from_frames(members, truth.assign(**dict.fromkeys(TARGETS, np.nan)))
    with pytest.raises(LibraryError, match="name of its own"):
        library_from_arrays(["a", "a"], member_predictions(truth, 2), truth)
    with pytest.raises(LibraryError, match="must be"):
        library_from_arrays(["a"], member_predictions(truth, 1)[:, :5], truth)
