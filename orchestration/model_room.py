"""Which trials give up their models so that a study's weights fit into `--weights-gb`. Out-of-fold rows stay for good.

The worst go first: failed trials, pruned ones by their estimate, complete ones by their score. Members of a blend come
after all others, and the best trial keeps its models whatever they take.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import NamedTuple

FAILED, PRUNED, COMPLETE = range(3)


class Held(NamedTuple):
    """The models of an ended trial."""

    trial_id: str
    size: int  # bytes
    rank: tuple[int, float]  # (FAILED, PRUNED or COMPLETE, score or estimate): larger is better


def trials_to_drop(held: Iterable[Held], open_bytes: int, limit: int, members: Container[str]) -> list[str]:
    """Trials whose models go, in that order; as few as bring the sum down to the limit in bytes.

    open_bytes: of trials that are under way, which keep theirs; members: trials that a blend uses.
    """
    worst_first = sorted(held, key=lambda one: (*one.rank, one.trial_id))
    total = open_bytes + sum(one.size for one in worst_first)
    best = worst_first[-1].trial_id if worst_first and worst_first[-1].rank[0] == COMPLETE else None
    candidates = [one for one in worst_first if one.size > 0 and one.trial_id != best]
    dropped = []
    for one in sorted(candidates, key=lambda one: one.trial_id in members):
        if total <= limit:
            break
        total -= one.size
        dropped.append(one.trial_id)
    return dropped
