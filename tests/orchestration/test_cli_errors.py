"""What goes wrong, one thing at a time, in the real command line: exit code 1 and one paragraph that says the rule,
what was got and what to do; never a traceback unless it is asked for."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from commands import biomass, environment
from ray.exceptions import RayTaskError
from ray.tune.error import TuneError
from tiny_study import make_study

from biomass_models.data.problems import ROW, flag
from biomass_models.families import registry
from biomass_models.families.registry import model
from biomass_models.targets import project_coherent
from orchestration.commands.errors import run_guarded
from orchestration.endings import BUG, REMEDIES, explained
from orchestration.search.trial import run_trial
from orchestration.study.ledger import LedgerError
from orchestration.workers.cluster import ray_cluster
from orchestration.workers.shards import spans
from orchestration.workers.slots.inline_pool import InlinePool

pytestmark = pytest.mark.slow

SEARCH = ["--backbone", "test_vit", "--weights", "random", "--scale", "smoke", "--trials", "1", "--folds", "3"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_pasture: Path) -> Path:
    """Holds a study `runs/first` with one complete trial, and the data directory `pasture`."""
    folder = tmp_path_factory.mktemp("errors")
    (folder / "pasture").symlink_to(tiny_pasture)
    ledger, context, records = make_study(folder / "runs" / "first", tiny_pasture, folder / "cache")
    run_trial(ledger, InlinePool(context), records[1].trial_id)
    return folder


def refused(folder: Path, *arguments: str, code: int = 1) -> str:
    """The one paragraph with which a command ends."""
    result = biomass(*arguments, cwd=folder, check=False)
    assert result.returncode == code, result.stdout + result.stderr
    assert result.stdout == "" and "Traceback" not in result.stderr
    *remarks, text = result.stderr.strip().splitlines()
    assert text.startswith("error: ") and not any(line.startswith("error") for line in remarks)
    return text


DATA = ["--data", "pasture"]
NAMES = {
    "study": (["status", "runs/frist"], "a study is a folder with study.json", "runs/frist", "runs/first?"),
    "study above": (["leaderboard", "runs", "--json"], "a study is a folder", "in", "did you mean"),
    "data": (["search", "s", "--data", "pastrue", "--trials", "1"], "a folder with train.csv", "pastrue", "pasture?"),
    "family": (["search", "s", *DATA, "--trials", "1", "--family", "basline"], "a family is", "'basline'", "baseline?"),
    "backbone": (
        ["search", "s", *DATA, "--trials", "1", "--backbone", "vit_smal_patch14_dinov2"],
        "name of a timm model",
        "'vit_smal_patch14_dinov2'",
        "did you mean vit_small_patch14_dinov2",
    ),
    "cluster": (
        ["search", "s", *DATA, *SEARCH, "--address", "127.0.0.1:9"],
        "a Ray cluster answers at its address",
        "127.0.0.1:9 does not",
        "leave --address",
    ),
    "scheme": (["search", "s", *DATA, "--trials", "1", "--scheme", "dates"], "a fold scheme is", "'dates'", "date?"),
    "scale": (["search", "s", *DATA, "--trials", "1", "--scale", "gpuu"], "a scale is one of", "'gpuu'", "gpu?"),
    "prune": (["search", "s", *DATA, "--trials", "1", "--prune", "strikt"], "a pruning rule", "'strikt'", "strict?"),
    "replayed rule": (["replay", "runs/first", "--prune", "defualt"], "rule of a replay", "'defualt'", "default?"),
    "preset": (["search", "s", *DATA, "--preset", "kaggle_t4"], "a preset is", "'kaggle_t4'", "kaggle_t4x2?"),
    "preset shown": (["presets", "cpu_overnite"], "a preset is", "'cpu_overnite'", "cpu_overnight?"),
    "demo": (["demo", "d", "--preset", "published"], "draws its own photographs", "real ones", "use demo or smoke"),
    "weights": (["search", "s", *DATA, "--trials", "1", "--weights", "randm"], "weights folder", "randm", "random?"),
    "blending rule": (["ensemble", "runs/first", "--rule", "gredy"], "use one of default", "'gredy'", "greedy?"),
    "follow-up": (["ensemble", "runs/first", "--post", "zeroes"], "a follow-up is", "'zeroes'", "zeros?"),
    "URI": (["status", "s3x://bucket/study"], "a study is a folder, or a URI", "s3x://bucket", "check the part before"),
}


@pytest.mark.parametrize("case", NAMES)
def test_a_wrong_name_is_answered_with_rule_got_and_remedy(case: str, folder: Path) -> None:
    arguments, rule, got, remedy = NAMES[case]
    text = refused(folder, *arguments)
    assert rule in text and got in text and remedy in text
    assert not (folder / "s").exists()


@pytest.mark.long
def test_an_object_store_out_of_reach_is_named_with_what_to_check(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("ENDPOINT_URL", "http://127.0.0.1:9"), ("ACCESS_KEY_ID", "a"), ("SECRET_ACCESS_KEY", "b")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    text = refused(folder, "status", "s3://bucket/study")
    assert "must be reachable" in text and "127.0.0.1:9" in text and "check bucket, region, credentials" in text


def test_wrong_usage_keeps_its_own_exit_code(folder: Path) -> None:
    result = biomass("search", "s", *DATA, cwd=folder, check=False)
    assert result.returncode == 2 and "--trials N or --hours H" in " ".join(result.stderr.split())


# -- disks ------------------------------------------------------------------------------------------------------------


def mounted(folder: Path, options: str) -> Iterator[Path]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
    made = subprocess.run(mount, capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"a small disk needs the right to mount one: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 kB with 4 kB left."""
    for folder in mounted(tmp_path / "full", "size=64k"):
        (folder / "filler").write_bytes(bytes(60_000))
        yield folder


@pytest.fixture
def locked_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk that nobody may write on, root included."""
    yield from mounted(tmp_path / "locked", "ro")


def test_no_space_left_for_a_study(folder: Path, full_disk: Path) -> None:
    text = refused(folder, "search", f"{full_disk}/study", *DATA, *SEARCH)
    assert "needs room on the disk, got no space left on device: " in text and "make room" in text
    assert f"{full_disk}/study/" in text


def test_a_cache_that_cannot_be_one_is_said_before_anything_starts(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    text = refused(folder, "search", f"{tmp_path}/study", *DATA, *SEARCH, "--cache", f"{tmp_path}/file")
    assert "the feature cache must be a folder that can be written" in text and "give --cache" in text
    assert f"{tmp_path}/file" in text and not (tmp_path / "study").exists()


def test_no_space_left_for_pictures(folder: Path, full_disk: Path, tmp_path: Path) -> None:
    text = refused(folder, "data", "show", "pasture", "--out", f"{full_disk}/sheet.png")
    assert "needs room on the disk, got no space left on device" in text and "name another folder" in text
    assert [path.name for path in full_disk.iterdir()] == ["filler"]
    biomass("data", "show", "pasture", "--out", f"{tmp_path}/sheet.png", cwd=folder)
    assert (tmp_path / "sheet.png").stat().st_size > 1000


def test_no_permission_for_photographs(folder: Path, locked_disk: Path) -> None:
    text = refused(folder, "data", "make", f"{locked_disk}/pasture", "--images", "4")
    assert "a command writes into its folder, got read-only file system: " in text and "mounted for writing" in text


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere; the locked disk is there for root")
def test_no_permission_for_another_user(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir(mode=0o500)
    text = refused(folder, "data", "make", f"{tmp_path}/theirs/pasture", "--images", "4")
    assert "must be ours to use, got permission denied" in text and "check owner and mode" in text


def test_a_file_where_a_folder_is_needed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    text = refused(folder, "data", "make", f"{tmp_path}/file/pasture", "--images", "4")
    assert "a folder is needed, got " in text and f"{tmp_path}/file" in text and "move it away" in text


# -- bugs, Ctrl-C, a reader that goes away ----------------------------------------------------------------------------


def test_a_bug_says_so_and_hides_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        raise KeyError("oops")

    with pytest.raises(SystemExit) as left:
        run_guarded(command)
    text = capsys.readouterr().err
    assert left.value.code == BUG == 70
    assert "this is a bug" in text and "KeyError: 'oops'" in text and "biomass --debug" in text
    assert "Traceback" not in text and len(text.strip().splitlines()) == 1


def ending(raise_it: Callable[[], object]) -> tuple[str, int]:
    with pytest.raises(Exception) as raised:
        raise_it()
    return explained(raised.value)


def test_only_what_the_user_can_mend_is_a_message_to_the_user() -> None:
    families = ", ".join(registry.names())
    assert ending(lambda: registry.known("x")) == (f"error: a family is one of {families}, got 'x'", 1)
    unlike = pd.DataFrame({ROW: [2, 3], "target": ["a", "b"]})
    for bug, kind in (
        (lambda: json.loads("{"), "json.decoder.JSONDecodeError"),
        (
            lambda: flag("f.csv", unlike, pd.Series(["one"]), "rule", "remedy"),
            "ValueError: zip() argument 2 is shorter",
        ),
        (lambda: spans("48"), "TypeError"),  # type: ignore[arg-type]
        (lambda: project_coherent([1.0, 2.0]), "ValueError: the last axis must hold the 5 targets"),
    ):
        text, code = ending(bug)
        assert code == BUG and f"this is a bug: {kind}" in text


def test_a_family_that_is_not_installed_is_no_bug() -> None:
    text, code = ending(lambda: model("rain"))
    assert code == 1 and "family rain is not known here" in text and "install the package" in text


def test_what_a_worker_raised_is_told_apart_as_well() -> None:
    bug, torn = TypeError("no such shape"), LedgerError("trial 3f is torn; repair it")
    for inner, code in ((bug, BUG), (torn, 1)):
        wrapped = RayTaskError("run", "traceback", inner)
        assert explained(wrapped)[1] == explained(wrapped.as_instanceof_cause())[1] == code
        try:
            raise TuneError("The Ray Tune run failed") from wrapped
        except TuneError as error:
            assert explained(error) == explained(inner)


def test_every_refusal_of_the_operating_system_names_its_file() -> None:
    for number in (*REMEDIES, errno.ELOOP):
        text, code = explained(OSError(number, os.strerror(number), "/data/x.jpg"))
        assert code == 1 and "/data/x.jpg; " in text
    assert explained(OSError("image file is truncated"))[1] == BUG  # a library's, about what we should have checked


def test_a_ray_that_does_not_start_is_no_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise RuntimeError("The node timed out")

    monkeypatch.setattr("ray.init", refuse)
    text, code = ending(lambda: ray_cluster().__enter__())
    assert code == 1 and text.startswith("error: Ray must start, answer and stay, got The node timed out; check")


@pytest.mark.parametrize("how", [("--debug", {}), (None, {"BIOMASS_DEBUG": "1"})], ids=["option", "variable"])
def test_debug_shows_the_traceback(how: tuple[str | None, dict[str, str]], folder: Path) -> None:
    option, variables = how
    command = [sys.executable, "-m", "orchestration", *([option] if option else []), "status", "gone"]
    result = subprocess.run(
        command, cwd=folder, env={**environment(folder), **variables}, capture_output=True, text=True
    )
    assert result.returncode == 1 and "Traceback" in result.stderr and "LedgerError" in result.stderr


def test_ctrl_c_ends_any_command_with_one_line(tmp_path: Path) -> None:
    arguments = ["data", "make", "pasture", "--images", "2000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "orchestration", *arguments],
        cwd=tmp_path,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.rglob("*.jpg")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does: every process of the group gets it
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and out == ""
    assert err.splitlines()[-1] == "Stopped; run the same command again."
    assert "Traceback" not in err


def test_a_reader_that_goes_away_ends_a_command_quietly(folder: Path) -> None:
    for arguments in ("leaderboard runs/first", "leaderboard runs/first --json", "status runs/first", "presets"):
        line = f"set -o pipefail; {sys.executable} -m orchestration {arguments} | head -c 1"
        result = subprocess.run(
            ["bash", "-c", line], cwd=folder, env=environment(folder), capture_output=True, text=True
        )
        assert result.stderr == "" and len(result.stdout) == 1
        assert result.returncode == 0  # the command's own exit code, not the pipe's
