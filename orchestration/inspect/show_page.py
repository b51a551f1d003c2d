"""One trial as a page for a terminal, 80 columns wide."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from biomass_models.counted import counted
from orchestration.blending.shown import blend_text
from orchestration.inspect.show import ShownTrial

WIDTH = 80


def render_trial(found: ShownTrial) -> Group:
    """All but the commands, which are lines to be copied, whatever their length."""
    return Group(*_parts(found))


def _parts(found: ShownTrial) -> Iterator[RenderableType]:
    value = "" if found.score is None else f", score {found.score:.4f}"
    value += "" if found.estimate is None else f", expected score {found.estimate:.4f}"
    yield Text(f"Trial {found.trial_id} of {found.study}: {found.family}, {found.status}{value}", style="bold")
    yield Text(found.label)
    if found.reason:
        yield Text(f"{found.status}: {found.reason}")
    yield Text(f"{_proposed(found)}{'' if found.exempt is None else f'; never pruned: {found.exempt}'}")
    if found.settings:
        yield _settings(found)
    else:
        yield Text("Settings: as published")
    if found.folds:
        yield _folds(found)
        gpu = f", {found.gpu_seconds:.0f} GPU s" if found.gpu_seconds else ""
        of = counted(len(found.folds), "fold")
        yield Text(f"Cost: {found.seconds:.1f} s{gpu} over {of}, {found.peak_gb:.1f} GB at most")
    for decision in found.decisions:
        yield Text(f"Pruning: {decision}")
    yield Text(_worth(found))


def _proposed(found: ShownTrial) -> str:
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(found.proposed_at))
    how = "one of the first trials of its family" if found.why == "first trial" else found.why
    second = "" if found.pseudo_weight is None else f", second round, weight {found.pseudo_weight:g}"
    return f"Trial number {found.number + 1} of the study{second}, {how}, {when}"


def _settings(found: ShownTrial) -> Table:
    view = Table(title="Settings that differ from the published ones, or are yours", title_justify="left", width=WIDTH)
    view.add_column("setting", no_wrap=True)
    view.add_column("here", overflow="fold", ratio=3)
    view.add_column("published", overflow="fold", ratio=2)
    view.add_column("range now", overflow="fold", ratio=4)
    for row in found.settings:
        own = "" if row.own is None else f" (yours: {row.own})"
        view.add_row(row.name, _value(row.value), _value(row.published), f"{row.range}{own}")
    return view


def _folds(found: ShownTrial) -> Table:
    view = Table(title="Folds", title_justify="left", width=WIDTH)
    gpus = any(row.gpu_seconds for row in found.folds)
    for name in ("fold", "score", "s", *(["GPU s"] if gpus else []), "GB"):
        view.add_column(name, justify="right", no_wrap=True)
    view.add_column("device", ratio=1, overflow="fold")
    for row in found.folds:
        view.add_row(
            f"{row.fold}",
            "" if row.score is None else f"{row.score:.3f}",
            f"{row.seconds:.1f}",
            *([f"{row.gpu_seconds:.1f}"] if gpus else []),
            f"{row.peak_gb:.1f}",
            f"{row.device} ({row.host})",
        )
    return view


def _worth(found: ShownTrial) -> str:
    if found.worth is None:
        return f"In the blend: {found.no_worth}"
    worth = found.worth
    said = f"In the blend ({blend_text(worth.ensemble, worth.within)}): weight {worth.weight:.3f}"
    if worth.gain is None:
        return f"{said}; without it: {worth.no_gain}"
    gain = worth.gain
    return (
        f"{said}; the nested score of its rule is {worth.nested_score:.4f}, "
        f"{abs(gain.value):.4f} {'lower' if gain.value > 0 else 'higher'} without this trial "
        f"(± {gain.se:.4f})"
    )


def _value(value: Any) -> str:
    return "" if value is None else '""' if value == "" else f"{value:.4g}" if isinstance(value, float) else f"{value}"
