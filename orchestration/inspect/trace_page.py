"""The way back from a file as lines for a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator

from biomass_models.fold_rows import NONE
from orchestration.inspect.trace import MemberTrace, Trace
from orchestration.study.records import CodeVersion

UNSAID = "not recorded by the version that made it"


def render_trace(found: Trace) -> str:
    """Submission, ensemble, members with their folds and configurations, studies; nothing is shortened but hashes."""
    return "\n".join([*_ensemble(found), "", "Members", *_members(found), *_studies(found)])


def _ensemble(found: Trace) -> Iterator[str]:
    kind = "" if found.kind == "submission" else f", a {found.kind},"
    file = f"{found.submission}{kind} (sha256 {found.sha256[:12]})"
    yield f"{file} was written by ensemble {found.ensemble} of {found.where}"
    if found.note:
        yield f"note: {found.note}"
    for other in found.also:
        yield f"The same bytes were written by {other}"
    origin, card = found.origin, found.card
    if found.kind == "bundle" and origin.created_at is None:
        yield "  known from   its own bundle.json; when it was exported is recorded in the study that did so"
    else:
        yield f"  when         {_when(origin.created_at)}"
        yield f"  code         {code_text(origin.code)}"
    test = origin.test
    if found.kind == "bundle":
        pass
    elif found.kind == "prediction" and test is not None:
        yield f"  photographs  {test.images}, contents {test.rows}"
    elif test is None:
        yield f"  test images  {UNSAID}"
    else:
        photographs = f", photographs {test.photographs}" if test.photographs else ""
        yield f"  test images  {test.images}, ids {test.rows}{photographs}"
    if origin.truth is not None:
        yield f"  truth        {origin.truth.path} (sha256 {origin.truth.sha256[:12]})"
    settled = "" if card["chosen_rule"] == card["rule"] else f", settled on {card['chosen_rule']}"
    yield f"  rule         {card['rule']}{settled}, seed {card['seed']}"
    se = "" if card["nested_se"] is None else f" +- {card['nested_se']:.4f}"
    yield f"  score        {card['nested_score']:.4f}{se} nested, {card['in_sample_score']:.4f} in sample"
    if (all_rows := card.get("all_rows", NONE)) != NONE:
        yield f"  models       fitted on all rows, {all_rows} the fold models; they have no score of their own"


def _members(found: Trace) -> Iterator[str]:
    for member in found.members:
        yield f"  {member.weight:.4f}  {member.name}{_summary(member)}"
        if member.record is not None:
            folds = " ".join("-" if score is None else f"{score:.4f}" for score in member.fold_scores)
            yield f"          folds {folds}"
            config = ", ".join(f"{key}={value}" for key, value in member.record.config.items())
            yield f"          {config}"
            if (round_ := member.record.second_round) is not None:
                yield (
                    f"          second round {round_.round_id}: test photographs that models labelled count "
                    f"{round_.weight:g} each"
                )
        for kind, file in member.files.items():
            yield f"          {kind}: {file.path} (sha256 {file.sha256[:12]}), {file.now}"


def _summary(member: MemberTrace) -> str:
    if member.study is None:
        return ", from files" if member.files else f", from files; which, was {UNSAID}"
    if member.record is None:
        return f": trial {member.trial_id} of {member.study}, which is not there any more"
    score = "" if member.score is None else f", {member.score:.4f} out of fold"
    record = member.record
    return f": {record.family}, trial {record.number}{score}, seed {record.seed}, weights {record.weights}"


def _studies(found: Trace) -> Iterator[str]:
    for uri, study in found.studies.items():
        yield ""
        if study is None:
            yield f"Study {uri} is not there any more"
            continue
        settings = study.settings
        yield f"Study {uri}"
        yield f"  begun        {_when(study.created_at)}"
        yield f"  code         {code_text(study.code)}"
        yield f"  data         {study.data_fingerprint}"
        yield f"  folds        {study.fold_hash}: {settings.folds} by {settings.scheme}"
        yield f"  seed         {settings.seed}"
        for name, label in study.stand_ins.items():
            yield f"  weights      of {name}: {label}"
        yield f"  versions     {', '.join(f'{name} {text}' for name, text in study.versions.items())}"


def code_text(code: CodeVersion | None) -> str:
    """As words."""
    if code is None:
        return UNSAID
    commit = f", commit {code.commit[:12]}" if code.commit else ""
    changed = " with changes" if code.changed else ""
    return f"version {code.version}, source {code.source}{commit}{changed}"


def _when(seconds: float | None) -> str:
    return UNSAID if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
