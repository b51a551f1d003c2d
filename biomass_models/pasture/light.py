"""Light, camera and ground of a generated photograph: what changes between dates and pictures while masses do not.

Lighting is drawn around its date's own values, so that all pictures of a date resemble each other and none resembles
another date: the reason why colour alone misleads under folds by date.
Colours are sRGB 0-255; gains are factors on them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from biomass_models.targets import FloatArray

SOILS = np.array(  # brown, red, grey, sandy, dark, mossy
    [(124, 96, 72), (146, 96, 66), (108, 102, 94), (162, 138, 106), (82, 68, 56), (104, 112, 62)], dtype=np.float64
)
STRAWS = np.array([(206, 184, 132), (186, 158, 104), (168, 154, 128), (138, 116, 84)], dtype=np.float64)
STAMP_RGB = (255, 138, 32)


@dataclass(frozen=True, kw_only=True, slots=True)
class Lighting:
    """One picture's ground, plant tint and light."""

    soil_3: FloatArray  # soil colour
    leaf_3: FloatArray  # factors on leaf colours (nitrogen, age, frost)
    straw_3: FloatArray  # colour of dead matter
    gain_3: FloatArray  # exposure times white balance
    gamma: float  # tone curve: above 1 darkens the middle tones
    sun: float  # 0 overcast .. 1 hard sunlight
    azimuth: float  # where shadows fall, radians
    veil: float  # 0 clear .. 0.3 hazy: contrast lost to stray light


def draw_lighting(date_rng: np.random.Generator, own_rng: np.random.Generator) -> Lighting:
    """Values of the date (from `date_rng`) with the picture's own deviations (from `own_rng`)."""
    soil = SOILS[date_rng.integers(len(SOILS))] * _spread(date_rng, 0.15, 1) * _spread(own_rng, 0.10, 1)
    straw = STRAWS[date_rng.integers(len(STRAWS))] * _spread(date_rng, 0.10, 1) * _spread(own_rng, 0.06, 1)
    yellowing = np.array([date_rng.normal(0, 0.17), 0.0, date_rng.normal(0, 0.12)]) + own_rng.normal(0, 0.04, 3)
    leaf = np.exp(yellowing) * _spread(date_rng, 0.13, 1) * _spread(own_rng, 0.05, 1)
    exposure = _spread(date_rng, 0.18, 1) * _spread(own_rng, 0.14, 1)
    warmth = date_rng.normal(0, 0.08) + own_rng.normal(0, 0.05)
    balance = np.array([np.exp(warmth), 1.0, np.exp(-warmth)]) * _spread(date_rng, 0.04, 3)
    sun = float(np.clip(date_rng.beta(0.8, 0.8) + own_rng.normal(0, 0.12), 0, 1))
    return Lighting(
        soil_3=soil * _spread(own_rng, 0.03, 3),
        leaf_3=leaf,
        straw_3=straw * _spread(own_rng, 0.03, 3),
        gain_3=exposure * balance,
        gamma=float(np.exp(date_rng.normal(0, 0.13) + own_rng.normal(0, 0.09))),
        sun=sun,
        azimuth=float(date_rng.uniform(0, 2 * np.pi) + own_rng.normal(0, 0.25)),
        veil=float(np.clip(date_rng.uniform(-0.05, 0.15) + own_rng.normal(0, 0.04), 0, 0.25)),
    )


def ground(lighting: Lighting, width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """Bare soil: patches, crumbs and fine grain in its soil colour, [height, width] px."""
    tone = np.ones((height, width), dtype=np.float32)
    for cells, strength in ((4, 0.10), (14, 0.09), (60, 0.10), (180, 0.12)):
        tone += strength * _smooth_noise(cells, width, height, rng)
    tone += rng.normal(0, 0.04, (height, width)).astype(np.float32)
    hue = 0.05 * _smooth_noise(9, width, height, rng)[..., None] * np.array([1.0, 0.1, -0.9], dtype=np.float32)
    rgb = np.clip(lighting.soil_3.astype(np.float32) * (tone[..., None] + hue), 0, 255)
    return Image.fromarray(rgb.astype(np.uint8))


def develop(picture: Image.Image, lighting: Lighting, rng: np.random.Generator) -> Image.Image:
    """Falls of light across the frame, cast shadows, exposure, white balance, tone curve and sensor noise."""
    width, height = picture.size
    x = np.linspace(-1, 1, width, dtype=np.float32)
    y = np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None]
    slope_x, slope_y = rng.normal(0, 0.07, 2)
    fall = 1 + slope_x * x + slope_y * y - rng.uniform(0.02, 0.14) * (x**2 + y**2)
    fall = fall * (1 + 0.06 * _smooth_noise(5, width, height, rng))
    if rng.random() < 0.15 + 0.35 * lighting.sun:
        fall = fall * _cast_shadow(width, height, 0.25 + 0.3 * lighting.sun, rng)
    noise = rng.normal(0, 3.0, (height, width)).astype(np.float32)
    rgb = np.asarray(picture, dtype=np.float32) * fall[..., None].astype(np.float32) + noise[..., None]
    level = np.linspace(0, 1, 256)
    curve = np.clip(level[:, None] * lighting.gain_3, 0, 2)
    curve = np.where(curve > 0.8, 0.8 + 0.25 * (1 - np.exp(-(curve - 0.8) / 0.25)), curve)  # soft highlights
    curve = lighting.veil * 0.75 + (1 - lighting.veil) * np.clip(curve, 0, 1) ** lighting.gamma
    table = np.clip(255 * curve, 0, 255).astype(np.uint8)
    coded = np.clip(rgb, 0, 255).astype(np.uint8)
    return Image.fromarray(np.stack([table[coded[..., channel], channel] for channel in range(3)], axis=-1))


def stamp_date(picture: Image.Image, date: str, rng: np.random.Generator) -> None:
    """Print the date bottom right in a compact camera's orange, in place."""
    width, height = picture.size
    year, month, day = date.split("/")
    clock = f"{int(rng.integers(8, 17)):02d}:{int(rng.integers(60)):02d}"
    text = f"{int(day):02d}/{int(month):02d}/{year}  {clock}"
    font = ImageFont.load_default(size=max(6.0, 0.05 * height))
    pen = ImageDraw.Draw(picture)
    spot = (0.975 * width, 0.955 * height)
    pen.text(spot, text, fill=STAMP_RGB, font=font, anchor="rs", stroke_width=0)


def _cast_shadow(width: int, height: int, strength: float, rng: np.random.Generator) -> FloatArray:
    """A soft-edged shadow that enters from one side (the photographer, a tree, the frame): factors [H, W]."""
    small = Image.new("L", (100, 50), 0)
    x, y = rng.uniform(-10, 110), rng.choice([-8.0, 58.0])
    reach, broad = rng.uniform(20, 60), rng.uniform(10, 40)
    aim = np.arctan2(25 - y, 50 - x) + rng.normal(0, 0.3)
    along = np.array([np.cos(aim), np.sin(aim)])
    across = along[::-1] * [-1, 1] * broad / 2
    tip = np.array([x, y]) + reach * along
    corner = [np.array([x, y]) + 1.3 * across, tip + across, tip - 0.8 * across, np.array([x, y]) - 1.2 * across]
    ImageDraw.Draw(small).polygon([float(value) for point in corner for value in point], fill=255)
    soft = small.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.6, 3.0))))
    mask = np.asarray(soft.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64) / 255
    return 1 - strength * mask


def _smooth_noise(cells: int, width: int, height: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Noise of about unit spread whose patches are width / cells wide, [H, W]."""
    rows = max(2, cells // 2)
    small = Image.fromarray(rng.standard_normal((rows, cells)).astype(np.float32))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)


def _spread(rng: np.random.Generator, sd: float, size: int) -> FloatArray:
    """Log-normal factors around 1."""
    return np.exp(rng.normal(0, sd, size))
