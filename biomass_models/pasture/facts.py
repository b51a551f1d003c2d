"""What the competition's training labels look like: published summaries, and a sampling plan that follows them.

The tables in `facts/` hold means, spreads and shares of zeros by state and species, and images per date. They
were computed from the competition's training table; the labels themselves are not in the repository.
A plan has one row for each image: State, Species, Sampling_Date (text like 2015/9/4, as the competition has it).
"""

from __future__ import annotations

import datetime
from importlib import resources

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

MIXED_SHARE = 0.25  # share of a state's images whose species may stand on another date than its own run
TEST_YEARS = (2014, 2016, 2017)  # no training date lies in these years
IMAGES_PER_TEST_DATE = 10
SEASON_JITTER_DAYS = 18  # a test date lies within so many days of the year of some training date of its state


def read_fact(name: str) -> pd.DataFrame:
    """One table of `facts/` (by_state_species, dates, overall, spearman) as shipped with the package."""
    with resources.files("biomass_models").joinpath("facts", f"{name}.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file)


def share_out(total: int, weights: ArrayLike) -> NDArray[np.int64]:
    """Whole numbers that add up to `total`, nearly proportional: largest remainders, the first wins ties."""
    weight = np.asarray(weights, dtype=np.float64)
    quota = total * weight / weight.sum()
    count = np.floor(quota + 1e-9).astype(np.int64)
    rest = total - int(count.sum())
    count[np.argsort(-(quota - count), kind="stable")[:rest]] += 1
    return count


def training_plan(images: int, rng: np.random.Generator) -> pd.DataFrame:
    """Dates and images per date as in `facts/dates.csv`, scaled to `images`; species as in by_state_species."""
    dates = read_fact("dates")
    dates["images"] = share_out(images, dates["images"])
    return _with_species(dates[dates["images"] > 0], rng)


def held_out_plan(images: int, rng: np.random.Generator) -> pd.DataFrame:
    """Same states and seasons as the training plan, other years: no date is shared with `training_plan`."""
    known = read_fact("dates")
    by_state = known.groupby("State", sort=True)["images"].sum()
    rows = []
    for state, count in zip(by_state.index, share_out(images, by_state), strict=True):
        if count == 0:
            continue
        seasons = known.loc[known["State"] == state, "Sampling_Date"].to_list()
        n_dates = max(1, round(int(count) / IMAGES_PER_TEST_DATE))
        chosen: set[datetime.date] = set()
        while len(chosen) < n_dates:
            _, month, day = map(int, str(rng.choice(seasons)).split("/"))
            shift = int(rng.integers(-SEASON_JITTER_DAYS, SEASON_JITTER_DAYS + 1))
            date = datetime.date(int(rng.choice(TEST_YEARS)), month, day) + datetime.timedelta(days=shift)
            if date.year in TEST_YEARS:
                chosen.add(date)
        sizes = share_out(int(count), rng.uniform(0.6, 1.4, size=n_dates))
        for date, size in zip(sorted(chosen), sizes, strict=True):
            rows.append((state, f"{date.year}/{date.month}/{date.day}", int(size)))
    return _with_species(pd.DataFrame(rows, columns=["State", "Sampling_Date", "images"]), rng)


def _with_species(dates: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Lay a state's species over its dates in runs (a paddock is visited on few dates), with some mixing."""
    species_facts = read_fact("by_state_species")
    parts = []
    for state, of_state in dates.groupby("State", sort=True):
        facts = species_facts[species_facts["State"] == state]
        count = int(of_state["images"].sum())
        order = rng.permutation(len(facts))
        names = facts["Species"].to_numpy()[order]
        species = np.repeat(names, share_out(count, facts["images"].to_numpy()[order]))
        loose = np.flatnonzero(rng.random(count) < MIXED_SHARE)
        species[loose] = species[rng.permutation(loose)]
        visits = of_state.iloc[rng.permutation(len(of_state))]
        parts.append(
            pd.DataFrame(
                {
                    "State": state,
                    "Species": species,
                    "Sampling_Date": np.repeat(visits["Sampling_Date"].to_numpy(), visits["images"].to_numpy()),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)
