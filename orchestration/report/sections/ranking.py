"""Who stands where: blend, trials and references with their errors, as a picture and as a table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import altair as alt

from biomass_models.families.readable import summary_of
from ensembles.honest import Estimate
from orchestration.report.charts import SOFT, data, panel
from orchestration.report.data.context import ReportContext
from orchestration.report.html import Cell, Column, Figure, Html, Section, Table, tag
from orchestration.report.words import CLEAR, NONE, count, duration, number, plus_minus, short_id, verdict
from orchestration.study.data import Trial

MOST_ROWS = 200  # trials in the table
KINDS = ("blend", "trial", "reference")


def ranking_section(context: ReportContext) -> Section:
    blocks: list[Html | Table | Figure] = []
    if entries := _entries(context):
        blocks.append(_forest(entries, _finding(context)))
    blocks.append(_table(context))
    return Section(anchor="standing", title="Who stands where", short="Standing", blocks=tuple(blocks))


def _entries(context: ReportContext) -> list[dict[str, Any]]:
    """Rows of the picture: name, score, the ends of its standard error, kind."""
    found = []
    if context.blend is not None:
        found.append(("blend (nested)", context.blend.card.nested, "blend"))
        if context.single is not None and context.blend.card.library_size > 1:
            found.append(("single best (nested)", context.single, "blend"))
    for family in context.study.families:
        own = [trial for trial in context.study.ranked if trial.family == family and trial.trial_id in context.scores]
        if own:
            found.append((f"best {family}, {short_id(own[0].trial_id)}", context.scores[own[0].trial_id], "trial"))
    found += [(name, context.scores[name], "reference") for name in context.study.references]
    found.sort(key=lambda entry: -entry[1].value)
    return [
        {
            "name": name,
            "score": estimate.value,
            "low": estimate.value - (0.0 if estimate.se != estimate.se else estimate.se),
            "high": estimate.value + (0.0 if estimate.se != estimate.se else estimate.se),
            "kind": kind,
            "text": number(estimate.value),
        }
        for name, estimate, kind in found
    ]


def _finding(context: ReportContext) -> str:
    """How far the best trial is from what needs no network and can predict new photographs."""
    usable = [name for name, each in context.study.references.items() if each.predicts_tests]
    references = sorted(usable, key=lambda name: -context.scores[name].value)
    if context.best is None or not references:
        return "Scores with their errors"
    gain = context.scorer.gain(context.pred[context.best.trial_id], context.study.references[references[0]].pred_NT)
    way = "above" if gain.value > 0 else "below"
    shown = plus_minus(replace(gain, value=abs(gain.value)))
    return f"The best model stands {shown} {way} the best that needs no network, {references[0]}"


def _forest(entries: list[dict[str, Any]], finding: str) -> Figure:
    base = alt.Chart(data(entries)).encode(y=alt.Y("name:N", sort=[entry["name"] for entry in entries], title=None))
    kinds = alt.Scale(domain=list(KINDS), range=["var(--c1)", "var(--c2)", SOFT])
    low = min(entry["low"] for entry in entries)
    across = alt.Scale(domain=[min(0.0, low), max(1.0, *(entry["high"] for entry in entries))], nice=False)
    whisker = base.mark_rule(strokeWidth=2).encode(
        x=alt.X(
            "low:Q",
            title="weighted R²",
            scale=across,
            axis=alt.Axis(tickCount=6),
        ),
        x2="high:Q",
        color=alt.Color("kind:N", scale=kinds, legend=None),
    )
    dot = base.mark_point(filled=True, size=90, opacity=1).encode(
        x="score:Q",
        color=alt.Color("kind:N", scale=kinds, title=None),
        shape=alt.Shape(
            "kind:N", scale=alt.Scale(domain=list(KINDS), range=["diamond", "circle", "square"]), title=None
        ),
        tooltip=[alt.Tooltip("name:N"), alt.Tooltip("score:Q", format=".4f"), "low:Q", "high:Q"],
    )
    text = base.mark_text(align="left", dx=8, dy=-9).encode(x="score:Q", text="text:N")
    return Figure(
        title=finding,
        how="1 is perfect, 0 as good as the mean mass for all. Each line is a score with one standard error to both "
        "sides; where two lines overlap by much, the order may be chance. “Nested” scores were chosen without the "
        "rows they are scored on; the best trial of a family was chosen after all scores were known, which "
        "flatters it a little.",
        panels=(panel(alt.layer(whisker, dot, text), height=34 * len(entries) + 10),),
    )


def _table(context: ReportContext) -> Table:
    study = context.study
    weights = {} if context.blend is None else context.blend.card.members
    ranked = study.ranked
    order = {"pruned": 1, "failed": 2, "refused": 3, "open": 4}
    rest = sorted(
        (trial for trial in study.trials if trial.status != "complete"),
        key=lambda trial: (order.get(trial.status, 5), -(trial.reported_value or -9.0), trial.trial_id),
    )
    every = [*ranked, *rest]
    rows: list[tuple[float, list[Cell | str]]] = []
    for trial in every[:MOST_ROWS]:
        score = trial.reported_value
        shown = NONE if score is None else number(score)
        if trial.trial_id in context.scores:
            shown = plus_minus(context.scores[trial.trial_id])
        elif trial.status == "pruned":
            shown = f"≈ {shown}"
        behind = context.behind.get(trial.trial_id)
        seconds = trial.seconds
        weight = weights.get(trial.trial_id)
        rows.append(
            (
                -9.0 if score is None else score - (9.0 if trial.status == "pruned" else 0.0),
                [
                    Cell(tag("code", trial.trial_id), trial.trial_id),
                    trial.family,
                    trial.status,
                    Cell(shown, score),
                    Cell(NONE if behind is None else plus_minus(behind, sign=True), _value(behind)),
                    Cell(
                        _folds(context.fold_scores(trial)),
                        min(context.fold_scores(trial).values(), default=None),
                    ),
                    Cell(NONE if weight is None else number(weight), weight),
                    Cell(NONE if seconds is None else duration(seconds), seconds),
                    summary_of(trial.family, trial.record.config) or NONE,
                    _reason(context, trial),
                ],
            )
        )
    for name in study.references:
        estimate, behind = context.scores[name], context.behind.get(name)
        rows.append(
            (
                estimate.value,
                [
                    name, "reference", NONE, Cell(plus_minus(estimate), estimate.value),
                    Cell(NONE if behind is None else plus_minus(behind, sign=True), _value(behind)),
                    Cell(NONE), Cell(NONE), Cell(NONE), NONE, "no network: what costs next to nothing",
                ],
            )
        )  # fmt: skip
    rows.sort(key=lambda row: -row[0])
    left = f" Shown are {MOST_ROWS} of {count(len(every), 'trial')}, the best." if len(every) > MOST_ROWS else ""
    return Table(
        title=f"All trials and references, best first: {count(len(study.of('complete')), 'complete trial')}",
        columns=(
            Column(name="trial"),
            Column(name="family"),
            Column(name="status"),
            Column(name="score", gloss="weighted R2 of the out-of-fold predictions ± one standard error", numeric=True),
            Column(name="behind the best", gloss="paired over sampling days ± one standard error", numeric=True),
            Column(name="folds", gloss="worst and best score of a single fold", numeric=True),
            Column(name="weight", gloss="in the blend", numeric=True),
            Column(name="time", gloss="of all its folds", numeric=True),
            Column(name="settings", gloss="what tells it from its family's published setting, most important first"),
            Column(name="what became of it"),
        ),
        rows=[row for _, row in rows],
        how=f"Click a header to sort. A score with ≈ is the estimate for a trial that was stopped early.{left}",
        marked=frozenset(index for index, (_, row) in enumerate(rows) if row[1:2] and _is_best(context, row[0])),
    )


def _value(estimate: Estimate | None) -> float | None:
    return None if estimate is None else estimate.value


def _is_best(context: ReportContext, cell: Cell | str) -> bool:
    return context.best is not None and isinstance(cell, Cell) and cell.sort == context.best.trial_id


def _folds(scores: dict[int, float]) -> str:
    if not scores:
        return NONE
    return f"{number(min(scores.values()), 2)} to {number(max(scores.values()), 2)}"


def _reason(context: ReportContext, trial: Trial) -> str:
    """Why a trial is where it is, and in what its folds differ where they do."""
    why = _place(context, trial.trial_id, trial.status, trial.reason)
    return why if trial.mixed is None else f"{why}; {trial.mixed}"


def _place(context: ReportContext, name: str, status: str, reason: str | None) -> str:
    if status != "complete":
        return reason or "it has not ended"
    if context.best is not None and name == context.best.trial_id:
        return "the best trial"
    behind = context.behind.get(name)
    if behind is None:
        return context.study.unread.get(name, "not computed: too far down the list")
    if context.blend is not None:
        left_out = dict(context.blend.library.left_out)
        merged = dict(context.blend.library.merged)
        if name in left_out:
            return f"left out of the blend: {left_out[name]}"
        if name in merged:
            return f"repeats {merged[name]}"
    return {
        CLEAR: "clearly behind the best",
        "perhaps chance": "behind the best, perhaps by chance",
        "chance can explain it": "as good as the best, within chance",
    }.get(verdict(behind), "behind the best")
