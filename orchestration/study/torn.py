"""Trials whose files are not as they were written, as whoever only compares names them: one line each, with a remedy.

Only names and sizes are looked at, and those of folds on local paths alone, so that a status stays cheap;
`biomass audit` reads everything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchestration.study import layout
from orchestration.study.ledger import Ledger
from orchestration.study.records import COMPLETE, PRUNED, TrialRecord, TrialResult


def lost_files(ledger: Ledger, results: Mapping[str, TrialResult], folds: Sequence[int]) -> dict[str, dict[int, str]]:
    """By trial that is complete or pruned: the folds that it has ended with and that lack a file, and which."""
    if not ledger.storage.is_local:
        return {}
    found = {}
    for name, result in results.items():
        if result.status not in (COMPLETE, PRUNED):
            continue
        lost = {fold: files[0] for fold in folds if (files := ledger.lost_fold_files(name, fold))}
        if len(folds) - len(lost) < result.folds_done:  # else what a pruned trial lacks never was there
            begun = {fold: file for fold, file in lost.items() if ledger.fold_starts(name, fold)}
            found[name] = begun or lost
    return found


def torn_notices(
    ledger: Ledger,
    records: Sequence[TrialRecord],
    results: Mapping[str, TrialResult],
    lost: Mapping[str, Mapping[int, str]],
) -> list[str]:
    """records, results: what the ledger gave; lost: what `lost_files` found."""
    remedy = f"`biomass repair {ledger.storage.uri}` reopens it"
    torn = ledger.torn_trials({record.trial_id for record in records})
    notices = [f"trial {name} is left out, its {layout.TRIAL} cannot be read; {remedy}" for name in torn]
    pooled = [name for name, result in results.items() if result.status == COMPLETE]
    whole = ledger.storage.each(lambda name: ledger.is_pooled_whole(name, results[name]), pooled)
    not_pooled = {name for name, is_whole in zip(pooled, whole, strict=True) if not is_whole}
    for name in (record.trial_id for record in records):
        what = [f"fold-{fold}/{file}" for fold, file in lost.get(name, {}).items()]
        result = results.get(name)
        # read again: a running search may have ended the trial since the results were read
        if result is None and ledger.storage.size(layout.result(name)) is not None and ledger.result(name) is None:
            what.append(f"{layout.RESULT}, which cannot be read")
        if name in not_pooled:
            what.append(layout.OOF)
        if what:
            notices.append(f"trial {name} has lost {', '.join(what)}; {remedy}")
    return notices
