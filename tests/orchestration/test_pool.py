"""The broker with real Ray and scripted workers: leases, priorities, losses, hangs, GPUs, demand. One Ray for all."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import stand_ins
from stand_ins import Scripted, ScriptedJob

from orchestration.cluster import ON_HEAD
from orchestration.jobs import Outcome
from orchestration.pool import PILOT, RETRY, UNDER_WAY, Broker, Priority, RayPool, Slots, slots_of

pytestmark = pytest.mark.ray

Start = Callable[..., Any]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Two CPUs and two GPUs that Ray believes in."""
    ray.cloudpickle.register_pickle_by_value(stand_ins)  # workers know no tests folder
    ray.init(address="local", num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()
    ray.cloudpickle.unregister_pickle_by_value(sys.modules["stand_ins"])


@pytest.fixture
def start(cluster: None) -> Iterator[Start]:
    """start(Slots fields) -> broker whose slots are ready."""
    brokers = []

    def begin(*, ready: int, **fields: Any) -> Any:
        actor = ray.remote(Broker).options(num_cpus=0, max_concurrency=1000, resources=ON_HEAD)
        broker: Any = actor.remote(None, Slots(**{"cpus": 1.0, "gpus": 0.0, **fields}), Scripted)
        brokers.append(broker)
        ray.get(broker.start.remote())
        _until(lambda: ray.get(broker.status.remote()).slots == ready)
        return broker

    yield begin
    for broker in brokers:
        ray.kill(broker)


def _until(true: Callable[[], bool], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def run(broker: Any, jobs: list[ScriptedJob], priority: Priority = PILOT) -> list[Outcome]:
    outcomes = {id(job): outcome for job, outcome in RayPool(broker).run(jobs, priority)}
    return [outcomes[id(job)] for job in jobs]


def test_two_full_leases_never_share_a_gpu_and_halves_share_it_by_two(start: Start) -> None:
    for gpus, slots in ((1.0, 2), (0.5, 4)):
        broker = start(cpus=0.5, gpus=gpus, ready=slots)
        outcomes = run(broker, [ScriptedJob(trial_id=f"t{n}", seconds=0.4) for n in range(3 * slots)])
        device_of = {outcome.pid: outcome.devices for outcome in outcomes}
        assert len(device_of) == slots and all(device in ("0", "1") for device in device_of.values())
        assert sorted(device_of.values()) == sorted(["0", "1"] * (slots // 2))
        for one in outcomes:  # at no moment do more leases hold a device than fit on it
            together = {o.pid for o in outcomes if o.devices == one.devices and _overlap(o, one)}
            assert len(together) <= slots // 2
        ray.kill(broker)
        _until(lambda: ray.available_resources().get("GPU", 0) == 2)


def _overlap(one: Outcome, other: Outcome) -> bool:
    return bool(one.started < other.ended and other.started < one.ended)


def test_three_trials_of_five_folds_pass_two_slots(start: Start) -> None:
    broker = start(ready=2)
    done: list[list[Outcome]] = []

    def trial(name: str) -> None:
        pilot = run(broker, [ScriptedJob(trial_id=name, seconds=0.05)])
        done.append(pilot + run(broker, [ScriptedJob(trial_id=name, seconds=0.05) for _ in range(4)], UNDER_WAY))

    threads = [threading.Thread(target=trial, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    assert [len(outcomes) for outcomes in done] == [5, 5, 5]
    assert ray.get(broker.status.remote()).done == 15


def test_retries_go_before_survivors_and_those_best_first_before_pilots(start: Start) -> None:
    broker = start(most=1, ready=1)
    jobs = {"pilot": PILOT, "worse": (UNDER_WAY[0], -0.5), "better": (UNDER_WAY[0], -0.7), "retry": RETRY}
    block = broker.run.remote(ScriptedJob(trial_id="block", seconds=0.5), RETRY)
    calls = {name: broker.run.remote(ScriptedJob(trial_id=name), priority) for name, priority in jobs.items()}
    ray.get(block)
    started = {name: ray.get(call).started for name, call in calls.items()}
    assert sorted(started, key=started.__getitem__) == ["retry", "better", "worse", "pilot"]


def test_after_a_drop_nothing_of_the_trial_starts_and_the_rest_goes_on(start: Start) -> None:
    broker = start(most=1, ready=1)
    running = broker.run.remote(ScriptedJob(trial_id="pruned", seconds=60.0), PILOT)
    _until(lambda: ray.get(broker.status.remote()).running == 1)
    queued = broker.run.remote(ScriptedJob(trial_id="pruned"), UNDER_WAY)
    other = broker.run.remote(ScriptedJob(trial_id="other"), PILOT)
    RayPool(broker).drop("pruned")
    assert ray.get([running, queued], timeout=20) == [Outcome(status="stopped")] * 2
    assert ray.get(other).status == "done"
    ray.get(broker.close.remote())
    assert run(broker, [ScriptedJob(trial_id="late")]) == [Outcome(status="stopped")]


def test_a_dead_worker_costs_its_job_one_more_try_and_three_deaths_the_trial(start: Start, tmp_path: Path) -> None:
    broker = start(most=1, ready=1)
    once, always, after = run(
        broker,
        [
            ScriptedJob(trial_id="once", do="die once", mark=str(tmp_path / "died")),
            ScriptedJob(trial_id="always", do="die"),
            ScriptedJob(trial_id="after"),
        ],
    )
    assert once.status == after.status == "done"
    assert always.status == "failed" and "died 3 times" in always.reason
    assert ray.get(broker.status.remote()).workers_lost == 4


def test_a_hanging_worker_is_ended_and_its_slot_works_again(start: Start) -> None:
    broker = start(most=1, timeout=1.0, ready=1)
    hung, patient, after = run(
        broker,
        [
            ScriptedJob(trial_id="hung", do="hang"),
            ScriptedJob(trial_id="encodes", seconds=2.0, reports=True),  # features take long, but report progress
            ScriptedJob(trial_id="after"),
        ],
    )
    assert hung.status == "failed" and "--fold-timeout" in hung.reason
    assert patient.status == after.status == "done"


def test_waiting_jobs_are_a_demand_that_an_autoscaler_sees(start: Start) -> None:
    from ray.autoscaler.v2.sdk import get_cluster_status

    def demand() -> int:
        status = get_cluster_status(ray.get_runtime_context().gcs_address)
        return sum(len(one.bundles_by_count) for one in status.resource_demands.ray_task_actor_demand)

    assert demand() == 0
    broker = start(grows=True, most=5, ready=2)
    calls = [broker.run.remote(ScriptedJob(trial_id=f"t{n}", seconds=8.0), PILOT) for n in range(4)]
    _until(lambda: ray.get(broker.status.remote()).slots_pending == 2)
    _until(lambda: demand() > 0)
    assert len(ray.get(calls)) == 4
    _until(lambda: ray.get(broker.status.remote()).slots_pending == 0)  # no demand once nothing waits
    assert ray.get(broker.status.remote()).slots == 2


def test_a_slot_never_spans_two_nodes() -> None:
    def node(cpus: float, gpus: float, alive: bool = True) -> dict[str, Any]:
        return {"Alive": alive, "Resources": {"CPU": cpus, "GPU": gpus}}

    nodes = [node(8, 1), node(3, 1), node(64, 4, alive=False)]
    assert slots_of(nodes, Slots(cpus=2, gpus=0)) == 5
    assert slots_of(nodes, Slots(cpus=1, gpus=0.6)) == 2
    assert slots_of(nodes, Slots(cpus=4, gpus=0.5)) == 2
    assert slots_of(nodes, Slots(cpus=1, gpus=0.1)) == 11
