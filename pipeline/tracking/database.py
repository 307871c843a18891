"""An MLflow database in SQLite: check that it can be written, and keep its paths right when the project moves."""

from __future__ import annotations

import os
import re
import sqlite3
import threading
from concurrent.futures import Future, wait
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipeline.system.outputs import together

FOLDER = "mlartifacts"  # beside the database
USUAL_FOLDER = "mlruns"  # where MLflow puts what others log
PATIENCE = 10  # seconds to wait for another process's lock; its own writes take milliseconds
ANSWER = 15  # seconds to wait for a server of databases
# Table, column with the path of a folder or file, and condition under which MLflow writes new files there
LOCATIONS = (
    ("experiments", "artifact_location", "true"),
    ("runs", "artifact_uri", "status <> 'FINISHED'"),
    ("logged_models", "artifact_location", "false"),
    ("model_versions", "source", "false"),
    ("model_versions", "storage_location", "false"),
)
# Artifact folders of the pipeline's own runs; of its experiments without runs, that of a run that does not exist
OURS = """
select artifact_uri from runs where run_uuid in (select run_uuid from tags where key = 'dvc.stage')
union select artifact_location || '/-/artifacts' from experiments
where artifact_location like '%/mlartifacts/' || name and experiment_id not in (select experiment_id from runs)
"""


class DatabaseError(Exception):
    """The database can't be used as it is. The message says what is wrong and what to do, in one line."""


def file_of(uri: str) -> Path | None:
    """The file of an SQLite database; None for servers, other databases and databases in memory."""
    if not urlsplit(uri).scheme.startswith("sqlite"):
        return None
    name = uri.partition(":///")[2].partition("?")[0].removeprefix("file:")
    if name in ("", ":memory:"):
        return None
    file = Path(name)
    return file.parent.resolve() / file.name


def connect(uri: str) -> sqlite3.Connection:
    """Connect to a file, with the options that the URI gives, as in sqlite:///file:mlflow.db?mode=ro&uri=true."""
    name = uri.partition(":///")[2]
    if not name.startswith("file:"):
        name = name.partition("?")[0]
    return sqlite3.connect(name, timeout=PATIENCE, isolation_level=None, uri=name.startswith("file:"))


def create(file: Path) -> None:
    """Make a database with MLflow's tables. Where making them was cut off half-way, MLflow itself never goes on."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with together(file.parent) as partial:  # a folder, because SQLite keeps a journal beside the file
        SqlAlchemyStore(f"sqlite:///{partial / file.name}", USUAL_FOLDER).engine.dispose()


def check_folder(file: Path) -> None:
    """Raise DatabaseError if the folder is read-only: SQLite and the lock need files beside the database."""
    if file.parent.is_dir() and not os.access(file.parent, os.W_OK):
        raise DatabaseError(COMPLAINTS["SQLITE_READONLY"])


def check_writable(uri: str) -> None:
    """Raise DatabaseError unless a transaction can write. MLflow itself would try for minutes and print tracebacks."""
    try:
        with closing(connect(uri)) as connection:
            connection.execute("begin immediate")
            (version,) = connection.execute("pragma user_version").fetchone()
            connection.execute(f"pragma user_version = {version}")
            connection.execute("rollback")
    except sqlite3.Error as error:
        raise complaint(error) from error


def check_answers(uri: str) -> None:
    """Raise an error of SQLAlchemy unless the database lets us in, and DatabaseError if it is silent.

    MLflow itself would try for two minutes, and wait for ever.
    """
    from mlflow.store.db.utils import create_sqlalchemy_engine

    engine = create_sqlalchemy_engine(uri)
    answer: Future[None] = Future()

    def ask() -> None:
        try:
            engine.connect().close()
            answer.set_result(None)
        except Exception as error:  # of any driver
            answer.set_exception(error)
        finally:
            engine.dispose()

    threading.Thread(target=ask, daemon=True).start()  # drivers name their limits differently, and some have none
    if not wait([answer], ANSWER).done:
        raise DatabaseError(f"the database has not answered for {ANSWER} s")
    answer.result()


def complaint(error: Exception) -> Exception:
    """A DatabaseError if the database is the reason for an error of MLflow, otherwise the error itself."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, sqlite3.Error):
        cause = cause.__cause__
    if cause is not None:
        code = getattr(cause, "sqlite_errorname", "")
        for start, words in COMPLAINTS.items():
            if code.startswith(start):
                return DatabaseError(words)
        return DatabaseError(str(cause))
    if (said := getattr(error, "orig", None)) is not None and said.args:  # SQLAlchemy's error about a driver's error
        told = said.args[0]
        return DatabaseError(str(told.get("M", told) if isinstance(told, dict) else told))  # PostgreSQL's fields
    if schema := re.search(r"database schema \(found version (\w+), but expected (\w+)\)", str(error)):
        return DatabaseError(
            f"its tables are of another version of MLflow ({schema[1]}, not {schema[2]}): "
            "back it up and run `mlflow db upgrade` on it, or use the MLflow that made it"
        )
    return error


COMPLAINTS = {
    "SQLITE_READONLY": "the database is read-only: make the file and its folder writable",
    "SQLITE_CANTOPEN": "the database can't be opened: make the file and its folder readable and writable",
    "SQLITE_BUSY": f"another process has locked the database for more than {PATIENCE} s: end what holds it",
    "SQLITE_NOTADB": "the file is no SQLite database: move it away, or set MLFLOW_TRACKING_URI to another",
    "SQLITE_CORRUPT": "the database is damaged: move it away, and a new one gets all results that are here",
    "SQLITE_FULL": "no space is left for the database: free some",
}


def bring_artifacts_along(uri: str, file: Path) -> None:
    """Update the paths in a database that was moved or copied together with its project.

    MLflow stores absolute paths. Those in the old folder are changed to the folder that the database is in now, so that
    new files go there. A finished run keeps its path if its files have not been moved too.
    """
    home = file.parent
    with closing(connect(uri)) as connection:
        old_homes = {old for (location,) in connection.execute(OURS) if (old := home_of(location)) is not None}
        if old_homes <= {home}:
            return
        connection.execute("begin immediate")
        for old in old_homes - {home}:
            for table, column, grows in LOCATIONS:
                rows = connection.execute(f"select rowid, {column}, {grows} from {table}").fetchall()
                for row, location, in_use in rows:
                    new = moved(location, old, home)
                    if new and (in_use or path_of(new).exists()):
                        connection.execute(f"update {table} set {column} = ? where rowid = ?", (new, row))
        connection.execute("commit")


def home_of(artifacts: str | None) -> Path | None:
    """The folder of the database, from a run's artifacts: HOME/mlartifacts/<data set>/<run>/artifacts; else None."""
    match = re.fullmatch(rf"(file://.*)/{FOLDER}/[^/]+/[^/]+/artifacts", artifacts or "")
    return path_of(match[1]) if match else None


def moved(location: str | None, old: Path, new: Path) -> str | None:
    """A location below FOLDER or USUAL_FOLDER in `old`, with `new` instead of `old`; None for any other location."""
    for name in (FOLDER, USUAL_FOLDER):
        before, after = old / name, new / name
        for prefix, replacement in ((before.as_uri(), after.as_uri()), (str(before), str(after))):
            if location is not None and location.startswith(f"{prefix}/"):
                return replacement + location.removeprefix(prefix)
    return None


def path_of(location: str) -> Path:
    """A location, which may be a file URL, as a path."""
    return Path(unquote(urlsplit(location).path) or "/" if location.startswith("file:") else location)
