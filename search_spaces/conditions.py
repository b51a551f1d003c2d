"""Conditions where ranges change: what depends on a changed field is drawn wherever it does something, and what is
drawn nowhere any more is named.

What a condition means is in a family's NEEDS (needs.py). Where it has none for a field, the condition stays as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, replace
from random import Random
from typing import Any

from search_spaces.domain import Choice, Domain, LogUniform, Plain, SearchSpace, Uniform, When
from search_spaces.finite import values_of
from search_spaces.needs import Needs
from search_spaces.range_files import Change
from search_spaces.ranges_text import alternatives, default_of, domain_text
from search_spaces.spaces import needs_of

ACCEPTED_DRAWS = 50  # random points among which a value of another field must be accepted by the configuration once


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What a change does to a field that depends on the changed one."""

    field: str
    cause: str  # the field that was changed
    text: str  # where it is searched now
    is_apart: bool  # the range is as it was, and does not show it


def plain_domain(space: SearchSpace, name: str) -> Plain | None:
    """A field's domain without its condition; one of a single value where it is fixed or stays at its default, None
    where it has no default."""
    domain = space.domains.get(name)
    if domain is not None:
        return domain.domain if isinstance(domain, When) else domain
    value = space.fixed[name] if name in space.fixed else default_of(space, name)
    return None if value is MISSING else Choice((value,))


def values_in(space: SearchSpace, name: str) -> Sequence[Any] | None:
    """The values that a field may have; None where they are endless. One that is never drawn has its default."""
    domain = plain_domain(space, name)
    if name in space.domains and not can_be_drawn(space, name):
        return (default_of(space, name),)
    return () if domain is None else values_of(domain)


def can_be_drawn(space: SearchSpace, name: str) -> bool:
    """Whether the conditions of a field hold anywhere. No point of a range of real numbers counts: it is never hit."""
    domain = space.domains.get(name)
    if not isinstance(domain, When):
        return True
    on = plain_domain(space, domain.field)
    if on is None or (isinstance(on, Uniform | LogUniform) and on.low < on.high):
        return False
    return any(map(on.contains, domain.values)) and can_be_drawn(space, domain.field)


def range_text(space: SearchSpace, name: str) -> str:
    """The range of a field that is searched in a few words, and why it is never drawn where that is so."""
    domain = space.domains[name]
    if not isinstance(domain, When) or not domain.values or can_be_drawn(space, name):
        return domain_text(domain)
    return f"never drawn, as {got_text(space, domain.field)}"


def condition_text(domain: When, needs: Needs | None) -> str:
    """When a field is drawn."""
    if needs is not None and needs.field == domain.field:
        return f"used while {needs}"
    return f"drawn while {domain.field} = {alternatives(domain.values)}"


def got_text(space: SearchSpace, name: str) -> str:
    """What a field is that another one depends on."""
    domain, values = plain_domain(space, name), values_in(space, name)
    if name in space.domains and not can_be_drawn(space, name):
        return f"{name} is not drawn"
    if values is not None and len(values) == 1:
        return f"{name} is {alternatives(tuple(values))} alone"
    return f"{name} is {'nothing' if domain is None else domain_text(domain)}"


def ordered(domains: Mapping[str, Domain]) -> dict[str, Domain]:
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


# -- what follows a change ---------------------------------------------------------------------------------------------


def follow_changes(before: SearchSpace, now: SearchSpace, own: Mapping[str, Change]) -> SearchSpace:
    """The changed space, whose fields are drawn wherever they do something under the values that others have now.

    own: the changes by field; a condition that one of them states stays, as long as it can hold.
    """
    for name, needs in needs_of(before.family).items():
        domain = _following(before, now, name, needs, own.get(name))
        if domain is not None:
            fixed = {field: value for field, value in now.fixed.items() if field != name}
            now = replace(now, domains=ordered({**now.domains, name: domain}), fixed=fixed)
    return now


def _following(before: SearchSpace, now: SearchSpace, name: str, needs: Needs, change: Change | None) -> Domain | None:
    """The domain that a field has under its needs; None where it stays as it is."""
    if name not in now.domains and change is None:  # neither searched nor named
        return None
    current = now.domains.get(name) or Choice((now.fixed[name],))
    stated = change is not None and change.says_condition
    outlived = change is not None and condition_is_outlived(now, change)
    is_new = change is not None and name not in before.domains and name not in before.fixed
    other = isinstance(current, When) and current.field != needs.field  # a condition of the user's own
    if other or (stated and not outlived) or not (outlived or is_new or _differs(before, now, needs.field)):
        return None
    inner = current.domain if isinstance(current, When) else current
    values = values_in(now, needs.field)
    if values is None:  # of a range of real numbers none is ever hit
        return inner if needs.other_than and isinstance(current, When) else None
    kept, known = (current.values, values_in(before, needs.field) or ()) if isinstance(current, When) else (values, ())
    on = tuple(value for value in values if needs.holds(value) and (outlived or value in kept or value not in known))
    if not on:
        searched = needs.field in now.domains or needs.field in now.fixed
        return When(needs.field, (), inner) if searched and not isinstance(current, When) and not is_new else None
    if isinstance(current, When):
        return None if set(on) <= set(kept) else When(needs.field, on, inner)
    return None if len(on) == len(values) else When(needs.field, on, inner)


def _differs(before: SearchSpace, now: SearchSpace, name: str) -> bool:
    return before.domains.get(name) != now.domains.get(name) or before.fixed.get(name) != now.fixed.get(name)


def condition_is_outlived(now: SearchSpace, change: Change) -> bool:
    """Whether a stated condition has the meaning of the family's own, and names values that the other field had: a
    file that was written before that field was changed."""
    needs = needs_of(now.family).get(change.field)
    if change.condition is None or needs is None or change.condition[0] != needs.field or needs.one_of:
        return False
    said, values = change.condition[1], values_in(now, needs.field)
    if not all(map(needs.holds, said)) or (values is not None and set(said) & set(values)):
        return False
    return all(_accepts(now, needs.field, value) for value in said)


def _accepts(space: SearchSpace, name: str, value: Any) -> bool:
    """Whether the configuration accepts a value of a field at some random point."""
    domains = {name: Choice((value,)), **{field: one for field, one in space.domains.items() if field != name}}
    fixed = {field: one for field, one in space.fixed.items() if field != name}
    rng, alone = Random(0), replace(space, domains=ordered(domains), fixed=fixed, first_trials=())
    return any(alone.refusal(alone.draw(rng, {})) is None for _ in range(ACCEPTED_DRAWS))


def does_nothing(space: SearchSpace, name: str) -> str | None:
    """Why a field that is searched or fixed is of no use in these ranges; None where it is of some."""
    needs = needs_of(space.family).get(name)
    if needs is None:
        return None
    values = values_in(space, needs.field)
    elsewhere = isinstance(space.domains.get(needs.field), When) and needs.holds(default_of(space, needs.field))
    if values is None or elsewhere or any(map(needs.holds, values)):
        return None
    return f"{condition_text(When(needs.field, (), Choice((0,))), needs)}, and {got_text(space, needs.field)}"


def effects(before: SearchSpace, now: SearchSpace, changed: Collection[str]) -> list[Effect]:
    """What the changes do to other fields: searched elsewhere, only in part, or nowhere any more."""
    found = []
    for name in now.domains:
        cause = _cause(before, now, name, changed) if name in before.domains else None
        if cause is not None and (effect := _effect(before, now, name, cause)) is not None:
            found.append(effect)
    return found


def effect_lines(family: str, found: Sequence[Effect]) -> list[str]:
    """A line for the fields of which the same is to be said."""
    fields: dict[tuple[str, str], list[str]] = {}
    for effect in found:
        fields.setdefault((effect.cause, effect.text), []).append(effect.field)
    return [f"{family}: {', '.join(names)} with {cause}: {text}" for (cause, text), names in fields.items()]


def _effect(before: SearchSpace, now: SearchSpace, name: str, cause: str) -> Effect | None:
    domain, needs = now.domains[name], needs_of(now.family).get(name)
    if isinstance(domain, When) and not can_be_drawn(now, name):
        if not can_be_drawn(before, name):
            return None
        text = f"not searched any more: {condition_text(domain, needs)}, and {got_text(now, domain.field)}"
        add = "; add a line for each to search it" if needs is None else ""
        return Effect(field=name, cause=cause, text=f"{text}{add}", is_apart=True)
    if domain != before.domains[name]:
        where = f"when {domain.field} = {alternatives(domain.values)}" if isinstance(domain, When) else "everywhere"
        return Effect(field=name, cause=cause, text=f"searched {where}", is_apart=False)
    if isinstance(domain, When) and not can_be_drawn(before, name):
        text = f"searched again when {domain.field} = {alternatives(domain.values)}"
        return Effect(field=name, cause=cause, text=text, is_apart=True)
    if isinstance(domain, When) and (unused := tuple(_new_values_without(before, now, domain, needs))):
        text = f"not searched where {domain.field} = {alternatives(unused)}; add a line for each to search it there"
        return Effect(field=name, cause=cause, text=text, is_apart=True)
    return None


def _new_values_without(before: SearchSpace, now: SearchSpace, domain: When, needs: Needs | None) -> Iterator[Any]:
    """Values that the other field has since the change, with which a field may do something and is not drawn."""
    known = values_in(before, domain.field) or ()
    for value in values_in(now, domain.field) or ():
        if value not in known and value not in domain.values and (needs is None or needs.holds(value)):
            yield value


def _cause(before: SearchSpace, now: SearchSpace, name: str, changed: Collection[str]) -> str | None:
    """The changed field on which another one depends, then or now; None where none is."""
    fields = {one.field for space in (before, now) if isinstance(one := space.domains.get(name), When)}
    if (needs := needs_of(now.family).get(name)) is not None:
        fields.add(needs.field)
    for field in sorted(fields):
        if field in changed and _differs(before, now, field):
            return field
        if (further := _cause(before, now, field, changed)) is not None:
            return further
    return None
