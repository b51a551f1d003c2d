"""Which configuration comes next: an engine per family, by turns, within budget and limits.

The ledger is the truth. On start an engine observes every ended trial of the ledger, and what was proposed but has not
ended is proposed again under its old id, with the folds that it already has. A proposal depends on the ledger and the
study's seed alone: a search that was killed and resumed proposes what it would have proposed.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING
from zlib import crc32

from biomass_models.families.configs import config_to_params
from biomass_models.families.introduced import fill_config
from orchestration.search.engines.base import Observation
from orchestration.search.engines.registry import DEFAULT, RANDOM, new_engine, next_point
from orchestration.search.gains.aims import BlendAim
from orchestration.search.gains.turns import EqualTurns, Turns
from orchestration.search.known_trials import KnownTrials, refusal
from orchestration.search.pruning import exemption
from orchestration.study.ids import make_trial_id
from orchestration.study.ledger import Ledger
from orchestration.study.records import REFUSED, Params, TrialRecord, TrialResult, TrialRound
from orchestration.study.seeds import derive_seed
from orchestration.study.settings import proposed_by
from search_spaces.domain import Choice, SearchSpace
from search_spaces.finite import Surroundings, is_finite
from search_spaces.finite import points as all_points

if TYPE_CHECKING:
    from orchestration.search.fold_costs import FoldCosts

DRAWS_UNTIL_EXHAUSTED = 50  # points in a row that are all refused or known: a space counts as exhausted
REPEATS_OF_ENGINE = 10  # known points in a row after which random search draws: an engine may keep to its best point
RANDOM_REPEATS = 500  # known points in a row of random search: a space without end counts as exhausted


class Proposer:
    """Proposes trials and observes how they end. Needs neither Ray nor Optuna."""

    def __init__(
        self,
        spaces: Mapping[str, SearchSpace],
        ledger: Ledger,
        *,
        seed: int,
        fold_hash: str,
        weights: Mapping[str, str],
        engine: str = DEFAULT,
        turns: Turns | None = None,
        aim: BlendAim | None = None,
        max_trials: int | None = None,
        deadline: float | None = None,
        max_fold_seconds: float = float("inf"),
        costs: FoldCosts | None = None,
        second_round: TrialRound | None = None,
        first: Mapping[str, Sequence[Params]] | None = None,
    ) -> None:
        """spaces: of the families that are searched; the ledger may hold trials of others, which are left alone.

        weights: fingerprint by backbone; what the spaces have beside these is not here now, and is not proposed.
        engine: name of one of engines.registry; turns: what chooses the family, None: each gets as many trials;
        aim: what engines are told of ended trials, None: their scores.
        max_trials: of the whole study, ended ones included; deadline: seconds since 1970 after which none is new.
        second_round: of the trials that are proposed; engines observe those of the first round as well, and no other's.
        first: settings by family that come first; of a family that has none here those of its space.
        Raises UserError for an engine that is not here.
        """
        self.trials = KnownTrials()
        self.spaces, self.ledger, self._seed = spaces, ledger, seed
        self._fold_hash, self._weights = fold_hash, weights
        self.max_trials, self._deadline = max_trials, deadline
        self.hours_over = False  # the deadline has kept a trial back
        self.second_round = second_round
        starts = {family: (first or {}).get(family) or space.first_trials for family, space in spaces.items()}
        self._first = {family: deque(points) for family, points in starts.items()}  # those that may be new
        self._turns = turns or EqualTurns(dict.fromkeys(spaces, 1.0))
        self._aim = aim
        self._told: dict[str, float | None] = {}  # value of each ended trial, as its engine was last told
        self._engine = engine
        self._engines = {
            (name, family): new_engine(name, spaces[family]) for name in (engine, RANDOM) for family in spaces
        }
        self._max_fold_seconds, self.costs = max_fold_seconds, costs
        self.why_exhausted: dict[str, str] = {}  # why a family has nothing left, where that is to be mended
        self.searched_whole: dict[str, int] = {}  # points of the families whose ranges have no new one left
        self.no_more: dict[str, str] = {}  # why else nothing new came of a family, which is no fault
        self._finite = frozenset(family for family, space in spaces.items() if is_finite(space))
        self._around = {family: Surroundings(spaces[family]) for family in self._finite}
        self._passed: dict[str, set[str]] = {family: set() for family in self._finite}  # points that are not new
        self.unobserved: list[TrialRecord] = []  # ended ones that lie outside of the ranges
        self._exhausted: set[str] = set()
        self._resumed: list[TrialRecord] = []  # open ones that are to be proposed again
        self._rebuild()

    @property
    def missing(self) -> int:
        """Trials that this search still has to bring to an end; what it proposes without a limit is not counted."""
        new = 0 if self.max_trials is None else self.max_trials - self.trials.places
        return self.trials.open + max(0, new)

    @property
    def missing_any(self) -> bool:
        """Whether there is a trial left to bring to its end; always without a limit."""
        return self.max_trials is None or self.missing > 0

    @property
    def planned(self) -> int | None:
        """Trials that have ended once this search is over, more than max_trials where so many are taken up again.

        None without a limit.
        """
        return None if self.max_trials is None else self.trials.ended + self.missing

    @property
    def nothing_left(self) -> str | None:
        """Why there are fewer trials than were asked for, where proposals were refused; else None."""
        if not self.why_exhausted or self.hours_over or (self.max_trials is not None and not self.missing):
            return None
        return "; ".join(self.why_exhausted.values())

    @property
    def waits(self) -> bool:
        """Whether the next proposal must wait until a slot was measured. Raises BlockedError where none can be."""
        return not self._resumed and self.costs is not None and not self.costs.is_ready

    def propose(self) -> TrialRecord | None:
        """The next trial, written to the ledger; None when the budget is spent or every space is exhausted.

        What a fold costs is decided here and once: a trial that is above the limit is written down as refused, and
        another one is drawn. It is no failure, and takes no place among max_trials.
        """
        spent = self.max_trials is not None and self.trials.places >= self.max_trials
        if self._deadline is not None and time.time() >= self._deadline:
            self.hours_over = bool(self._resumed) or not spent
            return None
        if self._resumed:
            return self._resumed.pop(0)
        if spent:
            return None
        while open_families := [family for family in self.spaces if family not in self._exhausted]:
            family = self._turns.next_family(open_families, self.trials.proposed)
            record = self._first_trial(family) or self._draw(family)
            if record is None:
                self._exhausted.add(family)
                if not self._backbones_here(family) and (names := self._backbones(family)):
                    self._note_missing_weights(family, names)
                continue
            self.trials.add(record)
            self.ledger.write_trial(record)
            return record
        return None

    def record_result(self, trial_id: str, result: TrialResult) -> None:
        """Note and observe how a trial ended: its score (larger is better), a pruned one's estimate, or a failure."""
        self._observe(self.trials.end(trial_id, result), result)

    def _rebuild(self) -> None:
        results = self.ledger.results()
        for record in self.ledger.trials():
            result = results.get(record.trial_id)
            if result is None and record.refused_at is not None and record.refused_at > self._max_fold_seconds:
                result = self._write_refusal(record, record.refused_at)  # the search was killed before it did
            if record.family not in self.spaces:
                self.trials.note_other(record, result)
                continue
            if result is not None and result.status == REFUSED:
                self.trials.refuse(record, result)
            else:
                self.trials.add(record, result)
            if result is not None:
                self._observe(record, result)
            elif self._weights.get(str(record.config.get("backbone"))) == record.weights:
                self._resumed.append(record)
            else:
                self.trials.set_aside.append(record)

    def _observe(self, record: TrialRecord, result: TrialResult) -> None:
        if record.second_round not in (None, self.second_round):
            return
        if not self._tell(record, result.reported_value, refused=result.status == REFUSED):
            self.unobserved.append(record)

    def _tell(self, record: TrialRecord, value: float | None, *, refused: bool = False) -> bool:
        """Have an engine observe what an ended trial is worth; False where it cannot hold the trial."""
        self._told[record.trial_id] = value
        return self._engines[self._engine, record.family].observe(
            Observation(
                trial_id=record.trial_id,
                number=record.number,
                params=self.spaces[record.family].completed(record.params, fill_config(record.family, record.config)),
                value=value,
                refused=refused,
            )
        )

    def _tell_again(self, family: str) -> None:
        """Have a family's engine observe its trials whose value is another one by now."""
        if self._aim is None:  # a score stays what it is
            return
        proposed = self.trials.proposed
        values = self._aim.values(proposed)
        for record, _ in proposed:
            name = record.trial_id  # of another round: never told
            if record.family == family and name in values and values[name] != self._told.get(name, values[name]):
                self._tell(record, values[name])

    def _first_trial(self, family: str) -> TrialRecord | None:
        """The next of the settings that a family starts from."""
        waiting = self._first.get(family)
        while waiting:
            record = self._record(family, dict(waiting.popleft()), "first trial")
            if record is not None and self.trials.existing_id(record) is None and not self._is_refused(record):
                return record
        return None

    def _draw(self, family: str) -> TrialRecord | None:
        """A new point; None where the engine has no more, or all that is drawn is known or refused."""
        self._tell_again(family)
        refused, drawn = 0, 0
        repeated: list[Params] = []  # known points that the engine has proposed since the ledger changed
        while drawn < DRAWS_UNTIL_EXHAUSTED:
            stuck = len(repeated) == REPEATS_OF_ENGINE
            record = self._unknown_at_random(family) if stuck else self._proposal(family, self._engine, repeated)
            if record is not None and family in self._finite and self.trials.existing_id(record) is not None:
                record = self._nearest_new(record)
            if record is None:
                break
            drawn, known = drawn + 1, self.trials.existing_id(record)
            if known is not None:
                refused += self.trials.is_refused(known)
                repeated.append(record.params)
            elif self._is_refused(record):
                refused, repeated = refused + 1, []
            else:
                self.why_exhausted.pop(family, None)  # of proposals that others have made good
                return record
        if refused:
            self.why_exhausted[family] = (
                f"a fold may take {self._max_fold_seconds:.0f} s (--max-fold-seconds), of the last {drawn} proposals "
                f"of {family} {refused} were refused and the others known; the least estimate was "
                f"{self.trials.least_estimate(family):.0f} s. Raise the limit (with --retry-failed what was refused is "
                "taken up), or search at a smaller --scale"
            )
        elif family not in {**self.why_exhausted, **self.searched_whole}:
            known_ones = f"random search draws known trials of {family} alone; widen its ranges with --space"
            engine_ends = f"engine {self._engine} has no more trials of {family}; name another with --engine"
            self.no_more[family] = known_ones if stuck else engine_ends
        return None

    def _nearest_new(self, known: TrialRecord) -> TrialRecord | None:
        """The point of a finite space that is nearest to a known one and can be a trial; None where all are known.

        An engine proposes its best points again and again: asked anew it takes as long, and may do so once more. Which
        of the nearest it is depends on the points alone, not on what this process has passed over before.
        """
        space, passed = self.spaces[known.family], self._passed[known.family]
        seed = derive_seed("beside", self._seed, known.family, self.trials.next_number)
        for ring in self._around[known.family].rings(known.params):
            new = [key for key in ring if key not in passed]
            for key in sorted(new, key=lambda one: crc32(one.encode(), seed)):
                can_run = self._can_run(space, ring[key])
                record = self._record(known.family, ring[key], known.why) if can_run else None
                if record is not None and self.trials.existing_id(record) is None:
                    return record
                passed.add(key)
        self.searched_whole[known.family] = sum(self._can_run(space, params) for params in all_points(space))
        return None

    def _can_run(self, space: SearchSpace, params: Params) -> bool:
        """Whether the configuration accepts a point, and the weights of its backbone are here."""
        return space.refusal(params) is None and space.config(params).backbone in self._weights

    def _unknown_at_random(self, family: str) -> TrialRecord | None:
        """A new point of random search; None where the space counts as exhausted."""
        records = (self._proposal(family, RANDOM, (), turn) for turn in range(RANDOM_REPEATS))
        return next(
            (record for record in records if record is not None and self.trials.existing_id(record) is None), None
        )

    def _proposal(
        self, family: str, engine: str, repeated: Sequence[Params], turn: int | None = None
    ) -> TrialRecord | None:
        """What an engine proposes with a backbone whose weights are here; None where it has no more.

        repeated: known points that it has proposed. They are pending beside the open trials, so that it looks
        elsewhere. turn: which of the proposals from one state of the ledger this is.
        """
        address = (self._seed, engine, family, self.trials.next_number, len(repeated) if turn is None else turn)
        seed, here = derive_seed("proposal", *address), self._backbones_here(family)
        pending = self.trials.pending(family) | {f"drawn {place}": params for place, params in enumerate(repeated)}
        params = self._asked(family, engine, pending, seed)
        if params is not None and here and self.spaces[family].config(params).backbone not in self._weights:
            fixed = {"backbone": here[derive_seed("backbone", *address) % len(here)]}
            params = self._asked(family, engine, pending, seed, fixed)
        record = None if params is None else self._record(family, params, self._why(engine))
        if params is not None and record is None:
            self._note_missing_weights(family, [self.spaces[family].config(params).backbone])
        return record

    def _why(self, engine: str) -> str:
        return proposed_by(engine, for_blend=self._aim is not None and engine != RANDOM)

    def _asked(
        self, family: str, name: str, pending: Mapping[str, Params], seed: int, fixed: Params | None = None
    ) -> Params | None:
        """A point that the configuration accepts, drawn again where it refuses one, as it may within own ranges.

        Raises UserError for what is no point of the space: an engine may come from a package of others.
        """
        reason = None
        for turn in range(DRAWS_UNTIL_EXHAUSTED):
            engine, again = self._engines[name, family], derive_seed("again", seed, turn) if turn else seed
            params = next_point(name, engine, self.spaces[family], pending, again, fixed)
            if params is None or (reason := self.spaces[family].refusal(params)) is None:
                return params
            pending = {**pending, f"refused {turn}": params}
        self.why_exhausted[family] = (
            f"the configuration of {family} refuses {DRAWS_UNTIL_EXHAUSTED} proposals in a row, last because {reason}. "
            "Change its ranges (--space), or add a condition"
        )
        return None

    def _backbones_here(self, family: str) -> list[str]:
        return [name for name in self._backbones(family) if name in self._weights]

    def _backbones(self, family: str) -> tuple[str, ...]:
        space = self.spaces[family]
        domain = space.domains.get("backbone", Choice((space.fixed.get("backbone"),)))
        return domain.options if isinstance(domain, Choice) else ()

    def _note_missing_weights(self, family: str, names: Sequence[str]) -> None:
        """Say why nothing of a family can be proposed where the weights of backbones that it needs are elsewhere."""
        self.why_exhausted[family] = (
            f"trials of {family} need the weights of {', '.join(names)}, which are not here; `biomass weights` lists "
            "sources"
        )

    def _is_refused(self, record: TrialRecord) -> bool:
        """Whether a fold is estimated above the limit; then the ledger has it as refused."""
        if self.costs is None:
            return False
        seconds = self.costs.seconds(record.family, self.spaces[record.family].config(record.params))
        if seconds is None or seconds <= self._max_fold_seconds:
            return False
        record = replace(record, refused_at=seconds)
        self.ledger.write_trial(record)
        result = self._write_refusal(record, seconds)
        self.trials.refuse(record, result)
        self._observe(record, result)
        return True

    def _write_refusal(self, record: TrialRecord, seconds: float) -> TrialResult:
        result = refusal(seconds, self._max_fold_seconds)
        self.ledger.write_result(record.trial_id, result)
        return result

    def _record(self, family: str, params: Params, why: str) -> TrialRecord | None:
        """None where the weights of its backbone are not here."""
        config = config_to_params(self.spaces[family].config(params))
        weights = self._weights.get(config["backbone"])
        if weights is None:
            return None
        trial_id = make_trial_id(family, config, weights, self._seed, self._fold_hash, self.second_round)
        return TrialRecord(
            trial_id=trial_id,
            number=self.trials.next_number,
            family=family,
            params=params,
            config=config,
            weights=weights,
            seed=self._seed,
            why=why,
            proposed_at=time.time(),
            spared=exemption(self.trials.next_number, config["backbone"], self.trials.backbones, trial_id),
            second_round=self.second_round,
        )
