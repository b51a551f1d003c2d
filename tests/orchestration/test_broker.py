"""The broker without Ray: workers that may have died while they were idle, and what one more job costs a full queue."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, ClassVar, get_args

import pytest
from ray.exceptions import ActorDiedError

from biomass_models.families.speed import Speed
from orchestration.study.records import TrialRef
from orchestration.workers.jobs import (
    AllRowsJob,
    CountJob,
    FlipsJob,
    FoldJob,
    Job,
    LabelJob,
    MeasureJob,
    Outcome,
    PredictJob,
    Priced,
    RestoreJob,
)
from orchestration.workers.pool import PILOT, RUNNING
from orchestration.workers.slots import broker as broker_module
from orchestration.workers.slots.broker import STOPPED, Broker
from orchestration.workers.slots.leases import Slots


class Method:
    """An actor's method whose calls end at once."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def remote(self, *args: Any) -> Method:
        self._answer: Future[Any] = Future()
        try:
            self._answer.set_result(self._call(*args))
        except ActorDiedError as error:
            self._answer.set_exception(error)
        return self

    def future(self) -> Future[Any]:
        return self._answer


class Worker:
    """A slot's worker, which notes its jobs while it lives. It may die at its next job."""

    def __init__(self) -> None:
        self.is_alive, self.dies_at_work, self.done = True, False, list[str]()
        self.ready, self.run, self.stop = Method(self._ready), Method(self._run), Method(lambda number: None)

    def _ready(self) -> bool:
        if not self.is_alive:
            raise ActorDiedError
        return True

    def _run(self, job: Job, number: int) -> Outcome:
        self.is_alive = self.is_alive and not self.dies_at_work
        self._ready()
        self.done.append(job.trial_id)
        return Outcome(status="done")


class Pool(Broker):
    """A broker with one worker a slot, idle; a slot whose worker has died waits for a node."""

    def __init__(self, slots: int, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(None, Slots(cpus=1, gpus=0))  # type: ignore[arg-type]  # scripted workers need no context
        monkeypatch.setattr(broker_module.ray, "kill", lambda worker: None)
        self.workers = [Worker() for _ in range(slots)]
        self._fresh = dict(enumerate(self.workers))

    async def _new_worker(self, slot: int) -> Worker:
        if slot not in self._fresh:
            await asyncio.Event().wait()
        return self._fresh.pop(slot)

    async def lease(self) -> None:
        for slot in list(self._fresh):
            self._leases[slot] = self._task(self._lease(slot))
        while len(self._ready) < len(self.workers):
            await asyncio.sleep(0)


def job(trial_id: str, attempt: str = "a") -> FoldJob:
    return FoldJob(trial_id=trial_id, attempt=attempt, fold=0)


def test_idle_slots_of_a_lost_node_cost_no_job_a_try(monkeypatch: pytest.MonkeyPatch) -> None:
    async def search() -> None:
        pool = Pool(9, monkeypatch)
        await pool.lease()
        for worker in pool.workers[:8]:  # the queue hands jobs to those that wait longest
            worker.is_alive = False
        outcomes = await asyncio.gather(*(pool.run(job(f"t{n}"), PILOT) for n in range(3)))
        assert [one.status for one in outcomes] == ["done"] * 3
        facts = await pool.status()
        assert (facts.workers_lost, facts.slots) == (8, 1)

    asyncio.run(search())


def test_a_job_that_finds_its_slot_lost_keeps_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    async def search() -> list[str]:
        pool = Pool(2, monkeypatch)
        pool.workers[0].is_alive = False
        calls = [pool.run(job(name), place) for name, place in (("new", PILOT), ("old", PILOT), ("survivor", RUNNING))]
        waiting = [asyncio.ensure_future(call) for call in calls]
        await asyncio.sleep(0)  # all of them queue before the slots come up
        await pool.lease()
        await asyncio.gather(*waiting)
        return pool.workers[1].done

    assert asyncio.run(search()) == ["new", "survivor", "old"]  # the lost slot had the survivor, the other one "new"


def test_a_worker_that_dies_at_its_job_costs_it_a_try(monkeypatch: pytest.MonkeyPatch) -> None:
    async def search() -> Outcome:
        pool = Pool(5, monkeypatch)
        for worker in pool.workers:
            worker.dies_at_work = True
        await pool.lease()
        return await pool.run(job("deadly"), PILOT)

    outcome = asyncio.run(search())
    assert outcome.status == "failed" and outcome.reason is not None and "died 3 times" in outcome.reason


def test_a_job_that_is_dropped_while_its_slot_is_asked_never_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    async def search() -> None:
        pool = Pool(1, monkeypatch)
        await pool.lease()
        answer: Future[bool] = Future()
        pool.workers[0].ready.future = lambda: answer  # type: ignore[method-assign]
        waiting = asyncio.ensure_future(pool.run(job("pruned"), PILOT))
        await asyncio.sleep(0.01)
        await pool.drop("a")
        assert await waiting == STOPPED
        answer.set_result(True)
        assert (await pool.run(job("next", "b"), PILOT)).status == "done"
        assert pool.workers[0].done == ["next"]

    asyncio.run(search())


JOBS = (
    FoldJob(trial_id="t", fold=0),
    PredictJob(members=(TrialRef(study="s", trial_id="t"),), ensemble="e", span=(0, 8), flips=1),
    FlipsJob(trial_id="t", study="s", ensemble="e", flips=4),
    RestoreJob(trial_id="t", study="s"),
    AllRowsJob(trial_id="t", study="s"),
    LabelJob(trial_id="t", round_id="r", fold=0),
    MeasureJob(backbones=("net",), banks=(Priced(family="probe", config={"size": [64]}),)),
    CountJob(
        of=Priced(family="probe", config={"size": [64]}),
        n_train=9,
        speed=Speed(step_seconds=1.0, operations=1.0, pass_seconds={"net": 1.0}),
    ),
)


@pytest.mark.parametrize("work", JOBS, ids=lambda work: type(work).__name__)
def test_every_kind_of_job_can_be_queued(work: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    async def search() -> Outcome:
        pool = Pool(1, monkeypatch)
        await pool.lease()
        return await pool.run(work, PILOT)

    assert asyncio.run(search()).status == "done"
    assert {type(one) for one in JOBS} == set(get_args(Job))


@dataclass(frozen=True, kw_only=True, eq=False)
class Compared(FoldJob):
    """A job that counts how often it is compared."""

    times: ClassVar[int] = 0

    def __eq__(self, other: object) -> bool:
        Compared.times += 1
        return isinstance(other, Compared) and (self.trial_id, self.fold) == (other.trial_id, other.fold)

    def __hash__(self) -> int:
        return hash((self.trial_id, self.fold))


def test_one_more_job_is_not_compared_with_all_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    async def comparisons(waiting: int) -> int:
        pool = Pool(0, monkeypatch)
        calls = [
            asyncio.ensure_future(pool.run(Compared(trial_id=f"t{n}", attempt="a", fold=0), PILOT))
            for n in range(waiting)
        ]
        await asyncio.sleep(0)
        Compared.times = 0
        calls += [
            asyncio.ensure_future(pool.run(Compared(trial_id=f"new{n}", attempt="a", fold=0), PILOT)) for n in range(50)
        ]
        await asyncio.sleep(0)
        assert (await pool.status()).queued == waiting + 50
        counted = Compared.times
        await pool.close()
        assert await asyncio.gather(*calls) == [STOPPED] * len(calls)
        assert not pool._same
        return counted

    few, many = asyncio.run(comparisons(15)), asyncio.run(comparisons(1500))
    assert many <= few + 50  # by chance a hash is another's


def test_work_of_an_earlier_attempt_is_taken_over_and_that_of_the_same_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    async def search() -> None:
        pool = Pool(1, monkeypatch)
        calls = [asyncio.ensure_future(pool.run(job("t", life), PILOT)) for life in ("a", "a", "b", "b", "b")]
        await asyncio.sleep(0)
        assert (await pool.status()).queued == 3
        await pool.lease()
        assert [one.status for one in await asyncio.gather(*calls)] == ["done"] * 5
        assert pool.workers[0].done == ["t"] * 3
        assert (await pool.run(job("t", "c"), PILOT)).status == "done" and len(pool.workers[0].done) == 4

    asyncio.run(search())
