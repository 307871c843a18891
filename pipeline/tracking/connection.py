"""Connect to the MLflow server or database that results are tracked in."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pipeline.system.project import root
from pipeline.tracking import database
from pipeline.tracking.server import is_server, knock, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient


@contextmanager
def connected() -> Iterator[MlflowClient]:
    """A client of the tracking URI. Raises OSError at once where no server answers."""
    # so that a server which accepts connections and never answers costs less than a minute
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # of pages for generative AI
    uri = tracking_uri()
    file = database.file_of(uri)
    if is_server(uri):
        knock(uri)
    elif file is not None:
        database.check_folder(file)
    elif "sql" in urlsplit(uri).scheme:
        database.check_answers(uri)

    from filelock import FileLock

    # one process at a time: those of a `dvc queue` would create the same tables, experiment or run at once
    with FileLock(f"{file or root() / 'mlflow.db'}.lock"):
        if file is not None and file.exists():
            database.check_writable(uri)

        from mlflow import MlflowClient

        logging.getLogger("alembic").setLevel(logging.WARNING)
        # the caller reports an error of a database in one line: no traceback of MLflow before it
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
        if file is not None and not file.exists():
            database.create(file)
        client = MlflowClient(uri)
        if file is not None:
            database.bring_artifacts_along(uri, file)
        yield client


def artifact_folder() -> str | None:
    """The address of a folder beside a database, which stores no files. None: a server has a place of its own."""
    uri = tracking_uri()
    if "sql" not in urlsplit(uri).scheme:
        return None
    file = database.file_of(uri)
    home: Path = root().resolve() if file is None else file.parent
    return (home / database.FOLDER).as_uri()
