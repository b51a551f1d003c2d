"""Outlines of plant parts, seen from above, for the masses of one quadrat. Coordinates in cm, x right and y down.

N elements (blades, leaflets, stalks), K outline points.
point_NK2   outlines in cm        colour_N3   sRGB 0-255 before light        depth_N   0 on the soil .. 1 on top

An element's count follows from its mass: count = mass * cm2 per gram / area of one element. Tall swards carry part
of their mass in stems that no photograph shows, and overlapping leaves hide each other: dense swards saturate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from biomass_models.targets import FloatArray

FRAME_CM = (70.0, 35.0)  # what a photograph shows: the 70 x 30 cm quadrat and a little more, 2:1
LEAF_CM2_PER_G, CLOVER_CM2_PER_G, DEAD_CM2_PER_G = 170.0, 190.0, 130.0  # one-sided area of a gram of dry matter
STEM_HEIGHT_CM = 24.0  # a sward so tall shows half of its green mass as leaf
OPEN_T = np.linspace(0.0, 1.0, 6)  # stations along a blade


@dataclass(frozen=True, kw_only=True, slots=True)
class Grass:
    """How a grass looks from above."""

    width: float  # cm, widest place of a blade
    reach: float  # blade length relative to the usual one at that sward height
    rgb: tuple[int, int, int]  # blade colour in neutral light
    tuft: float  # spread of a tussock in cm; small = distinct tussocks
    bend: float = 0.25  # sideways bend of a blade relative to its length


GRASSES: dict[str, Grass] = {
    "ryegrass": Grass(width=0.36, reach=1.0, rgb=(92, 138, 48), tuft=4.0),
    "fescue": Grass(width=0.42, reach=1.25, rgb=(86, 124, 52), tuft=3.0, bend=0.4),
    "phalaris": Grass(width=0.80, reach=1.1, rgb=(98, 142, 78), tuft=6.0, bend=0.2),
    "barleygrass": Grass(width=0.50, reach=0.7, rgb=(124, 154, 70), tuft=3.0),
    "bromegrass": Grass(width=0.55, reach=0.8, rgb=(112, 138, 70), tuft=3.5),
    "silvergrass": Grass(width=0.18, reach=0.8, rgb=(132, 150, 84), tuft=2.0),
    "speargrass": Grass(width=0.22, reach=1.0, rgb=(136, 142, 86), tuft=2.0),
}
BROADLEAVES = ("lucerne", "capeweed", "crumbweed")


@dataclass(frozen=True, slots=True)
class Layer:
    """N elements of one kind; each is drawn part by part (whole outline first, then its lit half or its mark)."""

    depth_N: FloatArray
    parts: tuple[tuple[FloatArray, FloatArray], ...]  # (point_NK2, colour_N3)

    def __len__(self) -> int:
        return len(self.depth_N)


def green_layers(
    names: Sequence[str], mass_g: float, height_cm: float, tint_3: FloatArray, cap: int, rng: np.random.Generator
) -> list[Layer]:
    """The green mass of a quadrat, shared evenly among the kinds that its species string names (lower case)."""
    kinds = [name for name in names if name in GRASSES or name in BROADLEAVES] or ["ryegrass"]
    visible = LEAF_CM2_PER_G * mass_g / len(kinds) / (1 + height_cm / STEM_HEIGHT_CM)
    layers = []
    for kind in kinds:
        if kind in GRASSES:
            layers.append(_grass(GRASSES[kind], visible, height_cm, tint_3, cap // len(kinds), rng))
        else:
            layers.append(_broadleaf(kind, visible, height_cm, tint_3, cap // len(kinds), rng))
    return [layer for layer in layers if len(layer)]


def dead_layer(mass_g: float, height_cm: float, straw_3: FloatArray, cap: int, rng: np.random.Generator) -> Layer:
    """Straw: thin, kinked, mostly lying below the leaves; bleached or rotting pieces beside each other."""
    length_mean = 3.5 + 0.45 * min(height_cm, 25.0)
    area = 0.7 * length_mean * 0.28
    count, grow = _count(DEAD_CM2_PER_G * mass_g / area, cap, rng)
    base = _scatter(count, 7.0, 0.5, rng)
    length = length_mean * grow * rng.lognormal(0, 0.45, count)
    width = 0.28 * grow * rng.lognormal(0, 0.35, count)
    bend = rng.normal(0, 0.12, count)
    colour = straw_3 * rng.lognormal(0, 0.16, (count, 1)) * rng.lognormal(0, 0.04, (count, 3))
    depth = rng.beta(1.1, 2.0, count)
    return Layer(depth, _blade_parts(base, rng.uniform(0, 2 * np.pi, count), length, width, bend, colour, 1.22))


def clover_layer(
    mass_g: float, subclover: bool, height_cm: float, tint_3: FloatArray, cap: int, rng: np.random.Generator
) -> Layer:
    """Three heart-shaped leaflets on each petiole; white clover is smaller and marked with a pale crescent."""
    radius = (0.95 if subclover else 0.72) * (0.8 + 0.05 * min(height_cm, 10.0))
    count, grow = _count(CLOVER_CM2_PER_G * mass_g / (3 * 0.9 * radius**2), cap // 3, rng)
    centre = _scatter(count, 5.0, 0.35, rng)
    turn = rng.uniform(0, 2 * np.pi, count)
    size = radius * grow * rng.lognormal(0, 0.22, count)
    base_rgb = np.array([84, 140, 58] if subclover else [78, 134, 66], dtype=np.float64)
    colour = base_rgb * tint_3 * rng.lognormal(0, 0.10, (count, 1)) * rng.lognormal(0, 0.03, (count, 3))
    depth = rng.beta(2.0, 1.6, count)
    angle = (turn[:, None] + np.array([0, 2.09, 4.19]) + rng.normal(0, 0.12, (count, 3))).ravel()
    repeat = [np.repeat(values, 3, axis=0) for values in (centre, size, colour, depth)]
    centre, size, colour, depth = repeat
    colour = colour * rng.lognormal(0, 0.05, (len(colour), 1))
    mark = np.clip(colour * 1.2 + 22, 0, 255)
    parts = (
        (_leaf(HEART, centre, angle, size, size * 0.98), colour),
        (_leaf(HEART_HALF, centre, angle, size, size * 0.98), np.clip(colour * 1.13, 0, 255)),
        (_leaf(CRESCENT, centre, angle, size, size * 0.9), mark),
    )
    return Layer(depth, parts)


def _grass(
    grass: Grass, area: float, height_cm: float, tint_3: FloatArray, cap: int, rng: np.random.Generator
) -> Layer:
    length_mean = grass.reach * min(3.2 + 1.0 * height_cm, 30.0)
    width_mean = grass.width * (0.75 + 0.05 * min(height_cm, 15.0))
    count, grow = _count(area / (0.62 * length_mean * width_mean), cap, rng)
    tufts = max(3, int(40 / grass.tuft))
    base, outward = _tussocks(count, tufts, grass.tuft, rng)
    depth = rng.beta(1.6, 1.3, count)
    near = 1 + depth * min(height_cm, 40.0) / 110.0  # upper leaves are nearer to the camera
    length = length_mean * grow * near * rng.lognormal(0, 0.35, count) * rng.uniform(0.55, 1.0, count)
    width = width_mean * grow * near * rng.lognormal(0, 0.22, count)
    bend = rng.normal(0, grass.bend, count)
    colour = np.array(grass.rgb) * tint_3 * rng.lognormal(0, 0.13, (count, 1)) * rng.lognormal(0, 0.04, (count, 3))
    return Layer(depth, _blade_parts(base, outward, length, width, bend, colour, 1.25))


def _broadleaf(
    kind: str, area: float, height_cm: float, tint_3: FloatArray, cap: int, rng: np.random.Generator
) -> Layer:
    """Lucerne: whorls of oblong leaflets. Capeweed: rosettes of lobed leaves. Crumbweed: small ovate leaves."""
    outline, half, length, slim, per_plant, rgb = {
        "lucerne": (OVAL, OVAL_HALF, 2.4, 0.42, 15, (78, 128, 66)),
        "capeweed": (LOBED, OVAL_HALF, 6.5, 0.45, 9, (108, 148, 84)),
        "crumbweed": (OVAL, OVAL_HALF, 2.0, 0.62, 8, (100, 138, 88)),
    }[kind]
    count, grow = _count(area / (0.72 * slim * length**2), cap, rng)
    plants = max(1, count // per_plant)
    centre_P = rng.uniform(-0.05, 1.05, (plants, 2)) * FRAME_CM
    plant = rng.integers(0, plants, count)
    rank = rng.random(count)  # 0 in the middle of the shoot (on top) .. 1 outside (low)
    angle = rng.uniform(0, 2 * np.pi, count)
    ring = rank * (2.6 if kind == "lucerne" else 0.5) * grow
    base = centre_P[plant] + ring[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    top = rng.beta(2.0, 1.5, plants)[plant]
    depth = np.clip(top - 0.25 * rank, 0, 1)
    size = length * grow * rng.lognormal(0, 0.2, count) * (0.6 + 0.5 * rank)
    size = size * (1 + depth * min(height_cm, 40.0) / 110.0)
    aim = angle + rng.normal(0, 0.5, count)
    colour = np.array(rgb) * tint_3 * rng.lognormal(0, 0.12, (count, 1)) * (1.08 - 0.2 * rank[:, None])
    parts = (
        (_leaf(outline, base, aim, size, size * slim), colour),
        (_leaf(half, base, aim, size * 0.96, size * slim * 0.8), np.clip(colour * 1.14, 0, 255)),
    )
    return Layer(depth, parts)


def _count(wanted: float, cap: int, rng: np.random.Generator) -> tuple[int, float]:
    """How many elements to draw, and how much larger each is where more than `cap` were wanted (area is kept)."""
    if wanted > cap:
        return cap, float(np.sqrt(wanted / cap))
    return int(wanted + rng.random()), 1.0


def _scatter(count: int, spread_cm: float, clumped: float, rng: np.random.Generator) -> FloatArray:
    """Places [N, 2] in the frame and just outside it; a share of them in patches."""
    place = rng.uniform(-0.06, 1.06, (count, 2)) * FRAME_CM
    patch_P = rng.uniform(0, 1, (7, 2)) * FRAME_CM
    patch = patch_P[rng.integers(0, 7, count)] + rng.normal(0, spread_cm, (count, 2))
    return np.where(rng.random((count, 1)) < clumped, patch, place)


def _tussocks(count: int, tufts: int, spread_cm: float, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Bases [N, 2] around tussock centres and directions [N] that point outward from them."""
    centre_P = rng.uniform(-0.05, 1.05, (tufts * 3, 2)) * FRAME_CM
    offset = rng.normal(0, spread_cm, (count, 2))
    base = centre_P[rng.integers(0, len(centre_P), count)] + offset
    loose = rng.random(count) < 0.35
    base = np.where(loose[:, None], rng.uniform(-0.05, 1.05, (count, 2)) * FRAME_CM, base)
    return base, np.arctan2(offset[:, 1], offset[:, 0]) + rng.normal(0, 0.8, count)


def _blade_parts(
    base_N2: FloatArray,
    angle_N: FloatArray,
    length_N: FloatArray,
    width_N: FloatArray,
    bend_N: FloatArray,
    colour_N3: FloatArray,
    lit: float,
) -> tuple[tuple[FloatArray, FloatArray], ...]:
    """Tapered, bent blades: the whole outline, and the half beyond the midrib in a lighter colour."""
    along = np.stack([np.cos(angle_N), np.sin(angle_N)], axis=-1)[:, None]
    across = along[..., ::-1] * np.array([-1.0, 1.0])
    mid = base_N2[:, None] + length_N[:, None, None] * (
        along * OPEN_T[:, None] + across * bend_N[:, None, None] * OPEN_T[:, None] ** 2
    )
    profile = np.sqrt(np.clip(0.25 + 2.2 * OPEN_T, 0, 1)) * np.sqrt(1 - OPEN_T)
    side = 0.5 * width_N[:, None, None] * profile[:, None] * across
    whole = np.concatenate([mid + side, (mid - side)[:, -2::-1]], axis=1)
    half = np.concatenate([mid + side, (mid + 0.1 * side)[:, -2::-1]], axis=1)
    return (whole, colour_N3), (half, np.clip(colour_N3 * lit, 0, 255))


def _leaf(
    outline_K2: FloatArray, base_N2: FloatArray, angle_N: FloatArray, length_N: FloatArray, width_N: FloatArray
) -> FloatArray:
    """An outline (base at the origin, tip towards +x, width 1) laid at each place [N, K, 2]."""
    x = outline_K2[:, 0] * length_N[:, None]
    y = outline_K2[:, 1] * width_N[:, None]
    cos, sin = np.cos(angle_N)[:, None], np.sin(angle_N)[:, None]
    return np.stack([x * cos - y * sin, x * sin + y * cos], axis=-1) + base_N2[:, None]


def _outline(*points: tuple[float, float]) -> FloatArray:
    """A symmetric outline from the points of its upper side."""
    upper = np.array(points)
    lower = upper[::-1] * np.array([1.0, -1.0])
    return np.concatenate([upper, lower])


HEART = _outline((0, 0.03), (0.35, 0.32), (0.68, 0.5), (0.92, 0.46), (1.02, 0.24), (0.93, 0.0))
HEART_HALF = np.array([(0, 0.0), (0.35, 0.29), (0.68, 0.45), (0.9, 0.42), (0.99, 0.22), (0.91, 0.03)])
CRESCENT = np.array([(0.42, -0.34), (0.66, 0.0), (0.42, 0.34), (0.50, 0.36), (0.80, 0.0), (0.50, -0.36)])
OVAL = _outline((0, 0.04), (0.2, 0.32), (0.5, 0.5), (0.8, 0.34), (1.0, 0.03))
OVAL_HALF = np.array([(0, 0.0), (0.2, 0.3), (0.5, 0.46), (0.8, 0.3), (1.0, 0.0)])
LOBED = _outline((0, 0.05), (0.2, 0.1), (0.3, 0.42), (0.42, 0.16), (0.56, 0.5), (0.66, 0.2), (0.84, 0.4), (1.0, 0.05))
