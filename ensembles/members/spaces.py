"""Predictions that are not grams of dry matter per quadrat: in which space or unit they seem to be.

N images, T = 5 targets. A space is recognised by what undoing it does: predictions that had no likeness to grams have
skill, or agree with other members, once it is undone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from biomass_models.targets import FloatArray, weight_T, weighted_square

QUADRAT_M2 = 0.21  # 70 x 30 cm
UNITS: dict[float, str] = {  # what a mass in grams is multiplied by
    1000.0: "convert milligrams to grams",
    0.001: "convert kilograms to grams",
    10 / QUADRAT_M2: "convert kg/ha to grams per quadrat: multiply by 0.021",
    1 / QUADRAT_M2: "convert g/m2 to grams per quadrat: multiply by 0.21",
    0.01 / QUADRAT_M2: "convert t/ha to grams per quadrat: multiply by 21",
    10.0: "divide by 10; a sum over folds or views?",
    0.1: "multiply by 10; a mean over folds with zeros?",
    100.0: "divide by 100; percent?",
    0.01: "multiply by 100; shares?",
    2.0: "divide by 2; a sum over two views?",
    0.5: "multiply by 2; the mean of two halves?",
}
_NEAR = np.log(1.25)  # a factor within 25 % of a known one is called by its name


@dataclass(frozen=True, kw_only=True)
class Space:
    """A space that predictions may be in, and how they become grams."""

    name: str
    remedy: str
    grams: Callable[[FloatArray], FloatArray]  # predictions [N, 5] -> grams [N, 5]


def spaces(reference_NT: FloatArray) -> list[Space]:
    """What predictions may be in; scalings are undone with mean, spread and range of the reference [N, 5] in grams.

    NaN in the reference is not looked at.
    """
    never_T = np.isnan(reference_NT).all(0)
    known_NT = np.where(never_T, 0.0, reference_NT)
    mean_T, sd_T = np.nanmean(known_NT, axis=0), np.nanstd(known_NT, axis=0)
    log_NT = np.log1p(np.maximum(known_NT, 0))
    log_mean_T, log_sd_T = np.nanmean(log_NT, axis=0), np.nanstd(log_NT, axis=0)
    top_T, low_T = np.nanmax(known_NT, axis=0), np.nanmin(known_NT, axis=0)
    return [
        Space(name="log1p", remedy="np.expm1 gives grams", grams=_capped(np.expm1)),
        Space(name="sqrt", remedy="squares give grams", grams=np.square),
        Space(name="the natural logarithm", remedy="np.exp gives grams", grams=_capped(np.exp)),
        Space(name="log10", remedy="powers of ten give grams", grams=_capped(lambda pred: 10.0**pred)),
        Space(name="the cube root", remedy="cubes give grams", grams=lambda pred: pred**3),
        Space(
            name="z-scores",
            remedy="multiply by the sd and add the mean of the training masses",
            grams=lambda pred: pred * sd_T + mean_T,
        ),
        Space(
            name="z-scored log1p",
            remedy="undo the scaling, then np.expm1",
            grams=_capped(lambda pred: np.expm1(np.minimum(pred * log_sd_T + log_mean_T, 12))),
        ),
        Space(
            name="masses scaled to [0, 1]",
            remedy="multiply by the range of the training masses",
            grams=lambda pred: pred * (top_T - low_T) + low_T,
        ),
    ]


def unit_text(factor: float) -> str:
    """`about 4.8 times` and what to do about it, for a factor between predictions and grams."""
    known = min(UNITS, key=lambda unit: abs(np.log(factor / unit)))
    if abs(np.log(factor / known)) <= (np.log(3) if known in (1000.0, 0.001) else _NEAR):
        return f"about {float(f'{known:.3g}'):g} times the truth; {UNITS[known]}"
    return f"about {factor:.2g} times the truth; give grams per quadrat"


def size(mass_NT: FloatArray, weight: FloatArray = weight_T) -> float:
    """Root mean square of masses in the metric's weights (of the targets, or the cells), grams."""
    return float(np.sqrt(weighted_square(mass_NT, weight).sum(-1).mean()))


def _capped(undo: Callable[[FloatArray], FloatArray]) -> Callable[[FloatArray], FloatArray]:
    """Grams in log space overflow: at 12 they are 160 kg already."""
    return lambda pred: undo(np.minimum(pred, 12.0))
