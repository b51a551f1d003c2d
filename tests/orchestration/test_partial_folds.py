"""Folds and searches of tables in which not every mass was measured."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tiny_study import FAMILY_NAMES, make_study

from biomass_models.data.cell_weights import WEIGHT_COLUMNS
from biomass_models.data.dataset import MASSES
from biomass_models.data.folds import FoldError
from biomass_models.data.table import read_train
from biomass_models.families import registry
from biomass_models.pasture.make import make_pasture
from biomass_models.targets import TARGETS, TOTAL, weight_T, weighted_r2_score, weights_of
from orchestration.search.preflight import searchable
from orchestration.search.presets.options import Preset
from orchestration.study.records import Asked
from orchestration.study.settings import StudyError
from orchestration.workers.jobs import FoldJob
from orchestration.workers.runner import JobRunner

pytestmark = pytest.mark.slow

ALL, TOTAL_ALONE, TOTAL_CLOVER = tuple(MASSES), ("total",), ("total", "clover")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny pasture as quadrats.csv, in grams."""
    folder = tmp_path_factory.mktemp("own") / "data"
    make_pasture(folder, form="quadrats", images=24, test_images=0, seed=0, width=160, height=80, workers=1)
    return folder


def measure(data: Path, roles: tuple[str, ...], everywhere: tuple[str, ...], rows: int) -> Path:
    """Keep these masses, and those that are not `everywhere` in the first rows only."""
    lines = (data / "dataset.toml").read_text().splitlines()
    kept = [line for line in lines if (role := line.split(" =")[0]) not in MASSES or role in roles]
    (data / "dataset.toml").write_text("\n".join(kept) + "\n")
    table = pd.read_csv(data / "quadrats.csv", dtype=str)
    table.loc[rows:, [f"{role}_g" for role in roles if role not in everywhere]] = ""
    table.to_csv(data / "quadrats.csv", index=False)
    return data


@pytest.fixture
def partial(own: Path, tmp_path: Path) -> Any:
    """Makes a copy in which only some masses were measured."""

    def copy(roles: tuple[str, ...], everywhere: tuple[str, ...] = ALL, rows: int = 0) -> Path:
        return measure(Path(shutil.copytree(own, tmp_path / "partial")), roles, everywhere, rows)

    return copy


@pytest.mark.parametrize("pattern", ["total alone", "all in two thirds"])
def test_rows_of_a_fold_are_blank_where_nobody_measured_and_look_at_nothing_there(
    partial: Any, tmp_path: Path, pattern: str
) -> None:
    data = partial(TOTAL_ALONE) if pattern == "total alone" else partial(ALL, TOTAL_ALONE, rows=20)
    never = np.array([name != "Dry_Total_g" and pattern == "total alone" for name in TARGETS])
    seen: dict[str, set[bytes]] = {}
    for value in (np.nan, 0.0, 1e9):
        ledger, context, records = make_study(tmp_path / f"study{value}", data, tmp_path / "cache", FAMILY_NAMES)
        quadrats = ledger.quadrats()
        truth_NT = quadrats[list(TARGETS)].to_numpy()
        if not np.isnan(value):
            given = np.where(np.isnan(truth_NT), 0.0, weight_T)
            quadrats[list(WEIGHT_COLUMNS)], quadrats[list(TARGETS)] = given, np.nan_to_num(truth_NT, nan=value)
            ledger.write_study(ledger.study(), quadrats)
        for record in records:
            outcome = JobRunner(context).run(FoldJob(trial_id=record.trial_id, fold=0, together=False))
            assert outcome.metrics is not None, outcome.reason
            pred_NT = ledger.fold_oof(record.trial_id, 0)[list(TARGETS)].to_numpy()
            assert np.isnan(pred_NT[:, never]).all() and np.isfinite(pred_NT[:, ~never]).all()
            held = (quadrats["fold"] == 0).to_numpy()
            score = weighted_r2_score(
                truth_NT[held], pred_NT, np.broadcast_to(weights_of(truth_NT[held]), pred_NT.shape)
            )
            assert outcome.metrics.score == pytest.approx(score)
            model = ledger.fold_model(record.trial_id, 0)
            seen.setdefault(record.trial_id, set()).add(pred_NT.tobytes() + model)
    assert len(seen) == len(FAMILY_NAMES) and all(len(bytes_) == 1 for bytes_ in seen.values())


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_a_prediction_that_is_no_mass_fails_its_trial_where_masses_were_measured(
    partial: Any, tmp_path: Path, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, context, records = make_study(tmp_path / "study", partial(TOTAL_ALONE), tmp_path / "cache")
    probe, (record,) = registry.model("probe"), [one for one in records if one.family == "probe"]
    wrong: list[int] = []

    def spoiled(*args: Any, **more: Any) -> Any:
        result = probe.fit(*args, **more)
        pred_NT = result.pred_NT.copy()
        pred_NT[1, wrong] = value
        return replace(result, pred_NT=pred_NT)

    monkeypatch.setattr(registry, "model", lambda name: replace(probe, fit=spoiled))
    wrong[:] = [target for target in range(5) if target != TOTAL]  # which nobody measured
    assert JobRunner(context).run(FoldJob(trial_id=record.trial_id, fold=0, together=False)).status == "done"
    wrong[:] = [TOTAL]
    outcome = JobRunner(context).run(FoldJob(trial_id=record.trial_id, fold=1, together=False))
    assert outcome.status == "failed" and f"1 row with others, such as Dry_Total_g = {value:g}" in outcome.reason
    assert ledger.fold_metrics(record.trial_id, 1) is None


# -- what a search takes -----------------------------------------------------------------------------------------------

ASKED = Preset().with_fields(families=("probe", "baseline", "distilled"), scale="smoke", folds=3)


def families_of(data: Path, typed: tuple[str, ...] = ()) -> tuple[tuple[str, ...], list[str]]:
    """The families that a search of these data takes, and what it says."""
    said: list[str] = []
    asked = ASKED.with_fields(families=typed) if typed else ASKED
    made_with = Asked(overrides={"families": typed} if typed else {})
    return searchable(str(data / "study"), data, asked, made_with, read_train(data), said.append).study.families, said


@pytest.mark.parametrize(
    ("roles", "everywhere", "rows"),
    [(TOTAL_ALONE, ALL, 0), (("total", "gdm"), ALL, 0), (ALL, TOTAL_ALONE, 22), (ALL, ALL, 0)],
)
def test_a_student_learns_the_total_and_shares_of_it(
    partial: Any, roles: tuple[str, ...], everywhere: tuple[str, ...], rows: int
) -> None:
    assert families_of(partial(roles, everywhere, rows)) == (ASKED.study.families, [])


def test_a_family_without_a_term_for_a_mass_is_left_out_with_a_notice(partial: Any) -> None:
    data = partial(TOTAL_CLOVER)
    families, (said,) = families_of(data)
    assert families == ("probe", "baseline")
    assert said.startswith("the family distilled cannot learn Dry_Clover_g: it learns the total, then GDM with dead")
    assert said.endswith("(fold 0); it is left out of the search")
    with pytest.raises(
        StudyError, match=r"cannot learn Dry_Clover_g.*measure more or search without it \(--family pro"
    ):
        families_of(data, ("probe", "distilled"))
    with pytest.raises(StudyError, match=r"\(fold 0\); measure more$"):
        families_of(data, ("distilled",))


def test_a_mass_with_too_few_rows_ends_a_search_before_it_begins(partial: Any) -> None:
    with pytest.raises(
        FoldError, match=r"Dry_Green_g is learned from 10 measured photographs or more, without fold \d"
    ):
        families_of(partial(ALL, TOTAL_ALONE, rows=11))
