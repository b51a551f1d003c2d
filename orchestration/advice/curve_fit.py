"""What more photographs would bring, from scores at several sizes: score = a + b n^-c, with b <= 0.

S sizes, R repeats; n is a number of dates or of photographs; scores are weighted R2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from biomass_models.targets import FloatArray

POWER_C = np.linspace(0.1, 2.0, 39)  # exponents that are tried
LEAST_BAND = 0.05  # by so much such forecasts err, whatever repeats say
LEAST_SIZES = 4  # one more than the curve has parameters
FARTHEST = 2.0  # times what there is: nothing is said beyond


@dataclass(frozen=True, kw_only=True)
class Curve:
    """a + b n^-c."""

    a: float
    b: float  # 0 or below: more never costs
    c: float

    def at(self, size: float) -> float:
        return self.a + self.b * size**-self.c


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a larger number would bring."""

    size: float
    gain: float | None  # of the score over that at the largest size; None: no curve
    band: float | None  # the gain lies within so much, to each side
    reason: str = ""  # why it is not resolvable; empty where it is

    @property
    def resolvable(self) -> bool:
        return not self.reason


def fit_curve(size_S: FloatArray, score_S: FloatArray) -> Curve:
    """Least squares; of equally good exponents the smallest."""
    best: tuple[float, Curve] | None = None
    for c in POWER_C:
        shape_S = size_S**-c
        centred_S = shape_S - shape_S.mean()
        square = float(centred_S @ centred_S)
        b = min(0.0, float(centred_S @ score_S) / square) if square > 0 else 0.0
        a = float(score_S.mean() - b * shape_S.mean())
        loss = float(((score_S - a - b * shape_S) ** 2).sum())
        if best is None or loss < best[0] - 1e-15:
            best = (loss, Curve(a=a, b=b, c=float(c)))
    assert best is not None
    return best[1]


def forecast(size_S: FloatArray, score_RS: FloatArray, size: float, noun: str) -> Forecast:
    """Gain from the largest of size_S (ascending) to `size`; the band is two standard deviations of the repeats' own
    forecasts, and at least LEAST_BAND."""
    largest = float(size_S[-1]) if len(size_S) else 0.0
    if len(size_S) < LEAST_SIZES:
        why = f"a curve needs {LEAST_SIZES} numbers of {noun}s, there are {len(size_S)}"
        return Forecast(size=size, gain=None, band=None, reason=why)
    if size > FARTHEST * largest:
        why = f"{size:.0f} {noun}s are more than twice the {largest:.0f} that fits learn from"
        return Forecast(size=size, gain=None, band=None, reason=why)
    curve = fit_curve(size_S, score_RS.mean(axis=0))
    gain = curve.at(size) - curve.at(largest)
    each_R = [(own := fit_curve(size_S, score_S)).at(size) - own.at(largest) for score_S in score_RS]
    band = max(LEAST_BAND, 2 * float(np.std(each_R, ddof=1)) if len(each_R) > 1 else LEAST_BAND)
    why = f"a gain of {gain:.3f} lies within the band of {band:.3f}" if gain <= band else ""
    return Forecast(size=size, gain=gain, band=band, reason=why)
