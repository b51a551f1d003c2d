"""Which processes load torch: workers. Coordinators (more of them than slots), the broker, the driver and `biomass
status` do without: it would be half a gigabyte and seconds of CPU time for each."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import ROOT, environment
from ray import cloudpickle
from released import copy_of
from safetensors.torch import save_file
from tiny_study import RANDOM

from biomass_models.backbones.adapter import create_timm
from biomass_models.backbones.noted import notes_in
from biomass_models.backbones.weights import canonical_name
from orchestration.search.on_ray.coordinator import make_coordinator
from orchestration.search.pruning import RULES
from orchestration.study import layout
from orchestration.study.ledger import Ledger
from orchestration.study.storage import Storage
from orchestration.workers.context import WorkerContext
from orchestration.workers.slots.actor import SlotWorker
from orchestration.workers.slots.broker import Broker
from orchestration.workers.slots.leases import Slots

sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))
from processes import command_of, descendants, wait_for

# Every Python process that finds this module at its start notes itself when it begins to import torch.
NOTES = """
import os, sys
def note(event, arguments):
    if event == "import" and arguments[0] == "torch":
        open(os.path.join(os.environ["TORCH_NOTES"], str(os.getpid())), "w").close()
sys.addaudithook(note)
"""
TITLES = {"ray::Broker": "broker", "ray::ImplicitFunc": "coordinator", "ray::SlotWorker": "worker"}  # Ray's and Tune's
CONTEXT = WorkerContext(study="/study", data_dir="/data", cache="/cache", weights=RANDOM)
LOADED = "print(sorted({'torch', 'timm', 'sklearn', 'scipy', 'optuna', 'PIL', 'tensorboardX'} & set(sys.modules)))"


def loaded(code: str, *arguments: str, stdin: bytes = b"") -> str:
    """What of the heavy packages a fresh process has after some code."""
    command = [sys.executable, "-c", f"import sys; {code}; {LOADED}", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, check=True, cwd=ROOT).stdout.decode().strip()


@pytest.mark.slow
@pytest.mark.parametrize(
    "carried",
    [
        pytest.param(make_coordinator("/study", None, RULES["default"], together=True), id="coordinator"),
        pytest.param((Broker, CONTEXT, Slots(cpus=1.0, gpus=0.0), SlotWorker), id="broker"),
    ],
)
def test_what_an_actor_is_sent_brings_no_torch_along(carried: Any) -> None:
    """An object brings the module of its class with it, wherever it is unpickled."""
    code = "import pickle; pickle.loads(sys.stdin.buffer.read())"
    assert loaded(code, stdin=cloudpickle.dumps(carried)) == "[]"


@pytest.mark.slow
@pytest.mark.parametrize("status", ["stopped", "failed"])
def test_a_trial_is_begun_and_ended_without_torch(status: str, tmp_path: Path) -> None:
    """Whether its folds are one batch, which folds are there, its result and its events."""
    study = copy_of("killed", tmp_path)
    ended = study.results()
    trial = next(record for record in study.trials() if record.family == "baseline" and record.trial_id not in ended)
    code = (
        "from unittest.mock import Mock; from orchestration.workers.jobs import Outcome;"
        "from orchestration.study.ledger import Ledger; from orchestration.study.storage import Storage;"
        "from orchestration.search.pruning import RULES;"
        "from orchestration.search.trial import run_trial;"
        "pool = Mock(run=lambda jobs, priority: [(job, Outcome(status=sys.argv[3], reason='?')) for job in jobs]);"
        "ledger = Ledger(Storage(sys.argv[1]));"
        "run_trial(ledger, pool, sys.argv[2], rule=RULES['default'], together=True)"
    )
    assert loaded(code, study.storage.uri, trial.trial_id, status) == "[]"
    result = study.result(trial.trial_id)
    assert (result.status if result else "stopped") == status


RUNS = """
import sys
from typer.testing import CliRunner
from orchestration.cli import app
for line in sys.argv[2:]:
    result = CliRunner().invoke(app, line.split())
    assert result.exit_code == 0, (line, result.output, result.exception)
print(sorted(set(sys.argv[1].split()) & set(sys.modules)))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("packages", "lines"),
    [
        ("pandas pyarrow scipy torch ray", ("--help", "search --help", "presets")),
        (
            "scipy sklearn torch timm ray optuna",
            ("space baseline", "status STUDY", "leaderboard STUDY", "show STUDY TRIAL"),
        ),
    ],
    ids=["pages of help", "readers of a study"],
)
def test_a_command_loads_what_it_needs(packages: str, lines: tuple[str, ...], tmp_path: Path) -> None:
    study = copy_of("finished", tmp_path)
    named = [line.replace("STUDY", study.storage.uri).replace("TRIAL", next(iter(study.results()))) for line in lines]
    command = [sys.executable, "-c", RUNS, packages, *named]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment(tmp_path))
    assert result.stdout == "[]\n", result.stderr


UP_TO_RAY = """
import sys
from orchestration import cli
from orchestration.workers import cluster
def no_ray(*_, **__):
    import orchestration.search.on_ray.run
    raise SystemExit(0)
cluster.ray_cluster = no_ray
sys.argv[0] = 'biomass'
try:
    cli.main()
except SystemExit:
    print(sorted({'torch', 'timm', 'sklearn', 'scipy'} & set(sys.modules)))
"""


@pytest.mark.slow
def test_the_driver_loads_torch_only_for_what_is_not_noted(tmp_path: Path, tiny_pasture: Path) -> None:
    """All that it does before Ray starts: names and weights of backbones, data, study, costs, what comes next."""
    folder = tmp_path / "weights"
    folder.mkdir()
    save_file(create_timm("test_vit").state_dict(), folder / f"{canonical_name('test_vit')}.safetensors")
    search = ["--data", str(tiny_pasture), "--family", "baseline", "--family", "probe", "--trials", "4"]
    search += ["--backbone", "test_vit", "--weights", str(folder), "--scale", "smoke"]

    def heavy(study: str) -> str:
        command = [sys.executable, "-c", UP_TO_RAY, "search", study, *search]
        ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment(tmp_path))
        assert Ledger(Storage(tmp_path / study)).find_study() is not None, ended.stderr
        return ended.stdout.splitlines()[-1]

    assert heavy("first") == "['timm', 'torch']"  # what is noted now
    assert heavy("second") == "[]"


@pytest.mark.slow
def test_a_worker_loads_scikit_learn_with_the_first_fit_that_needs_it() -> None:
    assert loaded("import orchestration.workers.runner") == "['PIL', 'timm', 'torch']"


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.timeout(280)
def test_in_a_search_only_workers_load_torch(tmp_path: Path, tiny_pasture: Path) -> None:
    with notes_in(tmp_path / "cache"):  # as any search with this backbone has left it
        canonical_name(canonical_name("test_vit"))
    notes = tmp_path / "notes"
    notes.mkdir()
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(NOTES)
    noted = environment(tmp_path) | {"TORCH_NOTES": str(notes)}
    noted["PYTHONPATH"] = os.pathsep.join([str(tmp_path / "site"), str(ROOT)])
    biomass = [sys.executable, "-m", "orchestration"]
    options = ["--family", "baseline", "--family", "probe", "--trials", "4", "--backbone", "test_vit"]
    options += ["--weights", "random", "--scale", "smoke", "--slots", "1"]
    driver = subprocess.Popen(
        [*biomass, "search", "study", "--data", str(tiny_pasture), *options],
        cwd=tmp_path, env=noted, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    roles: dict[int, str] = {}
    statuses: list[subprocess.Popen[bytes]] = []

    def over() -> bool:
        for pid in descendants(driver.pid):
            title = command_of(pid).split(".")[0].strip()  # a method at work is part of it
            if title in TITLES:
                roles[pid] = TITLES[title]
        if not statuses and "worker" in roles.values():
            statuses.append(subprocess.Popen([*biomass, "status", "study"], cwd=tmp_path, env=noted))
        return driver.poll() is not None

    try:
        wait_for(over, "the search must end", every=0.05)
    finally:
        driver.kill()
        _, said = driver.communicate()
    assert driver.returncode == 0, said
    ledger = Ledger(Storage(tmp_path / "study"))
    assert len(ledger.results()) == 4 and [status.wait() for status in statuses] == [0]

    loaded_torch = {int(path.name) for path in notes.iterdir()}
    folds = [(trial.trial_id, fold) for trial in ledger.trials() for fold in range(ledger.study().settings.folds)]
    began = {start.pid for trial_id, fold in folds for start in ledger.fold_starts(trial_id, fold)}
    assert began and began <= loaded_torch
    assert {roles.get(pid, "the driver" if pid == driver.pid else "another") for pid in loaded_torch} == {"worker"}
    # what no fold waits for was made beside them
    first = min(path.stat().st_mtime_ns for path in (tmp_path / "study").glob("trials/*/fold-*/start-*.json"))
    assert first <= (tmp_path / "study" / layout.REFERENCES).stat().st_mtime_ns
    assert set(roles.values()) == set(TITLES.values()) and statuses[0].pid not in loaded_torch
