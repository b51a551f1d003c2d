"""Who may use the server, and what a browser may do with its pages."""

from __future__ import annotations

import hmac
import re
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestration.listening import is_loopback
from orchestration.serving.asked import RequestError

COOKIE = "biomass_token"
OPEN = ("/healthz", "/page.css", "/page.js", "/token")  # to those without a token as well
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with no-referrer, browsers name no origin of forms
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}
Refused = Callable[[Request, RequestError], Response]


class Guard:
    """ASGI middleware: names of loopback, the token, requests of other sites, headers of each response.

    token: None on loopback, where this machine's users may ask; refused: what a refusal looks like.
    """

    def __init__(self, app: ASGIApp, *, token: str | None, refused: Refused) -> None:
        self._app, self._token, self._refused = app, token, refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        request = Request(scope, receive)
        handle: Callable[[Scope, Receive, Send], Awaitable[None]] = self._app
        try:
            self._check(request)
        except RequestError as error:
            handle = self._refused(request, error)
        await handle(scope, receive, send_guarded)

    def _check(self, request: Request) -> None:
        host = request.headers.get("host", "")
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        if self._token is None and not is_loopback(name.removeprefix("[").removesuffix("]")):
            # a page of another site may point its own name at this machine: such a request carries that name
            raise RequestError(403, "open it as 127.0.0.1 or localhost, or start the server with --host")
        origin = request.headers.get("origin")
        if request.method not in ("GET", "HEAD") and origin is not None and _place_of(origin) != host:
            raise RequestError(403, "forms of other sites are refused; open this server's own page")
        if self._token is not None and request.scope["path"] not in OPEN and not self._knows(request):
            raise RequestError(401, "a token is needed: the address that the server printed as it started has it")

    def _knows(self, request: Request) -> bool:
        kind, _, bearer = request.headers.get("authorization", "").partition(" ")
        given = [request.cookies.get(cookie_name(request), ""), request.query_params.get("token", "")]
        if kind.lower() == "bearer":
            given.append(bearer.strip())
        return any(same_token(one, self._token or "") for one in given)


def cookie_name(request: Request) -> str:
    """With the port by which a browser knows this server: it sends a cookie to all ports of a host."""
    port = request.headers.get("host", "").rpartition(":")[2]
    return f"{COOKIE}_{port}" if re.fullmatch("[0-9]{1,5}", port) else COOKIE


def _place_of(origin: str) -> str | None:
    """Host and port; None for what is no address."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def same_token(given: str, token: str) -> bool:
    """In a time that does not depend on how much of it is right."""
    return hmac.compare_digest(given.encode(), token.encode())
