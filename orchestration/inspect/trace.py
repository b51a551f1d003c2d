"""From a submission back to what made it: ensemble, members, trials, folds, configurations, data and code.

A stranger has the file alone, so its content is what is looked for: in the ensembles of the studies that are given or
lie near the file, and in the cards beside it.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from biomass_models.counted import counted
from biomass_models.errors import UserError
from ensembles.submission import COLUMNS
from orchestration.study import layout
from orchestration.study.derived.blends import GivenRecord, Origin
from orchestration.study.ledger import Ledger, LedgerError, open_ledger
from orchestration.study.records import FoundFile, StudyRecord, TrialRecord, TrialRef
from orchestration.study.seeds import content_id
from orchestration.study.storage import Storage

BUNDLE = "bundle.json"  # what a bundle is known by


class TraceError(UserError):
    """The way back is not found; the text says what was looked at and what to do."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """An ensemble, as its card describes it."""

    name: str
    where: str  # the study, or the card beside the submission
    sha256: str | None  # of the submission that it wrote
    card: Mapping[str, Any]
    trials: Mapping[str, TrialRef]  # members that are trials
    origin: Origin
    ledger: Ledger | None  # of the study that keeps the submission


@dataclass(frozen=True, kw_only=True)
class FileTrace:
    """A file that a member came as."""

    path: str
    bytes: int
    sha256: str
    now: str  # as it was | changed since | gone


@dataclass(frozen=True, kw_only=True)
class MemberTrace:
    """One member of the blend and where it comes from."""

    name: str
    weight: float
    study: str | None  # None for a member that came as files
    trial_id: str | None
    record: TrialRecord | None  # None where the study is not there any more
    score: float | None  # weighted R2 of the pooled out-of-fold rows
    fold_scores: tuple[float | None, ...]
    files: Mapping[str, FileTrace]  # oof, test: of members that came as files


@dataclass(frozen=True, kw_only=True)
class Trace:
    """The way back from one submission."""

    submission: str
    sha256: str
    kind: str  # submission | prediction | bundle
    ensemble: str
    where: str
    also: tuple[str, ...]  # others that wrote the same bytes
    note: str | None  # where the numbers are the same and the bytes are not
    card: Mapping[str, Any]
    origin: Origin
    members: tuple[MemberTrace, ...]
    studies: Mapping[str, StudyRecord | None]  # None where it is not there any more


def trace(submission: Path, studies: Sequence[str] = ()) -> Trace:
    """Find the ensemble that wrote the file. studies: folders or URIs; without any, those near the file.

    Raises TraceError when no ensemble wrote it, with the one that wrote the nearest; LedgerError for a wrong study.
    """
    if submission.is_dir():  # a bundle, whose marker names the rest
        submission = submission / BUNDLE
    content = _read(submission)
    digest = hashlib.sha256(content).hexdigest()
    ledgers = [open_ledger(study) for study in studies] or list(_near(submission.resolve()))
    if (given := _given(ledgers, submission, digest)) is not None:
        return given
    found = [*_in_studies(ledgers), *_beside(submission.resolve())]
    same, note = [one for one in found if one.sha256 == digest], None
    if not same:
        mine = _table(content)
        nearest = min((_compare(mine, one) for one in found if one.ledger), key=lambda pair: pair[0], default=None)
        if nearest is None or nearest[0] != (0, 0, 0.0):
            raise TraceError(_lost(submission, digest, ledgers, found, nearest))
        same, note = [nearest[1]], "the numbers are those it wrote, the bytes are not: the file was saved anew"
    first, *others = same
    return _trace(submission, digest, first, others, note)


def _trace(
    submission: Path, digest: str, first: Written, others: Sequence[Written], note: str | None, kind: str = "submission"
) -> Trace:
    members = tuple(_members(first))
    return Trace(
        kind=kind,
        submission=str(submission),
        sha256=digest,
        ensemble=first.name,
        where=first.where,
        also=tuple(f"{one.name} in {one.where}" for one in others),
        note=note,
        card=dict(first.card),
        origin=first.origin,
        members=members,
        studies={study: _study(study) for study in dict.fromkeys(one.study for one in members) if study is not None},
    )


def _read(submission: Path) -> bytes:
    try:
        return submission.read_bytes()
    except OSError as error:
        raise TraceError(f"a trace starts from a submission file, {submission} cannot be read: {error}") from None


def _near(submission: Path) -> Iterator[Ledger]:
    """Studies that hold the file, lie beside it, or one folder below: where demo and README put them."""
    folder = submission.parent
    below = (path.parent for pattern in ("*/study.json", "*/*/study.json") for path in sorted(folder.glob(pattern)))
    open_ones = (path for path in below if not any(part.startswith(".") for part in path.relative_to(folder).parts))
    holders = (parent for parent in submission.parents if (parent / "study.json").is_file())
    for path in dict.fromkeys([*holders, *open_ones]):
        yield Ledger(Storage(path))


def _given(ledgers: Sequence[Ledger], path: Path, digest: str) -> Trace | None:
    """Masses of photographs, or a bundle: recorded in a study, or beside the file."""
    for ledger in ledgers:
        if (record := ledger.given(digest)) is not None:
            return _trace_given(ledger, record, path)
    try:
        content = json.loads(path.with_name(f"{path.name}{layout.ORIGIN}").read_bytes())
        record = GivenRecord.from_json(content)
    except (OSError, ValueError):
        return None
    if record.file.sha256 != digest:
        return None
    return _trace_given(Ledger(Storage(record.study)), record, path)


def _trace_given(ledger: Ledger, record: GivenRecord, path: Path) -> Trace | None:
    try:
        ensemble = ledger.ensemble(record.ensemble)
    except (OSError, ValueError):
        raise TraceError(
            f"{path} is a {record.kind} by ensemble {record.ensemble} of {ledger.storage.uri} (card {record.card}), "
            "which is not there any more; give the study with --study where it was moved"
        ) from None
    same = content_id(ensemble.card) == record.card
    origin = Origin(created_at=record.created_at, code=record.code, test=record.photographs, submission=record.file)
    written = Written(
        name=record.ensemble, where=ledger.storage.uri, sha256=record.file.sha256, card=ensemble.card,
        trials=ensemble.trials, origin=origin, ledger=ledger,
    )  # fmt: skip
    note = None if same else "the ensemble was made again since: its card below is the later one"
    return _trace(path, record.file.sha256, written, (), note, record.kind)


def _in_studies(ledgers: Sequence[Ledger]) -> Iterator[Written]:
    for ledger in ledgers:
        for name, ensemble in ledger.ensembles().items():
            file = ensemble.files.get(layout.SUBMISSION)
            yield Written(
                name=name, where=ledger.storage.uri, sha256=None if file is None else file.sha256, card=ensemble.card,
                trials=ensemble.trials, origin=ensemble.origin or Origin(), ledger=ledger,
            )  # fmt: skip


def _beside(submission: Path) -> Iterator[Written]:
    """Cards in the file's own folder, where a blend was written into one."""
    for path in sorted(submission.parent.glob("ensemble*.json")):
        try:
            content = json.loads(path.read_bytes())
            origin = Origin.from_json(content["origin"])
            card = {key: value for key, value in content.items() if key != "origin"}
            member_names = list(card["members"])
        except (ValueError, KeyError, TypeError):
            continue  # a study's own, which is read there; or no card at all
        if origin.submission is None:
            continue
        yield Written(
            name=path.stem, where=str(path), sha256=origin.submission.sha256, origin=origin, card=card, ledger=None,
            trials={member: ref for member, ref in origin.trials.items() if member in member_names},
        )  # fmt: skip


def _members(written: Written) -> Iterator[MemberTrace]:
    for name, weight in written.card["members"].items():
        ref = written.trials.get(name)
        record, result = None, None
        if ref is not None:
            ledger = Ledger(Storage(ref.study))
            try:
                record, result = ledger.trial(ref.trial_id), ledger.result(ref.trial_id)
            except (OSError, ValueError):  # the study is not there any more, or out of reach
                record, result = None, None
        files = written.origin.files.get(name, {})
        yield MemberTrace(
            name=name,
            weight=weight,
            study=None if ref is None else ref.study,
            trial_id=None if ref is None else ref.trial_id,
            record=record,
            score=None if result is None else result.score,
            fold_scores=() if result is None else result.fold_scores,
            files={
                kind: FileTrace(path=file.path, bytes=file.bytes, sha256=file.sha256, now=_now(file))
                for kind, file in files.items()
            },
        )


def _now(file: FoundFile) -> str:
    try:
        digest = hashlib.sha256(Path(file.path).read_bytes()).hexdigest()
    except OSError:
        return "gone"
    return "as it was" if digest == file.sha256 else "changed since"


def _study(study: str) -> StudyRecord | None:
    try:
        return Ledger(Storage(study)).find_study()
    except (OSError, ValueError):  # a store that is not reachable from here
        return None


# -- files that no ensemble wrote --------------------------------------------------------------------------------------


def _compare(mine: pd.Series, written: Written) -> tuple[tuple[int, int, float], Written]:
    """How far the file is from what an ensemble wrote: strange ids, other rows, largest gap in grams; all 0: same."""
    assert written.ledger is not None
    try:
        theirs = _table(written.ledger.submission(written.name))
    except (LedgerError, OSError):
        return (2**60, 0, 0.0), written
    strange = len(mine.index.symmetric_difference(theirs.index)) + int(mine.index.has_duplicates)
    if strange:
        return (strange, 0, 0.0), written
    gap = (mine - theirs.loc[mine.index]).abs()
    return (0, int((gap != 0).sum()), float(gap.max())), written


def _table(content: bytes) -> pd.Series:
    """target by sample_id. Raises TraceError for a file that is no submission."""
    try:
        frame = pd.read_csv(io.BytesIO(content), encoding="utf-8-sig", dtype={"sample_id": str}, index_col=False)
        return pd.Series(pd.to_numeric(frame[COLUMNS[1]]).to_numpy(), index=frame[COLUMNS[0]].str.strip())
    except (KeyError, ValueError, AttributeError) as error:
        raise TraceError(f"a submission is a CSV with the columns sample_id,target and numbers: {error}") from None


def _lost(
    submission: Path,
    digest: str,
    ledgers: Sequence[Ledger],
    found: Sequence[Written],
    nearest: tuple[tuple[int, int, float], Written] | None,
) -> str:
    looked = ", ".join(ledger.storage.uri for ledger in ledgers) or "no study near it"
    text = (
        f"no ensemble wrote exactly this file, {submission} (sha256 {digest[:12]}); looked at {len(found)} in {looked}"
    )
    if nearest is not None and nearest[0][0] == 0:
        (_, rows, gap), written = nearest
        differ = counted(rows, "row differs", "rows differ")
        text += (
            f". The nearest is {written.name} in {written.where}: {differ}, by up to {gap:.3g} g, so "
            "the file was changed after it was written, or another blend has taken its place"
        )
    return f"{text}. Give the study that made it with --study"
