"""The contract of a model family.

A family is a folder with `config.py` and `model.py`, and a search space. `config.py` needs no torch and defines
`FAMILY`; `model.py` fits, predicts and defines `MODEL`. The search space is search_spaces/<name>.py, or `space.py` in
the folder of a package of others. What is optional has a default here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray
    from torch import Tensor

    from biomass_models.data.images import View
    from biomass_models.families.speed import Speed
    from biomass_models.features.inputs import Inputs
    from biomass_models.features.spec import FeatureSpec
    from biomass_models.training.fit import FoldResult

SHOWN = 3  # settings in a summary


class Config(Protocol):
    """A configuration: a frozen dataclass of plain JSON values that checks itself when it is built."""

    @property
    def backbone(self) -> str:
        """timm name of the backbone; its weights are part of a trial's id."""
        ...


def differences(config: Any, published: Any, *names: str) -> str:
    """Fields that differ from the published setting as `name=value`, in the order of `names`; the rest is counted."""
    return _listed(config, _values(published), names)


def _from_defaults(config: Any) -> str:
    """Fields that differ from their default, in the order of the dataclass."""
    return _listed(config, {one.name: one.default for one in fields(config)}, [one.name for one in fields(config)])


def _listed(config: Any, usual: Mapping[str, Any], names: Sequence[str]) -> str:
    differ = [name for name, value in _values(config).items() if value != usual[name]]
    first = [name for name in names if name in differ][:SHOWN]
    shown = [f"{name}={_short(getattr(config, name))}" for name in first]
    more = len(differ) - len(first)
    return ", ".join([*shown, *([f"{more} more"] if more else [])])


def _values(config: Any) -> dict[str, Any]:
    """By field; `dataclasses.asdict` would copy each, and a leaderboard asks for thousands."""
    return {one.name: getattr(config, one.name) for one in fields(config)}


def _short(value: Any) -> str:
    return f"{value:.2g}" if isinstance(value, float) else f"{value}"


def _never(_config: Any) -> bool:
    return False


def _any_mass(_measured_NT: NDArray[np.bool_]) -> None:
    return None


@dataclass(frozen=True, kw_only=True)
class Family:
    """What is known of a family without torch.

    config_class            class of its configurations (see Config)
    describe                what kind of model it is: half a line, for the README's table, the report and the help
    summary(config) -> text what tells this configuration from the published one: a line, for leaderboard and report
    batches_folds(config)   whether all folds of a trial can be one batched problem (`Model.fit_folds`)
    metadata                columns of the table that its fits may learn from, beside the masses: a search of data
                            that lack one is without this family
    learns(measured_NT)     why its fits cannot learn all that was measured, None where they can: which of the five
                            targets of each training row of a fold were measured, [N, 5]. A search of data for which
                            some fold has a reason is without this family
    pseudo_labels           whether its fits take rows that models have labelled (pseudo_rows.py): a second round is
                            without a family that does not
    map_unit                unit of the numbers of `Model.maps`, such as "share of the attention"; "" without maps
    """

    config_class: type[Any]
    describe: str
    summary: Callable[[Any], str] = _from_defaults
    batches_folds: Callable[[Any], bool] = _never
    metadata: tuple[str, ...] = ()
    learns: Callable[[NDArray[np.bool_]], str | None] = _any_mass
    pseudo_labels: bool = False
    map_unit: str = ""


@dataclass(frozen=True)
class Artefact:
    """What an artefact of one fold says of the fold's training rows."""

    table: pd.DataFrame  # image_id, then numbers; a row for each training row, in their order
    score: float = np.nan  # how good it is, for the record; NaN where that has no meaning


@dataclass(frozen=True, kw_only=True)
class Shared:
    """An artefact per fold that trials share: fitted once in a study for each fold and settings, then stored.

    name                what it is called, by one word that no other family uses: part of its id and of its place in a
                        study. Facts of a fold are noted as info[name] (id) and info[f"{name}_score"]; leaderboard and
                        result show the score of the one that is called "teacher".
    settings(config)    a dataclass of plain JSON values that the artefact depends on; None: this configuration has none
    fit(settings, quadrats, fold_N, fold, *, seed, should_stop) -> Artefact
                        nothing may be fitted on the rows of `fold`. Raises FitError, StopRequested.
    """

    name: str
    settings: Callable[[Any], Any | None]
    fit: Callable[..., Artefact]


@dataclass(frozen=True, kw_only=True)
class Model:
    """What computes. `fit` and `predict` are pure: configuration, table and inputs in, numbers out. They look at
    `should_stop` between epochs, batches and inner folds (interrupt.check_stop), which is also a sign of life.

    fit(config, quadrats, fold_N, fold, inputs, *, seed, should_stop=None) -> FoldResult
        Fits the rows outside `fold` and predicts those inside. quadrats: image_id, group, metadata and the five
        targets [grams, NaN where not measured]; its images are rows of `inputs`. All five are predicted; what is said
        of a target that no row has measured is not looked at. Rows that models have labelled join what predicts, by
        the weights of their cells, and nothing else that is fitted (training.fit.FoldRows). Same seed, same numbers.
        Of a model with `shared`, the keyword `shared` brings the fold's Artefact where the configuration asks for one,
        of the rows that were weighed; without it the fit makes its own. Raises FitError, StopRequested.
    predict(config, tensors, inputs, *, flips=1, should_stop=None) -> pred_NT
        Grams of all photographs of `inputs`, from a fit's tensors and without metadata; flips > 1 averages over turns
        and mirrors.
    feature_specs(config)   banks of frozen features that a fit needs; empty when the backbone trains on pictures
    views(config)           parts of the photograph that the model sees
    fold_seconds(config, n_train, speed)    seconds of a fold, the features being there; counted from what a slot was
                            measured to do (speed.Speed)
    fit_folds(config, quadrats, fold_N, folds, inputs, *, seeds, should_stop=None) -> results
        `fit` for several folds in one batch, the same but for rounding; for configurations of which
        `Family.batches_folds` is true.
    shared                  an artefact per fold that trials share
    maps(config, tensors, inputs)   where the model looked: a table with the columns training.maps.MAP_COLUMNS; `fit`
                            puts that of its held-out rows into FoldResult.maps
    """

    fit: Callable[..., FoldResult]
    predict: Callable[..., NDArray[np.float64]]
    feature_specs: Callable[[Any], list[FeatureSpec]]
    views: Callable[[Any], Sequence[View]]
    fold_seconds: Callable[[Any, int, Speed], float]
    fit_folds: Callable[..., list[FoldResult]] | None = None
    shared: Shared | None = None
    maps: Callable[[Any, Mapping[str, Tensor], Inputs], pd.DataFrame] | None = None
