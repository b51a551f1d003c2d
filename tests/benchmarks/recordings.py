"""Recorded studies: all that a replay of a search needs of trials that were run on all folds, with a true test set.

M trials, N labelled images, K folds; masses in grams.

    FOLDER/SEED/truth.csv                            masses of the test images, sample_id,target
    FOLDER/SEED/BACKBONE/FAMILY/study/               a study of one family, searched with --prune off
    FOLDER/SEED/BACKBONE/FAMILY/test.parquet         trial_id, image_id, five masses: what the mean of fold models says

The studies of one backbone are one recording: the same images and folds, each family searched for about as long. It is
what study_families.py leaves behind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from simulate_search import IMAGES, SPACE, World
from simulated_libraries import MEAN_3, TEST_IMAGES_A_DATE, draw_errors, draw_masses

from biomass_models.data.table import read_masses
from biomass_models.targets import (
    FROM_COMPONENTS,
    TARGETS,
    FloatArray,
    norm_of,
    project_coherent,
    weighted_sst,
    weights_of,
)
from ensembles.choice import DEFAULT
from ensembles.gram import ErrorGram, error_gram
from ensembles.nests import fit_weights
from orchestration.search.engines.random_search import RandomEngine
from orchestration.search.gains.turns import Proposed
from orchestration.study.data import StudyData
from orchestration.study.ledger import Ledger
from orchestration.study.records import COMPLETE, Params, TrialRecord, TrialResult
from orchestration.study.seeds import derive_seed
from orchestration.study.spaces import open_spaces
from orchestration.study.storage import Storage
from search_spaces.domain import SearchSpace


@dataclass(frozen=True, kw_only=True, eq=False)
class Recording:
    """One recorded study."""

    name: str
    trials: tuple[Proposed, ...]  # complete ones
    cpu_seconds_M: FloatArray  # of all folds of a trial
    gram: ErrorGram  # of the out-of-fold errors
    test_gram_MM: FloatArray  # of the errors on the test images, over their SST
    spaces: Mapping[str, SearchSpace]  # by family

    @cached_property
    def place_of(self) -> Mapping[str, int]:
        """By trial id."""
        return {one.record.trial_id: place for place, one in enumerate(self.trials)}

    @cached_property
    def families(self) -> tuple[str, ...]:
        return tuple(sorted({one.record.family for one in self.trials}))

    @cached_property
    def fold_gram_KMM(self) -> FloatArray:
        """As the search sees it (orchestration/search/gains/fold_errors.py)."""
        folds = np.unique(self.gram.fold_C)
        return np.stack([self.gram.select(self.gram.fold_C == fold).product_MM for fold in folds]) / self.gram.sst

    def of(self, trial_ids: Sequence[str]) -> tuple[list[str], FloatArray]:
        """Errors of trials, for what a search asks them of."""
        order = [self.place_of[name] for name in trial_ids]
        return list(trial_ids), self.fold_gram_KMM[:, order][:, :, order]

    def true_score(self, trial_ids: Sequence[str]) -> float:
        """Score on the test images of the default blend of some trials."""
        order = [self.place_of[name] for name in trial_ids]
        weight_m = fit_weights(self.gram.keep(order), DEFAULT)
        return float(1 - weight_m @ self.test_gram_MM[np.ix_(order, order)] @ weight_m)


def read_recordings(folder: Path) -> list[Recording]:
    """Every recorded study of a folder, by name. Raises ValueError for one that is not as the module says."""
    found = [
        _read(truth, backbone)
        for truth in sorted(folder.glob("*/truth.csv"))
        for backbone in sorted({path.parents[1] for path in truth.parent.glob("*/*/test.parquet")})
    ]
    if not found:
        raise ValueError(f"a recording is SEED/truth.csv and SEED/BACKBONE/FAMILY/test.parquet, got none in {folder}")
    return found


def _read(truth_path: Path, folder: Path) -> Recording:
    arms = sorted(path.parent for path in folder.glob("*/test.parquet"))
    studies = [StudyData(Ledger(Storage(arm / "study"))) for arm in arms]
    name = f"{folder.parent.name}/{folder.name}"
    if len({study.fold_hash for study in studies}) != 1:
        raise ValueError(f"the studies of a recording must have one set of folds, got others in {folder}")
    trials, cpu_seconds, predictions = [], [], []
    for study in studies:
        for trial_id, pred_NT in study.predictions([one.trial_id for one in study.of(COMPLETE)]).items():
            one = study.by_id[trial_id]
            trials.append(Proposed(one.record, one.result))
            cpu_seconds.append(sum(fold.cpu_seconds for fold in study.fold_metrics(trial_id).values()))
            predictions.append(pred_NT)
    first, norm_T = studies[0], norm_of(studies[0].weight)
    truth = first.truth
    cells = truth["fold"], truth["group"], truth["unit"]
    gram = error_gram(project_coherent(np.stack(predictions), norm_T), first.truth_NT, *cells, first.weight)
    test_truth_MT = read_masses(truth_path)
    tests = pd.concat([pd.read_parquet(arm / "test.parquet") for arm in arms])
    test = tests.set_index(["trial_id", "image_id"])[list(TARGETS)]
    by_trial = [test.loc[one.record.trial_id].loc[test_truth_MT.index].to_numpy(np.float64) for one in trials]
    spaces: dict[str, SearchSpace] = {}
    for study in studies:
        spaces |= open_spaces(study.record, print)
    return Recording(
        name=name,
        trials=tuple(trials),
        cpu_seconds_M=np.array(cpu_seconds),
        gram=gram,
        test_gram_MM=_gram_of(project_coherent(np.stack(by_trial), norm_T), test_truth_MT.to_numpy(np.float64), norm_T),
        spaces=spaces,
    )


def _gram_of(pred_MNT: FloatArray, truth_NT: FloatArray, norm_T: FloatArray) -> FloatArray:
    """Gram matrix of errors over the SST, [M, M]; norm_T: what targets count."""
    weight = weights_of(truth_NT, norm_T)
    off_MNT = np.where(weight > 0, np.sqrt(weight) * (pred_MNT - truth_NT), 0.0)
    error_ME = off_MNT.reshape(len(pred_MNT), -1)
    gram_MM: FloatArray = error_ME @ error_ME.T / weighted_sst(truth_NT, weight)
    return gram_MM


# -- simulated ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SimulatedFamily:
    """Errors are in units of the mass, as in simulated_libraries."""

    common_sd: float = 0.25  # of what its trials share
    own_sd: tuple[float, float] = (0.15, 1.0)  # of a trial's own error: the best trial's and the worst's
    seconds: float = 10.0  # of a trial, give or take a third


NOISE = SimulatedFamily(common_sd=3.0, own_sd=(2.0, 3.0))  # hardly better than the mean
ALIKE = dict.fromkeys("abc", SimulatedFamily())
NOISY = {"wide": SimulatedFamily(own_sd=(0.2, 2.0)), **dict.fromkeys("xyz", NOISE)}


def simulate_recording(
    families: Mapping[str, SimulatedFamily], seed: int, *, trials: int = 40, images: int = 357, dates: int = 28
) -> Recording:
    """`trials` of each family, with a test set of other dates."""
    rng = np.random.default_rng([seed, trials, images])
    date_N = np.sort(rng.integers(0, dates, images))
    date_A = np.concatenate([date_N, dates + np.repeat(np.arange(2 * dates), TEST_IMAGES_A_DATE)])
    truth_A3 = draw_masses(rng, date_A)
    spread_A3 = np.sqrt(MEAN_3 * (truth_A3 + 0.3 * MEAN_3))
    shared_A3 = 0.5 * draw_errors(rng, 1, truth_A3, date_A)[0]
    found, predictions = list[Proposed](), list[FloatArray]()
    for family, of in families.items():
        common_A3 = of.common_sd * draw_errors(rng, 1, truth_A3, date_A)[0]
        own_MA3 = draw_errors(rng, trials, truth_A3, date_A)
        for own_A3, own_sd in zip(own_MA3, rng.uniform(*of.own_sd, trials), strict=True):
            predictions.append(_calibrated(truth_A3, spread_A3 * (shared_A3 + common_A3 + own_sd * own_A3)))
            found.append(simulated_trial(len(found), family, {}, float(of.seconds * rng.uniform(2 / 3, 4 / 3))))
    return recording_of(f"simulated {seed}", found, np.stack(predictions), truth_A3, date_N, {})


def simulate_world(seed: int, *, trials: int = 200) -> Recording:
    """Random configurations of one family, whose settings decide most of what a trial predicts (simulate_search.py)."""
    world, engine = World(seed), RandomEngine(SPACE)
    drawn = [engine.ask({}, derive_seed("recorded", seed, number)) or {} for number in range(trials)]
    found = [simulated_trial(number, SPACE.family, params, 10.0) for number, params in enumerate(drawn)]
    pred_MA3 = np.stack([world.predict(params) for params in drawn]).astype(np.float64)
    return recording_of(f"world {seed}", found, pred_MA3, world.truth_A3, world.date_A[:IMAGES], {SPACE.family: SPACE})


def simulated_trial(number: int, family: str, params: Params, seconds: float) -> Proposed:
    """A complete trial, whose score recording_of fills in."""
    facts: dict[str, Any] = {"params": params, "config": dict(params), "weights": "w", "seed": 0, "why": "simulated"}
    record = TrialRecord(trial_id=f"{number:05d}", number=number, family=family, proposed_at=0.0, **facts)
    return Proposed(record, TrialResult(status=COMPLETE, seconds=seconds))


def recording_of(
    name: str,
    trials: Sequence[Proposed],
    pred_MA3: FloatArray,
    truth_A3: FloatArray,
    date_N: np.ndarray,
    spaces: Mapping[str, SearchSpace],
) -> Recording:
    """Of component masses; the first len(date_N) of the A rows are for training, in five folds by date."""
    pred_MAT, truth_AT = pred_MA3 @ FROM_COMPONENTS.T, truth_A3 @ FROM_COMPONENTS.T
    images = len(date_N)
    gram = error_gram(pred_MAT[:, :images], truth_AT[:images], date_N % 5, np.char.mod("d%04d", date_N))
    scored = [
        one._replace(result=replace(one.result, score=float(1 - loss)))
        for one, loss in zip(trials, gram.loss_M, strict=True)
        if one.result is not None
    ]
    return Recording(
        name=name,
        trials=tuple(scored),
        cpu_seconds_M=np.array([0.0 if one.result is None else one.result.seconds for one in trials]),
        gram=gram,
        test_gram_MM=_gram_of(pred_MAT[:, images:], truth_AT[images:], weights_of(truth_AT[images:])),
        spaces=spaces,
    )


def _calibrated(truth_A3: FloatArray, error_A3: FloatArray) -> FloatArray:
    """By least squares, and not negative."""
    centred_A3 = truth_A3 - truth_A3.mean(0)
    raw_A3 = centred_A3 + error_A3
    slope_3 = (raw_A3 * centred_A3).mean(0) / (raw_A3**2).mean(0)
    return np.maximum(raw_A3 * slope_3 + truth_A3.mean(0), 0.0)
