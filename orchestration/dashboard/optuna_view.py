"""A study as Optuna sees it, for optuna-dashboard: one Optuna study per family, read from the ledger and never written.

The dashboard asks a storage, so the ledger is one: no journal file that could fall behind or be left over. A trial in a
journal cannot change once it has ended; here a failed trial that is taken up again simply runs again.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Container, Sequence
from datetime import datetime
from typing import Any, NoReturn

from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy  # what a storage returns; it has no public name
from optuna.trial import FrozenTrial, TrialState

from orchestration.study.ledger import Ledger, folds_of
from orchestration.study.lock import STALE_SECONDS, is_alive, is_here, read_owner
from orchestration.study.records import COMPLETE, FAILED, PRUNED, REFUSED, Owner, TrialRecord, TrialResult
from orchestration.study.spaces import stored_space
from search_spaces.to_optuna import readable

STATES = {
    COMPLETE: TrialState.COMPLETE,
    PRUNED: TrialState.PRUNED,
    FAILED: TrialState.FAIL,
    REFUSED: TrialState.FAIL,  # for what it would cost; the reason is among its attributes
}


class ReadOnlyError(RuntimeError):
    """Somebody tried to change what is derived from the ledger."""


class ReadOnlyStorage(BaseStorage):
    """The writing half of Optuna's storage interface, refused with ReadOnlyError."""

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> NoReturn:
        _refuse()

    def delete_study(self, study_id: int) -> NoReturn:
        _refuse()

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> NoReturn:
        _refuse()

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> NoReturn:
        _refuse()

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> NoReturn:
        _refuse()

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> NoReturn:
        _refuse()

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> NoReturn:
        _refuse()

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> NoReturn:
        _refuse()

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> NoReturn:
        _refuse()

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> NoReturn:
        _refuse()


def _refuse() -> NoReturn:
    raise ReadOnlyError("this view is read from the ledger; trials are changed by `biomass search` alone")


class LedgerView(ReadOnlyStorage):
    """Optuna's view of a ledger as of the last refresh. Safe for many readers; one thread refreshes."""

    def __init__(self, ledger: Ledger) -> None:
        """ledger: of an existing study, which is read once as a whole."""
        self._ledger, self._study = ledger, ledger.study()
        settings = self._study.settings
        self.folds = folds_of(ledger.quadrats())
        self._spaces = {family: stored_space(self._study, family) for family in settings.families}
        self._lock = threading.Lock()
        self._families: list[str] = list(settings.families)  # place = Optuna's id of the study
        self._trials: list[list[FrozenTrial]] = [[] for _ in self._families]  # by Optuna's study id and number
        self._place_of_id: list[tuple[int, int]] = []  # study id and number by Optuna's trial id
        self._ids: dict[str, int] = {}  # Optuna's trial id by ours
        self._records: dict[str, TrialRecord] = {}
        self._results: dict[str, TrialResult] = {}
        self._scores: dict[str, dict[int, float | None]] = {}  # of finished folds, by trial
        self._seen: tuple[Owner, float] | None = None  # the latest sign of life, and when it was seen to change
        self._running: bool | None = None  # whether a search drives the study
        self.refresh()

    @property
    def ended(self) -> list[str]:
        """Ids of the trials that have ended."""
        return list(self._results)

    def refresh(self) -> None:
        """Take over what is new in the ledger: trials, folds, ends, failed trials that were taken up again."""
        owner = read_owner(self._ledger.storage)
        running = owner is not None and (is_alive(owner) or self._has_beaten(owner))
        new = {record.trial_id: record for record in self._ledger.trials(self._records)}
        self._records |= new
        settled = {name for name, result in self._results.items() if result.status not in (FAILED, REFUSED)}
        results = self._ledger.results(settled)  # failed and refused ones each time, because they may be taken up again
        ended = [name for name, result in results.items() if self._results.get(name) != result]
        reopened = self._results.keys() - settled - results.keys()
        for name in reopened:
            del self._results[name]
        self._results |= results
        still_open = [name for name in self._records if name not in self._results]
        stale = {*new, *ended, *reopened, *(still_open if running != self._running else ())}
        for name in dict.fromkeys([*new, *ended, *still_open]):
            if name in self._records and (self._read_folds(name) or name in stale):
                self._show(name, running)
        self._running = running

    def _has_beaten(self, owner: Owner) -> bool:
        """Whether a driver elsewhere has given a sign of life between two looks of late, whatever its clock says."""
        if is_here(owner):
            return False
        now, seen = time.monotonic(), self._seen
        if seen is None or (seen[0].token, seen[0].beat) != (owner.token, owner.beat):
            is_new = seen is not None and seen[0].token == owner.token
            self._seen = seen = owner, now if is_new else -math.inf
        return now - seen[1] < STALE_SECONDS

    def _read_folds(self, name: str) -> bool:
        """Read the scores of folds that are not known yet; whether there were any."""
        known, result = self._scores.setdefault(name, {}), self._results.get(name)
        before = len(known)
        if result is not None and result.status == COMPLETE:
            known.update(zip(self.folds, result.fold_scores, strict=True))
        else:
            for fold in self.folds:
                if fold not in known and (metrics := self._ledger.fold_metrics(name, fold)) is not None:
                    known[fold] = metrics.score
        return len(known) > before

    def _show(self, name: str, running: bool) -> None:
        """Put a trial in place, whole: readers see the old one or the new one."""
        family = self._records[name].family
        with self._lock:
            if name not in self._ids:
                if family not in self._families:
                    self._families.append(family)
                    self._trials.append([])
                study_id = self._families.index(family)
                self._ids[name] = len(self._place_of_id)
                self._place_of_id.append((study_id, len(self._trials[study_id])))
            study_id, number = self._place_of_id[self._ids[name]]
            self._trials[study_id][number : number + 1] = [self._frozen(name, number, running)]

    def _frozen(self, name: str, number: int, running: bool) -> FrozenTrial:
        record, result, scores = self._records[name], self._results.get(name), self._scores[name]
        space = self._spaces.get(record.family)
        params, distributions = ({}, {}) if space is None else readable(space, record.params)
        attrs: dict[str, Any] = {"trial": name, "family": record.family, "why": record.why}
        attrs |= {key: value for key, value in record.params.items() if key not in params}
        if scores:
            attrs["fold_scores"] = [scores.get(fold) for fold in self.folds]
        # An open trial waits, where nobody drives the study, for the search to go on.
        state, ended = (TrialState.RUNNING if running else TrialState.WAITING), None
        if result is not None:
            state = STATES[result.status]
            attrs |= {"seconds": result.seconds, "gpu_seconds": result.gpu_seconds}
            attrs |= {"reason": why} if (why := result.why(len(self.folds))) else {}
            ended = datetime.fromtimestamp(result.ended_at)
        return FrozenTrial(
            number=number,
            state=state,
            value=None if result is None else result.reported_value,
            datetime_start=datetime.fromtimestamp(record.proposed_at),
            datetime_complete=ended,
            params=params,
            distributions=distributions,
            user_attrs={**attrs, "config": dict(record.config)},
            system_attrs={},
            intermediate_values={fold: score for fold, score in sorted(scores.items()) if score is not None},
            trial_id=self._ids[name],
        )

    # -- what Optuna asks ------------------------------------------------------------------------------------------

    def get_all_studies(self) -> list[FrozenStudy]:
        return [
            FrozenStudy(
                study_name=family,
                direction=StudyDirection.MAXIMIZE,
                user_attrs=self.get_study_user_attrs(study_id),
                system_attrs=self.get_study_system_attrs(study_id),
                study_id=study_id,
            )
            for study_id, family in enumerate(self._families)
        ]

    def get_study_id_from_name(self, study_name: str) -> int:
        if study_name not in self._families:
            raise KeyError(f"there is no family {study_name} in this study")
        return self._families.index(study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        return self._families[self._known(study_id)]

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        self._known(study_id)
        return [StudyDirection.MAXIMIZE]

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        self._known(study_id)
        facts = {"data_fingerprint": self._study.data_fingerprint, "fold_hash": self._study.fold_hash}
        return {"study": self._ledger.storage.uri, **facts, **self._study.settings.to_json()}

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        self._known(study_id)
        return {"study:metric_names": ["weighted R2"]}  # what Optuna's own `set_metric_names` writes

    def get_trial(self, trial_id: int) -> FrozenTrial:
        with self._lock:
            if not 0 <= trial_id < len(self._place_of_id):
                raise KeyError(f"there is no trial with Optuna's id {trial_id}")
            study_id, number = self._place_of_id[trial_id]
            return self._trials[study_id][number]

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Without copies, whatever is asked for: a trial is made anew when it changes, never changed."""
        with self._lock:
            found = list(self._trials[self._known(study_id)])
        return found if states is None else [trial for trial in found if trial.state in states]

    def _known(self, study_id: int) -> int:
        if not 0 <= study_id < len(self._families):
            raise KeyError(f"there is no Optuna study with the id {study_id}")
        return study_id
