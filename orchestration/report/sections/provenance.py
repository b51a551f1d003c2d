"""What was run: data, folds, settings, versions, time. And the words that the page uses."""

from __future__ import annotations

import sys

import numpy as np

from biomass_models.families.readable import description_of
from biomass_models.fold_units import unit_name
from orchestration.report.data.context import ReportContext
from orchestration.report.html import Cell, Column, Section, Table, tag
from orchestration.report.words import NONE, SHORT, count, duration, folds_text, moment, number
from orchestration.study.records import TrialResult
from orchestration.study.settings import AIMS, SHARINGS

GLOSSARY: tuple[tuple[str, str, str], ...] = (
    ("r2", "Weighted R²", "the score: the share of the variation of the masses that is predicted. 1 is perfect, 0 is "
     "as good as saying the mean mass for everything, below 0 is worse."),
    ("oof", "Out-of-fold", "predicted by a model that was trained without the image, as all scores here are."),
    ("fold", "Fold", "one part of the images; each part is predicted by a model trained on the others."),
    ("date", "Folds by date", "all photographs of one day in one state are in the same fold. Photographs of a day "
     "resemble each other, so a model must not be tested on a day that it has seen."),
    ("trial", "Trial", "one configuration of one family, trained once for each fold."),
    ("family", "Family", "a kind of model."),
    ("pruned", "Stopped early (pruned)", "a trial that its first folds showed to be clearly "
     "worse than the best and of no use to a blend."),
    ("nested", "Nested", "members and weights are chosen without the days that are scored, in turn and for "
     "several ways to share the days out: the score of a blend that can be trusted."),
    ("se", "Standard error (±)", "how much a score would vary with other sampling days, from leaving out one day "
     "after the other; for a difference of blends also with how the days are shared out. A "
     "difference below one standard error says nothing; above two it is seldom chance."),
    ("blend", "Blend, ensemble", "the weighted mean of several models."),
    ("reference", "Reference", "a prediction that costs next to nothing: the mean of each target, a linear model on "
     "the colours of the photograph (colour ridge), trees on metadata such as height and species "
     "(metadata trees, which cannot predict new photographs)."),
    ("residual", "Residual", "predicted minus measured."),
    ("ndvi", "NDVI", "a greenness index from reflected light, between 0 and 1 here."),
)  # fmt: skip


def provenance_section(context: ReportContext) -> Section:
    pairs = [part for name, value in facts(context) if value for part in (tag("dt", name), tag("dd", value))]
    how = (
        "Two studies with the same data fingerprint saw the same photographs and labels; with the same fold hash they "
        "held out the same images. The seed makes a run repeatable."
    )
    run = tag(
        "figure",
        tag("h3", "What was run"),
        tag("dl", *pairs, class_="facts-list"),
        tag("p", tag("b", "How to read this. "), how, class_="how"),
    )
    of = {"family": _families(context), "r2": _counted(context)}  # what the study adds to a word
    words = [
        tag("div", tag("dt", name), tag("dd", gloss, of.get(anchor, "")), id=f"word-{anchor}")
        for anchor, name, gloss in GLOSSARY
    ]
    glossary = tag("figure", tag("h3", "Words"), tag("dl", *words), class_="glossary")
    return Section(
        anchor="provenance",
        title="What was run, and what the words mean",
        short="Facts and words",
        blocks=tuple(block for block in (run, own_ranges_table(context), glossary) if block is not None),
    )


def own_ranges_table(context: ReportContext) -> Table | None:
    """What was searched otherwise than this version would; None where nothing was."""
    own = context.study.record.own_ranges
    if not own:
        return None
    rows: list[list[Cell | str]] = [
        [
            one.family,
            Cell(tag("code", one.field), one.field),
            Cell(tag("code", one.before or NONE)),
            Cell(tag("code", one.now)),
            one.place,
            Cell(count(one.trials, "trial"), one.trials),
            Cell(moment(one.at), one.at),
        ]
        for one in own
    ]
    return Table(
        title=f"{count(len(own), 'range')} of your own",
        columns=(
            Column(name="family"),
            Column(name="setting"),
            Column(name="before"),
            Column(name="since then"),
            Column(name="said in"),
            Column(name="after", gloss="trials that the study had when the range was changed", numeric=True),
            Column(name="when"),
        ),
        rows=rows,
        how="A plain value fixes the setting, every other range is searched. Trials from before a change stay, also "
        "those outside of the new range. A setting that depends on a changed one has a row of its own where that is "
        "searched elsewhere since then, or not any more.",
    )


def _families(context: ReportContext) -> str:
    """The study's families, each with what it is where it is installed."""
    described = {family: description_of(family) for family in context.study.families}
    return " Here: " + "; ".join(f"{name} ({text})" if text else name for name, text in described.items()) + "."


def _counted(context: ReportContext) -> str:
    """What counts in the study's scores."""
    if context.weight.ndim == 1:
        return (
            " All images and the five targets count together; total has half the weight, green + clover a fifth, "
            "green, dead and clover a tenth each."
        )
    return f" Here it is {context.counted}: what was not measured counts nowhere."


def _masses(context: ReportContext) -> str:
    """What was measured in how many photographs, in which unit."""
    measured_N, unit = np.isfinite(context.scorer.truth_NT), context.study.record.mass_unit
    images = [f"{SHORT[name]} in {measured_N[:, target].sum()}" for target, name in context.measured]
    area = f", quadrats of {unit.area_m2:g} m²" if unit.area_m2 is not None else ""
    area = ", quadrats of different areas" if unit.area_column is not None else area
    return f"{', '.join(images)} photographs; {unit.name if unit.name != 'g' else 'grams per quadrat'}{area}"


def facts(context: ReportContext) -> list[tuple[str, str]]:
    """Name and value; the value is empty where nothing was recorded."""
    study, record = context.study, context.study.record
    settings = record.settings
    quadrats = study.quadrats
    results = [trial.result for trial in study.trials if trial.result]
    folds = sum(result.folds_done for result in results)
    gpu_hours = sum(result.gpu_seconds for result in results) / 3600
    hosts = sorted({one.host for one in context.work})
    unit = unit_name(quadrats, "date")
    days = "sampling day" if unit == "date" else unit
    dates = list(quadrats["Sampling_Date"].dropna()) if "Sampling_Date" in quadrats else []
    return [
        ("study", study.ledger.storage.uri),
        ("made", "" if record.created_at is None else moment(record.created_at)),
        ("photographs", f"{count(len(quadrats), 'image')}, {count(quadrats['group'].nunique(), days)}"
         + (f", {min(dates):%Y-%m-%d} to {max(dates):%Y-%m-%d}" if len(dates) else "")),
        ("fit of photographs that are not 2 : 1", settings.fit),
        ("masses", _masses(context)),
        ("data fingerprint", record.data_fingerprint),
        ("folds", f"{folds_text(study)}, hash {record.fold_hash}"),
        ("families", ", ".join(settings.families)),
        ("backbones", ", ".join(settings.backbones)),
        ("weights", ", ".join(f"{name}: {mark}" for name, mark in record.weights.items())),
        ("weights that stand in for the published ones",
         ", ".join(f"{name}: {label}" for name, label in record.stand_ins.items())),
        ("scale of the search", settings.scale),
        ("proposals", f"by {settings.engine}, to raise {AIMS.get(settings.aim, settings.aim)}"),
        ("shares of the families", SHARINGS.get(settings.sharing, settings.sharing)),
        ("seed", str(settings.seed)),
        ("work", f"{count(len(study.trials), 'trial')}, {count(folds, 'fold')} trained"),
        ("search time", duration(context.clock.seconds) + ", pauses left out" if context.work else ""),
        ("time of all folds", duration(sum(result.seconds for result in results))),
        ("GPU hours", number(gpu_hours, 2) if gpu_hours else "0 (processors only)"),
        ("machines", f"{count(len(hosts), 'machine')}: {', '.join(hosts[:8])}" if hosts else ""),
        ("most memory of a fold", _memory(results)),
        ("versions", ", ".join(f"{name} {version}" for name, version in record.versions.items())),
        ("report made with", f"python {sys.version.split()[0]}"),
        ("rows that could not be read", "; ".join(f"{name}: {why}" for name, why in list(study.unread.items())[:5])),
    ]  # fmt: skip


def _memory(results: list[TrialResult]) -> str:
    peak = max((result.peak_memory_mb for result in results), default=0.0)
    return f"{number(peak / 1024, 1)} GB" if peak else ""
