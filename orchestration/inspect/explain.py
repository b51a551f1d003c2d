"""`biomass explain`: what a trial says about one image, which view mattered, and where it looked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from safetensors.torch import load as load_tensors

from biomass_models.backbones.weights import WeightsSource
from biomass_models.config_rules import did_you_mean
from biomass_models.data.alignment import masses_of
from biomass_models.data.cell_weights import cell_weights
from biomass_models.data.frames import Fit
from biomass_models.data.images import View, shown_photograph
from biomass_models.data.table import TEST_FILE, read_test, train_file
from biomass_models.families import registry
from biomass_models.families.introduced import config_from_stored
from biomass_models.features.inputs import ImageSet, Inputs
from biomass_models.targets import TARGETS, FloatArray, blank_unmeasured, norm_of
from orchestration.inspect.maps import ViewMap, by_mass, map_panels, maps_in_unit, mean_maps, view_maps
from orchestration.study import layout
from orchestration.study.data_changes import shape_notice
from orchestration.study.ledger import Ledger, LedgerError, predicting_folds_of
from orchestration.study.mass_unit import MassUnit
from orchestration.study.records import COMPLETE, TrialRef
from orchestration.workers.weights_here import source_of_trials

PANEL = 900  # px, width of one panel of the picture
TALLEST = 900  # px, of a panel: a portrait is drawn narrower
MARGIN, TEXT = 12, 18  # px


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """One image through one trial. Masses in grams, in the order of TARGETS; NaN where none was measured."""

    image_id: str
    path: Path  # of the photograph
    trial_id: str
    how: str  # which fold models spoke
    pred_T: FloatArray  # NaN for a target that the study does not measure
    truth_T: FloatArray | None  # None for a test image
    maps: tuple[ViewMap, ...]  # one for each view (and mass), the whole image first; none for a family without maps
    map_unit: str  # of the maps, such as share of the attention, or g/m2
    views: tuple[View, ...]  # where the parts lie that the trial's model sees
    fit: Fit  # what they are cut from
    unit: str = "g"  # that the user has weighed in; g where the area of the quadrat is not known
    per_gram: float = 1.0  # how much of it one gram is
    warning: str | None = None  # about a new photograph whose shape the trial has not learned from

    def in_unit(self, mass_T: FloatArray) -> FloatArray:
        """Masses in the user's unit."""
        return mass_T * self.per_gram

    def to_json(self) -> dict[str, Any]:
        """Masses by target, and each view with its weight and its map as rows of numbers in `map_unit`."""

        def masses(factor: float) -> dict[str, Any]:
            measured = [None] * len(TARGETS) if self.truth_T is None else list(factor * self.truth_T)
            pairs = zip(TARGETS, factor * self.pred_T, measured, strict=True)
            return {target: {"predicted": pred, "measured": truth} for target, pred, truth in pairs}

        return {
            "image_id": self.image_id,
            "trial": self.trial_id,
            "how": self.how,
            "warning": self.warning,
            "masses_g": masses(1.0),
            "unit": self.unit,
            "masses": masses(self.per_gram),
            "map_unit": self.map_unit,
            "looks": [
                {"view": one.view, "mass": one.mass or None, "weight": one.weight, "map": one.map_HW}
                for one in self.maps
            ],
        }


def explain(
    ledger: Ledger,
    trial_id: str,
    image_id: str,
    data_dir: Path,
    *,
    cache_dir: Path,
    weights: WeightsSource | None = None,
) -> Explanation:
    """A training image from the ledger (by the fold model that never saw it), a test image by running the fold models.

    weights: None takes them from where the search had them. Raises LedgerError for a trial without this fold, an image
    of neither table, and other weights than the trial's.
    """
    record, quadrats = ledger.trial(trial_id), ledger.quadrats()
    model, config = registry.model(record.family), config_from_stored(record.family, record.config)
    views, study = tuple(model.views(config)), ledger.study()
    fit = study.settings.fit
    trained = quadrats[quadrats["image_id"] == image_id]
    if len(trained):
        row = trained.iloc[0]
        fold = int(row["fold"])
        if fold < 0:
            raise LedgerError(
                f"an image that is explained is predicted by a model that has not seen it, every fold of this study "
                f"has learned from {image_id}; name another"
            )
        result = ledger.result(trial_id)
        begun = layout.METRICS not in ledger.lost_fold_files(trial_id, fold)
        if result is not None and result.status != COMPLETE and not begun:
            raise LedgerError(
                f"trial {trial_id} is {result.status} and has no fold {fold}, which holds {image_id}; choose a "
                "complete trial (biomass leaderboard)"
            )
        oof = ledger.fold_oof(trial_id, fold)
        maps = ledger.fold_maps(trial_id, fold)
        seen, unit = maps_in_unit(view_maps(maps, image_id), record.family, study.mass_unit.per_square_metre(trained))
        return Explanation(
            image_id=image_id,
            path=data_dir / str(row["image_path"]),
            trial_id=trial_id,
            how=f"fold {fold}, whose model never saw this image",
            pred_T=masses_of(oof, [image_id])[0],
            truth_T=row[list(TARGETS)].to_numpy(np.float64),
            maps=seen,
            map_unit=unit,
            views=views,
            fit=fit,
            **_unit_of(study.mass_unit, trained),
        )
    kept = ledger.exam_quadrats()
    if kept is not None and image_id in set(kept["image_id"]):
        raise LedgerError(f"an image that is explained is no image of the exam, {image_id} is; name another")
    test = read_test(data_dir) if (data_dir / TEST_FILE).exists() else quadrats.iloc[:0]
    asked = test[test["image_id"] == image_id].reset_index(drop=True)
    if not len(asked):
        labels = train_file(data_dir)
        known = [*quadrats["image_id"].astype(str), *test["image_id"].astype(str)]
        hint = did_you_mean(image_id, known) or f"; the study has such as {', '.join(known[:3])}"
        raise LedgerError(f"an image is one of {labels} or {TEST_FILE}, got {image_id!r}{hint}")
    source = source_of_trials([TrialRef(ledger.storage.uri, trial_id)], weights)
    inputs = Inputs(ImageSet.from_table(data_dir, asked), cache_dir=cache_dir, weights=source, fit=fit)
    folds = predicting_folds_of(ledger)
    tensors = [load_tensors(ledger.fold_model(trial_id, fold)) for fold in folds]
    tables = [model.maps(config, one, inputs) for one in tensors] if model.maps else []
    seen, unit = maps_in_unit(mean_maps(tables, image_id), record.family, study.mass_unit.per_square_metre(asked))
    return Explanation(
        image_id=image_id,
        path=inputs.images.paths[0],
        trial_id=trial_id,
        how="the last block's model" if ledger.study().settings.ordered else f"mean of {len(folds)} fold models",
        pred_T=blank_unmeasured(
            np.mean([model.predict(config, one, inputs)[0] for one in tensors], axis=0), norm_of(cell_weights(quadrats))
        ),
        truth_T=None,
        maps=seen,
        map_unit=unit,
        views=views,
        fit=fit,
        warning=shape_notice(study, inputs.images.paths),
        **_unit_of(study.mass_unit, None),
    )


def _unit_of(unit: MassUnit, quadrat: pd.DataFrame | None) -> dict[str, Any]:
    """Explanation's fields about the unit; quadrat: the row of the study's table, which may have its area."""
    per_gram = unit.per_gram(quadrat)
    return {} if per_gram is None else {"unit": unit.name, "per_gram": float(per_gram[0, 0])}


def render_explanation(explanation: Explanation) -> Group:
    """Masses, and the weights of the views, as terminal tables."""
    unit, pred_T, truth_T = explanation.unit, *_shown_masses(explanation)
    masses = Table(title=f"{explanation.image_id} by trial {explanation.trial_id}", title_justify="left")
    for column in ("target", f"predicted {unit}") + (
        () if truth_T is None else (f"measured {unit}", f"difference {unit}")
    ):
        masses.add_column(column, justify="left" if column == "target" else "right")
    for index, target in _predicted(explanation):
        pred = pred_T[index]
        measured: tuple[str, ...] = ()
        if truth_T is not None:
            known = not np.isnan(truth_T[index])
            measured = (f"{truth_T[index]:.1f}", f"{pred - truth_T[index]:+.1f}") if known else ("not measured", "")
        masses.add_row(target, f"{pred:.1f}", *measured)
    masses.caption, masses.caption_justify = explanation.how, "left"
    if explanation.warning is not None:
        masses.caption = f"{explanation.how}; warning: {escape(explanation.warning)}"
    if not explanation.maps:
        return Group(masses, "This family has no maps of where it looked: nothing to draw but the photograph.")
    if densities := by_mass(explanation.maps):
        return Group(masses, _density_table(densities, explanation.map_unit))
    views = Table(title="Where it looked", title_justify="left")
    views.add_column("view")
    views.add_column("weight of the view", justify="right")
    views.add_column("strongest place (row, column)", justify="right")
    for one in explanation.maps:
        down, right = np.unravel_index(one.map_HW.argmax(), one.map_HW.shape)
        rows, columns = one.map_HW.shape
        place = f"{one.map_HW.max():.0%} at {down + 1}, {right + 1} of {rows} x {columns}"
        views.add_row(one.view, "" if np.isnan(one.weight) else f"{one.weight:.2f}", place)
    return Group(masses, views)


def _shown_masses(explanation: Explanation) -> tuple[FloatArray, FloatArray | None]:
    """Predicted and measured masses in the user's unit."""
    truth_T = explanation.truth_T
    return explanation.in_unit(explanation.pred_T), None if truth_T is None else explanation.in_unit(truth_T)


def _predicted(explanation: Explanation) -> list[tuple[int, str]]:
    """Targets that the study measures, with their places among TARGETS."""
    return [(index, target) for index, target in enumerate(TARGETS) if not np.isnan(explanation.pred_T[index])]


def _density_table(densities: Mapping[str, Sequence[ViewMap]], unit: str) -> Table:
    table = Table(title=f"Density, {unit}", title_justify="left")
    for column in ("mass", "mean", "thinnest place", "densest place"):
        table.add_column(column, justify="left" if column == "mass" else "right")
    for mass, of_mass in densities.items():
        value = np.concatenate([one.map_HW.ravel() for one in of_mass])
        table.add_row(
            mass.removesuffix("_g"), *(f"{number:.1f}" for number in (value.mean(), value.min(), value.max()))
        )
    return table


def draw_explanation(explanation: Explanation) -> Image.Image:
    """What the model saw; then where it looked in the whole image and in each local view, or the density of each mass:
    in colours over the grey photograph, with their scale."""
    photograph = shown_photograph(explanation.path, PANEL, TALLEST, fit=explanation.fit)
    captions, panels = [_caption(explanation)], [photograph]
    for caption, panel in map_panels(
        explanation.path, photograph, explanation.views, explanation.fit, explanation.maps, explanation.map_unit
    ):
        captions.append(caption)
        panels.append(panel)
    line = TEXT + MARGIN
    sheet = Image.new("RGB", (PANEL + 2 * MARGIN, sum(len(panel) + line for panel in panels) + MARGIN), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(TEXT - 3)
    top = MARGIN // 2
    for caption, panel in zip(captions, panels, strict=True):
        pen.text((MARGIN, top), caption, fill="black", font=font)
        sheet.paste(Image.fromarray(panel), (MARGIN, top + line - MARGIN // 2))
        top += len(panel) + line
    return sheet


def _caption(explanation: Explanation) -> str:
    pred_T, truth_T = _shown_masses(explanation)
    parts = [
        f"{target.removesuffix('_g').removeprefix('Dry_')} {pred_T[index]:.0f}"
        + ("" if truth_T is None or np.isnan(truth_T[index]) else f" ({truth_T[index]:.0f})")
        for index, target in _predicted(explanation)
    ]
    what = "predicted" if truth_T is None else "predicted (measured)"
    return f"{explanation.image_id}: {', '.join(parts)} {explanation.unit} {what}"
