"""From studies and files to cards and submissions: gather, blend, predict, write.

The ensembles package uses neither ledger nor Ray; this module hands it arrays and writes its cards down. Workers,
and with them torch and Ray, are only started when a study's trials must predict something.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from biomass_models.config_rules import known_name
from biomass_models.counted import counted
from biomass_models.data.dataset import QUADRATS_FILE
from biomass_models.data.table import TEST_FILE, TRAIN_FILE, masses_to_long, read_test, read_test_rows
from biomass_models.errors import UserError
from biomass_models.fold_rows import ALL_ROWS, NONE
from biomass_models.fold_units import QUADRAT
from biomass_models.targets import TARGETS, FloatArray
from ensembles.blend import apply_blend, fit_blend
from ensembles.candidates import Candidate, choose_candidates
from ensembles.card import Card
from ensembles.card_page import render_card
from ensembles.choice import rule_named
from ensembles.flips import Flipped, members_in_nests
from ensembles.spec import BlendSpec
from ensembles.submission import (
    mass_table,
    quadrat_means,
    quadrats_note,
    require_valid,
    submission_bytes,
    table_notes,
)
from orchestration.blending.budget import Budget, budgeted_cards, paid_alone
from orchestration.blending.members import FileMembers, Gathered, gather
from orchestration.blending.origin import origin_of
from orchestration.blending.shown import beside_score
from orchestration.blending.states import STATE, encoding_study, fit_study_states, likely_states, states_of
from orchestration.progress import Say
from orchestration.study.data_changes import data_notices
from orchestration.study.derived.blends import Origin
from orchestration.study.ledger import Ledger, open_ledger
from orchestration.study.mass_unit import MassUnit
from orchestration.study.storage import Storage
from orchestration.terminal import text_of

if TYPE_CHECKING:  # it loads torch and Ray
    from orchestration.blending.predict import Predictor

OTHER_FILES = (".txt", ".json", ".html", ".png", ".jpg", ".jpeg", ".zip", ".parquet", ".npy", ".tsv", ".md", ".xlsx")


@dataclass(frozen=True, kw_only=True)
class BlendOptions:
    """What kind of blend is asked for."""

    rule: str = "default"
    candidates: int = 1
    follow_ups: tuple[str, ...] = ()  # tried: used where their nested gain exceeds its standard error
    flips: int = 1  # test-time turns and mirrors, used on the same condition
    all_rows: str = NONE  # of fold_rows.ALL_ROWS: whether models on all rows predict new photographs
    budget: Budget | None = None  # of minutes for the prediction

    def __post_init__(self) -> None:
        rule_named(self.rule)
        BlendSpec(rule=rule_named(self.rule), tried=self.follow_ups)
        if self.candidates < 1:
            raise UserError(f"at least one candidate must be asked for, got {self.candidates}")
        if self.flips not in (1, 2, 4, 8):
            raise UserError(f"flips must be 1 (none), 2, 4 or 8, got {self.flips}")
        known_name("--all-rows", self.all_rows, ALL_ROWS)
        if self.budget is not None and (self.candidates, self.flips, self.all_rows) != (1, 1, NONE):
            raise UserError(
                "a budget counts what fold models take without flips; leave --candidates, --flips and --all-rows out"
            )
        if self.budget is not None and {"per-target", STATE} & set(self.follow_ups):
            raise UserError("a budget buys one set of members; leave --post per-target and --post state out")


def run_ensemble(
    studies: list[str],
    files: FileMembers,
    *,
    data_dir: Path | None,
    out: Path,
    options: BlendOptions,
    seed: int,
    open_predictor: Callable[[Path], Predictor],
    say: Say,
    show: Callable[[Card, Sequence[str], Mapping[str, str]], None],
) -> list[Path]:
    """Gather, blend, show the cards, predict and write; returns the paths of the submissions.

    What cannot work is refused before anything is computed. Raises UserError (LedgerError, LibraryError, DataError).
    """
    _refuse(studies, files, data_dir, out, options)
    if STATE in options.follow_ups:
        states_of(open_ledger(studies[0]).quadrats())
    tests = _tests_of(data_dir, out, say)
    test_table = None if tests is None else read_test(tests)
    test_ids = None if test_table is None else [str(image_id) for image_id in test_table["image_id"]]
    quadrat_N = None if test_table is None or QUADRAT not in test_table else test_table[QUADRAT].tolist()
    if data_dir is not None:
        changes = [change for study in studies for change in data_notices(open_ledger(study), data_dir)]
        for change in dict.fromkeys(changes):
            say(f"warning: {change}")
    preferred = None if options.budget is None else partial(paid_alone, options.budget)
    gathered = gather(studies, files, test_ids=test_ids, seed=seed, say=say, preferred=preferred)
    predictor = open_predictor(data_dir) if gathered.trials and data_dir is not None else None
    state_model = None
    encoding = studies[0] if studies else ""
    if STATE in options.follow_ups:
        encoding = encoding_study(studies, gathered.trials)
        assert predictor is not None
        library, model = fit_study_states(studies, gathered.trials, gathered.library, predictor)
        state_model = model.to_json()
        gathered = replace(gathered, library=library)
    cards = [
        replace(_with_all_rows(card, gathered, options), state_model=state_model)
        for card in make_cards(gathered, options, predictor, say)
    ]
    for card in cards:
        show(card, _beside(gathered, card), gathered.labels)
    submissions: list[bytes] = []
    image_ids: list[str] | None = None
    if test_ids is not None or gathered.tests is not None:
        image_ids = test_ids or list(gathered.tests.image_ids if gathered.tests else ())
        for card, predictions in zip(cards, member_predictions(cards, gathered, predictor), strict=True):
            likely_NS = likely_states(card, predictor, encoding)
            submissions.append(
                submission_of(card, predictions, image_ids, tests, gathered.table_unit, quadrat_N, likely_NS)
            )
        if quadrat_N is not None:
            say(f"note: {quadrats_note(quadrat_N)}")
        if (unit := gathered.table_unit) is not None:
            for note in table_notes(gathered.measured, unit.name, unit.per_gram()):
                say(f"note: {note}")
    if predictor is not None and studies and submissions and not predictor.on_a_cluster:
        _keep_embeddings(studies[0], cards, gathered, predictor, say)
    photographs = predictor.fingerprint if predictor is not None else None
    now = time.time()  # one for all: the first candidate is the one that pages show

    def origin(card: Card, submission: tuple[str, bytes] | None) -> Origin:
        return origin_of(
            card,
            gathered,
            files,
            image_ids=image_ids,
            photographs=photographs,
            submission=submission,
            created_at=now,
        )

    study = studies[0] if studies else None
    return write_outputs(gathered, cards, submissions, out, study=study, data_dir=tests, origin=origin)


def _keep_embeddings(study: str, cards: list[Card], gathered: Gathered, predictor: Predictor, say: Say) -> None:
    """What later predictions measure unlike photographs by; a note where the photographs of the search are not here."""
    from orchestration.blending.likeness import keep_likeness

    ledger = open_ledger(study)
    for card in cards:
        refs = {name: gathered.trials[name] for name in card.members if name in gathered.trials}
        if len(refs) < len(card.members) or not any(ref.study == ledger.storage.uri for ref in refs.values()):
            continue
        try:
            keep_likeness(ledger, card, refs, predictor)
        except UserError as error:
            say(f"note: embeddings of the training photographs are not kept: {error}")


def _tests_of(data_dir: Path | None, out: Path, say: Say) -> Path | None:
    """The data directory where its test images shall be predicted: it names some, or a file of predictions is asked
    for."""
    if data_dir is None or (data_dir / TEST_FILE).exists() or out.suffix == ".csv":
        return data_dir
    say(f"{data_dir} has no {TEST_FILE}: the blend is made, nothing is predicted")
    return None


def _refuse(studies: list[str], files: FileMembers, data_dir: Path | None, out: Path, options: BlendOptions) -> None:
    """Combinations that cannot work, each with what to give instead."""
    if not studies and not files.oof:
        raise UserError("a blend needs members; give STUDY, or --oof 'runs/*.csv' and --truth train.csv")
    if strays := [study for study in studies if Path(study).is_file()]:
        raise UserError(f"a study is a folder, {strays[0]} is a file; put the pattern of --oof in quotes")
    if files.tests and not files.oof:
        raise UserError("test predictions belong to members that come as files; give their --oof as well")
    if studies and files.tests and data_dir is None:
        raise UserError("a study's trials predict photographs; give --data as well as --test-predictions")
    if files.oof and data_dir is not None and not files.tests:
        raise UserError("a submission needs test predictions of the members that come as files: --test-predictions")
    if (out.suffix and out.suffix.lower() in OTHER_FILES) or out.suffix == ".CSV":
        raise UserError(
            f"--out is a submission .csv or a folder, got {out}; give {out.with_suffix('.csv')} or a folder"
        )
    tables = (TRAIN_FILE, QUADRATS_FILE, TEST_FILE, "sample_submission.csv")
    if data_dir is not None and out.name in tables and out.parent.resolve() == data_dir.resolve():
        raise UserError(f"a submission must not overwrite a table of the data directory, got {out}; name another file")
    if not studies and out.suffix == ".csv":
        raise UserError(f"members that come as files are blended into a folder; give --out DIR, got {out}")
    if options.budget is not None and (not studies or files.oof):
        raise UserError("a budget counts what trials of a study take; give STUDY, and leave --oof out")
    if options.all_rows != NONE and not studies:
        raise UserError("--all-rows fits trials of a study: give STUDY, or leave --all-rows out")
    if STATE in options.follow_ups and (not studies or data_dir is None):
        raise UserError(
            "--post state needs the photographs and a study's trials: give STUDY and --data, or leave it out"
        )
    if options.flips > 1 and (not studies or data_dir is None):
        raise UserError("flips need the photographs and a study's trials: give STUDY and --data, or leave --flips out")
    if data_dir is None and not files.tests and out.suffix == ".csv":
        raise UserError(f"a submission {out} needs test images; give --data, or a folder as --out for the card alone")


def make_cards(gathered: Gathered, options: BlendOptions, predictor: Predictor | None, say: Say) -> list[Card]:
    """Blend, and compare flips where they are asked for and trials can show them. The first candidate comes first."""
    library = gathered.library
    say(f"Blending {counted(len(library.names), 'member')}")
    if options.budget is not None:
        return budgeted_cards(
            library,
            gathered.trials,
            options.budget,
            options.rule,
            options.follow_ups,
            seed=gathered.seed,
            references=gathered.references,
            say=say,
        )
    found = choose_candidates(
        library,
        options.candidates,
        first=options.rule,
        follow_ups=options.follow_ups,
        seed=gathered.seed,
        references=gathered.references,
    )
    if options.candidates > 1:
        for place, candidate in enumerate(found, start=1):
            apart = f", {candidate.distance:.1f} g from those before" if place > 1 else ""
            card = candidate.card
            say(f"Candidate {place}: {card.chosen_rule}, nested {card.nested_score:.4f}{apart}")
        if len(found) < options.candidates:
            say(f"No other rule within one standard error of the first blends differently: {len(found)} in all")
    if options.flips == 1:
        return [candidate.card for candidate in found]
    assert predictor is not None
    return [_with_flips(candidate, gathered, options, predictor) for candidate in found]


def _with_all_rows(card: Card, gathered: Gathered, options: BlendOptions) -> Card:
    """A blend of files alone has no trial to fit."""
    return replace(card, all_rows=options.all_rows) if card.members.keys() & gathered.trials.keys() else card


def _with_flips(candidate: Candidate, gathered: Gathered, options: BlendOptions, predictor: Predictor) -> Card:
    library = gathered.library
    needed = members_in_nests(library, candidate.spec, seed=gathered.seed)
    trials = {name: gathered.trials[name] for name in needed if name in gathered.trials}
    if not trials:
        return candidate.card
    found = predictor.out_of_fold(trials, pd.Series(library.image_id_N), flips=options.flips)
    return fit_blend(
        library,
        candidate.spec,
        gathered.seed,
        references=gathered.references,
        flipped=Flipped(copies=options.flips, pred_NT=found),
    )


def member_predictions(
    cards: list[Card], gathered: Gathered, predictor: Predictor | None
) -> list[dict[str, FloatArray]]:
    """Test predictions [N, 5] in grams of each card's members; workers start only for what is not there.

    The trials of all cards predict together, so that candidates do not decode the photographs again.
    """
    files = dict(gathered.tests.pred_NT) if gathered.tests else {}
    predicted: dict[tuple[int, str], dict[str, FloatArray]] = {}
    for how in sorted({(card.flips, card.all_rows) for card in cards}):
        alike = [card for card in cards if (card.flips, card.all_rows) == how]
        members = {name: gathered.trials[name] for card in alike for name in card.members if name in gathered.trials}
        if members:
            assert predictor is not None
            predicted[how] = predictor.test(members, flips=how[0], all_rows=how[1])
    found = [files | predicted.get((card.flips, card.all_rows), {}) for card in cards]
    return [{name: one[name] for name in card.members} for card, one in zip(cards, found, strict=True)]


def submission_of(
    card: Card,
    predictions: dict[str, FloatArray],
    image_ids: list[str],
    data_dir: Path | None,
    table_unit: MassUnit | None = None,
    quadrat_N: Sequence[str] | None = None,
    likely_NS: FloatArray | None = None,
) -> bytes:
    """The CSV `sample_id,target`: in test.csv's order, or image by image where there is no data directory.

    table_unit: that of a table of masses, which is written instead; quadrat_N: names of the images' quadrats, whose
    photographs are averaged; likely_NS: chances of states, for a state rule.
    """
    mass_NT = quadrat_means(apply_blend(card, predictions, likely_NS), quadrat_N)
    if table_unit is not None:
        unit, per_gram = table_unit.name, table_unit.per_gram()
        return mass_table(image_ids, mass_NT, unit=unit, per_gram=per_gram, quadrat_N=quadrat_N)
    masses = pd.DataFrame(mass_NT, columns=list(TARGETS))
    masses.insert(0, "image_id", image_ids)
    return submission_bytes(read_test_rows(data_dir) if data_dir is not None else masses_to_long(masses), masses)


def write_outputs(
    gathered: Gathered,
    cards: list[Card],
    submissions: list[bytes],
    out: Path,
    *,
    study: str | None,
    data_dir: Path | None,
    origin: Callable[[Card, tuple[str, bytes] | None], Origin],
) -> list[Path]:
    """Cards, pages and submissions, each file whole, and in the study; returns the submissions' paths.

    origin: what a card records about a submission of a name and a content, or about itself alone.
    out: a submission file (`.csv`, the cards are then in the study only) or a folder. Raises UserError, before the
    first file is written, for a submission that the validator refuses.
    """
    folder, stem = (out.parent, out.stem) if out.suffix == ".csv" else (out, "submission")
    names = [f"{stem}-{number}.csv" if number > 1 else f"{stem}.csv" for number in range(1, len(submissions) + 1)]
    if data_dir is not None and gathered.table_unit is None:
        for name, submission in zip(names, submissions, strict=True):
            require_valid(submission, name, data_dir)
    folder.mkdir(parents=True, exist_ok=True)
    storage, paths = Storage(folder), []
    for number, card in enumerate(cards, start=1):
        mark = f"-{number}" if number > 1 else ""
        written = (names[number - 1], submissions[number - 1]) if submissions else None
        made = origin(card, written)
        if written is not None:
            storage.write(*written)
            paths.append(folder / written[0])
        if study is not None:
            name = (out.stem if out.suffix == ".csv" else out.name) + mark
            trials = {member: ref for member, ref in gathered.trials.items() if member in card.members}
            Ledger(Storage(study)).write_ensemble(name, card.to_json(), trials, written and written[1], origin=made)
        if out.suffix != ".csv":
            storage.write(f"ensemble{mark}.txt", page_of(card, _beside(gathered, card), gathered.labels).encode())
            content = card.to_json() | {"origin": made.to_json()}
            storage.write(f"ensemble{mark}.json", (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
    return paths


def _beside(gathered: Gathered, card: Card) -> list[str]:
    """What the page says beside the scores; nothing where several searches, or files, are blended."""
    return [] if gathered.study is None else beside_score(gathered.study, card)


def page_of(card: Card, beside: Sequence[str] = (), labels: Mapping[str, str] | None = None) -> str:
    """The readable page as text of 80 columns."""
    return text_of(render_card(card, beside, labels))
