"""`biomass refit`: the same rows or how far off, and what may be why."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_study import RANDOM, make_study
from typer.testing import CliRunner

from biomass_models.data.problems import DataError
from biomass_models.data.table import read_train
from biomass_models.features.inputs import ImageSet
from orchestration.cli import app
from orchestration.search.trial import run_trial
from orchestration.study.data_changes import data_fingerprint
from orchestration.study.environment import code_version, differences, environment
from orchestration.study.ledger import Ledger, LedgerError
from orchestration.workers.refit import Refit, refit_trial
from orchestration.workers.slots.inline_pool import InlinePool

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, tiny_pasture: Path) -> tuple[Ledger, list[str]]:
    """A baseline that has ended, and a probe that has not begun; the fingerprint is that of the data."""
    folder = tmp_path_factory.mktemp("study")
    ledger, context, records = make_study(folder, tiny_pasture, folder / "cache")
    table = read_train(tiny_pasture).merge(ledger.quadrats()[["image_id", "fold", "group"]], on="image_id")
    found = data_fingerprint(table, ImageSet.from_table(tiny_pasture, table).digest)
    ledger.write_study(replace(ledger.study(), data_fingerprint=found), ledger.quadrats())
    run_trial(ledger, InlinePool(context), records[0].trial_id)
    return ledger, [record.trial_id for record in records]


@pytest.fixture
def spoil(study: tuple[Ledger, list[str]]) -> Any:
    """Rewrites a fold or the trial, and puts everything back afterwards."""
    ledger, (trial, *_) = study
    root = Path(ledger.storage.uri)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file() and "cache" not in path.parts}

    def rewrite(shift: float = 0.0, metrics: dict[str, Any] | None = None, **record: Any) -> None:
        oof, found = ledger.fold_oof(trial, 1), ledger.fold_metrics(trial, 1)
        assert found is not None
        oof["Dry_Dead_g"] += shift
        changed = replace(found, **(metrics or {}))
        ledger.write_fold(trial, oof=oof, model=ledger.fold_model(trial, 1), metrics=changed)
        path = root / "trials" / trial / "trial.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | record))

    yield rewrite
    for path, content in before.items():
        path.write_bytes(content)


def again(ledger: Ledger, trial: str, data: Path) -> Refit:
    return refit_trial(ledger, trial, data, cache_dir=Path(ledger.storage.uri) / "cache", weights=RANDOM)


def test_the_command_says_that_the_rows_are_the_same(study: tuple[Ledger, list[str]], tiny_pasture: Path) -> None:
    ledger, (trial, *_) = study
    folder = Path(ledger.storage.uri)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    options = ["--data", str(tiny_pasture), "--cache", str(folder / "cache")]
    result = CliRunner().invoke(app, ["refit", str(folder), trial, *options])
    assert result.exit_code == 0, result.output
    assert "the same rows in 3 folds" in result.stdout and "Not as recorded" not in result.stdout
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    result = CliRunner().invoke(app, ["refit", str(folder), trial, *options, "--json"])
    found = json.loads(result.stdout)
    assert found["same"] and found["different_here"] == [] and [fold["fold"] for fold in found["folds"]] == [0, 1, 2]


def test_damaged_rows_are_told_in_grams(study: tuple[Ledger, list[str]], tiny_pasture: Path, spoil: Any) -> None:
    ledger, (trial, *_) = study
    spoil(shift=0.25)
    found = again(ledger, trial, tiny_pasture)
    assert [fold.same for fold in found.folds] == [True, False, True] and not found.same
    assert found.folds[1].largest_difference_g == pytest.approx(0.25)
    assert "fold 1 has other rows, up to 0.25 g apart" in str(found)
    assert "All that was recorded is the same here." in str(found)
    options = ["--data", str(tiny_pasture), "--cache", f"{ledger.storage.uri}/cache"]
    assert CliRunner().invoke(app, ["refit", ledger.storage.uri, trial, *options]).exit_code == 1


def test_another_seed_gives_other_rows_in_all_folds(
    study: tuple[Ledger, list[str]], tiny_pasture: Path, spoil: Any
) -> None:
    ledger, (trial, *_) = study
    spoil(seed=99)
    found = again(ledger, trial, tiny_pasture)
    assert not any(fold.same for fold in found.folds)
    assert all(fold.largest_difference_g and fold.largest_difference_g > 1e-6 for fold in found.folds)


def test_what_is_not_as_recorded_is_named(
    study: tuple[Ledger, list[str]], tiny_pasture: Path, own_pasture: Path, spoil: Any
) -> None:
    ledger, (trial, *_) = study
    metrics = ledger.fold_metrics(trial, 1)
    assert metrics is not None and metrics.environment == environment()
    spoil(metrics={"environment": environment() | {"torch": "1.0", "threads": 3}, "host": "elsewhere"}, weights="0123")
    found = "; ".join(again(ledger, trial, tiny_pasture).different_here)
    assert f"torch 1.0 then, {environment()['torch']} here" in found
    assert "threads" not in found, "it was fitted again with as many"
    assert "fitted on elsewhere" in found and "weights of test_vit 0123 then" in found
    train = own_pasture / "train.csv"
    lines = train.read_text().splitlines()
    cells = lines[1].split(",")
    lines[1] = ",".join([*cells[:-1], str(float(cells[-1]) + 1)])
    train.write_text("\n".join(lines) + "\n")
    texts = again(ledger, trial, own_pasture).different_here
    assert any(text.startswith("1 label changed (") for text in texts)


def test_what_cannot_be_compared_is_one_clear_error(
    study: tuple[Ledger, list[str]], tiny_pasture: Path, own_pasture: Path, tmp_path: Path
) -> None:
    ledger, (trial, other, *_) = study
    with pytest.raises(LedgerError, match=f"there is no trial {trial[:6]} in .*did you mean {trial}"):
        again(ledger, trial[:6], tiny_pasture)
    wrong = ("0" if trial[3] != "0" else "1").join([trial[:3], trial[4:]])
    with pytest.raises(LedgerError, match=f"did you mean {trial}"):
        again(ledger, wrong, tiny_pasture)
    with pytest.raises(LedgerError, match=f"trial {other} has none"):
        again(ledger, other, tiny_pasture)
    with pytest.raises((DataError, OSError)):
        again(ledger, trial, tmp_path)
    next((own_pasture / "train").iterdir()).unlink()
    with pytest.raises(LedgerError, match=r"from the study's photographs, .* lacks train/"):
        again(ledger, trial, own_pasture)
    lines = (own_pasture / "train.csv").read_text().splitlines()
    first = lines[1].split("__")[0]
    (own_pasture / "train.csv").write_text("\n".join(line for line in lines if not line.startswith(first)) + "\n")
    with pytest.raises(LedgerError, match=f"lacks 1 of 24, such as {first}"):
        again(ledger, trial, own_pasture)


def test_the_code_that_runs_is_recorded(study: tuple[Ledger, list[str]]) -> None:
    code = code_version()
    assert study[0].study().code == code
    assert code.source is not None and len(code.source) == 12 and (code.commit is None or len(code.commit) == 40)
    assert differences({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 3}) == ["b 2 then, 3 here"]
