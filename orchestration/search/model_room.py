"""Which trials give up their models so that a study's weights fit into `--weights-gb`. Out-of-fold rows stay for good.

The worst go first: failed trials, pruned ones by their estimate, complete ones by their score. Members of a blend come
after all others, and the best trial keeps its models whatever they take.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from typing import NamedTuple

from orchestration.search.incumbent import BEST, Incumbent
from orchestration.study import layout
from orchestration.study.ledger import Ledger, folds_of
from orchestration.study.records import COMPLETE, PRUNED, TrialResult

BROKEN, HOPELESS, USEFUL = range(3)  # failed, pruned, complete
GB = 1e9


class Held(NamedTuple):
    """The models of an ended trial."""

    trial_id: str
    size: int  # bytes
    rank: tuple[int, float]  # (BROKEN, HOPELESS or USEFUL, score or estimate): larger is better


def trials_to_drop(held: Iterable[Held], open_bytes: int, limit: int, members: Container[str]) -> list[str]:
    """Trials whose models go, in that order; as few as bring the sum down to the limit in bytes.

    open_bytes: of open trials, which keep theirs; members: trials that a blend uses.
    """
    worst_first = sorted(held, key=lambda one: (*one.rank, one.trial_id))
    total = open_bytes + sum(one.size for one in worst_first)
    best = worst_first[-1].trial_id if worst_first and worst_first[-1].rank[0] == USEFUL else None
    candidates = [one for one in worst_first if one.size > 0 and one.trial_id != best]
    dropped = []
    for one in sorted(candidates, key=lambda one: one.trial_id in members):
        if total <= limit:
            break
        total -= one.size
        dropped.append(one.trial_id)
    return dropped


class ModelRoom:
    """Keeps the models of a study within a limit while it is searched. What it deletes is on record in the ledger."""

    def __init__(self, ledger: Ledger, limit_gb: float, say: Callable[[str], None]) -> None:
        self._ledger, self._limit, self._say = ledger, round(limit_gb * GB), say
        self._why = f"--weights-gb {limit_gb:g}"
        self._folds = folds_of(ledger.quadrats())
        self._sizes: dict[str, dict[int, int]] = {}  # of ended trials: bytes by fold that has its model
        self._short = False  # whether it was said that the limit cannot be met

    def drop_over_limit(self, incumbent: Incumbent) -> None:
        """Delete models until the limit is met; incumbent: refreshed."""
        results = incumbent.results
        for name in results.keys() - self._sizes.keys():
            self._sizes[name] = self._models(name)
        open_ones = [name for name in self._ledger.storage.children(layout.TRIALS) if name not in results]
        open_bytes = sum(sum(self._models(name).values()) for name in open_ones)
        held = [Held(name, sum(self._sizes[name].values()), _rank(result)) for name, result in results.items()]
        members = {*incumbent.best(BEST), *self._blended()}
        for name in trials_to_drop(held, open_bytes, self._limit, members):
            for fold in self._sizes[name]:
                self._ledger.drop_model(name, fold, self._why)
            self._sizes[name] = {}
        left = open_bytes + sum(sum(sizes.values()) for sizes in self._sizes.values())
        if left > self._limit and not self._short:
            self._say(
                f"note: the models of the best trial and of open ones take {left / GB:.3g} GB, more than "
                f"{self._why}; raise it"
            )
        self._short = left > self._limit

    def _models(self, trial_id: str) -> dict[int, int]:
        """Bytes of the models that are there, by fold."""
        sizes = {fold: self._ledger.model_bytes(trial_id, fold) for fold in self._folds}
        return {fold: size for fold, size in sizes.items() if size}

    def _blended(self) -> set[str]:
        """Trials of this study that an ensemble of this study uses."""
        own = self._ledger.storage.uri
        refs = [ref for record in self._ledger.ensembles().values() for ref in record.trials.values()]
        return {ref.trial_id for ref in refs if ref.study == own}


def _rank(result: TrialResult) -> tuple[int, float]:
    kind = {COMPLETE: USEFUL, PRUNED: HOPELESS}.get(result.status, BROKEN)
    return kind, result.reported_value or 0.0
