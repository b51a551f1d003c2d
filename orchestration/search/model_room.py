"""Which trials give up their models so that a study's weights fit into `--weights-gb`. Out-of-fold rows stay for good.

The worst go first: failed trials, pruned ones by their estimate, complete ones by their score. Members of a blend come
after all others, and the best trial keeps its models whatever they take.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Set
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
        self._folds = len(folds_of(ledger.quadrats()))
        self._sizes: dict[str, dict[int, int]] | None = None  # of ended trials: bytes by fold that has its model
        self._open: dict[str, dict[int, int]] = {}  # of the others, when they were looked at
        self._largest = 0  # bytes of a model that was seen
        self._short = False  # whether it was said that the limit cannot be met

    def drop_over_limit(self, incumbent: Incumbent) -> None:
        """Delete models until the limit is met; incumbent: refreshed."""
        results = incumbent.results
        sizes = self._looked_at(results.keys())
        open_bytes = self._open_bytes(results.keys(), sum(sum(each.values()) for each in sizes.values()))
        held = [Held(name, sum(sizes[name].values()), _rank(result)) for name, result in results.items()]
        members = {*incumbent.best(BEST), *self._blended()}
        for name in trials_to_drop(held, open_bytes, self._limit, members):
            for fold in sizes[name]:
                self._ledger.drop_model(name, fold, self._why)
            sizes[name] = {}
        left = open_bytes + sum(sum(each.values()) for each in sizes.values())
        if left > self._limit and not self._short:
            self._say(
                f"note: the models of the best trial and of open ones take {left / GB:.3g} GB, more than "
                f"{self._why}; raise it"
            )
        self._short = left > self._limit

    def _looked_at(self, ended: Set[str]) -> dict[str, dict[int, int]]:
        """Models of the ended trials: of all at first, then of those that have ended since."""
        if self._sizes is None:
            found = self._ledger.model_sizes()
            self._sizes = {name: found.pop(name, {}) for name in ended}
            self._open = found
        self._sizes |= self._ledger.model_sizes(sorted(ended - self._sizes.keys()))
        return self._sizes

    def _open_bytes(self, ended: Set[str], held_bytes: int) -> int:
        """Of the models of open trials. They are looked at only where the limit may be near: else it is the most that
        they take, if no model is larger than the largest so far."""
        names = [name for name in self._ledger.storage.children(layout.TRIALS) if name not in ended]
        known = [size for sizes in (self._sizes or {}, self._open) for each in sizes.values() for size in each.values()]
        self._largest = max(self._largest, *known, 0)
        most = len(names) * self._folds * self._largest
        if held_bytes + most <= self._limit:
            return most
        self._open = self._ledger.model_sizes(names)
        return sum(sum(each.values()) for each in self._open.values())

    def _blended(self) -> set[str]:
        """Trials of this study that an ensemble of this study uses."""
        own = self._ledger.storage.uri
        refs = [ref for record in self._ledger.ensembles().values() for ref in record.trials.values()]
        return {ref.trial_id for ref in refs if ref.study == own}


def _rank(result: TrialResult) -> tuple[int, float]:
    kind = {COMPLETE: USEFUL, PRUNED: HOPELESS}.get(result.status, BROKEN)
    return kind, result.reported_value or 0.0
