"""A study of the tiny pasture, for tests that run trials in their own process."""

from __future__ import annotations

from pathlib import Path

from biomass_models.backbones.weights import WeightsSource, fingerprint
from biomass_models.data.folds import assign_folds, fold_hash
from biomass_models.data.table import read_train
from biomass_models.families import registry
from orchestration.search.opening import open_study
from orchestration.search.proposer import Proposer
from orchestration.study.ledger import Ledger
from orchestration.study.records import TrialRecord
from orchestration.study.settings import StudySettings
from orchestration.study.storage import Storage
from orchestration.workers.context import WorkerContext
from search_spaces.spaces import space_of

BACKBONE = "test_vit"
FIRST = ("baseline", "probe", "distilled")  # tests name these by their place
FAMILY_NAMES = (*FIRST, *(name for name in registry.BUILT_IN if name not in FIRST))
RANDOM = WeightsSource(kind="random")


def make_study(
    folder: Path | str,
    data_dir: Path,
    cache: Path,
    families: tuple[str, ...] = FIRST,
    *,
    scheme: str = "date",
    file: Path | None = None,
) -> tuple[Ledger, WorkerContext, list[TrialRecord]]:
    """A study of three folds (under `time` blocks) with one proposed trial of each of some families."""
    ledger = Ledger(Storage(folder))
    quadrats = read_train(data_dir)
    folds = assign_folds(quadrats, scheme=scheme, n_folds=3, file=file)
    quadrats = quadrats.merge(folds, on="image_id")
    weights = {BACKBONE: fingerprint(BACKBONE, RANDOM)}
    settings = StudySettings(
        families=families, backbones=(BACKBONE,), weights="random", folds=3, scale="smoke", scheme=scheme
    )
    identity = fold_hash(folds, ordered=settings.ordered)
    open_study(ledger, settings, quadrats=quadrats, data_fingerprint="d", fold_hash=identity, weights=weights)
    spaces = {family: space_of(family, (BACKBONE,), "smoke") for family in settings.families}
    search = Proposer(spaces, ledger, seed=0, fold_hash=identity, weights=weights)
    records = [record for _ in families if (record := search.propose()) is not None]
    context = WorkerContext(study=str(folder), data_dir=str(data_dir), cache=str(cache), weights=RANDOM)
    return ledger, context, records
