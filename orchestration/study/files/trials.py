"""Trials: what was proposed, and how it ended."""

from __future__ import annotations

import json
import time
from collections.abc import Container

import pandas as pd

from biomass_models.config_rules import nearest
from orchestration.study import layout
from orchestration.study.files.base import LedgerError, parquet
from orchestration.study.files.study import SettingFiles
from orchestration.study.records import COMPLETE, FAILED, TrialRecord, TrialResult

MOST_NAMED = 5  # trials in a message


def incomplete(trial_id: str, status: str) -> LedgerError:
    """Of a trial that has ended, or not, without all its out-of-fold rows."""
    return LedgerError(f"a complete trial has out-of-fold rows of all folds, {trial_id} is {status}; name another")


class TrialFiles(SettingFiles):
    """Every file of a trial but those of its folds."""

    def write_trial(self, record: TrialRecord) -> None:
        self._write(layout.trial_record(record.trial_id), record)

    def trial(self, trial_id: str) -> TrialRecord:
        record = self._read(layout.trial_record(trial_id), TrialRecord)
        if record is None and self.storage.size(layout.trial_record(trial_id)) is not None:
            raise LedgerError(
                f"{self.storage.uri}/{layout.trial_record(trial_id)} cannot be read; `biomass repair "
                f"{self.storage.uri}` sets the trial aside"
            )
        if record is None:
            raise self._no_trial(trial_id)
        return record

    def trial_id(self, prefix: str) -> str:
        """The id of the trial that is named by it, or by how no other trial's id begins.

        Raises LedgerError with the candidates where several ids begin so, with the nearest id where none does.
        """
        names = self.storage.children(layout.TRIALS)
        begun = [name for name in names if prefix and name.startswith(prefix)]
        found = list(filter(self._is_proposed, begun))
        if prefix in found:
            return prefix
        if not found:
            raise self._no_trial(prefix)
        if len(found) > 1:
            more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
            raise LedgerError(
                f"a trial is named by how no other id begins, got {prefix}, as {len(found)} do: "
                f"{', '.join(found[:MOST_NAMED])}{more}; give more of it"
            )
        return found[0]

    def _is_proposed(self, name: str) -> bool:
        """Whether the folder is a trial's; one that was set aside is none any more."""
        return self.storage.size(layout.trial_record(name)) is not None

    def _no_trial(self, trial_id: str) -> LedgerError:
        near = next(
            filter(self._is_proposed, nearest(trial_id, self.storage.children(layout.TRIALS), MOST_NAMED)), None
        )
        hint = f"; did you mean {near}?" if near else "; `biomass leaderboard` lists them"
        return LedgerError(f"there is no trial {trial_id} in {self.storage.uri}{hint}")

    def trials(self, known: Container[str] = ()) -> list[TrialRecord]:
        """Every proposed trial in the order of proposal; those in `known` are not read again."""
        names = [name for name in self.storage.children(layout.TRIALS) if name not in known]
        found = self.storage.each(lambda name: self._read(layout.trial_record(name), TrialRecord), names)
        return sorted((record for record in found if record is not None), key=lambda record: record.number)

    def torn_trials(self, known: Container[str]) -> list[str]:
        """Folders of trials that are not among the known ones and were not set aside: their record cannot be read."""
        unknown = [name for name in self.storage.children(layout.TRIALS) if name not in known]
        # read again: a running search has proposed some since the known ones were read
        read = self.storage.each(lambda name: self._read(layout.trial_record(name), TrialRecord), unknown)
        torn = [name for name, record in zip(unknown, read, strict=True) if record is None]
        return [name for name in torn if not self._is_set_aside(name)]

    def write_result(self, trial_id: str, result: TrialResult, oof: pd.DataFrame | None = None) -> None:
        """Close a trial; a complete one brings its OOF table."""
        payload = {} if oof is None else {layout.OOF: parquet(oof, self._oof_metadata(trial_id))}
        self._commit(layout.trial(trial_id), payload, layout.RESULT, result)

    def write_failure(self, trial_id: str, reason: str) -> TrialResult:
        """Close a trial that cannot be brought to its end; its folds stay."""
        result = TrialResult(status=FAILED, reason=reason, ended_at=time.time())
        self.write_result(trial_id, result)
        return result

    def result(self, trial_id: str) -> TrialResult | None:
        return self._read(layout.result(trial_id), TrialResult)

    def results(self, known: Container[str] = ()) -> dict[str, TrialResult]:
        """Results of the trials that have ended, by trial id; those in `known` are not read again."""
        names = [name for name in self.storage.children(layout.TRIALS) if name not in known]
        found = zip(names, self.storage.each(self.result, names), strict=True)
        return {name: result for name, result in found if result is not None}

    def reopen(self, trial_id: str) -> None:
        """Take a trial's end back; the result is kept aside under a name that no reader counts."""
        content = self.storage.read(layout.result(trial_id))
        self.storage.write(layout.reopened(trial_id, int(time.time() * 1000)), content)
        self.storage.remove(layout.result(trial_id))

    def set_trial_aside(self, trial_id: str) -> None:
        """Take a trial out of the study whose record cannot be read; its folds serve whoever proposes it again."""
        self._set_aside(layout.trial(trial_id), layout.TRIAL)
        if self.storage.size(layout.result(trial_id)) is not None:
            self.reopen(trial_id)

    def is_pooled_whole(self, trial_id: str, result: TrialResult) -> bool:
        """Whether a complete trial's pooled table is there in its size; what is in it is not read."""
        mark = result.files.get(layout.OOF)
        return mark is not None and self.storage.size(f"{layout.trial(trial_id)}/{layout.OOF}") == mark.bytes

    def oof(self, trial_id: str) -> pd.DataFrame:
        """The complete OOF table of a trial, verified against its marker."""
        try:
            return self._payload_frame(layout.trial(trial_id), layout.RESULT, TrialResult, layout.OOF)
        except LedgerError:
            result = self.result(trial_id)
            if result is None or result.status == COMPLETE:
                raise
            raise incomplete(trial_id, result.status) from None

    def write_events(self, trial_id: str, content: bytes) -> None:
        """TensorBoard events of an ended trial; no result depends on them."""
        self.storage.write(layout.events(trial_id), content)

    def events(self, trial_id: str) -> bytes | None:
        """The TensorBoard events of a trial, to be shown elsewhere; None where there are none."""
        name = layout.events(trial_id)
        return None if self.storage.size(name) is None else self.storage.read(name)

    def _oof_metadata(self, trial_id: str) -> dict[str, str]:
        record = self.trial(trial_id)
        return {
            "trial_id": trial_id,
            "family": record.family,
            "config": json.dumps(dict(record.config), sort_keys=True),
            "seed": str(record.seed),
            "fold_hash": self.study().fold_hash,
        }

    def _is_set_aside(self, trial_id: str) -> bool:
        names = self.storage.children(layout.trial(trial_id))
        return layout.TRIAL not in names and any(name.startswith(layout.TORN) for name in names)
