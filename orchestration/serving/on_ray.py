"""`biomass serve --replicas`: the application as a Ray Serve deployment, behind Serve's proxy on the head node.

A replica is what a single process is: a blend, a thread that predicts, a queue of its own. Serve gives a request to the
shorter one of two queues. The application alone refuses: Serve lets more requests in than a queue has places for.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from starlette.applications import Starlette

from biomass_models.counted import counted
from biomass_models.errors import UserError
from orchestration.answers.opened import BlendPlace, OpenBlend, open_blend
from orchestration.interrupts import until_signal
from orchestration.listening import EVERY, is_loopback, shown_host
from orchestration.progress import Say
from orchestration.serving.address import FIRST_PORT, Address, address_of, bound, token_for, warn_of
from orchestration.serving.app import Served, make_app
from orchestration.serving.asked import Limits
from orchestration.serving.model_thread import ModelThread
from orchestration.serving.pictures import TrainingPhotographs
from orchestration.serving.run import GRACE_SECONDS
from orchestration.verbosity import level_of_ray
from orchestration.workers.address import is_cluster
from orchestration.workers.cluster import ray_cluster
from orchestration.workers.pulse import Pulse
from orchestration.workers.ray_errors import innermost_cause

NAME = "biomass"  # of Serve's application
REFUSING = 32  # requests of a replica beyond its queue: those that are being refused, and pages
LOOK_SECONDS = 0.2  # at whether Ray is still there
DRAIN_LOOK_SECONDS = 0.5  # of a replica that ends, at whether its requests have
TELL_SECONDS = 5.0  # for replicas to hear that they end
END_SECONDS = 30.0  # for all of it, and for Ray
HEAD = "node:__internal_head__"


class Replica:
    """What serves in one process."""

    def __init__(
        self, place: BlendPlace, limits: Limits, cores: int, token: str | None, data: Path | None, keep: Path | None
    ) -> None:
        blend = open_blend(place)
        self._served = Served(
            blend=blend,
            model=ModelThread(limits.queue, cores),
            limits=limits,
            token=token,
            trained=None if data is None else TrainingPhotographs(blend, data),
            keep=keep,
            say=logging.getLogger("ray.serve").warning,
        )

    def __serve_build_asgi_app__(self) -> Starlette:
        return make_app(self._served)

    def close(self) -> None:
        """Those that wait are told that it ends; the one that is worked on may end."""
        self._served.model.close()


def require_ray_serve() -> None:
    """Raises UserError where its packages are not installed."""
    try:
        import ray.serve  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"replicas need the packages of ray[serve], {error.name or error} cannot be imported here; pip install "
            "'pasture-biomass[replicas]'"
        ) from None
    logging.getLogger("ray.serve").setLevel(level_of_ray())


def run_replicas(
    blend: OpenBlend,
    *,
    replicas: int,
    address: str | None,
    host: str,
    port: int | None,
    limits: Limits,
    cores: int,
    data: Path | None,
    kept: Path | None,
    show: Callable[[Address], None],
    say: Say,
) -> None:
    """Serve until a signal, on the cluster at `address` or on an embedded Ray; host and port are those of its head.

    Raises UserError for a port that is taken, for cores that are not there, and for a cluster that serves already.
    """
    require_ray_serve()
    from ray import serve

    token = token_for(host)
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
    folders = [None if folder is None else folder.expanduser().absolute() for folder in (data, kept)]
    place = BlendPlace(blend.place.where, blend.name, blend.place.weights)
    with ray_cluster(address, say=say) as pulse:
        _require_room(replicas, cores)
        head = _head_address()
        here = not is_cluster(address) or head == ray.util.get_node_ip_address()
        if here and data is not None:
            TrainingPhotographs(blend, data)  # refused before anything is deployed
        chosen = _free_port(host, port) if here else port or FIRST_PORT
        if serve.status().proxies:
            raise UserError(
                "a cluster has one Ray Serve, this one has it already, with its own address; end it (`serve shutdown` "
                "ends all that it serves), or leave --replicas out for a page in this process"
            )
        warn_of(host, say)
        handles: list[Any] = []

        def deploy() -> Any:
            serve.start(proxy_location="HeadOnly", http_options={"host": host, "port": chosen})
            application = _deployment(replicas, limits, cores).bind(place, limits, cores, token, *folders)
            return serve.run(application, name=NAME, route_prefix="/")

        def run() -> None:
            handles.append(pulse.guard(deploy))
            shown = shown_host(host) if here or is_loopback(host) else head if host in EVERY else host
            show(address_of(shown, chosen, token))
            while pulse.lost is None:
                time.sleep(LOOK_SECONDS)

        try:
            until_signal(run)
        except (RayError, RuntimeError, TimeoutError) as error:  # of Serve, with what a replica has raised
            raise UserError(
                f"every replica opens the blend on its own node, and a proxy listens on the head's {host}:{chosen}, "
                f"got {innermost_cause(error)}; put what is named where every node finds it, or give another --port"
            ) from error
        finally:
            if pulse.lost is None:
                _end(pulse, handles)
        if pulse.lost is not None:
            raise pulse.lost


def _deployment(replicas: int, limits: Limits, cores: int) -> Any:
    from ray import serve
    from ray.serve.schema import LoggingConfig

    return serve.deployment(
        serve.ingress()(Replica),
        name=NAME,
        num_replicas=replicas,
        max_ongoing_requests=limits.queue + REFUSING,
        ray_actor_options={"num_cpus": cores, "num_gpus": _gpus(replicas)},
        graceful_shutdown_timeout_s=GRACE_SECONDS,
        graceful_shutdown_wait_loop_s=DRAIN_LOOK_SECONDS,
        logging_config=LoggingConfig(enable_access_log=False),
    )


def _end(pulse: Pulse, handles: list[Any]) -> None:
    """Whoever waits is told so, what is worked on ends, then nothing of Serve stays on the cluster."""
    from ray import serve

    def end() -> None:
        for handle in handles:
            with suppress(RayError, TimeoutError):
                handle.broadcast("close").results(timeout_s=TELL_SECONDS, return_exceptions=True)
            serve.delete(NAME)
        serve.shutdown()

    with suppress(RayError, RuntimeError, TimeoutError, UserError):
        pulse.guard(end)


def _require_room(replicas: int, cores: int) -> None:
    found = ray.cluster_resources().get("CPU", 0)
    if replicas * cores > found:
        raise UserError(
            f"{counted(replicas, 'replica')} of {counted(cores, 'core')} need {replicas * cores}, Ray has {found:g}; "
            "give fewer --replicas or --threads"
        )


def _gpus(replicas: int) -> float:
    """Of a replica: one, or an equal share of one."""
    found = int(ray.cluster_resources().get("GPU", 0))
    return 1 / math.ceil(replicas / found) if found else 0


def _head_address() -> str:
    return next(str(node["NodeManagerAddress"]) for node in ray.nodes() if HEAD in node["Resources"])


def _free_port(host: str, port: int | None) -> int:
    with closing(bound(host, port)) as listening:
        return int(listening.getsockname()[1])
