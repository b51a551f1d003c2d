"""A searched and blended study of the tiny pasture, and its second round, in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from blended_study import InlinePredictor

from biomass_models.backbones.weights import WeightsSource
from biomass_models.fold_rows import scored_rows
from biomass_models.targets import TARGETS
from ensembles.blend import fit_blend
from ensembles.choice import rule_named
from ensembles.members.library import library_from_arrays
from ensembles.spec import BlendSpec
from orchestration.blending.blend import BlendOptions, run_ensemble
from orchestration.blending.members import FileMembers
from orchestration.search.ending import Ending
from orchestration.search.presets.options import Preset
from orchestration.search.start import start_search
from orchestration.study.data import StudyData
from orchestration.study.ledger import Ledger
from orchestration.study.records import COMPLETE, Asked, TrialRef
from orchestration.study.storage import Storage
from orchestration.workers.resources import Resources

BLEND = "first"  # name of the blend that labels
TINY = Preset().with_fields(
    families=("probe", "stack"), backbones=("test_vit",), weights="random", scale="smoke", folds=3
)


def search(study: Path, data: Path, trials: int, said: list[str] | None = None, **options: Any) -> Ending:
    """options: fields of a preset, such as second_round."""
    return start_search(
        str(study),
        data,
        TINY.with_fields(trials=trials, **options),
        weights=WeightsSource("random"),
        resources=Resources(inline=True, cache=study.parent / "cache"),
        say=[].append if said is None else said.append,
        made_with=Asked(),
    )


@contextmanager
def skilled(ledger: Ledger) -> Iterator[None]:
    """Inside, half of the truth is in the pooled rows: random weights on tiny pictures have no skill, and a blend
    leaves such trials out. The folds' own rows and models stay as they were."""
    truth_NT = scored_rows(ledger.quadrats())[list(TARGETS)].to_numpy()
    results = {name: result for name, result in ledger.results().items() if result.status == COMPLETE}
    before = {name: ledger.oof(name) for name in results}
    for name, oof in before.items():
        half_NT = (oof[list(TARGETS)].to_numpy() + truth_NT) / 2
        ledger.write_result(name, results[name], oof.assign(**dict(zip(TARGETS, half_NT.T, strict=True))))
    yield
    for name, oof in before.items():
        ledger.write_result(name, results[name], oof)


def blend(ledger: Ledger, data: Path, out: Path, studies: Sequence[str] = ()) -> Path:
    with skilled(ledger):
        (path,) = run_ensemble(
            [ledger.storage.uri, *studies],
            FileMembers(),
            data_dir=data,
            out=out,
            options=BlendOptions(rule="top-5"),
            seed=0,
            open_predictor=lambda _: InlinePredictor(data, Path(ledger.storage.uri).parent / "cache"),
            say=lambda _: None,
            show=lambda *_: None,
        )
    return path


def blended_study(folder: Path, data: Path, trials: int = 2, **options: Any) -> Ledger:
    """A study of complete trials, one of each family, and their blend."""
    search(folder / "study", data, trials, **options)
    ledger = Ledger(Storage(folder / "study"))
    blend(ledger, data, folder / f"{BLEND}.csv")
    return ledger


def write_blend(ledger: Ledger, members: list[str], refs: dict[str, TrialRef] | None = None) -> None:
    """An ensemble whose weights are as unlike as can be: none of them may enter a label."""

    truth = StudyData(ledger).truth
    pred_NT = truth[list(TARGETS)].to_numpy() * 0.9 + 1
    rng = np.random.default_rng(0)
    pred = [pred_NT + rng.uniform(0, 3, pred_NT.shape) for _ in members]
    library = library_from_arrays(members, pred, truth, checked=True)
    card = fit_blend(library, BlendSpec(rule=rule_named("top-5")), 0)
    weights = dict(zip(members, np.geomspace(1, 0.01, len(members)), strict=True))
    own = {name: TrialRef(ledger.storage.uri, name) for name in members}
    ledger.write_ensemble(BLEND, replace(card, members=weights).to_json(), {**own, **(refs or {})}, b"")
