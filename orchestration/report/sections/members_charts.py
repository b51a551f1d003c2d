"""Pictures of a blend: who is in it, what it gains as members are added, and how alike they err."""

from __future__ import annotations

import math
from typing import Any

import altair as alt

from orchestration.blending.nested import Blend
from orchestration.report.charts import RAMP, SOFT, colour, data, ink_on, legend, panel, ramp_colour, shape
from orchestration.report.data.blended import Step, growth, heaviest, residual_correlation
from orchestration.report.data.context import ReportContext
from orchestration.report.html import Figure
from orchestration.report.words import count, number, percent, short_id

MOST_MAPPED = 20  # members of the correlation map
MOST_BARS = 30
KINDS = ("in sample", "nested")


def members_figure(context: ReportContext, blend: Blend) -> Figure:
    card = blend.card
    names = heaviest(card.members, MOST_BARS)
    rows: list[dict[str, Any]] = []
    for name in names:
        trial = context.study.by_id.get(name)
        family = trial.family if trial else "other"
        rows.append({"member": f"{family} {short_id(name)}", "weight": card.members[name], "family": family,
                     "text": percent(card.members[name]), "score": _own_score(context, name)})  # fmt: skip
    base = alt.Chart(data(rows)).encode(
        y=alt.Y("member:N", sort=[row["member"] for row in rows], title=None),
        x=alt.X("weight:Q", title="weight in the blend", axis=alt.Axis(format="%", tickCount=5),
                scale=alt.Scale(domain=[0, 1.15 * max(row["weight"] for row in rows)], nice=False)),
    )  # fmt: skip
    bars = base.mark_bar(height={"band": 0.7}).encode(
        color=colour("family", context.study.families, "family"),
        tooltip=[
            "member:N",
            alt.Tooltip("weight:Q", format=".3f"),
            alt.Tooltip("score:Q", format=".4f", title="own score"),
        ],
    )
    shares: dict[str, float] = {}
    for name, weight in card.members.items():
        trial = context.study.by_id.get(name)
        shares[trial.family if trial else "other"] = shares.get(trial.family if trial else "other", 0.0) + weight
    listing = ", ".join(
        f"{family} {percent(share)}" for family, share in sorted(shares.items(), key=lambda one: -one[1])
    )
    rest = len(card.members) - len(names)
    more = f"{count(rest, 'more member is', 'more members are')} not drawn." if rest > 0 else ""
    return Figure(
        title=f"Members: {count(len(card.members), 'model')} ({listing})",
        how="The longer the bar, the more the member says. A member need not be good by itself to help: it must err "
        "elsewhere than the others. Equal weights are the safe choice where the data cannot tell more.",
        panels=(
            panel(
                alt.layer(bars, base.mark_text(align="left", dx=5).encode(text="text:N")), height=24 * len(rows) + 10
            ),
        ),
        note=more,
    )


def _own_score(context: ReportContext, name: str) -> float | None:
    return context.scores[name].value if name in context.scores else None


def growth_figure(blend: Blend) -> Figure | None:
    steps = growth(blend.library, blend.card.seed)
    if len({step.members for step in steps}) < 2:
        return None
    lines = [
        {"rule": step.rule, "members": step.members, "score": score, "how": how}
        for step in steps
        for how, score in zip(KINDS, (step.in_sample, step.nested), strict=True)
    ]
    greedy = [step for step in steps if step.rule == "greedy picks"]
    widest = max(steps, key=lambda step: step.in_sample - step.nested)
    best = max(steps, key=lambda step: step.nested)
    panels = [_growth_panel(lines, rule, blend) for rule in dict.fromkeys(step.rule for step in steps)]
    return Figure(
        title=f"As members grow, nested scores peak at {number(best.nested)} ({_step(best)}); in-sample ones mislead "
        f"by up to {number(widest.in_sample - widest.nested)}",
        how="In sample: members are chosen and scored on the same rows, which can only look better. Nested: chosen "
        "without the fold they are scored on, the number to trust. Where the gap opens, selection fits noise. The "
        "dotted line is the nested score of the blend above."
        + ("" if greedy else " With one model there is nothing to pick."),
        panels=tuple(panels),
        across=len(panels),
        legend=legend("score", KINDS),
    )


def _step(step: Step) -> str:
    return f"the mean of the best {step.members}" if step.rule == "mean of the best" else f"{step.members} greedy picks"


def _growth_panel(lines: list[dict[str, Any]], rule: str, blend: Blend) -> Any:
    own = [line for line in lines if line["rule"] == rule]
    x = alt.X("members:Q", title="members" if rule == "mean of the best" else "picks (a member may be picked again)",
              scale=alt.Scale(type="log", nice=False),
              axis=alt.Axis(values=[1, 2, 5, 10, 20, 50], format="d"))  # fmt: skip
    scores = [line["score"] for line in lines] + [blend.card.nested_score]
    y = alt.Y(
        "score:Q", title="weighted R²", scale=alt.Scale(domain=[min(scores) - 0.005, max(scores) + 0.005], nice=True)
    )
    base = alt.Chart(data(own)).encode(x=x, y=y, color=colour("how", KINDS, None, legend=False))
    dash = alt.StrokeDash("how:N", scale=alt.Scale(domain=list(KINDS), range=[[5, 3], [1, 0]]), legend=None)
    mark = base.mark_line(strokeWidth=2).encode(strokeDash=dash)
    dots = base.mark_point(filled=True, size=40, opacity=1).encode(
        shape=shape("how", KINDS),
        tooltip=["how:N", "members:Q", alt.Tooltip("score:Q", format=".4f")],
    )
    rule_mark = (
        alt.Chart(data([{"score": blend.card.nested_score}])).mark_rule(strokeDash=[1, 3], color=SOFT).encode(y=y)
    )
    caption = "Plain mean of the best" if rule == "mean of the best" else "Greedy picks, the most promising next"
    return panel(alt.layer(rule_mark, mark, dots), height=240, caption=caption)


def alike_figure(context: ReportContext, blend: Blend) -> Figure | None:
    names = heaviest(blend.card.members, MOST_MAPPED)
    names = [name for name in names if name in blend.library.names]
    if len(names) < 2:
        return None
    cosine_KK = residual_correlation(blend.library, names)
    labels = []
    for name in names:
        trial = context.study.by_id.get(name)
        labels.append(f"{trial.family if trial else 'other'} {short_id(name)}")
    off = [float(cosine_KK[i, j]) for i in range(len(names)) for j in range(i) if not math.isnan(cosine_KK[i, j])]
    if not off:
        return None
    low, high = min(off), max(off)
    rows = []
    for i, first in enumerate(labels):
        for j, second in enumerate(labels):
            if i == j or math.isnan(cosine_KK[i, j]):
                continue
            value = float(cosine_KK[i, j])
            share = (value - low) / (high - low) if high > low else 0.5
            rows.append({"first": first, "second": second, "value": value, "text": number(value, 2),
                         "ink": ink_on(ramp_colour(share))})  # fmt: skip
    base = alt.Chart(data(rows)).encode(
        x=alt.X(
            "second:N",
            sort=labels,
            title=None,
            axis=alt.Axis(
                orient="top",
                labelAngle=0,
                labelOverlap=False,
                labelExpr="slice(datum.label, -4)",
                domain=False,
                ticks=False,
            ),
        ),
        y=alt.Y("first:N", sort=labels, title=None, axis=alt.Axis(domain=False, ticks=False)),
    )
    ramp = alt.Scale(domain=[low, (low + high) / 2, high] if high > low else [low], range=list(RAMP), interpolate="rgb")
    boxes = base.mark_rect(stroke="var(--paper)", strokeWidth=1.5).encode(
        color=alt.Color(
            "value:Q", scale=ramp, title="correlation of the errors", legend=alt.Legend(gradientLength=160)
        ),
        tooltip=["first:N", "second:N", alt.Tooltip("value:Q", format=".3f")],
    )
    texts = base.mark_text(fontSize=10).encode(text="text:N", color=alt.Color("ink:N", scale=None))
    pair = min(((cosine_KK[i, j], i, j) for i in range(len(names)) for j in range(i)), key=lambda one: one[0])
    more = (
        f"Shown are the {MOST_MAPPED} heaviest of {len(blend.card.members)} members."
        if len(blend.card.members) > MOST_MAPPED
        else ""
    )
    return Figure(
        title=f"Members err alike by {number(sum(off) / len(off), 2)} on average; the most different are "
        f"{labels[pair[2]]} and {labels[pair[1]]} ({number(low, 2)})",
        how="1 says that two members make the same errors on the same images, 0 that their errors have nothing in "
        "common. Orange pairs complete each other; blue ones repeat each other and gain little from being blended.",
        panels=(
            panel(
                alt.layer(boxes, texts).resolve_scale(color="independent"),
                height=30 * len(names) + 10,
                least_width=min(760, 44 * len(names) + 110),
            ),
        ),
        note=more,
    )
