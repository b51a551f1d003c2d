"""`biomass replay`: what a pruning rule would have done to a finished study that was searched without one.

The trials are taken in the order of their proposal, each compared with those before it that the rule would have kept:
what a search with one trial at a time would have done. Nothing is computed anew and nothing is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from biomass_models.config_rules import known_name
from biomass_models.counted import counted
from ensembles.choice import rule_named
from ensembles.members.library import library_from_arrays
from ensembles.nests import nested
from orchestration.search.incumbent import Incumbent
from orchestration.search.pruning import RULES, PruneRule, exemption
from orchestration.search.trial import fold_order
from orchestration.study.data import StudyData
from orchestration.study.ledger import Ledger, LedgerError
from orchestration.study.records import COMPLETE, PRUNED, Decision


class PrunedTrial(NamedTuple):
    trial: str
    decision: Decision  # that ended it


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What a rule saves and what it costs. Scores are weighted R2; a score is lost when the rule lowers it."""

    rule: str
    trials: int
    eligible: int  # trials that the rule could have pruned
    folds: int  # of all trials without the rule
    folds_saved: int
    seconds: float
    seconds_saved: float
    best: float
    best_lost: float
    blend: float  # nested score of the default blend of all trials
    blend_lost: float
    estimate_error: float | None  # mean |score expected over all folds - true score| of the pruned trials
    pruned: tuple[PrunedTrial, ...]


def replay(ledger: Ledger, rule_name: str, say: Callable[[str], None]) -> Replay:
    """Apply a rule of pruning.RULES to a study; LedgerError unless it has complete trials and none that was pruned."""
    rules = {name: rule for name, rule in RULES.items() if rule is not None}
    rule = rules[known_name("the rule of a replay", rule_name, rules, LedgerError)]
    data = StudyData(ledger)
    results = data.results
    if any(result.status == PRUNED for result in results.values()):
        raise LedgerError(
            f"a replay needs a study that was searched with --prune off, {ledger.storage.uri} has pruned trials: "
            "their other folds were never computed"
        )
    folds, pred = data.folds, data.predictions(trial.trial_id for trial in data.of(COMPLETE))
    for name, reason in data.unread.items():
        say(f"note: trial {name} is left out: {reason}")
    complete = [trial.record for trial in data.of(COMPLETE) if trial.trial_id in pred]
    if len(complete) < 2:
        raise LedgerError(
            f"a replay needs at least 2 complete trials, {ledger.storage.uri} has {len(complete)}; search with --prune "
            "off for more"
        )
    scores = {name: results[name].score or 0.0 for name in pred}
    run = _Run(rule, data)
    seconds_saved, folds_saved, eligible, known_backbones = 0.0, 0, 0, set[str]()
    for record in complete:
        backbone = record.config["backbone"]
        free = exemption(record.number, backbone, known_backbones, record.trial_id)
        known_backbones.add(backbone)
        eligible += free is None
        done = run.take(record.trial_id, fold_order(record.number, folds), may_prune=free is None)
        saved, metrics = set(folds) - set(done), data.fold_metrics(record.trial_id)
        folds_saved += len(saved)
        seconds_saved += sum(metrics[fold].seconds for fold in saved if fold in metrics)
    say(f"Blending {counted(len(scores), 'member')}, and the {len(run.kept)} that the rule keeps")
    blend = _blend_score(data, pred)
    return Replay(
        rule=rule.name,
        trials=len(complete),
        eligible=eligible,
        folds=len(complete) * len(folds),
        folds_saved=folds_saved,
        seconds=sum(results[name].seconds for name in pred),
        seconds_saved=seconds_saved,
        best=max(scores.values()),
        best_lost=max(scores.values()) - max(scores[name] for name in run.kept),
        blend=blend,
        blend_lost=blend - _blend_score(data, run.kept) if run.pruned else 0.0,
        estimate_error=(
            float(np.mean([abs(decision.estimate - scores[name]) for name, decision in run.pruned]))
            if run.pruned
            else None
        ),
        pruned=tuple(run.pruned),
    )


def render_replay(replayed: Replay) -> str:
    """As lines for a terminal."""
    lines = [
        f"rule {replayed.rule} on {counted(replayed.trials, 'complete trial')}, {replayed.eligible} of them up "
        "for pruning",
        f"folds saved        {replayed.folds_saved} of {replayed.folds} ({replayed.folds_saved / replayed.folds:.0%}), "
        f"{replayed.seconds_saved:.0f} of {replayed.seconds:.0f} s",
        f"best score lost    {replayed.best_lost:.4f} of {replayed.best:.4f}",
        f"blend score lost   {replayed.blend_lost:+.4f} of {replayed.blend:.4f} (nested, default rule)",
    ]
    if replayed.estimate_error is not None:
        lines.append(f"what is reported of a pruned trial is off by {replayed.estimate_error:.3f} on average")
    lines += [f"  {name}  {decision}" for name, decision in replayed.pruned]
    return "\n".join(lines)


class _Run:
    """The search as the rule would have had it: which trials are complete, and which it ended."""

    def __init__(self, rule: PruneRule, data: StudyData) -> None:
        self._rule, self._data, self._incumbent = rule, data, Incumbent(data)
        self._fold_N = data.quadrats["fold"].to_numpy()
        self.kept: list[str] = []
        self.pruned: list[PrunedTrial] = []

    def take(self, trial_id: str, order: list[int], *, may_prune: bool) -> list[int]:
        """Run one trial fold by fold; returns the folds that it gets."""
        pred_NT = self._data.pred_NT(trial_id)
        for done in range(1, len(order)) if may_prune else ():
            row_n = np.flatnonzero(np.isin(self._fold_N, order[:done]))
            decision = self._incumbent.compare(
                self._rule, pred_NT[row_n], row_n, after_fold=order[done - 1], folds_done=done
            )
            if decision is not None and decision.prune:
                self.pruned.append(PrunedTrial(trial_id, decision))
                return order[:done]
        self._incumbent.admit(trial_id, self._data.results[trial_id])
        self.kept.append(trial_id)
        return order


def _blend_score(data: StudyData, trial_ids: Iterable[str]) -> float:
    pred = {trial_id: data.pred_NT(trial_id) for trial_id in trial_ids}
    library = library_from_arrays(list(pred), list(pred.values()), data.truth, unit=data.unit)
    return nested(library.gram, rule_named("default"), seed=data.blend_seed).score
