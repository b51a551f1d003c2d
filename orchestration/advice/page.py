"""What to weigh next, and what it would bring, on a terminal of 80 columns."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from rich.table import Table

from biomass_models.counted import counted
from orchestration.advice.curve_read import CurveReading
from orchestration.advice.next import Advice

WIDTH = 80


def render_picks(advice: Advice) -> Table:
    """Photographs to weigh, the one first that settles most."""
    picks = advice.record.picks
    folder = _common_folder([pick.photograph for pick in picks])
    view = Table(title=f"Weigh next, of {folder}", title_justify="left", width=WIDTH)
    view.add_column("", justify="right", no_wrap=True)
    view.add_column("photograph", overflow="fold")
    view.add_column("settles", justify="right", no_wrap=True)
    view.add_column("in all", justify="right", no_wrap=True)
    view.add_column("covers", justify="right", no_wrap=True)
    view.add_column("nearest of these", overflow="fold")
    settled = 0.0
    for rank, pick in enumerate(picks, start=1):
        settled += pick.settles
        name = os.path.relpath(Path(pick.photograph).absolute(), folder)
        nearest = Path(pick.nearest[0]).name if pick.nearest else ""
        view.add_row(f"{rank}", name, f"{pick.settles:.1%}", f"{settled:.1%}", f"{pick.covers}", nearest)
    return view


def advice_lines(advice: Advice) -> Iterator[str]:
    """What was looked at and what was left out, a line each."""
    record = advice.record
    yield (
        f"Chosen from {counted(record.pool, 'photograph')} for {record.targets}. settles: share of what was open "
        "about these; covers: of how many it is the nearest here"
    )
    yield f"features: {record.features}"
    if advice.weighed:
        yield f"note: {counted(advice.weighed, 'photograph')} of the pool left out, the study has their labels"
    if advice.doubles:
        yield f"note: {counted(advice.doubles, 'photograph')} of the pool left out, the same files as others of it"
    yield from (f"note: {note}" for note in advice.notes)
    yield from (f"note: left out, {reason}" for reason in advice.unreadable.values())


def render_curve(reading: CurveReading) -> Table:
    """Scores at each size."""
    noun = reading.noun
    view = Table(title="Scores by what a ridge learned from", title_justify="left")
    for name in (f"{noun}s", "photographs", f"of whole {noun}s", f"of all {noun}s"):
        view.add_column(name, justify="right", no_wrap=True)
    for row, size in enumerate(reading.group_S):
        view.add_row(
            f"{size:.1f}",
            f"{reading.image_S[row]:.0f}",
            *(f"{score_RS[:, row].mean():.3f}" for score_RS in (reading.by_groups_RS, reading.by_images_RS)),
        )
    return view


def _common_folder(paths: list[str]) -> str:
    return os.path.commonpath([Path(path).absolute().parent for path in paths])
