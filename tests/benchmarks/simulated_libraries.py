"""Simulated libraries of models with a true test set, made to resemble a search's out-of-fold predictions.

M members, N images, 3 components (green, dead, clover); masses in grams.
What real libraries show and these copy: dates differ from each other more than the images of one day; components are
skewed and some are absent on a whole date; errors grow with the mass; all models share most of their error (what a
photograph does not tell), families share some more, the rest is a member's own; each part has a share that is common
to a date. As models fitted by least squares do, they regress to the mean by as much as they err, give or take some
percent, and have offsets of their own that stay the same on the test set, whose dates are new.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from biomass_models.targets import FROM_COMPONENTS, FloatArray, squared_error, weight_T, weighted_sst
from ensembles.gram import ErrorGram, gram_of_components, moments_of, sst_of

FloatArray32 = NDArray[np.float32]

MEAN_3 = np.array([26.0, 12.0, 7.0])  # grams, about the competition's
ABSENT_3 = np.array([0.05, 0.11, 0.38])  # share of dates without a component
LOG_SD_DATE, LOG_SD_IMAGE = 0.40, 0.55
COMMON_SD, FAMILY_SD, MEMBER_SD = 0.60, 0.25, 0.45  # of errors, in units of the mass; a member's own at most
EQUAL_SD = 0.30  # of an equal member's own errors
DATE_SHARE = 0.35  # of each error's variance
TEST_IMAGES_A_DATE = 20


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """One replicate: what a blender sees, and the truth about any weights."""

    gram: ErrorGram
    test_component_ME: FloatArray32  # [M, 3 * images]
    test_truth_N3: FloatArray
    sound: int  # the first `sound` members are models, the others noise

    def scores_on_dates(self, weight_M: FloatArray, dates: int) -> FloatArray:
        """Scores of a blend on as many separate sets of `dates` test dates as there are: [S]."""
        blend_N3 = (weight_M.astype(np.float32) @ self.test_component_ME).reshape(-1, 3)
        truth_NT = self.test_truth_N3 @ FROM_COMPONENTS.T
        loss_N = squared_error(truth_NT, blend_N3 @ FROM_COMPONENTS.T)
        size = dates * TEST_IMAGES_A_DATE
        sets = [slice(start, start + size) for start in range(0, len(loss_N) - size + 1, size)]
        return np.array([1 - loss_N[rows].sum() / weighted_sst(truth_NT[rows]) for rows in sets])

    def true_scores(self, weight_RM: FloatArray) -> FloatArray:
        """Score of blends on the test set: [R]."""
        blend_RN3 = (weight_RM.astype(np.float32) @ self.test_component_ME).reshape(len(weight_RM), -1, 3)
        error_RNT = (blend_RN3 - self.test_truth_N3) @ FROM_COMPONENTS.T
        sst = sst_of(moments_of(self.test_truth_N3 @ FROM_COMPONENTS.T, weight_T))
        return 1 - np.einsum("rnt,t->r", error_RNT**2, weight_T) / sst


def simulate(
    members: int, images: int, *, dates: int, seed: int, noise: int = 0, test_dates: int = 200, own: float = 1.0
) -> Simulated:
    """Draw a library of `members` models and `noise` members without any skill beyond the mean.

    own: what families and members do not share, in units of its usual size; smaller means more alike.
    """
    rng = np.random.default_rng([seed, members, images, noise])
    date_N = np.sort(rng.integers(0, dates, images))
    test_date_N = dates + np.repeat(np.arange(test_dates), TEST_IMAGES_A_DATE)
    all_date_A = np.concatenate([date_N, test_date_N])
    truth_A3 = draw_masses(rng, all_date_A)
    models_MA3 = _models(rng, members, truth_A3, all_date_A, own)
    pred_MA3 = np.concatenate([models_MA3, _noise_members(rng, noise, truth_A3)]) if noise else models_MA3
    truth_NT = truth_A3[:images] @ FROM_COMPONENTS.T
    group_N = np.char.mod("d%04d", date_N)
    return Simulated(
        gram=gram_of_components(pred_MA3[:, :images], truth_NT, date_N % 5, group_N),
        test_component_ME=pred_MA3[:, images:].reshape(members + noise, -1),
        test_truth_N3=truth_A3[images:],
        sound=members,
    )


def library_arrays(
    members: int, images: int, *, dates: int, seed: int
) -> tuple[FloatArray, FloatArray, NDArray[np.int64], NDArray[np.str_]]:
    """pred_MNT, truth_NT, fold_N, group_N of a library without a test set."""
    rng = np.random.default_rng([seed, members, images])
    date_N = np.sort(rng.integers(0, dates, images))
    truth_N3 = draw_masses(rng, date_N)
    pred_MNT = _models(rng, members, truth_N3, date_N).astype(np.float64) @ FROM_COMPONENTS.T
    return pred_MNT, truth_N3 @ FROM_COMPONENTS.T, date_N % 5, np.char.mod("d%04d", date_N)


def equal_arrays(
    members: int, images: int, *, dates: int, seed: int
) -> tuple[FloatArray, FloatArray, NDArray[np.int64], NDArray[np.str_]]:
    """As `library_arrays`, of members that are equally good: own errors of one size, calibrated, of no family."""
    rng = np.random.default_rng([seed, members, images, 1])
    date_N = np.sort(rng.integers(0, dates, images))
    truth_N3 = draw_masses(rng, date_N)
    spread_N3 = np.sqrt(MEAN_3 * (truth_N3 + 0.3 * MEAN_3))
    error_MN3 = COMMON_SD * draw_errors(rng, 1, truth_N3, date_N) + EQUAL_SD * draw_errors(
        rng, members, truth_N3, date_N
    )
    centred_N3 = truth_N3 - truth_N3.mean(0)
    raw_MN3 = centred_N3 + error_MN3 * spread_N3
    slope_M3 = (raw_MN3 * centred_N3).mean(1) / (raw_MN3**2).mean(1)
    pred_MN3 = np.maximum(raw_MN3 * slope_M3[:, None] + truth_N3.mean(0), 0)
    return pred_MN3 @ FROM_COMPONENTS.T, truth_N3 @ FROM_COMPONENTS.T, date_N % 5, np.char.mod("d%04d", date_N)


def draw_masses(rng: np.random.Generator, date_A: NDArray[np.int64]) -> FloatArray:
    dates = int(date_A.max()) + 1
    log_A3 = LOG_SD_DATE * rng.standard_normal((dates, 3))[date_A] + LOG_SD_IMAGE * rng.standard_normal(
        (len(date_A), 3)
    )
    absent_A3 = (rng.random((dates, 3)) < ABSENT_3)[date_A]
    return np.where(absent_A3, 0.0, MEAN_3 * np.exp(log_A3 - (LOG_SD_DATE**2 + LOG_SD_IMAGE**2) / 2))


def _models(
    rng: np.random.Generator, members: int, truth_A3: FloatArray, date_A: NDArray[np.int64], own: float = 1.0
) -> FloatArray32:
    families = max(3, members // 25)
    family_M = rng.integers(0, families, members)
    spread_A3 = np.sqrt(MEAN_3 * (truth_A3 + 0.3 * MEAN_3))  # errors grow with the mass

    def errors(count: int) -> FloatArray32:
        return draw_errors(rng, count, truth_A3, date_A)

    own_sd_M = own * MEMBER_SD * rng.uniform(0.3, 1.0, members) ** 1.5
    family_sd_F = own * FAMILY_SD * rng.uniform(0.6, 1.8, families)
    miscalibration_M3 = 1 + 0.08 * rng.standard_normal((members, 3))
    offset_M3 = 0.05 * MEAN_3 * rng.standard_normal((members, 3))
    shared_FA3 = COMMON_SD * errors(1) + family_sd_F[:, None, None].astype(np.float32) * errors(families)
    pred_MA3 = errors(members)
    pred_MA3 *= own_sd_M[:, None, None].astype(np.float32)
    for family in range(families):
        pred_MA3[family_M == family] += shared_FA3[family]
    pred_MA3 *= spread_A3.astype(np.float32)
    mean_3 = truth_A3.mean(0)
    centred_A3 = (truth_A3 - mean_3).astype(np.float32)
    for member in range(members):
        raw_A3 = pred_MA3[member] + centred_A3
        slope_3 = miscalibration_M3[member] * (raw_A3 * centred_A3).mean(0) / (raw_A3**2).mean(0)
        pred_MA3[member] = raw_A3 * slope_3.astype(np.float32) + (mean_3 + offset_M3[member]).astype(np.float32)
    return np.maximum(pred_MA3, 0, out=pred_MA3)


def draw_errors(rng: np.random.Generator, count: int, truth_A3: FloatArray, date_A: NDArray[np.int64]) -> FloatArray32:
    """Of unit variance, of which DATE_SHARE is common to a date."""
    image = rng.standard_normal((count, *truth_A3.shape), dtype=np.float32)
    date = rng.standard_normal((count, int(date_A.max()) + 1, 3), dtype=np.float32)[:, date_A]
    image *= np.float32(np.sqrt(1 - DATE_SHARE))
    image += np.float32(np.sqrt(DATE_SHARE)) * date
    return image


def _noise_members(rng: np.random.Generator, count: int, truth_A3: FloatArray) -> FloatArray32:
    """Each component's mean plus noise of a tenth to all of its spread."""
    noise = rng.standard_normal((count, *truth_A3.shape), dtype=np.float32)
    noise *= (rng.uniform(0.1, 1.0, (count, 1, 1)) * truth_A3.std(0)).astype(np.float32)
    noise += truth_A3.mean(0).astype(np.float32)
    return np.maximum(noise, 0, out=noise)
