"""`biomass next`: which photographs of a pool to weigh, for the sake of those whose masses shall be predicted.

L photographs that were weighed, P of the pool, J targets, D features.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from biomass_models.backbones.adapter import Backbone
from biomass_models.counted import counted
from biomass_models.errors import UserError
from biomass_models.features.likeness import Likeness
from orchestration.advice.design import MOST, choose, nearest, standardised, thinned
from orchestration.advice.encoded import Encoder, Found, encode_found, find
from orchestration.answers.photographs import PATH, beside
from orchestration.progress import progress_bar
from orchestration.study.data import StudyData
from orchestration.study.derived.advice import NextRecord, Pick

NEAR = 3  # targets that are named with each photograph
OURS = ("rank", "settles", "settled", "covers", "nearest")  # columns of a table of picks


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What to weigh next, and what was left out."""

    record: NextRecord
    weighed: int  # photographs of the pool that the study has labels of
    doubles: int  # copies of another of the pool
    unreadable: Mapping[str, str]  # path -> reason
    notes: tuple[str, ...]


def next_photographs(
    data: StudyData,
    labelled: Likeness,
    pool: pd.DataFrame,
    targets: pd.DataFrame,
    number: int,
    *,
    encoder: Encoder,
    features: str,
) -> Advice:
    """labelled: features of the study's photographs; pool, targets: tables with a column PATH; features: in words.

    Raises UserError where nothing is left to choose from, or to choose for.
    """
    unreadable: dict[str, str] = {}
    notes: list[str] = []
    fit = encoder.bank.fit
    found = find(pool[PATH].tolist(), fit, unreadable)
    known = data.ledger.photographs()
    if known is None:
        notes.append("this study is of a version that kept no contents: photographs it has labels of may come again")
    weighed = set() if known is None else set(known["blake2b"])
    fresh, doubles = _fresh(found, weighed)
    if not fresh.paths:
        many = counted(len(pool), "photograph")
        if not found.paths:
            raise UserError(f"no photograph of the pool ({many}) can be read, such as: {_first(unreadable)}")
        raise UserError(f"photographs to weigh are new to the study, it has labels of all that can be read of {many}")
    looked_at = _thin(fresh, "pool", notes)
    wanted = _thin(find(targets[PATH].tolist(), fit, unreadable), "--for", notes)
    frozen: dict[str, Backbone] = {}
    with progress_bar("Encoding the pool") as update:
        pool_paths, pool_PD = encode_found(looked_at, encoder, frozen, unreadable, update)
    with progress_bar("Encoding what it is for") as update:
        target_paths, target_JD = encode_found(wanted, encoder, frozen, unreadable, update)
    for paths, what in ((pool_paths, "the pool"), (target_paths, "--for")):
        if not paths:
            raise UserError(f"no photograph of {what} can be read, such as: {_first(unreadable)}")
    if len(pool_paths) < number:
        notes.append(f"the pool has {counted(len(pool_paths), 'photograph')} that can be weighed, all are listed")
    scaled_LD, scaled_PD, scaled_JD = standardised(labelled.feature_LD, pool_PD, target_JD)
    choice = choose(scaled_LD, scaled_PD, scaled_JD, number)
    chosen_CD = scaled_PD[choice.row_C]
    covers_C = np.bincount(nearest(scaled_JD, chosen_CD)[:, 0], minlength=len(choice.row_C))
    near_CJ = nearest(chosen_CD, scaled_JD)[:, :NEAR]
    picks = tuple(
        Pick(
            photograph=pool_paths[row],
            settles=float(choice.gain_C[place]),
            covers=int(covers_C[place]),
            nearest=tuple(target_paths[target] for target in near_CJ[place]),
        )
        for place, row in enumerate(choice.row_C)
    )
    record = NextRecord(
        asked_at=time.time(), features=features, pool=len(pool_paths), targets=len(target_paths), picks=picks
    )
    return Advice(
        record=record,
        weighed=sum(digest in weighed for digest in found.digests),
        doubles=doubles,
        unreadable=unreadable,
        notes=tuple(notes),
    )


def _fresh(found: Found, weighed: set[str]) -> tuple[Found, int]:
    """Contents that the study has no labels of, each once; and how many copies were left out."""
    first: dict[str, str] = {}
    doubles = 0
    for path, digest in zip(found.paths, found.digests, strict=True):
        if digest in first:
            doubles += 1
        elif digest not in weighed:
            first[digest] = path
    return Found(paths=tuple(first.values()), digests=tuple(first)), doubles


def _first(unreadable: Mapping[str, str]) -> str:
    return next(iter(unreadable.values()))


def _thin(found: Found, what: str, notes: list[str]) -> Found:
    row_N = thinned(len(found.paths))
    if len(row_N) < len(found.paths):
        notes.append(f"of {len(found.paths)} photographs of {what} every {len(found.paths) / MOST:.1f}th was looked at")
    return Found(paths=tuple(found.paths[row] for row in row_N), digests=tuple(found.digests[row] for row in row_N))


def picks_table(advice: Advice, pool: pd.DataFrame) -> pd.DataFrame:
    """One row a photograph to weigh: its rank, the columns of `pool`, what it settles and covers."""
    row_of = {path: row for row, path in reversed(list(enumerate(pool[PATH])))}  # the first of each
    picks = advice.record.picks
    table = pool.iloc[[row_of[pick.photograph] for pick in picks]].reset_index(drop=True)
    table = beside(table, OURS)
    table.insert(0, "rank", range(1, len(picks) + 1))
    settles = [pick.settles for pick in picks]
    table["settles"], table["settled"] = settles, np.cumsum(settles)
    table["covers"] = [pick.covers for pick in picks]
    table["nearest"] = pd.Series([";".join(pick.nearest) for pick in picks], dtype=object)
    return table
