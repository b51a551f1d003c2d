"""Workers are asked for while photographs are still checked, only where all else is well, and never outlive a fault."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_study import BACKBONE, RANDOM

from biomass_models.data.check import check_directory
from biomass_models.errors import UserError
from orchestration.workers.context import WorkerContext
from orchestration.workers.resources import Resources
from orchestration.workers.slots.early import EarlyPool

SEARCH = ["--family", "probe", "--backbone", BACKBONE, "--weights", "random", "--scale", "smoke", "--trials", "2"]
CONTEXT = WorkerContext(study="/study", data_dir="/data", cache="/cache", weights=RANDOM)
PATIENCE = 100.0  # seconds; for what hangs where the order is wrong


class Ray:
    """A Ray of which nothing runs: what was asked of it, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[str] = []
        self.asked_for_workers = threading.Event()
        self.no_cluster: Exception | None = None
        self.no_workers: Exception | None = None
        monkeypatch.setattr("orchestration.workers.cluster.ray_cluster", self._cluster)
        monkeypatch.setattr("orchestration.workers.slots.ray_pool.start_broker", self._start)
        monkeypatch.setattr("orchestration.workers.slots.ray_pool.hand_over", self._hand_over)

    @contextmanager
    def _cluster(self, address: str | None, say: Callable[[str], None]) -> Iterator[Any]:
        if self.no_cluster is not None:
            raise self.no_cluster
        os.chdir("/")  # as its start does
        self.events.append("Ray")
        yield SimpleNamespace(guard=lambda work: work())
        self.events.append("no Ray")

    def _start(self, context: WorkerContext, resources: Resources) -> tuple[str, int]:
        if self.no_workers is not None:
            raise self.no_workers
        self.events.append("workers")
        self.asked_for_workers.set()
        return "broker", 2

    def _hand_over(self, broker: str, context: WorkerContext, resources: Resources) -> None:
        self.events.append(f"kept {sorted(context.weights.kept)}")


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Ray:
    return Ray(monkeypatch)


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only there a thread has a working directory")


def the_thread() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "early"]


@pytest.mark.parametrize("spoilt", ["table", "photograph", "nothing"])
def test_they_are_not_asked_for_where_something_is_known_to_be_wrong(spoilt: str, own_pasture: Path) -> None:
    table = own_pasture / "train.csv"
    if spoilt == "table":
        table.write_text(table.read_text().replace("Dry_Dead_g", "Dry_Dread_g", 1))
    elif spoilt == "photograph":
        next((own_pasture / "train").iterdir()).unlink()
    events: list[str] = []
    check_directory(
        own_pasture,
        on_progress=lambda done, total: events.append("opened"),
        before_photographs=lambda: events.append("sound"),
    )
    assert ("sound" in events) == (spoilt == "nothing") and "sound" not in events[1:]


@pytest.mark.parametrize("resources", [Resources(inline=True), Resources(address="10.0.0.1:6379")])
def test_this_process_and_a_cluster_wait_until_they_are_needed(resources: Resources, ray: Ray) -> None:
    with EarlyPool(CONTEXT, resources, lambda text: None) as early:
        early.begin()
        assert not the_thread()
    assert ray.events == []


@pytest.mark.parametrize("begun", [True, False])
def test_what_they_cannot_start_for_is_told_where_they_are_needed(begun: bool, ray: Ray, tmp_path: Path) -> None:
    here = Path.cwd()
    try:
        ray.no_workers = UserError("a slot needs 64 CPUs")
        with EarlyPool(CONTEXT, Resources(), lambda text: None) as early:
            if begun:
                early.begin()
            with early.cluster(), pytest.raises(UserError, match="a slot needs 64 CPUs"):
                early.pool(CONTEXT)
        assert ray.events == ["Ray", "no Ray"]
        ray.no_cluster = UserError("Ray does not start")
        with EarlyPool(CONTEXT, Resources(), lambda text: None) as early:
            if begun:
                early.begin()
            with pytest.raises(UserError, match="Ray does not start"), early.cluster():
                pass
        assert ray.events == ["Ray", "no Ray"]
    finally:
        os.chdir(here)  # a Ray that starts late may move this process


def test_without_a_working_directory_of_its_own_nothing_starts_early(
    ray: Ray, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("orchestration.workers.slots.early._own_working_directory", lambda: False)
    with EarlyPool(CONTEXT, Resources(), lambda text: None) as early:
        early.begin()
        assert early._ready.wait(PATIENCE) and ray.events == []
        with early.cluster():
            assert early.pool(CONTEXT) == ("broker", 2)
    assert ray.events == ["Ray", "workers", "no Ray"]
