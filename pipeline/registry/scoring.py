"""MLflow's scoring server with answers that a client can use: a status, one line, no traceback.

What it holds at once is limited: bytes and images of a request, and requests, which are answered in turn.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from pipeline.system.console import say

if TYPE_CHECKING:
    from fastapi import FastAPI
    from mlflow.pyfunc import PyFuncModel

HOSTS = ("127.0.0.1", "localhost")  # in a Host header: a website can reach it under its own name (DNS rebinding)
LIMIT = 32 * 1024**2  # bytes of a request
MOST_IMAGES = 1000  # of a request: each has an answer with the probability of every class
MOST_VALUES = 1_000_000  # of a request, as an image in numbers has many
MOST_KEYS = 10_000  # of its objects: MLflow makes a column of each
MOST_WAITING = 32  # requests that the server holds at once
SLOWEST = 30  # seconds that a request may take to arrive
LONGEST = 300  # characters of a message: MLflow quotes what was sent
# Not the other forms that MLflow reads, CSV and Parquet: kilobytes of Parquet can stand for gigabytes
FORM = "application/json"


def guarded(model: PyFuncModel) -> FastAPI:
    """The server of a model, to be run by uvicorn on this machine, for requests to it by one of HOSTS."""
    from fastapi import Request, Response
    from fastapi.concurrency import run_in_threadpool
    from fastapi.middleware.trustedhost import TrustedHostMiddleware
    from mlflow.pyfunc import scoring_server

    app = scoring_server.init(model)
    turn, waiting = asyncio.Lock(), 0

    async def guard(request: Request, call_next: Any) -> Response:
        nonlocal waiting
        if request.method != "POST":
            return await answered(request, call_next)
        if refused := refusal(request):
            return failure(*refused)
        if waiting >= MOST_WAITING:
            return failure(429, f"more than {MOST_WAITING} requests at once: ask again in a moment")
        waiting += 1
        try:
            if refused := await absence(request):
                return failure(*refused)
            async with turn:
                if excess := await run_in_threadpool(excess_of, await request.body()):
                    return failure(413, excess)
                return await answered(request, call_next)
        finally:
            waiting -= 1

    app.middleware("http")(guard)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=HOSTS, www_redirect=False)
    return app


async def answered(request: Any, call_next: Any) -> Any:
    """What MLflow answers, with its errors in one line."""
    from fastapi import Response

    try:
        answer = await call_next(request)
    except Exception as error:  # what MLflow's parsers raise: those of the model, it reports itself
        return failure(400, f"the request can't be read: {type(error).__name__}: {error}")
    body = b"".join([part async for part in answer.body_iterator])
    if answer.status_code >= 400:
        return failure(answer.status_code, message_of(body))
    errors = errors_of(body) if request.method == "POST" else []
    if errors:
        return failure(400, errors[0] if len(errors) == 1 else f"no image can be read; the first: {errors[0]}")
    return Response(body, answer.status_code, media_type=answer.media_type or answer.headers.get("content-type"))


def refusal(request: Any) -> tuple[int, str] | None:
    """Status and reason where a request is not to be read, else None."""
    length = request.headers.get("content-length", "")
    if not length.isdecimal() or "transfer-encoding" in request.headers:  # which is sent in parts, whatever its length
        return 411, "expected the header Content-Length, and no Transfer-Encoding"
    if int(length) > LIMIT:
        return 413, f"{int(length):,} bytes; expected at most {LIMIT:,}: send fewer images in a request"
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != FORM:
        return 415, f"Content-Type is {kind!r}; expected {FORM}"
    return None


async def absence(request: Any) -> tuple[int, str] | None:
    """Status and reason where a request does not arrive, else None."""
    try:
        async with asyncio.timeout(SLOWEST):
            await request.body()  # which it keeps
    except TimeoutError:
        return 408, f"the request did not arrive within {SLOWEST} seconds"
    except Exception:  # Starlette's, where the client is gone
        return 400, "the request did not arrive whole"
    return None


def excess_of(body: bytes) -> str | None:
    """Which limit a request exceeds, in words; None if it exceeds none."""
    values = body.count(b",") + 1  # before it is parsed, to many times its size; base64 has no commas
    if values > MOST_VALUES:
        return f"{values:,} values; expected at most {MOST_VALUES:,} in a request: send images in base64"
    if (keys := body.count(b":")) > MOST_KEYS:  # base64 has no colons either
        return f"{keys:,} keys; expected at most {MOST_KEYS:,} in a request: send a list of images"
    images = images_in(body)
    if images > MOST_IMAGES:
        return f"{images:,} images; expected at most {MOST_IMAGES:,} in a request"
    return None


def images_in(body: bytes) -> int:
    """How many images a request holds in any of MLflow's forms, as lists or as columns; 0 where it is none."""
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):
        return 0  # MLflow says what is wrong with it
    parts = [*request.values()] if isinstance(request, dict) else []
    columns = [column for part in parts if isinstance(part, dict) for column in part.values()]
    return max((len(each) for each in [*parts, *columns] if isinstance(each, list | dict)), default=0)


def failure(status: int, message: str) -> Any:
    from fastapi.responses import JSONResponse

    line = " ".join(message.split())
    line = line if len(line) <= LONGEST else f"{line[:LONGEST]}…"
    say(f"{status}: {line}")
    return JSONResponse({"error": line}, status)


def message_of(body: bytes) -> str:
    """What an answer of MLflow says is wrong, without its traceback."""
    try:
        found = json.loads(body)
        return str(found.get("message") or found.get("detail"))
    except (ValueError, AttributeError):
        return body.decode(errors="replace")


def errors_of(body: bytes) -> list[str]:
    """Why the images can't be read, where none of them can."""
    answers = json.loads(body).get("predictions")
    if not isinstance(answers, list) or not all(isinstance(each, dict) and "error" in each for each in answers):
        return []
    return [each["error"] for each in answers]
