"""What the pipeline logs to MLflow: one run for each result, on a server or in a database."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pipeline.system.credentials import hide, hide_in
from pipeline.system.project import root
from pipeline.tracking import database
from pipeline.tracking.commit import git_state
from pipeline.tracking.results import flat
from pipeline.tracking.server import is_server, knock, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

COUNTS = ("parameters", "trainable_parameters")
DECISIVE = COUNTS[0]  # a run with this param is the run of its result, unless the value is DUPLICATE
DUPLICATE = "duplicate"
LOCAL_PAGE = "http://127.0.0.1:5000"  # of `make ui`
FOLDER = "train.folder"  # tag of a live run: the machine and folder that it trains in


@contextmanager
def connected() -> Iterator[Tracker]:
    """A Tracker on the tracking URI. Raises OSError at once where no server answers."""
    # so that a server which accepts connections and never answers costs less than a minute
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
    # one process at a time: those of a `dvc queue` would create the same tables, experiment or run at once
    with FileLock(f"{file or root() / 'mlflow.db'}.lock"):
        if file is not None and file.exists():
            database.check_writable(uri)

        from mlflow import MlflowClient

        logging.getLogger("alembic").setLevel(logging.WARNING)
        # the caller reports an error of a database in one line: no traceback of MLflow before it
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING if file is None else logging.CRITICAL)
        if file is not None and not file.exists():
            database.create(file)
        client = MlflowClient(uri)
        if file is not None:
            database.bring_artifacts_along(uri, file)
        yield Tracker(client, uri)


def pages_of(tracker: Tracker, datasets: list[str]) -> Iterator[str]:
    """Yield, for each data set, the address of MLflow's page of its runs. By itself MLflow opens another page."""
    uri = tracking_uri()
    base = hide_in(uri.rstrip("/")) if is_server(uri) else LOCAL_PAGE
    for dataset in datasets:
        found = tracker.client.get_experiment_by_name(dataset)
        if found is not None:
            yield f"{dataset}: {base}/#/experiments/{found.experiment_id}/runs?workflowType=machine_learning"


class Deleted(Exception):
    """A person has deleted this in MLflow, so it stays deleted. The message says what, and how to restore it."""


class Tracker:
    """Logs to one MLflow server or database, inside `connected`."""

    def __init__(self, client: MlflowClient, uri: str) -> None:
        self.client = client
        # a database stores no files, so artifacts go to a folder beside it; a server has a place of its own
        file = database.file_of(uri)
        home = root().resolve() if file is None else file.parent
        self.artifacts = (home / database.FOLDER).as_uri() if "sql" in urlsplit(uri).scheme else None

    def experiment(self, dataset: str) -> str:
        """The id of a data set's MLflow experiment, which is created if it is missing. Raises Deleted."""
        from mlflow import MlflowException

        found = self.client.get_experiment_by_name(dataset)
        if found is None:
            location = self.artifacts and f"{self.artifacts}/{dataset}"
            try:
                return self.client.create_experiment(dataset, artifact_location=location)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                return self.experiment(dataset)  # another process has just created it
        if found.lifecycle_stage == "deleted":
            raise Deleted(
                f"the MLflow experiment {dataset} was deleted in {hide_in(tracking_uri())}; "
                f"`mlflow experiments restore --experiment-id {found.experiment_id}` brings it back"
            )
        return found.experiment_id

    def search(self, experiment: str, tag: str, value: str) -> list[Run]:
        """Runs with this tag, also those that a person has deleted. Duplicates, which `claim` deletes, are left out."""
        from mlflow.entities import ViewType

        found = self.client.search_runs([experiment], f"tags.{tag} = '{value}'", run_view_type=ViewType.ALL)
        return [run for run in found if is_active(run) or run.data.params.get(DECISIVE) != DUPLICATE]

    def claim(self, dataset: str, name: str, result: str, fingerprint: str | None, decision: str) -> Run:
        """The one run of a result, which is created if it is missing. Raises Deleted.

        Any number of processes, on any machines, may call this for a result at the same time, and any of them may be
        killed at any point. All that return give the same run, the one whose DECISIVE param is `decision`. This works
        because MLflow never changes a param, and because a process chooses a run only after it has written DUPLICATE
        to all other runs of the result: of two runs, a process that chooses the later one sees the earlier one too.
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
                continue  # other processes may have decided otherwise: look again
            refuse_deleted(live)
            tags = {"result": result, "dvc.stage": f"evaluate@{name}"}
            for run in filter(is_active, live):
                self.tag(run.info.run_id, **tags)
                break
            else:
                self.create(experiment, name, fingerprint=fingerprint, **tags)

    def decide(self, run: Run, value: str) -> bool:
        """Write the DECISIVE param, which MLflow refuses to change. Returns whether the run has this value now."""
        from mlflow import MlflowException

        try:
            self.client.log_param(run.info.run_id, DECISIVE, value)
        except MlflowException as error:
            if error.error_code not in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST"):
                raise
            return False  # it has another value, or was deleted
        return True

    def live_runs(self, experiment: str, fingerprint: str | None) -> list[Run]:
        """Runs of this training in this folder that have no result yet, also those that a person has deleted."""
        if fingerprint is None:
            return []
        found = self.search(experiment, "fingerprint", fingerprint)
        return [run for run in found if "result" not in run.data.tags and run.data.tags.get(FOLDER) == folder()]

    def live(self, dataset: str, name: str, fingerprint: str) -> str | None:
        """The run that shows this training while it goes on, created if it is missing. Raises Deleted.

        None if the result of the same training is already there.
        """
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
        """Ignore that the run was deleted in the meantime as a duplicate. Raises Deleted if a person has deleted it."""
        from mlflow import MlflowException

        try:
            yield
        except MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE" or is_active(run := self.client.get_run(run_id)):
                raise
            if run.data.params.get(DECISIVE) != DUPLICATE:
                refuse_deleted([run])

    def create(self, experiment: str, name: str, **more: str | None) -> str:
        """Create a run with tags for commit, DVC experiment and `more`, without those that are None; return its id."""
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
        """Log the params that the run does not have yet. Nested keys are joined by dots."""
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

        `metrics` is the content of metrics.json. The history already has val_accuracy and val_loss of each epoch. Those
        of the trained model are logged after the last epoch's, because MLflow shows the last value as that of the run.
        They may differ, as the weights of an earlier epoch may be kept. `time` is in milliseconds since 1970.
        """
        self.log_params(run_id, {key: metrics[key] for key in COUNTS})
        for split, step, moment in (("val", epochs, time + 1), ("test", 0, time)):
            points = [(f"{split}_{key}", value, step) for key, value in metrics.get(split, {}).items()]
            self.log_metrics(run_id, points, moment)

    def log_metrics(self, run_id: str, points: list[tuple[str, float, int]], time: int) -> None:
        """Log points (key, value, step) that the run does not have yet.

        If two processes log the same point with the same time, MLflow keeps it once.
        """
        from mlflow.entities import Metric

        keys = dict.fromkeys(key for key, _, _ in points)
        known = {
            (key, point.value, point.step) for key in keys for point in self.client.get_metric_history(run_id, key)
        }
        new = [Metric(key, value, time, step) for key, value, step in points if (key, value, step) not in known]
        for start in range(0, len(new), 1000):  # MLflow's limit for one request
            self.client.log_batch(run_id, metrics=new[start : start + 1000])

    def log_dataset(self, run_id: str, name: str, digest: str) -> None:
        """Log which packed data set the run was trained on, by DVC's hash of it."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        source = json.dumps({"uri": f"data/packed/{name}"})
        dataset = Dataset(name=name, digest=digest, source_type="dvc", source=source)
        self.client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])

    def log_files(self, run_id: str, files: list[Path]) -> None:
        for file in files:
            self.client.log_artifact(run_id, str(file))

    def complete(self, run_id: str) -> None:
        self.client.set_terminated(run_id, "FINISHED")


def is_active(run: Run) -> bool:
    return run.info.lifecycle_stage == "active"


def refuse_deleted(runs: list[Run]) -> None:
    """Raise Deleted if there are runs, and a person has deleted all of them."""
    if runs and not any(map(is_active, runs)):
        run_id = runs[0].info.run_id
        raise Deleted(
            f"its run was deleted in {hide_in(tracking_uri())}; `mlflow runs restore --run-id {run_id}` brings it back"
        )


def folder() -> str:
    """Machine and folder. The same training in two of them has two live runs, until one of them has the result."""
    return f"{socket.gethostname()}:{root().resolve()}"


def text(value: object) -> str:
    """A value as a param in MLflow: text as it is, anything else as JSON, without credentials."""
    return hide(value if isinstance(value, str) else json.dumps(value))
