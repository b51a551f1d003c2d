"""The card of a blend as a page for a terminal of 80 columns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from biomass_models.counted import counted
from biomass_models.fold_units import cut_groups_notice
from biomass_models.targets import TARGETS
from ensembles.budget import CardBudget
from ensembles.card import Card, CardStateRule
from ensembles.honest import OLD_METHOD, Estimate
from ensembles.intervals.coverage import BADLY, coverage
from ensembles.intervals.levels import LEVELS, Intervals
from ensembles.measured import WEIGHTED_R2

WIDTH = 80
FLIPS = "test-time flips"
NEW_UNITS = 12  # other dates that an interval is shown for
MOST_LINES = 12  # of members, of left-out files, of groups


def render_card(card: Card, beside: Sequence[str] = (), labels: Mapping[str, str] | None = None) -> Group:
    """Scores, comparisons, members, targets and states, how errors were computed, and what was left out.

    beside: what is to be known with the scores and is not the blend's own, such as how it was searched for; labels:
    what members are, where more than their name is known.
    """
    notice = cut_groups_notice(card.cut_groups, card.nested_by)
    parts: list[RenderableType] = [] if notice is None else [Text(f"warning: {notice}", style="yellow")]
    counted = [] if card.counted == WEIGHTED_R2 else [f"scores are {card.counted}"]
    all_rows = [] if card.all_rows_text is None else [card.all_rows_text]
    parts += [_scores(card), *map(Text, [*counted, *all_rows, *beside]), _versus(card)]
    if tried := card.follow_up_gains | ({} if card.flips_gain is None else {FLIPS: card.flips_gain}):
        parts.append(_tried(card, tried))
    if card.state_rule is not None:
        parts.append(Text(_state_rule(card.state_rule)))
    if card.budget is not None:
        parts.append(_budget(card.budget))
    parts += [_members(card, labels or {}), _parts(card), *_intervals(card), *_notes(card)]
    return Group(*parts)


def _scores(card: Card) -> Table:
    made_by = ", ".join([card.rule, *card.follow_ups])
    table = _table(f"Blend of {len(card.members)} of {counted(card.library_size, 'member')}: {made_by}")
    for name, justify in ((card.counted.partition(" of ")[0], "left"), ("score", "right"), ("what it is", "left")):
        table.add_column(name, justify="right" if justify == "right" else "left")
    chosen = "" if card.chosen_rule == card.rule else f" (the rule {card.chosen_rule} was chosen)"
    trust = "too good, see the warning" if card.cut_groups else "trust this"
    meaning = f"chosen and weighted without the scored {card.nested_by}: {trust}"
    value = _plus_minus(card.nested_score, card.nested_se)
    table.add_row(f"nested by {card.nested_by}", value, meaning, style=None if card.cut_groups else "bold")
    for new in _new_units(card):
        low, high = card.interval_for_new(new) or (0.0, 0.0)
        table.add_row(
            f"on {new} other {card.nested_by}s", f"{low:.3f} to {high:.3f}", "95 % interval of the score there"
        )
    if card.nested_by == "fold" and card.nested_group_score is not None:
        value = _plus_minus(card.nested_group_score, card.nested_group_se)
        table.add_row("nested by group", value, f"the same over {counted(card.groups, 'group')}")
    if card.bootstrap is not None:
        value = _plus_minus(card.bootstrap.value, card.bootstrap.se)
        table.add_row("bootstrap", value, "fitted on drawn groups, scored on the others")
    table.add_row("in sample", f"{card.in_sample_score:.4f}", f"too good by {card.optimism:.4f}{chosen}")
    table.add_row("ceiling", f"{card.ceiling_score:.4f}", "the best weights in sample; nothing shows more")
    table.add_row(
        "best single", f"{card.best_single_nested_score:.4f}", f"nested; the best in sample is {card.best_single}"
    )
    table.add_row("mean of top 5", f"{card.top5_nested_score:.4f}", "nested; what a plain mean would get")
    return table


def _new_units(card: Card) -> list[int]:
    """Numbers of new units that an interval is shown for: as many as there are, and 12."""
    if card.units is None or card.interval_for_new(card.units) is None:
        return []
    return sorted({card.units, NEW_UNITS}, reverse=True) if card.nested_by == "date" else [card.units]


def _versus(card: Card) -> Table:
    over = counted(card.groups, "group") if card.units is None else counted(card.units, card.nested_by)
    by = "bootstrap over" if card.method == OLD_METHOD else "over"
    table = _table(f"Nested blend minus ... (paired, {by} {over})")
    for name in ("other", "difference", "95 % interval"):
        table.add_column(name, justify="left" if name == "other" else "right")
    for name, gain in card.versus.items():
        value = f"{gain.value:+.4f} ± {gain.se:.4f}"
        table.add_row(name, value, _interval(gain))
    return table


def _budget(budget: CardBudget) -> Table:
    title = (
        f"Predictions of {counted(budget.images, 'photograph')} within {budget}: "
        f"this blend takes {budget.used_minutes:.2g} min"
    )
    table = _table(title)
    for name in ("minutes", "nested score", "members", "takes"):
        table.add_column(name, justify="right")
    for point in budget.curve:
        score, asked = _plus_minus(point.nested_score, point.nested_se), point.minutes == budget.minutes
        row = (f"{point.minutes:.3g}", score, f"{point.members}", f"{point.used_minutes:.2g} min")
        table.add_row(*row, style="bold" if asked else None)
    below = []
    if budget.next_gain is not None and budget.next_minutes is not None:
        least, gain = f"{math.ceil(100 * budget.next_minutes) / 100:g} min", budget.next_gain
        below.append(
            f"the next member would be {budget.next_member}, from {least} on: {gain.value:+.4f} ± {gain.se:.4f} nested"
        )
    elif budget.next_member is None:
        below.append("more minutes buy no other blend")
    if budget.unknown:
        unknown = counted(budget.unknown, "member has", "members have")
        below.append(f"{unknown} no profile there and could not be chosen, in any nest")
    table.caption = "\n".join(below) or None
    return table


def _tried(card: Card, tried: Mapping[str, Estimate]) -> Table:
    used = {*card.follow_ups, *[FLIPS][: card.flips > 1]}
    table = _table("Tried on the out-of-fold rows (nested); used where it gains more than one SE")
    for name in ("what", "gain", "used"):
        table.add_column(name, justify="right" if name == "gain" else "left")
    for name, gain in tried.items():
        table.add_row(name, f"{gain.value:+.4f} ± {gain.se:.4f}", "yes" if set(name.split(" + ")) <= used else "no")
    return table


def _state_rule(rule: CardStateRule) -> str:
    never = [f"{state} no {', '.join(absent)}" for state, absent in rule.never.items() if absent]
    return f"state rule, where a state is likelier than {rule.threshold:g}: {'; '.join(never) or 'nothing is absent'}"


def _intervals(card: Card) -> list[RenderableType]:
    """What a mass of a new photograph is worth, and how often that held on units that were left out."""
    if card.intervals is None:
        return []
    rows, calibration = card.intervals, card.intervals.calibration
    intervals, held = Intervals(calibration), [coverage(rows, level) for level in LEVELS]
    table = _table(f"New photographs, on another {rows.unit}: intervals, and how often they held")
    table.add_column("target")
    table.add_column("at", justify="right")
    for level in LEVELS:
        table.add_column(f"{level:.0%}", justify="right")
        table.add_column("held", justify="right")
    for column, name in enumerate(TARGETS):
        if name not in calibration.targets:
            continue
        mean = float(calibration.pred_NT[:, column].mean())
        cells = []
        for level, found in zip(LEVELS, held, strict=True):
            low_NT, high_NT = intervals.of_photographs(np.full((1, len(TARGETS)), mean), level)
            low, high = low_NT[0, column], high_NT[0, column]
            cells += ["-" if np.isnan(high) else f"{low:.1f} to {high:.1f}", _share(found.mean_T[column])]
        table.add_row(name, f"{mean:.1f} g", *cells)
    table.add_row("all at once", "", *(cell for found in held for cell in ("", _share(found.joint))), style="dim")
    lines = [line for line in map(intervals.shortage, LEVELS) if line is not None]
    if (worst := held[0].worst) is not None:
        name, share = worst
        lines.append(
            f"the promise is over {rows.unit}s, not within each: on {share:.0%} of the {rows.unit}s {BADLY:.0%} or "
            f"less of {name} was in its {LEVELS[0]:.0%} interval"
        )
    return [table, *map(Text, lines)]


def _share(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.0%}"


def _members(card: Card, labels: Mapping[str, str]) -> Table:
    alike = "" if card.diversity is None else f" (mean residual correlation {card.diversity:.3f})"
    table = _table(f"Members{alike}")
    table.add_column("member", overflow="fold")
    table.add_column("weight", justify="right")
    if labels:
        table.add_column("what it is", overflow="fold", ratio=1)
    for name, weight in list(card.members.items())[:MOST_LINES]:
        table.add_row(name, f"{weight:.3f}", *([labels.get(name, "")] if labels else []))
    if len(card.members) > MOST_LINES:
        rest = list(card.members.values())[MOST_LINES:]
        table.add_row(f"{len(rest)} more", f"{sum(rest):.3f}", style="dim")
    return table


def _parts(card: Card) -> Table:
    table = _table("Where it is good")
    for name in ("target, state or fold", "nested R2", "in sample", "RMSE, nested"):
        table.add_column(name, justify="left" if name.startswith("target") else "right")
    for target, score in card.targets.items():
        table.add_row(target, _number(score.nested_r2), _number(score.in_sample_r2), f"{score.nested_rmse:.2f} g")
    for state, value in card.state_scores.items():
        table.add_row(f"state {state}", _number(value), "", "")
    for fold, value in list(card.nested_fold_scores.items())[:MOST_LINES]:
        table.add_row(f"fold {fold}", _number(value), "", "")
    return table


def _notes(card: Card) -> list[Text]:
    lines = [f"left out: {name}: {reason}" for name, reason in card.left_out]
    lines += [f"merged: {name} repeats {better}" for name, better in card.merged]
    if len(lines) > MOST_LINES:
        lines = [*lines[:MOST_LINES], f"and {len(lines) - MOST_LINES} more left out or merged; the card lists them"]
    return [Text(line) for line in [f"scores and errors: {card.method}", *lines]]


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", width=WIDTH)


def _plus_minus(value: float, se: float | None) -> str:
    return f"{value:.4f}" if se is None else f"{value:.4f} ± {se:.4f}"


def _interval(estimate: Estimate) -> str:
    return f"[{estimate.low:+.4f}, {estimate.high:+.4f}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
