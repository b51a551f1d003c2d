"""Members that repeat each other: exact and near duplicates, found block by block so that 10 000 members pass.

M members, E columns of the residual factors (gram.py). Two members are one when the cosine of their residuals, in the
metric's norm, exceeds a limit. Proportional residuals count as well: mixing such a pair never beats the better alone.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from biomass_models.targets import FloatArray
from ensembles.gram import ErrorGram

SAME = 0.9999  # residual correlation above which two members are merged


def duplicates_of(
    gram: ErrorGram, *, first: Collection[int] = (), limit: float = SAME, block: int = 512
) -> dict[int, int]:
    """Member -> the better member it repeats. Members are visited from best to worst, ties in their own order.

    first: members that are visited before the others: one of these never repeats one that is not.

    Costs M^2 E multiplications in float32 (a cosine good to 1e-6) and M E numbers of memory, never an M x M matrix.
    """
    later_M = ~np.isin(np.arange(gram.members), list(first))
    order = np.lexsort((np.round(gram.loss_M, 10), later_M))  # rounding must not rank one copy before the other
    unit_ME = np.concatenate(gram.factors, axis=1)
    length_M = np.sqrt(np.einsum("me,me->m", unit_ME, unit_ME))
    unit_ME = (unit_ME / np.maximum(length_M, np.finfo(np.float64).tiny)[:, None]).astype(np.float32)[order]
    perfect_M = (length_M == 0)[order]  # no residual at all: such members are equal
    kept: list[int] = []  # ranks
    kept_KE = np.empty_like(unit_ME)
    twin: dict[int, int] = {}
    for start in range(0, len(order), block):
        block_BE = unit_ME[start : start + block]
        old = len(kept)
        alike_BK = block_BE @ kept_KE[:old].T > limit
        inside_BB = block_BE @ block_BE.T > limit
        for row in range(len(block_BE)):
            rank = start + row
            known = _first_twin(alike_BK[row], inside_BB[row], kept, old, start)
            if known is None and perfect_M[rank] and perfect_M[:rank].any():
                known = int(perfect_M.argmax())
            if known is None:
                kept_KE[len(kept)] = block_BE[row]
                kept.append(rank)
            else:
                twin[int(order[rank])] = int(order[known])
    return twin


def _first_twin(alike_K: FloatArray, inside_B: FloatArray, kept: list[int], old: int, start: int) -> int | None:
    """Rank of the best kept member that a row repeats: among those of earlier blocks, then of its own."""
    if alike_K.any():
        return kept[int(alike_K.argmax())]
    return next((rank for rank in kept[old:] if inside_B[rank - start]), None)
