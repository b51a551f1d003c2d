"""Ranges as people read them, and as a TOML file that can be changed and given back (range_files.py reads it).

[distilled]
head_lr = {log-uniform = [5e-05, 0.003]}
dropout = {uniform = [0.0, 0.6]}
epochs = {integer = [10, 40], step = 5}
size = {choice = [224, 336]}
local_size = {choice = [224], when = {layout = ["corners4", "halves"]}}
flips = 4
"""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any

from biomass_models.toml_files import toml_key, toml_value
from search_spaces.domain import KINDS, Choice, Domain, Integer, LogUniform, SearchSpace, Uniform, When

HOW = """\
# Ranges for biomass search --space FILE. A line that is taken out stays as it is.
#   field = {uniform = [0.0, 0.6]}                  a real number
#   field = {log-uniform = [1e-4, 1e-2]}            a real number, every factor alike
#   field = {integer = [10, 40], step = 5}          a whole number
#   field = {choice = [224, 336]}                   one of several values
#   field = {choice = [3], when = {layout = ["halves"]}}    only while another field has one of these values
#   field = 0.3                                     fixed
"""
NEVER = "never drawn at this scale"


def domain_text(domain: Domain) -> str:
    """A domain in a few words."""
    match domain:
        case When(field, values, inner):
            return f"{domain_text(inner)}, when {field} = {alternatives(values)}" if values else NEVER
        case Choice(options):
            return alternatives(options)
        case LogUniform(low, high):
            return f"{low:g} .. {high:g} (log)"
        case Uniform(low, high):
            return f"{low:g} .. {high:g}"
        case Integer(low, high, 1):
            return f"{low} .. {high}"
        case Integer() as whole:
            steps = f", {whole.low + whole.step} .. {whole.last}" if whole.last > whole.low else ""
            return f"{whole.low}{steps}"


def domain_toml(domain: Domain) -> str:
    """A domain as the value of a TOML key."""
    return toml_value(_table(domain))


def field_toml(space: SearchSpace, name: str) -> str:
    """A field of a space as the value of a TOML key: its domain, the value that it is fixed to, or its default."""
    if name in space.domains:
        return domain_toml(space.domains[name])
    value = space.fixed[name] if name in space.fixed else default_of(space, name)
    return "" if value is MISSING else toml_value(value)


def default_of(space: SearchSpace, name: str) -> Any:
    """What a field is where it is neither drawn nor fixed; dataclasses.MISSING where there is no such value."""
    own = next((one.default for one in fields(space.config_class) if one.name == name), MISSING)
    return space.defaults.get(name, own)


def space_toml(space: SearchSpace) -> str:
    """A space as a table of a TOML file, which gives the same space again.

    What the user names elsewhere (--backbone), and what is never drawn, stands there as a remark.
    """
    lines = [f"[{toml_key(space.family)}]"]
    for name, domain in space.domains.items():
        line = f"{toml_key(name)} = {domain_toml(domain)}"
        if name == "backbone":
            line = f"# {line}  # those of --backbone; here fewer of them"
        elif isinstance(domain, When) and not domain.values:
            line = f"# {toml_key(name)} = {domain_toml(domain.domain)}  # {NEVER}"
        lines.append(line)
    lines += [f"{toml_key(name)} = {toml_value(value)}" for name, value in space.fixed.items()]
    return "\n".join(lines) + "\n"


def alternatives(values: tuple[Any, ...]) -> str:
    """Values of which one holds."""
    return " | ".join('""' if value == "" else f"{value}" for value in values)


def _table(domain: Domain) -> dict[str, Any]:
    kind = KINDS[type(domain)]
    match domain:
        case When(field, values, inner):
            return {**_table(inner), kind: {field: values}}
        case Choice(options):
            return {kind: options}
        case Integer(low, high, step):
            return {kind: (low, high), **({"step": step} if step > 1 else {})}
        case Uniform(low, high) | LogUniform(low, high):
            return {kind: (low, high)}
