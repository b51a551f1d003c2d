"""The command that lists presets, and how they are shown."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any

import typer
from rich.table import Table

from biomass_models.counted import counted
from biomass_models.families import registry
from orchestration.commands import complete
from orchestration.commands.options import Json, out_console, print_json, print_line
from orchestration.old_names import COMMANDS, old_fields
from orchestration.search.presets.named import PRESETS, preset_named
from orchestration.search.presets.options import NOTED, Drawing, Preset

DRAWN = tuple(one.name for one in fields(Drawing))


def presets(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Preset to show whole.", autocompletion=complete.presets)
    ] = None,
    as_json: Json = False,
) -> None:
    """List the named studies, or show one with its command, cost and outcome.

    Any setting can be overridden: an option of `biomass search` wins over the
    preset's.

    Examples:
    $ biomass presets
    $ biomass presets cpu_overnight
    $ biomass search runs/first --data csiro-biomass/ --preset cpu_overnight
    """
    if name is not None:
        preset_named(name)
    rows = [PresetRow.of(each) for each in PRESETS if name in (None, each)]
    if as_json:
        print_json(document(rows, old=context.info_name in COMMANDS))
    elif name is None:
        out_console.print(render_presets(rows))
        print_line("biomass presets NAME shows command, cost and what to expect.")
    else:
        print_line(render_preset(rows[0]))


@dataclass(frozen=True, kw_only=True)
class PresetRow:
    """A preset as it is listed."""

    name: str
    summary: str  # first line of its docstring
    about: str  # the rest: command, cost, what to expect
    preset: Preset

    @classmethod
    def of(cls, name: str) -> PresetRow:
        summary, _, about = (inspect.getdoc(PRESETS[name]) or "").partition("\n\n")
        return cls(name=name, summary=summary, about=about, preset=PRESETS[name]())


def settings_of(preset: Preset) -> dict[str, Any]:
    """What a study of a preset is made with, by field; None: not set."""
    values = {name: value for name, value in preset.values().items() if name in NOTED}
    drawn = dict.fromkeys(DRAWN) if preset.drawing is None else asdict(preset.drawing)
    return {**values, **drawn}


def document(rows: Sequence[PresetRow], *, old: bool) -> Mapping[str, Any]:
    """The JSON document. old: under the names that it had while the command was called `recipes`."""
    found = [
        {
            "name": row.name,
            "summary": row.summary,
            "about": row.about,
            "settings": old_fields(settings_of(row.preset)) if old else settings_of(row.preset),
        }
        for row in rows
    ]
    return {"recipes" if old else "presets": found}


def render_presets(rows: Sequence[PresetRow]) -> Table:
    """As a terminal table of at most 80 columns."""
    view = Table(title="Presets", title_justify="left", width=80, show_lines=True)
    for column in ("name", "what it searches", "budget", "a slot"):
        view.add_column(column, no_wrap=column != "what it searches")
    for row in rows:
        study, budget, slot = row.preset.study, row.preset.budget, row.preset.resources
        families = "all" if set(study.families) == set(registry.BUILT_IN) else ", ".join(study.families)
        backbones = ", ".join(study.backbones) or "the default ones that are here"
        searched = [row.summary, f"families: {families}", f"backbones: {backbones}"]
        most = [counted(budget.trials, "trial") if budget.trials else "", f"{budget.hours:g} h" if budget.hours else ""]
        a_slot = [f"{slot.gpus_per_fold:g} GPU" if slot.gpus_per_fold else "", f"{slot.cpus_per_fold:g} CPU"]
        a_slot.append(f"at most {slot.slots}" if slot.slots else "")
        view.add_row(row.name, *("\n".join(filter(None, cell)) for cell in (searched, most, a_slot)))
    return view


def render_preset(row: PresetRow) -> str:
    """The docstring, and every setting that is not the plain search's."""
    plain = settings_of(Preset())
    own = {field: value for field, value in settings_of(row.preset).items() if value != plain[field]}
    under = ",\n" + " " * 20  # a list has a line for each item
    shown = {field: under.join(value) if isinstance(value, tuple) else value for field, value in own.items()}
    lines = [f"  {field:<17} {value}" for field, value in shown.items()]
    return "\n".join([row.name, row.summary, "", row.about, "", "Settings, where it has its own:", *lines])
