"""From a ledger to a submission: library, blend, predictions of the chosen members, file.

The ensembles package knows neither ledger nor Ray; this module hands it arrays and writes down what it says.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from biomass_models.folds import fold_hash
from biomass_models.table import read_test, read_test_rows
from biomass_models.targets import TARGETS, FloatArray
from biomass_models.weights import WeightsError, WeightsSource, fingerprint
from ensembles.blend import Card, apply_blend, fit_blend
from ensembles.library import Library, library_from_frames
from ensembles.submission import check_submission, submission_bytes
from orchestration.cluster import ray_cluster
from orchestration.ledger import Ledger, LedgerError, open_ledger
from orchestration.pool import PREDICT, Job, Pool, RayPool
from orchestration.progress import progress_bar
from orchestration.search import Resources, start_broker
from orchestration.seeds import content_id, derive_seed
from orchestration.storage import Storage
from orchestration.worker import WorkerContext


def library_of(ledger: Ledger) -> Library:
    """Every complete trial of a study as a member; LedgerError when there is none."""
    complete = [name for name, result in ledger.results().items() if result["status"] == "complete"]
    if not complete:
        raise LedgerError(
            f"a blend needs at least one complete trial, {ledger.storage.uri} has none; run the search first"
        )
    quadrats = ledger.quadrats()
    truth = quadrats[["image_id", "fold", "group", "State", *TARGETS]]
    return library_from_frames({name: ledger.oof(name)[["image_id", *TARGETS]] for name in complete}, truth)


def blend(study: str, *, rule: str, say: Callable[[str], None]) -> tuple[Card, Library]:
    """Fit a blend on the study's out-of-fold predictions; returns its card and the library it was chosen from."""
    ledger = open_ledger(study)
    library = library_of(ledger)
    say(f"Blending {len(library.names)} members")
    seed = derive_seed((ledger.study() or {})["settings"]["seed"], "blend")
    return fit_blend(library, rule=rule, seed=seed, references=_references(ledger, library)), library


def _references(ledger: Ledger, library: Library) -> dict[str, FloatArray]:
    """What a blend must beat to be worth its trouble; metadata trees are left out, they cannot predict a test set."""
    table = ledger.references()
    found = {} if table is None else dict(iter(table.groupby("reference", sort=False)))
    return {
        str(name): frame.set_index("image_id").loc[list(library.image_id_N)][list(TARGETS)].to_numpy()
        for name, frame in found.items()
        if name != "metadata trees"
    }


def write_blend_submission(
    study: str,
    data_dir: Path,
    card: Card,
    out: Path,
    *,
    resources: Resources,
    weights: WeightsSource,
) -> None:
    """Predict the test images with the members of a card, write `out`, keep both in the study, and validate.

    Members' predictions are kept by member and test set, so a second blend needs no second inference.
    Raises LedgerError when a prediction fails, SubmissionError when the file does not pass the validator.
    """
    ledger = Ledger(Storage(study))
    test = read_test(data_dir)
    name = f"test-{content_id(list(test['image_id']), fold_hash(ledger.quadrats()[['image_id', 'fold', 'group']]))}"
    missing = [member for member in card.members if ledger.member_prediction(name, member) is None]
    if missing:
        _check_weights(ledger, missing, weights)
        context = WorkerContext(
            study=ledger.storage.uri,
            data_dir=str(data_dir.resolve()),
            cache_dir=str(resources.cache_dir.expanduser()),
            weights=weights,
        )
        jobs: list[Job] = [{"kind": "predict", "trial_id": member, "ensemble": name} for member in missing]
        with ray_cluster(resources.address):
            broker, _ = start_broker(context, resources)
            _predict(RayPool(broker), jobs)
    predictions = {member: _aligned(ledger, name, member, test["image_id"]) for member in card.members}
    masses = pd.DataFrame(apply_blend(card, predictions), columns=list(TARGETS))
    masses.insert(0, "image_id", test["image_id"].to_numpy())
    content = submission_bytes(read_test_rows(data_dir), masses)
    out.parent.mkdir(parents=True, exist_ok=True)
    Storage(out.parent).write(out.name, content)
    ledger.write_ensemble(out.stem, card.to_json(), content)
    if problems := check_submission(out, data_dir):
        raise LedgerError(f"{out} does not pass the validator: " + "; ".join(map(str, problems[:5])))


def _check_weights(ledger: Ledger, members: list[str], weights: WeightsSource) -> None:
    """A member predicts with the very backbone that it was trained on; LedgerError says what to give."""
    for record in map(ledger.trial, members):
        backbone = record.config["backbone"]
        try:
            got = fingerprint(backbone, weights)
        except WeightsError as error:
            got = f"none ({error})"
        if got != record.weights:
            raise LedgerError(
                f"member {record.trial_id} was trained on {backbone} with weights {record.weights}, "
                f"--weights {weights.kind} gives {got}; give the --weights of the search"
            )


def _predict(pool: Pool, jobs: list[Job]) -> None:
    with progress_bar("Predicting test images") as update:
        for done, (job, outcome) in enumerate(pool.run(jobs, PREDICT), start=1):
            if outcome["status"] != "done":
                reason = outcome.get("reason", "it was stopped")
                raise LedgerError(f"member {job['trial_id']} could not predict the test images: {reason}")
            update(done, len(jobs), "")


def _aligned(ledger: Ledger, name: str, member: str, image_id: pd.Series) -> FloatArray:
    frame = ledger.member_prediction(name, member)
    if frame is None:
        raise LedgerError(
            f"the predictions of member {member} are missing in {ledger.storage.uri}; run the command again"
        )
    return frame.set_index("image_id").loc[image_id, list(TARGETS)].to_numpy()
