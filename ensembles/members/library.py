"""A library of members: aligned, coherent out-of-fold predictions and the truth that they are scored on.

M members, N images, T = 5 targets; masses in grams per quadrat, float64.
pred_MNT          out-of-fold predictions, projected onto the identities; NaN of a target that was never measured
truth_NT          measured masses; what stands in a cell without weight plays no part
weight            of the metric: [5], or [N, 5] with 0 in cells that were not measured (biomass_models.targets)
fold_N, group_N   fold and sampling group (date and state) of each image
unit_N            what errors are counted by (honest.py): the group, or a state or site that holds it
Nothing is dropped in silence: what is broken is in `left_out` with its reason, what repeats another is in `merged`, and
what is worse than the per-target mean stays, without any weight: `unskilled`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from biomass_models.counted import counted
from biomass_models.data.alignment import AlignmentError, places_of
from biomass_models.data.cell_weights import cell_weights
from biomass_models.errors import UserError
from biomass_models.fold_units import cut_groups
from biomass_models.targets import (
    TARGETS,
    FloatArray,
    IntArray,
    norm_of,
    project_coherent,
    squared_error,
    weights_of,
)
from ensembles.gram import ErrorGram, cells_of, error_gram, target_gram
from ensembles.measured import measured_targets, shares_of
from ensembles.members.checks import Comparison, broken_reason, no_skill_reason
from ensembles.members.duplicates import duplicates_of
from ensembles.members.image_ids import matched_ids
from ensembles.members.too_good import far_better, holds_labels
from ensembles.states import States

_CHUNK = 64  # members projected at once


class LibraryError(UserError):
    """There is nothing to blend, or no truth to score it on."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Library:
    """Members that may enter a blend, and those that may not with the reason."""

    names: tuple[str, ...]
    pred_MNT: FloatArray
    truth_NT: FloatArray
    image_id_N: NDArray[np.str_]
    fold_N: IntArray
    group_N: NDArray[np.str_]
    unit_N: NDArray[np.str_] | None = None  # None: the groups
    unit: str = "group"  # what a unit is called: date, state, site, ...
    state_N: NDArray[np.str_] | None = None
    states: States | None = None  # how likely each image is of each state, where that was asked for
    given_weight: FloatArray | None = None  # None: weights_of(truth_NT)
    left_out: tuple[tuple[str, str], ...] = ()  # (name, reason)
    merged: tuple[tuple[str, str], ...] = ()  # (name, the better or preferred member that it repeats)

    @cached_property
    def weight(self) -> FloatArray:
        """Weights of the cells in the metric."""
        return weights_of(self.truth_NT) if self.given_weight is None else self.given_weight

    @property
    def norm_T(self) -> FloatArray:
        """Weight of each target in a projection; 0 for one that was never measured."""
        return norm_of(self.weight)

    @cached_property
    def gram(self) -> ErrorGram:
        """Error Gram factors per (fold, group) cell."""
        return error_gram(self.pred_MNT, self.truth_NT, self.fold_N, self.group_N, self.unit_N, self.weight)

    @cached_property
    def target_grams(self) -> tuple[ErrorGram, ...]:
        """One Gram per target, for weights of its own; R2 around that target's mean. Without spread where it was never
        measured."""
        share_NT = None if self.weight.ndim == 1 else shares_of(self.weight)
        return tuple(
            target_gram(
                self.pred_MNT[:, :, target],
                self.truth_NT[:, target],
                self.fold_N,
                self.group_N,
                self.unit_N,
                None if share_NT is None else share_NT[:, target],
            )
            for target in range(len(TARGETS))
        )

    @cached_property
    def rows_of_cell(self) -> list[IntArray]:
        """Row indices of each of the Gram's cells."""
        return cells_of(self.fold_N, self.group_N)[0]

    def loss_by_cell(self, pred_NT: FloatArray) -> FloatArray:
        """Weighted squared error of any predictions [..., N, 5] in grams, rows as the library's: [..., C] g^2."""
        loss_N = squared_error(self.truth_NT, pred_NT, self.weight)
        return np.stack([loss_N[..., rows].sum(-1) for rows in self.rows_of_cell], axis=-1)

    @cached_property
    def unskilled(self) -> tuple[tuple[str, str], ...]:
        """(name, reason) of members that are worse than the per-target mean out of fold: they get no weight."""
        limit = self.gram.per_target_mean_loss
        worse = np.flatnonzero(self.gram.loss_M > limit)
        return tuple((self.names[row], no_skill_reason(1 - float(self.gram.loss_M[row]), 1 - limit)) for row in worse)

    @cached_property
    def cut_groups(self) -> int:
        """Units that lie in several folds: members have seen other images of the dates that they predict."""
        unit_N = self.group_N if self.unit_N is None else self.unit_N
        return cut_groups(pd.DataFrame({"group": unit_N, "fold": self.fold_N}))


def library_from_frames(
    members: Mapping[str, pd.DataFrame], truth: pd.DataFrame, *, left_out: Sequence[tuple[str, str]] = ()
) -> Library:
    """Align members by image id, project them, leave out what is broken, merge duplicates (the better one stays).

    members: by name, columns image_id and TARGETS in grams (those that were never measured may be absent); truth:
    image_id, fold, group, TARGETS (NaN where not measured), and State, unit and weights of cells where there are any;
    left_out: members known to be broken already, with reasons, which are listed as well.
    Raises LibraryError when the truth is unusable or no member is left.
    """
    checked = check_members(members, truth)
    broken = [*left_out, *checked.left_out]
    return library_from_arrays(list(checked.sound), list(checked.sound.values()), truth, left_out=broken, checked=True)


@dataclass(frozen=True, kw_only=True)
class CheckedMembers:
    """Predictions [N, 5] in grams by member, rows as the truth's; who is left out and why; what is only suspected."""

    sound: dict[str, FloatArray]
    left_out: tuple[tuple[str, str], ...]
    remarks: tuple[tuple[str, str], ...]


def check_members(
    members: Mapping[str, pd.DataFrame | FloatArray], truth: pd.DataFrame, *, files: Collection[str] = ()
) -> CheckedMembers:
    """Align members by image id and leave out what is broken, each with its reason; as library_from_frames.

    members: tables, or predictions [N, 5] in grams whose rows stand in the truth's order already;
    files: members that came as files: those are left out as well when they hold labels or score far out of line.
    """
    truth_NT, weight, image_id_N, fold_N, group_N = _checked_truth(truth)
    comparison = Comparison.of(truth_NT, fold_N, image_id_N, weight)
    measured, measured_T = measured_targets(weight), comparison.norm_T > 0
    groups = {"group": group_N, "fold": fold_N.astype(np.str_)}
    groups |= {"State": truth["State"].to_numpy().astype(np.str_)} if "State" in truth else {}
    sound: dict[str, FloatArray] = {}
    broken: list[tuple[str, str]] = []
    for name, frame in members.items():
        found = (
            aligned_rows(frame, pd.Index(image_id_N), "labelled images", measured)
            if isinstance(frame, pd.DataFrame)
            else frame
        )
        reason = found if isinstance(found, str) else None
        if not isinstance(found, str):
            found = found if measured_T.all() else np.where(measured_T, found, np.nan)
            finite = bool(np.isfinite(found[:, measured_T]).all())
            labels = holds_labels(found, truth_NT, groups) if finite and name in files else None
            reason = labels or broken_reason(found, comparison)
        if reason is not None:
            broken.append((name, reason))
        elif not isinstance(found, str):
            sound[name] = found
    remarks: list[tuple[str, str]] = []
    if own := set(files) & set(sound):
        every = {name: comparison.score(pred_NT) for name, pred_NT in sound.items()}
        scores = {name: score for name, score in every.items() if score >= comparison.mean_score}
        own &= set(scores)
        for name, (leave, text) in far_better(scores, {name: scores[name] for name in scores if name in own}).items():
            (broken if leave else remarks).append((name, text))
            if leave:
                del sound[name]
    return CheckedMembers(sound=sound, left_out=tuple(broken), remarks=tuple(remarks))


def library_from_arrays(
    names: Sequence[str],
    pred_MNT: Sequence[FloatArray] | FloatArray,
    truth: pd.DataFrame,
    *,
    left_out: Sequence[tuple[str, str]] = (),
    checked: bool = False,
    unit: str = "group",
    preferred: Collection[str] = (),
) -> Library:
    """As library_from_frames, for predictions [N, 5] in grams whose rows stand in the truth's order.

    checked: the members are what check_members found sound; unit: what the truth's units (else groups) are called;
    preferred: members that stay where they repeat a better one that is not preferred.
    """
    if len(names) != len(pred_MNT) or len(set(names)) != len(names):
        got = f"{counted(len(names), 'name')} for {counted(len(pred_MNT), 'member')}"
        raise LibraryError(f"each member needs a name of its own, got {got}")
    truth_NT, weight, image_id_N, fold_N, group_N = _checked_truth(truth)
    comparison = Comparison.of(truth_NT, fold_N, image_id_N, weight)
    broken = list(left_out)
    sound: list[int] = []
    for member, pred_NT in enumerate(pred_MNT):
        if np.shape(pred_NT) != truth_NT.shape:
            raise LibraryError(f"predictions must be {truth_NT.shape}, {names[member]} is {np.shape(pred_NT)}")
        reason = None if checked else broken_reason(np.asarray(pred_NT, dtype=np.float64), comparison)
        if reason is None:
            sound.append(member)
        else:
            broken.append((names[member], reason))
    if not sound:
        raise _nothing_to_blend(broken)
    coherent_MNT = np.empty((len(sound), *truth_NT.shape))
    for start in range(0, len(sound), _CHUNK):
        part = sound[start : start + _CHUNK]
        raw_MNT = np.stack([pred_MNT[member] for member in part])
        coherent_MNT[start : start + _CHUNK] = project_coherent(raw_MNT, comparison.norm_T)
    first = {row for row, member in enumerate(sound) if names[member] in preferred}
    twin = duplicates_of(error_gram(coherent_MNT, truth_NT, fold_N, group_N, weight=weight), first=first)
    kept = [row for row in range(len(sound)) if row not in twin]
    library = Library(
        names=tuple(names[sound[row]] for row in kept),
        pred_MNT=coherent_MNT[kept] if twin else coherent_MNT,
        truth_NT=truth_NT,
        image_id_N=image_id_N,
        fold_N=fold_N,
        group_N=group_N,
        unit_N=truth["unit"].to_numpy().astype(np.str_) if "unit" in truth else None,
        unit=unit,
        state_N=truth["State"].to_numpy().astype(np.str_) if "State" in truth else None,
        given_weight=weight,
        left_out=tuple(broken),
        merged=tuple((names[sound[row]], names[sound[better]]) for row, better in twin.items()),
    )
    if len(library.unskilled) == len(library.names):
        raise _nothing_to_blend([*library.unskilled, *broken])
    return library


def _nothing_to_blend(broken: Sequence[tuple[str, str]]) -> LibraryError:
    more = f"; and {len(broken) - 1} more" if len(broken) > 1 else ""
    reasons = "; ".join(f"{name}: {reason}" for name, reason in broken[:1]) or "none was given"
    return LibraryError(f"a blend needs at least one sound member, got none ({reasons}{more})")


def _checked_truth(
    truth: pd.DataFrame,
) -> tuple[FloatArray, FloatArray, NDArray[np.str_], IntArray, NDArray[np.str_]]:
    """truth_NT, NaN where nothing counts, weights of its cells, image ids, folds and groups."""
    absent = [column for column in ("image_id", "fold", "group", *TARGETS) if column not in truth]
    if absent:
        raise LibraryError(f"the truth needs the columns {', '.join(absent)}; got {', '.join(map(str, truth.columns))}")
    image_id_N = truth["image_id"].to_numpy().astype(np.str_)
    if len(set(image_id_N)) != len(image_id_N):
        raise LibraryError("the truth must have one row an image, got some image twice")
    truth_NT = truth[list(TARGETS)].to_numpy(dtype=np.float64)
    if bare := image_id_N[np.isnan(truth_NT).all(1)].tolist():
        raise LibraryError(
            f"each image has a measured mass, {len(bare)} of {len(image_id_N)} have none, such as {bare[0]}; drop them"
        )
    weight = cell_weights(truth)
    if weight.ndim > 1:
        truth_NT = np.where(weight > 0, truth_NT, np.nan)
    if np.isinf(truth_NT).any():
        raise LibraryError("measured masses must be finite, got an infinite one; mend it, or leave the cell blank")
    fold_N, group_N = truth["fold"].to_numpy(dtype=np.int64), truth["group"].to_numpy().astype(np.str_)
    return truth_NT, weight, image_id_N, fold_N, group_N


def aligned_rows(
    frame: pd.DataFrame, image_ids: pd.Index, of: str, measured: Sequence[str] = TARGETS
) -> FloatArray | str:
    """Predictions [N, 5] in the order of image_ids (what they are, for the message), or the reason why not.

    measured: targets that the frame must have; of the others it is not read.
    """
    absent = [column for column in ("image_id", *measured) if column not in frame]
    if absent:
        return f"columns missing: {', '.join(absent)}"
    own = matched_ids(pd.Index(frame["image_id"].astype(str)), image_ids)
    try:
        place_N = places_of(own, image_ids, of)
    except AlignmentError as reason:
        return str(reason)
    unread_N = np.full(len(frame), np.nan)
    try:
        columns = [frame[name].to_numpy(dtype=np.float64) if name in measured else unread_N for name in TARGETS]
    except (TypeError, ValueError):
        return "predictions must be numbers, got text"
    return np.column_stack(columns)[place_N]
