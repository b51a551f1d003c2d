"""Which photographs to weigh next: those that leave the least doubt about others (transductive experimental design).

L photographs that were weighed, P of a pool, J targets (photographs whose masses shall be predicted), D features.
z_LD, z_PD, z_JD   features, standardised over all that may be weighed or were, clipped
K = Z Z' / D       what a linear model on the features assumes photographs share
V                  K once labels are known: what is still open; a model of masses per square gram, so only ratios count
gain of x          sum_j V_jx^2 / (V_xx + NOISE), by which weighing x shrinks the sum of the targets' V_jj

Yu, Bi and Tresp, Active learning via transductive experimental design, ICML 2006.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from biomass_models.targets import FloatArray, IntArray

NOISE = 0.1  # of a weighed mass, on the scale of K: fixed beforehand, not tuned
CONSTANT, CLIP = 1e-6, 5.0  # spread below which a feature says nothing; standard deviations
MOST = 4000  # photographs of a pool, and targets, that are looked at


@dataclass(frozen=True, kw_only=True, eq=False)
class Choice:
    """Photographs of the pool in the order in which they were chosen, C of them."""

    row_C: IntArray  # rows of the pool
    gain_C: FloatArray  # share of what was open at first that each settles, in [0, 1]
    open_before: float  # sum of the targets' V_jj before the first


def standardised(labelled_LD: FloatArray, pool_PD: FloatArray, target_JD: FloatArray) -> tuple[FloatArray, ...]:
    """The three by the mean and spread of pool and labelled together; features that hardly vary are left out."""
    known_ND = np.concatenate([labelled_LD, pool_PD])
    mean_D, spread_D = known_ND.mean(axis=0), known_ND.std(axis=0)
    used_D = spread_D > CONSTANT

    def scaled(feature_ND: FloatArray) -> FloatArray:
        found: FloatArray = np.clip((feature_ND - mean_D)[:, used_D] / spread_D[used_D], -CLIP, CLIP)
        return found

    return scaled(labelled_LD), scaled(pool_PD), scaled(target_JD)


def choose(
    labelled_LD: FloatArray, pool_PD: FloatArray, target_JD: FloatArray, number: int, *, noise: float = NOISE
) -> Choice:
    """The next `number` of the pool (all, where it has fewer), each the best after those before; the first of equals.

    Features are standardised already. The pool's own V is never held: its columns follow from K and what was chosen.
    """
    width = max(1, pool_PD.shape[1])
    root_PL, root_JL = _settled(labelled_LD, pool_PD, target_JD, noise)
    open_JP = target_JD @ pool_PD.T / width - root_JL @ root_PL.T
    own_P = (pool_PD**2).sum(axis=1) / width - (root_PL**2).sum(axis=1)
    open_before = float((target_JD**2).sum() / width - (root_JL**2).sum())
    chosen: list[int] = []
    gains: list[float] = []
    free_P = np.ones(len(pool_PD), dtype=bool)
    for _ in range(min(number, len(pool_PD))):
        gain_P = np.einsum("jp,jp->p", open_JP, open_JP) / (np.maximum(own_P, 0.0) + noise)
        best = int(np.where(free_P, gain_P, -1.0).argmax())
        column_P = pool_PD @ pool_PD[best] / width - root_PL @ root_PL[best]
        scale = np.sqrt(max(own_P[best], 0.0) + noise)
        root_P, root_J = column_P / scale, open_JP[:, best] / scale
        open_JP -= np.outer(root_J, root_P)
        own_P -= root_P**2
        root_PL = np.column_stack([root_PL, root_P])
        free_P[best] = False
        chosen.append(best)
        gains.append(float(gain_P[best]))
    share_C = np.array(gains) / open_before if open_before > 0 else np.zeros(len(gains))
    return Choice(row_C=np.array(chosen, dtype=np.int64), gain_C=share_C, open_before=open_before)


def _settled(
    labelled_LD: FloatArray, pool_PD: FloatArray, target_JD: FloatArray, noise: float
) -> tuple[FloatArray, FloatArray]:
    """Factors of what the labels have settled: V = K - R R', with R of pool and targets, [P, L] and [J, L]."""
    width = max(1, pool_PD.shape[1])
    gram_LL = labelled_LD @ labelled_LD.T / width + noise * np.eye(len(labelled_LD))
    lower_LL = np.linalg.cholesky(gram_LL)
    root_PL, root_JL = (
        np.linalg.solve(lower_LL, labelled_LD @ feature_ND.T / width).T for feature_ND in (pool_PD, target_JD)
    )
    return root_PL, root_JL


def nearest(feature_ND: FloatArray, other_MD: FloatArray) -> IntArray:
    """Rows of `other_MD` for each of the first, the nearest first, [N, M]; the first of equals."""
    found = np.empty((len(feature_ND), len(other_MD)), dtype=np.int64)
    for row, feature_D in enumerate(feature_ND):
        found[row] = np.argsort(((other_MD - feature_D) ** 2).sum(axis=1), kind="stable")
    return found


def thinned(count: int, most: int = MOST) -> IntArray:
    """At most so many of `count` rows, evenly through their order (files of one day lie together); all of fewer."""
    return np.arange(count) if count <= most else np.linspace(0, count - 1, most).round().astype(np.int64)
