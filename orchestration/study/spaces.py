"""The ranges that a study draws from: resolved when it is made, stored with it, and read by whoever shows them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from biomass_models.config_rules import did_you_mean
from biomass_models.counted import counted
from biomass_models.errors import UserError
from biomass_models.families import registry
from biomass_models.families.introduced import introduced
from orchestration.study.records import OwnRange, Params, StudyRecord
from orchestration.study.settings import StudyError, StudySettings
from search_spaces.conditions import effects
from search_spaces.domain import Choice, SearchSpace
from search_spaces.own_ranges import changed_space
from search_spaces.range_files import Change, RangesError
from search_spaces.ranges_text import field_toml
from search_spaces.spaces import space_of

BACKBONE = "backbone"
ADD_FAMILY = "add --family"  # to a search that makes a study


def spaces_of(settings: StudySettings) -> dict[str, SearchSpace]:
    """This version's ranges of each family, for a new study."""
    return {family: space_of(family, settings.backbones, settings.scale) for family in settings.families}


def stored_space(record: StudyRecord, family: str) -> SearchSpace | None:
    """A family's ranges in a study; None where this version does not know the family, or cannot hold its ranges.

    A study of 0.1.0 stored none: it goes on with today's, and with the defaults that it was begun with.
    """
    try:
        config_class = registry.family(family).config_class
    except UserError:
        return None
    try:
        stored = record.spaces.get(family)
        if stored is None:
            stored = {**space_of(family, record.settings.backbones, record.settings.scale).to_json(), "defaults": {}}
        return SearchSpace.from_json(family, config_class, _with_defaults(family, config_class, stored))
    except ValueError:
        return None


def stored_spaces(record: StudyRecord, families: Sequence[str] = ()) -> dict[str, SearchSpace]:
    """The ranges of a study's families, or of those that are named. Raises StudyError for one that the study has not,
    or that this version cannot read."""
    found = {}
    for family in families or record.settings.families:
        space = stored_space(record, family) if family in record.settings.families else None
        if space is None:
            raise StudyError(
                f"the study searches {', '.join(record.settings.families)}, got {family}"
                f"{did_you_mean(family, record.settings.families)}; name one that this version knows"
            )
        found[family] = space
    return found


def open_spaces(record: StudyRecord, say: Callable[[str], None]) -> dict[str, SearchSpace]:
    """The ranges of each of a study's families that this version can go on with; a remark names the others.

    Raises StudyError where none is left.
    """
    found = {}
    for family in record.settings.families:
        if (space := stored_space(record, family)) is not None:
            found[family] = space
        else:
            say(
                f"Family {family} cannot be searched by this version (install what brings it, or upgrade); its trials "
                "stay as they are, the others go on"
            )
    if not found:
        raise StudyError(
            f"a search needs a family that this version knows, got {', '.join(record.settings.families)}; install "
            "the package that brings one of them"
        )
    return found


def with_changes(
    spaces: Mapping[str, SearchSpace],
    changes: Sequence[Change],
    backbones: Sequence[str] | None,
    say: Callable[[str], None],
    *,
    scale: str | None = None,
    to_add: str | None = None,
    trials: int = 0,
) -> tuple[dict[str, SearchSpace], tuple[OwnRange, ...]]:
    """Ranges by family with what the user has changed, and a note of each change that is one, or follows from one.

    backbones, scale: of the study, None: not known yet; to_add: how a family joins these, up to its name, None: it
    cannot; trials: that the study has. Raises RangesError for a typed change of a family that is not among these, for a
    backbone that the study has not or that has a condition, a file of another scale, and as `changed_space` does.
    """
    _check_scale(changes, scale)
    _check_families(spaces, changes, say, to_add)
    changes = [_with_full_backbones(change, backbones) for change in changes]
    found = {family: changed_space(space, changes, say) for family, space in spaces.items()}
    noted = {
        (change.family, change.field): (change.place, field_toml(found[change.family], change.field))
        for change in changes
        if change.family in spaces
    }
    for family, space in spaces.items():
        for effect in effects(space, found[family], {field for name, field in noted if name == family}):
            remark = f"  # {effect.text}" if effect.is_apart else ""
            now = f"{field_toml(found[family], effect.field)}{remark}"
            noted.setdefault((family, effect.field), (noted[family, effect.cause][0], now))
    at = time.time()
    notes = (
        OwnRange(
            family=family,
            field=field,
            before=field_toml(spaces[family], field),
            now=now,
            place=place,
            at=at,
            trials=trials,
        )
        for (family, field), (place, now) in noted.items()
    )
    return found, tuple(note for note in notes if note.before != note.now)


def _check_scale(changes: Sequence[Change], scale: str | None) -> None:
    """RangesError for a file that was written from the ranges of another scale."""
    of_scale = next((change.of_scale for change in changes if change.of_scale is not None), None)
    if of_scale is not None and scale is not None and of_scale[0] != scale:
        own, place = of_scale
        raise RangesError(
            [
                f"{place}: the file has the ranges of --scale {own}, the search is of --scale {scale}; search a new "
                f"study with --scale {own}, or take that line out"
            ]
        )


def _check_families(
    spaces: Mapping[str, SearchSpace], changes: Sequence[Change], say: Callable[[str], None], to_add: str | None
) -> None:
    """A line for each family of a file that is not searched; RangesError for a typed one."""
    unused: dict[str, list[Change]] = {}
    for change in changes:
        if change.family in spaces:
            continue
        if change.is_typed:
            more = "" if to_add is None else f", or {to_add} {change.family}"
            rule = f"{change.place}: a range is of a family that is searched, {', '.join(spaces)}"
            raise RangesError([f"{rule}; got {change.family}; leave it out{more}"])
        unused.setdefault(change.family, []).append(change)
    for family, those in unused.items():
        of = counted(len(those), f"range of {family} is", f"ranges of {family} are")
        say(f"{those[0].place}: {of} not used; searched: {', '.join(spaces)}")


def _with_full_backbones(change: Change, backbones: Sequence[str] | None) -> Change:
    """The change with the study's names of backbones: a name without its tag is that of the study's one with a tag."""

    def full(name: Any) -> Any:
        alike = [one for one in backbones or () if one.partition(".")[0] == name]
        return alike[0] if name not in (backbones or ()) and len(alike) == 1 else name

    condition = change.condition
    if condition is not None and condition[0] == BACKBONE:
        change = replace(change, condition=(BACKBONE, tuple(map(full, condition[1]))))
    if change.field != BACKBONE:
        return change
    if condition is not None and condition[0]:
        rule = f"{change.place}: a backbone is part of each trial, and has no condition"
        raise RangesError(
            [f"{rule}; got when {condition[0]}; leave when out, or give {condition[0]} a condition on backbone"]
        )
    if isinstance(change.domain, Choice):
        change = replace(change, domain=Choice(tuple(dict.fromkeys(map(full, change.domain.options)))))
    elif change.domain is None:
        change = replace(change, value=full(change.value))
    if backbones is not None and (strange := sorted(set(change.values) - set(backbones))):
        rule = f"{change.place}: a backbone is one of the study's, {', '.join(backbones)}"
        raise RangesError([f"{rule}; got {', '.join(strange)}; name it with --backbone when a study is made"])
    return change


def to_json(spaces: dict[str, SearchSpace]) -> dict[str, Params]:
    return {family: space.to_json() for family, space in spaces.items()}


def _with_defaults(family: str, config_class: type, stored: Params) -> Params:
    """A field that is newer than the ranges has its default at introduction; one that went from there is left out."""
    first, known = introduced(family), {one.name for one in fields(config_class)}
    defaults = {**first, **stored.get("defaults", {})}
    gone = {name for name in defaults if name not in known and defaults[name] == first.get(name)}
    return {**stored, "defaults": {name: value for name, value in defaults.items() if name not in gone}}
