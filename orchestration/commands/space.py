"""The command that shows what is searched, and writes it as a file that can be changed and given back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from orchestration.commands import complete
from orchestration.commands.fields import preset_options
from orchestration.commands.options import Json, out_console, print_json, print_line
from orchestration.search.presets.named import overridden

if TYPE_CHECKING:
    from orchestration.study.records import OwnRange
    from search_spaces.domain import SearchSpace


@preset_options("backbones", "scale", "space", "set_")
def space(
    family: Annotated[
        list[str] | None,
        typer.Argument(metavar="FAMILY", help="Families; without one all of them.", autocompletion=complete.families),
    ] = None,
    study: Annotated[str | None, typer.Option(help="Study whose own ranges are shown.")] = None,
    as_toml: Annotated[bool, typer.Option("--toml", help="As a file for biomass search --space.")] = False,
    as_json: Json = False,
    **typed: Any,
) -> None:
    """What is searched of a family: ranges, defaults and reasons.

    Without --scale the ranges of a machine without GPUs (cpu). --space and
    --set show what they would change. A file names its scale: a search of
    another one refuses it.

    Examples:
    $ biomass space distilled --scale gpu
    $ biomass space distilled --toml > my.toml
    $ biomass space --study runs/first --toml
    """
    found = _spaces(family or [], study, typed)
    if as_json:
        print_json({"families": {name: document(one, found.own_of(name)) for name, one in found.by_family.items()}})
    elif as_toml:
        print_line(toml_text(found.by_family, found.scale))
    else:
        for name, one in found.by_family.items():
            out_console.print(render_space(one, found.own_of(name)))
        print_line(how_to_change(family or [], study, found.scale, typed))


@dataclass(frozen=True, kw_only=True)
class AskedSpaces:
    """The ranges that are asked for."""

    by_family: Mapping[str, SearchSpace]
    scale: str
    own: Sequence[OwnRange]  # what of them is the user's

    def own_of(self, family: str) -> dict[str, str]:
        """Where the user has changed a field, by field."""
        return {note.field: note.place for note in self.own if note.family == family}


def _spaces(families: list[str], study: str | None, typed: Mapping[str, Any]) -> AskedSpaces:
    from biomass_models.families import registry
    from orchestration.commands.options import print_remark
    from orchestration.study.spaces import stored_spaces, with_changes
    from search_spaces.range_files import read_changes
    from search_spaces.spaces import DEFAULT_BACKBONES, space_of

    backbones: Sequence[str] | None
    before: Sequence[OwnRange] = ()
    if study is not None:
        if typed["scale"] or typed["backbones"]:
            raise typer.BadParameter("a study has a scale and backbones of its own; leave --scale and --backbone out")
        from orchestration.study.ledger import open_ledger

        record = open_ledger(study).study()
        spaces, to_add, scale = stored_spaces(record, families), None, record.settings.scale
        backbones, before = record.settings.backbones, record.own_ranges
    else:
        chosen = overridden(None, typed)[0].study
        scale = "cpu" if chosen.scale == "auto" else chosen.scale
        names = families or list(registry.BUILT_IN)
        spaces = {name: space_of(name, chosen.backbones or DEFAULT_BACKBONES, scale) for name in names}
        backbones = chosen.backbones or None
        to_add = f"show it as well: biomass space {' '.join(names)}"
    changes = read_changes(typed["space"], typed["set_"] or ())
    found, notes = with_changes(spaces, changes, backbones, print_remark, scale=scale, to_add=to_add)
    return AskedSpaces(by_family=found, scale=scale, own=(*before, *notes))


def how_to_change(families: Sequence[str], study: str | None, scale: str, typed: Mapping[str, Any]) -> str:
    """The commands for just these ranges: a file of other ones would be searched in their place."""
    import shlex

    backbones = [word for name in typed["backbones"] or () for word in ("--backbone", name)]
    if study is not None:
        of_space, of_search = ["--study", study], [study]
    else:
        of_space, of_search = ["--scale", scale, *backbones], ["--scale", scale, *backbones]
    lines = (
        f"{shlex.join(['biomass', 'space', *families, *of_space, '--toml'])} > my.toml",
        shlex.join(["biomass", "search", *of_search, "--space", "my.toml"]),
    )
    return "\n  ".join(("To change them:", *lines))


def toml_text(spaces: Mapping[str, SearchSpace], scale: str) -> str:
    """A file of ranges, with the rules in a remark and the scale that they are of."""
    from biomass_models.toml_files import toml_value
    from search_spaces.range_files import SCALE
    from search_spaces.ranges_text import HOW, space_toml

    of_scale = f"{SCALE} = {toml_value(scale)}  # a search of another one refuses the file\n"
    return "\n".join([f"{HOW}{of_scale}", *(space_toml(one) for one in spaces.values())]).rstrip("\n")


@dataclass(frozen=True, kw_only=True)
class FieldRow:
    """A field of a family as it is listed."""

    name: str
    range: str | None  # None: it is fixed
    fixed: Any  # value of one that is fixed
    default: Any  # None: the family has none
    about: str  # what it is
    reason: str  # why the range is as it is; empty for one of the user's
    own: str | None  # where the user has changed it


def field_rows(space: SearchSpace, own: Mapping[str, str]) -> list[FieldRow]:
    """The fields that are searched or fixed, then those that stay as they are by default.

    own: where the user has changed a field, by field.
    """
    from biomass_models.families.field_notes import field_notes
    from search_spaces.conditions import range_text
    from search_spaces.ranges_text import default_of
    from search_spaces.spaces import reasons_of

    notes, reasons = field_notes(space.config_class), reasons_of(space.family)
    named = [*space.domains, *space.fixed]
    others = [one.name for one in fields(space.config_class) if one.name not in named]
    rows = []
    for name in (*named, *others):
        default = default_of(space, name)
        rows.append(
            FieldRow(
                name=name,
                range=range_text(space, name) if name in space.domains else None,
                fixed=space.fixed.get(name, None if name in space.domains else default),
                default=None if default is MISSING else default,
                about=notes.get(name, ""),
                reason="" if name in own else reasons.get(name, ""),
                own=own.get(name),
            )
        )
    return rows


def document(space: SearchSpace, own: Mapping[str, str]) -> dict[str, Any]:
    """A space for programs."""
    return {"fields": field_rows(space, own), **space.to_json()}


def render_space(space: SearchSpace, own: Mapping[str, str]) -> Table:
    """As a terminal table of at most 80 columns."""
    view = Table(title=f"What is searched of {space.family}", title_justify="left", width=80)
    view.add_column("field", no_wrap=True)
    view.add_column("range (default)", ratio=4, overflow="fold")
    view.add_column("what it is; why this range", ratio=5, overflow="fold")
    for row in field_rows(space, own):
        default = "" if row.default is None else f" ({shown(row.default)})"
        searched = f"fixed: {shown(row.fixed)}" if row.range is None else row.range
        why = row.reason if row.own is None else f"yours: {row.own}"
        about = "; ".join(filter(None, (row.about, why)))
        view.add_row(row.name, f"{searched}{default}", about, style=None if row.range is not None else "dim")
    return view


def shown(value: Any) -> str:
    return '""' if value == "" else f"{value}"
