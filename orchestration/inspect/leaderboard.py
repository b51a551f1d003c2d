"""The leaderboard: references, then trials by score. Made from the ledger alone."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from rich.table import Table

from biomass_models.targets import TARGETS, weighted_r2_score
from orchestration.mixed import mixed_text
from orchestration.study.ledger import Ledger, folds_of
from orchestration.study.records import TrialRecord, TrialResult
from orchestration.study.torn import torn_notices

KINDS = ("complete", "pruned", "failed", "refused")  # of ended trials
COLOUR_RIDGE = "colour ridge"
REFERENCE_NOTES = {"metadata trees": "needs metadata, cannot predict the test set"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A reference (no family) or a trial. score: weighted R2 of its pooled out-of-fold rows."""

    name: str
    family: str | None
    score: float | None
    fold_scores: tuple[float, ...] = ()
    seconds: float | None = None  # of all its folds
    gpu_seconds: float = 0.0
    peak_gb: float | None = None  # of the fold that needed most, in GB of the process
    status: str = "reference"
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FamilyRow:
    """The trials of one family together: counts, best score, cost."""

    family: str
    trials: int
    complete: int
    pruned: int
    failed: int
    refused: int
    best: float | None
    seconds: float
    gpu_seconds: float
    peak_gb: float | None


def leaderboard(ledger: Ledger) -> list[Row]:
    """References and trials, best first; what has no score comes last."""
    references = _references(ledger)
    floor = next((row.score for row in references if row.name == COLOUR_RIDGE), None)
    results = ledger.results()
    trials = [_trial_row(trial, results.get(trial.trial_id), floor) for trial in ledger.trials()]
    return sorted(references + trials, key=lambda row: (row.score is None, -(row.score or 0.0)))


def leaderboard_notices(ledger: Ledger) -> list[str]:
    """Trials that are not in it as they should be, because their files are torn; one line each."""
    return torn_notices(ledger, ledger.trials(), ledger.results(), folds_of(ledger.quadrats()))


def best_rows(rows: list[Row], top: int | None) -> list[Row]:
    """All references and, of the trials, the best `top`; None means all."""
    trials = [row for row in rows if row.family is not None]
    hidden = set() if top is None else {row.name for row in trials[top:]}
    return [row for row in rows if row.family is None or row.name not in hidden]


def family_rows(rows: list[Row]) -> list[FamilyRow]:
    """What each family's trials found and cost together."""
    found = []
    for family in dict.fromkeys(row.family for row in rows if row.family):
        own = [row for row in rows if row.family == family]
        found.append(
            FamilyRow(
                family=family,
                trials=len(own),
                **{
                    status: sum(row.status == status for row in own)
                    for status in ("complete", "pruned", "failed", "refused")
                },
                best=max((row.score for row in own if row.score is not None), default=None),
                seconds=sum(row.seconds or 0.0 for row in own),
                gpu_seconds=sum(row.gpu_seconds for row in own),
                peak_gb=max((row.peak_gb for row in own if row.peak_gb is not None), default=None),
            )
        )
    return found


def render_leaderboard(rows: list[Row], top: int | None = None) -> Table:
    """As a terminal table of at most 80 columns; references always show, of the trials the best `top`."""
    view = Table(title="Leaderboard (weighted R2 of pooled out-of-fold rows)", title_justify="left", width=80)
    view.add_column("name", no_wrap=True)
    view.add_column("family", no_wrap=True)
    view.add_column("score", justify="right", no_wrap=True)
    view.add_column("folds", justify="right", no_wrap=True)
    view.add_column("s", justify="right", no_wrap=True)
    gpus = any(row.gpu_seconds for row in rows)
    if gpus:
        view.add_column("GPU s", justify="right", no_wrap=True)
    view.add_column("GB", justify="right", no_wrap=True)
    view.add_column("note")
    shown = best_rows(rows, top)
    for row in shown:
        view.add_row(
            row.name,
            row.family or "",
            "" if row.score is None else f"{row.score:.4f}",
            f"{min(row.fold_scores):.2f}..{max(row.fold_scores):.2f}" if row.fold_scores else "",
            "" if row.seconds is None else f"{row.seconds:.0f}",
            *([f"{row.gpu_seconds:.0f}" if row.seconds is not None else ""] if gpus else []),
            "" if row.peak_gb is None else f"{row.peak_gb:.1f}",
            "; ".join(([] if row.status in ("complete", "pruned") else [row.status]) + list(row.notes)),
            style=None if row.family else "dim",
        )
    if len(shown) < len(rows):
        view.caption = f"and {len(rows) - len(shown)} more trials (--top 0 shows all)"
    return view


def render_families(rows: list[Row]) -> Table:
    """What each family's trials cost together, as a terminal table of at most 80 columns."""
    gpus, refused = any(row.gpu_seconds for row in rows), any(row.status == "refused" for row in rows)
    kinds = KINDS if refused else KINDS[:-1]
    view = Table(title="Families (s, GPU s: of all folds; GB: most memory of one)", title_justify="left", width=80)
    for column in ("family", "trials", *kinds, "best", "s", *(["GPU s"] if gpus else []), "GB"):
        view.add_column(column, justify="left" if column == "family" else "right", overflow="fold")
    for row in family_rows(rows):
        view.add_row(
            row.family,
            *(f"{getattr(row, kind)}" for kind in ("trials", *kinds)),
            "" if row.best is None else f"{row.best:.3f}",
            f"{row.seconds:.0f}",
            *([f"{row.gpu_seconds:.0f}"] if gpus else []),
            "" if row.peak_gb is None else f"{row.peak_gb:.1f}",
        )
    return view


def _references(ledger: Ledger) -> list[Row]:
    table, quadrats = ledger.references(), ledger.quadrats()
    truth_NT = quadrats[list(TARGETS)].to_numpy()
    rows = []
    for name, frame in [] if table is None else table.groupby("reference", sort=False):
        pred_NT = pd.DataFrame(frame).set_index("image_id").loc[quadrats["image_id"]][list(TARGETS)].to_numpy()
        notes = (REFERENCE_NOTES[str(name)],) if name in REFERENCE_NOTES else ()
        rows.append(Row(name=str(name), family=None, score=weighted_r2_score(truth_NT, pred_NT), notes=notes))
    return rows


def _trial_row(trial: TrialRecord, result: TrialResult | None, floor: float | None) -> Row:
    if result is None:
        return Row(name=trial.trial_id, family=trial.family, score=None, status="unfinished")
    notes = []
    if trial.weights.startswith("random"):
        notes.append("random weights")
    if result.score is not None and floor is not None and result.score < floor:
        notes.append(f"below the {COLOUR_RIDGE}")
    if "distillation_weight" in trial.config:
        score = result.teacher_score or float("nan")
        notes.append("no teacher" if not trial.config["distillation_weight"] else f"teacher {score:.2f}")
    if trial.config.get("select_best_epoch"):
        notes.append("best epoch chosen on the scored fold: biased")
    if (mixed := mixed_text(result.mixed)) is not None:
        notes.append(mixed)
    if result.reason is not None:
        notes.append(result.reason)
    return Row(
        name=trial.trial_id,
        family=trial.family,
        score=result.score,
        fold_scores=tuple(score for score in result.fold_scores if score is not None),
        seconds=result.seconds,
        gpu_seconds=result.gpu_seconds,
        peak_gb=result.peak_memory_mb / 1024,
        status=result.status,
        notes=tuple(notes),
    )
