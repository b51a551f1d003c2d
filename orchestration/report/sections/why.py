"""Why the other trials lost and which images fail, in words and numbers."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np

from biomass_models.targets import TARGETS, TOTAL
from orchestration.report.data.context import ReportContext
from orchestration.report.data.importance import FEW, what_the_best_share
from orchestration.report.html import Html, paragraph, tag
from orchestration.report.words import (
    CLEAR,
    GAP,
    SHORT,
    count,
    day_name,
    percent,
    plus_minus,
    verdict,
)
from orchestration.study.data import COLOUR_RIDGE

MOST_FAMILIES = 4


def why_lost(context: ReportContext) -> list[Html]:
    study = context.study
    lines = [] if context.best is None else [paragraph(text) for text in _families(context) + _settings(context)]
    ridge = context.scores.get(COLOUR_RIDGE)
    below = [trial for trial in study.of("complete") if ridge and (trial.score or 0.0) < ridge.value]
    rest = []
    far = [name for name in context.pred if name in context.behind and verdict(context.behind[name]) == CLEAR]
    worse = [name for name in far if context.behind[name].value < 0]
    if worse:
        others = count(len(context.pred) - 1, "other trial")
        rest.append(f"{len(worse)} of {others} are clearly behind (by two standard errors or more)")
    if below:
        rest.append(f"{count(len(below), 'trial')} scored below the colour ridge")
    if pruned := study.of("pruned"):
        rest.append(
            f"{count(len(pruned), 'trial')} stopped early, clearly worse than the best and of no use to a blend"
        )
    if failed := study.of("failed"):
        reason, often = Counter(trial.reason for trial in failed).most_common(1)[0]
        shortened = reason if len(reason) < 120 else reason[:117] + "..."
        rest.append(f"{count(len(failed), 'trial')} failed, {often} of them with “{shortened}”")
    if refused := study.of("refused"):
        rest.append(f"{count(len(refused), 'trial')} were refused, a fold of each would have taken too long")
    if rest:
        lines.append(paragraph("; ".join(rest), "."))
    return lines or [paragraph("There is nothing to compare.")]


def _families(context: ReportContext) -> list[str]:
    best = context.best
    assert best is not None
    texts = []
    for family in context.study.families:
        if family == best.family:
            continue
        own = [trial for trial in context.study.ranked if trial.family == family and trial.trial_id in context.behind]
        if not own:
            texts.append(f"No {family} trial is complete.")
            continue
        behind = context.behind[own[0].trial_id]
        shown = plus_minus(replace(behind, value=-behind.value))
        texts.append(f"The best {family} is {shown} behind the best {best.family}: {verdict(behind)}.")
    return texts[:MOST_FAMILIES]


def _settings(context: ReportContext) -> list[str]:
    best = context.best
    assert best is not None
    importance = context.importances[best.family]
    if not importance.shares:
        return []
    name = next(iter(importance.shares))
    trials = [trial for trial in context.study.trials if trial.family == best.family]
    common = what_the_best_share(trials, name)
    hint = " (a hint: few trials)" if importance.trials < FEW else ""
    return [f"Within {best.family}, {name} matters most{hint}: {common}."] if common else []


def what_fails(context: ReportContext) -> list[Html]:
    if context.shown is None:
        return [paragraph("No trial is complete, so no image has a prediction.")]
    quadrats, pred_NT = context.study.quadrats, context.shown.pred_NT
    loss_N = context.scorer.loss_N(context.shown.pred_RNT)
    order = np.argsort(-loss_N, kind="stable")
    worst, top = int(order[0]), order[: max(1, round(len(order) / 20))]
    held = float(loss_N[top].sum() / loss_N.sum()) if loss_N.any() else 0.0
    main, unit = context.main, context.unit
    truth_N, pred_N = context.in_unit(context.scorer.truth_NT)[:, main], context.in_unit(pred_NT)[:, main]
    measured = "not measured" if np.isnan(truth_N[worst]) else f"{truth_N[worst]:.0f}{GAP}{unit} measured"
    of = "" if main == TOTAL else f" of {SHORT[TARGETS[main]]}"
    lines = [
        paragraph(
            f"The worst {count(len(top), 'image')} of {len(order)} hold {percent(held)} of the squared error. Worst: ",
            tag("code", quadrats["image_id"].iloc[worst]),
            f", {measured}, {pred_N[worst]:.0f}{GAP}{unit}{of} predicted.",
        )
    ]  # fmt: skip
    days = [day for day in context.parts(quadrats["group"]) if day.images > 2]
    if days:
        day, noun = max(days, key=lambda each: each.share), context.study.group_noun
        lines.append(
            paragraph(
                f"Worst {noun}: {day_name(day.name)}, {percent(day.images / len(order))} of the images and "
                f"{percent(day.share)} of the squared error."
            )
        )
    heavy = truth_N >= np.nanquantile(truth_N, 0.9)
    bias = float((pred_N[heavy] - truth_N[heavy]).mean())
    limit = float(truth_N[heavy].min())
    way = "too low" if bias < 0 else "too high"
    lines.append(
        paragraph(
            f"The heaviest tenth (above {limit:.0f}{GAP}{unit}{of}) is predicted {abs(bias):.0f}{GAP}{unit} {way} on "
            "average."
        )
    )
    return lines
