"""Ranges of the user's own (range_files.py reads them) put over a family's, and checked against its configuration.

A condition stays where a new range or value names none; conditions.py has what follows where the field that it is on
changes. All problems are raised together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, replace
from random import Random
from typing import Any

from biomass_models.config_rules import did_you_mean
from search_spaces.conditions import (
    can_be_drawn,
    condition_is_outlived,
    condition_text,
    does_nothing,
    effect_lines,
    effects,
    follow_changes,
    got_text,
    ordered,
    plain_domain,
)
from search_spaces.domain import Choice, Domain, Integer, LogUniform, SearchSpace, Uniform, When
from search_spaces.nearest import origin_lines, origins_of, with_origins
from search_spaces.range_files import Change, RangesError
from search_spaces.ranges_text import domain_text
from search_spaces.spaces import needs_of

TRIED_DRAWS = 300  # random points among which a value must be accepted by the configuration once


def changed_space(space: SearchSpace, changes: Sequence[Change], say: Callable[[str], None]) -> SearchSpace:
    """A space with the changes of its family, its first trials adapted to them; says what was adapted or left out.

    Raises RangesError for a condition on a field that is not searched, and for values that the configuration refuses.
    """
    own = [change for change in changes if change.family == space.family]
    if not own:
        return space
    try:
        plain = _with(space, own)
    except RangesError:
        raise
    except ValueError as error:
        raise RangesError([f"{own[0].place}: {error}"]) from None
    if problems := list(_refused_values(space, plain, own)):
        raise RangesError(problems)
    for line in effect_lines(space.family, effects(space, plain, {change.field for change in own})):
        say(line)
    if (share := _refused_share(plain, own[0].place)) is not None:
        say(share)
    found, before = with_origins(plain, origins_of(space), space.first_trials), set(origin_lines(space))
    for line in origin_lines(found):
        if line not in before:
            say(line)
    return found


def _with(space: SearchSpace, changes: Sequence[Change]) -> SearchSpace:
    """The space with these changes, without first trials. Raises RangesError for conditions that cannot hold, and
    ValueError for what is no space."""
    domains, fixed = dict(space.domains), dict(space.fixed)
    for change in changes:
        _apply(change, domains, fixed)
    if problems := list(_lost_conditions(changes, domains, fixed)):
        raise RangesError(problems)
    found = replace(space, domains=ordered(domains), fixed=fixed, first_trials=(), origins=())
    found = follow_changes(space, found, {change.field: change for change in changes})
    problems = [
        f"{change.place}: {change.family}.{change.field}: {problem}"
        for change in changes
        if _is_another(space, found, change.field)  # what stays as it was is not at fault: changed_space names it
        and (problem := _wrong_condition(change, space, found) or _never_used(found, change.field)) is not None
    ]
    if problems:
        raise RangesError(problems)
    return found


def _is_another(before: SearchSpace, now: SearchSpace, name: str) -> bool:
    fixed = now.fixed.get(name, MISSING), before.fixed.get(name, MISSING)
    return now.domains.get(name) != before.domains.get(name) or fixed[0] != fixed[1]


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


def _wrong_condition(change: Change, before: SearchSpace, now: SearchSpace) -> str | None:
    """What is wrong with the values of a condition that the user has written; None where nothing is.

    A value that the other field could have before is fine: a file stays right where --set fixes that field. So is one
    that the condition had before: ranges that were printed can be given back.
    """
    if change.condition is None or not change.condition[0]:
        return None
    if condition_is_outlived(now, change):
        return None
    field, values = change.condition
    domain, old = plain_domain(now, field), before.domains.get(change.field)
    known = old.values if isinstance(old, When) and old.field == field else ()
    if isinstance(domain, Uniform | LogUniform) and domain.low < domain.high:
        return (
            f"a condition is on a field of single values; got {field}, which is {domain_text(domain)}; give {field} a "
            "choice, or leave when out"
        )
    for value in values:
        can_be = any(one is not None and one.contains(value) for one in (domain, plain_domain(before, field)))
        if not can_be and value not in known:
            texts = [str(one) for one in domain.options] if isinstance(domain, Choice) else []
            hint = did_you_mean(value, texts) or "; leave it out, or give that field a wider range"
            can = "nothing" if domain is None else domain_text(domain)
            return f"a value of when is one that {field} can have, {can}; got {value!r}{hint}"
    return None


def _never_used(space: SearchSpace, name: str) -> str | None:
    """Why a field is drawn in no point of the space, or does nothing in any; None where it is of use."""
    if reason := does_nothing(space, name):
        on = needs_of(space.family)[name]
        change = f"set {on}" if on.one_of else f"give {on.field} another value"
        return f"it would never be used: it is {reason}; {change} as well, or leave it out"
    domain = space.domains.get(name)
    if not isinstance(domain, When) or can_be_drawn(space, name):
        return None
    return (
        f"it would never be used: it is {condition_text(domain, None)}, and {got_text(space, domain.field)}; change "
        f"{domain.field}, or take the condition away in a file of --space (when = {{}})"
    )


def _refused_values(before: SearchSpace, now: SearchSpace, own: Sequence[Change]) -> list[str]:
    """Ends and options of the changed fields that the configuration accepts in no random point.

    One bad value has every point refused: those that are refused without the other changes as well are at fault, and
    where there is none, all of them together.
    """
    together = {change.field: problems for change in own if (problems := list(_refused_of(now, change)))}
    alone = [
        problem
        for change in own
        if change.field in together
        for problem in _refused_of(_with(before, _with_conditions(change, own, now)), change)
    ]
    return alone or [problem for problems in together.values() for problem in problems]


def _with_conditions(change: Change, own: Sequence[Change], now: SearchSpace) -> list[Change]:
    """The change, and those of the fields that it depends on."""
    found, waiting, needs = [change], [change.field], needs_of(now.family)
    while waiting:
        name = waiting.pop()
        domain = now.domains.get(name)
        on = {domain.field} if isinstance(domain, When) else set[str]()
        on |= {needs[name].field} if name in needs else set()
        more = [one for one in own if one.field in on and one not in found]
        found, waiting = found + more, waiting + [one.field for one in more]
    return found


def _refused_of(space: SearchSpace, change: Change) -> Iterator[str]:
    for value in _tried_values(space, change.field):
        if reason := _never_accepted(space, change.field, value):
            yield (
                f"{change.place}: {space.family}.{change.field}: the configuration refuses {value!r} at each of "
                f"{TRIED_DRAWS} random points, last because {reason}"
            )


def _tried_values(space: SearchSpace, name: str) -> tuple[Any, ...]:
    match plain_domain(space, name):
        case Choice(options):
            return options
        case Integer() as whole:
            return whole.low, whole.last
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
