"""The images with the largest errors: photograph, what was measured, what was predicted, where a model looked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from biomass_models.families.readable import map_unit_of
from biomass_models.targets import TARGETS, FloatArray
from orchestration.overlay import G_PER_M2, WHOLE, Pixels, Placed, overlaid, scale_end, tile_boxes, with_scale
from orchestration.report.data.context import ReportContext
from orchestration.report.html import Html, tag
from orchestration.report.sections.photographs import Photographs, data_uri, density_maps, whole_map
from orchestration.report.words import NONE, SHORT, count, number, percent
from orchestration.study import layout
from orchestration.study.data import Trial
from orchestration.study.ledger import LedgerError

MOST = 24


def worst_images(context: ReportContext, photographs: Photographs) -> Html:
    """A gallery of the images with the largest weighted squared error, worst first."""
    assert context.shown is not None
    quadrats, loss_N = context.study.quadrats, context.scorer.loss_N(context.shown.pred_RNT)
    order = [int(row) for row in np.argsort(-loss_N, kind="stable")[:MOST]]
    looking, maps = _looked(context, [int(quadrats["fold"].iloc[row]) for row in order])
    seen_by = None if looking is None else _Seen.of(context, looking, maps, order)
    total = float(loss_N.sum()) or 1.0
    cards, seen, missing = [], 0, 0
    for rank, row in enumerate(order, start=1):
        pixels = photographs.thumbnail(str(quadrats["image_path"].iloc[row])) if "image_path" in quadrats else None
        missing += pixels is None
        drawn = [] if pixels is None or seen_by is None else seen_by.pictures(row, pixels)
        seen += bool(drawn)
        cards.append(_card(context, row, rank, loss_N[row] / total, pixels, drawn))
    held = percent(float(loss_N[order].sum()) / total)
    main, truth_NT = context.main, context.scorer.truth_NT
    low = sum(context.shown.pred_NT[row, main] < truth_NT[row, main] for row in order)
    title = (
        f"The {len(order)} worst of {len(loss_N)} images hold {held} of the error; {low} of them are predicted too low"
    )
    how = (
        "The rank is by squared error, weighted as the score weighs it. Predictions come from models that had not "
        "seen the image. Look for what the photographs have in common: shadow, seed heads, a date stamp, one species."
    )
    notes = []
    if photographs.folder is None:
        notes.append("There are no photographs because the report was made without --data.")
    elif missing:
        lost = count(missing, "photograph is", "photographs are")
        notes.append(f"{lost} not in the data directory, or cannot be read.")
    if seen and looking is not None and photographs.folder is not None:
        assert seen_by is not None
        notes.append(seen_by.note(looking))
    elif not maps:
        notes.append("No complete trial has stored a map of where it looked.")
    return tag(
        "figure",
        tag("h3", title),
        tag("p", tag("b", "How to read this. "), how, class_="how"),
        tag("p", " ".join(notes), class_="note") if notes else "",
        tag("div", *cards, class_="gallery"),
        class_="worst",
    )


def looking_trials(context: ReportContext) -> list[Trial]:
    """The best complete trial of each family that stored what it saw where; members of the blend first."""
    members = {} if context.blend is None else context.blend.card.members
    ranked = sorted(context.study.ranked, key=lambda trial: -members.get(trial.trial_id, 0.0))
    found: dict[str, Trial] = {}
    for trial in ranked:
        if trial.family not in found and _has_maps(context, trial):
            found[trial.family] = trial
    return list(found.values())


def _looked(context: ReportContext, folds: list[int]) -> tuple[Trial | None, dict[int, pd.DataFrame]]:
    """The trial whose maps are shown, and they by fold: densities of masses say more than where a model looked."""
    shown: tuple[Trial | None, dict[int, pd.DataFrame]] = None, {}
    for trial in looking_trials(context):
        maps = _maps(context, trial, folds)
        if any("mass" in table for table in maps.values()):
            return trial, maps
        if shown[0] is None:
            shown = trial, maps
    return shown


@dataclass(frozen=True)
class _Seen:
    """What a trial saw in the images that are shown, in the unit of the page."""

    attention: Mapping[int, FloatArray]  # by row of the table: of the whole image
    densities: Mapping[int, Mapping[str, Mapping[str, FloatArray]]]  # by row, mass and view, in `unit`
    ends: Mapping[str, float]  # of each mass's scale, the same for all images
    boxes: Mapping[str, tuple[float, float, float, float]]  # of the views
    unit: str

    @classmethod
    def of(cls, context: ReportContext, trial: Trial, maps: Mapping[int, pd.DataFrame], rows: Sequence[int]) -> _Seen:
        quadrats = context.study.quadrats
        per_m2 = context.study.record.mass_unit.per_square_metre(quadrats)
        attention: dict[int, FloatArray] = {}
        densities: dict[int, dict[str, dict[str, FloatArray]]] = {}
        for row in rows:
            table, image_id = maps.get(int(quadrats["fold"].iloc[row])), str(quadrats["image_id"].iloc[row])
            if table is None:
                continue
            factor = 1.0 if per_m2 is None else float(per_m2[row % len(per_m2)])
            if of_mass := density_maps(table, image_id):
                densities[row] = {
                    mass: {view: map_HW * factor for view, map_HW in views.items()} for mass, views in of_mass.items()
                }
            elif (looked := whole_map(table, image_id)) is not None:
                attention[row] = looked
        largest: dict[str, float] = {}
        for of_mass in densities.values():
            for mass, views in of_mass.items():
                largest[mass] = max(largest.get(mass, 0.0), *(float(map_HW.max()) for map_HW in views.values()))
        ends = {mass: scale_end(value) for mass, value in largest.items()}
        names = {view for of_mass in densities.values() for views in of_mass.values() for view in views}
        unit = map_unit_of(trial.family) if per_m2 is None else G_PER_M2
        return cls(attention, densities, ends, tile_boxes(names), unit)

    def pictures(self, row: int, pixels: Pixels) -> list[tuple[str, Pixels]]:
        """Texts and pictures of an image: one for each mass, or one of where the model looked."""
        if row in self.attention:
            looked = self.attention[row]
            return [("where the model looked", overlaid(pixels, [Placed(WHOLE, looked)], float(looked.max()) or 1.0))]
        drawn = []
        for mass, views in self.densities.get(row, {}).items():
            places = [Placed(self.boxes[view], map_HW) for view, map_HW in views.items() if view in self.boxes]
            painted = overlaid(pixels, places, self.ends[mass])
            drawn.append((f"density of {SHORT[mass]}", with_scale(painted, SHORT[mass], self.ends[mass], self.unit)))
        return drawn

    def note(self, trial: Trial) -> str:
        """What the pictures beside the photographs are."""
        if self.densities:
            who = f"{trial.family} {trial.trial_id}"
            return f"Coloured pictures: densities by {who}, {self.unit}; a mass has one scale for all images."
        by = map_unit_of(trial.family)
        return f"Second pictures: yellow where {trial.family} {trial.trial_id} looked most (by {by})."


def _has_maps(context: ReportContext, trial: Trial) -> bool:
    fold = context.study.folds[0]
    read = context.folds.get(trial.trial_id, {})
    metrics = read.get(fold)
    if not read and trial.trial_id in context.pred:
        metrics = context.study.ledger.fold_metrics(trial.trial_id, fold)
    return metrics is not None and layout.MAPS in metrics.files


def _maps(context: ReportContext, trial: Trial, folds: list[int]) -> dict[int, pd.DataFrame]:
    found = {}
    for fold in set(folds):
        try:
            table = context.study.ledger.fold_maps(trial.trial_id, fold)
        except LedgerError:  # a picture less, not a report less
            continue
        if table is not None:
            found[fold] = table
    return found


def _card(
    context: ReportContext,
    row: int,
    rank: int,
    share: float,
    pixels: Pixels | None,
    drawn: Sequence[tuple[str, Pixels]],
) -> Html:
    assert context.shown is not None
    quadrats, main = context.study.quadrats, TARGETS[context.main]
    truth_T, pred_T = (context.in_unit(mass_NT)[row] for mass_NT in (context.scorer.truth_NT, context.shown.pred_NT))
    image_id = str(quadrats["image_id"].iloc[row])
    shown = [] if pixels is None else [(f"photograph {image_id}", pixels), *drawn]
    pictures = [
        tag("img", src=data_uri(picture), alt=text, width=picture.shape[1], height=picture.shape[0])
        for text, picture in shown
    ]
    masses = [
        tag(
            "tr",
            tag("th", SHORT[name], scope="row"),
            tag("td", number(truth, 1)),
            tag("td", number(pred, 1)),
            tag("td", number(pred - truth, 1, sign=True), class_="off" if name == main else None),
        )
        for name, truth, pred in zip(TARGETS, map(float, truth_T), map(float, pred_T), strict=True)
        if name in context.study.measured
    ]
    unit = "grams" if context.unit == "g" else context.unit
    head = tag("tr", *(tag("th", text, scope="col") for text in (unit, "measured", "predicted", "off by")))
    about = [_text(quadrats, column, row) for column in ("State", "Sampling_Date", "Species")]
    known = " · ".join(text for text in about if text != NONE)
    cost = f"{percent(share, 1)} of the error"
    return tag(
        "div",
        tag("p", tag("b", f"{rank}. "), tag("code", image_id), tag("span", cost), class_="who"),
        tag("div", *pictures, class_="pictures") if pictures else "",
        tag("p", known, class_="about") if known else "",
        tag("table", tag("thead", head), tag("tbody", *masses)),
        class_="shot",
    )  # fmt: skip


def _text(quadrats: pd.DataFrame, column: str, row: int) -> str:
    if column not in quadrats or pd.isna(quadrats[column].iloc[row]):
        return NONE
    value = quadrats[column].iloc[row]
    return value.strftime("%Y-%m-%d") if isinstance(value, pd.Timestamp) else str(value)
