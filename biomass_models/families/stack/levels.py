"""Two levels: a regressor for each block of features, and a ridge on their out-of-fold predictions.

N images, M training rows, B blocks of features (one for each size and layer), T = 5 targets, S spaces (grams, log1p of
grams), G = S * T goals, J inner folds, A penalties.
block_BNF    features, float32; each block has as many as it likes
mass_NT      grams, NaN where not measured
guess_BNG    level 1's predictions, in the unit of their space
inner_M      inner fold of each training row: what the study keeps whole lies in one

Level 2 learns from guesses that came out of the inner folds; for other rows level 1 is fitted on all training rows.
Where a penalty is chosen, that of the regressor that guesses fold j comes out of the other inner folds alone.
Rows that models have labelled are in no inner fold: they only join the regressors of level 1 of all training rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biomass_models.data.cell_weights import row_weights
from biomass_models.families.stack import regressors
from biomass_models.families.stack.config import StackConfig
from biomass_models.families.stack.scaling import FloatsOf32, RobustScaler
from biomass_models.interrupt import ShouldStop, check_stop
from biomass_models.targets import (
    TARGETS,
    FloatArray,
    IntArray,
    norm_of,
    project_coherent,
    weighted_square,
    weights_in,
)
from biomass_models.training.fit import seed_for
from biomass_models.training.scaling import TargetScaler

TRANSFORMS_OF = {"grams": ("none",), "log1p": ("log1p",), "both": ("none", "log1p")}  # by config.goals
LEAST_TO_CHOOSE = 3  # inner folds: one is predicted, and the penalty comes out of the others


@dataclass(frozen=True)
class Spaces:
    """Targets as level 1 regresses them: z-scores of grams and of log1p grams side by side, [N, S * T]."""

    scalers: tuple[TargetScaler, ...]

    @classmethod
    def fit(cls, mass_MT: FloatArray, goals: str) -> Spaces:
        return cls(tuple(TargetScaler.fit(mass_MT, transform) for transform in TRANSFORMS_OF[goals]))

    def goals(self, mass_NT: FloatArray) -> FloatArray:
        """Z-scores [N, G]."""
        return np.concatenate([scaler.scale(mass_NT) for scaler in self.scalers], axis=1)

    def in_units(self, z_NG: FloatArray) -> FloatArray:
        """Z-scores [..., G] in the unit of their space: grams, or log1p of grams."""
        mean_G, sd_G = (np.concatenate([getattr(one, name) for one in self.scalers]) for name in ("mean_T", "sd_T"))
        return z_NG * sd_G + mean_G

    def values(self, mass_NT: FloatArray) -> FloatArray:
        """Masses in the unit of each space, [N, G]."""
        return np.concatenate(
            [mass_NT if one.transform == "none" else np.log1p(mass_NT) for one in self.scalers], axis=1
        )

    def grams(self, value_NG: FloatArray) -> FloatArray:
        """Values in the unit of their space -> grams [S, ..., T], up to twice the heaviest; they may be negative."""
        parts = []
        for one, part in zip(self.scalers, np.split(value_NG, len(self.scalers), axis=-1), strict=True):
            log = one.transform == "log1p"
            parts.append(np.expm1(np.minimum(part, np.log1p(one.cap_T))) if log else np.minimum(part, one.cap_T))
        return np.stack(parts)


@dataclass(frozen=True)
class Level1:
    """The regressor of a block."""

    scaler: RobustScaler
    regressor: regressors.Regressor
    spaces: Spaces

    @classmethod
    def fit(
        cls,
        config: StackConfig,
        feature_MF: FloatsOf32,
        mass_MT: FloatArray,
        weight_M: FloatArray,
        penalty_S: FloatArray,
        labelled_M: NDArray[np.bool_] | None = None,
        *,
        seed: int,
        should_stop: ShouldStop | None = None,
    ) -> Level1:
        """penalty_S: of the ridge in each space; weight_M: of the rows; labelled_M: which of them were weighed, from
        which all scales come. Raises StopRequested."""
        own = slice(None) if labelled_M is None else labelled_M
        scaler, spaces = RobustScaler.fit(feature_MF[own]), Spaces.fit(mass_MT[own], config.goals)
        regressor = regressors.fitted(
            config,
            scaler.scale(feature_MF),
            spaces.goals(mass_MT),
            weight_M,
            np.repeat(penalty_S, len(TARGETS)),
            own,
            seed=seed,
            should_stop=should_stop,
        )
        return cls(scaler, regressor, spaces)

    def guess(self, feature_NF: FloatsOf32) -> FloatArray:
        """[N, G] in the unit of their space."""
        return self.spaces.in_units(self.regressor.predict(self.scaler.scale(feature_NF)))


@dataclass(frozen=True)
class Stack:
    """What a fit learned."""

    level1_B: tuple[Level1, ...]
    coefficient_GB: FloatArray  # level 2: of each goal on its own guesses
    intercept_G: FloatArray
    spaces: Spaces  # of all training rows
    norm_T: FloatArray  # targets.norm_of the training rows' weights

    def predict(self, block_BNF: Sequence[FloatsOf32]) -> FloatArray:
        """Coherent masses in grams [N, 5], the mean over the spaces; 0 for a target that no training row had."""
        guess_BNG = np.stack([one.guess(block) for one, block in zip(self.level1_B, block_BNF, strict=True)])
        value_NG = np.einsum("bng,gb->ng", guess_BNG, self.coefficient_GB) + self.intercept_G
        mass_NT = np.maximum(self.spaces.grams(value_NG).mean(axis=0), 0.0)
        return np.where(self.norm_T > 0, project_coherent(mass_NT, self.norm_T), 0.0)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What `from_arrays` needs, by name."""
        arrays: dict[str, NDArray[Any]] = {
            "level2.coefficient_GB": self.coefficient_GB,
            "level2.intercept_G": self.intercept_G,
            "norm_T": self.norm_T,
            **_named("spaces", self.spaces),
        }
        for place, one in enumerate(self.level1_B):
            arrays |= {f"level1.{place}.{name}": array for name, array in one.regressor.arrays().items()}
            arrays |= {f"level1.{place}.median_F": one.scaler.median_F, f"level1.{place}.range_F": one.scaler.range_F}
        return arrays

    @classmethod
    def from_arrays(cls, config: StackConfig, arrays: Mapping[str, NDArray[Any]]) -> Stack:
        """Inverse of `arrays`."""
        spaces = Spaces(
            tuple(
                TargetScaler.from_arrays(_under(arrays, f"spaces.{place}."), transform)
                for place, transform in enumerate(TRANSFORMS_OF[config.goals])
            )
        )
        level1 = []
        for place in range(arrays["level2.coefficient_GB"].shape[1]):
            own = _under(arrays, f"level1.{place}.")
            scaler = RobustScaler(own.pop("median_F"), own.pop("range_F"))
            level1.append(Level1(scaler, regressors.restored(config.regressor, own), spaces))
        level2 = arrays["level2.coefficient_GB"], arrays["level2.intercept_G"]
        return cls(tuple(level1), *level2, spaces, arrays["norm_T"])


def fit_stack(
    config: StackConfig,
    block_BMF: Sequence[FloatsOf32],
    mass_MT: FloatArray,
    inner_M: IntArray,
    weight: FloatArray,
    labelled_M: NDArray[np.bool_] | None = None,
    *,
    seed: int,
    should_stop: ShouldStop | None = None,
) -> tuple[Stack, FloatArray]:
    """Both levels, and the penalty [B, S] of each ridge.

    weight: of the cells, [5] or [M, 5]; labelled_M: which rows were weighed, None: all. inner_M: of those [L]. Raises
    StopRequested.
    """
    weight_M = row_weights(weight, len(mass_MT))
    own = slice(None) if labelled_M is None else labelled_M  # the L rows of inner folds and level 2
    own_BLF, own_LT, own_weight, own_weight_L = (
        [feature_MF[own] for feature_MF in block_BMF],
        mass_MT[own],
        weights_in(weight, own),
        weight_M[own],
    )
    choice = Choice.of(config, own_BLF, own_LT, inner_M, own_weight, own_weight_L, should_stop)
    guess_BLG = out_of_fold_guesses(config, own_BLF, own_LT, inner_M, own_weight_L, choice, seed, should_stop)
    spaces = Spaces.fit(own_LT, config.goals)
    coefficient_GB, intercept_G = level2(guess_BLG, spaces.values(own_LT), own_weight_L, config.level2_penalty)
    level1 = []
    for block, feature_MF in enumerate(block_BMF):
        check_stop(should_stop, f"{block} of {len(block_BMF)} regressors of all training rows")
        level1.append(
            Level1.fit(
                config,
                feature_MF,
                mass_MT,
                weight_M,
                choice.without(block),
                labelled_M,
                seed=seed_for(seed, f"block {block}"),
                should_stop=should_stop,
            )
        )
    norm_T = norm_of(own_weight)
    chosen_BS = np.stack([choice.without(block) for block in range(len(block_BMF))])
    return Stack(tuple(level1), coefficient_GB, intercept_G, spaces, norm_T), chosen_BS


def out_of_fold_guesses(
    config: StackConfig,
    block_BMF: Sequence[FloatsOf32],
    mass_MT: FloatArray,
    inner_M: IntArray,
    weight_M: FloatArray,
    choice: Choice,
    seed: int,
    should_stop: ShouldStop | None = None,
) -> FloatArray:
    """Level 1's guesses [B, M, G] of each training row by regressors that never saw its inner fold."""
    spaces = len(TRANSFORMS_OF[config.goals])
    guess_BMG = np.zeros((len(block_BMF), len(mass_MT), spaces * len(TARGETS)))
    for fold in np.unique(inner_M):
        held = inner_M == fold
        for block, feature_MF in enumerate(block_BMF):
            check_stop(should_stop, f"inner fold {fold}, block {block} of {len(block_BMF)}")
            one = Level1.fit(
                config,
                feature_MF[~held],
                mass_MT[~held],
                weight_M[~held],
                choice.without(block, int(fold)),
                seed=seed_for(seed, f"block {block} without {fold}"),
                should_stop=should_stop,
            )
            guess_BMG[block, held] = one.guess(feature_MF[held])
    return guess_BMG


@dataclass(frozen=True)
class Choice:
    """The ridge's penalties: fixed, or the best of a grid by guesses that inner folds make of each other.

    error_BPSA   for each pair (i, j) of inner folds the weighted squared error [g^2] of the guesses of j by what was
                 fitted without both: it decides what fits the rows without i. The pair (i, i) counts for all rows.
    """

    penalty_A: FloatArray
    error_BPSA: tuple[Mapping[tuple[int, int], FloatArray], ...] = ()
    spaces: int = 2

    @classmethod
    def of(
        cls,
        config: StackConfig,
        block_BMF: Sequence[FloatsOf32],
        mass_MT: FloatArray,
        inner_M: IntArray,
        weight: FloatArray,
        weight_M: FloatArray,
        should_stop: ShouldStop | None = None,
    ) -> Choice:
        """Raises StopRequested."""
        spaces, folds = len(TRANSFORMS_OF[config.goals]), np.unique(inner_M).tolist()
        if not config.choose_penalty or len(folds) < LEAST_TO_CHOOSE:
            return cls(np.array([config.penalty]), spaces=spaces)
        penalty_A = np.logspace(config.log10_penalty_low, config.log10_penalty_high, config.penalties)
        errors = []
        for block, feature_MF in enumerate(block_BMF):
            error: dict[tuple[int, int], FloatArray] = {}
            for one, other in [*combinations(folds, 2), *zip(folds, folds, strict=True)]:
                check_stop(should_stop, f"penalties of block {block} of {len(block_BMF)}, without {one} and {other}")
                rest = (inner_M != one) & (inner_M != other)
                held_by = {(one, other): inner_M == other, (other, one): inner_M == one}
                error |= _path_errors(config, feature_MF, mass_MT, weight, weight_M, penalty_A, rest, held_by)
            errors.append(error)
        return cls(penalty_A, tuple(errors), spaces)

    def without(self, block: int, fold: int | None = None) -> FloatArray:
        """Penalty [S] of a block's regressor that is fitted on all rows but those of an inner fold."""
        if not self.error_BPSA:
            return np.full(self.spaces, self.penalty_A[0])
        error = self.error_BPSA[block]
        pairs = sorted((i, j) for i, j in error if (i == j if fold is None else i == fold and j != fold))
        chosen_S: FloatArray = self.penalty_A[np.sum([error[pair] for pair in pairs], axis=0).argmin(axis=1)]
        return chosen_S


def _path_errors(
    config: StackConfig,
    feature_MF: FloatsOf32,
    mass_MT: FloatArray,
    weight: FloatArray,
    weight_M: FloatArray,
    penalty_A: FloatArray,
    rest: NDArray[np.bool_],
    held_by: Mapping[tuple[int, int], NDArray[np.bool_]],
) -> dict[tuple[int, int], FloatArray]:
    """Weighted squared error [S, A] in g^2 of the held rows of each pair, fitted on the rest."""
    scaler, spaces = RobustScaler.fit(feature_MF[rest]), Spaces.fit(mass_MT[rest], config.goals)
    scaled_RF, goal_RG = scaler.scale(feature_MF[rest]), spaces.goals(mass_MT[rest])
    held = np.logical_or.reduce(list(held_by.values()))
    path_ANG = regressors.ridge_path(scaled_RF, goal_RG, weight_M[rest], scaler.scale(feature_MF[held]), penalty_A)
    mass_SANT = np.maximum(spaces.grams(spaces.in_units(path_ANG)), 0.0)
    error_SAN = weighted_square(mass_SANT - mass_MT[held], weights_in(weight, held)).sum(-1)
    return {pair: error_SAN[..., rows[held]].sum(-1) for pair, rows in held_by.items()}


def level2(
    guess_BMG: FloatArray, value_MG: FloatArray, weight_M: FloatArray, penalty: float
) -> tuple[FloatArray, FloatArray]:
    """Coefficients [G, B] and intercepts [G] of a ridge for each goal on its own guesses.

    value_MG: the measured masses in the unit of their space, NaN where not measured; a goal without any is 0.
    """
    coefficient_GB, intercept_G = np.zeros((value_MG.shape[1], len(guess_BMG))), np.zeros(value_MG.shape[1])
    for goal, value_M in enumerate(value_MG.T):
        known = ~np.isnan(value_M)
        if not known.any():
            continue
        guess_KB, share_K = guess_BMG[:, known, goal].T, weight_M[known] / weight_M[known].sum()
        centre_B, mean = share_K @ guess_KB, share_K @ value_M[known]
        root_K1 = np.sqrt(weight_M[known])[:, None]
        centred_KB, residual_K = root_K1 * (guess_KB - centre_B), root_K1[:, 0] * (value_M[known] - mean)
        gram_BB = centred_KB.T @ centred_KB + penalty * np.eye(len(guess_BMG))
        coefficient_GB[goal] = np.linalg.solve(gram_BB, centred_KB.T @ residual_K)
        intercept_G[goal] = mean - centre_B @ coefficient_GB[goal]
    return coefficient_GB, intercept_G


def _named(prefix: str, spaces: Spaces) -> dict[str, FloatArray]:
    return {
        f"{prefix}.{place}.{name}": array
        for place, scaler in enumerate(spaces.scalers)
        for name, array in scaler.arrays().items()
    }


def _under(arrays: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    """Arrays whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
