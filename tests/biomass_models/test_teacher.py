"""The metadata teacher: what it sees, what it may not see, what its numbers are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.model_selection import GroupKFold
from tiny_inputs import tiny_quadrats

from biomass_models.data.taxonomy import TAG_COLUMNS
from biomass_models.families.base import Artefact
from biomass_models.families.distilled.config import TeacherConfig
from biomass_models.families.distilled.teacher import TeacherNet, fit_teacher, metadata_features, sample_weights
from biomass_models.interrupt import StopRequested
from biomass_models.targets import TARGETS, identity_gap, weighted_r2_score
from biomass_models.training.fit import FitError

pytestmark = pytest.mark.slow

SMALL = TeacherConfig(width=16, width_2=8, epochs=40, inner_folds=3)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, np.ndarray]:
    return tiny_quadrats(tmp_path_factory.mktemp("photographs"), images=40)


def masses(artefact: Artefact) -> np.ndarray:
    return artefact.table[list(TARGETS)].to_numpy()


def taught(quadrats: pd.DataFrame, fold_N: np.ndarray, **changed: Any) -> np.ndarray:
    return masses(fit_teacher(SMALL, quadrats.assign(**changed), fold_N, 0, seed=3))


def test_features_by_hand() -> None:
    table = pd.DataFrame(
        {
            "Pre_GSHH_NDVI": [0.5],
            "Height_Ave_cm": [4.0],
            "Sampling_Date": [pd.Timestamp(2015, 4, 1)],  # day 91
            "Species": ["Ryegrass_WhiteClover"],
        }
    )
    row = metadata_features(table)[0]
    angle = 2 * np.pi * 91 / 365.25
    assert row[:5].tolist() == pytest.approx([0.5, 4.0, 2.0, np.sin(angle), np.cos(angle)])
    tags = {tag for tag, there in zip(TAG_COLUMNS, row[5:], strict=True) if there}
    assert tags == {"grass", "rye", "clover", "white"}


def test_clover_tags_enter_the_green_clover_logits_directly() -> None:
    net = TeacherNet(SMALL)
    with torch.no_grad():
        for parameter in net.body.parameters():
            parameter.zero_()
        net.clover.weight.copy_(torch.arange(10.0).view(2, 5))
    row = torch.zeros(1, 25)
    assert net(row).tolist() == [[0.0] * 5]
    row[0, 5 + TAG_COLUMNS.index("clover")] = 1.0
    assert net(row).tolist() == [[0.0, 0.0, 0.0, 0.0, 5.0]]
    row = torch.zeros(1, 25)
    row[0, 5 + TAG_COLUMNS.index("rye")] = 1.0
    assert net(row).tolist() == [[0.0] * 5]


def test_sample_weights_by_hand() -> None:
    table = pd.DataFrame(
        {
            "image_id": list("abcdefg"),
            "Sampling_Date": pd.Timestamp(2015, 9, 4),
            "State": ["NSW"] * 6 + ["WA"],
            "Species": ["Clover"] * 5 + ["Lucerne", "Lucerne"],
        }
    )
    inverse = np.array([0.2] * 5 + [1.0, 1.0])
    np.testing.assert_allclose(sample_weights(table), inverse / inverse.mean())
    many = pd.concat([table.iloc[[0]]] * 300 + [table.iloc[[5]]], ignore_index=True)
    assert sample_weights(many).max() == 5.0  # 150.5 before clipping
    crowd = pd.concat([table.iloc[[0]]] * 300 + [table.iloc[[5]].assign(State=str(n)) for n in range(60)])
    assert sample_weights(crowd).min() == 0.1  # 360 / 61 / 300 = 0.02 before clipping


def test_targets_are_coherent_and_scored_against_the_training_labels(world: Any) -> None:
    quadrats, fold_N = world
    result = fit_teacher(SMALL, quadrats, fold_N, 0, seed=3)
    assert masses(result).shape == ((fold_N != 0).sum(), 5)
    assert (masses(result) >= 0).all()
    assert identity_gap(masses(result)).max() < 1e-9
    assert result.score == weighted_r2_score(quadrats.loc[fold_N != 0, list(TARGETS)], masses(result))
    again = fit_teacher(SMALL, quadrats, fold_N, 0, seed=3)
    assert masses(again).tobytes() == masses(result).tobytes()


def test_more_training_teaches_more(world: Any) -> None:
    quadrats, fold_N = world
    longer = TeacherConfig(epochs=200, inner_folds=3)
    short, long = (fit_teacher(config, quadrats, fold_N, 0, seed=3).score for config in (SMALL, longer))
    assert long > short


def test_held_out_labels_and_metadata_are_never_seen(world: Any) -> None:
    quadrats, fold_N = world
    held = fold_N == 0
    changed = quadrats.copy()
    changed.loc[held, list(TARGETS)] = 99.0
    changed.loc[held, ["Pre_GSHH_NDVI", "Height_Ave_cm"]] = 7.0
    assert taught(changed, fold_N).tobytes() == taught(quadrats, fold_N).tobytes()


def test_a_row_is_not_taught_its_own_label_nor_its_group(world: Any) -> None:
    quadrats, fold_N = world
    train = np.flatnonzero(fold_N != 0)
    groups = quadrats["group"].to_numpy()[train]
    before = taught(quadrats, fold_N)
    for place in (0, 7, len(train) - 1):
        changed = quadrats.copy()
        changed.loc[train[place], list(TARGETS)] *= 40.0
        after = taught(changed, fold_N)
        together = next(held for _, held in GroupKFold(3).split(groups, groups=groups) if place in held)
        assert set(np.flatnonzero(groups == groups[place])) <= set(together)
        np.testing.assert_array_equal(after[together], before[together])  # scalers too were fitted without it
        others = np.setdiff1d(np.arange(len(train)), together)
        assert np.abs(after[others] - before[others]).max() > 1e-3  # the label does matter elsewhere


def test_rows_weigh_by_their_kind(world: Any) -> None:
    quadrats, fold_N = world
    states = np.where(np.arange(len(quadrats)) == np.flatnonzero(fold_N != 0)[0], "WA", "Tas")  # no feature of the net
    assert np.abs(taught(quadrats, fold_N, State=states) - taught(quadrats, fold_N)).max() > 1e-6


def test_threads_do_not_change_what_is_taught(world: Any) -> None:
    quadrats, fold_N = world
    before = torch.get_num_threads()
    alone = taught(quadrats, fold_N)
    try:
        torch.set_num_threads(2)
        assert taught(quadrats, fold_N).tobytes() == alone.tobytes()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_one_group_cannot_be_taught(world: Any, tmp_path: Path) -> None:
    quadrats, fold_N = world
    with pytest.raises(FitError, match="at least 2 groups"):
        fit_teacher(SMALL, quadrats.assign(group="same"), fold_N, 0, seed=0)


def test_stop_is_honoured(world: Any) -> None:
    quadrats, fold_N = world
    with pytest.raises(StopRequested):
        fit_teacher(SMALL, quadrats, fold_N, 0, seed=0, should_stop=lambda: True)
