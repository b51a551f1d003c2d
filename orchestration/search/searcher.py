"""Which configuration comes next: one Optuna study per family, rebuilt from the ledger, taken in turn.

The ledger is the truth. Nothing of Optuna is stored: on start every ended trial of the ledger is told again, and
what was proposed but has not ended is proposed again under its old id, with the folds that it already has.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

import optuna
from ray import tune
from ray.tune.search import Searcher

from biomass_models.families.configs import config_to_params
from orchestration.search.fold_costs import FoldCosts
from orchestration.search.pruning import spared
from orchestration.search.trial import BlockedError
from orchestration.study.ids import content_key, make_trial_id
from orchestration.study.ledger import Ledger
from orchestration.study.records import COMPLETE, FAILED, REFUSED, Params, TrialRecord, TrialResult
from orchestration.study.seeds import derive_seed
from orchestration.workers.ray_errors import innermost_cause
from search_spaces.domain import Choice, SearchSpace
from search_spaces.to_optuna import REFUSED as INFEASIBLE
from search_spaces.to_optuna import encode, finished_trial, new_study, reseed, suggest

ALIKE_FAILURES = 5  # first trials that all fail for one reason: it is not the trials that are at fault
BROKEN_COORDINATORS = 5  # of trials in a row: it is not the trials that are at fault
DRAWS_UNTIL_EXHAUSTED = 50  # proposals in a row that are all known or refused: a space counts as exhausted


class Proposer:
    """Draws trials and learns from their scores. Knows no Ray."""

    def __init__(
        self,
        spaces: Mapping[str, SearchSpace],
        ledger: Ledger,
        *,
        seed: int,
        fold_hash: str,
        weights: Mapping[str, str],
        shares: Mapping[str, float] | None = None,
        max_trials: int | None = None,
        deadline: float | None = None,
        max_fold_seconds: float = float("inf"),
        costs: FoldCosts | None = None,
    ) -> None:
        """spaces: of the families that are searched; the ledger may hold trials of others, which are left alone.

        weights: fingerprint by backbone; what the spaces have beside these is not here now, and is not proposed.
        shares: of the trials that each family gets, in any unit; None: equal ones.
        max_trials: of the whole study, ended ones included; deadline: seconds since 1970 after which none is new.
        """
        self.spaces, self.ledger, self._seed = spaces, ledger, seed
        self._fold_hash, self._weights = fold_hash, weights
        self.max_trials, self._deadline = max_trials, deadline
        self.hours_over = False  # the deadline has kept a trial back
        self._shares = shares or dict.fromkeys(spaces, 1.0)
        self._studies = {family: new_study(derive_seed(seed, "tpe", family)) for family in spaces}
        self._max_fold_seconds, self.costs = max_fold_seconds, costs
        self._refused: dict[str, TrialRecord] = {}
        self.too_expensive: dict[str, str] = {}  # families that have nothing left but what is refused, and why
        self._records: dict[str, TrialRecord] = {}
        self._scores: dict[str, float | None] = {}  # as told to Optuna
        self._results: dict[str, TrialResult] = {}
        self._reasons: list[str | None] = []  # of the first trials to end in this run; None for no failure
        self._asked: dict[str, optuna.Trial] = {}  # trials under way, where the space holds their parameters
        self._by_content: dict[str, str] = {}  # trial id by what the trial computes
        self.set_aside: list[TrialRecord] = []  # open ones whose family or weights are not here now
        self.unobserved: list[TrialRecord] = []  # ended ones that lie outside of the ranges
        self._others = 0  # trials of families that are not searched now
        self._exhausted: set[str] = set()
        self._rebuild()

    @property
    def finished(self) -> int:
        return len(self._scores)

    @property
    def unfinished(self) -> int:
        """Trials that were proposed here and have not ended; those that are set aside are not counted."""
        aside = sum(record.trial_id in self._records for record in self.set_aside)
        return len(self._records) - len(self._scores) - aside

    @property
    def missing(self) -> int:
        """Trials that this search still has to bring to an end; what it proposes without a limit is not counted."""
        new = 0 if self.max_trials is None else self.max_trials - len(self._records) - self._others
        return self.unfinished + max(0, new)

    def ended_since(self, moment: float) -> list[float]:
        """When the trials ended that have ended since, in seconds since 1970."""
        ended = [result for name, result in self._results.items() if name in self._scores]
        return [result.ended_at for result in ended if result.ended_at >= moment]

    @property
    def best_score(self) -> float | None:
        """Of the complete trials; what a pruned one is thought to be worth does not count."""
        complete = (one.score for one in self._results.values() if one.status == COMPLETE and one.score is not None)
        return max(complete, default=None)

    def count(self, status: str) -> int:
        """Ended trials of one status: complete, pruned, failed or refused."""
        return sum(result.status == status for result in self._results.values())

    @property
    def common_failure(self) -> str | None:
        """The reason for which the first trials that ended in this run have all failed, or None."""
        alike = len(self._reasons) == ALIKE_FAILURES and len(set(self._reasons)) == 1
        return self._reasons[0] if alike else None

    @property
    def nothing_left(self) -> str | None:
        """Why there are fewer trials than were asked for, where proposals were refused; else None."""
        if not self.too_expensive or self.hours_over or (self.max_trials is not None and not self.missing):
            return None
        return "; ".join(self.too_expensive.values())

    @property
    def waits(self) -> bool:
        """Whether the next proposal must wait until a slot was measured. Raises BlockedError where none can be."""
        return not self._resumed and self.costs is not None and not self.costs.are_known

    def propose(self) -> TrialRecord | None:
        """The next trial, written to the ledger; None when the budget is spent or every space is exhausted.

        What a fold costs is decided here and once: a trial that is above the limit is written down as refused, and
        another one is drawn. It is no failure, and takes no place among max_trials.
        """
        proposed = len(self._records) + self._others
        spent = self.max_trials is not None and proposed >= self.max_trials
        if self._deadline is not None and time.time() >= self._deadline:
            self.hours_over = bool(self._resumed) or not spent
            return None
        if self._resumed:
            resumed = self._resumed.pop(0)
            self._ask(resumed.family, resumed.params, resumed.trial_id)
            return resumed
        if spent:
            return None
        while open_families := [family for family in self.spaces if family not in self._exhausted]:
            served = {family: self._count(family) / self._shares[family] for family in open_families}
            family = min(open_families, key=lambda name: served[name])
            record = self._draw(family)
            if record is None:
                self._exhausted.add(family)
                continue
            self._remember(record)
            self.ledger.write_trial(record)
            return record
        return None

    def tell(self, identity: str, result: TrialResult) -> None:
        """Learn a trial's result: its score (larger is better), a pruned one's estimate, or that it failed."""
        record = self._records[identity]
        if len(self._reasons) < ALIKE_FAILURES:
            self._reasons.append(_kind_of(result.reason or "") if result.status == FAILED else None)
        self._results[identity] = result
        self._scores[identity] = result.reported_value
        asked = self._asked.pop(identity, None)
        if asked is None:
            self._observe(record)
        else:
            self._tell_optuna(record.family, asked, self._scores[identity])

    def _rebuild(self) -> None:
        results = self.ledger.results()
        self._resumed: list[TrialRecord] = []
        for record in self.ledger.trials():
            ended = record.trial_id in results
            if record.family not in self.spaces:
                self._others += 1
                self.set_aside += [] if ended else [record]
                continue
            if ended and results[record.trial_id].status == REFUSED:
                self._refuse(record, results[record.trial_id])
                self._observe(record, refused=True)
                continue
            self._remember(record)
            if ended:
                self._results[record.trial_id] = results[record.trial_id]
                self._scores[record.trial_id] = results[record.trial_id].reported_value
                self._observe(record)
            elif self._weights.get(str(record.config.get("backbone"))) == record.weights:
                self._resumed.append(record)
            else:
                self.set_aside.append(record)

    def _remember(self, record: TrialRecord) -> None:
        self._records[record.trial_id] = record
        self._note_content(record)

    def _refuse(self, record: TrialRecord, result: TrialResult) -> None:
        self._refused[record.trial_id], self._results[record.trial_id] = record, result
        self._note_content(record)

    def _note_content(self, record: TrialRecord) -> None:
        self._by_content[content_key(record.family, record.config, record.weights)] = record.trial_id

    def _observe(self, record: TrialRecord, *, refused: bool = False) -> None:
        """Let the engine learn from a trial that it has not asked for."""
        score = self._scores.get(record.trial_id)
        observed = finished_trial(self.spaces[record.family], record.params, score, refused=refused)
        if observed is None:
            self.unobserved.append(record)
        else:
            self._studies[record.family].add_trial(observed)

    def _count(self, family: str) -> int:
        return sum(record.family == family for record in self._records.values())

    def _draw(self, family: str) -> TrialRecord | None:
        space = self.spaces[family]
        for params in space.first_trials:
            record = self._record(family, dict(params), "first trial")
            if record is None or self._known(record) is not None:
                continue
            if self._is_refused(record):
                self._observe(record, refused=True)
                continue
            self._ask(family, record.params, record.trial_id)
            return record
        refused = 0
        for _ in range(DRAWS_UNTIL_EXHAUSTED):
            asked, params = self._draw_point(family)
            record = self._record(family, params, "proposed")
            known = None if record is None else self._known(record)
            if known in self._refused or (record is not None and known is None and self._is_refused(record)):
                refused += 1
                self._studies[family].tell(asked, state=INFEASIBLE)
                continue
            if record is not None and known is None:
                self._asked[record.trial_id] = asked
                return record
            # known already: Optuna learns its score at once, or that nothing is to be had here while it runs
            self._tell_optuna(family, asked, None if known is None else self._scores.get(known))
        if refused:
            own = [self._results[name] for name, record in self._refused.items() if record.family == family]
            least = min(result.estimated_seconds or 0.0 for result in own)
            self.too_expensive[family] = (
                f"a fold may take {self._max_fold_seconds:.0f} s (--max-fold-seconds), of the last "
                f"{DRAWS_UNTIL_EXHAUSTED} proposals of {family} {refused} were refused and the others known; the least "
                f"estimate was {least:.0f} s. Raise the limit (with --retry-failed what was refused is taken up), or "
                "search at a smaller --scale"
            )
        return None

    def _is_refused(self, record: TrialRecord) -> bool:
        """Whether a fold is estimated above the limit; then the ledger has it as refused."""
        config = self.spaces[record.family].config(record.params)
        seconds = None if self.costs is None else self.costs.seconds(record.family, config)
        if seconds is None or seconds <= self._max_fold_seconds:
            return False
        result = TrialResult(
            status=REFUSED,
            reason=f"a fold may take {self._max_fold_seconds:.0f} s (--max-fold-seconds), this one is estimated at "
            f"{seconds:.0f} s",
            estimated_seconds=seconds,
            limit_seconds=self._max_fold_seconds,
            ended_at=time.time(),
        )
        self.ledger.write_trial(record)
        self.ledger.write_result(record.trial_id, result)
        self._refuse(record, result)
        return True

    def _known(self, record: TrialRecord) -> str | None:
        """The id under which the same is in the ledger already: of this version's scheme or of an earlier one's."""
        return self._by_content.get(content_key(record.family, record.config, record.weights))

    def _ask(self, family: str, params: Params, trial_id: str) -> None:
        """Note in Optuna that a trial is under way; one outside of the ranges is observed when it ends."""
        if self.spaces[family].misfits(params):
            return
        study = self._reseeded(family)
        study.enqueue_trial(encode(self.spaces[family], params))
        asked = study.ask()
        suggest(asked, self.spaces[family])
        self._asked[trial_id] = asked

    def _draw_point(self, family: str) -> tuple[optuna.Trial, dict[str, Any]]:
        study, space = self._reseeded(family), self.spaces[family]
        asked = study.ask()
        drawn = suggest(asked, space)
        here = self._backbones_here(family)
        if space.config(drawn).backbone in self._weights or not here:
            return asked, drawn
        self._tell_optuna(family, asked, None)  # its weights are not here: the same again with one that is
        study = self._reseeded(family)
        place = derive_seed(self._seed, "backbone", family, len(study.get_trials(deepcopy=False))) % len(here)
        study.enqueue_trial(encode(space, {"backbone": here[place]}))
        asked = study.ask()
        return asked, suggest(asked, space)

    def _backbones_here(self, family: str) -> list[str]:
        domain = self.spaces[family].domains.get("backbone")
        return [name for name in domain.options if name in self._weights] if isinstance(domain, Choice) else []

    def _reseeded(self, family: str) -> optuna.Study:
        study = self._studies[family]
        reseed(study, derive_seed(self._seed, "tpe", family, len(study.get_trials(deepcopy=False))))
        return study

    def _tell_optuna(self, family: str, asked: optuna.Trial, score: float | None) -> None:
        if score is None:
            self._studies[family].tell(asked, state=optuna.trial.TrialState.FAIL)
        else:
            self._studies[family].tell(asked, score)

    def _record(self, family: str, params: Params, why: str) -> TrialRecord | None:
        """None where the weights of its backbone are not here."""
        config = config_to_params(self.spaces[family].config(params))
        weights = self._weights.get(config["backbone"])
        if weights is None:
            return None
        identity = make_trial_id(family, config, weights, self._seed, self._fold_hash)
        known = {record.config["backbone"] for record in self._records.values()}
        number = len(self._records) + len(self._refused) + self._others
        return TrialRecord(
            trial_id=identity,
            number=number,
            family=family,
            params=params,
            config=config,
            weights=weights,
            seed=self._seed,
            why=why,
            proposed_at=time.time(),
            spared=spared(number, config["backbone"], known, identity),
        )


def live_trials(slots: int) -> int:
    """How many trials to have under way: more than slots, so that none idles while Tune starts the next trial; not
    many more, or proposals would be drawn before the results that they should learn from."""
    return slots + max(1, slots // 2)


def _kind_of(reason: str) -> str:
    """A reason without what differs between trials: numbers, and so folds, sizes and epochs."""
    return re.sub(r"\d+(\.\d+)?", "N", reason)


class TuneSearcher(Searcher):
    """Ray Tune's view of a Proposer. A Tune trial carries nothing but the id of a trial in the ledger."""

    def __init__(self, proposer: Proposer, live: int = 1) -> None:
        """live: most trials under way at a time; may be changed while the search runs."""
        super().__init__()
        self.proposer = proposer
        self._identities: dict[str, str] = {}
        self.live = live
        self.stop_reason: str | None = None  # what stops the whole search, such as a full disk
        self.broken_off: list[str] = []  # trials that stay open, because their coordinators did not stay alive
        self.last_break: str | None = None  # why a coordinator broke off, the latest one
        self._broken_in_a_row = 0

    def suggest(self, trial_id: str) -> Any:  # a dict, None for "not now", or Searcher.FINISHED
        if not self.stop_reason and len(self._identities) >= self.live:
            return None
        try:
            if not self.stop_reason and self.proposer.waits:
                return None
            record = None if self.stop_reason else self.proposer.propose()
        except BlockedError as error:
            record, self.stop_reason = None, str(error)
        if record is None:
            return Searcher.FINISHED
        self._identities[trial_id] = record.trial_id
        return {"trial_id": record.trial_id}

    @property
    def end_reason(self) -> str | None:
        """Why the search has not come to its end although nobody stopped it, or None."""
        if self.stop_reason is not None:
            return self.stop_reason
        if (why := self.proposer.nothing_left) is not None:
            return why
        if not self.broken_off:
            return None
        return f"{len(self.broken_off)} trials stay open: {self._why_broken}; the same command goes on with them"

    @property
    def _why_broken(self) -> str:
        why = f", at last by {self.last_break}" if self.last_break else ""
        return f"their coordinators broke off each time they were started{why}"

    @property
    def under_way(self) -> int:
        """Trials that have begun and not ended."""
        return len(self._identities)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        identity = self._identities.pop(trial_id)
        if not error and result is not None and result.get("status") == "stopped":
            self.stop_reason = self.stop_reason or result.get("reason")
            return  # it has not ended: the next run takes it up again
        ended = self.proposer.ledger.result(identity)
        if ended is None:
            if error:
                self._leave_open(identity)
            return  # the search is being stopped, or Tune has started its coordinator many times: the next run goes on
        self._broken_in_a_row = 0
        self.proposer.tell(identity, ended)
        if (reason := self.proposer.common_failure) is not None and self.stop_reason is None:
            self.stop_reason = (
                f"the first {ALIKE_FAILURES} trials all failed for the same reason: {reason}. Mend it, then give the "
                "same command with --retry-failed"
            )

    def _leave_open(self, identity: str) -> None:
        """A coordinator does no work of its own: what ends its process, whenever it is started, is not the trial's."""
        self.broken_off.append(identity)
        self._broken_in_a_row += 1
        if self._broken_in_a_row >= BROKEN_COORDINATORS and self.stop_reason is None:
            self.stop_reason = (
                f"{BROKEN_COORDINATORS} trials in a row stay open: {self._why_broken}. Mend that on the head node "
                "(memory, disk, the folder of the code), then give the same command again"
            )

    # The ledger holds all that a new start needs; what Tune would save is never read.
    def save(self, checkpoint_path: str) -> None:
        pass

    def restore(self, checkpoint_path: str) -> None:
        pass

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        pass

    def __getstate__(self) -> dict[str, Any]:
        return {}


class BreakNotes(tune.Callback):
    """Hands a searcher the reasons for which coordinators broke off; Tune's own interface says only that they did."""

    def __init__(self, searcher: TuneSearcher) -> None:
        self._searcher = searcher

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """After each of them."""
        error = trial.get_error()  # its text: nothing is unpickled from a study
        if error is not None:
            self._searcher.last_break = innermost_cause(error)
