"""The first screen: what is best, how sure that is, why the others lost, which images fail. In words and numbers."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np

from biomass_models.targets import TOTAL
from ensembles.honest import Estimate
from orchestration.inspect.leaderboard import REFERENCE_NOTES
from orchestration.report.data.story import Story
from orchestration.report.html import Html, join, paragraph, tag
from orchestration.report.sections.why import what_fails, why_lost
from orchestration.report.words import GAP, SCHEMES, count, duration, listed, number, plus_minus, verdict


def answers(story: Story) -> Html:
    """The four questions, each with its answer."""
    asked = (
        ("What is best?", _best(story)),
        ("How sure is that?", _sure(story)),
        ("Why did the others lose?", why_lost(story)),
        ("Which images fail?", what_fails(story)),
    )
    cards = [tag("div", tag("h2", title), *lines, class_="answer") for title, lines in asked]
    return tag("div", *cards, class_="answers")


def headline(story: Story) -> str:
    """One line: what the study came to."""
    if story.blend is not None:
        size, estimate = len(story.blend.card.members), story.judge.score(story.blend.honest_NT)
        if size > 1 and story.single is not None and story.single.value >= estimate.value:
            return f"One model scores {plus_minus(story.single)}; a blend of {size} does not beat it"
        return f"A blend of {size} models scores {plus_minus(estimate)}" if size > 1 else _alone(story)
    if story.best is not None:
        return _alone(story)
    return "No trial is complete yet" if story.evidence.trials else "Nothing was tried yet"


def _alone(story: Story) -> str:
    assert story.best is not None
    return f"The best single model scores {plus_minus(story.scores[story.best.name])}"


def _best(story: Story) -> list[Html]:
    evidence, lines = story.evidence, []
    if story.blend is not None:
        card = story.blend.card
        complete = len(evidence.of("complete"))
        picked = f"{len(card.members)} of {count(complete, 'complete model')}" if complete > 1 else "1 model"
        lines.append(
            paragraph(
                f"A blend of {picked} with a ", tag("a", "weighted R²", href="#word-r2"), " of ",
                tag("strong", plus_minus(story.judge.score(story.blend.honest_NT))), ", chosen ",
                tag("a", "without the images it is scored on", href="#word-nested"), ".",
            )
        )  # fmt: skip
    if story.best is not None:
        honest = ""
        if story.single is not None and len(evidence.pred) > 1:
            honest = f", seen in hindsight; {plus_minus(story.single)} when it is chosen in the same way as the blend"
        lines.append(
            paragraph(
                f"Best single model: {story.best.family} ", tag("code", story.best.name), " with ",
                tag("strong", plus_minus(story.scores[story.best.name])), honest, ".",
            )
        )  # fmt: skip
    if story.shown is not None:
        residual_N = story.shown.pred_NT[:, TOTAL] - story.judge.truth_NT[:, TOTAL]
        mean = float(story.judge.truth_NT[:, TOTAL].mean())
        typical = float(np.sqrt((residual_N**2).mean()))
        text = f"In grams, {story.shown.name} is typically {typical:.1f}{GAP}g off in a quadrat's total, whose mean is "
        lines.append(paragraph(f"{text}{mean:.0f}{GAP}g."))
    references = sorted(evidence.references, key=lambda name: -story.scores[name].value)
    if references:
        barred = dict.fromkeys(REFERENCE_NOTES, " (cannot predict new photographs)")
        listing = listed(
            [f"{name} {plus_minus(story.scores[name])}{barred.get(name, '')}" for name in references], most=4
        )
        lines.append(paragraph(tag("a", "Without a network", href="#word-reference"), f": {listing}."))
    return lines or [paragraph("No trial is complete, and no reference was computed.")]


def _sure(story: Story) -> list[Html]:
    if story.best is None:
        return [paragraph("There is nothing to be sure of yet.")]
    if story.blend is None:
        interval = _interval(story.scores[story.best.name], story)
        return [paragraph(interval), paragraph(f"There is no blend: {story.no_blend}.")]
    card = story.blend.card
    lines = [paragraph(_interval(story.judge.score(story.blend.honest_NT), story))]
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
            "search itself saw every fold, so expect a little less on new days."
        )
    )
    return lines


def _interval(estimate: Estimate, story: Story) -> str:
    groups = story.evidence.quadrats["group"].nunique()
    if np.isnan(estimate.se):
        return "All images are of one day: there is no telling how the score would vary."
    return (
        f"The ± is one standard error, from {count(groups, 'sampling day')}. With other days like these the score "
        f"would lie between {number(estimate.low, 2)} and {number(estimate.high, 2)} (95 %)."
    )


def facts_line(story: Story) -> Html:
    """What ran, in a line under the title."""
    evidence = story.evidence
    settings = evidence.study.settings
    ended = Counter(trial.status for trial in evidence.trials)
    kinds = ", ".join(
        f"{ended[kind]} {kind}" for kind in ("complete", "pruned", "failed", "refused", "open") if ended[kind]
    )
    return join(
        f"{count(len(evidence.trials), 'trial')} ({kinds or 'none'}) of {listed(evidence.families or ['no family'])} "
        f"on {count(len(evidence.quadrats), 'photograph')}, {settings.n_folds} {SCHEMES[settings.scheme]}"
    )


def run_line(story: Story) -> str:
    """On what and with what it ran, in a line."""
    study = story.evidence.study
    gpu_hours = sum(trial.result.gpu_seconds for trial in story.evidence.trials if trial.result is not None) / 3600
    versions = study.versions
    pieces = [
        f"data {study.data_fingerprint}",
        f"{duration(story.clock.seconds)} of search" if story.work else "",
        f"{number(gpu_hours, 1)} GPU hours" if gpu_hours else "no GPU",
        ", ".join(f"{name} {versions[name]}" for name in ("torch", "ray", "optuna") if name in versions),
    ]
    return " · ".join(part for part in pieces if part)
