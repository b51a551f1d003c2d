"""The blend: who is in it, how alike its members err, and how much of its score is only in-sample."""

from __future__ import annotations

import math

from orchestration.blending.nested import Blend
from orchestration.report.data.context import ReportContext
from orchestration.report.html import Cell, Column, Figure, Html, Section, Table, join, paragraph, tag
from orchestration.report.sections.members_charts import alike_figure, growth_figure, members_figure
from orchestration.report.words import NONE, count, number, plus_minus, verdict


def ensemble_section(context: ReportContext) -> Section:
    blocks: list[Html | Table | Figure | None] = []
    if context.blend is None:
        blocks.append(paragraph(f"There is no blend: {context.no_blend}."))
    else:
        blend = context.blend
        blocks += [
            _source(context, blend),
            *_beside(context),
            _all_rows(blend),
            members_figure(context, blend),
            growth_figure(blend),
            alike_figure(context, blend),
            _against(context, blend),
        ]
    blocks.append(_stored(context))
    return Section(
        anchor="ensemble",
        title="The blend",
        short="Blend",
        blocks=tuple(block for block in blocks if block is not None),
    )


def _source(context: ReportContext, blend: Blend) -> Html:
    card = blend.card
    if blend.name is None:
        command = tag("code", "biomass ensemble")
        where = join("made for this report with the default rule; ", command, " makes it again and predicts with it")
    else:
        where = join(f"the study's ensemble “{blend.name}”")
    within = (
        "" if card.budget is None else f" It predicts {count(card.budget.images, 'photograph')} within {card.budget}."
    )
    chosen = "" if card.chosen_rule == card.rule else f", which came to {card.chosen_rule}"
    left_out = f" {count(len(card.left_out), 'model')} left out, broken or without skill." if card.left_out else ""
    merged = f" {count(len(card.merged), 'model')} merged as repetitions of others." if card.merged else ""
    return paragraph(
        "A blend predicts the weighted mean of its members. This one is ", where, ". Rule: ",
        tag("code", card.rule), chosen,
        ".", within, left_out, merged,
    )  # fmt: skip


def _beside(context: ReportContext) -> list[Html]:
    """How much of the nested score may be the luck of the search: what exams measured, else what was simulated."""
    lines = list(context.exams)
    if context.search_optimism is not None:
        exam = "" if context.study.record.exam_images else "; --exam of a search measures it"
        lines.append(f"{context.search_optimism}{exam}")
    return [paragraph(f"{line[0].upper()}{line[1:]}.") for line in lines]


def _all_rows(blend: Blend) -> Html | None:
    text = blend.card.all_rows_text
    return None if text is None else paragraph(f"{text[0].upper()}{text[1:]}.")


def _against(context: ReportContext, blend: Blend) -> Table:
    card = blend.card
    units = "sampling days" if card.nested_by in ("date", "fold") else f"{card.nested_by}s"
    rows: list[list[Cell | str]] = [
        [
            name,
            Cell(plus_minus(gain, sign=True), gain.value),
            Cell(f"{number(gain.low, sign=True)} to {number(gain.high, sign=True)}", gain.low),
            verdict(gain),
        ]
        for name, gain in card.versus.items()
    ]
    scores = (
        (
            f"nested by {card.nested_by}",
            card.nested_score,
            "too good: the folds cut sampling days" if context.study.cut_groups else "trust this",
        ),
        ("in sample", card.in_sample_score, "too good: chosen and scored on the same rows"),
        (
            "ceiling",
            card.ceiling_score,
            "in sample, the best weights there are; no blend of these members can show more",
        ),
    )
    listing = "; ".join(f"{name} {number(value, 4)} ({what})" for name, value, what in scores)
    return Table(
        title="What the blend gains over simpler choices",
        columns=(
            Column(name="instead of"),
            Column(
                name="gain",
                gloss="nested score of the blend minus that of the other, ± one standard error",
                numeric=True,
            ),
            Column(name="95 % interval", numeric=True),
            Column(name="which is"),
        ),
        rows=rows,
        how=f"Differences are paired over {units}. Scores of the blend: {listing}. How they and their errors were "
        f"computed: {card.method}.",
    )


def _stored(context: ReportContext) -> Table | None:
    if not context.stored:
        return None
    rows: list[list[Cell | str]] = []
    for each in context.stored:
        card = each.card
        if card is None:
            rows.append([each.name, NONE, Cell(NONE), Cell(NONE), "written by another version: blend again to see it"])
            continue
        shown = context.blend is not None and context.blend.name == each.name
        state = "shown in this report" if shown else "fits the study" if each.fits else "made of other trials"
        nested = number(card.nested_score, 4) + (
            "" if math.isnan(card.nested_se) else f" ± {number(card.nested_se, 4)}"
        )
        rows.append(
            [
                each.name,
                card.rule,
                Cell(nested, card.nested_score),
                Cell(str(len(card.members)), len(card.members)),
                state,
            ]
        )
    return Table(
        title=f"Stored: {count(len(rows), 'ensemble')}",
        columns=(Column(name="name"), Column(name="rule"), Column(name="nested score", numeric=True),
                 Column(name="members", numeric=True), Column(name="state")),
        rows=rows,
        how="What biomass ensemble has written. One that was made before the search ended is out of date.",
    )  # fmt: skip
