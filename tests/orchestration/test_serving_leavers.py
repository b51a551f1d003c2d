"""`biomass serve` and clients that leave: their photographs are gone once nobody works on them, which is no bug."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from test_serving import HERE, parts, photographs, served, world  # noqa: F401  a blend of a probe and a family with maps

from biomass_models.features.store import FeatureStore
from biomass_models.interrupt import StopRequested
from orchestration.serving import app as app_module
from orchestration.serving import uploads as uploads_module
from orchestration.serving.app import Served, make_app
from orchestration.serving.folder import RequestFolder

pytestmark = pytest.mark.slow
PATIENCE = 60.0  # seconds


class Leaver:
    """A client that has sent a whole request, and leaves when it is told to; without a server."""

    def __init__(self, path: str, *files: Path) -> None:
        client = TestClient(app=lambda *_: None, base_url=HERE)  # type: ignore[arg-type, misc]
        request = client.build_request("POST", path, files=parts(*files))
        self._body = request.read()
        self._scope = {
            "type": "http", "method": "POST", "path": path, "query_string": b"",
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
        }  # fmt: skip
        self._sent = False
        self.left = threading.Event()
        self.status: list[int] = []

    def ask(self, served: Served) -> None:  # noqa: F811
        asyncio.run(make_app(served)(self._scope, self._receive, self._send))

    async def _receive(self) -> Any:
        if not self._sent:
            self._sent = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        while not self.left.is_set():
            await asyncio.sleep(0.01)
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status.append(message["status"])


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where folders of requests are made."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def idle(served: Served) -> None:  # noqa: F811
    """Wait until the model thread has done what it had begun."""
    future: Future[None] = Future()
    served.model._waiting.put((future, lambda _: None, threading.Event()))
    future.result(PATIENCE)


@pytest.mark.parametrize("bank", [1, 2])
def test_a_client_that_leaves_between_two_banks(
    served: Served,  # noqa: F811
    tiny_pasture: Path,
    temporary: Path,
    monkeypatch: pytest.MonkeyPatch,
    bank: int,
) -> None:
    """Its folder stays while the model thread is in it, is deleted by that thread, and does not come back."""
    reached, go_on, calls = threading.Event(), threading.Event(), []
    whole = FeatureStore.bank

    def held(self: FeatureStore, *arguments: Any, **options: Any) -> Any:
        calls.append(self.root)
        if len(calls) == bank:
            reached.set()
            assert go_on.wait(PATIENCE)
        return whole(self, *arguments, **options)

    monkeypatch.setattr(FeatureStore, "bank", held)
    said: list[str] = []
    leaver = Leaver("/", *photographs(tiny_pasture)[:2])
    client = threading.Thread(target=leaver.ask, args=(replace(served, say=said.append),))
    client.start()
    assert reached.wait(PATIENCE)
    leaver.left.set()
    client.join(PATIENCE)
    assert leaver.status == [499] and served.model.admitted == 0
    assert len(list(temporary.glob("*/*.jpg")) + list(temporary.glob("*/*.png"))) == 2
    go_on.set()
    idle(served)
    assert list(temporary.iterdir()) == [] and said == []


@pytest.mark.parametrize("module, name", [(uploads_module, "_saved"), (app_module, "keep")])
def test_files_that_are_copied_as_the_server_stops(
    served: Served,  # noqa: F811
    tiny_pasture: Path,
    temporary: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: Any,
    name: str,
) -> None:
    """They are copied in another thread, which ends in a folder that is still there; meanwhile others are answered."""
    reached, go_on, ended = threading.Event(), threading.Event(), threading.Event()
    whole = getattr(module, name)

    def held(*arguments: Any) -> Any:
        reached.set()
        assert go_on.wait(PATIENCE)
        try:
            return whole(*arguments)
        finally:
            ended.set()

    monkeypatch.setattr(module, name, held)
    app = make_app(replace(served, keep=temporary.parent / "kept"))
    leaver = Leaver("/predict", photographs(tiny_pasture)[0])

    async def stopped() -> None:
        request = asyncio.ensure_future(app(leaver._scope, leaver._receive, leaver._send))
        assert await asyncio.to_thread(reached.wait, PATIENCE)  # the loop is not held by the copy
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        assert len(list(temporary.iterdir())) == 1
        go_on.set()
        assert await asyncio.to_thread(ended.wait, PATIENCE)

    asyncio.run(stopped())
    assert list(temporary.iterdir()) == []


@pytest.fixture
def folder(temporary: Path) -> Iterator[RequestFolder]:
    yield RequestFolder()


def test_a_folder_is_deleted_by_its_last_user(folder: RequestFolder) -> None:
    with folder.used():
        with folder.used():
            pass
        assert folder.path.is_dir()
    assert not folder.path.exists()
    with pytest.raises(StopRequested), folder.used():
        pass
