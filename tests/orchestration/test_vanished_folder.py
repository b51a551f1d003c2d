"""The working directory of a search is removed under it, as a job's is that somebody cleans away."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import environment

from orchestration.inspect.audit import audit
from orchestration.study.ledger import Ledger
from orchestration.study.storage import Storage

sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))
from processes import wait_for


@pytest.mark.slow
@pytest.mark.parametrize("vanished", [True, False])
def test_a_coordinator_takes_up_a_trial_without_its_working_directory(tmp_path: Path, vanished: bool) -> None:
    """Tune asks for it whenever it sets a trainable up or gives it another trial."""
    code = (
        "import os, sys; from types import SimpleNamespace;"
        "from ray.tune.trainable.function_trainable import wrap_function;"
        "from orchestration.search.on_ray.coordinator import make_coordinator;"
        "kind = wrap_function(make_coordinator('/study', None, None, together=False));"
        "one = kind.__new__(kind); one._storage = SimpleNamespace(trial_working_directory=sys.argv[1]);"
        "os.rmdir(os.getcwd()) if sys.argv[2] == 'True' else None;"
        "one._setup_logdir(); one._setup_logdir(); print(os.getcwd())"
    )
    own, trial = tmp_path / "own", tmp_path / "trial"
    own.mkdir()
    variables = environment(tmp_path) | {"RAY_CHDIR_TO_TRIAL_DIR": "0"}
    command = [sys.executable, "-c", code, str(trial), str(vanished)]
    result = subprocess.run(command, cwd=own, env=variables, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == ("/" if vanished else str(own))


@pytest.mark.slow
def test_a_command_says_that_its_folder_was_deleted(tmp_path: Path) -> None:
    """And that it works in another one."""
    line = f"mkdir gone; cd gone; rmdir ../gone; {sys.executable} -m orchestration presets && exit 3; cd ..; "
    line += f"{sys.executable} -m orchestration presets"
    result = subprocess.run(
        ["bash", "-c", line], cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True
    )
    assert result.returncode == 0 and "cpu_overnight" in result.stdout
    assert result.stderr == (
        "error: a command runs in a folder that is there, this one was deleted; cd to another, then run the same "
        "command\n"
    )


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.timeout(280)
@pytest.mark.parametrize(
    "after", ["trials/*/trial.json", "trials/*/result.json"]
)  # coordinators start, or take another
def test_a_search_goes_on_without_its_working_directory(tmp_path: Path, tiny_pasture: Path, after: str) -> None:
    folder, study, said = tmp_path / "job", tmp_path / "study", tmp_path / "said.txt"
    folder.mkdir()
    options = ["--family", "probe", "--trials", "5", "--backbone", "test_vit", "--weights", "random"]
    options += ["--scale", "smoke", "--slots", "1", "--prune", "off"]
    command = [sys.executable, "-m", "orchestration", "search", str(study), "--data", str(tiny_pasture), *options]
    with said.open("w") as output:
        driver = subprocess.Popen(command, cwd=folder, env=environment(tmp_path), stdout=output, stderr=output)
    try:
        wait_for(lambda: any(study.glob(after)) or driver.poll() is not None, f"{after} must appear")
        assert driver.poll() is None, said.read_text()
        shutil.rmtree(folder)
        assert driver.wait(240) == 0, said.read_text()
    finally:
        driver.kill()
    ledger = Ledger(Storage(study))
    assert [result.status for result in ledger.results().values()] == ["complete"] * 5, said.read_text()
    assert audit(ledger).problems == []
