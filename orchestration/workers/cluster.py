"""Ray: attach to a cluster where one is named, else embed one in this process."""

from __future__ import annotations

import os
import secrets
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants

from orchestration import processes
from orchestration.processes import command_of, descendants, kill
from orchestration.verbosity import is_verbose, level_of_ray
from orchestration.workers.address import ClusterError, cluster_address, is_cluster, require_answer
from orchestration.workers.machine import close_token_file, loopback_hosts, ray_temp_folder, usable_cores
from orchestration.workers.pulse import Pulse

ON_HEAD = {"node:__internal_head__": 0.001}  # costs nothing; the node that a cluster cannot lose
# Set for some cluster, they would change an embedded Ray: its token, store, resources and environment.
FOREIGN = (
    "RAY_ADDRESS",
    "RAY_AUTH_MODE",
    "RAY_AUTH_TOKEN_PATH",
    "RAY_JOB_CONFIG_JSON_ENV_VAR",
    "RAY_OVERRIDE_LABELS",
    "RAY_OVERRIDE_RESOURCES",
    "RAY_REDIS_ADDRESS",
    "RAY_RUNTIME_ENV_HOOK",
)
TOKEN = "RAY_AUTH_TOKEN"
SHUTDOWN_SECONDS = 8.0  # for Ray to go down by itself; it takes five where its store is dead
KILL_SECONDS = 2.0  # for killed processes to be gone
PATHS = ("BIOMASS_WEIGHTS", "PYTHONPATH", "TMPDIR", "HF_HOME", "HF_HUB_CACHE", "TORCH_HOME")
# Seconds, 20 days, until Ray ends a process that waits for a store which is gone; its default is 60. A thread of Tune's
# that waits so cannot be ended, and must not take the process of the caller of run_search with it.
PATIENCE = 20 * 86_400
RECONNECT = "RAY_gcs_rpc_server_reconnect_timeout_s"
UV_HOOK = "RAY_ENABLE_UV_RUN_RUNTIME_ENV"


@contextmanager
def ray_cluster(
    address: str | None = None, num_cpus: int | None = None, say: Callable[[str], None] = lambda text: None
) -> Iterator[Pulse]:
    """Hold a Ray connection; yields its pulse. No process of an embedded Ray outlives it.

    num_cpus: what an embedded Ray believes this machine has; None counts the cores that this process may use.

    address: of a running cluster; without it, and without RAY_ADDRESS, Ray is embedded ("local", because plain
    `ray.init()` would join any cluster whose address lies in the temporary folder), with a token of its own.
    say: is given notes on what differs from what was asked for.
    Raises ClusterError where Ray does not start or answer, MachineError where this machine lacks what it needs.
    """
    # Tune would move each trial into a folder of its own, and relative study paths with it.
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    # Tune's newer output prints tables and a wrong TensorBoard folder whatever the verbosity.
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    more: dict[str, Any] = {"log_to_driver": is_verbose(), "logging_level": level_of_ray()}
    # Events are written by events.py; Tune's loggers would add a CSV, a JSON and a pickle for each trial.
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    close_token_file()
    if is_cluster(address):
        require_answer(address)
        with (
            _patient(),
            without_uv_hook(keep=UV_HOOK in os.environ),
            _connection(say, address=cluster_address(address), **more) as pulse,
        ):
            yield pulse
        return
    folder, cores = ray_temp_folder(), usable_cores()
    if folder.reason:
        say(f"note: {folder.reason}")
    if num_cpus is None and cores.missing:
        say(f"note: this process has {cores.reason}; a slot may be less than a core, its folds take longer")
    if folder.spill is not None:
        more["object_spilling_directory"] = folder.spill
    # No dashboard: its agent must answer within seconds or the raylet dies, too much to ask of a small machine.
    more |= {"include_dashboard": False, "num_cpus": cores.whole if num_cpus is None else num_cpus}
    more["_system_config"] = {RECONNECT.removeprefix("RAY_"): PATIENCE}
    more["job_config"] = ray.job_config.JobConfig(_py_driver_sys_path=_code_folders())
    with (
        _patient(),  # for connections of this process that are made before the setting above is known to it
        _own_environment(),
        without_uv_hook(keep=False),
        _connection(say, address="local", _temp_dir=str(Path(folder.folder).absolute()), **more) as pulse,
    ):
        yield pulse


@contextmanager
def _connection(say: Callable[[str], None], **settings: Any) -> Iterator[Pulse]:
    """ray.init and ray.shutdown, whatever happens between them and while they run."""
    embedded = settings["address"] == "local"
    family, pulse = _Family(f"{TOKEN}={os.environ[TOKEN]}" if embedded else None), None
    try:
        with _own_handlers(), _at_the_root() if embedded else nullcontext():
            _start(**settings)
        family.look()
        node: Any = ray._private.worker._global_node
        pulse = Pulse(node.gcs_address, node if embedded else None, say)
        del node
        yield pulse
    finally:
        if pulse is not None:
            pulse.close()
        try:
            family.look()
            # in a thread, because it may wait for a Ray that is dead
            shutdown = threading.Thread(target=ray.shutdown, name="shutdown", daemon=True)
            shutdown.start()
            shutdown.join(SHUTDOWN_SECONDS)
        finally:
            family.end()


class _Family:
    """Processes of an embedded Ray. Its agents live on for a minute where its raylet or its store was killed."""

    def __init__(self, mark: str | None) -> None:
        """mark: NAME=value of the variable that this Ray's processes alone have, None: of a cluster, which lives on."""
        self._others = descendants(os.getpid())
        self._mark = mark
        if mark is not None:
            processes.marks.add(mark)

    def look(self) -> None:
        """Note who is there: what has lost its parent is found by the mark alone."""
        for process in (descendants(os.getpid()) | processes.marked()) - self._others:
            if _is_of_ray(command_of(process.pid)):
                processes.started.update({process}, descendants(process.pid))

    def end(self) -> None:
        self.look()
        kill(processes.started, KILL_SECONDS)
        self.look()  # a raylet that lived until now may have started a worker meanwhile
        kill(processes.started, KILL_SECONDS)
        processes.started.clear()
        processes.marks.discard(self._mark or "")


def _is_of_ray(command: str) -> bool:
    """Whether a command line is one of Ray's own processes; its workers change theirs to a title."""
    return str(Path(ray.__file__).parent) in command or command.startswith("ray::")


@contextmanager
def _at_the_root() -> Iterator[None]:
    """Processes that start now work at the root: whoever deletes the caller's folder takes nothing away from them.

    In a folder that is gone neither torch nor Tune works.
    """
    here = os.open(".", os.O_RDONLY)
    try:
        os.chdir("/")
        yield
    finally:
        os.fchdir(here)
        os.close(here)


def _code_folders() -> list[str]:
    """Where workers look for modules as well: Ray gives them the caller's working directory, which they are not in."""
    with suppress(FileNotFoundError):
        return [str(Path.cwd())]
    return []


def _absolute(paths: str) -> str:
    """Paths of an environment variable, which must not depend on the working directory."""
    with suppress(FileNotFoundError):
        return os.pathsep.join(str(Path(path).expanduser().absolute()) for path in paths.split(os.pathsep) if path)
    return paths


@contextmanager
def _own_handlers() -> Iterator[None]:
    """Ray takes SIGTERM for itself: what the caller had set is put back."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def slot_limit(most: int | None, cpus: float, address: str | None) -> int | None:
    """Most slots of so many CPUs each; under a CPU quota, no more than it allows (Ray rounds its last CPU up)."""
    cores = usable_cores()
    if is_cluster(address) or not cores.missing or not cpus:
        return most
    here = max(1, int((ray.cluster_resources().get("CPU", 0) - cores.missing) / cpus + 1e-9))
    return min(most or here, here)


@contextmanager
def _own_environment() -> Iterator[None]:
    """Variables of an embedded Ray, which nobody else's settings reach, while it runs.

    A token of its own, in its processes only: Ray would write one into the home directory, readable by all, or fail
    where that cannot be written.
    """
    before = dict(os.environ)
    for name in FOREIGN:
        os.environ.pop(name, None)
    os.environ[TOKEN] = secrets.token_hex(32)
    for name in PATHS:
        if paths := os.environ.get(name):
            os.environ[name] = _absolute(paths)
    for name in ("no_proxy", "NO_PROXY"):
        hosts = [host for host in os.environ.get(name, "").split(",") if host]
        os.environ[name] = ",".join(dict.fromkeys([*hosts, *loopback_hosts()]))
    _forget_token()
    try:
        yield
    finally:
        for name in (*FOREIGN, *PATHS, TOKEN, "no_proxy", "NO_PROXY"):
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]
        _forget_token()


def refusal(error: BaseException) -> ClusterError:
    """Why Ray does not start or answer any more, in words, with what to do."""
    said = str(error).strip()
    low = said.lower()
    if "401" in low or "unauth" in low or "token" in low:
        remedy = (
            "set RAY_AUTH_MODE=token and give the cluster's token in RAY_AUTH_TOKEN or ~/.ray/auth_token (the head "
            "node has it there)"
        )
    elif "version" in low and "mismatch" in low:
        remedy = "install the same Ray and Python here as on the cluster (same image, or constraints.txt)"
    else:
        remedy = (
            "check the address (host:port of `ray start --head`, or nothing for an embedded Ray), that `ray status` "
            "answers there, and that no firewall lies between; on a small machine RAY_agent_register_timeout_ms=60000"
        )
    return ClusterError(said.splitlines()[0] if said else type(error).__name__, remedy)


def _start(**settings: Any) -> None:
    try:
        ray.init(**settings)
    except Exception as error:  # Ray raises many kinds: for a connection, a time-out, a version, a token, a process
        raise refusal(error) from error


@contextmanager
def _patient() -> Iterator[None]:
    """This process does not have Ray end it, whoever made the cluster; see PATIENCE."""
    before = os.environ.get(RECONNECT)
    os.environ[RECONNECT] = str(PATIENCE)
    try:
        yield
    finally:
        if before is None:
            del os.environ[RECONNECT]
        else:
            os.environ[RECONNECT] = before


def _forget_token() -> None:
    """Ray keeps the first token that it saw in a process, even for another cluster."""
    with suppress(ImportError, AttributeError):
        from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]

        AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def without_uv_hook(keep: bool) -> Iterator[None]:
    """Under `uv run` Ray would upload the working directory and run workers by uv: no folder of photographs fits, and
    workers have this environment already.

    keep: leave Ray's setting as it is.
    """
    before = ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV
    if not keep:
        ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = False
    try:
        yield
    finally:
        ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = before
