"""`biomass predict`: masses of any photographs by a blend, with intervals, in this process or on Ray."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from biomass_models.backbones.devices import threads
from biomass_models.counted import counted
from biomass_models.errors import UserError
from biomass_models.fold_units import cut_intervals_notice
from biomass_models.whole_files import write_whole
from ensembles.submission import quadrats_note
from orchestration.answers.groups import quadrat_names, require_groups
from orchestration.answers.lock import output_lock
from orchestration.answers.opened import OpenBlend
from orchestration.answers.parts import Parts
from orchestration.answers.photographs import PATH
from orchestration.answers.shard import DIGEST, REASON, predict_shard
from orchestration.answers.table import (
    TableOptions,
    mean_table,
    means_path,
    output_paths,
    photograph_table,
    short_notes,
    table_bytes,
)
from orchestration.answers.trained_on import unlike_note
from orchestration.answers.units import Conversion
from orchestration.answers.written import note_written
from orchestration.progress import Say, progress_bar
from orchestration.study.seeds import content_id
from orchestration.workers.shards import spans

# (paths of each span that is missing) -> spans with their tables, as they are done
Work = Callable[[list[tuple[tuple[int, int], list[str]]]], Iterable[tuple[tuple[int, int], pd.DataFrame]]]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What was written."""

    out: Path
    means: Path | None
    photographs: int
    unreadable: int
    ensemble: str
    where: str
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """The tables of a prediction, before anything is written."""

    photographs: pd.DataFrame  # table.photograph_table: the user's columns, then ours
    means: pd.DataFrame | None  # table.mean_table, where groups were asked for: their names, then ours
    own: tuple[int, int]  # number of the user's columns in each
    predicted: pd.DataFrame  # shard.predict_shard's rows
    notes: tuple[str, ...]
    parts: Parts  # what is kept until the tables are written


def answer(
    blend: OpenBlend,
    given: pd.DataFrame,
    out: Path,
    conversion: Conversion,
    options: TableOptions,
    *,
    work: Work,
    made_with: Mapping[str, Any],
    say: Say,
) -> Answer:
    """Predict what no part beside `out` holds yet. Nothing is recorded. made_with: what else numbers depend on; parts
    of another request, or of files that were changed since, do not count. Under `output_lock`. Raises UserError."""
    require_groups(given, options.by, options.date)
    paths = [str(Path(path).absolute()) for path in given[PATH]]
    plan = {
        "blend": blend.card_id,
        "where": blend.place.where,
        "likeness": likeness_id(blend),
        "photographs": content_id(*(f"{path} {file_stamp(path)}" for path in paths)),
    }
    parts = Parts(out, plan | dict(made_with), spans(len(paths)))
    missing = parts.missing
    if done := len(parts.spans) - len(missing):
        say(f"Going on: {done} of {counted(len(parts.spans), 'part')} are there")
    rows = sum(last - first for first, last in missing)
    with progress_bar("Predicting photographs") as update:
        finished = len(paths) - rows
        for span, table in work([(span, paths[slice(*span)]) for span in missing]):
            parts.write(span, table)
            finished += len(table)
            update(finished, len(paths))
    predicted = parts.joined()
    if (predicted[REASON] != "").all():
        parts.remove()  # the same command shall look again, once photographs are mended
        raise UserError(
            f"none of {counted(len(given), 'photograph')} can be read, such as: {predicted[REASON].iloc[0]}"
        )
    arguments = (given, predicted, blend.intervals, conversion, blend.measured, options)
    return Answer(
        photographs=photograph_table(*arguments),
        means=mean_table(*arguments) if options.by else None,
        own=(given.shape[1], len(set(options.by))),
        predicted=predicted,
        notes=tuple(prediction_notes(blend, given, predicted, conversion, options)),
        parts=parts,
    )


def write_answer(blend: OpenBlend, found: Answer, out: Path) -> Prediction:
    """Write the tables, and record where they come from."""
    digests = tuple(found.predicted[DIGEST])
    tables = ((out, found.photographs), (means_path(out), found.means))
    for (path, table), own in zip(tables, found.own, strict=True):
        if table is not None:
            data = table_bytes(table, out.suffix, own=table.columns[:own])
            write_whole(path, data)
            note_written(blend, path, hashlib.sha256(data).hexdigest(), len(data), photographs=digests)
    found.parts.remove()
    return Prediction(
        out=out,
        means=means_path(out) if found.means is not None else None,
        photographs=len(found.predicted),
        unreadable=int((found.predicted[REASON] != "").sum()),
        ensemble=blend.name,
        where=blend.place.where,
        notes=found.notes,
    )


def run_prediction(
    blend: OpenBlend,
    given: pd.DataFrame,
    out: Path,
    conversion: Conversion,
    options: TableOptions,
    *,
    work: Work,
    made_with: Mapping[str, Any],
    say: Say,
) -> Prediction:
    """As `answer`; then write the tables, and record where they come from. Raises UserError, also where another
    prediction writes them."""
    with output_lock(output_paths(out, options), say):
        found = answer(blend, given, out, conversion, options, work=work, made_with=made_with, say=say)
        return write_answer(blend, found, out)


def likeness_id(blend: OpenBlend) -> str | None:
    """Of the embeddings that unlike photographs are recognised by; None without any."""
    known = blend.likeness
    return None if known is None else content_id(repr(known.bank), *known.image_ids)


def file_stamp(path: str) -> str:
    """Size and time of change: contents would have to be read once more. Blank where there is no file."""
    try:
        found = Path(path).stat()
    except OSError:  # it has its reason once it is looked at
        return ""
    return f"{found.st_size} {found.st_mtime_ns}"


def in_this_process(blend: OpenBlend, *, cache: Path, cache_gb: float | None = None, cores: int = 1) -> Work:
    """One shard after the other, with so many threads."""

    def work(
        missing: list[tuple[tuple[int, int], list[str]]],
    ) -> Iterable[tuple[tuple[int, int], pd.DataFrame]]:
        with threads(cores):
            for span, paths in missing:
                yield span, predict_shard(blend, paths, cache=cache, cache_gb=cache_gb)

    return work


def prediction_notes(
    blend: OpenBlend, given: pd.DataFrame, predicted: pd.DataFrame, conversion: Conversion, options: TableOptions
) -> Iterable[str]:
    """What a reader of the masses should know."""
    yield from short_notes(predicted)
    if conversion.note is not None:
        yield conversion.note
    if (all_rows := blend.card.all_rows_text) is not None:
        yield all_rows
    if (quadrats := quadrat_names(given)) is not None:
        yield quadrats_note(quadrats)
    if blend.intervals is None:
        yield (
            f"this blend has no intervals: it was made before there were any, and biomass ensemble {blend.study} makes "
            "it again with them; or all masses that differ lie in one fold, and it cannot have any"
        )
    else:
        if (cut := cut_intervals_notice(blend.card.cut_groups, blend.intervals.calibration.unit)) is not None:
            yield cut
        for level in options.levels:
            if (short := blend.intervals.shortage(level)) is not None:
                yield short
            if options.joint and (left_out := blend.intervals.left_out(level)):
                yield f"the box at {level:g} leaves out {', '.join(left_out)}"
    if (unlike := unlike_note(blend)) is not None:
        yield unlike
