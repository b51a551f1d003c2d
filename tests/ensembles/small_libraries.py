"""Small random libraries for the tests of this folder."""

from __future__ import annotations

import numpy as np
import pandas as pd

from biomass_models.data.cell_weights import WEIGHT_COLUMNS
from biomass_models.targets import CLOVER, FROM_COMPONENTS, TARGETS, TOTAL, FloatArray, weight_T
from ensembles.members.library import Library
from ensembles.states import States


def truth_frame(images: int = 60, groups: int = 10, folds: int = 5, seed: int = 0) -> pd.DataFrame:
    """Skewed coherent masses in groups, whole groups in folds, two states."""
    rng = np.random.default_rng([seed, images])
    group_N = np.sort(rng.permutation(np.arange(images) % groups))
    mass_N3 = rng.gamma(1.5, [12.0, 6.0, 4.0], (images, 3)) * rng.uniform(0.5, 1.5, (groups, 3))[group_N]
    frame = pd.DataFrame(mass_N3 @ FROM_COMPONENTS.T, columns=list(TARGETS))
    frame.insert(0, "image_id", [f"ID{row:04d}" for row in rng.permutation(images)])
    frame["fold"] = group_N % folds
    frame["group"] = [f"d{group:02d}" for group in group_N]
    frame["State"] = np.where(group_N % 2, "NSW", "Vic")
    return frame


def member_predictions(truth: pd.DataFrame, members: int = 12, noise: float = 6.0, seed: int = 0) -> FloatArray:
    """[M, N, 5] grams: truth plus a shared error plus a member's own, clipped at 0; coherent."""
    rng = np.random.default_rng([seed, members, 1])
    truth_N3 = truth[list(TARGETS)].to_numpy()[:, :3]
    shared_N3 = rng.normal(0, noise, truth_N3.shape)
    own_MN3 = rng.normal(0, noise, (members, *truth_N3.shape)) * rng.uniform(0.3, 1.3, (members, 1, 1))
    return np.maximum(truth_N3 + shared_N3 + own_MN3, 0) @ FROM_COMPONENTS.T


def small_library(
    members: int = 12, images: int = 60, groups: int = 10, folds: int = 5, seed: int = 0, noise: float = 6.0
) -> Library:
    """Members as they are drawn: none is checked, merged or left out."""
    truth = truth_frame(images, groups, folds, seed)
    return Library(
        names=tuple(f"m{member:02d}" for member in range(members)),
        pred_MNT=member_predictions(truth, members, noise, seed),
        truth_NT=truth[list(TARGETS)].to_numpy(),
        image_id_N=truth["image_id"].to_numpy().astype(np.str_),
        fold_N=truth["fold"].to_numpy(),
        group_N=truth["group"].to_numpy().astype(np.str_),
        state_N=truth["State"].to_numpy().astype(np.str_),
        states=likely_states(truth),
    )


def likely_states(truth: pd.DataFrame) -> States:
    """Each image is of its own state by nine in ten."""
    names = ("NSW", "Vic")
    return States(names=names, likely_NS=np.where(truth["State"].to_numpy()[:, None] == np.array(names), 0.9, 0.1))


PARTIAL = ("total", "total and clover", "total, some all", "some clover, own weights")  # what was measured


def partial_weights(kind: str, images: int = 60, seed: int = 0) -> FloatArray:
    """[N, 5] weights of the cells of a study in which so much was measured."""
    rng = np.random.default_rng([seed, images, 2])
    weight_NT = np.tile(weight_T, (images, 1))
    some_N = rng.random(images) < 0.5
    if kind == "total":
        measured_NT = np.arange(5) == TOTAL
    elif kind == "total and clover":
        measured_NT = np.isin(np.arange(5), [TOTAL, CLOVER])
    elif kind == "total, some all":
        measured_NT = some_N[:, None] | (np.arange(5) == TOTAL)
    else:
        measured_NT = (np.arange(5) == TOTAL) | (some_N[:, None] & (np.arange(5) == CLOVER))
        weight_NT = np.array([0.1, 0.1, 0.4, 0.1, 0.3]) / rng.integers(
            1, 4, (images, 1)
        )  # several photographs a quadrat
    return np.where(measured_NT, weight_NT, 0.0)


def partial_frame(kind: str, images: int = 60, fill: float = np.nan, seed: int = 0) -> pd.DataFrame:
    """truth_frame with `fill` where nothing was measured, and the weights of the cells unless NaN says it all."""
    truth, weight_NT = truth_frame(images, seed=seed), partial_weights(kind, images, seed)
    truth[list(TARGETS)] = np.where(weight_NT > 0, truth[list(TARGETS)].to_numpy(), fill)
    if np.isnan(fill) and "own" not in kind:
        return truth
    return truth.assign(**dict(zip(WEIGHT_COLUMNS, weight_NT.T, strict=True)))
