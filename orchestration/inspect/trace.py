"""From a file back to what made it: ensemble, members, trials, folds, configurations, data and code.

A file is a submission, a table of masses, or a bundle. A stranger has it alone, so
its content is what is looked for: in the studies that are given or lie near the file, in the cards beside it, and in
what a bundle, or the table that it has predicted, says of its own origin.
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
    place = submission.resolve()
    ledgers = [open_ledger(study) for study in studies]
    ledgers = ledgers or list(_near(place.parent if place.name == BUNDLE else place))
    if (given := _given(ledgers, submission, content, digest)) is not None:
        return given
    found = [*_in_studies(ledgers), *_beside(place)]
    same, note = [one for one in found if one.sha256 == digest], None
    if not same:
        if (mine := _table(content)) is None:
            raise TraceError(_unknown(submission, digest, ledgers))
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


def _given(ledgers: Sequence[Ledger], path: Path, content: bytes, digest: str) -> Trace | None:
    """Masses of photographs, or a bundle: recorded in a study, beside the file, or in the bundle itself."""
    for ledger in ledgers:
        if (record := ledger.given(digest)) is not None:
            return _trace_given(record, path, ledgers, ledger)
    record = _recorded_beside(path, digest) or _recorded_in(path, content, digest)
    return None if record is None else _trace_given(record, path, ledgers, Ledger(Storage(record.study)))


def _recorded_beside(path: Path, digest: str) -> GivenRecord | None:
    try:
        record = GivenRecord.from_json(json.loads(path.with_name(f"{path.name}{layout.ORIGIN}").read_bytes()))
    except (OSError, ValueError):
        return None
    return record if record.file.sha256 == digest else None


def _recorded_in(path: Path, content: bytes, digest: str) -> GivenRecord | None:
    """A bundle of which only a copy is there: its marker names study and card."""
    if path.name != BUNDLE:
        return None
    try:
        marker = json.loads(content)
        card = marker.get("study_card") or content_id(marker["card"])
        file = {"name": BUNDLE, "bytes": len(content), "sha256": digest}
        names = {"ensemble": marker["ensemble"], "study": marker["study"]}
        return GivenRecord.from_json({"kind": "bundle", "card": card, "file": file} | names)
    except (ValueError, KeyError, TypeError, AttributeError):  # no bundle, or damaged
        return None


def _trace_given(record: GivenRecord, path: Path, ledgers: Sequence[Ledger], home: Ledger) -> Trace:
    """home: where the record says that the ensemble is, or the study that has the record."""
    ledger, name, note = home, record.ensemble, None
    if (held := _holder(record, [*ledgers, home])) is not None:
        ledger, name = held
    else:  # of another card, if there is one
        note = "the ensemble was made again since: its card below is the later one"
    try:
        ensemble = ledger.ensemble(name)
    except (OSError, ValueError):
        looked = ", ".join(dict.fromkeys(one.storage.uri for one in (*ledgers, home)))
        raise TraceError(
            f"a {record.kind} is traced to the card that made it; {path} names ensemble {record.ensemble} of "
            f"{record.study} (card {record.card}), none of {looked} has it; give the study, where it is now, with "
            "--study"
        ) from None
    origin = Origin(created_at=record.created_at, code=record.code, test=record.photographs, submission=record.file)
    written = Written(
        name=name, where=ledger.storage.uri, sha256=record.file.sha256, card=ensemble.card,
        trials=ensemble.trials, origin=origin, ledger=ledger,
    )  # fmt: skip
    return _trace(path, record.file.sha256, written, (), note, record.kind)


def _holder(record: GivenRecord, ledgers: Sequence[Ledger]) -> tuple[Ledger, str] | None:
    """The ensemble of that card: the study may have moved, or lie elsewhere than where the record was made."""
    for ledger in ledgers:
        try:
            stored = ledger.ensembles()
        except (OSError, ValueError):  # a store that is not reachable from here
            continue
        for name in sorted(stored, key=lambda one: one != record.ensemble):
            if content_id(stored[name].card) == record.card:
                return ledger, name
    return None


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
        theirs = None
    if theirs is None:
        return (2**60, 0, 0.0), written
    strange = len(mine.index.symmetric_difference(theirs.index)) + int(mine.index.has_duplicates)
    if strange:
        return (strange, 0, 0.0), written
    gap = (mine - theirs.loc[mine.index]).abs()
    return (0, int((gap != 0).sum()), float(gap.max())), written


def _table(content: bytes) -> pd.Series | None:
    """target by sample_id; None for a file that is no submission."""
    try:
        frame = pd.read_csv(io.BytesIO(content), encoding="utf-8-sig", dtype={"sample_id": str}, index_col=False)
        return pd.Series(pd.to_numeric(frame[COLUMNS[1]]).to_numpy(), index=frame[COLUMNS[0]].str.strip())
    except (KeyError, ValueError, AttributeError):
        return None


def _unknown(path: Path, digest: str, ledgers: Sequence[Ledger]) -> str:
    """Of a table of masses, a bundle, or any other file."""
    return (
        f"a file is known by its content, as it was written; no study that was looked at ({_looked(ledgers)}) has "
        f"written {path} (sha256 {digest[:12]}), or it was changed since. Give the study that made it with --study, or "
        "the file as it was"
    )


def _looked(ledgers: Sequence[Ledger]) -> str:
    return ", ".join(ledger.storage.uri for ledger in ledgers) or "no study near it"


def _lost(
    submission: Path,
    digest: str,
    ledgers: Sequence[Ledger],
    found: Sequence[Written],
    nearest: tuple[tuple[int, int, float], Written] | None,
) -> str:
    text = (
        f"no ensemble wrote exactly this file, {submission} (sha256 {digest[:12]}); looked at {len(found)} in "
        f"{_looked(ledgers)}"
    )
    if nearest is not None and nearest[0][0] == 0:
        (_, rows, gap), written = nearest
        differ = counted(rows, "row differs", "rows differ")
        text += (
            f". The nearest is {written.name} in {written.where}: {differ}, by up to {gap:.3g} g, so "
            "the file was changed after it was written, or another blend has taken its place"
        )
    return f"{text}. Give the study that made it with --study"
