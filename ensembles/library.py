"""A library of members: aligned, coherent out-of-fold predictions and the truth they are judged by.

M members, N images, T = 5 targets; masses in grams per quadrat.
pred_MNT    out-of-fold predictions, projected onto the identities      truth_NT   measured masses
fold_N, group_N   fold and sampling group (state and date) of each image
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from biomass_models.targets import TARGETS, FloatArray, project_coherent
from ensembles.gram import ErrorGram, IntArray, error_gram

DUPLICATE_CORRELATION = 0.9999  # of residuals: two members that alike are one


class LibraryError(ValueError):
    """There is nothing to blend, or the truth cannot judge it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Library:
    """Members that may enter a blend, and those that may not with the reason."""

    names: tuple[str, ...]
    pred_MNT: FloatArray
    truth_NT: FloatArray
    image_id_N: NDArray[np.str_]
    fold_N: IntArray
    group_N: NDArray[np.str_]
    left_out: tuple[tuple[str, str], ...]  # (name, reason)

    @cached_property
    def gram(self) -> ErrorGram:
        return error_gram(self.pred_MNT, self.truth_NT, self.fold_N, self.group_N)

    def gram_of(self, pred_NT: FloatArray) -> ErrorGram:
        """The Gram of one outside prediction on the library's rows, such as a reference; projected first."""
        return error_gram(project_coherent(pred_NT)[None], self.truth_NT, self.fold_N, self.group_N)


def library_from_frames(members: Mapping[str, pd.DataFrame], truth: pd.DataFrame) -> Library:
    """Align members by image id, leave out what is broken, merge duplicates (the better one stays).

    members: by name, columns image_id and the five TARGETS in grams; truth: image_id, fold, group, TARGETS.
    Raises LibraryError when no member is left.
    """
    truth_NT = truth[list(TARGETS)].to_numpy(dtype=np.float64)
    image_ids = truth["image_id"]
    sound: dict[str, FloatArray] = {}
    left_out: list[tuple[str, str]] = []
    for name, frame in members.items():
        try:
            sound[name] = project_coherent(_aligned(frame, image_ids))
        except LibraryError as reason:
            left_out.append((name, str(reason)))
    if not sound:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out) or "none was given"
        raise LibraryError(f"a blend needs at least one sound member, got none ({reasons})")
    pred_MNT = np.stack(list(sound.values()))
    fold_N, group_N = truth["fold"].to_numpy(dtype=np.int64), truth["group"].to_numpy().astype(np.str_)
    gram = error_gram(pred_MNT, truth_NT, fold_N, group_N)
    twin_of = _duplicates(gram)
    names = list(sound)
    left_out += [(names[twin], f"its residuals are those of {names[kept]}") for twin, kept in twin_of.items()]
    kept = [row for row in range(len(names)) if row not in twin_of]
    return Library(
        names=tuple(names[row] for row in kept),
        pred_MNT=pred_MNT[kept],
        truth_NT=truth_NT,
        image_id_N=image_ids.to_numpy().astype(np.str_),
        fold_N=fold_N,
        group_N=group_N,
        left_out=tuple(left_out),
    )


def _aligned(frame: pd.DataFrame, image_ids: pd.Series) -> FloatArray:
    by_image = frame.set_index("image_id")
    if not by_image.index.is_unique:
        raise LibraryError(f"an image has one row, {by_image.index[by_image.index.duplicated()][0]} has several")
    missing = pd.Index(image_ids).difference(by_image.index)
    if len(missing):
        raise LibraryError(f"every labelled image needs a prediction, {len(missing)} have none, such as {missing[0]}")
    pred_NT = by_image.loc[image_ids, list(TARGETS)].to_numpy(dtype=np.float64)
    if not np.isfinite(pred_NT).all():
        raise LibraryError(f"predictions are finite, {int((~np.isfinite(pred_NT)).any(1).sum())} rows are not")
    return pred_NT


def _duplicates(gram: ErrorGram) -> dict[int, int]:
    """Member -> the better member (or the earlier of equals) whose residuals it repeats."""
    norm_M = np.sqrt(np.diag(gram.product_MM))
    similarity_MM = gram.product_MM / np.maximum(np.outer(norm_M, norm_M), np.finfo(float).tiny)
    twin_of: dict[int, int] = {}
    kept: list[int] = []
    for member in np.lexsort((np.arange(len(norm_M)), norm_M)):
        alike = [other for other in kept if similarity_MM[member, other] > DUPLICATE_CORRELATION]
        if alike:
            twin_of[int(member)] = alike[0]
        else:
            kept.append(int(member))
    return twin_of
