"""Which folds, days and states are hard, and what random folds would have promised."""

from __future__ import annotations

import statistics
from typing import Any

import altair as alt

from biomass_models.targets import TARGETS
from orchestration.report.charts import RAMP, SOFT, data, ink_on, panel, ramp_colour
from orchestration.report.data.context import ReportContext
from orchestration.report.data.scorer import Part
from orchestration.report.html import Cell, Column, Figure, Html, Section, Table
from orchestration.report.sections.scheme_gap import gap_blocks
from orchestration.report.words import SHORT, count, day_name, mass, number, percent, short_id
from orchestration.study.data import Trial
from orchestration.study.mass_unit import GRAMS

MOST_TRIALS = 40  # rows of the heat map
MOST_DAYS = 45
LONE = ("photograph", "quadrat")  # groups that are no days or places: nothing is shown for each
LOWEST = -0.5  # a day's R2 is drawn no lower: days that hardly vary have any value below


def folds_section(context: ReportContext) -> Section:
    blocks: list[Html | Figure | Table | None] = [
        _heat_map(context), *_days(context), *_states(context), *gap_blocks(context)
    ]  # fmt: skip
    noun = context.study.group_noun
    return Section(
        anchor="folds",
        title="Folds and sites" if noun in LONE else f"Folds, {noun}s and {_site_noun(context)}s",
        short="Folds",
        blocks=tuple(block for block in blocks if block is not None),
    )


def _heat_map(context: ReportContext) -> Figure | None:
    study = context.study
    pruned = sorted(study.of("pruned"), key=lambda trial: -(trial.reported_value or 0.0))
    having = [trial for trial in [*study.ranked, *pruned] if context.fold_scores(trial)]
    if not having:
        return None
    shown = having[:MOST_TRIALS]
    cells = [(trial, fold, score) for trial in shown for fold, score in context.fold_scores(trial).items()]
    scores = sorted(score for _, _, score in cells)
    low, high = scores[len(scores) // 20], scores[-1]
    rows = []
    for trial, fold, score in cells:
        share = (score - low) / (high - low) if high > low else 0.5
        rows.append({"trial": _label(trial), "id": trial.trial_id, "fold": str(fold), "score": score, "share": share,
                     "text": number(score, 2), "ink": ink_on(ramp_colour(share))})  # fmt: skip
    base = alt.Chart(data(rows)).encode(
        x=alt.X("fold:N", title="fold", axis=alt.Axis(orient="top", labelAngle=0, domain=False, ticks=False)),
        y=alt.Y("trial:N", sort=[_label(trial) for trial in shown], title=None,
                axis=alt.Axis(domain=False, ticks=False)),
    )  # fmt: skip
    ramp = alt.Scale(domain=[low, (low + high) / 2, high], range=list(RAMP), interpolate="rgb", clamp=True)
    boxes = base.mark_rect(stroke="var(--paper)", strokeWidth=1.5).encode(
        color=alt.Color("score:Q", scale=ramp, title="weighted R² of the fold",
                        legend=alt.Legend(gradientLength=160, format=".2f")),
        tooltip=["id:N", "fold:N", alt.Tooltip("score:Q", format=".4f")],
    )  # fmt: skip
    texts = base.mark_text(fontSize=11).encode(text="text:N", color=alt.Color("ink:N", scale=None))
    middle = {
        fold: statistics.median(score for _, own, score in cells if own == fold)
        for fold in study.folds
        if any(own == fold for _, own, _ in cells)
    }
    hardest, easiest = min(middle, key=lambda fold: middle[fold]), max(middle, key=lambda fold: middle[fold])
    title = (
        f"Fold {hardest} is the hardest (median {number(middle[hardest], 2)}), fold {easiest} the easiest "
        f"({number(middle[easiest], 2)})"
        if hardest != easiest
        else f"Only fold {hardest} has scores"
    )
    more = f"Shown are the {MOST_TRIALS} best of {count(len(having), 'trial')}." if len(having) > MOST_TRIALS else ""
    return Figure(
        title=title,
        how="A row is a trial, best first; a column is a fold: the part of the images that was held out. Columns that "
        "differ much from each other show hard and easy days; a row that breaks the pattern of its neighbours found "
        "something else. Empty cells were never trained, because the trial was stopped early.",
        panels=(panel(alt.layer(boxes, texts).resolve_scale(color="independent"), height=21 * len(shown) + 10),),
        note=more,
    )


def _label(trial: Trial) -> str:
    return f"{trial.family} {short_id(trial.trial_id)}{' (stopped)' if trial.status == 'pruned' else ''}"


def _days(context: ReportContext) -> list[Figure | Table]:
    noun = context.study.group_noun
    if context.shown is None or noun in LONE:
        return []
    every = context.parts(context.study.quadrats["group"])
    if len(every) < 2:
        return []
    every.sort(key=lambda part: -part.share)
    shown = every[:MOST_DAYS]
    worst = shown[0]
    how = (
        f"Left: the bar is the share of the whole squared error that a {noun} holds, the diamond its share of the "
        f"images: where the bar goes far beyond the diamond, the {noun} is worse than others. Right: R² within the "
        f"{noun}, around its own mean. One whose quadrats all weigh nearly the same has a low R² even when errors are "
        f"small; values below {number(LOWEST, 1)} are drawn there."
    )
    within = "" if worst.r2 is None else f", R² {number(worst.r2, 2)}"
    more = (
        f"Shown are {MOST_DAYS} of {len(every)} {noun}s, those with the most error." if len(every) > MOST_DAYS else ""
    )
    return [
        Figure(
            title=f"By {noun}: {day_name(worst.name)} costs {context.shown.name} most ({percent(worst.share)} of the "
            f"error from {percent(worst.images / len(context.scorer.truth_NT))} of the images{within})",
            how=how,
            panels=(_share_panel(context, shown), _r2_panel(shown)),
            note=more,
            across=2,
        ),
        _errors_table(context, noun, every),
    ]


def _site_noun(context: ReportContext) -> str:
    """What the column State holds: states of the competition's photographs, sites of a table of one's own."""
    return "state" if context.study.record.mass_unit == GRAMS else "site"


def _states(context: ReportContext) -> list[Figure | Table]:
    quadrats, noun = context.study.quadrats, _site_noun(context)
    if context.shown is None or "State" not in quadrats or quadrats["State"].nunique() < 2:
        return []
    every = context.parts(quadrats["State"])
    every.sort(key=lambda part: -part.share)
    scored = [part for part in every if part.r2 is not None]
    best = max(scored, key=lambda part: part.r2 or 0.0, default=None)
    worst = min(scored, key=lambda part: part.r2 or 0.0, default=None)
    title = f"By {noun}"
    if best is not None and worst is not None and best is not worst:
        title = (
            f"By {noun}: {best.name} works best (R² {number(best.r2, 2)}), {worst.name} worst ({number(worst.r2, 2)})"
        )
    figure = Figure(
        title=title,
        how=f"The share of the squared error (bar) and of the images (diamond), and R² within the {noun}. One with few "
        "or similar swards has a low R² of its own.",
        panels=(_share_panel(context, every), _r2_panel(every)),
        across=2,
    )
    return [figure, _errors_table(context, noun, every)]


def _errors_table(context: ReportContext, noun: str, every: list[Part]) -> Table:
    """Errors of the main target beside its mean, a row for each day, group or site."""
    target, unit = SHORT[TARGETS[context.main]], context.unit
    errors = [(part, part.main) for part in every if part.main is not None]
    rows: list[list[Cell | str]] = [
        [
            Cell(day_name(part.name), part.name),
            Cell(str(error.images), error.images),
            Cell(mass(error.mean, unit), error.mean),
            Cell(mass(error.rmse, unit), error.rmse),
            Cell(percent(error.relative), error.relative),
            Cell(mass(error.bias, unit, sign=True), error.bias),
            Cell(number(part.r2, 2), part.r2),
        ]
        for part, error in errors[:MOST_DAYS]
    ]
    return Table(
        title=f"Errors of {target} by {noun}",
        columns=(
            Column(name=noun),
            Column(name="images", gloss=f"in which {target} was measured", numeric=True),
            Column(name="mean", gloss="measured", numeric=True),
            Column(name="error", gloss="root of the mean squared error", numeric=True),
            Column(name="% of mean", gloss="error as a share of the mean", numeric=True),
            Column(name="bias", gloss="mean of predicted minus measured", numeric=True),
            Column(name="R²", gloss="weighted R2 within, of all that was measured", numeric=True),
        ),
        rows=rows,
        how="Click a header to sort. An error says most beside the mean mass that it is of.",
    )


def _share_panel(context: ReportContext, every: list[Part]) -> Any:
    images, target, unit = len(context.scorer.truth_NT), SHORT[TARGETS[context.main]], context.unit
    rows: list[dict[str, Any]] = [
        {"name": day_name(part.name), "share": part.share, "of_images": part.images / images, "images": part.images,
         "error": part.error, "bias": None if part.main is None else part.main.bias}
        for part in every
    ]  # fmt: skip
    y = alt.Y("name:N", sort=[row["name"] for row in rows], title=None)
    tips: list[Any] = ["name:N", "images:Q",
            alt.Tooltip("share:Q", format=".1%"), alt.Tooltip("of_images:Q", format=".1%"),
            alt.Tooltip("error:Q", title="weighted RMSE [g]", format=".1f"),
            alt.Tooltip("bias:Q", title=f"mean predicted minus measured {target} [{unit}]", format="+.1f")]  # fmt: skip
    base = alt.Chart(data(rows)).encode(y=y, tooltip=tips)
    bar = base.mark_bar(color="var(--c1)", opacity=0.6, height={"band": 0.65}).encode(
        x=alt.X("share:Q", title="share of the squared error", axis=alt.Axis(format="%", tickCount=5))
    )
    mark = base.mark_point(shape="diamond", size=38, color="var(--ink)", filled=True, opacity=1).encode(x="of_images:Q")
    return panel(alt.layer(bar, mark), height=_height(rows), caption="Share of the squared error")


def _r2_panel(every: list[Part]) -> Any:
    rows = [
        {"name": day_name(part.name), "r2": part.r2, "at": max(part.r2, LOWEST), "images": part.images,
         "text": number(part.r2, 2), "side": 1 if part.r2 > 0.62 else 0}
        for part in every if part.r2 is not None
    ]  # fmt: skip
    order = [day_name(part.name) for part in every]
    y = alt.Y("name:N", sort=order, scale=alt.Scale(domain=order), title=None)
    base = alt.Chart(data(rows)).encode(
        y=y,
        x=alt.X("at:Q", title="weighted R² within",
                scale=alt.Scale(domain=[LOWEST - 0.1, 1.12], nice=False), axis=alt.Axis(values=[-0.5, 0, 0.5, 1])),
        tooltip=["name:N", alt.Tooltip("r2:Q", format=".3f"), "images:Q"],
    )  # fmt: skip
    dots = base.mark_point(filled=True, color="var(--c1)", opacity=1).encode(
        size=alt.Size("images:Q", title="images", legend=None, scale=alt.Scale(range=[30, 160]))
    )
    right = base.transform_filter("datum.side == 0").mark_text(align="left", dx=9, fontSize=11).encode(text="text:N")
    left = base.transform_filter("datum.side == 1").mark_text(align="right", dx=-9, fontSize=11).encode(text="text:N")
    zero = alt.Chart(data([{"at": 0.0}])).mark_rule(color=SOFT).encode(x="at:Q")
    return panel(
        alt.layer(zero, dots, right, left), height=_height(every), caption="R² within, larger dots: more images"
    )


def _height(rows: list[Any]) -> int:
    return max(60, 20 * len(rows))
