"""`biomass dashboard`: optuna-dashboard and TensorBoard on a study, following its ledger. Nothing is written into it.

Both serve from threads of this process, TensorBoard's reader from a child that ends with its standard input: however
this process ends, killed or not, nothing is left behind.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import socket
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from biomass_models.errors import UserError
from orchestration.dashboard.ray_dashboard import find_ray_dashboard
from orchestration.interrupts import until_signal
from orchestration.listening import EVERY, LOOPBACK, is_loopback, is_taken, shown_host
from orchestration.progress import Say
from orchestration.study.ledger import Ledger, open_ledger

if TYPE_CHECKING:  # the view loads optuna
    from orchestration.dashboard.optuna_view import LedgerView
    from orchestration.dashboard.tensorboard_events import EventFolder

FIRST_PORT, PORTS_TRIED = 8080, 50
REFRESH_SECONDS = 3.0
HEALTH_SECONDS = 6.0
PACKAGES = ("optuna_dashboard", "tensorboard")


class DashboardError(UserError):
    """The dashboards cannot be started; the text says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class Addresses:
    """Where to look."""

    optuna: str
    tensorboard: str
    ray: str | None  # None where no Ray with a dashboard was found


def run_dashboard(study: str, *, host: str, port: int | None, show: Callable[[Addresses], None], say: Say) -> None:
    """Serve until SIGINT, SIGTERM or SIGHUP.

    port: of optuna-dashboard, TensorBoard has the next one; None: the first free ones from 8080 and 6006.
    Raises LedgerError for a folder that is no study, DashboardError for missing packages or a port that is taken.
    """
    ledger = open_ledger(study)
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise DashboardError(
            f"the dashboards need the packages optuna-dashboard and tensorboard, {' and '.join(missing)} cannot be "
            "imported here; pip install 'pasture-biomass[dashboard]'"
        )
    until_signal(lambda: _serve(ledger, host, port, show, say))


def _serve(ledger: Ledger, host: str, port: int | None, show: Callable[[Addresses], None], say: Say) -> None:
    from orchestration.dashboard.optuna_view import LedgerView
    from orchestration.dashboard.tensorboard_events import EventFolder

    with tempfile.TemporaryDirectory(prefix="biomass-dashboard-") as folder:
        view, events = LedgerView(ledger), EventFolder(ledger, Path(folder))
        with optuna_dashboard(view, host, port) as optuna_port:
            board_port = start_tensorboard(events.path, host, None if port is None else port + 1)
            if not is_loopback(host):
                say(f"warning: with --host {host} anyone who reaches these ports can read the study")
            name = shown_host(host)
            show(
                Addresses(
                    optuna=f"http://{name}:{optuna_port}/",
                    tensorboard=f"http://{name}:{board_port}/",
                    ray=find_ray_dashboard(),
                )
            )
            name = name if host not in EVERY else "localhost"
            _follow(view, events, f"http://{name}:{board_port}/data/environment", say)


def _follow(view: LedgerView, events: EventFolder, health: str, say: Say) -> None:
    """Keep up with the ledger until the process ends; one remark for a store or a TensorBoard that does not answer."""
    remark_once, checked = _Once(say), time.monotonic()
    while True:
        try:
            view.refresh()
            events.refresh(view.ended, view.folds)
            remark_once("ledger", None)
        except (OSError, ValueError) as error:
            remark_once(
                "ledger", f"the study cannot be read for the moment, the pages show what was read last: {error}"
            )
        if time.monotonic() - checked > HEALTH_SECONDS:
            remark_once("tensorboard", _ill(health))
            checked = time.monotonic()
        time.sleep(REFRESH_SECONDS)


class _Once:
    """Says a trouble when it begins, not again while it lasts."""

    def __init__(self, say: Say) -> None:
        self._say, self._known = say, dict[str, str]()

    def __call__(self, what: str, trouble: str | None) -> None:
        if trouble is None:
            self._known.pop(what, None)
        elif what not in self._known:
            self._known[what] = trouble
            self._say(f"warning: {trouble}")


def _ill(health: str) -> str | None:
    """What is wrong with TensorBoard, whose reader is a process of its own; None where it answers."""
    try:
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(health, timeout=HEALTH_SECONDS).close()
    except OSError as error:
        return f"TensorBoard does not answer any more ({error}); stop with Ctrl-C and run the same command again"
    return None


# -- optuna-dashboard --------------------------------------------------------------------------------------------------


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _ServerOfIPv6(_Server):
    address_family = socket.AF_INET6


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextlib.contextmanager
def optuna_dashboard(view: LedgerView, host: str, port: int | None) -> Iterator[int]:
    """Serve optuna-dashboard from threads; yields the port. Raises DashboardError."""
    import optuna_dashboard

    app = optuna_dashboard.wsgi(view)

    def read_only(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        # a page of another site may point its own name at this machine: such a request carries that name
        if host == LOOPBACK and environ.get("HTTP_HOST", LOOPBACK).rsplit(":", 1)[0] not in (LOOPBACK, "localhost"):
            start_response("403 Forbidden", [("Content-Type", "application/json")])
            return [b'{"reason": "Open it as 127.0.0.1 or localhost, or give --host."}']
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            start_response("405 Method Not Allowed", [("Content-Type", "application/json")])
            return [b'{"reason": "This view is read from the ledger and cannot be changed."}']
        return app(environ, start_response)

    server = _bound(read_only, host, port)
    threading.Thread(target=server.serve_forever, name="optuna-dashboard", daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


def _bound(app: Any, host: str, port: int | None) -> WSGIServer:
    kind = _ServerOfIPv6 if ":" in host else _Server
    wanted = range(FIRST_PORT, FIRST_PORT + PORTS_TRIED) if port is None else [port]
    for number in wanted:
        try:
            return make_server(host, number, app, server_class=kind, handler_class=_Quiet)
        except (OSError, OverflowError) as error:  # a port above 65535 is an overflow
            trouble = error
            if not is_taken(host, number):
                break
    raise DashboardError(
        f"optuna-dashboard needs a free port on an address of this machine, {host}:{wanted[0]} cannot be used "
        f"({trouble}); give another --port, or leave --port out for the next free one"
    )


# -- TensorBoard -------------------------------------------------------------------------------------------------------


def start_tensorboard(folder: Path, host: str, port: int | None) -> int:
    """Serve TensorBoard on a folder of events from threads, until the process ends; returns the port."""
    from tensorboard import program

    if port is not None and is_taken(host, port):  # before its reader is started
        raise DashboardError(_no_port_above(port, "somebody else listens there"))
    board = program.TensorBoard()
    arguments = ["--logdir", str(folder), "--host", host, "--reload_interval", str(int(REFRESH_SECONDS))]
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # a note about its reader, addressed to developers
            board.configure(argv=("", *arguments, *([] if port is None else ["--port", str(port)])))
            address = board.launch()
    except program.TensorBoardServerException as error:
        raise DashboardError(_no_port_above(port, error.msg)) from None
    return int(address.rstrip("/").rsplit(":", 1)[1])


def _no_port_above(port: int | None, trouble: str) -> str:
    place = "a free port" if port is None else f"port {port}, one above the --port of optuna-dashboard"
    return f"TensorBoard needs {place}, got: {trouble}; give another --port"
