"""The model families by name: the one table that search, prediction and tests go through."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pandas as pd
import torch

from biomass_models.data.images import View, views_for
from biomass_models.errors import UserError
from biomass_models.families import costs as estimate
from biomass_models.families.baseline import model as baseline
from biomass_models.families.configs import BaselineConfig, DistilledConfig, ProbeConfig, TeacherConfig
from biomass_models.families.distilled import model as distilled
from biomass_models.families.distilled.student import Student
from biomass_models.families.probe import model as probe
from biomass_models.families.speed import Speed
from biomass_models.features.spec import FeatureSpec
from biomass_models.training.fit import FloatArray, FoldResult
from biomass_models.training.sources import ViewTokens

RIDGE_SECONDS = 4e-10  # of one SVD per row, row and feature on one CPU core


@dataclass(frozen=True, kw_only=True)
class Family:
    """One kind of model. `fit` and `predict` are pure: configuration, table and inputs in, numbers out.

    They look at `should_stop` between epochs, batches and inner folds (interrupt.check_stop).

    fit(config, quadrats, fold_N, fold, inputs, *, seed, on_epoch=None, should_stop=None) -> FoldResult
    predict(config, tensors, inputs, *, flips=1, should_stop=None) -> pred_NT    grams, rows as in inputs.images;
                                                                     flips > 1 averages over turns and mirrors
    feature_specs(config) -> specs                                   empty when the backbone trains
    views(config) -> views                                           parts of the photograph that the model sees
    fold_seconds(config, n_train, speed) -> seconds                  the fold alone, features being there; counted from
                                                                     what a slot was measured to do (speed.Speed)
    fit_folds(config, quadrats, fold_N, folds, inputs, *, seeds, should_stop=None) -> results of several folds at once;
                                                                     None: it cannot. For configurations that say so
                                                                     (configs.batches_folds, which needs no torch)
    teacher(config) -> settings or None                              then fit takes `taught` of teacher.fit_teacher
    attention(config, tensors, inputs) -> table                      attention.ATTENTION_COLUMNS; None: it has none
    """

    name: str
    config_class: type[Any]
    feature_specs: Callable[[Any], list[FeatureSpec]]
    views: Callable[[Any], Sequence[View]]
    fit: Callable[..., FoldResult]
    predict: Callable[..., FloatArray]
    fold_seconds: Callable[[Any, int, Speed], float]
    fit_folds: Callable[..., list[FoldResult]] | None = None
    teacher: Callable[[Any], TeacherConfig | None] = lambda _: None
    attention: Callable[..., pd.DataFrame] | None = None

    def estimate_feature_seconds(self, config: Any, n_images: int, device: str = "auto") -> float:
        """Seconds to fill the feature banks of a configuration, once per node and none if they are cached."""
        return sum(estimate.feature_seconds(spec, n_images, device) for spec in self.feature_specs(config))

    def estimate_fold_seconds(
        self, config: Any, n_train: int, device: str = "auto", *, include_features: bool = True
    ) -> float:
        """Seconds of the first fold here: nothing is cached, so the features of 5/4 n_train images come first."""
        features = self.estimate_feature_seconds(config, n_train * 5 // 4, device) if include_features else 0.0
        trained = [config.backbone] if getattr(config, "trained_blocks", 0) else []
        return features + self.fold_seconds(config, n_train, estimate.measure(trained, device))


def _baseline_seconds(config: BaselineConfig, n_train: int, speed: Speed) -> float:
    if config.trained_blocks > 0:
        return estimate.trained_fold_seconds(config, views_for("whole", config.size), n_train, speed)
    features, _ = estimate.feature_widths(config.backbone, config.size)
    with torch.device("meta"):
        net = baseline.BaselineNet(None, baseline.head_of(config, features))
    return estimate.head_fold_seconds(
        config, net, lambda count: torch.zeros(count, features, device="meta"), n_train, speed
    )


def _distilled_seconds(config: DistilledConfig, n_train: int, speed: Speed) -> float:
    """The teacher's second or two, paid by the first trial that asks for it, are left out."""
    parts = distilled.view_parts(config)
    if config.trained_blocks > 0:
        return estimate.trained_fold_seconds(config, list(chain.from_iterable(parts)), n_train, speed)
    whole, token = estimate.feature_widths(config.backbone, config.size)

    def tokens_of(count: int) -> tuple[ViewTokens, ...]:
        shapes = [((count, len(part), whole), (count, len(part), config.grid**2, token)) for part in parts]
        return tuple(ViewTokens(*(torch.zeros(shape, device="meta") for shape in pair)) for pair in shapes)

    with torch.device("meta"):
        net = Student(config, None, global_width=whole, patch_width=token)
    return estimate.head_fold_seconds(config, net, tokens_of, n_train, speed)


def _probe_seconds(config: ProbeConfig, n_train: int, speed: Speed) -> float:
    del speed  # numpy on one core, counted
    views = 1 if config.view_merge == "mean" else len(probe.feature_specs(config)[0].views)
    width = max(estimate.feature_widths(config.backbone, config.size))
    features = width * config.layers * len(probe.OUTPUTS[config.pooling]) * views
    return (config.inner_folds + 1) * RIDGE_SECONDS * n_train * n_train * features


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            name="baseline",
            config_class=BaselineConfig,
            feature_specs=baseline.feature_specs,
            views=lambda config: views_for("whole", config.size),
            fit=baseline.fit,
            predict=baseline.predict,
            fold_seconds=_baseline_seconds,
            fit_folds=baseline.fit_folds,
        ),
        Family(
            name="probe",
            config_class=ProbeConfig,
            feature_specs=probe.feature_specs,
            views=lambda config: views_for(config.layout, config.size),
            fit=probe.fit,
            predict=probe.predict,
            fold_seconds=_probe_seconds,
        ),
        Family(
            name="distilled",
            config_class=DistilledConfig,
            feature_specs=distilled.feature_specs,
            views=lambda config: list(chain.from_iterable(distilled.view_parts(config))),
            fit=distilled.fit,
            predict=distilled.predict,
            fold_seconds=_distilled_seconds,
            teacher=DistilledConfig.teacher_config,
            attention=distilled.attention,
        ),
    )
}


def family_named(name: str) -> Family:
    """Raises UserError for a family that is not known here, such as one of a package that is not installed."""
    if name not in FAMILIES:
        raise UserError(
            f"family {name} is not known here, this version has {', '.join(FAMILIES)}; install the package that "
            "brings it, or upgrade"
        )
    return FAMILIES[name]
