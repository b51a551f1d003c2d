"""The application: a page, the same for programs, and whether it is well. Without --keep nothing of a request stays."""

from __future__ import annotations

import asyncio
import traceback
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from biomass_models.interrupt import ShouldStop
from orchestration.answers.opened import OpenBlend
from orchestration.progress import Say
from orchestration.serving.answer import Answer, answer
from orchestration.serving.asked import Limits, RequestError, client_gone, read_asked
from orchestration.serving.folder import RequestFolder
from orchestration.serving.guard import Guard, cookie_name, same_token
from orchestration.serving.kept import keep
from orchestration.serving.model_thread import ModelThread
from orchestration.serving.page import error_page, form_page, result_page, script, style
from orchestration.serving.pictures import Pictures, TrainingPhotographs, pictures
from orchestration.serving.schema import SCHEMA
from orchestration.serving.uploads import UNKNOWN_CHARSET, read_request

END_SECONDS = 1.0  # for work of clients that have gone, whose folders would stay where the process is killed
FOR_PROGRAMS = ("/predict", "/schema.json", "/healthz")


@dataclass(frozen=True, kw_only=True, eq=False)
class Served:
    """What a server serves."""

    blend: OpenBlend
    model: ModelThread
    limits: Limits = field(default_factory=Limits)
    token: str | None = None  # None: on loopback
    trained: TrainingPhotographs | None = None
    keep: Path | None = None
    say: Say = lambda _: None


def make_app(served: Served) -> Starlette:
    """An ASGI application."""
    pages = _Pages(served)
    routes = [
        Route("/", pages.form, methods=["GET"]),
        Route("/", pages.result, methods=["POST"]),
        Route("/predict", pages.predict, methods=["POST"]),
        Route("/schema.json", lambda _: JSONResponse(SCHEMA), methods=["GET"]),
        Route("/healthz", pages.health, methods=["GET"]),
        Route("/token", pages.token, methods=["POST"]),
        Route("/page.css", lambda _: Response(style(), media_type="text/css"), methods=["GET"]),
        Route("/page.js", lambda _: Response(script(), media_type="text/javascript"), methods=["GET"]),
    ]

    @asynccontextmanager
    async def lifespan(_: Starlette) -> Any:
        yield
        served.model.close()
        await asyncio.to_thread(served.model.join, END_SECONDS)

    return Starlette(
        routes=routes,
        lifespan=lifespan,
        middleware=[Middleware(Guard, token=served.token, refused=_refused)],
        exception_handlers={
            RequestError: lambda request, error: _refused(request, error),
            HTTPException: lambda request, error: _refused(request, _in_words(request, error)),
            Exception: pages.bug,
        },
    )


class _Pages:
    def __init__(self, served: Served) -> None:
        self._served = served

    async def form(self, request: Request) -> Response:
        token = request.query_params.get("token")
        if token is not None:  # the address as it was printed: from now on the cookie has it
            return self._with_cookie(request, token)
        return HTMLResponse(form_page(self._served.blend, self._served.limits))

    async def result(self, request: Request) -> Response:
        asked, found, drawn = await self._answered(request, drawn=True)
        return HTMLResponse(result_page(self._served.blend, self._served.limits, found, drawn, asked))

    async def predict(self, request: Request) -> Response:
        _, found, _ = await self._answered(request, drawn=False)
        return JSONResponse(found.to_json())

    async def health(self, _: Request) -> Response:
        model = self._served.model
        state = {"status": "stopping" if model.closing else "ok", "requests": model.admitted}
        return JSONResponse(state, status_code=503 if model.closing else 200)

    async def token(self, request: Request) -> Response:
        try:
            async with request.form(max_files=0, max_fields=1, max_part_size=4096) as form:
                given = form.get("token")
        except ClientDisconnect:
            raise client_gone() from None
        except UnicodeError:
            raise RequestError(400, UNKNOWN_CHARSET) from None
        if self._served.token is None or not isinstance(given, str) or not same_token(given, self._served.token):
            raise RequestError(401, "this is not the token: the address that the server printed as it started has it")
        return self._with_cookie(request, given)

    def _with_cookie(self, request: Request, token: str) -> Response:
        response = RedirectResponse("/", status_code=303)
        right = self._served.token
        if right is not None and same_token(token, right):  # a wrong one comes here where the cookie is right
            response.set_cookie(cookie_name(request), token, httponly=True, samesite="lax", path="/")
        return response

    async def bug(self, request: Request, error: Exception) -> Response:
        self._served.say("".join(traceback.format_exception(error)).rstrip())
        text = f"this is a bug, and the server's log has it: {type(error).__name__}"
        return _refused(request, RequestError(500, text))

    async def _answered(
        self, request: Request, *, drawn: bool
    ) -> tuple[dict[str, list[str]], Answer, dict[int, Pictures]]:
        """What was asked, in its own folder, which is gone once nobody works on it."""
        served = self._served
        with served.model.admission(), RequestFolder().used() as folder:
            uploads, fields = await read_request(request, folder, served.limits)
            asked = read_asked(served.blend, fields)
            features = folder.path / "features"

            def work(should_stop: ShouldStop) -> tuple[Answer, dict[int, Pictures]]:
                with folder.used():
                    found = answer(served.blend, uploads, asked, served.limits, cache=features, should_stop=should_stop)
                    read = [row for row, one in enumerate(found.photographs) if one.unreadable is None]
                    paths = {row: uploads[row].path for row in read} if drawn else {}
                    return found, pictures(
                        served.blend, paths, asked, served.trained, cache=features, should_stop=should_stop
                    )

            found, shown = await served.model.run(work, request)
            if served.keep is not None:
                try:
                    await folder.in_thread(keep, served.keep, served.blend, uploads, found)
                except OSError as error:
                    served.say(f"warning: a request could not be kept in {served.keep}: {error.strerror}")
        return fields, found, shown


def _refused(request: Request, error: RequestError) -> Response:
    """For programs a document with `error`, for people a page."""
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.status in (408, 413):
        headers["Connection"] = "close"  # what is still being sent is not read
    path = request.scope["path"]  # request.url has the Host header in it, which may be no address
    if path in FOR_PROGRAMS:
        return JSONResponse({"error": str(error)}, status_code=error.status, headers=headers)
    if path in ("/", "/token"):
        page = error_page(str(error), token=error.status == 401, retry_after=error.retry_after)
        return HTMLResponse(page, status_code=error.status, headers=headers)
    return PlainTextResponse(f"{error}\n", status_code=error.status, headers=headers)


def _in_words(request: Request, error: HTTPException) -> RequestError:
    path = request.scope["path"]
    if error.status_code == 404:
        return RequestError(404, f"there are /, /predict, /schema.json and /healthz, got {path:.60}")
    if error.status_code == 405:
        return RequestError(405, f"photographs are sent by POST, got {request.method:.20} {path:.60}")
    return RequestError(error.status_code, str(error.detail))
