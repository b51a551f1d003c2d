"""What other folds promise: the same settings scored under folds by date and, say, at random."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import pandas as pd

from biomass_models.data.alignment import places_of
from biomass_models.targets import weighted_r2_score, weights_in
from orchestration.report.charts import colour, data, panel
from orchestration.report.data.context import ReportContext
from orchestration.report.html import Figure, Html, paragraph, tag
from orchestration.report.words import SCHEMES, count, number, short_id
from orchestration.study.data import StudyData, Trial

MOST_PAIRS = 30
RANDOM = (
    " Random folds leave photographs of the same day on both sides, so that a model may recognise the day instead of "
    "reading the sward: what they promise beyond folds by date is lost on new days."
)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One configuration in both studies: its scores on the images that both score."""

    name: str
    family: str
    here: float
    there: float


def pairs_of(here: StudyData, there: StudyData) -> list[Pair]:
    """Configurations that are complete in both studies, best first.

    Fields that only one of the studies knows do not count: versions add fields whose defaults change nothing.
    """
    known_fields = {
        family: _fields(here, family) & _fields(there, family) for family in {*here.families, *there.families}
    }

    def key_of(trial: Trial) -> str:
        own = {name: value for name, value in trial.record.config.items() if name in known_fields[trial.family]}
        return json.dumps([trial.family, own, trial.record.weights], sort_keys=True)

    known, common = {key_of(trial): trial for trial in there.of("complete")}, _common(here, there)
    return [
        Pair(
            name=f"{trial.family} {short_id(trial.trial_id)}",
            family=trial.family,
            here=_score(here, trial, common),
            there=_score(there, other, common),
        )
        for trial in here.ranked
        if (other := known.get(key_of(trial))) is not None
    ]


def _common(here: StudyData, there: StudyData) -> pd.Series | None:
    """Images that both studies score, where these are not all of both."""
    own, others = here.quadrats["image_id"], set(there.quadrats["image_id"])
    return None if set(own) == others else own[own.isin(others)]


def _score(study: StudyData, trial: Trial, common: pd.Series | None) -> float:
    if common is None:
        return trial.score or 0.0
    rows = places_of(study.quadrats["image_id"], common)
    weight = weights_in(study.weight, rows)
    return weighted_r2_score(study.truth_NT[rows], study.pred_NT(trial.trial_id)[rows], weight)


def gap_blocks(context: ReportContext) -> Sequence[Html | Figure]:
    """A figure for each study to compare with, or what to do to get one."""
    if not context.others:
        if context.study.settings.scheme != "date":
            return [
                paragraph(
                    f"These are {SCHEMES[context.study.settings.scheme]}. Where they leave photographs of one day on "
                    "both sides, the scores are too good: search with --scheme date, then give that study as "
                    "--compare.",
                    class_="aside",
                )
            ]
        return [
            paragraph(
                "Only folds by date were given. To see what random folds would have promised, search once more with ",
                tag("code", "--scheme random"), " and give that study as ", tag("code", "--compare"), ".",
                class_="aside",
            )
        ]  # fmt: skip
    return [_gap(context, other) for other in context.others]


def _gap(context: ReportContext, other: StudyData) -> Html | Figure:
    here, there = _called(context.study, other), _called(other, context.study)
    pairs = pairs_of(context.study, other)
    if not pairs:
        best = other.ranked[0].score if other.ranked else None
        own = context.study.ranked[0].score if context.study.ranked else None
        return paragraph(
            f"{other.name} ({there}) shares no complete configuration with this study. Best score: {number(best)} "
            f"there, {number(own)} here.",
            class_="aside",
        )
    gap = statistics.fmean(pair.there - pair.here for pair in pairs)
    way = "more" if gap > 0 else "less"
    rows: list[dict[str, Any]] = [
        {"name": pair.name, "family": pair.family, "low": pair.here, "high": pair.there, "gap": pair.there - pair.here}
        for pair in pairs[:MOST_PAIRS]
    ]
    long = [
        {"name": row["name"], "score": row[end], "folds": folds, "gap": row["gap"]}
        for row in rows
        for end, folds in (("low", here), ("high", there))
    ]
    y = alt.Y("name:N", sort=[row["name"] for row in rows], title=None)
    x: dict[str, Any] = {
        "title": "weighted R² of the same settings",
        "scale": alt.Scale(zero=False),
        "axis": alt.Axis(tickCount=8),
    }
    line = alt.Chart(data(rows)).mark_rule(strokeWidth=2).encode(y=y, x=alt.X("low:Q", **x), x2="high:Q")
    dots = (
        alt.Chart(data(long))
        .mark_point(filled=True, size=80, opacity=1)
        .encode(
            y=y,
            x=alt.X("score:Q", **x),
            color=colour("folds", [here, there], "folds"),
            shape=alt.Shape(
                "folds:N", scale=alt.Scale(domain=[here, there], range=["circle", "diamond"]), title="folds"
            ),
            tooltip=["name:N", "folds:N", alt.Tooltip("score:Q", format=".3f"), alt.Tooltip("gap:Q", format="+.3f")],
        )
    )
    left = f"Shown are the best {MOST_PAIRS} of {len(pairs)}." if len(pairs) > MOST_PAIRS else ""
    if (common := _common(context.study, other)) is not None:
        left = f"Scores of the {count(len(common), 'photograph')} that both studies score. {left}".strip()
    return Figure(
        title=f"{there} promise {number(abs(gap))} {way} than {here}, over {count(len(pairs), 'shared setting')}",
        how="Each line is one configuration, trained and scored under both ways of holding images out."
        + (RANDOM if "random" in (context.study.settings.scheme, other.settings.scheme) else ""),
        panels=(panel(alt.layer(line, dots), height=24 * len(rows) + 20),),
        note=left,
    )


def _called(study: StudyData, other: StudyData) -> str:
    called = SCHEMES[study.settings.scheme]
    return called if study.settings.scheme != other.settings.scheme else f"{called} of {study.name}"


def _fields(study: StudyData, family: str) -> set[str]:
    return {name for trial in study.trials if trial.family == family for name in trial.record.config}
