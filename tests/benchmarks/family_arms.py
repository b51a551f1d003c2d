"""Arms of the family study: one family on one backbone and data set, searched for the same seconds of one core.

Seconds are those of the processor, so that other work on the machine takes nothing from an arm; on a machine that does
nothing else they are what a clock shows. Features are there before an arm begins. An arm is a study of its own without
pruning: together those of a data set and backbone are one recorded study, which a replay can search again.
"""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import numpy as np
import pandas as pd
from family_data import WEIGHTS, Dataset
from safetensors.torch import load as load_tensors

from biomass_models.data.table import fit_of
from biomass_models.families.configs import config_from_params
from biomass_models.families.registry import model
from biomass_models.targets import TARGETS
from orchestration.search.start import run_search
from orchestration.study.ledger import Ledger
from orchestration.study.records import COMPLETE
from orchestration.study.settings import StudySettings
from orchestration.study.storage import Storage
from orchestration.workers.resources import Resources
from orchestration.workers.weights_here import available_backbones
from search_spaces.domain import SearchSpace

MOST_TRIALS = 10_000  # never reached: the seconds end an arm
AGAIN_SECONDS = 5.0  # a break that was swallowed comes again
TEST_FILE = "test.parquet"


def arm_folder(dataset: Dataset, backbone: str, family: str) -> Path:
    return dataset.folder / backbone / family


def ledger_of(dataset: Dataset, backbone: str, family: str) -> Ledger:
    return Ledger(Storage(arm_folder(dataset, backbone, family) / "study"))


def search_arm(dataset: Dataset, backbone: str, space: SearchSpace, seconds: float, cache: Path) -> None:
    """Search for so many processor seconds, then predict the test set with each trial. A broken arm begins anew.

    Raises ValueError for an arm that has paid for features, or has no complete trial: it would be compared with others.
    """
    family = space.family
    folder = arm_folder(dataset, backbone, family)
    done = folder / "arm.json"
    if done.exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    banks = set(cache.glob("*/bank.json"))
    search_for(seconds, folder / "study", dataset, backbone, (space,), cache)
    trials = list(ledger_of(dataset, backbone, family).results().values())
    complete = sum(result.status == COMPLETE for result in trials)
    new = [path.parent.name for path in set(cache.glob("*/bank.json")) - banks]
    if new or not complete:
        raise ValueError(f"an arm needs its features before, and a trial; got banks {new}, {complete} trials: {folder}")
    predict_test(dataset, backbone, family, cache)
    done.write_text(json.dumps({"processor_seconds": seconds, "trials": complete, "failed": len(trials) - complete}))


def search_for(
    seconds: float,
    study: Path,
    dataset: Dataset,
    backbone: str,
    spaces: Sequence[SearchSpace],
    cache: Path,
    **more: Any,
) -> None:
    """Search, or search on, for so many processor seconds of this process; more: as run_search takes it."""
    fit, families = fit_of(dataset.data_dir), tuple(space.family for space in spaces)
    settings = StudySettings(families=families, backbones=(backbone,), scale="demo", seed=dataset.seed, fit=fit)
    with suppress(KeyboardInterrupt), processor_seconds(seconds):
        run_search(
            str(study),
            dataset.data_dir,
            settings,
            weights=WEIGHTS,
            fingerprints=available_backbones((backbone,), WEIGHTS, _quiet),
            resources=Resources(cache=cache, inline=True),
            max_trials=MOST_TRIALS,
            hours=None,
            say=_quiet,
            prune="off",  # a recorded study needs all folds
            spaces={space.family: space for space in spaces},
            **more,
        )


def predict_test(dataset: Dataset, backbone: str, family: str, cache: Path) -> None:
    """test.parquet: trial_id, image_id and the five masses, the mean of each trial's fold models."""
    inputs = dataset.test_inputs(cache)
    if inputs is None:
        return
    ledger, found = ledger_of(dataset, backbone, family), []
    folds = sorted(int(fold) for fold in ledger.quadrats()["fold"].unique())
    for trial_id, result in sorted(ledger.results().items()):
        if result.status == COMPLETE:
            config = config_from_params(family, ledger.trial(trial_id).config)
            tensors = (load_tensors(ledger.fold_model(trial_id, fold)) for fold in folds)
            test_MT = np.mean([model(family).predict(config, one, inputs) for one in tensors], axis=0)
            found.append(
                pd.DataFrame(test_MT, columns=list(TARGETS)).assign(image_id=inputs.images.image_ids, trial_id=trial_id)
            )
    pd.concat(found).to_parquet(arm_folder(dataset, backbone, family) / TEST_FILE)


@contextmanager
def processor_seconds(seconds: float) -> Iterator[None]:
    """Raise KeyboardInterrupt inside when this process has computed for so long; main thread only."""

    def end(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGPROF, end)
    signal.setitimer(signal.ITIMER_PROF, seconds, AGAIN_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _quiet(_line: str) -> None:
    """An arm is one of dozens; its study has all that it said."""
