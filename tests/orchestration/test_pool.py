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
from stand_ins import Loadable, Scripted, ScriptedJob, Unstartable
from tiny_study import BACKBONE, make_study

from biomass_models.families.configs import config_from_params
from orchestration.blending.predict import _do
from orchestration.search.fold_costs import FoldCosts
from orchestration.search.on_ray.run import measure_a_slot
from orchestration.search.trial import BlockedError
from orchestration.study.ledger import LedgerError
from orchestration.workers.cluster import ON_HEAD
from orchestration.workers.jobs import FoldJob, Outcome
from orchestration.workers.pool import PILOT, RETRY, RUNNING, Priority
from orchestration.workers.slots.actor import SignOfLife, SlotWorker
from orchestration.workers.slots.broker import STOP_SECONDS, STOPPED, Broker
from orchestration.workers.slots.leases import Slots, slots_of
from orchestration.workers.slots.ray_pool import RayPool

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

    def begin(*, ready: int, workers: type = Scripted, context: Any = None, **fields: Any) -> Any:
        actor = ray.remote(Broker).options(num_cpus=0, max_concurrency=1000, resources=ON_HEAD)
        broker: Any = actor.remote(context, Slots(**{"cpus": 1.0, "gpus": 0.0, **fields}), workers)
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
        done.append(pilot + run(broker, [ScriptedJob(trial_id=name, seconds=0.05) for _ in range(4)], RUNNING))

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
    jobs = {"pilot": PILOT, "worse": (RUNNING[0], -0.5), "better": (RUNNING[0], -0.7), "retry": RETRY}
    block = broker.run.remote(ScriptedJob(trial_id="block", seconds=0.5), RETRY)
    calls = {name: broker.run.remote(ScriptedJob(trial_id=name), priority) for name, priority in jobs.items()}
    ray.get(block)
    started = {name: ray.get(call).started for name, call in calls.items()}
    assert sorted(started, key=started.__getitem__) == ["retry", "better", "worse", "pilot"]


def test_after_a_drop_nothing_of_the_trial_starts_and_the_rest_goes_on(start: Start) -> None:
    broker = start(most=1, ready=1)
    running = broker.run.remote(ScriptedJob(trial_id="pruned", attempt="a", seconds=60.0), PILOT)
    _until(lambda: ray.get(broker.status.remote()).running == 1)
    queued = broker.run.remote(ScriptedJob(trial_id="pruned", attempt="a"), RUNNING)
    other = broker.run.remote(ScriptedJob(trial_id="other", attempt="b"), PILOT)
    RayPool(broker).drop("a")
    assert ray.get([running, queued], timeout=20) == [STOPPED] * 2
    assert run(broker, [ScriptedJob(trial_id="pruned", attempt="a")]) == [STOPPED]
    assert ray.get(other).status == "done"


def test_a_later_attempt_is_not_what_an_earlier_one_dropped(start: Start) -> None:
    broker = start(most=1, ready=1)
    for life in ("first", "second", "third"):  # each coordinator drops its trial and dies before it can end it
        job = ScriptedJob(trial_id="pruned", attempt=life, seconds=60.0)
        running = broker.run.remote(job, PILOT)
        _until(lambda: ray.get(broker.status.remote()).running == 1)
        RayPool(broker).drop(life)
        assert ray.get(running, timeout=20) == STOPPED
    assert [one.status for one in run(broker, [ScriptedJob(trial_id="pruned", attempt="fourth")])] == ["done"]


def test_a_coordinator_that_starts_again_takes_over_what_its_earlier_life_left(start: Start, tmp_path: Path) -> None:
    broker = start(most=1, ready=1)

    def job(attempt: str, seconds: float) -> ScriptedJob:
        return ScriptedJob(trial_id="t", attempt=attempt, seconds=seconds, log=str(tmp_path))

    running = broker.run.remote(job("first", 3.0), PILOT)
    _until(lambda: ray.get(broker.status.remote()).running == 1)
    queued = broker.run.remote(job("first", 0.0), PILOT)
    again = run(broker, [job("second", 3.0), job("second", 0.0)])
    assert again == ray.get([running, queued]) and [one.status for one in again] == ["done", "done"]
    assert len(list(tmp_path.iterdir())) == 2  # nothing was done twice
    last = broker.run.remote(job("third", 60.0), PILOT)
    _until(lambda: ray.get(broker.status.remote()).running == 1)
    taken_over = broker.run.remote(job("fourth", 60.0), PILOT)
    RayPool(broker).drop("third")  # which is nobody's any more
    RayPool(broker).drop("fourth")
    assert ray.get([last, taken_over], timeout=20) == [STOPPED] * 2


@pytest.mark.parametrize("do", ["sleep", "hang"])
def test_a_pool_that_is_closed_answers_every_job(start: Start, do: str) -> None:
    broker = start(most=1, ready=1)
    running = broker.run.remote(ScriptedJob(trial_id="runs", do=do, seconds=3600.0), PILOT)
    _until(lambda: ray.get(broker.status.remote()).running == 1)
    queued = [broker.run.remote(ScriptedJob(trial_id=f"t{n}"), PILOT) for n in range(20)]
    closed = broker.close.remote()
    late = [broker.run.remote(ScriptedJob(trial_id=f"late{n}"), RETRY) for n in range(20)]
    assert ray.get(queued + late, timeout=10) == [STOPPED] * 40  # a slot that hangs holds none of them up
    ray.get(closed, timeout=3 * STOP_SECONDS)
    assert ray.get(running, timeout=1) == STOPPED
    facts = ray.get(broker.status.remote())
    assert facts.queued == 0 and facts.slots_pending == 0


def test_a_pool_whose_slots_are_still_coming_up_answers_every_job_when_it_is_closed(start: Start) -> None:
    broker = start(ready=0, workers=Unstartable, context=stand_ins.Start(why="never comes up"))
    queued = [broker.run.remote(ScriptedJob(trial_id=f"t{n}"), PILOT) for n in range(20)]
    closed = broker.close.remote()
    assert ray.get(queued, timeout=10) == [STOPPED] * 20
    ray.get(closed, timeout=STOP_SECONDS)
    _until(lambda: ray.available_resources().get("CPU", 0) == 2)  # and gives back what it had leased


STARTS = {
    "raises": "RuntimeError: the CUDA driver is too old, got 11.4",
    "wraps": "ValueError: no room for the context",
    "lacks a package": "ModuleNotFoundError: No module named 'a_package_that_is_not_there'",
    "exits": "its process died: Worker",
    "is refused": "its process died: Worker",
    "dies in ready": "its process died: Worker",
    "raises in ready": "ConnectionError: the licence server hung up",
}


@pytest.mark.parametrize("why", STARTS)
def test_workers_that_cannot_start_end_the_pool_with_the_reason(start: Start, why: str) -> None:
    broker = start(most=1, ready=0, workers=Unstartable, context=stand_ins.Start(why=why))
    first, second = run(broker, [ScriptedJob(trial_id="one"), ScriptedJob(trial_id="two")])
    assert first == second and first.status == "blocked" and first.reason is not None
    assert first.reason.startswith(f"no worker can start, tried 3 times: {STARTS[why]}") and "\n" not in first.reason
    assert first.reason.endswith("mend that (biomass doctor looks at every node)") and "\x1b" not in first.reason
    assert run(broker, [ScriptedJob(trial_id="late")]) == [first]
    facts = ray.get(broker.status.remote())
    assert facts.workers_lost == 3 and facts.cannot_start == 1 and facts.start_failure in first.reason


def test_a_class_that_a_worker_cannot_load_ends_the_pool_with_the_reason(start: Start, tmp_path: Path) -> None:
    elsewhere = type("Elsewhere", (Scripted,), {"needs": Loadable(str(tmp_path / "loaded"))})
    broker = start(ready=0, workers=elsewhere)
    (outcome,) = run(broker, [ScriptedJob(trial_id="one")])
    assert outcome.status == "blocked" and outcome.reason is not None
    assert (
        "tried 3 times on each of 2 slots: ModuleNotFoundError: No module named 'a_package_of_the_head'"
        in outcome.reason
    )


def test_a_prediction_whose_workers_cannot_start_ends_with_the_reason(start: Start) -> None:
    broker = start(most=1, ready=0, workers=Unstartable, context=stand_ins.Start(why="raises"))
    with pytest.raises(LedgerError, match=r"^predicting test images came to an end: no worker can start, .* driver"):
        _do(RayPool(broker), [ScriptedJob(trial_id="") for _ in range(3)], "Predicting test images")  # type: ignore[list-item]


@pytest.mark.long
def test_a_slot_that_never_comes_up_is_shown_beside_one_that_works(start: Start) -> None:
    broker = start(ready=1, workers=Unstartable, context=stand_ins.Start(why="raises", good=(2,)))
    _until(lambda: ray.get(broker.status.remote()).workers_lost > 3)  # it goes on trying, less and less often
    assert {one.status for one in run(broker, [ScriptedJob(trial_id=f"t{n}") for n in range(8)])} == {"done"}
    facts = ray.get(broker.status.remote())
    assert (facts.slots, facts.cannot_start) == (1, 1) and facts.start_failure.startswith("RuntimeError: the CUDA")


def test_a_worker_that_comes_up_at_the_third_try_is_none_that_cannot_start(start: Start, tmp_path: Path) -> None:
    context = stand_ins.Start(why="exits", marks=str(tmp_path), until=2)
    broker = start(most=1, ready=1, workers=Unstartable, context=context)
    assert run(broker, [ScriptedJob(trial_id="one")])[0].status == "done"
    facts = ray.get(broker.status.remote())
    assert facts.workers_lost == 2 and facts.cannot_start == 0 and facts.start_failure is None


def test_a_slot_that_cannot_be_made_again_leaves_its_trial_open(start: Start, tmp_path: Path) -> None:
    context = stand_ins.Start(why="lacks a package", marks=str(tmp_path), after=1)
    broker = start(most=1, ready=1, workers=Unstartable, context=context)
    (outcome,) = run(broker, [ScriptedJob(trial_id="one", do="die")])
    assert outcome.status == "blocked" and "a_package_that_is_not_there" in outcome.reason


def test_a_dead_worker_costs_its_job_one_more_try_and_three_deaths_the_trial(start: Start, tmp_path: Path) -> None:
    broker = start(most=1, ready=1)
    once, raised, always, after = run(
        broker,
        [
            ScriptedJob(trial_id="once", do="die once", mark=str(tmp_path / "died")),
            ScriptedJob(trial_id="raised", do="raise once", mark=str(tmp_path / "raised")),  # its GPU is lost
            ScriptedJob(trial_id="always", do="die"),
            ScriptedJob(trial_id="after"),
        ],
    )
    assert once.status == raised.status == after.status == "done"
    assert str(raised.pid) != (tmp_path / "raised").read_text()  # another process: the first can do no more
    assert always.status == "failed" and "died 3 times" in always.reason
    assert ray.get(broker.status.remote()).workers_lost == 5


def test_a_hanging_worker_is_ended_and_its_slot_works_again(start: Start) -> None:
    broker = start(most=1, fold_timeout=1.0, ready=1)
    hung, patient, after = run(
        broker,
        [
            ScriptedJob(trial_id="hung", do="hang"),
            ScriptedJob(trial_id="fits", seconds=3.0, looks=True),  # takes its time, but looks at its stop flag
            ScriptedJob(trial_id="after"),
        ],
    )
    assert hung.status == "failed" and "--fold-timeout" in hung.reason
    assert patient.status == after.status == "done"


@pytest.mark.parametrize("timeout", [2.0, 30.0, 7200.0, None])
def test_signs_of_life_cost_a_look_at_a_clock_and_come_in_time(timeout: float | None) -> None:
    slots = Slots(cpus=1.0, gpus=0.0, fold_timeout=timeout)
    reports: list[float] = []
    life = SignOfLife(lambda: False, lambda: reports.append(time.monotonic()), slots.life_seconds)
    looks = 200_000  # of a fit with as many batches, in a second
    assert not any(life() for _ in range(looks))
    assert len(reports) < 100 and bool(reports) == (timeout is not None)
    assert timeout is None or (slots.life_seconds is not None and slots.life_seconds <= timeout / 4)


def test_a_stop_is_seen_at_the_next_look() -> None:
    stopped: set[int] = set()
    life = SignOfLife(lambda: 7 in stopped, lambda: None, 3600.0)
    assert not life() and not life()
    stopped.add(7)
    assert life()


@pytest.mark.long
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


@pytest.mark.long
def test_the_costs_of_a_cluster_are_those_of_its_slots(start: Start, tmp_path: Path, tiny_pasture: Path) -> None:
    _, context, records = make_study(tmp_path / "study", tiny_pasture, tmp_path / "cache")
    broker = start(ready=1, most=1, workers=SlotWorker, context=context, fold_timeout=60.0)
    costs = FoldCosts(16, (BACKBONE,))
    assert not costs.is_ready  # nobody has asked
    measure_a_slot(costs, broker)
    _until(lambda: costs.is_ready)
    for record in records:
        config = config_from_params(record.family, record.config)
        assert 0 < (costs.seconds(record.family, config) or 0.0) < 600
    job = FoldJob(trial_id=records[0].trial_id, attempt="a", fold=0)
    ((_, outcome),) = RayPool(broker).run([job], PILOT)  # and the same slot fits a fold
    assert outcome.status == "done" and outcome.metrics is not None


def test_costs_of_slots_that_cannot_start_block_the_search(start: Start) -> None:
    broker = start(most=1, ready=0, workers=Unstartable, context=stand_ins.Start(why="raises"))
    costs = FoldCosts(16, ())
    measure_a_slot(costs, broker)
    with pytest.raises(BlockedError, match=r"no worker can start.*driver.*then run the same command again"):
        _until(lambda: costs.is_ready)


def test_a_slot_never_spans_two_nodes() -> None:
    def node(cpus: float, gpus: float, alive: bool = True) -> dict[str, Any]:
        return {"Alive": alive, "Resources": {"CPU": cpus, "GPU": gpus}}

    nodes = [node(8, 1), node(3, 1), node(64, 4, alive=False)]
    assert slots_of(nodes, Slots(cpus=2, gpus=0)) == 5
    assert slots_of(nodes, Slots(cpus=1, gpus=0.6)) == 2
    assert slots_of(nodes, Slots(cpus=4, gpus=0.5)) == 2
    assert slots_of(nodes, Slots(cpus=1, gpus=0.1)) == 11
    assert slots_of([node(8, 2)], Slots(cpus=1, gpus=0.6)) == 2  # what is left of two GPUs is no slot
    assert slots_of([node(8, 2)], Slots(cpus=1, gpus=0.4)) == 4
    assert slots_of([node(8, 3)], Slots(cpus=1, gpus=2)) == 1
