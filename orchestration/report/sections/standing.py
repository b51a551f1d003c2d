"""Who stands where: blend, trials and references with their errors, as a picture and as a table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import altair as alt

from ensembles.honest import Estimate
from orchestration.inspect.leaderboard import REFERENCE_NOTES
from orchestration.report.charts import SOFT, data, panel
from orchestration.report.data.story import Story
from orchestration.report.html import Cell, Column, Figure, Html, Section, Table, tag
from orchestration.report.words import CLEAR, NONE, count, duration, number, plus_minus, short_id, verdict

MOST_ROWS = 200  # trials in the table
KINDS = ("blend", "trial", "reference")


def standing_section(story: Story) -> Section:
    blocks: list[Html | Table | Figure] = []
    if entries := _entries(story):
        blocks.append(_forest(entries, _finding(story)))
    blocks.append(_table(story))
    return Section(anchor="standing", title="Who stands where", short="Standing", blocks=tuple(blocks))


def _entries(story: Story) -> list[dict[str, Any]]:
    """Rows of the picture: name, score, the ends of its standard error, kind."""
    found = []
    if story.blend is not None:
        found.append(("blend (nested)", story.judge.score(story.blend.honest_NT), "blend"))
        if story.single is not None and story.blend.card.library_size > 1:
            found.append(("single best (nested)", story.single, "blend"))
    for family in story.evidence.families:
        own = [trial for trial in story.evidence.ranked if trial.family == family and trial.name in story.scores]
        if own:
            found.append((f"best {family}, {short_id(own[0].name)}", story.scores[own[0].name], "trial"))
    found += [(name, story.scores[name], "reference") for name in story.evidence.references]
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


def _finding(story: Story) -> str:
    """How far the best trial is from what needs no network and can predict new photographs."""
    usable = [name for name in story.evidence.references if name not in REFERENCE_NOTES]
    references = sorted(usable, key=lambda name: -story.scores[name].value)
    if story.best is None or not references:
        return "Scores with their errors"
    gain = story.judge.gain(story.evidence.pred[story.best.name], story.evidence.references[references[0]])
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


def _table(story: Story) -> Table:
    evidence = story.evidence
    weights = {} if story.blend is None else story.blend.card.members
    ranked = evidence.ranked
    order = {"pruned": 1, "failed": 2, "refused": 3, "open": 4}
    rest = sorted(
        (trial for trial in evidence.trials if trial.status != "complete"),
        key=lambda trial: (order.get(trial.status, 5), -(trial.worth or -9.0), trial.name),
    )
    every = [*ranked, *rest]
    rows: list[tuple[float, list[Cell | str]]] = []
    for trial in every[:MOST_ROWS]:
        score = trial.worth
        shown = NONE if score is None else number(score)
        if trial.name in story.scores:
            shown = plus_minus(story.scores[trial.name])
        elif trial.status == "pruned":
            shown = f"≈ {shown}"
        behind = story.behind.get(trial.name)
        seconds = trial.seconds
        weight = weights.get(trial.name)
        rows.append(
            (
                -9.0 if score is None else score - (9.0 if trial.status == "pruned" else 0.0),
                [
                    Cell(tag("code", trial.name), trial.name),
                    trial.family,
                    trial.status,
                    Cell(shown, score),
                    Cell(NONE if behind is None else plus_minus(behind, sign=True), _value(behind)),
                    Cell(
                        _folds(trial.fold_scores(evidence.folds)),
                        min(trial.fold_scores(evidence.folds).values(), default=None),
                    ),
                    Cell(NONE if weight is None else number(weight), weight),
                    Cell(NONE if seconds is None else duration(seconds), seconds),
                    _reason(story, trial.name, trial.status, trial.reason),
                ],
            )
        )
    for name in evidence.references:
        estimate, behind = story.scores[name], story.behind.get(name)
        rows.append(
            (
                estimate.value,
                [
                    name, "reference", NONE, Cell(plus_minus(estimate), estimate.value),
                    Cell(NONE if behind is None else plus_minus(behind, sign=True), _value(behind)),
                    Cell(NONE), Cell(NONE), Cell(NONE), "no network: what costs next to nothing",
                ],
            )
        )  # fmt: skip
    rows.sort(key=lambda row: -row[0])
    left = f" Shown are {MOST_ROWS} of {count(len(every), 'trial')}, the best." if len(every) > MOST_ROWS else ""
    return Table(
        title=f"All trials and references, best first: {count(len(evidence.of('complete')), 'complete trial')}",
        columns=(
            Column(name="trial"),
            Column(name="family"),
            Column(name="status"),
            Column(name="score", gloss="weighted R2 of the out-of-fold predictions ± one standard error", numeric=True),
            Column(name="behind the best", gloss="paired over sampling days ± one standard error", numeric=True),
            Column(name="folds", gloss="worst and best score of a single fold", numeric=True),
            Column(name="weight", gloss="in the blend", numeric=True),
            Column(name="time", gloss="of all its folds", numeric=True),
            Column(name="what became of it"),
        ),
        rows=[row for _, row in rows],
        how=f"Click a header to sort. A score with ≈ is the estimate for a trial that was stopped early.{left}",
        marked=frozenset(index for index, (_, row) in enumerate(rows) if row[1:2] and _is_best(story, row[0])),
    )


def _value(estimate: Estimate | None) -> float | None:
    return None if estimate is None else estimate.value


def _is_best(story: Story, cell: Cell | str) -> bool:
    return story.best is not None and isinstance(cell, Cell) and cell.sort == story.best.name


def _folds(scores: dict[int, float]) -> str:
    if not scores:
        return NONE
    return f"{number(min(scores.values()), 2)} to {number(max(scores.values()), 2)}"


def _reason(story: Story, name: str, status: str, reason: str | None) -> str:
    """Why a trial is where it is, and in what its folds differ where they do."""
    why, mixed = _place(story, name, status, reason), story.evidence.by_name[name].mixed
    return why if mixed is None else f"{why}; {mixed}"


def _place(story: Story, name: str, status: str, reason: str | None) -> str:
    if status != "complete":
        return reason or "it has not ended"
    if story.best is not None and name == story.best.name:
        return "the best trial"
    behind = story.behind.get(name)
    if behind is None:
        unread = dict(story.evidence.unread)
        return unread.get(name, "not judged: too far down the list")
    if story.blend is not None:
        left_out = dict(story.blend.library.left_out)
        merged = dict(story.blend.library.merged)
        if name in left_out:
            return f"left out of the blend: {left_out[name]}"
        if name in merged:
            return f"repeats {merged[name]}"
    return {
        CLEAR: "clearly behind the best",
        "perhaps chance": "behind the best, perhaps by chance",
        "chance can explain it": "as good as the best, within chance",
    }.get(verdict(behind), "behind the best")
