"""The images with the largest errors: photograph, what was measured, what was predicted, where a model looked."""

from __future__ import annotations

import numpy as np
import pandas as pd

from biomass_models.families.readable import map_unit_of
from biomass_models.targets import TARGETS
from orchestration.report.data.context import ReportContext
from orchestration.report.html import Html, tag
from orchestration.report.sections.photographs import Photographs, data_uri, lit, whole_map
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
    looking = looking_trial(context)
    maps = {} if looking is None else _maps(context, looking, [int(quadrats["fold"].iloc[row]) for row in order])
    total = float(loss_N.sum()) or 1.0
    cards, seen, missing = [], 0, 0
    for rank, row in enumerate(order, start=1):
        pixels = photographs.thumbnail(str(quadrats["image_path"].iloc[row])) if "image_path" in quadrats else None
        missing += pixels is None
        table = maps.get(int(quadrats["fold"].iloc[row]))
        looked = None if table is None else whole_map(table, str(quadrats["image_id"].iloc[row]))
        seen += looked is not None and pixels is not None
        cards.append(_card(context, row, rank, loss_N[row] / total, pixels, looked))
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
        notes.append(
            f"Second pictures: bright where {looking.family} {looking.trial_id} looked "
            f"(by {map_unit_of(looking.family)})."
        )
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


def looking_trial(context: ReportContext) -> Trial | None:
    """The best complete trial that stored what it looked at; members of the blend first."""
    members = {} if context.blend is None else context.blend.card.members
    ranked = sorted(context.study.ranked, key=lambda trial: -members.get(trial.trial_id, 0.0))
    return next((trial for trial in ranked if _has_maps(context, trial)), None)


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
    context: ReportContext, row: int, rank: int, share: float, pixels: np.ndarray | None, looked: np.ndarray | None
) -> Html:
    assert context.shown is not None
    quadrats, main = context.study.quadrats, TARGETS[context.main]
    truth_T, pred_T = (context.in_unit(mass_NT)[row] for mass_NT in (context.scorer.truth_NT, context.shown.pred_NT))
    image_id = str(quadrats["image_id"].iloc[row])
    pictures = []
    if pixels is not None:
        pictures.append(
            tag(
                "img", src=data_uri(pixels), alt=f"photograph {image_id}", width=pixels.shape[1], height=pixels.shape[0]
            )
        )
        if looked is not None:
            pictures.append(
                tag(
                    "img",
                    src=data_uri(lit(pixels, looked)),
                    alt="where the model looked",
                    width=pixels.shape[1],
                    height=pixels.shape[0],
                )
            )
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
