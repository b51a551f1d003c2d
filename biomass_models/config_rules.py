"""Checks that configurations run on themselves: each raises UserError with the rule and what was got."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, get_type_hints

from biomass_models.errors import UserError

Number = TypeVar("Number", int, float)
FLIPS = (1, 2, 4, 8)
STAMPS = ("keep", "remove")
PREFIX_BANKS = ("none", "float16", "float32")
TRANSFORMS = ("log1p", "sqrt", "none")
STATISTICS = ("global", "mean", "max", "min", "gem", "std")  # of a view: its global vector, and of its patch tokens
_TYPES: dict[type, Mapping[str, type]] = {}  # of the fields of each class of configurations
TILES = re.compile(r"tiles-[1-9]\d?x[1-9]\d?")


def nearest(got: object, known: Iterable[str], most: int = 1) -> list[str]:
    """Known names that are written much like the one got, nearest first; upper and lower case are alike."""
    by_lower = {name.lower(): name for name in known}
    return [by_lower[name] for name in difflib.get_close_matches(str(got).lower(), by_lower, n=most, cutoff=0.5)]


def did_you_mean(got: object, known: Iterable[str], most: int = 1) -> str:
    """The end of a message about an unknown name: `; did you mean x?`, or nothing where no known name is near."""
    close = nearest(got, known, most)
    return f"; did you mean {', '.join(close)}?" if close else ""


def known_name(what: str, got: str, known: Iterable[str], error: type[UserError] = UserError) -> str:
    """The name itself; `error` with the rule, what was got and the nearest name where it is not one of the known."""
    names = list(known)
    if got not in names:
        raise error(f"{what} is one of {', '.join(names)}, got {got!r}{did_you_mean(got, names)}")
    return got


def require(rule: str, ok: bool, got: object) -> None:
    if not ok:
        raise UserError(f"{rule}, got {got!r}")


def one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    require(f"{name} must be one of {', '.join(map(str, allowed))}", value in allowed, value)


def within(name: str, value: float, low: float, high: float) -> None:
    require(f"{name} must lie in [{low:g}, {high:g}]", math.isfinite(value) and low <= value <= high, value)


def layout_of(value: str, *others: str) -> None:
    """A layout of views: one of `others`, or tiles-RxC."""
    known = value in others or TILES.fullmatch(value) is not None
    require(f"layout must be {', '.join(others)} or tiles-RxC", known, value)


def pooling_of(value: str) -> tuple[str, ...]:
    """Statistics of a view's tokens, joined by `+`: each once and in the order of STATISTICS, one spelling for each."""
    names = tuple(value.split("+"))
    known = value != "" and set(names) <= set(STATISTICS)
    rule = f"pooling must be of {', '.join(STATISTICS)}, joined by +"
    require(rule, known, value)
    ordered = "+".join(name for name in STATISTICS if name in names)
    require(f"{rule}, each once and in this order: {ordered}", value == ordered, value)
    return names


def taps_of(value: str) -> tuple[float, ...]:
    """Layers by their shares of a backbone's depth, ascending and joined by `+`, such as 0.67+0.83+1; "" is none."""
    rule = "taps must be shares of the depth in (0, 1], ascending, joined by + (0.67+0.83+1)"
    taps = _joined(rule, value, float)
    require(rule, all(0 < tap <= 1 for tap in taps) and list(taps) == sorted(set(taps)), value)
    return taps


def sizes_of(name: str, value: str) -> tuple[int, ...]:
    """Sides of views in px, ascending and joined by `+`, such as 224+448; "" is none."""
    rule = f"{name} must be sides in px from 16 to 4096, ascending, joined by + (336+448)"
    sizes = _joined(rule, value, int)
    require(rule, all(16 <= size <= 4096 for size in sizes) and list(sizes) == sorted(set(sizes)), value)
    return sizes


def _joined(rule: str, value: str, kind: Callable[[str], Number]) -> tuple[Number, ...]:
    """Numbers joined by `+`, each in its shortest spelling, so that equal settings are equal texts."""
    try:
        numbers = tuple(kind(part) for part in value.split("+")) if value else ()
    except ValueError:
        raise UserError(f"{rule}, got {value!r}") from None
    shortest = "+".join(f"{number:g}" for number in numbers)
    require(f"{rule}, in their shortest spelling: {shortest}", value == shortest, value)
    return numbers


def check_types(config: Any) -> None:
    """Every field holds exactly its declared type; numpy scalars and booleans for numbers are refused."""
    for name, kind in types_of(type(config)).items():
        value = getattr(config, name)
        if kind is float and type(value) is int:
            object.__setattr__(config, name, float(value))
        elif type(value) is not kind:
            raise UserError(f"{name} must be of type {kind.__name__}, got {value!r} ({type(value).__name__})")


def types_of(config_class: type) -> Mapping[str, type]:
    """Declared types by field, resolved once: that costs more than everything else that is checked."""
    if config_class not in _TYPES:
        _TYPES[config_class] = get_type_hints(config_class)
    return _TYPES[config_class]


def check_image(config: Any) -> None:
    """What every family asks of photographs."""
    require("backbone must be a timm name", bool(config.backbone.strip()), config.backbone)
    within("size", config.size, 16, 4096)
    one_of("flips", config.flips, FLIPS)
    one_of("stamp", config.stamp, STAMPS)


def check_training(config: Any) -> None:
    """What every family that trains a network by gradient asks of its head, its rates and its augmentation."""
    within("trained_blocks", config.trained_blocks, 0, 200)
    within("head_width", config.head_width, 1, 8192)
    within("head_width_2", config.head_width_2, 1, 8192)
    require("dropout must lie in [0, 1)", 0 <= config.dropout < 1, config.dropout)
    for name in ("head_lr", "backbone_lr"):
        require(f"{name} must lie in (0, 1)", 0 < getattr(config, name) < 1, getattr(config, name))
    lowest = config.head_lr if config.trained_blocks == 0 else min(config.head_lr, config.backbone_lr)
    require(f"min_lr must lie in [0, lowest peak rate = {lowest:g}]", 0 <= config.min_lr <= lowest, config.min_lr)
    within("weight_decay", config.weight_decay, 0, 10)
    require("clip_norm must be above 0", config.clip_norm > 0, config.clip_norm)
    within("batch_size", config.batch_size, 1, 4096)
    within("epochs", config.epochs, 1, 10_000)
    require("ema_decay must lie in [0, 1)", 0 <= config.ema_decay < 1, config.ema_decay)
    within("jittered", config.jittered, 0, 64)
    one_of("prefix_bank", config.prefix_bank, PREFIX_BANKS)
    require(
        "a prefix_bank is of the frozen blocks under trained ones: set trained_blocks above 0 or prefix_bank=none",
        config.prefix_bank == "none" or config.trained_blocks > 0,
        (config.prefix_bank, config.trained_blocks),
    )
    require(
        "jittered copies belong to a bank: set trained_blocks=0, or a prefix_bank, or jittered=0",
        config.jittered == 0 or config.trained_blocks == 0 or config.prefix_bank != "none",
        (config.jittered, config.trained_blocks),
    )
    within("colour_jitter", config.colour_jitter, 0, 0.9)
    within("blur", config.blur, 0, 10)
