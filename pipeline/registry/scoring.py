"""MLflow's scoring server with answers that a client can use: a status, one line, no traceback, a limit of size."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pipeline.system.console import say

if TYPE_CHECKING:
    from fastapi import FastAPI
    from mlflow.pyfunc import PyFuncModel

LIMIT = 32 * 1024**2  # bytes of a request
LONGEST = 300  # characters of a message: MLflow quotes what was sent
FORMS = ("application/json", "application/vnd.apache.parquet")


def guarded(model: PyFuncModel) -> FastAPI:
    """The server of a model, to be run by uvicorn."""
    from fastapi import Request, Response
    from mlflow.pyfunc import scoring_server

    app = scoring_server.init(model)

    async def guard(request: Request, call_next: Any) -> Response:
        refused = refusal(request) if request.method == "POST" else None
        if refused:
            return failure(*refused)
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

    app.middleware("http")(guard)
    return app


def refusal(request: Any) -> tuple[int, str] | None:
    """Status and reason where a request is not to be read, else None."""
    length = request.headers.get("content-length", "")
    if not length.isdecimal():
        return 411, "expected the header Content-Length"
    if int(length) > LIMIT:
        return 413, f"{int(length):,} bytes; expected at most {LIMIT:,}: send fewer images in a request"
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in FORMS:
        return 415, f"Content-Type is {kind!r}; expected {', '.join(FORMS)}"
    return None


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
