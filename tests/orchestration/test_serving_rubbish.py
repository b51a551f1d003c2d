"""`biomass serve` and requests that no browser sends: whatever stands in a header, it is refused and is no bug."""

from __future__ import annotations

import asyncio
import types
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from biomass_models.errors import UserError
from orchestration.serving.app import Served, make_app
from orchestration.serving.asked import Limits
from orchestration.serving.model_thread import ModelThread

WORD = "a-token-of-a-test-0123"
RUBBISH = (
    *(
        b"",
        b" ",
        b"[",
        b"]",
        b"http://[",
        b"http://[::1",
        b"//[",
        b"http://\xff",
        b"\xff\xfe",
        b"=",
        b";=;",
        b"%",
        b"\\",
    ),
    *(
        b"127.0.0.1:80:80",
        b"127.0.0.1:x",
        b"[::1]x",
        b"localhost:99999999",
        b":" * 2000,
        b"null",
        b"-1",
        b"1e9",
        b"\xb2",
    ),
    *(b"9" * 5000, b"Bearer", b"Bearer \xff", b"Basic =", b'"', b'a="\\', b"multipart/form-data", b"\x7f"),
    *(b"multipart/form-data; boundary=", b"multipart/form-data; boundary=x; charset=undefined", b"a;b=c,d" * 500),
    *(b"multipart/form-data; boundary=x; charset=idna", b"multipart/form-data; boundary*=utf-8''%ff", b"[" * 3000),
)
HEADERS = (b"host", b"origin", b"cookie", b"content-length", b"content-type", b"authorization")
BODY = b'--x\r\nContent-Disposition: form-data; name="t\xf6ken"; filename="\xff"\r\n\r\nhalf\r\n--x--\r\n'
GOOD = {
    b"host": b"127.0.0.1:8000",
    b"content-type": b"multipart/form-data; boundary=x",
    b"origin": b"http://127.0.0.1:8000",
}


def status(app: Any, method: str, path: str, headers: dict[bytes, bytes], query: bytes = b"") -> int:
    """As a server hands a request over, without a client that would refuse to send it."""
    events = iter([{"type": "http.request", "body": BODY, "more_body": False}, {"type": "http.disconnect"}])
    scope = {"type": "http", "method": method, "path": path, "query_string": query, "headers": list(headers.items())}
    sent: list[Any] = []

    async def receive() -> Any:
        return next(events)

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return int(sent[0]["status"])


@pytest.mark.parametrize("token", [None, WORD])
@pytest.mark.parametrize("header", HEADERS)
def test_rubbish_in_a_header_is_never_a_bug(header: bytes, token: str | None) -> None:
    said: list[str] = []
    model = ModelThread(1, 1)
    app = make_app(Served(blend=types.SimpleNamespace(), model=model, token=token, say=said.append))  # type: ignore[arg-type]
    known = {b"authorization": f"Bearer {WORD}".encode()}
    try:
        for value in RUBBISH:
            for method, path in (("POST", "/predict"), ("POST", "/token"), ("GET", "/healthz"), ("GET", "/predict/")):
                for more in ({}, known):
                    found = status(app, method, path, GOOD | more | {header: value})
                    assert found < 500, (method, path, value, said)
    finally:
        model.close()
    assert said == []


def test_rubbish_in_an_address_is_never_a_bug() -> None:
    said: list[str] = []
    model = ModelThread(1, 1)
    app = make_app(Served(blend=types.SimpleNamespace(), model=model, token=WORD, say=said.append))  # type: ignore[arg-type]
    try:
        for query in (b"token=%ff", b"token=\xff", b"&&&=", b"token", b"token=a;b"):
            assert status(app, "GET", "/", GOOD, query) == 401
        for path in ("//[", "/\xff", "/[", "*"):
            assert status(app, "GET", path, GOOD | {b"authorization": f"Bearer {WORD}".encode()}) == 404
    finally:
        model.close()
    assert said == []


def test_an_origin_that_is_none_is_refused_before_the_token_is_looked_at() -> None:
    model = ModelThread(1, 1)
    app = make_app(Served(blend=types.SimpleNamespace(), model=model, token=WORD))  # type: ignore[arg-type]
    try:
        for origin in (b"http://[", b"null", b"http://elsewhere.example", b""):
            assert status(app, "POST", "/predict", GOOD | {b"origin": origin}) == 403
        assert status(app, "POST", "/predict", GOOD) == 401
    finally:
        model.close()


@pytest.mark.parametrize("mb", [0.0, -1.0, float("inf"), float("nan"), -float("inf")])
def test_a_limit_that_is_no_number_of_megabytes_is_refused_at_the_start(mb: float, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--max-mb is a number above 0, got"):
        Limits(photograph_mb=mb)
    assert Limits(photograph_mb=0.5).request_bytes > 0


def test_a_wrong_token_takes_no_right_ones_place() -> None:
    """Of a page that is open by its cookie."""
    model = ModelThread(1, 1)
    app = make_app(Served(blend=types.SimpleNamespace(), model=model, token=WORD))  # type: ignore[arg-type]
    client = TestClient(app, base_url="http://field.example:8000", follow_redirects=False)
    assert "set-cookie" in client.get(f"/?token={WORD}").headers
    wrong = client.get("/?token=wrong")
    assert wrong.status_code == 303 and "set-cookie" not in wrong.headers
    assert client.post("/predict").status_code == 415  # still open
    model.close()


def test_two_servers_of_a_host_have_a_cookie_each() -> None:
    """A browser sends a cookie to all ports of a host."""
    model = ModelThread(1, 1)
    jar: dict[str, str] = {}
    pages = []
    for port, word in ((8000, WORD), (8001, "another-token-of-a-test")):
        app = make_app(Served(blend=types.SimpleNamespace(), model=model, token=word))  # type: ignore[arg-type]
        pages.append(TestClient(app, base_url=f"http://field.example:{port}", follow_redirects=False))
        name, _, rest = pages[-1].get(f"/?token={word}").headers["set-cookie"].partition("=")
        jar[name] = rest.partition(";")[0]
    assert len(jar) == 2
    for page in pages:
        cookie = "; ".join(f"{name}={value}" for name, value in jar.items())
        assert page.post("/predict", headers={"cookie": cookie}).status_code == 415
    model.close()
