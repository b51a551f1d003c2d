"""`biomass replay`: what a pruning rule would have done to a finished study that was searched without one.

The trials are taken in the order of their proposal, each judged against those before it that the rule let finish: what
a search with one trial at a time would have done. Nothing is computed anew and nothing is written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from biomass_models.config_rules import known_name
from biomass_models.targets import TARGETS, FloatArray, project_coherent, weighted_sst
from ensembles.choice import rule_named
from ensembles.honest import nested
from ensembles.library import library_from_frames
from orchestration.ledger import Ledger, LedgerError, TrialRecord
from orchestration.pruning import RULES, Decision, PruneRule, decide, spared
from orchestration.standing import BEST
from orchestration.trial import fold_order


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
    estimate_error: float | None  # mean |fold-corrected - true score| of the pruned trials
    pruned: tuple[PrunedTrial, ...]


def replay(ledger: Ledger, rule_name: str, say: Callable[[str], None]) -> Replay:
    """Apply a rule of pruning.RULES to a study; LedgerError unless it has complete trials and none that was pruned."""
    rules = {name: rule for name, rule in RULES.items() if rule is not None}
    rule = rules[known_name("the rule of a replay", rule_name, rules, LedgerError)]
    results = ledger.results()
    if any(result["status"] == "pruned" for result in results.values()):
        raise LedgerError(
            f"a replay needs a study that was searched with --prune off, {ledger.storage.uri} has pruned trials: "
            "nobody knows what their other folds would have scored"
        )
    complete = [record for record in ledger.trials() if results.get(record.trial_id, {}).get("status") == "complete"]
    if len(complete) < 2:
        raise LedgerError(f"a replay needs at least 2 complete trials, {ledger.storage.uri} has {len(complete)}")
    quadrats = ledger.quadrats()
    folds = sorted(int(fold) for fold in quadrats["fold"].unique())
    frames = {record.trial_id: ledger.oof(record.trial_id) for record in complete}
    scores = {name: float(results[name]["score"]) for name in frames}
    run = _Run(rule, quadrats, frames, scores)
    seconds_saved, folds_saved, eligible, known_backbones = 0.0, 0, 0, set[str]()
    for record in complete:
        backbone = record.config["backbone"]
        free = spared(record.number, backbone, known_backbones, record.trial_id)
        known_backbones.add(backbone)
        eligible += free is None
        done = run.take(record, fold_order(record.number, folds), may_prune=free is None)
        metrics = {fold: ledger.fold_metrics(record.trial_id, fold) or {} for fold in set(folds) - set(done)}
        folds_saved += len(metrics)
        seconds_saved += sum(found.get("seconds", 0.0) for found in metrics.values())
    say(f"Blending {len(scores)} members, and the {len(run.kept)} that the rule keeps")
    blend = _blend_score(frames, quadrats)
    return Replay(
        rule=rule.name,
        trials=len(complete),
        eligible=eligible,
        folds=len(complete) * len(folds),
        folds_saved=folds_saved,
        seconds=sum(float(results[name]["seconds"]) for name in frames),
        seconds_saved=seconds_saved,
        best=max(scores.values()),
        best_lost=max(scores.values()) - max(scores[name] for name in run.kept),
        blend=blend,
        blend_lost=blend - _blend_score({name: frames[name] for name in run.kept}, quadrats) if run.pruned else 0.0,
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
        f"rule {replayed.rule} on {replayed.trials} complete trials, {replayed.eligible} of them up for pruning",
        f"folds saved        {replayed.folds_saved} of {replayed.folds} ({replayed.folds_saved / replayed.folds:.0%}), "
        f"{replayed.seconds_saved:.0f} of {replayed.seconds:.0f} s",
        f"best score lost    {replayed.best_lost:.4f} of {replayed.best:.4f}",
        f"blend score lost   {replayed.blend_lost:+.4f} of {replayed.blend:.4f} (nested, default rule)",
    ]
    if replayed.estimate_error is not None:
        lines.append(f"what Optuna is told of a pruned trial is off by {replayed.estimate_error:.3f} on average")
    lines += [f"  {name}  {decision}" for name, decision in replayed.pruned]
    return "\n".join(lines)


class _Run:
    """The search as the rule would have had it: which trials are complete, the best of them, their first ensemble."""

    def __init__(
        self, rule: PruneRule, quadrats: pd.DataFrame, frames: dict[str, pd.DataFrame], scores: dict[str, float]
    ) -> None:
        self._rule, self._quadrats, self._scores = rule, quadrats, scores
        self._truth_NT = quadrats[list(TARGETS)].to_numpy(dtype=np.float64)
        self._group_N, self._fold_N = quadrats["group"].to_numpy(), quadrats["fold"].to_numpy()
        self._pred: dict[str, FloatArray] = {
            name: frame.set_index("image_id").loc[quadrats["image_id"], list(TARGETS)].to_numpy(dtype=np.float64)
            for name, frame in frames.items()
        }
        self.kept: list[str] = []
        self.pruned: list[PrunedTrial] = []

    def take(self, record: TrialRecord, order: list[int], *, may_prune: bool) -> list[int]:
        """Run one trial fold by fold; returns the folds that it gets."""
        name = record.trial_id
        for done in range(1, len(order)) if may_prune and self.kept else ():
            decision = self._decide(name, order[:done])
            if decision.prune:
                self.pruned.append(PrunedTrial(name, decision))
                return order[:done]
        self.kept.append(name)
        return order

    def _decide(self, name: str, folds: list[int]) -> Decision:
        ranked = sorted(self.kept, key=lambda other: (-self._scores[other], other))
        rows = np.flatnonzero(np.isin(self._fold_N, folds))
        ensemble_nT = np.mean([project_coherent(self._pred[other][rows]) for other in ranked[:BEST]], axis=0)
        return decide(
            self._rule,
            self._pred[name][rows],
            self._pred[ranked[0]][rows],
            ensemble_nT,
            self._truth_NT[rows],
            self._group_N[rows],
            incumbent=ranked[0],
            incumbent_score=self._scores[ranked[0]],
            sst_an_image=weighted_sst(self._truth_NT) / len(self._truth_NT),
            after_fold=folds[-1],
            folds_done=len(folds),
        )


def _blend_score(frames: dict[str, pd.DataFrame], quadrats: pd.DataFrame) -> float:
    truth = quadrats[["image_id", "fold", "group", *TARGETS]]
    library = library_from_frames({name: frame[["image_id", *TARGETS]] for name, frame in frames.items()}, truth)
    return nested(library.gram, rule_named("default")).score
