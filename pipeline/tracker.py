"""The few things that the pipeline says to an MLflow server or database."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipeline.credentials import hide

UNSEEN_CHANGES = ("dvc.lock", "reports")  # what every run of the pipeline changes by itself


def tracking_uri() -> str:
    """`MLFLOW_TRACKING_URI`, else `mlflow.db` at the project's root; in a temporary copy of it, the original's."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root()}/mlflow.db"


def root() -> Path:
    return Path(os.environ.get("DVC_ROOT") or Path.cwd())


@contextmanager
def connected() -> Iterator[Tracker]:
    """A Tracker on the tracking URI. Raises OSError at once where no server answers."""
    # a server that accepts connections and never answers costs less than a minute
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    uri = tracking_uri()
    address = urlsplit(uri)
    if address.scheme in ("http", "https"):
        port = address.port or {"http": 80, "https": 443}[address.scheme]
        socket.create_connection((address.hostname or "", port), timeout=5).close()

    from filelock import FileLock
    from mlflow import MlflowClient

    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    # one at a time: processes of a `dvc queue` that make the same tables, experiment or run stand in each other's way
    database = uri.partition("?")[0].removeprefix("sqlite:///") if address.scheme == "sqlite" else root() / "mlflow.db"
    with FileLock(f"{database}.lock"):
        yield Tracker(MlflowClient(uri), uri)


class Tracker:
    def __init__(self, client: Any, uri: str) -> None:
        self.client = client
        # a database keeps no files: artifacts go beside it; a server knows where its own go
        self.artifacts = (root() / "mlartifacts").resolve().as_uri() if "sql" in urlsplit(uri).scheme else None

    def experiment(self, dataset: str) -> str:
        """The id of the MLflow experiment of a data set, made when it is missing."""
        found = self.client.get_experiment_by_name(dataset)
        if found is None:
            location = self.artifacts and f"{self.artifacts}/{dataset}"
            return self.client.create_experiment(dataset, artifact_location=location)
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        return found.experiment_id

    def find(self, dataset: str, result: str | None = None, fingerprint: str | None = None) -> str | None:
        """The run of this result; else one of this training run that no other result has taken."""
        ids = [self.experiment(dataset)]
        if result is not None:
            for found in self.client.search_runs(ids, f"tags.result = '{result}'", max_results=1):
                return found.info.run_id
        if fingerprint is not None:
            for found in self.client.search_runs(ids, f"tags.fingerprint = '{fingerprint}'"):
                if result is None or found.data.tags.get("result") in (None, result):
                    return found.info.run_id
        return None

    def is_complete(self, run_id: str) -> bool:
        return self.client.get_run(run_id).info.status == "FINISHED"

    def create(self, dataset: str, name: str) -> str:
        commit, dirty = git_state()
        tags = {
            "mlflow.source.type": "PROJECT",
            "mlflow.source.name": "dvc.yaml",
            "git.dirty": dirty,
            "mlflow.source.git.commit": commit,
            "dvc.exp_name": os.environ.get("DVC_EXP_NAME"),
        }
        known = {key: value for key, value in tags.items() if value}
        return self.client.create_run(self.experiment(dataset), run_name=name, tags=known).info.run_id

    def tag(self, run_id: str, **tags: str | None) -> None:
        for key, value in tags.items():
            if value is not None:
                self.client.set_tag(run_id, key, value)

    def log_params(self, run_id: str, values: dict[str, Any]) -> None:
        from mlflow.entities import Param

        known = self.client.get_run(run_id).data.params
        new = [Param(key, text(value)) for key, value in flat(values) if key not in known]
        self.client.log_batch(run_id, params=new)

    def log_history(self, run_id: str, history: list[dict[str, float]]) -> None:
        """Log the rows of epochs that the run does not have yet."""
        points = self.client.get_metric_history(run_id, "train_loss")
        last = max((point.step for point in points), default=0)
        self.log_metrics(
            run_id,
            [
                (key, value, int(row["epoch"]))
                for row in history
                if row["epoch"] > last
                for key, value in row.items()
                if key != "epoch" and value is not None
            ],
        )

    def log_test_metrics(self, run_id: str, metrics: dict[str, float]) -> None:
        counts = ("parameters", "trainable_parameters")
        self.log_params(run_id, {key: metrics[key] for key in counts})
        known = self.client.get_run(run_id).data.metrics
        points = [(f"test_{key}", value, 0) for key, value in metrics.items() if key not in counts]
        self.log_metrics(run_id, [point for point in points if point[0] not in known])

    def log_metrics(self, run_id: str, points: list[tuple[str, float, int]]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        for start in range(0, len(points), 1000):  # MLflow's limit for one request
            batch = [Metric(key, value, now, step) for key, value, step in points[start : start + 1000]]
            self.client.log_batch(run_id, metrics=batch)

    def log_dataset(self, run_id: str, name: str, digest: str) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        source = json.dumps({"uri": f"data/packed/{name}"})
        dataset = Dataset(name=name, digest=digest, source_type="dvc", source=source)
        self.client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])

    def log_files(self, run_id: str, files: list[Path]) -> None:
        for file in files:
            self.client.log_artifact(run_id, str(file))

    def complete(self, run_id: str) -> None:
        self.client.set_terminated(run_id, "FINISHED")


def flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested keys joined by dots."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def text(value: Any) -> str:
    return hide(value if isinstance(value, str) else json.dumps(value))


def git_state() -> tuple[str | None, str | None]:
    """The commit, and whether files other than the pipeline's own results differ from it; None outside git."""
    try:
        commit = git("rev-parse", "HEAD")
        changes = git("status", "--porcelain", "--", ".", *(f":(exclude){path}" for path in UNSEEN_CHANGES))
    except (OSError, subprocess.CalledProcessError):
        return None, None
    return commit, "true" if changes else "false"


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout.strip()
