"""The model families by name: the one table that search, prediction and tests go through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from biomass_models import baseline, estimate, probe
from biomass_models.configs import BaselineConfig, ProbeConfig
from biomass_models.features import FeatureSpec
from biomass_models.fit import FloatArray, FoldResult

RIDGE_SECONDS = 4e-10  # of one SVD per row, row and feature on one CPU core


@dataclass(frozen=True, kw_only=True)
class Family:
    """One kind of model. `fit` and `predict` are pure: configuration, table and inputs in, numbers out.

    fit(config, quadrats, fold_N, fold, inputs, *, seed, on_epoch=None, should_stop=None) -> FoldResult
    predict(config, tensors, inputs) -> pred_NT                      grams, rows as in inputs.images
    feature_specs(config) -> specs                                   empty when the backbone trains
    fold_seconds(config, n_train, device) -> seconds                 the fold alone, features being there
    """

    name: str
    config_class: type[Any]
    feature_specs: Callable[[Any], list[FeatureSpec]]
    fit: Callable[..., FoldResult]
    predict: Callable[..., FloatArray]
    fold_seconds: Callable[[Any, int, str], float]

    def estimate_feature_seconds(self, config: Any, n_images: int, device: str = "auto") -> float:
        """Seconds to fill the feature banks of a configuration, once per node and none if they are cached."""
        return sum(estimate.feature_seconds(spec, n_images, device) for spec in self.feature_specs(config))

    def estimate_fold_seconds(
        self, config: Any, n_train: int, device: str = "auto", *, include_features: bool = True
    ) -> float:
        """Seconds of the first fold here: nothing is cached, so the features of 5/4 n_train images come first."""
        features = self.estimate_feature_seconds(config, n_train * 5 // 4, device) if include_features else 0.0
        return features + self.fold_seconds(config, n_train, device)


def _baseline_seconds(config: BaselineConfig, n_train: int, device: str) -> float:
    if config.trained_blocks > 0:
        return estimate.trained_fold_seconds(config, n_train, device)
    return estimate.head_fold_seconds(config, n_train, device)


def _probe_seconds(config: ProbeConfig, n_train: int, device: str) -> float:
    del device  # numpy
    views = 1 if config.view_merge == "mean" else len(probe.feature_specs(config)[0].views)
    width = estimate.feature_width(config.backbone, config.size)
    features = width * config.layers * len(probe.OUTPUTS[config.pooling]) * views
    return (config.inner_folds + 1) * RIDGE_SECONDS * n_train * n_train * features


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            name="baseline",
            config_class=BaselineConfig,
            feature_specs=baseline.feature_specs,
            fit=baseline.fit,
            predict=baseline.predict,
            fold_seconds=_baseline_seconds,
        ),
        Family(
            name="probe",
            config_class=ProbeConfig,
            feature_specs=probe.feature_specs,
            fit=probe.fit,
            predict=probe.predict,
            fold_seconds=_probe_seconds,
        ),
    )
}
