"""The worked examples of docs/extending.md, executed: what they promise a reader holds."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_study import BACKBONE, RANDOM

from biomass_models.backbones.weights import fingerprint
from biomass_models.data.folds import assign_folds, fold_hash
from biomass_models.data.table import read_train
from biomass_models.families import configs
from biomass_models.families import registry as zoo
from biomass_models.features.inputs import ImageSet, Inputs
from biomass_models.targets import from_components
from ensembles.gram import ErrorGram, error_gram
from ensembles.honest import nested
from orchestration.search.opening import open_study
from orchestration.search.searcher import Proposer
from orchestration.search.trial import run_trial
from orchestration.study.ledger import Ledger
from orchestration.study.settings import StudySettings
from orchestration.study.storage import Storage
from orchestration.workers.context import WorkerContext
from orchestration.workers.pool import InlinePool
from search_spaces import spaces

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
TABLES = (configs.CONFIGS, zoo.FAMILIES, spaces.SPACES)


def example(number: int) -> types.ModuleType:
    """One Python block of the page as a module."""
    source = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)[number]
    assert len(source.splitlines()) < 60
    module = types.ModuleType(f"example_{number}")
    sys.modules[module.__name__] = module  # dataclasses look their module up
    exec(compile(source, f"{PAGE.name}, example {number}", "exec"), module.__dict__)
    return module


@pytest.fixture
def family() -> Iterator[types.ModuleType]:
    before = [dict(table) for table in TABLES]
    yield example(0)
    for table, kept in zip(TABLES, before, strict=True):
        table.clear()
        table.update(kept)


def test_a_new_family_is_searched_stored_and_predicts_what_it_stored(
    family: Any, tiny_pasture: Path, tmp_path: Path
) -> None:
    ledger, quadrats = Ledger(Storage(tmp_path / "study")), read_train(tiny_pasture)
    folds = assign_folds(quadrats, n_folds=3)
    quadrats = quadrats.merge(folds, on="image_id")
    weights = {BACKBONE: fingerprint(BACKBONE, RANDOM)}
    settings = StudySettings(families=("neighbours",), backbones=(BACKBONE,), n_folds=3, scale="smoke")
    open_study(ledger, settings, quadrats=quadrats, data_fingerprint="d", fold_hash=fold_hash(folds), weights=weights)
    space = {"neighbours": spaces.space_of("neighbours", (BACKBONE,), "smoke")}
    record = Proposer(space, ledger, seed=0, fold_hash=fold_hash(folds), weights=weights).propose()
    assert record is not None and record.config["neighbours"] == 5
    cache = tmp_path / "cache"
    context = WorkerContext(
        study=str(tmp_path / "study"), data_dir=str(tiny_pasture), cache_dir=str(cache), weights=RANDOM
    )
    result = run_trial(ledger, InlinePool(context), record.trial_id)
    assert result is not None and result.status == "complete", result
    inputs = Inputs(ImageSet.from_table(tiny_pasture, quadrats), cache_dir=cache, weights=RANDOM)
    config = configs.config_from_params("neighbours", record.config)
    fitted = family.fit(config, quadrats, quadrats["fold"].to_numpy(), 0, inputs, seed=0)
    again = family.predict(config, fitted.tensors, inputs)[fitted.row_N]
    np.testing.assert_allclose(again, fitted.pred_NT)
    nearest = family.NeighboursConfig(backbone=BACKBONE, size=64, neighbours=1)
    alone = family.fit(nearest, quadrats, quadrats["fold"].to_numpy(), 0, inputs, seed=0)
    known = quadrats.loc[quadrats["fold"] != 0, ["Dry_Total_g"]]
    assert np.isin(alone.pred_NT[:, 4].round(6), known.to_numpy().round(6)).all()  # a neighbour's own mass


def random_gram(members: int) -> ErrorGram:
    rng = np.random.default_rng(0)
    truth_NT = from_components(*rng.gamma(2.0, 20.0, (3, 60)))
    spread_M = np.linspace(0.1, 0.6, members)
    pred_MNT = [truth_NT * np.exp(spread * rng.standard_normal((60, 1))) for spread in spread_M]
    return error_gram(np.stack(pred_MNT), truth_NT, np.arange(60) % 5, np.arange(60).astype(str))


def test_a_new_rule_is_a_rule() -> None:
    rule, gram = example(1).InverseLoss(), random_gram(12)
    weight_M = rule(gram, 0)
    assert rule.name == "inverse-loss-4" and weight_M.sum() == pytest.approx(1) and (weight_M > 0).all()
    assert weight_M.argmax() == gram.loss_M.argmin()
    assert nested(gram, rule).score > 1 - gram.loss_M.max()
