"""Why MLflow refused or failed, in one line: what its server or database says, and what to do where that is known."""

from __future__ import annotations

from pipeline.system.console import one_line
from pipeline.system.credentials import redacted
from pipeline.tracking import database, server
from pipeline.tracking.server import tracking_uri


def reason(raised: Exception) -> str:
    """What to tell of an error that a server, a network or a database has raised, without credentials."""
    error = database.complaint(server.complaint(raised))
    return one_line(redacted(error, tracking_uri())) or type(error).__name__
