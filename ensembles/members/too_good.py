"""Predictions that are too good to be true: labels, means of labels, and members that saw the rows they predict.

N images, T = 5 targets; masses in grams. Only members that came as files are held against this: how a study's trials
got theirs is known.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from biomass_models.targets import TARGETS, FloatArray
from ensembles.members.image_ids import plain_id

EQUAL_G = 0.006  # a label rounded to two decimals is as near
_SHARE = 0.5  # of a target's masses that may equal the measured ones before they count as labels
_IMPLAUSIBLE, _SUSPECT = 0.9, 0.8  # weighted R2 out of fold; honest ones of real photographs are about 0.7
_TIMES, _TWICE = 4.0, 2.5  # by how much the error must be below the median of the others


def holds_labels(pred_NT: FloatArray, truth_NT: FloatArray, groups: Mapping[str, NDArray[np.str_]]) -> str | None:
    """Why predictions seem to be the measured masses, or their means over a group; None when they do not.

    truth_NT: NaN where nothing was measured; groups: by name, what each image belongs to, such as its date.
    """
    equal_T = [_share_equal(pred_NT[:, target], truth_NT[:, target]) for target in range(len(TARGETS))]
    if labels := [name for name, share in zip(TARGETS, equal_T, strict=True) if share >= _SHARE]:
        what = "all targets" if len(labels) == len(TARGETS) else ", ".join(labels)
        return (
            f"too good to be true: {max(equal_T):.0%} of {what} equal the measured masses; they are labels, give the "
            "predictions"
        )
    for name, group_N in groups.items():
        if aggregated := _means_of_labels(pred_NT, truth_NT, group_N):
            return f"too good to be true: {aggregated} of each {name}; give predictions image by image"
    return None


def far_better(scores: Mapping[str, float], files: Mapping[str, float]) -> dict[str, tuple[bool, str]]:
    """Of the members in `files`: whether they must be left out, and why, where their score is out of line.

    scores: weighted R2 out of fold of all sound members, files: of those that came as files.
    """
    found = {}
    for name, score in files.items():
        others = [other for each, other in scores.items() if each != name]
        middle = float(np.median(others)) if others else 0.0
        times = (1 - middle) / max(1 - score, 1e-12)
        beside = f"the median of the others is {middle:.3f}" if others else "there is no other member to compare with"
        text = f"scores {score:.3f}, {beside}; did it see the rows that it predicts?"
        if score >= _IMPLAUSIBLE and others and times >= _TIMES:
            found[name] = (True, f"too good to be true: {text} Give out-of-fold predictions")
        elif (score >= _IMPLAUSIBLE and not others) or (score >= _SUSPECT and others and times >= _TWICE):
            found[name] = (False, text)
    return found


def splits_groups(frame: pd.DataFrame, truth: pd.DataFrame) -> str | None:
    """A remark on a member whose own column `fold` has images of one group (a date) in several folds, or None."""
    if "fold" not in frame:
        return None
    group_of = dict(zip(truth["image_id"].astype(str), truth["group"].astype(str), strict=True))
    group = frame["image_id"].astype(str).map(lambda name: group_of.get(name, group_of.get(plain_id(name))))
    folds_of_group = frame["fold"].astype(str).groupby(group).nunique()
    split = int((folds_of_group > 1).sum())
    if not split:
        return None
    return (
        f"its folds split {split} of {len(folds_of_group)} groups such as {folds_of_group.idxmax()}: it has seen other "
        "images of the group that it predicts, and scores too well here"
    )


def _share_equal(pred_N: FloatArray, truth_N: FloatArray) -> float:
    """Share of masses above 1 g that are the measured ones, as they are or rounded to one decimal or none."""
    large_N = truth_N > 1
    if large_N.sum() < 3:
        return 0.0
    pred_N, truth_N = pred_N[large_N], truth_N[large_N]
    exact = float((np.abs(pred_N - truth_N) <= EQUAL_G).mean())
    rounded = [float((np.abs(pred_N - np.round(truth_N, digits)) < 1e-9).mean()) for digits in (1, 0)]
    return max(exact, *(share if share > 0.8 else 0.0 for share in rounded))


def _means_of_labels(pred_NT: FloatArray, truth_NT: FloatArray, group_N: NDArray[np.str_]) -> str | None:
    """`means`, `sums` or `means without the image itself` when most rows are just that of their group's labels."""
    _, index_N, size_G = np.unique(group_N, return_inverse=True, return_counts=True)
    known_NT = np.isfinite(truth_NT)
    count_GT, sum_GT = np.zeros((2, len(size_G), truth_NT.shape[1]))
    np.add.at(count_GT, index_N, known_NT.astype(np.float64))
    np.add.at(sum_GT, index_N, np.where(known_NT, truth_NT, 0.0))
    sum_NT, count_NT = sum_GT[index_N], count_GT[index_N]
    shared_NT = known_NT & (count_NT > 1)
    if len(size_G) < 2 or shared_NT.sum() < 0.5 * known_NT.sum():
        return None
    candidates = {
        "the measured means": sum_NT / np.maximum(count_NT, 1),
        "the sums of the measured masses": sum_NT,
        "the measured means of the other images": (sum_NT - truth_NT) / np.maximum(count_NT - 1, 1),
    }
    for what, value_NT in candidates.items():
        near_NT = np.abs(pred_NT - value_NT) <= 0.06  # rounded to one decimal
        if near_NT[shared_NT].mean() > 0.8 and value_NT[shared_NT].std() > 0.5:
            return what
    return None
