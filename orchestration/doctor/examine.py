"""`biomass doctor`: is this machine, or this cluster, fit for a study, and what will the study roughly cost?"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from biomass_models.backbones.weights import WeightsError, WeightsSource
from biomass_models.counted import counted
from biomass_models.data.problems import DataError
from biomass_models.data.table import read_train, train_file
from orchestration.doctor.findings import Finding
from orchestration.doctor.node_facts import NodeFacts, stored_node_facts
from orchestration.doctor.study_cost import StudyCost, study_cost
from orchestration.study.record import RecordError
from orchestration.study.spaces import ADD_FAMILY, with_changes
from orchestration.study.storage import Storage
from orchestration.workers.address import is_cluster
from orchestration.workers.cluster import ClusterError, ray_cluster, refusal, slot_limit
from orchestration.workers.machine import MachineError
from orchestration.workers.ray_errors import innermost_cause
from orchestration.workers.resources import Resources
from orchestration.workers.slots.leases import Slots, gpus_of_a_slot, slots_of
from orchestration.workers.weights_here import available_backbones
from search_spaces.range_files import Change, RangesError
from search_spaces.spaces import space_of

SLOT_MEMORY_GB = 2.0  # a worker with torch, one backbone and its banks mapped needs 1 to 1.5 GB
VISIBLE = (  # what every node must see, how it is well, what to do if not
    (
        "study",
        "visible and writable",
        "give a path that every node mounts, or an s3:// style URI with credentials on each node",
    ),
    ("data", "visible", "put the photographs at the same path on every node (mount, or image)"),
)
CLOCK_SECONDS = 10.0  # clocks that differ by more are said to differ
ASK_SECONDS = 180.0  # a node that has to start a process and import torch


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The study that is meant to run; what is not known yet is not checked."""

    study: str | None
    data_dir: Path | None
    weights: WeightsSource
    shares: Mapping[str, float]  # of the trials, by family
    backbones: tuple[str, ...]
    scale: str  # auto: gpu where slots have one
    trials: int
    folds: int
    changes: Sequence[Change] = ()  # of the ranges, by the user


def examine(plan: Plan, resources: Resources) -> Iterator[Finding]:
    """All findings, as they come; needs a Ray that starts or answers."""
    where = "cluster" if is_cluster(resources.address) else "embedded Ray"
    try:
        with ray_cluster(resources.address):
            yield from _examine(plan, resources, where)
    except ClusterError as error:
        yield Finding("FAIL", "Ray", error.found, error.remedy)
    except MachineError as error:
        yield Finding("FAIL", "Ray", str(error), "name a short one in RAY_TMPDIR")
    except RayError as error:
        lost = refusal(error)
        yield Finding("FAIL", "Ray", lost.found, lost.remedy)


def _examine(plan: Plan, resources: Resources, where: str) -> Iterator[Finding]:
    nodes = [node for node in ray.nodes() if node["Alive"]]
    total = ray.cluster_resources()
    gpus = gpus_of_a_slot(resources)
    slots = slots_of(nodes, Slots(cpus=resources.cpus_per_fold, gpus=gpus))
    slots = min(slots, slot_limit(resources.slots, resources.cpus_per_fold, resources.address) or slots)
    has = {"node": len(nodes), "CPU": total.get("CPU", 0.0), "GPU": total.get("GPU", 0.0), "slot": slots}
    size = ", ".join(counted(number, noun) for noun, number in has.items())
    if slots:
        yield Finding("ok", "Ray", f"{where}, {size}")
    else:
        yield Finding("FAIL", "Ray", f"{where}, {size}", "lower --cpus-per-fold or --gpus-per-fold, or add nodes")
    token = uuid.uuid4().hex[:8]
    if plan.study is not None:
        yield from _driver_storage(plan.study, token)
    facts: dict[str, NodeFacts] = {}
    for node in nodes:
        found = _ask(node, plan, resources, token)
        if isinstance(found, Finding):
            yield found
        else:
            facts[_name(node)] = found
    yield from node_findings(facts, {_name(node): node["Resources"] for node in nodes}, resources, gpus)
    if plan.study is not None:
        _clean(plan.study, token)
    if slots and plan.backbones and plan.data_dir is not None and (plan.data_dir / train_file(plan.data_dir)).exists():
        yield from _cost(plan, resources, gpus, slots, facts)


def node_findings(
    facts: Mapping[str, NodeFacts],
    resources_of: Mapping[str, Mapping[str, float]],
    resources: Resources,
    gpus: float,
) -> Iterator[Finding]:
    """Findings about what the nodes say of themselves, by node name."""
    if not facts:
        return
    yield from _equal("Python", {name: fact.python for name, fact in facts.items()})
    packages = {name: ", ".join(f"{k} {v}" for k, v in fact.versions.items()) for name, fact in facts.items()}
    yield from _equal("packages", packages)
    yield from _equal("this project's code", {name: fact.code for name, fact in facts.items()})
    for name, fact in facts.items():
        yield from _one_node(name, fact, resources_of[name], resources, gpus)
    names = {name for fact in facts.values() for name in fact.weights}
    for backbone in sorted(names):
        yield from _equal(f"weights of {backbone}", {name: fact.weights[backbone] for name, fact in facts.items()})


def _one_node(
    name: str, fact: NodeFacts, has: Mapping[str, float], resources: Resources, gpus: float
) -> Iterator[Finding]:
    """Findings about one node: its GPUs, what it sees, its weights and memory."""
    in_ray = has.get("GPU", 0.0)
    if in_ray and fact.gpus_seen < 1:
        remedy = "install a torch built for the driver's CUDA there, and check `nvidia-smi`"
        yield Finding("FAIL", f"GPUs of {name}", f"Ray has {in_ray:g}, torch sees none", remedy)
    elif in_ray:
        yield Finding("ok", f"GPUs of {name}", f"Ray has {in_ray:g}, torch sees the leased one")
    for what, well, remedy in VISIBLE:
        bad = getattr(fact, what)
        if bad:
            yield Finding("FAIL", f"{what} from {name}", bad, remedy)
        elif bad is not None:  # None: it was not asked for
            yield Finding("ok", f"{what} from {name}", well)
    for backbone, found in fact.weights.items():
        if found.startswith("missing"):
            remedy = "put them there, or set BIOMASS_WEIGHTS"
            yield Finding("FAIL", f"weights on {name}", f"{backbone} {found}", remedy)
        if found.startswith("unusable"):
            remedy = "put the file there again, then run the same command again"
            yield Finding("FAIL", f"weights on {name}", f"{backbone} {found}", remedy)
    yield from _node_cores(name, fact, has.get("CPU", 0.0))
    slots = slots_of([{"Alive": True, "Resources": has}], Slots(cpus=resources.cpus_per_fold, gpus=gpus))
    needed = SLOT_MEMORY_GB * max(1, slots)
    memory = f"{fact.free_memory_gb:.1f} GB free, {counted(slots, 'slot wants', 'slots want')} about {needed:.0f} GB"
    if fact.free_memory_gb < needed:
        remedy = "raise --cpus-per-fold or lower --slots: fewer workers a node"
        yield Finding("warn", f"memory of {name}", memory, remedy)
    else:
        yield Finding("ok", f"memory of {name}", memory)


def _node_cores(name: str, fact: NodeFacts, cpus: float) -> Iterator[Finding]:
    """Findings about what a node's processes may use; nothing where all is well."""
    if cpus > math.ceil(fact.cores):
        text = f"Ray has {counted(cpus, 'CPU')}, a process there may use {counted(fact.cores, 'core')}"
        yield Finding("warn", f"cores of {name}", text, f"start Ray there with --num-cpus {math.ceil(fact.cores)}")
    if fact.cache:
        yield Finding("warn", f"cache of {name}", fact.cache, "give --cache a folder on a disk of each node")
    if fact.home:
        yield Finding("warn", f"home of {name}", fact.home, "it works; set HOME there, or HF_HOME for downloads")
    if abs(fact.clock_off) > CLOCK_SECONDS:
        text = f"{abs(fact.clock_off):.0f} s {'ahead of' if fact.clock_off > 0 else 'behind'} the clock here"
        yield Finding(
            "warn", f"clock of {name}", text, "it works, and times of pages and logs are off; start a time service"
        )


def _equal(what: str, values: Mapping[str, str]) -> Iterator[Finding]:
    """One finding: the nodes agree, or which ones do not."""
    by_value: dict[str, list[str]] = {}
    for name, value in values.items():
        by_value.setdefault(value, []).append(name)
    if len(by_value) == 1:
        yield Finding("ok", what, f"{next(iter(by_value))} on {counted(len(values), 'node')}")
        return
    text = "; ".join(f"{value} on {', '.join(names)}" for value, names in by_value.items())
    yield Finding("FAIL", what, f"not the same everywhere: {text}", "use one image for all nodes, or one runtime_env")


def _driver_storage(study: str, token: str) -> Iterator[Finding]:
    try:
        Storage(study).write(f"doctor/{token}-driver", b"here")
    except (OSError, ValueError) as error:
        yield Finding(
            "FAIL", "study from here", f"{study} cannot be written: {error}", "check path, bucket, credentials"
        )


def _clean(study: str, token: str) -> None:
    root = Storage(study)
    for name in root.children("doctor"):
        if name.startswith(token):
            root.remove(f"doctor/{name}")


def _ask(node: Mapping[str, Any], plan: Plan, resources: Resources, token: str) -> NodeFacts | Finding:
    gpus = 1.0 if node["Resources"].get("GPU", 0) >= 1 else 0.0
    there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    ask: Any = ray.remote(stored_node_facts)
    task = ask.options(num_cpus=0, num_gpus=gpus, scheduling_strategy=there, max_retries=0)
    asked_at = time.time()
    try:
        stored = ray.get(
            task.remote(
                study=None if plan.study is None else Storage(plan.study).uri,
                token=token,
                data_dir=None if plan.data_dir is None else str(plan.data_dir.resolve()),
                cache_dir=str(resources.cache),
                weights=plan.weights,
                backbones=plan.backbones,
            ),
            timeout=ASK_SECONDS,
        )
    except RayError as error:
        remedy = "the node must be able to import this project: `ray job submit --working-dir .`, or an image with it"
        return Finding("FAIL", f"node {_name(node)}", f"does not answer: {innermost_cause(error)}", remedy)
    try:
        found = NodeFacts.from_json(stored)
    except RecordError as error:
        remedy = "use one image for all nodes, or one runtime_env"
        return Finding("FAIL", f"node {_name(node)}", f"has another version of this project ({error})", remedy)
    return replace(found, clock_off=found.time - min(max(found.time, asked_at), time.time()))  # it ran between the two


def _cost(
    plan: Plan, resources: Resources, gpus: float, slots: int, facts: Mapping[str, NodeFacts]
) -> Iterator[Finding]:
    """What the planned study costs: folds and features of what may be proposed, estimated from a measured slot."""
    try:
        images = 0 if plan.data_dir is None else len(read_train(plan.data_dir))
    except DataError as error:
        yield Finding("FAIL", error.problems[0].file, str(error.problems[0]), "biomass data check lists every problem")
        return
    scale = plan.scale if plan.scale != "auto" else "gpu" if gpus else "cpu"
    try:
        plain = {family: space_of(family, plan.backbones, scale) for family in plan.shares}
        changes, backbones = plan.changes, plan.backbones
        spaces, _ = with_changes(plain, changes, backbones, say=lambda _: None, scale=scale, to_add=ADD_FAMILY)
    except RangesError as error:
        yield Finding("FAIL", "ranges", str(error), "a search would be refused for it; mend it")
        return
    trials = {one: plan.trials * share / sum(plan.shares.values()) for one, share in plan.shares.items()}
    costed: Any = study_cost  # Ray's annotations have no keyword arguments
    estimate = ray.remote(costed).options(num_cpus=resources.cpus_per_fold, num_gpus=gpus, max_retries=0)
    asked = {"images": images, "folds": plan.folds, "device": "auto" if gpus else "cpu"}
    try:
        cost: StudyCost = ray.get(estimate.remote(spaces, trials, **asked), timeout=10 * ASK_SECONDS)
    except RayError as error:
        yield Finding("FAIL", "cost", innermost_cause(error), "see the text")
        return
    for family in trials:
        if family not in cost.fold_seconds:
            yield Finding("warn", f"fold of {family}", "nothing in your ranges is accepted", "it has no estimate here")
            continue
        found = cost.fold_seconds[family]
        text = (
            f"{cost.mean_fold_seconds(family):.1f} s on a slot, {min(found):.1f} to {max(found):.1f} s by its settings"
        )
        yield Finding("ok", f"fold of {family}", text)
    feature_hours = cost.feature_seconds * len(facts) / 3600
    fold_hours = sum(trials[one] * plan.folds * cost.mean_fold_seconds(one) for one in cost.fold_seconds) / 3600
    slot_hours = fold_hours + feature_hours
    gpu_hours = f", {slot_hours * gpus:.2g} GPU-hours" if gpus else ""
    yield Finding(
        "ok",
        "cost",
        f"{counted(plan.trials, 'trial')} x {plan.folds} folds: about {slot_hours:.2g} slot-hours{gpu_hours}, "
        f"{slot_hours / slots:.2g} h on {counted(slots, 'slot')}; {feature_hours:.2g} of the slot-hours are features, "
        "as long as the cache has none; before pruning",
    )
    for name, fact in facts.items():
        text = f"{fact.free_cache_gb:.0f} GB free for features, which take about {cost.feature_gigabytes:.2g} GB"
        if fact.free_cache_gb < cost.feature_gigabytes:
            yield Finding("warn", f"disk of {name}", text, "give --cache a larger disk, or --cache-gb a limit")
        else:
            yield Finding("ok", f"disk of {name}", text)


def _name(node: Mapping[str, Any]) -> str:
    return f"{node['NodeManagerHostname']}/{node['NodeID'][:6]}"


def usable_backbones(
    asked: tuple[str, ...], source: WeightsSource, say: Callable[[str], None], show: Callable[[Finding], None]
) -> tuple[str, ...]:
    """Backbones whose weights are here and whole; a finding for what a search would be refused for."""
    try:
        return tuple(available_backbones(asked, source, say))
    except WeightsError as error:
        show(Finding("FAIL", "weights here", str(error), "the other checks go on without backbones"))
        return ()


def run_doctor(plan: Plan, resources: Resources, show: Callable[[Finding], None]) -> None:
    """Show all findings, each as it comes, because measuring takes its time."""
    for finding in examine(plan, resources):
        show(finding)
