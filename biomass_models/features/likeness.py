"""How unlike the training photographs a photograph is: distance to its nearest ones among frozen embeddings.

N photographs, L training photographs, D features of an embedding, K nearest. Features are standardised over the
training photographs, those that hardly vary left out, and clipped. What a distance means is read off the training
photographs themselves, each against those of other units (dates) alone: a percentile of 99 is as far as the farthest
one in a hundred of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from biomass_models.data.frames import Fit
from biomass_models.data.images import View
from biomass_models.features.inputs import Inputs
from biomass_models.features.outputs import GLOBAL
from biomass_models.features.spec import FeatureSpec
from biomass_models.interrupt import ShouldStop
from biomass_models.targets import FloatArray

NEAREST = 5  # training photographs whose mean distance counts
UNLIKE = 99.0  # percentile above which a photograph is flagged
CONSTANT, CLIP = 1e-6, 5.0  # spread below which a feature says nothing; standard deviations


@dataclass(frozen=True, kw_only=True)
class EmbeddingBank:
    """Which features: the mean over the views that a member sees anyway, so that they cost nothing more."""

    backbone: str
    views: tuple[View, ...]
    stamp: str
    layer: int
    dtype: str
    weights: str  # fingerprint of the backbone's
    fit: Fit = "stretch"  # of the study: what the views are cut from

    @classmethod
    def of(cls, spec: FeatureSpec, weights: str, fit: Fit) -> Self:
        return cls(
            backbone=spec.backbone,
            views=spec.views,
            stamp=spec.stamp,
            layer=spec.layers[0],
            dtype=spec.dtype,
            weights=weights,
            fit=fit,
        )

    purpose: ClassVar[str] = "embeddings are made"  # in messages
    made: ClassVar[str] = "embeddings were made"

    @property
    def spec(self) -> FeatureSpec:
        return FeatureSpec(
            backbone=self.backbone,
            views=self.views,
            stamp=self.stamp,  # type: ignore[arg-type]  # checked when it is built
            layers=(self.layer,),
            dtype=self.dtype,
            outputs=(GLOBAL,),
        )

    def features(self, inputs: Inputs, should_stop: ShouldStop | None = None) -> FloatArray:
        """[N, D] of all images of `inputs`."""
        feature_NCVD = inputs.features(self.spec, should_stop=should_stop).stack(GLOBAL, layer=self.layer).numpy()
        return feature_NCVD[:, 0].astype(np.float64).mean(axis=1)

    def to_json(self) -> dict[str, Any]:
        return json.loads(json.dumps(asdict(self)))  # lists in place of tuples, as they are read back

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        views = tuple(View(**{**view, "box": tuple(view["box"])}) for view in content["views"])
        return cls(**{**content, "views": views})


@dataclass(frozen=True, kw_only=True, eq=False)
class Likeness:
    """Embeddings of the training photographs."""

    bank: EmbeddingBank
    image_ids: tuple[str, ...]
    units: tuple[str, ...]  # of each: photographs of one unit are no measure of what a new one is like
    feature_LD: FloatArray

    def nearest(self, feature_ND: FloatArray) -> tuple[FloatArray, NDArray[np.int64]]:
        """Percentile [N] of each photograph's distance among those of the training photographs to other units, and rows
        [N, K] of its nearest training photographs, the nearest first.

        One photograph after the other: its numbers do not depend on the others.
        """
        near_NK = np.empty((len(feature_ND), min(NEAREST, len(self.image_ids))), dtype=np.int64)
        percentile_N = np.empty(len(feature_ND))
        for row, scaled_D in enumerate(self._scaled(feature_ND)):
            square_L = ((self._train_LD - scaled_D) ** 2).sum(axis=1)
            near_NK[row] = np.argsort(square_L, kind="stable")[: near_NK.shape[1]]
            distance = np.sqrt(square_L[near_NK[row]]).mean()
            percentile_N[row] = 100 * np.searchsorted(self.held_out_L, distance) / len(self.held_out_L)
        return percentile_N, near_NK

    @cached_property
    def held_out_L(self) -> FloatArray:
        """Distances of the training photographs to those of other units, sorted; of one unit alone, to all others."""
        unit_L = np.asarray(self.units)
        several = len(set(self.units)) > 1
        found = []
        for row, scaled_D in enumerate(self._train_LD):
            others = unit_L != unit_L[row] if several else np.arange(len(unit_L)) != row
            square_L = np.sort(((self._train_LD[others] - scaled_D) ** 2).sum(axis=1))[:NEAREST]
            found.append(np.sqrt(square_L).mean() if len(square_L) else 0.0)
        return np.sort(np.array(found))

    @cached_property
    def _train_LD(self) -> FloatArray:
        return self._scaled(self.feature_LD)

    def _scaled(self, feature_ND: FloatArray) -> FloatArray:
        spread_D = self.feature_LD.std(axis=0)
        used_D = spread_D > CONSTANT
        centred_ND = (feature_ND - self.feature_LD.mean(axis=0))[:, used_D] / spread_D[used_D]
        scaled_ND: FloatArray = np.clip(centred_ND, -CLIP, CLIP)
        return scaled_ND


def names_of(likeness: Likeness, near_NK: NDArray[np.int64]) -> list[Sequence[str]]:
    """Ids of the nearest training photographs."""
    return [[likeness.image_ids[place] for place in near_K] for near_K in near_NK]
