"""The HTTP side: a page and its script, and one address that photos are posted to. Nothing is written to disk."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import HTMLResponse, JSONResponse

from pipeline.web.answers import Answers, Unusable

if TYPE_CHECKING:
    from pipeline.evaluation.model import Model

FILES = Path(__file__).parent
LOOPBACK = ("127.0.0.1", "localhost")
EVERYWHERE = "0.0.0.0"
MOST_BYTES = 32 * 1024**2  # of one photo
MOST_WAITING = 8  # photos that the server holds at once
SLOWEST = 30  # seconds that a photo may take to arrive
BODY = "application/octet-stream"  # another site's page may send it only if this server allows that, which it does not
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def make_app(model: Model, answers: Answers, host: str) -> FastAPI:
    """The application that listens at `host`, for requests that name it, and from its own page only.

    Another site's page could otherwise post photos to it, or reach it under a name of its own (DNS rebinding).
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    files = {"app.js": "text/javascript", "app.css": "text/css"}
    page = render(model, answers)
    waiting = 0

    @app.get("/")
    def index() -> HTMLResponse:
        return HTMLResponse(page)

    @app.get("/{name}")
    def file(name: str) -> Response:
        if name not in files:
            return refused(404, "there is no such page")
        return Response((FILES / name).read_text(encoding="utf-8"), media_type=files[name])

    @app.post("/classify")
    async def classify(request: Request) -> JSONResponse:
        nonlocal waiting
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != BODY:
            return refused(415, f"expected the bytes of a photo as {BODY}")
        if waiting >= MOST_WAITING:
            return refused(429, f"more than {MOST_WAITING} photos at once: ask again in a moment")
        waiting += 1
        try:
            async with asyncio.timeout(SLOWEST):
                photo = await received(request)
            return JSONResponse(await run_in_threadpool(answers.of, photo))
        except TimeoutError:
            return refused(408, f"it did not arrive within {SLOWEST} seconds")
        except Unusable as error:
            return refused(413 if error.too_large else 422, str(error))
        finally:
            waiting -= 1

    @app.middleware("http")
    async def guard(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
        origin = request.headers.get("origin")
        if origin is not None and origin != f"http://{request.headers.get('host')}":
            response: Response = refused(403, "only its own page may ask")
        else:
            response = await go_on(request)
        response.headers.update(HEADERS)
        return response

    @app.exception_handler(404)
    def missing(request: Request, error: Exception) -> JSONResponse:
        return refused(404, "there is no such page")

    @app.exception_handler(405)
    def other_method(request: Request, error: Exception) -> JSONResponse:
        return refused(405, "expected GET for a page, or POST for a photo")

    @app.exception_handler(Exception)
    def failed(request: Request, error: Exception) -> JSONResponse:
        return refused(500, "the server failed: its terminal says why")

    hosts = LOOPBACK if host in LOOPBACK else ["*"] if host == EVERYWHERE else [host]
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)
    return app


async def received(request: Request) -> bytes:
    """The body of a request. Raises Unusable where it is too large or breaks off."""
    content, more = bytearray(), True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise Unusable("it did not arrive whole")
        content += message.get("body", b"")
        if len(content) > MOST_BYTES:
            raise Unusable(f"too_large: more than {MOST_BYTES // 1024**2} MB", too_large=True)
        more = message.get("more_body", False)
    return bytes(content)


def refused(status: int, reason: str) -> JSONResponse:
    return JSONResponse({"error": reason}, status)


def render(model: Model, answers: Answers) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(loader=FileSystemLoader(FILES), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("app.html").render(
        name=model.about["experiment"],
        classes=model.classes,
        explained=not answers.unexplained,
        most_mb=MOST_BYTES // 1024**2,
        most_bytes=MOST_BYTES,
    )
