"""What a measured learning curve says: scores by size, and what more photographs would bring.

S sizes, R repeats.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from biomass_models.counted import counted
from biomass_models.targets import FloatArray
from orchestration.advice.curve_fit import Forecast, forecast
from orchestration.study.derived.advice import LearningCurveRecord

MORE = 100  # photographs that are forecast
FEW_IMAGES = 150  # below it dates count for more than photographs


@dataclass(frozen=True, kw_only=True, eq=False)
class CurveReading:
    """Sizes are of a fold's training rows, ascending; scores are weighted R2 of pooled out-of-fold rows."""

    noun: str  # what a group is called
    groups: int  # in all
    images: int
    more: int  # photographs
    group_S: FloatArray
    image_S: FloatArray
    by_groups_RS: FloatArray
    by_images_RS: FloatArray
    with_groups: Forecast  # the larger number of photographs comes with groups of its own
    same_groups: Forecast  # it is of the groups that are there

    @classmethod
    def of(cls, record: LearningCurveRecord, more: int = MORE) -> CurveReading:
        """Sizes at which some fit of some repeat failed are left out."""
        repeats = sorted({point.repeat for point in record.points})
        table_RS = [[point for point in record.points if point.repeat == repeat] for repeat in repeats]
        sound = [
            column
            for column in range(len(table_RS[0]))
            if all(None not in (row[column].by_groups, row[column].by_images) for row in table_RS)
        ]

        def of_all(name: str) -> FloatArray:
            values = [[getattr(row[column], name) for column in sound] for row in table_RS]
            return np.array(values, dtype=np.float64).reshape(len(repeats), len(sound))

        group_S, image_S = of_all("groups").mean(axis=0), of_all("images").mean(axis=0)
        by_groups_RS, by_images_RS = of_all("by_groups"), of_all("by_images")
        growth = 1 + more / record.images
        return cls(
            noun=record.noun,
            groups=record.groups,
            images=record.images,
            more=more,
            group_S=group_S,
            image_S=image_S,
            by_groups_RS=by_groups_RS,
            by_images_RS=by_images_RS,
            with_groups=_forecast(group_S, by_groups_RS, growth, record.noun),
            same_groups=_forecast(image_S, by_images_RS, growth, "photograph"),
        )

    def lines(self) -> list[str]:
        """In words: how many dates there are, and what more would bring."""
        new = max(1, round(self.groups * self.more / self.images))
        found = [f"{counted(self.images, 'photograph')} of {counted(self.groups, self.noun)}"]
        if self.images < FEW_IMAGES and self.noun != "photograph":
            found[0] += f": below {FEW_IMAGES} photographs {self.noun}s count for more than photographs"
        for forecast_, where in (
            (self.with_groups, f"of about {counted(new, f'more {self.noun}')}"),
            (self.same_groups, f"of the {self.noun}s that are there"),
        ):
            if self.noun != "photograph" or forecast_ is self.with_groups:
                found.append(f"{counted(self.more, 'more photograph')}, {where}: {_said(forecast_)}")
        return found


def _forecast(size_S: FloatArray, score_RS: FloatArray, growth: float, noun: str) -> Forecast:
    return forecast(size_S, score_RS, growth * (float(size_S[-1]) if len(size_S) else 0.0), noun)


def _said(found: Forecast) -> str:
    if not found.resolvable:
        return f"not resolvable, {found.reason}"
    return f"the score rises by {found.gain:.2f} ± {found.band:.2f}"
