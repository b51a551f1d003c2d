"""The script behind `make gpu`: its budget, its report, how it takes failures, and that all of it runs on a CPU."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from gpu_checks import run
from gpu_checks.budget import Budget
from gpu_checks.drawn import draw
from gpu_checks.records import FAILED, NEEDS_GPU, PASSED, SKIPPED, Findings, Number, Outcome, Report, Skip, markdown
from gpu_checks.registry import CHECKS, Check
from hypothesis import given
from hypothesis import strategies as st

pytestmark = pytest.mark.slow

CHECK = Check(name="one", title="a check", share=1, code="speed.peak")


@given(
    total=st.floats(1, 1000),
    shares=st.lists(st.floats(0.1, 100), min_size=1, max_size=12),
    used=st.lists(st.floats(0, 1), min_size=12, max_size=12),
)
def test_checks_that_keep_to_their_limits_keep_to_the_total_and_none_gets_less_than_its_share(
    total: float, shares: list[float], used: list[float]
) -> None:
    now = 0.0
    budget = Budget(total, {str(place): share for place, share in enumerate(shares)}, clock=lambda: now)
    for place, share in enumerate(shares):
        limit = budget.begin(str(place))
        assert limit >= total * share / sum(shares) * (1 - 1e-9)
        now += used[place] * limit
    assert now <= total * (1 + 1e-9)


def test_a_check_that_takes_too_long_takes_it_from_those_after_it() -> None:
    now = 0.0
    budget = Budget(100, {"first": 1, "second": 1, "third": 2}, clock=lambda: now)
    assert budget.begin("first") == 25
    now = 70.0
    assert (budget.begin("second"), budget.left) == (10, 30)
    now = 130.0
    assert budget.begin("third") == 0
    with pytest.raises(ValueError, match="above 0"):
        Budget(1, {"first": 0})


def test_the_shares_leave_each_check_time_to_start() -> None:
    whole = sum(check.share for check in CHECKS.values())
    assert min(run.TOTAL * check.share / whole for check in CHECKS.values()) > 20
    assert run.TOTAL + 2 * run.GRACE < 480


def report(*outcomes: Outcome) -> Report:
    machine = {"card": "A Card", "driver": "1.2", "memory": None, "torch": "2.8"}
    return Report(machine=machine, tiny=False, made_at="2026-01-02T03:04:05+00:00", seconds=12.4, outcomes=outcomes)


OUTCOMES = (
    Outcome(
        name="a",
        title="first",
        status=PASSED,
        numbers=(Number(name="epoch", unit="s", values=(3.0, 1.0, 2.0)), Number(name="r|o", unit="", values=(0.5,))),
        notes=("a note",),
        seconds=7.6,
        limit=20.0,
    ),
    Outcome(name="b", title="second", status=FAILED, reason="it broke"),
    Outcome(name="c", title="third", status=SKIPPED, reason=NEEDS_GPU),
)


def test_the_page_has_a_row_a_check_with_medians_and_ranges() -> None:
    lines = markdown(report(*OUTCOMES)).splitlines()
    assert lines[0] == "# GPU checks: A Card" and "driver 1.2, torch 2.8. 2026" in lines[2] and "memory" not in lines[2]
    assert "| first | passed | epoch 2 s (1 to 3, 3 repeats); r\\|o 0.5 | 8 |" in lines
    assert "| second | failed | - | 0 |" in lines
    rest = lines[lines.index("## Failed") :]
    assert [line for line in rest if line] == [
        "## Failed",
        "- second: it broke",
        "## Skipped",
        "- third: needs a GPU",
        "## Notes",
        "- first: a note",
    ]


def test_the_record_holds_all_that_was_found_and_is_read_back() -> None:
    content = json.loads(json.dumps(report(*OUTCOMES).to_json()))
    assert (content["schema"], content["failed"], content["machine"]["card"]) == (1, ["b"], "A Card")
    assert content["checks"][0]["numbers"][0] == {
        "name": "epoch", "unit": "s", "median": 2.0, "low": 1.0, "high": 3.0, "values": [3.0, 1.0, 2.0],
    }  # fmt: skip
    assert tuple(map(Outcome.from_json, content["checks"])) == OUTCOMES
    with pytest.raises(ValueError, match="at least one value"):
        Number(name="epoch", unit="s", values=())


def found_and(last: Callable[[Findings], None]) -> Callable[[Findings], None]:
    def work(found: Findings) -> None:
        found.number("epoch", "s", 1.0)
        found.require(True, "met", 0)
        last(found)

    return work


def fails(_found: Findings) -> None:
    raise RuntimeError("CUDA error:\n  an illegal access")


def skips(_found: Findings) -> None:
    raise Skip("needs two cards")


@pytest.mark.parametrize(
    ("last", "status", "reason"),
    [
        (lambda found: None, PASSED, None),
        (
            lambda found: found.require(False, "a ratio must be above 1", 0.5),
            FAILED,
            "a ratio must be above 1, got 0.5",
        ),
        (fails, FAILED, "RuntimeError: CUDA error: an illegal access"),
        (skips, SKIPPED, "needs two cards"),
    ],
)
def test_whatever_a_check_meets_is_its_outcome_and_numbers_stay(
    last: Callable[[Findings], None], status: str, reason: str | None
) -> None:
    outcome = run.outcome_of(CHECK, found_and(last))
    assert (outcome.status, outcome.reason) == (status, reason)
    assert [number.values for number in outcome.numbers] == [(1.0,)]


def apart(folder: Path, program: str, limit: float = 60.0) -> Outcome:
    return run.run_apart(CHECK, [sys.executable, "-c", program], folder / "r.json", folder / "log", limit)


def test_a_process_that_crashes_fails_its_check_with_its_last_words(tmp_path: Path) -> None:
    outcome = apart(tmp_path, "import os; print('no kernel image', flush=True); os._exit(3)")
    assert (outcome.status, outcome.reason) == (FAILED, "it crashed with exit code 3: no kernel image")
    assert apart(tmp_path, "raise SystemExit(0)").reason == "it crashed with exit code 0: nothing was printed"


def test_a_process_that_takes_too_long_is_ended_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither it nor its child ends when it is asked to; the child holds a pipe open while it lives."""
    monkeypatch.setattr(run, "GRACE", 0.5)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    program = f"trap '' TERM; (exec 3>{pipe}; echo begun >&3; sleep 600) & sleep 600"
    try:
        outcome = run.run_apart(CHECK, ["sh", "-c", program], tmp_path / "r.json", tmp_path / "log", 2.0)
        seen = b""
        while select.select([reader], [], [], 30)[0] and (more := os.read(reader, 100)):
            seen += more
    finally:
        os.close(reader)
    assert (outcome.status, outcome.reason) == (FAILED, "it took longer than its 2 s and was ended")
    assert (seen, more) == (b"begun\n", b"")  # the end of the pipe: nobody holds it any more


def test_without_a_gpu_one_sentence_is_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "has_gpu", lambda: False)
    assert run.main([str(tmp_path / "out")], None) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err == f"{run.NO_GPU}\n" and not (tmp_path / "out").exists()


def test_the_machine_is_named_whatever_its_tools_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {sys.executable: "A Card;17179869184", "nvidia-smi": "580.1"}
    monkeypatch.setattr(run, "_first_line", lambda command: answers.get(command[0], ""))
    facts = run.machine("cuda")
    assert (facts["card"], facts["memory"], facts["driver"]) == ("A Card", "16 GiB", "580.1")
    answers.clear()
    facts = run.machine("cuda")
    assert (facts["card"], facts["memory"], facts["driver"]) == ("a card without a name", None, "unknown")
    monkeypatch.undo()
    assert run._first_line(["a-tool-that-is-not-there"]) == run._first_line(["false"]) == ""
    assert run._first_line(["printf", "one\\ntwo"]) == "one"


def test_one_check_that_fails_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_apart(check: Check, *_: Any) -> Outcome:
        return Outcome(name=check.name, title=check.title, status=FAILED if check.name == "peak" else PASSED)

    monkeypatch.setattr(run, "run_apart", run_apart)
    assert run.main([str(tmp_path), "--device", "cpu", "--tiny"], None) == 1
    content = json.loads((tmp_path / "gpu.json").read_text())
    assert content["failed"] == ["peak"] and [one["name"] for one in content["checks"]] == list(CHECKS)
    assert {one["name"]: one["reason"] for one in content["checks"] if one["status"] == SKIPPED} == {
        name: NEEDS_GPU for name, check in CHECKS.items() if check.needs_gpu
    }
    assert (tmp_path / "gpu.md").read_text().startswith("# GPU checks: no card")
    assert run.main([str(tmp_path), "--device", "cpu", "--tiny", "--only", "trunk"], None) == 0


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from gpu_checks.world import World

    folder = tmp_path_factory.mktemp("world")
    draw(folder, tiny=True)
    return World(folder, "cpu", tiny=True)


@pytest.mark.slow
class TestMemoryWithoutAGpu:
    """The checks that need a GPU, with a card that is pretended: it takes so many pictures at once and no more."""

    def test_batches_that_are_halved_pass(self, world: Any) -> None:
        from gpu_checks.memory import halved_bank, halved_fit

        found = Findings()
        for check in (halved_fit, halved_bank):
            check(replace(world, card=pretended(2)), found)
        assert found.unmet == []
        numbers = {number.name: number.median for number in found.numbers}
        assert (numbers["pictures at once in 60% of the memory"], numbers["encoded at once"]) == (2, 1)

    def test_batches_that_are_not_halved_fail(self, world: Any) -> None:
        from gpu_checks.memory import halved_bank, halved_fit

        shutil.rmtree(world.folder / "cache", ignore_errors=True)  # with the banks of the test before
        found = Findings()
        for check in (halved_fit, halved_bank):
            check(replace(world, card=pretended(1000)), found)
        assert [text.partition(",")[0] for text in found.unmet] == [
            "less memory must halve the batch", "less memory must halve batches of 48 that are encoded",
        ]  # fmt: skip

    def test_the_search_of_two_workers_trains_what_it_shall(self, world: Any) -> None:
        from gpu_checks.memory import only, require_shares
        from gpu_checks.searches import search

        from orchestration.workers.resources import Resources

        config = replace(world.large, batch_size=48, epochs=1)
        assert only(config).config(only(config).first_trials[0]) == config
        resources = Resources(inline=True, gpus_per_fold=0.0, cache=world.folder / "cache" / "shared")
        metrics = search(world, "workers", resources, families=("baseline",), space=only(config))
        assert [one.fold for one in metrics] == list(range(world.folds)) and len(metrics[0].epochs) == 1

        found = Findings()
        require_shares(found, metrics, 100.0, 48)
        assert [text.partition(",")[0] for text in found.unmet] == [
            "two workers share the card", "batches of 48 do not fit and are halved",
        ]  # fmt: skip
        kept = [
            replace(one, pid=place % 2, peak_gpu_memory_mb=90.0 + place, info={**one.info, "micro_batch": 12})
            for place, one in enumerate(metrics)
        ]
        found = Findings()
        require_shares(found, kept, 100.0, 48)
        assert found.unmet == []
        require_shares(found, kept, 91.0, 48)
        assert found.unmet == ["a worker keeps to 91 MiB, got 92 MiB"]


def pretended(pictures: int) -> Any:
    """A card that has room for so many pictures while its memory is limited."""
    import torch
    from gpu_checks.world import Card

    from biomass_models.families.baseline.model import BaselineNet
    from biomass_models.features import encoding

    forward, outputs = BaselineNet.forward, encoding._outputs

    def short_fit(self: BaselineNet, given: Any) -> Any:
        if self.training and len(given) > pictures:
            raise torch.cuda.OutOfMemoryError("pretend")
        return forward(self, given)

    def short_bank(backbone: Any, image_BCHW: Any, *rest: Any) -> Any:
        if len(image_BCHW) > pictures:
            raise torch.cuda.OutOfMemoryError("pretend")
        return outputs(backbone, image_BCHW, *rest)

    class Pretended(Card):
        def peak(self) -> int:
            return 1000

        def forget(self) -> None:
            pass

        @contextmanager
        def limited(self, limit: int) -> Iterator[None]:
            assert limit == 600
            with ExitStack() as patched:
                patched.enter_context(mock.patch.object(BaselineNet, "forward", short_fit))
                patched.enter_context(mock.patch.object(encoding, "_outputs", short_bank))
                patched.enter_context(mock.patch.object(encoding, "places_are_alike", lambda *_: True))
                yield

    return Pretended()


@pytest.mark.long
def test_all_of_it_runs_on_a_cpu(tmp_path: Path) -> None:
    command = [sys.executable, str(run.ENTRY), str(tmp_path), "--device", "cpu", "--tiny"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    content = json.loads((tmp_path / "gpu.json").read_text())
    statuses = {one["name"]: (one["status"], one["reason"]) for one in content["checks"]}
    assert statuses == {
        name: (SKIPPED, NEEDS_GPU) if check.needs_gpu else (PASSED, None) for name, check in CHECKS.items()
    }
    assert all(one["numbers"] for one in content["checks"] if one["status"] == PASSED)
    assert ended.stdout == (tmp_path / "gpu.md").read_text()
