"""The leaderboard: references, then trials by score. Made from the ledger alone."""

from __future__ import annotations

from dataclasses import dataclass

from rich.table import Table

from biomass_models.counted import counted
from biomass_models.families.readable import label_of, summary_of
from biomass_models.targets import weighted_r2_score
from orchestration.study.data import COLOUR_RIDGE, StudyData, Trial
from orchestration.study.mixed import mixed_text

KINDS = ("complete", "pruned", "failed", "refused")  # of ended trials
UNSAID = ("complete", "pruned")  # statuses that the table leaves out: it shows a score, or the reason


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
    summary: str = ""  # what tells a trial's settings from the published ones
    label: str = ""  # the same after its backbone and size, which are always there


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


def leaderboard(data: StudyData) -> list[Row]:
    """References and trials, best first; what has no score comes last."""
    references = _references(data)
    floor = next((row.score for row in references if row.name == COLOUR_RIDGE), None)
    trials = [_trial_row(trial, floor) for trial in data.trials]
    return sorted(references + trials, key=lambda row: (row.score is None, -(row.score or 0.0)))


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
            "; ".join([*([] if row.status in UNSAID else [row.status]), *row.notes]),
            style=None if row.family else "dim",
        )
    if len(shown) < len(rows):
        view.caption = f"and {counted(len(rows) - len(shown), 'more trial')} (--top 0 shows all)"
    return view


def render_summaries(rows: list[Row], top: int | None = None) -> Table:
    """What the trials of `render_leaderboard` are that have a score, as a terminal table of at most 80 columns."""
    view = Table(title="What they are, and what differs from the published setting", title_justify="left", width=80)
    view.add_column("name", no_wrap=True)
    view.add_column("family", no_wrap=True)
    view.add_column("settings", ratio=1, overflow="fold")
    for row in best_rows(rows, top):
        if row.family is not None and row.score is not None:
            view.add_row(row.name, row.family, row.label)
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


def _references(data: StudyData) -> list[Row]:
    return [
        Row(
            name=name,
            family=None,
            score=weighted_r2_score(data.truth_NT, reference.pred_NT, data.weight),
            notes=() if reference.predicts_tests else ("needs metadata, cannot predict the test set",),
        )
        for name, reference in data.references.items()
    ]


def _trial_row(trial: Trial, floor: float | None) -> Row:
    record, result = trial.record, trial.result
    if result is None:
        return Row(
            name=trial.trial_id,
            family=trial.family,
            score=None,
            status=trial.status,
            summary=summary_of(record.family, record.config),
            label=label_of(record.family, record.config),
        )
    notes = []
    if record.second_round is not None:
        notes.append(f"second round, weight {record.second_round.weight:g}")
    if record.weights.startswith("random"):
        notes.append("random weights")
    if result.score is not None and floor is not None and result.score < floor:
        notes.append(f"below the {COLOUR_RIDGE}")
    if result.teacher_score is not None:
        notes.append(f"teacher {result.teacher_score:.2f}")
    if record.config.get("select_best_epoch"):
        notes.append("best epoch chosen on the scored fold: biased")
    if (mixed := mixed_text(result.mixed)) is not None:
        notes.append(mixed)
    if trial.reason:
        notes.append(trial.reason)
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
        summary=summary_of(trial.family, record.config),
        label=label_of(trial.family, record.config),
    )
