"""The exam: a blend on whole sampling dates that folds, teacher, search and blend have never seen.

Where a search has tried many configurations on the same folds, even a nested score flatters. The exam does
not, the first time: each look may lead to another choice, so the ledger keeps them all, and pages say how many.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from biomass_models.counted import counted
from biomass_models.data.cell_weights import cell_weights
from biomass_models.targets import rmse_by_target
from ensembles.blend import apply_blend
from ensembles.card import Card
from ensembles.scorer import Scorer
from orchestration.blending.shown import newest_of, stored_ensembles
from orchestration.blending.states import likely_states
from orchestration.study.data import StudyData
from orchestration.study.derived.blends import ExamRecord
from orchestration.study.ledger import Ledger, LedgerError
from orchestration.study.seeds import content_id

if TYPE_CHECKING:  # it loads torch and Ray
    from orchestration.blending.predict import Predictor


def examine(ledger: Ledger, predictor: Predictor, name: str | None = None) -> ExamRecord:
    """The record of an ensemble's exam, the newest one's where none is named; scored once, each look is noted.

    Raises LedgerError for a study without an exam or an ensemble, and for a blend with members of other studies.
    """
    table = ledger.exam_quadrats()
    if table is None:
        raise LedgerError(
            f"an exam needs dates that the search has not seen, {ledger.storage.uri} keeps none; search another study "
            "with --exam SHARE, such as 0.2"
        )
    name = name or _newest(ledger)
    ensemble = ledger.ensemble(name)
    card, mark = Card.from_json(ensemble.card), content_id(ensemble.card)
    now = time.time()
    if (before := exam_of(ledger, name)) is not None:
        seen = replace(before, looks=(*before.looks, now))
        ledger.write_exam(seen)
        return seen
    own = {member for member, ref in ensemble.trials.items() if ref.study == ledger.storage.uri}
    others = [member for member in card.members if member not in own]
    if others:
        raise LedgerError(
            f"an exam is of the study's own trials, {name} has member {others[0]} from elsewhere, which may have "
            "learned from the exam's images; blend the study alone"
        )
    members = {member: ensemble.trials[member] for member in card.members}
    predictions = predictor.exam(ledger, members, flips=card.flips, all_rows=card.all_rows)
    likely_NS = likely_states(card, predictor, ledger.storage.uri, exam=True)
    pred_NT = apply_blend(card, predictions, likely_NS)
    truth = StudyData(ledger).measured_in(table).assign(unit=table["group"])
    scorer = Scorer(truth)
    score = scorer.score(pred_NT)
    known = [None if math.isnan(number) else number for number in (score.se, score.low, score.high)]
    record = ExamRecord(
        ensemble=name,
        card=mark,
        images=len(table),
        dates=scorer.units,
        score=score.value,
        se=known[0],
        low=known[1],
        high=known[2],
        nested_score=card.nested_score,
        nested_by=card.nested_by,
        target_rmse_g=rmse_by_target(scorer.truth_NT, pred_NT, cell_weights(truth)),
        looks=(now,),
    )
    ledger.write_exam(record)
    return record


def exam_of(ledger: Ledger, name: str) -> ExamRecord | None:
    """The exam of a stored ensemble with the card that it has now, if there was one; this is no look."""
    mark = content_id(ledger.ensemble(name).card)
    return next((one for one in ledger.exams() if (one.ensemble, one.card) == (name, mark)), None)


def _newest(ledger: Ledger) -> str:
    """The ensemble that pages show; where none fits the trials that are complete now, the newest of all."""
    stored = [one for one in stored_ensembles(StudyData(ledger)) if one.card is not None]
    newest = newest_of([one for one in stored if one.fits] or stored)
    if newest is None:
        raise LedgerError(
            f"an exam is of a blend, {ledger.storage.uri} has none; make one: biomass ensemble "
            f"{ledger.storage.uri} --data DIR"
        )
    return newest.name


def exam_lines(record: ExamRecord, all_records: list[ExamRecord]) -> list[str]:
    """An exam's record in lines. all_records: of the study, since every look is a chance to choose by luck."""
    error = "" if record.se is None else f" ± {record.se:.4f}"
    interval = "" if record.low is None else f", 95 % {record.low:.3f} to {record.high:.3f}"
    looks, blends = sum(len(one.looks) for one in all_records), len(all_records)
    asked = "the first look" if looks == 1 else f"look {looks} of this study, at {counted(blends, 'blend')}"
    images = f"{counted(record.images, 'image')} of {counted(record.dates, 'date')}"
    lines = [
        f"exam of {record.ensemble}: {record.score:.4f}{error}{interval}",
        f"on {images} that nothing has learned from; {asked}",
        f"nested score on the card: {record.nested_score:.4f}"
        + ("" if record.nested_by == "date" else f" (by {record.nested_by}: another question than new dates)"),
    ]
    if blends > 1:
        lines.append("a blend that is chosen by its exam is flattered by it: trust the first one most")
    return lines
