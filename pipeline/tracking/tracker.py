"""The few things that the pipeline says to an MLflow server or database."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipeline.system.credentials import hide, hide_in
from pipeline.tracking import database
from pipeline.tracking.commit import git_state
from pipeline.tracking.server import is_server, knock, root, tracking_uri

COUNTS = ("parameters", "trainable_parameters")
DECISIVE = COUNTS[0]  # the param that says whether a run is the run of its result: the true value, or
DUPLICATE = "duplicate"
LOCAL_PAGE = "http://127.0.0.1:5000"  # of `make ui`
FOLDER = "train.folder"  # the tag of a live run


@contextmanager
def connected() -> Iterator[Tracker]:
    """A Tracker on the tracking URI. Raises OSError at once where no server answers."""
    # a server that accepts connections and never answers costs less than a minute
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    uri = tracking_uri()
    if is_server(uri):
        knock(uri)

    from filelock import FileLock

    file = database.file_of(uri)
    if file is not None:
        database.check_folder(file)
    # one at a time: processes of a `dvc queue` that make the same tables, experiment or run stand in each other's way
    with FileLock(f"{file or root() / 'mlflow.db'}.lock"):
        if file is not None and file.exists():
            database.check_writable(uri)

        from mlflow import MlflowClient

        logging.getLogger("alembic").setLevel(logging.WARNING)
        # a database's error is told in one line by whoever asked for the connection; MLflow's traceback adds nothing
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING if file is None else logging.CRITICAL)
        if file is not None and not file.exists():
            database.create(file)
        client = MlflowClient(uri)
        if file is not None:
            database.bring_artifacts_along(uri, file)
        yield Tracker(client, uri)


def pages_of(tracker: Tracker, datasets: list[str]) -> Iterator[str]:
    """Where MLflow's page shows the runs of each data set. It opens on one for generative AI, which shows none."""
    uri = tracking_uri()
    base = hide_in(uri.rstrip("/")) if is_server(uri) else LOCAL_PAGE
    for dataset in datasets:
        found = tracker.client.get_experiment_by_name(dataset)
        if found is not None:
            yield f"{dataset}: {base}/#/experiments/{found.experiment_id}/runs?workflowType=machine_learning"


class Deleted(Exception):
    """What a user deleted in MLflow stays deleted: says what it was, and how to have it again."""


class Tracker:
    def __init__(self, client: Any, uri: str) -> None:
        self.client = client
        # a database keeps no files: artifacts go beside it; a server knows where its own go
        file = database.file_of(uri)
        home = root().resolve() if file is None else file.parent
        self.artifacts = (home / database.FOLDER).as_uri() if "sql" in urlsplit(uri).scheme else None

    def experiment(self, dataset: str) -> str:
        """The id of the MLflow experiment of a data set, made when it is missing. Raises Deleted."""
        from mlflow import MlflowException

        found = self.client.get_experiment_by_name(dataset)
        if found is None:
            location = self.artifacts and f"{self.artifacts}/{dataset}"
            try:
                return self.client.create_experiment(dataset, artifact_location=location)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                return self.experiment(dataset)  # another process has just made it
        if found.lifecycle_stage == "deleted":
            raise Deleted(
                f"the MLflow experiment {dataset} was deleted in {hide_in(tracking_uri())}; "
                f"`mlflow experiments restore --experiment-id {found.experiment_id}` brings it back"
            )
        return found.experiment_id

    def search(self, experiment: str, tag: str, value: str) -> list[Any]:
        """Runs with this tag, deleted ones too, but for duplicates in the trash."""
        from mlflow.entities import ViewType

        found = self.client.search_runs([experiment], f"tags.{tag} = '{value}'", run_view_type=ViewType.ALL)
        return [run for run in found if is_active(run) or run.data.params.get(DECISIVE) != DUPLICATE]

    def claim(self, dataset: str, name: str, result: str, fingerprint: str | None, decision: str) -> Any:
        """The one run of a result, made when it is missing. Raises Deleted.

        Any number of processes, on any machines, may claim a result at once and die at any point: those that come back
        get the same run, the one whose DECISIVE param is `decision`. A run is chosen only after DUPLICATE was written
        to every other run of the result. Of two runs, whoever chooses the later one sees the earlier one too; the
        server keeps the first value of a param for good, so that not both can be chosen.
        """
        experiment = self.experiment(dataset)
        while True:
            runs = self.search(experiment, "result", result)
            active = sorted(filter(is_active, runs), key=lambda run: run.info.run_id)
            undecided = [run for run in active if DECISIVE not in run.data.params]
            chosen = [run for run in active if run.data.params.get(DECISIVE, DUPLICATE) != DUPLICATE]
            live = self.live_runs(experiment, fingerprint)
            deleted = [run for run in runs if not is_active(run)]
            if chosen or deleted:
                for run in filter(is_active, [*active, *live]):
                    if run not in chosen and self.decide(run, DUPLICATE):
                        self.client.delete_run(run.info.run_id)
                if not chosen:
                    refuse_deleted(deleted)
                return min(chosen, key=lambda run: run.info.status != "FINISHED")
            if undecided:
                if all(self.decide(run, DUPLICATE) for run in undecided[1:]):
                    self.decide(undecided[0], decision)
                continue  # and see what the server has
            refuse_deleted(live)
            tags = {"result": result, "dvc.stage": f"evaluate@{name}"}
            for run in filter(is_active, live):
                self.tag(run.info.run_id, **tags)
                break
            else:
                self.create(experiment, name, fingerprint=fingerprint, **tags)

    def decide(self, run: Any, value: str) -> bool:
        """Whether the run has this decision, now or from before: MLflow refuses to change a param."""
        from mlflow import MlflowException

        try:
            self.client.log_param(run.info.run_id, DECISIVE, value)
        except MlflowException as error:
            if error.error_code not in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST"):
                raise
            return False  # the other decision, or deleted
        return True

    def live_runs(self, experiment: str, fingerprint: str | None) -> list[Any]:
        """Runs of this training in this folder that have no result, those that a user deleted too."""
        if fingerprint is None:
            return []
        found = self.search(experiment, "fingerprint", fingerprint)
        return [run for run in found if "result" not in run.data.tags and run.data.tags.get(FOLDER) == folder()]

    def live(self, dataset: str, name: str, fingerprint: str) -> str | None:
        """The run to show this training in, made when it is missing; None where its result is there. Raises Deleted."""
        experiment = self.experiment(dataset)
        results = [run for run in self.search(experiment, "fingerprint", fingerprint) if "result" in run.data.tags]
        if any(map(is_active, results)):
            return None
        live = self.live_runs(experiment, fingerprint)
        refuse_deleted([*results, *live])
        for run in filter(is_active, live):
            return run.info.run_id
        tags = {"fingerprint": fingerprint, FOLDER: folder(), "dvc.stage": f"train@{name}"}
        return self.create(experiment, name, **tags)

    @contextmanager
    def unless_deleted(self, run_id: str) -> Iterator[None]:
        """End quietly where the run turns out to be a duplicate by now. Raises Deleted where a user deleted it."""
        from mlflow import MlflowException

        try:
            yield
        except MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE" or is_active(run := self.client.get_run(run_id)):
                raise
            if run.data.params.get(DECISIVE) != DUPLICATE:
                refuse_deleted([run])

    def create(self, experiment: str, name: str, **more: str | None) -> str:
        commit, dirty = git_state()
        tags = {
            "mlflow.source.type": "PROJECT",
            "mlflow.source.name": "dvc.yaml",
            "git.dirty": dirty,
            "mlflow.source.git.commit": commit,
            "dvc.exp_name": os.environ.get("DVC_EXP_NAME"),
            **more,
        }
        known = {key: value for key, value in tags.items() if value}
        return self.client.create_run(experiment, run_name=name, tags=known).info.run_id

    def tag(self, run_id: str, **tags: str) -> None:
        from mlflow.entities import RunTag

        self.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def log_params(self, run_id: str, values: dict[str, Any]) -> None:
        from mlflow.entities import Param

        known = self.client.get_run(run_id).data.params
        new = [Param(key, text(value)) for key, value in flat(values) if key not in known]
        self.client.log_batch(run_id, params=new)

    def log_history(self, run_id: str, history: list[dict[str, float]], time: int) -> None:
        """Log the rows of epochs that the run does not have yet; `time` in milliseconds since 1970."""
        points = [
            (key, value, int(row["epoch"]))
            for row in history
            for key, value in row.items()
            if key != "epoch" and value is not None
        ]
        self.log_metrics(run_id, points, time)

    def log_results(self, run_id: str, metrics: dict[str, Any], epochs: int, time: int) -> None:
        """Log the counts as params and what the trained model reaches as metrics: val_accuracy, test_accuracy, ….

        `metrics` is the content of metrics.json. The history has a val_accuracy of each epoch already. The trained
        model's stands behind the last one, so that MLflow shows it as the run's, also where an earlier epoch was kept.
        """
        self.log_params(run_id, {key: metrics[key] for key in COUNTS})
        for split, step, moment in (("val", epochs, time + 1), ("test", 0, time)):
            points = [(f"{split}_{key}", value, step) for key, value in metrics.get(split, {}).items()]
            self.log_metrics(run_id, points, moment)

    def log_metrics(self, run_id: str, points: list[tuple[str, float, int]], time: int) -> None:
        """Log the points that the run lacks. Two processes that log the same ones with the same time double none."""
        from mlflow.entities import Metric

        keys = dict.fromkeys(key for key, _, _ in points)
        known = {
            (key, point.value, point.step) for key in keys for point in self.client.get_metric_history(run_id, key)
        }
        new = [Metric(key, value, time, step) for key, value, step in points if (key, value, step) not in known]
        for start in range(0, len(new), 1000):  # MLflow's limit for one request
            self.client.log_batch(run_id, metrics=new[start : start + 1000])

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


def is_active(run: Any) -> bool:
    return run.info.lifecycle_stage == "active"


def refuse_deleted(runs: list[Any]) -> None:
    """Raise Deleted where there are runs, all of which a user deleted."""
    if runs and not any(map(is_active, runs)):
        run_id = runs[0].info.run_id
        raise Deleted(
            f"its run was deleted in {hide_in(tracking_uri())}; `mlflow runs restore --run-id {run_id}` brings it back"
        )


def folder() -> str:
    """Where a training goes on: the same one elsewhere is another live run, until one of them has the result."""
    return f"{socket.gethostname()}:{root().resolve()}"


def flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested keys joined by dots."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def text(value: Any) -> str:
    return hide(value if isinstance(value, str) else json.dumps(value))
