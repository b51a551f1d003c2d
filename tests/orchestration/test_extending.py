"""The worked examples of docs/extending.md, executed: what they promise a reader holds."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import worked_packages
from commands import environment
from released import finish, go_on
from tiny_study import BACKBONE, RANDOM
from typer.testing import CliRunner

from biomass_models.backbones.weights import fingerprint
from biomass_models.data.folds import assign_folds, fold_hash
from biomass_models.data.table import read_train
from biomass_models.errors import UserError
from biomass_models.families import registry
from biomass_models.families.configs import config_from_params
from biomass_models.features.inputs import ImageSet, Inputs
from biomass_models.targets import from_components
from ensembles.gram import ErrorGram, error_gram
from ensembles.nests import nested
from orchestration.cli import app
from orchestration.search.opening import open_study
from orchestration.search.proposer import Proposer
from orchestration.search.trial import run_trial
from orchestration.study.ledger import Ledger
from orchestration.study.settings import StudySettings
from orchestration.study.storage import Storage
from orchestration.workers.context import WorkerContext
from orchestration.workers.slots.inline_pool import InlinePool
from search_spaces.spaces import space_of


@pytest.fixture
def family(tmp_path: Path) -> Iterator[types.ModuleType]:
    """The model module of the worked family, which is installed."""
    worked_packages.install(tmp_path)
    with worked_packages.installed(tmp_path):
        registry.model(worked_packages.NAME)
        yield sys.modules[f"{worked_packages.NAME}.model"]


def test_the_page_is_short() -> None:
    family, engine = (
        worked_packages.files_of_the_page(one) for one in (worked_packages.FAMILY, worked_packages.ENGINE)
    )
    assert set(family) == {"neighbours/config.py", "neighbours/model.py", "neighbours/space.py", "pyproject.toml"}
    assert set(engine) == {"climber.py", "pyproject.toml"}
    assert all(len(content.splitlines()) < 60 for content in (*family.values(), *engine.values()))


def test_a_new_family_is_searched_stored_and_predicts_what_it_stored(
    family: Any, tiny_pasture: Path, tmp_path: Path
) -> None:
    ledger, quadrats = Ledger(Storage(tmp_path / "study")), read_train(tiny_pasture)
    folds = assign_folds(quadrats, n_folds=3)
    quadrats = quadrats.merge(folds, on="image_id")
    weights = {BACKBONE: fingerprint(BACKBONE, RANDOM)}
    settings = StudySettings(families=("neighbours",), backbones=(BACKBONE,), folds=3, scale="smoke")
    open_study(ledger, settings, quadrats=quadrats, data_fingerprint="d", fold_hash=fold_hash(folds), weights=weights)
    space = {"neighbours": space_of("neighbours", (BACKBONE,), "smoke")}
    record = Proposer(space, ledger, seed=0, fold_hash=fold_hash(folds), weights=weights).propose()
    assert record is not None and record.config["neighbours"] == 5
    cache = tmp_path / "cache"
    context = WorkerContext(study=str(tmp_path / "study"), data_dir=str(tiny_pasture), cache=str(cache), weights=RANDOM)
    result = run_trial(ledger, InlinePool(context), record.trial_id)
    assert result is not None and result.status == "complete", result
    metrics = ledger.fold_metrics(record.trial_id, 0)
    assert metrics is not None and metrics.environment["package neighbours"].startswith("1.0 (")
    inputs = Inputs(ImageSet.from_table(tiny_pasture, quadrats), cache_dir=cache, weights=RANDOM)
    config = config_from_params("neighbours", record.config)
    fitted = family.fit(config, quadrats, quadrats["fold"].to_numpy(), 0, inputs, seed=0)
    again = family.predict(config, fitted.tensors, inputs)[fitted.row_N]
    np.testing.assert_allclose(again, fitted.pred_NT)
    nearest = config_from_params("neighbours", {"backbone": BACKBONE, "size": 64, "neighbours": 1})
    alone = family.fit(nearest, quadrats, quadrats["fold"].to_numpy(), 0, inputs, seed=0)
    known = quadrats.loc[quadrats["fold"] != 0, ["Dry_Total_g"]]
    assert np.isin(alone.pred_NT[:, 4].round(6), known.to_numpy().round(6)).all()  # a neighbour's own mass


def test_a_family_that_cannot_be_loaded_costs_nothing_but_itself(tmp_path: Path) -> None:
    worked_packages.install(tmp_path)
    (tmp_path / "neighbours" / "config.py").write_text("import a_package_that_nobody_has\n")
    (tmp_path / "neighbours" / "model.py").write_text("MODEL = 3\n")
    with worked_packages.installed(tmp_path):
        assert registry.names() == sorted([*registry.BUILT_IN, "neighbours"])
        assert all(registry.family(name).describe for name in registry.BUILT_IN)
        with pytest.raises(UserError, match=r"cannot be loaded from neighbours\.config \(ModuleNotFound.*repair"):
            registry.family("neighbours")
        with pytest.raises(UserError, match=r"neighbours\.model must define MODEL, a families\.base\.Model, got 3"):
            registry.model("neighbours")
    with pytest.raises(UserError, match=r"family neighbours is not known here.*install the package that brings it"):
        registry.family("neighbours")


@pytest.mark.slow
def test_every_reader_opens_a_study_whose_family_is_not_installed(tiny_pasture: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    worked_packages.install(site)
    ledger, quadrats = Ledger(Storage(tmp_path / "study")), read_train(tiny_pasture)
    folds = assign_folds(quadrats, n_folds=3)
    weights = {BACKBONE: fingerprint(BACKBONE, RANDOM)}
    families = ("neighbours", "probe")
    settings = StudySettings(families=families, backbones=(BACKBONE,), folds=3, scale="smoke")
    with worked_packages.installed(site):
        open_study(
            ledger,
            settings,
            quadrats=quadrats.merge(folds, on="image_id"),
            data_fingerprint="d",
            fold_hash=fold_hash(folds),
            weights=weights,
        )
        spaces = {name: space_of(name, (BACKBONE,), "smoke") for name in families}
        proposer = Proposer(spaces, ledger, seed=0, fold_hash=fold_hash(folds), weights=weights)
        context = WorkerContext(
            study=str(tmp_path / "study"), data_dir=str(tiny_pasture), cache=str(tmp_path / "cache"), weights=RANDOM
        )
        for _ in families:
            record = proposer.propose()
            assert record is not None
            result = run_trial(ledger, InlinePool(context), record.trial_id)
            assert result is not None and result.status == "complete", result
    with pytest.raises(UserError):
        registry.family("neighbours")
    study, page = ledger.storage.uri, tmp_path / "report.html"

    def said(*arguments: str) -> str:
        result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "80"})
        assert result.exit_code == 0, (arguments, result.output, result.exception)
        return result.output

    said("audit", study)
    assert "2 complete" in said("status", study)
    rows = {row["family"]: row for row in json.loads(said("leaderboard", study, "--json"))["rows"]}
    assert rows["neighbours"]["summary"] == "" and rows["probe"]["summary"] != ""
    assert "neighbours" in said("leaderboard", study)
    blend_with_skill(ledger)
    said("report", study, "--out", str(page))
    assert registry_line() not in page.read_text() and "neighbours" in page.read_text()
    said("ensemble", study, "--out", str(tmp_path / "blend"))
    trial = next(record.trial_id for record in ledger.trials() if record.family == "neighbours")
    image = str(quadrats["image_id"].iloc[0])
    refused = CliRunner().invoke(app, ["explain", study, trial, "--image", image, "--data", str(tiny_pasture)])
    assert refused.exit_code != 0 and "install the package that brings it" in str(refused.exception)


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.timeout(420)
def test_an_installed_family_goes_the_whole_road_and_its_study_opens_without_it(
    tmp_path: Path, tiny_pasture: Path
) -> None:
    """The command line in processes of its own, as a user has it: nothing of this project knows the family."""
    site = tmp_path / "site"
    site.mkdir()
    worked_packages.install(site)
    known = environment(tmp_path)
    known["PYTHONPATH"] = os.pathsep.join([str(site), known["PYTHONPATH"]])

    def biomass(*arguments: str, env: dict[str, str] = known) -> str:
        command = [sys.executable, "-m", "orchestration", *arguments]
        result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env)
        assert result.returncode == 0, (arguments, result.stdout, result.stderr)
        return result.stdout + result.stderr

    families = ["--family", "neighbours", "--family", "probe", "--backbone", BACKBONE, "--scale", "smoke"]
    data = ["--data", str(tiny_pasture)]
    biomass("search", "study", *data, *families, "--weights", "random", "--folds", "3", "--trials", "4", "--slots", "2")
    ledger = Ledger(Storage(tmp_path / "study"))
    assert [record.family for record in ledger.trials()] == ["neighbours", "probe"] * 2
    assert {result.status for result in ledger.results().values()} == {"complete"}
    gone = environment(tmp_path)  # an installation without the family
    biomass("audit", "study", env=gone)
    blend_with_skill(ledger)
    biomass("ensemble", "study", *data, "--rule", "top-5", "--out", "submission.csv")
    card = ledger.ensemble("submission").card
    blended = {ledger.trial(ref.trial_id).family for ref in ledger.ensemble("submission").trials.values()}
    assert blended == {"neighbours", "probe"}, card
    page = tmp_path / "report.html"
    biomass("report", "study", "--out", str(page))
    assert registry_line() in page.read_text()
    biomass("export", "study", "submission", "--out", "bundle")
    shutil.move(tmp_path / "bundle", tmp_path / "elsewhere")
    alone = {**environment(tmp_path), "PYTHONPATH": ""}  # of the family there is the wheel in the bundle, and no more
    predicted = [sys.executable, "elsewhere/predict.py", str(tiny_pasture), "again.csv"]
    result = subprocess.run(predicted, capture_output=True, text=True, cwd=tmp_path, env=alone)
    assert result.returncode == 0, result.stderr
    first, again = (pd.read_csv(tmp_path / name)["target"] for name in ("submission.csv", "again.csv"))
    np.testing.assert_allclose(first, again, atol=1e-5)

    board = json.loads(biomass("leaderboard", "study", "--json", env=gone))
    assert {row["family"] for row in board["rows"] if row["family"]} == {"neighbours", "probe"}
    biomass("status", "study", env=gone)
    biomass("trace", "submission.csv", env=gone)
    biomass("report", "study", "--out", str(page), env=gone)
    assert registry_line() not in page.read_text() and "neighbours" in page.read_text()
    biomass("ensemble", "study", "--out", "blend", env=gone)
    waits = ["search", "study", *data, "--trials", "5", "--slots", "2"]
    assert "Family neighbours cannot be searched" in " ".join(biomass(*waits, env=gone).split())
    assert [record.family for record in ledger.trials()] == ["neighbours", "probe"] * 2 + ["probe"]


def registry_line() -> str:
    source = worked_packages.files_of_the_page()["neighbours/config.py"]
    (line,) = re.findall(r'describe="(.*?)"', source)
    return str(line)


def blend_with_skill(ledger: Ledger) -> None:
    """Random weights on tiny pictures have no skill, and a library leaves such members out: half of the truth is mixed
    into the pooled rows."""
    from biomass_models.targets import TARGETS

    truth_NT = ledger.quadrats()[list(TARGETS)].to_numpy()
    for name, result in ledger.results().items():
        oof = ledger.oof(name)
        oof[list(TARGETS)] = (oof[list(TARGETS)].to_numpy() + truth_NT) / 2
        ledger.write_result(name, result, oof)


# -- an engine ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_new_engine_is_found_searched_with_and_observes(tiny_pasture: Path, tmp_path: Path) -> None:
    """As `biomass search --engine climb` goes on with a study that was made with another engine."""
    site, said = tmp_path / "site", list[str]()
    site.mkdir()
    worked_packages.install(site, worked_packages.ENGINE)
    ledger = Ledger(Storage(tmp_path / "study"))
    options = {"families": ("probe",), "trials": 4}

    def search(**typed: Any) -> Proposer:
        return go_on(ledger, data=tiny_pasture, say=said.append, **{**options, **typed})

    finish(search(engine="random"), tmp_path / "cache", tiny_pasture)
    with worked_packages.installed(site):
        typed = ["search", "study", "--data", str(tiny_pasture), "--trials", "5", "--engine", "clim"]
        refused = CliRunner().invoke(app, typed).exception
        assert "tpe, gp, random, climb, got 'clim'; did you mean climb?" in str(refused)
        climbing = search(engine="climb", trials=40)
        assert ledger.study().settings.engine == "climb"
        scores = {name: result.score for name, result in ledger.results().items() if result.score is not None}
        near, climbed = ledger.trial(max(scores, key=lambda name: scores[name])).params, 0
        for _ in range(12):
            record = climbing.propose()
            assert record is not None
            same = {name for name in near if record.params.get(name) == near[name]}
            climbed += record.why == "proposed by climb" and len(near) - len(same) == 1
        assert climbed >= 3  # one field of the best; where its neighbours are known random search draws
        again = search(trials=40)  # without --engine it stays
    assert again.missing == climbing.missing
    with pytest.raises(UserError, match=r"engine climb is not known here.*install the package that brings it, or name"):
        search(trials=40)
    assert search(engine="tpe", trials=40).trials.ended == 4 and ledger.study().settings.engine == "tpe"
    assert {record.why for record in ledger.trials()} <= {"first trial", "proposed by random", "proposed by climb"}
    assert ledger.study().made_with.overrides["engine"] == "random"  # what it was made with stays on record


# -- a blending rule ---------------------------------------------------------------------------------------------------


def rule_of_the_page() -> types.ModuleType:
    """The last Python block of the page as a module."""
    source = re.findall(r"```python\n(.*?)```", worked_packages.PAGE.read_text(), flags=re.DOTALL)[-1]
    module = types.ModuleType("rule_of_the_page")
    sys.modules[module.__name__] = module  # dataclasses look their module up
    exec(compile(source, f"{worked_packages.PAGE.name}, the rule", "exec"), module.__dict__)
    return module


def random_gram(members: int) -> ErrorGram:
    rng = np.random.default_rng(0)
    truth_NT = from_components(*rng.gamma(2.0, 20.0, (3, 60)))
    spread_M = np.linspace(0.1, 0.6, members)
    pred_MNT = [truth_NT * np.exp(spread * rng.standard_normal((60, 1))) for spread in spread_M]
    return error_gram(np.stack(pred_MNT), truth_NT, np.arange(60) % 5, np.arange(60).astype(str))


def test_a_new_rule_is_a_rule() -> None:
    rule, gram = rule_of_the_page().InverseLoss(), random_gram(12)
    weight_M = rule(gram, 0)
    assert rule.name == "inverse-loss-4" and weight_M.sum() == pytest.approx(1) and (weight_M > 0).all()
    assert weight_M.argmax() == gram.loss_M.argmin()
    assert nested(gram, rule).score > 1 - gram.loss_M.max()
