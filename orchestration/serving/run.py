"""`biomass serve` in this process: uvicorn on the application, until Ctrl-C, SIGTERM or SIGHUP."""

from __future__ import annotations

import contextlib
import importlib.util
import threading
import time
from collections.abc import Callable
from pathlib import Path

from biomass_models.errors import UserError
from orchestration.answers.opened import OpenBlend
from orchestration.interrupts import until_signal
from orchestration.listening import shown_host
from orchestration.progress import Say
from orchestration.serving.address import Address, address_of, bound, token_for, warn_of
from orchestration.serving.asked import Limits

GRACE_SECONDS = 8  # for the request that is worked on
LOOK_SECONDS = 0.1  # at whether the server has started
PACKAGES = {"starlette": "starlette", "uvicorn": "uvicorn", "python_multipart": "python-multipart"}


def require_packages() -> None:
    """Raises UserError for those that are not installed."""
    if missing := [name for module, name in PACKAGES.items() if importlib.util.find_spec(module) is None]:
        raise UserError(
            f"the page needs the packages {', '.join(PACKAGES.values())}, {' and '.join(missing)} cannot be imported "
            "here; pip install 'pasture-biomass[serve]'"
        )


def run_server(
    blend: OpenBlend,
    *,
    host: str,
    port: int | None,
    limits: Limits,
    cores: int,
    data: Path | None,
    kept: Path | None,
    show: Callable[[Address], None],
    say: Say,
) -> None:
    """Serve until a signal; port: None: the first free one from 8000. Raises UserError for one that is taken."""
    import uvicorn

    from orchestration.serving.app import Served, make_app
    from orchestration.serving.model_thread import ModelThread
    from orchestration.serving.pictures import TrainingPhotographs

    token = token_for(host)
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
    trained = None if data is None else TrainingPhotographs(blend, data)
    with contextlib.closing(bound(host, port)) as listening:
        model = ModelThread(limits.queue, cores)
        served = Served(blend=blend, model=model, limits=limits, token=token, trained=trained, keep=kept, say=say)
        config = uvicorn.Config(
            make_app(served),
            http="h11",  # these two: the same server, whatever else is installed
            loop="asyncio",
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listening],), name="server", daemon=True)
        warn_of(host, say)

        def serve() -> None:
            thread.start()
            while thread.is_alive() and not server.started:
                time.sleep(LOOK_SECONDS)
            if server.started:
                show(address_of(shown_host(host), listening.getsockname()[1], token))
            while thread.is_alive():
                thread.join(LOOK_SECONDS)

        until_signal(serve)
        model.close()
        server.should_exit = True
        thread.join(GRACE_SECONDS + 2)
        model.join(1.0)
