"""Ranges of the user's own: a TOML file, or `FAMILY.FIELD=VALUE`, that changes, adds, fixes or conditions fields.

A file has a table for each family and a key for each field. A plain value fixes the field. A table with `uniform`,
`log-uniform`, `integer` or `choice` searches it, under a condition with `when`; ranges_text.py writes examples. A field
that is not named stays as it is. A condition stays where a new range or value names none; `when = {}` takes it away.

Everything is checked against the family's configuration when it is read, and all problems are raised together.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from random import Random
from typing import Any

from biomass_models.config_rules import did_you_mean, types_of
from biomass_models.counted import counted
from biomass_models.errors import UserError
from biomass_models.families import registry
from biomass_models.toml_files import TomlFile, read_toml
from search_spaces.domain import Choice, Domain, Integer, LogUniform, Plain, SearchSpace, Uniform, When
from search_spaces.ranges_text import default_of

SEARCHED = ("uniform", "log-uniform", "integer", "choice")  # keys of a field's table, of which it has one
WHEN, STEP = "when", "step"
GUIDE = "docs/search.md"
TRIED_DRAWS = 300  # random points among which a value must be accepted by the configuration once
_SHOWN = 10  # problems that are listed


class RangesError(UserError):
    """Ranges that cannot be searched; `problems` holds every reason with its place."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        more = len(self.problems) - _SHOWN
        lines = [f"{counted(len(self.problems), 'problem')} in the ranges:"] if len(self.problems) > 1 else []
        super().__init__("\n".join([*lines, *self.problems[:_SHOWN], *([f"and {more} more"] if more > 0 else [])]))


@dataclass(frozen=True, kw_only=True)
class Change:
    """What a user says of one field."""

    family: str
    field: str
    place: str  # where it was said: my.toml:12, or --set
    domain: Plain | None = None  # to search; None: it is fixed
    value: Any = None  # that it is fixed to
    condition: tuple[str, tuple[Any, ...]] | None = None  # field and values; () values: no condition
    says_condition: bool = False  # whether `when` was written; if not, a condition that was there stays
    is_typed: bool = False  # on the command line

    @property
    def values(self) -> tuple[Any, ...]:
        """What the field may be: the value that it is fixed to, or the options of a choice."""
        return self.domain.options if isinstance(self.domain, Choice) else () if self.domain else (self.value,)


# -- reading -----------------------------------------------------------------------------------------------------------


def read_changes(file: Path | None, fixed: Sequence[str] = ()) -> list[Change]:
    """What a file and `FAMILY.FIELD=VALUE` texts say, each field once: what is typed goes over the file.

    Raises RangesError with every problem, TomlError for a file that is no TOML.
    """
    found, problems = {}, list[str]()
    for change in [*(() if file is None else _of_file(file)), *map(_of_text, fixed)]:
        if isinstance(change, str):
            problems.append(change)
        else:
            found[change.family, change.field] = change
    if problems:
        raise RangesError(problems)
    return list(found.values())


def _of_file(path: Path) -> Iterator[Change | str]:
    file = read_toml(path, f'texts stand in quotes, as in transform = "sqrt" ({GUIDE})')
    for family, table in file.content.items():
        place = _place(file, family)
        if not isinstance(table, Mapping):
            yield f"{place}: a field stands below its family, as in [probe]; got {family} = {table!r}; add the heading"
        elif family not in registry.names():
            yield f"{place}: a table is {_families()}; got [{family}]{did_you_mean(family, registry.names())}"
        else:
            config_class = registry.family(family).config_class
            for field, said in table.items():
                yield _change(family, config_class, field, said, _place(file, family, field))


def _of_text(text: str) -> Change | str:
    """FAMILY.FIELD=VALUE."""
    place, (name, equals, value) = f"--set {text}", text.partition("=")
    family, dot, field = (part.strip() for part in name.partition("."))
    if not (equals and dot and field):
        return f"{place}: write it like --set distilled.huber_delta=1.0, got no FAMILY.FIELD=VALUE"
    if family not in registry.names():
        return f"{place}: it names {_families()}; got {family!r}{did_you_mean(family, registry.names())}"
    config_class = registry.family(family).config_class
    found = _change(family, config_class, field, _typed(types_of(config_class).get(field), value.strip()), place)
    return found if isinstance(found, str) else replace(found, is_typed=True)


def _families() -> str:
    return f"one of the families {', '.join(registry.names())}"


def _typed(kind: type | None, text: str) -> Any:
    """A value as typed on a command line, where texts need no quotes."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    if kind is str and not isinstance(value, str):
        return text
    if kind is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    return value


def _change(family: str, config_class: type, field: str, said: Any, place: str) -> Change | str:
    """One field, checked but for the other fields; a text is the problem."""
    names = [one.name for one in fields(config_class)]
    if field not in names:
        hint = did_you_mean(field, names, most=3) or f"; it has {', '.join(names)}"
        return f"{place}: a key is a field of {family}; got {field!r}{hint}"
    name = f"{family}.{field}"
    try:
        if not isinstance(said, Mapping):
            return Change(family=family, field=field, place=place, value=_value(config_class, field, said))
        return Change(
            family=family,
            field=field,
            place=place,
            domain=_domain(config_class, field, said),
            condition=_condition(config_class, said[WHEN]) if WHEN in said else None,
            says_condition=WHEN in said,
        )
    except _Wrong as wrong:
        return f"{place}: {name}: {wrong}"


class _Wrong(UserError):
    """What is wrong with one field."""


def _domain(config_class: type, field: str, said: Mapping[str, Any]) -> Plain:
    for key in said:
        if key not in (*SEARCHED, STEP, WHEN):
            keys = (*SEARCHED, STEP, WHEN)
            raise _Wrong(f"a range has the keys {', '.join(keys)}; got {key!r}{did_you_mean(key, keys)}")
    kinds = [key for key in said if key in SEARCHED]
    if len(kinds) != 1:
        got = ", ".join(kinds) or "none"
        raise _Wrong(f"a range has one of the keys {', '.join(SEARCHED)}; got {got}; a plain value fixes the field")
    kind, given = kinds[0], said[kinds[0]]
    if STEP in said and kind != "integer":
        raise _Wrong(f"a step belongs to an integer range; got one beside {kind}; leave it out")
    if not isinstance(given, list):
        raise _Wrong(f"{kind} is a list, as in {kind} = [1, 2]; got {given!r}")
    values = tuple(_value(config_class, field, value) for value in given)
    try:
        if kind == "choice":
            return Choice(values)
        return _interval(kind, types_of(config_class).get(field), values, said.get(STEP, 1))
    except _Wrong:
        raise
    except ValueError as error:
        raise _Wrong(str(error)) from None


def _interval(kind: str, declared: type | None, values: tuple[Any, ...], step: Any) -> Plain:
    if len(values) != 2:
        raise _Wrong(f"{kind} has a lower and an upper end; got {len(values)} values; write it like {kind} = [1, 2]")
    if declared in (str, bool):
        raise _Wrong(f"it is a {declared.__name__}, which a range cannot be; write it like choice = {list(values)!r}")
    if kind == "integer":
        if declared is float:
            raise _Wrong("it is a real number; write uniform, log-uniform or choice in place of integer")
        if isinstance(step, bool) or not isinstance(step, int):
            raise _Wrong(f"a step is a whole number; got {step!r}")
        return Integer(*values, step)
    if declared is int:
        raise _Wrong(f"it is a whole number; write integer or choice in place of {kind}")
    return (Uniform if kind == "uniform" else LogUniform)(*map(float, values))


def _condition(config_class: type, said: Any) -> tuple[str, tuple[Any, ...]]:
    """Field and values of `when`; ("", ()) where it takes a condition away."""
    if said == {}:
        return "", ()
    if not isinstance(said, Mapping) or len(said) != 1:
        raise _Wrong(f'when names one field, as in when = {{layout = ["halves"]}}; got {said!r}')
    ((field, given),) = said.items()
    names = [one.name for one in fields(config_class)]
    if field not in names:
        raise _Wrong(f"when names a field of the family; got {field!r}{did_you_mean(field, names)}")
    values = given if isinstance(given, list) else [given]
    if not values:
        raise _Wrong("when names one value or more; got none; a plain value fixes the field")
    return field, tuple(_value(config_class, field, value) for value in values)


def _value(config_class: type, field: str, value: Any) -> Any:
    """The value in the field's type: a whole number is fine for a real one. Raises _Wrong."""
    declared = types_of(config_class).get(field)
    if declared is float and type(value) is int:
        value = float(value)
    if declared in (int, float, str, bool) and type(value) is not declared:
        raise _Wrong(f"{field} is of type {declared.__name__}; got {value!r} ({type(value).__name__})")
    if isinstance(value, float) and not math.isfinite(value):
        raise _Wrong(f"{field} is finite; got {value!r}")
    return value


def _place(file: TomlFile, *path: str) -> str:
    line = file.line_of(*path)
    return file.name if line is None else f"{file.name}:{line}"


# -- applying ----------------------------------------------------------------------------------------------------------


def changed_space(space: SearchSpace, changes: Sequence[Change], say: Callable[[str], None]) -> SearchSpace:
    """A space with the changes of its family, its first trials adapted to them; says what was adapted or left out.

    Raises RangesError for a condition on a field that is not searched, and for values that the configuration refuses.
    """
    own = [change for change in changes if change.family == space.family]
    if not own:
        return space
    domains, fixed = dict(space.domains), dict(space.fixed)
    for change in own:
        _apply(change, domains, fixed)
    problems = list(_lost_conditions(own, domains, fixed))
    if problems:
        raise RangesError(problems)
    try:
        plain = replace(space, domains=_ordered(domains), fixed=fixed, first_trials=())
    except ValueError as error:
        raise RangesError([f"{own[0].place}: {error}"]) from None
    if problems := list(_refused_values(plain, own)):
        raise RangesError(problems)
    if (share := _refused_share(plain, own[0].place)) is not None:
        say(share)
    return replace(plain, first_trials=tuple(_adapted_trials(space, plain, say)))


def _apply(change: Change, domains: dict[str, Domain], fixed: dict[str, Any]) -> None:
    name, old = change.field, domains.get(change.field)
    condition = (old.field, old.values) if isinstance(old, When) else None
    if change.says_condition:
        condition = change.condition if change.condition and change.condition[0] else None
    if change.domain is None and condition is None:
        domains.pop(name, None)
        fixed[name] = change.value
        return
    fixed.pop(name, None)
    plain = Choice((change.value,)) if change.domain is None else change.domain
    domains[name] = plain if condition is None else When(*condition, plain)


def _lost_conditions(own: Sequence[Change], domains: Mapping[str, Domain], fixed: Mapping[str, Any]) -> Iterator[str]:
    for change in own:
        domain = domains.get(change.field)
        if isinstance(domain, When) and domain.field not in domains and domain.field not in fixed:
            yield (
                f"{change.place}: {change.family}.{change.field}: a condition is on a field that is searched or fixed; "
                f"got {domain.field}, which is neither; add a line for it"
            )
        elif isinstance(domain, When) and domain.field == change.field:
            yield f"{change.place}: {change.family}.{change.field}: a condition is on another field; got the same"


def _ordered(domains: Mapping[str, Domain]) -> dict[str, Domain]:
    """The domains in their order, each after the field that it depends on. Raises ValueError for a circle."""
    found: dict[str, Domain] = {}
    waiting = dict(domains)
    while waiting:
        ready = next(
            (
                name
                for name, domain in waiting.items()
                if not isinstance(domain, When) or domain.field in found or domain.field not in waiting
            ),
            None,
        )
        if ready is None:
            raise ValueError(f"conditions do not depend on each other in a circle; got {', '.join(waiting)}")
        found[ready] = waiting.pop(ready)
    return found


def _refused_values(space: SearchSpace, own: Sequence[Change]) -> Iterator[str]:
    """Ends and options of the changed fields that the configuration accepts in no random point."""
    for change in own:
        name = change.field
        for value in _tried_values(space, name):
            if reason := _never_accepted(space, name, value):
                yield (
                    f"{change.place}: {space.family}.{name}: the configuration refuses {value!r} at each of "
                    f"{TRIED_DRAWS} random points, last because {reason}"
                )


def _tried_values(space: SearchSpace, name: str) -> tuple[Any, ...]:
    domain = space.domains.get(name)
    domain = domain.domain if isinstance(domain, When) else domain
    match domain:
        case None:
            return (space.fixed[name],)
        case Choice(options):
            return options
        case Integer(low, high, step):
            return low, high - (high - low) % step
        case Uniform(low, high) | LogUniform(low, high):
            return low, high
    return ()


def _never_accepted(space: SearchSpace, name: str, value: Any) -> str | None:
    """The last refusal where no random point with this value is accepted; None where one is, or none has the field."""
    rng, reason = Random(0), None
    given = {} if name in space.fixed else {name: value}
    for _ in range(TRIED_DRAWS):
        params = space.draw(rng, given)
        if name in space.fixed or name in params:
            reason = space.refusal(params)
            if reason is None:
                return None
    return reason


def _refused_share(space: SearchSpace, place: str) -> str | None:
    """A remark where the configuration refuses some of the random points; None where it accepts all."""
    rng = Random(1)
    reasons = [reason for _ in range(TRIED_DRAWS) if (reason := space.refusal(space.draw(rng, {}))) is not None]
    if not reasons:
        return None
    return (
        f"{place}: the configuration refuses {100 * len(reasons) / TRIED_DRAWS:.0f} % of the points of {space.family}, "
        f"which are drawn again ({reasons[0]}); a condition (when) keeps them apart"
    )


def _adapted_trials(old: SearchSpace, new: SearchSpace, say: Callable[[str], None]) -> Iterator[Mapping[str, Any]]:
    """The first trials of the old space at the nearest points of the new one, each once."""
    seen: list[Mapping[str, Any]] = []
    for place, params in enumerate(old.first_trials, start=1):
        found = params if not new.misfits(params) else nearest_point(new, _values(old, params))
        name = f"first trial {place} of {new.family}"
        if found in seen:
            say(f"{name} is left out: within these ranges it is the same as another")
        elif (reason := new.refusal(found)) is not None:
            say(f"{name} is left out: within these ranges the configuration refuses it ({reason})")
        else:
            before, after = _values(old, params), _values(new, found)
            moved = [f"{field}={after[field]}" for field in after if after[field] != before.get(field)]
            if moved:
                say(f"{name} is adapted to these ranges: {', '.join(moved)}")
            seen.append(found)
            yield found


def nearest_point(space: SearchSpace, values: Mapping[str, Any]) -> dict[str, Any]:
    """The point of a space whose fields are nearest to some values of a configuration."""
    params: dict[str, Any] = {}
    for name, domain in space.domains.items():
        if space.is_active(name, params):
            params[name] = _nearest(domain.domain if isinstance(domain, When) else domain, values.get(name, MISSING))
    return params


def _values(space: SearchSpace, params: Mapping[str, Any]) -> dict[str, Any]:
    """Every field of a point's configuration, without building it."""
    names = (one.name for one in fields(space.config_class))
    return {**{name: default_of(space, name) for name in names}, **space.fixed, **params}


def _nearest(domain: Plain, value: Any) -> Any:
    if domain.contains(value):
        return value
    number = isinstance(value, int | float) and not isinstance(value, bool)
    match domain:
        case Choice(options):
            near = [one for one in options if isinstance(one, int | float) and not isinstance(one, bool)]
            return min(near, key=lambda one: abs(one - value)) if number and near else options[0]
        case Integer(low, high, step):
            steps = round((min(max(value, low), high) - low) / step) if number else 0
            return low + step * min(steps, (high - low) // step)
        case Uniform(low, high) | LogUniform(low, high):
            return min(max(float(value), low), high) if number else low
