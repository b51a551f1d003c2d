"""Draws one quadrat photograph from its masses: ground, straw, leaves with shadows by depth, light, date stamp.

Every random choice has an address, SeedSequence([seed, purpose, index]): a picture's bytes depend on the seed, its
index and its row of the table, not on the process that draws it. Each part of the sward draws from a stream of its
own, so that changing one mass leaves the other parts where they were.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from biomass_models.pasture import plants
from biomass_models.pasture.light import Lighting, develop, draw_lighting, ground, stamp_date

JPEG_QUALITY = 88
STAMP_SHARE = 0.25  # share of photographs with a date stamp
SUPERSAMPLING = 2  # drawn so many times larger, then reduced: smooth edges
DETAIL_PX_PER_CM = 12.0  # below this resolution of the canvas midribs and leaf marks would not show: left out
DATE_PURPOSE, PICTURE_PURPOSE = 11, 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Quadrat:
    """What a picture shows: grams of dry matter, sward height in cm, and where and when it was taken."""

    state: str
    species: str
    date: str  # like 2015/9/4
    height_cm: float
    green_g: float
    dead_g: float
    clover_g: float


@dataclass(frozen=True, slots=True)
class Picture:
    """One photograph to draw: where to, from what, and the address of its random numbers."""

    path: Path
    quadrat: Quadrat
    index: int


def draw_picture(picture: Picture, *, seed: int, width: int, height: int) -> None:
    """Draw a picture and write it as JPEG. Imports of this module are few: worker processes start with it."""
    image = draw_quadrat(picture.quadrat, seed=seed, index=picture.index, width=width, height=height)
    image.save(picture.path, "JPEG", quality=JPEG_QUALITY)


def draw_quadrat(
    quadrat: Quadrat,
    *,
    seed: int,
    index: int,
    width: int,
    height: int,
    lighting: Lighting | None = None,
    stamped: bool | None = None,
) -> Image.Image:
    """The photograph of a quadrat, RGB [height, width] px.

    lighting, stamped: fixed light and ground, and whether the date is printed; by default both are drawn at random.
    """
    streams = np.random.SeedSequence([seed, PICTURE_PURPOSE, index]).spawn(7)
    lighting_rng, ground_rng, dead_rng, green_rng, clover_rng, light_rng, stamp_rng = (
        np.random.default_rng(stream) for stream in streams
    )
    day = zlib.crc32(f"{quadrat.state}|{quadrat.date}".encode())
    drawn_lighting = draw_lighting(np.random.default_rng([seed, DATE_PURPOSE, day]), lighting_rng)
    lighting = drawn_lighting if lighting is None else lighting
    cap = int(600 + 3.4 * width)
    names = quadrat.species.lower().split("_")
    subclover = quadrat.state == "WA" or any(name.startswith("subclover") for name in names)
    layers = [
        plants.dead_layer(quadrat.dead_g, quadrat.height_cm, lighting.straw_3, cap, dead_rng),
        *plants.green_layers(names, quadrat.green_g, quadrat.height_cm, lighting.leaf_3, cap, green_rng),
        plants.clover_layer(quadrat.clover_g, subclover, quadrat.height_cm, lighting.leaf_3, 2 * cap, clover_rng),
    ]
    picture = _paint(ground(lighting, width, height, ground_rng), [layer for layer in layers if len(layer)], lighting)
    picture = develop(picture, lighting, light_rng)
    if (stamp_rng.random() < STAMP_SHARE) if stamped is None else stamped:
        stamp_date(picture, quadrat.date, stamp_rng)
    return picture


def _paint(soil: Image.Image, layers: list[plants.Layer], lighting: Lighting) -> Image.Image:
    """Lay all elements over the soil from the lowest to the highest, each above its own shadow."""
    width, height = soil.size
    canvas = soil.resize((width * SUPERSAMPLING, height * SUPERSAMPLING), Image.Resampling.BILINEAR)
    scale = canvas.size[0] / plants.FRAME_CM[0]
    detailed = scale >= DETAIL_PX_PER_CM
    cover = sum(_area(layer) for layer in layers) / (plants.FRAME_CM[0] * plants.FRAME_CM[1])
    canvas = canvas.point([int(level * (0.45 + 0.55 * np.exp(-0.30 * cover))) for level in range(256)] * 3)
    opaque, glaze = ImageDraw.Draw(canvas), ImageDraw.Draw(canvas, "RGBA")
    alpha = int(50 + 75 * lighting.sun)
    outlines: list[list[list[list[float]]]] = []
    fills: list[list[list[tuple[int, int, int]]]] = []
    shadows: list[list[list[float]]] = []
    for layer in layers:
        light_N = 0.34 + 0.66 * np.exp(-0.45 * cover * (1 - layer.depth_N))
        outlines.append([])
        fills.append([])
        for points, colour in layer.parts if detailed else layer.parts[:1]:
            outlines[-1].append((points * scale).reshape(len(points), -1).tolist())
            shaded = np.clip(colour * light_N[:, None], 0, 255).astype(int)
            fills[-1].append([tuple(row) for row in shaded.tolist()])
        throw_N = scale * (0.15 + 0.5 * layer.depth_N)
        shift = np.array([np.cos(lighting.azimuth), np.sin(lighting.azimuth)]) * throw_N[:, None, None]
        points = layer.parts[0][0] * scale + shift
        shadows.append(points.reshape(len(points), -1).tolist())
    owner = np.concatenate([np.full(len(layer), which) for which, layer in enumerate(layers)] or [np.zeros(0, int)])
    place = np.concatenate([np.arange(len(layer)) for layer in layers] or [np.zeros(0, int)])
    depth = np.concatenate([layer.depth_N for layer in layers] or [np.zeros(0)])
    order = np.argsort(depth, kind="stable")
    shade = (12, 12, 8, alpha)
    for which, item in zip(owner[order].tolist(), place[order].tolist(), strict=True):
        glaze.polygon(shadows[which][item], shade)
        for outline, fill in zip(outlines[which], fills[which], strict=True):
            opaque.polygon(outline[item], fill[item])
    return canvas.reduce(SUPERSAMPLING)


def _area(layer: plants.Layer) -> float:
    """Summed area of a layer's elements in cm2 (shoelace formula)."""
    x, y = layer.parts[0][0][..., 0], layer.parts[0][0][..., 1]
    return float(np.abs((x * np.roll(y, -1, axis=1) - np.roll(x, -1, axis=1) * y).sum(axis=1)).sum() / 2)
