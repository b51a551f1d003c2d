"""How likely a photograph is of each state: a logistic regression on the frozen features of a backbone.

N images, F features, S states. Features have unit spread over sqrt(F) in the training rows, as the probe's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from biomass_models.data.frames import Fit
from biomass_models.data.images import views_for
from biomass_models.features.inputs import Inputs
from biomass_models.features.outputs import GLOBAL
from biomass_models.features.spec import FeatureSpec
from biomass_models.fold_rows import folds_in, training_rows
from biomass_models.interrupt import ShouldStop
from biomass_models.targets import FloatArray

PENALTY = 10.0  # C of scikit-learn: the inverse of the penalty's strength
CONSTANT = 1e-6  # spread below which a feature says nothing


@dataclass(frozen=True, kw_only=True)
class StateBank:
    """Which features: of the whole photograph, as a backbone sees it."""

    backbone: str
    size: int  # px
    weights: str  # fingerprint of the backbone's
    fit: Fit = "stretch"  # of the study: what the view is cut from

    purpose: ClassVar[str] = "a model of states is fitted"  # in messages
    made: ClassVar[str] = "the state rule was fitted"

    @property
    def spec(self) -> FeatureSpec:
        return FeatureSpec(backbone=self.backbone, views=views_for("whole", self.size), outputs=(GLOBAL,))

    def features(self, inputs: Inputs, should_stop: ShouldStop | None = None) -> FloatArray:
        """[N, F] of all images of `inputs`."""
        feature_NCVD = inputs.features(self.spec, should_stop=should_stop).stack(GLOBAL).numpy()
        return feature_NCVD[:, 0, 0].astype(np.float64)


@dataclass(frozen=True, kw_only=True)
class StateModel:
    """Coefficients on features as they are stored, one row and one intercept a state."""

    bank: StateBank
    states: tuple[str, ...]
    coefficients: tuple[tuple[float, ...], ...]  # [S, F]
    intercepts: tuple[float, ...]  # [S]

    def likely(self, feature_NF: FloatArray) -> FloatArray:
        """Chances [N, S]; rows sum to 1."""
        return softmax(feature_NF @ np.array(self.coefficients).T + np.array(self.intercepts), axis=1)

    def to_json(self) -> dict[str, Any]:
        return json.loads(json.dumps(asdict(self)))  # lists in place of tuples, as they are read back

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> StateModel:
        return cls(
            bank=StateBank(**content["bank"]),
            states=tuple(content["states"]),
            coefficients=tuple(map(tuple, content["coefficients"])),
            intercepts=tuple(content["intercepts"]),
        )


def fit_states(bank: StateBank, states: Sequence[str], feature_NF: FloatArray, state_N: NDArray[Any]) -> StateModel:
    """Fit on all rows given. A state that they lack has a chance of 0."""
    spread_F = feature_NF.std(0)
    scale_F = (spread_F > CONSTANT) / np.where(spread_F > CONSTANT, spread_F, 1.0) / np.sqrt(feature_NF.shape[1])
    there = [place for place, state in enumerate(states) if (state_N == state).any()]
    coefficient_SF, intercept_S = np.zeros((len(states), len(scale_F))), np.full(len(states), -1e3)
    if len(there) == 1:
        intercept_S[there] = 0.0
    else:
        place_N = np.array([states.index(state) for state in state_N])
        found = LogisticRegression(C=PENALTY, max_iter=5000).fit((feature_NF - feature_NF.mean(0)) * scale_F, place_N)
        row_SF, free_S = found.coef_, found.intercept_
        if len(there) == 2:  # scikit-learn has one row for two: that of the second
            row_SF, free_S = np.vstack([0 * row_SF, row_SF]), np.array([0.0, *free_S])
        coefficient_SF[there] = row_SF * scale_F
        intercept_S[there] = free_S - coefficient_SF[there] @ feature_NF.mean(0)
    return StateModel(
        bank=bank,
        states=tuple(states),
        coefficients=tuple(map(tuple, coefficient_SF.tolist())),
        intercepts=tuple(intercept_S.tolist()),
    )


def out_of_fold_states(
    bank: StateBank,
    states: Sequence[str],
    feature_NF: FloatArray,
    state_N: NDArray[Any],
    fold_N: NDArray[np.int64],
    *,
    ordered: bool,
) -> FloatArray:
    """Chances [N, S] of each row from a model of the rows that its fold learns from; NaN where no fold holds it out."""
    likely_NS = np.full((len(feature_NF), len(states)), np.nan)
    for fold in folds_in(fold_N):
        train_N = training_rows(fold_N, fold, ordered=ordered)
        model = fit_states(bank, states, feature_NF[train_N], state_N[train_N])
        likely_NS[fold_N == fold] = model.likely(feature_NF[fold_N == fold])
    return likely_NS
