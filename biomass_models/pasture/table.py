"""Masses, NDVI and height of a generated sampling plan.

N images. Each image has five latents, each about standard normal: green, dead, clover, height, ndvi. A latent is the
date's offset (season and weather) plus the image's own part. The latents of the masses go through the quantiles of a
zero-inflated gamma distribution with the mean, spread and share of zeros that `facts/by_state_species.csv` gives for
the image's state and species: skew, WA without dead matter and NSW without clover follow from the facts.
Masses in grams of dry matter per quadrat, height in cm, NDVI without unit.

The constants below, like those of the drawing, were fixed before any model was tuned, against bands of the real
labels: metadata trees 0.63-0.79 by date and at least 0.05 more under random folds; per-target mean 0.20-0.28.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import ndtr
from scipy.stats import gamma

from biomass_models.pasture.facts import read_fact
from biomass_models.targets import TARGETS, FloatArray, from_components

DATE_SHARE = 0.35  # share of a mass latent's variance that all images of a state's date have in common
SENSOR_SHARE = 0.20  # the same for what height and NDVI show beside the masses (instrument, observer, light)
SEASON_SWING = 0.6  # how far spring lifts the growth latents and summer the dead latent, in standard deviations
SPRING_DAY, SUMMER_DAY = 285, 30  # southern hemisphere: most growth in mid October, most dead matter in January
HEIGHT_FIT = 0.87  # correlation of height's latent with the green growth latent within a state and species
NDVI_GROWTH, NDVI_DEAD = 0.75, -0.10  # weights of growth and dead matter in NDVI's latent
LATENT_LIMIT = 2.3  # latents are clipped here: no mass beyond the 99th percentile of its kind
LEAST_TOTAL = 1.04  # g, the lightest quadrat in facts/overall.csv; NDVI and height have bounds there, too
NDVI_RANGE, HEIGHT_RANGE = (0.16, 0.91), (1.0, 70.0)


def draw_table(plan: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Masses and metadata for each row of a plan (State, Species, Sampling_Date).

    Returns the plan's columns with Pre_GSHH_NDVI, Height_Ave_cm and the five TARGETS (4 decimals, identities exact).
    Raises KeyError for a state and species that the facts do not hold.
    """
    facts = read_fact("by_state_species").set_index(["State", "Species"])
    fact = facts.loc[pd.MultiIndex.from_frame(plan[["State", "Species"]])]
    green, dead, clover, height, ndvi = _latents(plan, fact, rng)
    masses = [
        _mass(latent, fact, part).round(4)
        for latent, part in ((green, "Dry_Green_g"), (dead, "Dry_Dead_g"), (clover, "Dry_Clover_g"))
    ]
    bare = np.sum(masses, axis=0) < LEAST_TOTAL
    grows_grass = fact["Dry_Green_g_mean"].to_numpy() > 0
    masses[0] = masses[0] + LEAST_TOTAL * (bare & grows_grass)
    masses[2] = masses[2] + LEAST_TOTAL * (bare & ~grows_grass)
    mass_NT = from_components(*masses).round(4)
    out = plan.reset_index(drop=True)
    ndvi_mean, ndvi_sd = _moments(fact, "Pre_GSHH_NDVI")
    out["Pre_GSHH_NDVI"] = np.clip(ndvi_mean + ndvi_sd * ndvi, *NDVI_RANGE).round(2)
    mean, sd = _moments(fact, "Height_Ave_cm")
    log_sd = np.sqrt(np.log1p((sd / mean) ** 2))
    out["Height_Ave_cm"] = np.clip(mean * np.exp(log_sd * height - log_sd**2 / 2), *HEIGHT_RANGE).round(4)
    out[list(TARGETS)] = mass_NT
    return out


def _latents(plan: pd.DataFrame, fact: pd.DataFrame, rng: np.random.Generator) -> FloatArray:
    """Five latents [5, N] in the order green, dead, clover, height, ndvi; each about standard normal."""
    group_N, _ = pd.factorize(plan["State"] + "|" + plan["Sampling_Date"])
    n_dates, n = int(group_N.max(initial=-1)) + 1, len(plan)
    offset = rng.standard_normal((5, n_dates))[:, group_N]
    own = rng.standard_normal((5, n))
    day = pd.to_datetime(plan["Sampling_Date"], format="%Y/%m/%d").dt.day_of_year.to_numpy(dtype=np.float64)
    spring = np.cos(2 * np.pi * (day - SPRING_DAY) / 365.25)
    summer = np.cos(2 * np.pi * (day - SUMMER_DAY) / 365.25)
    for row, season in ((0, spring), (1, summer), (2, spring)):
        offset[row] = np.sqrt(1 - SEASON_SWING**2 / 2) * offset[row] + SEASON_SWING * season
    mass = np.sqrt(DATE_SHARE) * offset[:3] + np.sqrt(1 - DATE_SHARE) * own[:3]
    extra = np.sqrt(SENSOR_SHARE) * offset[3:] + np.sqrt(1 - SENSOR_SHARE) * own[3:]
    green_mean, clover_mean = fact["Dry_Green_g_mean"].to_numpy(), fact["Dry_Clover_g_mean"].to_numpy()
    growth = (green_mean * mass[0] + clover_mean * mass[2]) / np.hypot(green_mean, clover_mean)
    height = HEIGHT_FIT * growth + np.sqrt(1 - HEIGHT_FIT**2) * extra[0]
    left = np.sqrt(1 - NDVI_GROWTH**2 - NDVI_DEAD**2)
    ndvi = NDVI_GROWTH * growth + NDVI_DEAD * mass[1] + left * extra[1]
    return np.clip(np.stack([*mass, height, ndvi]), -LATENT_LIMIT, LATENT_LIMIT)


def _mass(latent_N: FloatArray, fact: pd.DataFrame, part: str) -> FloatArray:
    """Quantile of a zero-inflated gamma distribution with the facts' mean, spread and share of zeros, grams [N]."""
    mean, sd = _moments(fact, part)
    zero = fact[f"{part}_zero_share"].to_numpy()
    present = (zero < 1) & (mean > 0)
    alive = np.where(present, 1 - zero, 1.0)
    positive_mean = np.where(present, mean, 1.0) / alive
    variance = (sd**2 + mean**2) / alive - positive_mean**2
    shape = np.clip(positive_mean**2 / np.maximum(variance, 1e-6), 0.35, 60.0)
    rank = np.clip((ndtr(latent_N) - (1 - alive)) / alive, 0.0, 1.0)
    mass = gamma.ppf(rank, shape) * positive_mean / shape
    return np.where(present & (rank > 0), mass, 0.0)


def _moments(fact: pd.DataFrame, column: str) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation [N] that the facts give for each image's state and species."""
    return (
        fact[f"{column}_mean"].to_numpy(dtype=np.float64),
        fact[f"{column}_sd"].to_numpy(dtype=np.float64),
    )
