"""Known mistakes are told before torch, timm, Ray or Optuna load: seen in the modules of one process that makes all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import filelock
import pytest
from commands import environment
from told_study import told_study

pytestmark = pytest.mark.slow

HEAVY = ("torch", "timm", "ray", "optuna", "sklearn")
MAKES_THEM = f"""
import json, sys
from typer.testing import CliRunner
from orchestration.cli import app
from orchestration.endings import explained
found = []
for line in json.load(sys.stdin):
    result = CliRunner().invoke(app, line)
    said = explained(result.exception)[0] if result.exception and result.exit_code == 1 else result.output
    found.append((result.exit_code, said, sorted(set({HEAVY}) & set(sys.modules))))
print(json.dumps(found))
"""
SEARCH = "search new --data DATA --trials 3"
MISTAKES = {  # command line -> part of what is said
    "search new --data DATA": "a search needs an end",
    f"{SEARCH} --prun off": "No such option",
    "search new --data gone --trials 3": "gone is no such folder",
    "search new --data empty --trials 3": "a file train.csv is needed",
    "search new --data empty --trials 4": "`biomass data import TABLE` makes quadrats.csv",
    "search new --data DATA --trials 99999999999999999999": "less than or equal to",
    "search pictures --data DATA --trials 3": "a new study has a folder of its own",
    "search new --data broken --trials 3": "the photographs lie in the data directory",
    f"{SEARCH} --family prob": "did you mean probe?",
    f"{SEARCH} --family probe=two": "a family is given as NAME or NAME=SHARE",
    f"{SEARCH} --family probe=0": "NAME=SHARE, a number above 0",
    f"{SEARCH} --family probe=-1": "NAME=SHARE, a number above 0",
    f"{SEARCH} --preset nothing": "a preset is one of",
    f"{SEARCH} --scale huge": "a scale is one of",
    f"{SEARCH} --scheme week": "a fold scheme is one of",
    f"{SEARCH} --prune much": "a pruning rule is one of",
    f"{SEARCH} --weights gone": "the weights folder must be an existing directory",
    f"{SEARCH} --fold-file gone.csv": "a file gone.csv is needed",
    f"{SEARCH} --folds 300": "folds",
    "search DATA/study --data DATA --trials 3": "a study is a folder apart from its data",
    "search held --data DATA --trials 3": "one search at a time works on a study",
    "search told --data DATA --trials 3 --seed 77": "seed",
    f"{SEARCH} --address http://127.0.0.1:8265": "the address of the job server",
    "doctor --family prob": "did you mean probe?",
    f"{SEARCH} --inline --slots 4": "--inline has one slot, got --slots 4",
    f"{SEARCH} --inline --address 10.0.0.1:6379": "--inline works in this process, got the cluster",
    "ensemble told --inline --address 10.0.0.1:6379": "--inline works in this process, got the cluster",
    "exam told --data DATA --inline --address 10.0.0.1:6379": "--inline works in this process, got the cluster",
    "doctor --weights gone": "the weights folder must be an existing directory",
    "ensemble gone": "there is no study",
    "ensemble told --data gone": "gone is no such folder",
    "ensemble told --rule loud": "unknown rule",
    "ensemble told --flips 3": "flips must be",
    "refit gone x --data DATA": "there is no study",
    "refit told nothing --data DATA": "there is no trial nothing",
    "explain told nothing --image x --data DATA": "there is no trial nothing",
    "export gone x": "there is no study",
    "export told nothing": "there is no ensemble nothing",
    "audit gone": "there is no study",
    "audit told --refit 2": "--refit needs the photographs",
    "replay gone": "there is no study",
    "data import pictures --photos pictures --out there": "got the folder pictures",
    "data make there --images 99999999999999999999": "less than or equal to",
    "data make there --width 100000000": "less than or equal to",
    "demo there --preset cpu_overnight": "a demo draws its own photographs",
}


def test_known_mistakes_cost_no_heavy_import(tmp_path: Path, own_pasture: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/test.csv").touch()
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/IMG_1.JPG").touch()
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "train.csv").write_bytes((own_pasture / "train.csv").read_bytes())
    told_study(tmp_path / "told", statuses=("complete",))
    (tmp_path / "held").mkdir()
    lines = [line.replace("DATA", str(own_pasture)).split() for line in MISTAKES]
    with filelock.FileLock(tmp_path / "held/.lock"):
        result = subprocess.run(
            [sys.executable, "-c", MAKES_THEM],
            input=json.dumps(lines),
            cwd=tmp_path,
            env=environment(tmp_path),
            capture_output=True,
            text=True,
            check=True,
        )
    for (line, words), (code, said, heavy) in zip(MISTAKES.items(), json.loads(result.stdout), strict=True):
        assert code in (1, 2) and words in " ".join(said.split()), f"{line}: {code}, {said}"
        assert not heavy, f"{line} has loaded {heavy}"
    assert not (tmp_path / "new").exists()
