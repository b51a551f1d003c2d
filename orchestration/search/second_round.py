"""A second round: test photographs, labelled by the members of a blend, join the training rows (docs/blending.md).

What can be wrong is found before anything is written, and what is labelled, and by whom, is written before anything is
computed. The labels of fold k are the equal-weight mean of the members' models of fold k: no weight that was fitted on
out-of-fold rows enters, since such rows of other folds come from models that trained on fold k. Light to import: loads
neither torch nor Ray.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from biomass_models.counted import counted
from biomass_models.data.alignment import masses_of
from biomass_models.data.cell_weights import cell_weights
from biomass_models.data.images import file_digest
from biomass_models.data.table import TEST_FILE, read_test
from biomass_models.families import registry
from biomass_models.fold_rows import training_rows
from biomass_models.fold_units import QUADRAT
from biomass_models.targets import TARGETS, norm_of, project_coherent
from ensembles.card import Card
from orchestration.progress import progress_bar
from orchestration.study.ids import make_round_id
from orchestration.study.ledger import Ledger, folds_of
from orchestration.study.records import COMPLETE, LabelsRecord, SecondRoundRecord, TrialRecord, TrialRound
from orchestration.study.settings import StudyError
from orchestration.workers.jobs import LabelJob
from orchestration.workers.pool import PREDICT, Pool

PREFIX = "pseudo:"  # of the photographs' names among those of the study
BEST_EPOCH = "it kept the epoch that scored best on the fold itself"
NAMED = 3  # members that a message names


@dataclass(frozen=True, kw_only=True)
class SecondRound:
    """What a search of a second round begins with."""

    record: SecondRoundRecord
    photographs: pd.DataFrame  # as Ledger.write_second_round takes them
    weight: float  # of a pseudo-labelled row
    first: Mapping[str, Sequence[TrialRecord]]  # the blend's members by family, heaviest first: whose settings begin

    @property
    def of_trial(self) -> TrialRound:
        """As its trials have it on record."""
        return TrialRound(round_id=self.record.round_id, weight=self.weight)

    @property
    def lines(self) -> list[str]:
        """What a search says of it before it starts."""
        record = self.record
        lines = [
            f"Second round of {record.ensemble}: {counted(record.images, 'test photograph')}, labelled by the plain "
            f"mean of {counted(len(record.members), 'member')}, count {self.weight:g} of a weighed one each",
            "note: labels of a fold come from models that never saw it; that these models are the members was chosen "
            "on all folds, as every search result is",
        ]
        lines += [f"note: member {name} labels nothing: {why}" for name, why in record.left_out.items()]
        if record.known:
            lines.append(
                f"note: {counted(record.known, 'test photograph')} not labelled: the study, or its exam, has it"
            )
        return lines


def plan_second_round(
    ledger: Ledger, ensemble: str, weight: float, data_dir: Path, weights: Mapping[str, str] | None = None
) -> SecondRound:
    """The second round of a blend of this study. Writes nothing.

    weights: fingerprint by backbone of what is here; None: not known yet. Raises StudyError or LedgerError with the
    rule, what was got and what to do; DataError for a test.csv that cannot be read.
    """
    require_searched(ledger)
    if not 0 < weight <= 1:
        raise StudyError(
            "--pseudo-weight is what a labelled photograph counts beside a weighed one, above 0 and at most 1, got "
            f"{weight:g}; leave --second-round out for none"
        )
    members, records = _members(ledger, ensemble)
    left_out = {name: BEST_EPOCH for name in members if ledger.trial(name).config.get("select_best_epoch")}
    labelling = sorted(set(members) - set(left_out))
    if not labelling:
        raise StudyError(
            f"a second round needs members that have not chosen on the fold they label, all {len(members)} of "
            f"{ensemble} keep the best epoch; blend other trials"
        )
    _require_family(ledger)
    photographs, known = _photographs(ledger, data_dir)
    names = [str(name).removeprefix(PREFIX) for name in photographs["image_id"]]
    round_id = make_round_id(labelling, names, photographs["blake2b"].tolist())
    if not ledger.has_labels(round_id):  # once these are there, no model is needed any more
        _require_models(ledger, labelling)
        if weights is not None:
            _require_weights(ledger, labelling, weights)
    record = SecondRoundRecord(
        round_id=round_id,
        ensemble=ensemble,
        members=tuple(labelling),
        left_out=left_out,
        images=len(photographs),
        known=known,
        made_at=time.time(),
    )
    return SecondRound(record=record, photographs=photographs, weight=weight, first=records)


def require_searched(ledger: Ledger) -> None:
    """Raise StudyError where there is no study: a second round makes none."""
    if ledger.find_study() is None:
        raise StudyError(
            f"a second round follows the blend of a study, there is no study in {ledger.storage.uri}; search it and "
            "blend it first, without --second-round"
        )


def keep_second_round(ledger: Ledger, planned: SecondRound) -> None:
    """Write down what is labelled and by whom, unless the study has it. Needs the study's lock."""
    round_id = planned.record.round_id
    if ledger.find_second_round(round_id) is None or ledger.second_round_problem(round_id) is not None:
        ledger.write_second_round(planned.record, planned.photographs)


def families_without(families: Sequence[str]) -> list[str]:
    """Families whose fits do not take pseudo-labels."""
    return [name for name in families if not registry.family(name).pseudo_labels]


def _members(ledger: Ledger, ensemble: str) -> tuple[list[str], Mapping[str, Sequence[TrialRecord]]]:
    """Trial ids of a blend's members, and their records by family; they are complete trials of this study."""
    found = ledger.ensemble(ensemble)
    card, own = Card.from_json(found.card), ledger.storage.uri
    strange = [name for name in card.members if name not in found.trials or found.trials[name].study != own]
    if strange:
        where = f"a trial of {found.trials[strange[0]].study}" if strange[0] in found.trials else "from a file"
        raise StudyError(
            f"a second round is labelled by the study's own trials, {counted(len(strange), 'member')} of {ensemble} "
            f"not, such as {strange[0]} ({where}); blend the study alone: biomass ensemble {own} --data DIR"
        )
    members, records, results = [], dict[str, list[TrialRecord]](), ledger.results()
    for name in card.members:
        trial_id = found.trials[name].trial_id
        result = results.get(trial_id)
        if result is None or result.status != COMPLETE:
            status = "open" if result is None else result.status
            raise StudyError(
                f"a second round is labelled by complete trials, member {trial_id} of {ensemble} is {status}; blend "
                f"the study again: biomass ensemble {own} --data DIR"
            )
        record = ledger.trial(trial_id)
        members.append(trial_id)
        records.setdefault(record.family, []).append(record)
    return members, records


def model_problem(ledger: Ledger, trial_id: str) -> str | None:
    """Why a trial cannot label, and what to do; None where the model of each fold is there."""
    own, folds = ledger.storage.uri, folds_of(ledger.quadrats())
    if dropped := [fold for fold in folds if ledger.dropped_model(trial_id, fold) is not None]:
        return (
            f"those of trial {trial_id} were dropped to keep --weights-gb (fold {', '.join(map(str, dropped))}); "
            f"`biomass refit {own} {trial_id} --data DIR --restore` brings them back"
        )
    if lost := [fold for fold in folds if ledger.fold_metrics(trial_id, fold) is None]:
        return f"trial {trial_id} has lost fold {', '.join(map(str, lost))}; `biomass repair {own}` reopens it"
    return None


def _require_models(ledger: Ledger, members: Sequence[str]) -> None:
    problems = [problem for name in members if (problem := model_problem(ledger, name)) is not None]
    if problems:
        more = f" (and {len(problems) - NAMED} more)" if len(problems) > NAMED else ""
        raise StudyError(f"a second round needs each member's fold models, {'; '.join(problems[:NAMED])}{more}")


def _require_weights(ledger: Ledger, members: Sequence[str], weights: Mapping[str, str]) -> None:
    for record in map(ledger.trial, members):
        backbone = str(record.config["backbone"])
        if (here := weights.get(backbone)) != record.weights:
            raise StudyError(
                f"a second round needs the backbone weights of its members, trial {record.trial_id} has {backbone} "
                f"{record.weights}, got {here or 'none'}; name them with --weights"
            )


def _require_family(ledger: Ledger) -> None:
    families = ledger.study().settings.families
    if families_without(families) == list(families):
        raise StudyError(
            f"a second round needs a family that learns from pseudo-labels, those of this study do not: "
            f"{', '.join(families)}; search another study"
        )


def _photographs(ledger: Ledger, data_dir: Path) -> tuple[pd.DataFrame, int]:
    """The test photographs that are labelled, and how many others are not, because the study has them.

    What an exam keeps is never labelled, under whatever name; photographs that are the same count as one.
    """
    if not (data_dir / TEST_FILE).is_file():
        raise StudyError(f"a second round labels test photographs, {data_dir} has no {TEST_FILE}; add it, or leave it")
    table = read_test(data_dir)
    table["blake2b"] = [file_digest(data_dir / str(path)) for path in table["image_path"]]
    known = ledger.photographs()
    is_known = table["blake2b"].isin([] if known is None else known["blake2b"])
    left = table[~is_known].drop_duplicates("blake2b").reset_index(drop=True)
    if left.empty:
        got = f"all {len(table)} of {data_dir}" if len(table) else "none"
        raise StudyError(
            f"a second round labels test photographs that the study does not have, got {got}; give other --data"
        )
    share = 1.0 if QUADRAT not in left else 1.0 / left.groupby(QUADRAT)[QUADRAT].transform("size")
    columns = left[["image_path", "blake2b"]].assign(share=share)
    columns.insert(0, "image_id", PREFIX + left["image_id"].astype(str))
    return columns, int(is_known.sum())


# -- labels ------------------------------------------------------------------------------------------------------------


def rounds_to_label(ledger: Ledger, asked: TrialRound | None) -> list[str]:
    """Second rounds whose labels a search makes before its first fold: the one that was asked for, those that open
    trials wait for, and those of other trials that have lost theirs, where the models are there."""
    if asked is None and not ledger.second_round_ids():
        return []
    results, waits = ledger.results(), dict[str, bool]()
    for record in ledger.trials():
        if (own := record.second_round) is not None:
            waits[own.round_id] = waits.get(own.round_id, False) or record.trial_id not in results
    if asked is not None:
        waits[asked.round_id] = True
    return [name for name in waits if not ledger.has_labels(name) and (waits[name] or _can_label(ledger, name))]


def _can_label(ledger: Ledger, round_id: str) -> bool:
    if ledger.second_round_problem(round_id) is not None:
        return False
    return not any(model_problem(ledger, member) for member in ledger.second_round(round_id).members)


def label(ledger: Ledger, pool: Pool, round_ids: Sequence[str]) -> None:
    """Have the members of second rounds predict the photographs, and make the labels. Raises StudyError where a member
    cannot; what is done is kept."""
    for round_id in round_ids:
        record = ledger.second_round(round_id)
        _require_models(ledger, record.members)
        jobs = [
            LabelJob(trial_id=member, round_id=round_id, fold=fold)
            for member in record.members
            for fold in folds_of(ledger.quadrats())
        ]
        with progress_bar("Labelling test photographs") as update:
            for done, (_, outcome) in enumerate(pool.run(jobs, PREDICT), start=1):
                if outcome.status != "done":
                    reason = outcome.reason or "it was stopped"
                    raise StudyError(f"labelling test photographs came to an end: {reason}; what is done is kept")
                update(done, len(jobs))
        make_labels(ledger, round_id)


def make_labels(ledger: Ledger, round_id: str) -> None:
    """The labels of each fold from what the members' models of that fold say, projected onto the identities.

    Masses that no training row of the fold has are NaN.
    """
    record, quadrats = ledger.second_round(round_id), ledger.quadrats()
    image_id, ordered = ledger.round_photographs(round_id)["image_id"], ledger.study().settings.ordered
    parts = []
    for fold in folds_of(quadrats):
        train = quadrats[training_rows(quadrats["fold"], fold, ordered=ordered)]
        norm_T = norm_of(cell_weights(train))
        pred_MPT = []
        for member in record.members:
            frame = ledger.member_labels(round_id, member, fold)
            if frame is None:
                raise StudyError(f"member {member} has not labelled for fold {fold}; run the same command again")
            pred_MPT.append(project_coherent(masses_of(frame, image_id), norm_T))
        label = pd.DataFrame(np.mean(pred_MPT, axis=0), columns=list(TARGETS))
        label.insert(0, "image_id", image_id)
        label.insert(0, "fold", fold)
        parts.append(label)
    ledger.write_labels(round_id, pd.concat(parts, ignore_index=True), LabelsRecord(made_at=time.time()))
