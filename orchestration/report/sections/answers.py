"""The first screen: what is best, how sure that is, why the others lost, which images fail. In words and numbers."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np

from biomass_models.targets import TARGETS
from ensembles.honest import Estimate
from orchestration.report.data.context import ReportContext
from orchestration.report.html import Html, join, paragraph, tag
from orchestration.report.sections.why import what_fails, why_lost
from orchestration.report.words import (
    GAP,
    SHORT,
    count,
    duration,
    folds_text,
    listed,
    mass,
    number,
    percent,
    plus_minus,
    verdict,
)

_UNITS = {"date": "sampling day"}  # as people call them


def answers(context: ReportContext) -> Html:
    """The four questions, each with its answer."""
    asked = (
        ("What is best?", _best(context)),
        ("How sure is that?", _sure(context)),
        ("Why did the others lose?", why_lost(context)),
        ("Which images fail?", what_fails(context)),
    )
    cards = [tag("div", tag("h2", title), *lines, class_="answer") for title, lines in asked]
    return tag("div", *cards, class_="answers")


def headline(context: ReportContext) -> str:
    """One line: what the study came to, and what its score counts where that is not all five masses."""
    counts = "" if context.counted == "weighted R²" or context.best is None else f" ({context.counted})"
    return f"{_came_to(context)}{counts}"


def _came_to(context: ReportContext) -> str:
    if context.blend is not None:
        size, estimate = len(context.blend.card.members), context.blend.card.nested
        if size > 1 and context.single is not None and context.single.value >= estimate.value:
            return f"One model scores {plus_minus(context.single)}; a blend of {size} does not beat it"
        return f"A blend of {size} models scores {plus_minus(estimate)}" if size > 1 else _alone(context)
    if context.best is not None:
        return _alone(context)
    return "No trial is complete yet" if context.study.trials else "Nothing was tried yet"


def _alone(context: ReportContext) -> str:
    assert context.best is not None
    return f"The best single model scores {plus_minus(context.scores[context.best.trial_id])}"


def _best(context: ReportContext) -> list[Html]:
    study, lines = context.study, []
    if context.blend is not None:
        card = context.blend.card
        complete = len(study.of("complete"))
        picked = f"{len(card.members)} of {count(complete, 'complete model')}" if complete > 1 else "1 model"
        lines.append(
            paragraph(
                f"A blend of {picked} with a ", tag("a", "weighted R²", href="#word-r2"), " of ",
                tag("strong", plus_minus(card.nested)), ", chosen ",
                tag("a", "without the images it is scored on", href="#word-nested"), ".",
            )
        )  # fmt: skip
    if context.best is not None:
        honest = ""
        if context.single is not None and len(context.pred) > 1:
            honest = f", seen in hindsight; {plus_minus(context.single)} when it is chosen in the same way as the blend"
        lines.append(
            paragraph(
                f"Best single model: {context.best.family} ", tag("code", context.best.trial_id), " with ",
                tag("strong", plus_minus(context.scores[context.best.trial_id])), honest, ".",
            )
        )  # fmt: skip
    if context.shown is not None:
        error, unit, name = context.error(context.main), context.unit, SHORT[TARGETS[context.main]]
        text = f"In {'grams' if unit == 'g' else unit}, {context.shown.name} is typically {mass(error.rmse, unit)} off "
        lines.append(
            paragraph(
                f"{text}in a quadrat's {name}, whose mean is {number(error.mean, 0)}{GAP}{unit}: "
                f"{percent(error.relative)}."
            )
        )
    if context.followed is not None:
        found = context.followed
        way = "more" if found.gain.value > 0 else "less"
        lines.append(
            paragraph(
                f"On the {count(found.photographs, 'photograph')} that the earlier study ", tag("code", found.old),
                f" has too, this blend scores {plus_minus(found.score)} and that one {plus_minus(found.old_score)}: "
                f"{number(abs(found.gain.value))} {way}, {number(found.gain.low)} to {number(found.gain.high)} (95 %).",
            )
        )  # fmt: skip
    elif context.not_followed is not None:
        lines.append(paragraph(f"The study that this one follows: {context.not_followed}."))
    references = sorted(study.references, key=lambda name: -context.scores[name].value)
    if references:
        barred = {
            name: "" if each.predicts_tests else " (cannot predict new photographs)"
            for name, each in study.references.items()
        }
        listing = listed([f"{name} {plus_minus(context.scores[name])}{barred[name]}" for name in references], most=4)
        lines.append(paragraph(tag("a", "Without a network", href="#word-reference"), f": {listing}."))
    return lines or [paragraph("No trial is complete, and no reference was computed.")]


def _sure(context: ReportContext) -> list[Html]:
    if context.best is None:
        return [paragraph("There is nothing to be sure of yet.")]
    if context.blend is None:
        score = context.scores[context.best.trial_id]
        interval = _interval(score, context.scorer.interval_for_new(score), context.scorer.units, context.study.unit)
        return [paragraph(interval), paragraph(f"There is no blend: {context.no_blend}.")]
    card = context.blend.card
    units = card.units or card.groups
    unit = "group" if card.nested_by == "fold" else card.nested_by
    lines = [paragraph(_interval(card.nested, card.interval_for_new(units), units, unit))]
    gain = card.versus.get("best single")
    if gain is not None and card.library_size > 1:
        word = "gains" if gain.value > 0 else "loses"
        shown = plus_minus(replace(gain, value=abs(gain.value)))
        lines.append(
            paragraph(
                f"Against always taking the best single model the blend {word} ", tag("strong", shown),
                f": {verdict(gain)}.",
            )
        )  # fmt: skip
    lines.append(
        paragraph(
            f"On the rows it was fitted to it shows {number(card.in_sample_score)}: do not trust that number. The "
            f"search itself saw every fold{_search_luck(context)}."
        )
    )
    return lines


def _search_luck(context: ReportContext) -> str:
    if context.exam is not None:
        return "; the dates of the exam nothing has seen"
    if context.search_optimism is not None:
        return f": {context.search_optimism}"
    return ", so expect a little less on new days"


def _interval(estimate: Estimate, interval: tuple[float, float] | None, units: int, unit: str) -> str:
    if np.isnan(estimate.se):
        return f"All images are of one {unit}: there is no telling how the score would vary."
    error = f"The ± is one standard error, from {count(units, _UNITS.get(unit, unit))}."
    if interval is None:
        return f"{error} The card was written by an earlier version; blend again for an interval."
    low, high = interval
    return (
        f"{error} With as many other {_UNITS.get(unit, unit)}s like these the score would lie between {number(low)} "
        f"and {number(high)} (95 %)."
    )


def facts_line(context: ReportContext) -> Html:
    """What ran, in a line under the title."""
    study = context.study
    ended = Counter(trial.status for trial in study.trials)
    kinds = ", ".join(
        f"{ended[kind]} {kind}" for kind in ("complete", "pruned", "failed", "refused", "open") if ended[kind]
    )
    return join(
        f"{count(len(study.trials), 'trial')} ({kinds or 'none'}) of {listed(study.families or ['no family'])} "
        f"on {count(len(study.quadrats), 'photograph')}, {folds_text(study)}"
    )


def run_line(context: ReportContext) -> str:
    """On what and with what it ran, in a line."""
    record = context.study.record
    gpu_hours = sum(trial.result.gpu_seconds for trial in context.study.trials if trial.result is not None) / 3600
    versions = record.versions
    pieces = [
        f"data {record.data_fingerprint}",
        f"{duration(context.clock.seconds)} of search" if context.work else "",
        f"{number(gpu_hours, 1)} GPU hours" if gpu_hours else "no GPU",
        ", ".join(f"{name} {versions[name]}" for name in ("torch", "ray", "optuna") if name in versions),
    ]
    return " · ".join(part for part in pieces if part)
