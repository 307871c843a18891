"""Which run is that of a result or of a training: one run for each result, on a server or in a database."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pipeline.system.credentials import hide_in
from pipeline.system.project import root
from pipeline.tracking import view
from pipeline.tracking.connection import artifact_folder
from pipeline.tracking.origin import Origin
from pipeline.tracking.process import has_ended, identity
from pipeline.tracking.results import Result
from pipeline.tracking.server import tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

DECISIVE = "parameters"  # a run with this param is the run of its result, unless the value is DUPLICATE
DUPLICATE = "duplicate"
FOLDER, PROCESS = "train.folder", "train.process"  # tags of a live run: where it trains, and the process that does


class Refused(Exception):
    """Not logged, because of what a person has done in MLflow. The message says what, and how to go on."""


class Tracker:
    """Finds and makes runs in one MLflow server or database, inside `connected`."""

    def __init__(self, client: MlflowClient) -> None:
        self.client = client
        self.experiments: dict[str, str] = {}  # ids by data set

    def experiment(self, dataset: str) -> str:
        """The id of a data set's MLflow experiment, which is created if it is missing. Raises Refused."""
        if dataset not in self.experiments:
            self.experiments[dataset] = self.find_experiment(dataset)
        return self.experiments[dataset]

    def find_experiment(self, dataset: str) -> str:
        from mlflow import MlflowException

        found = self.client.get_experiment_by_name(dataset)
        if found is None:
            artifacts = artifact_folder()
            location = artifacts and f"{artifacts}/{dataset}"
            try:
                return self.client.create_experiment(dataset, location, {view.TAG: view.state()})
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                return self.find_experiment(dataset)  # another process has just created it
        number = found.experiment_id
        if found.lifecycle_stage == "deleted":
            raise Refused(
                f"the MLflow experiment {dataset} was deleted in {hide_in(tracking_uri())}; "
                f"`mlflow experiments restore --experiment-id {number}` brings it back"
            )
        if found.tags.get(view.TAG) != view.state():
            if view.TAG not in found.tags and not self.is_ours(found):
                raise Refused(
                    f"the MLflow experiment {dataset} in {hide_in(tracking_uri())} holds other runs than this "
                    f"pipeline's: `mlflow experiments rename --experiment-id {number} --new-name NAME` makes room"
                )
            self.client.set_experiment_tag(number, view.TAG, view.state())
        return number

    def is_ours(self, experiment: Experiment) -> bool:
        """Whether the runs of an experiment without the tag of `view` are of this pipeline, or there are none."""
        if experiment.tags.get("mlflow.experimentKind", "").startswith("genai"):
            return False
        ids = [experiment.experiment_id]
        ours = self.client.search_runs(ids, "tags.`dvc.stage` LIKE '%@%'", max_results=1)
        return bool(ours) or not self.client.search_runs(ids, max_results=1)

    def search(self, experiment: str, tag: str, value: str) -> list[Run]:
        """Runs with this tag, also those that a person has deleted. Duplicates, which `claim` deletes, are left out."""
        from mlflow.entities import ViewType

        found = self.client.search_runs([experiment], f"tags.{tag} = '{value}'", run_view_type=ViewType.ALL)
        return [run for run in found if is_active(run) or run.data.params.get(DECISIVE) != DUPLICATE]

    def claim(self, result: Result) -> Run:
        """The one run of a result, which is created if it is missing. Raises Refused.

        Any number of processes, on any machines, may call this for a result at the same time, and any of them may be
        killed at any point. All that return give the same run, the one whose DECISIVE param is the number of
        parameters. This works because MLflow never changes a param, and because a process chooses a run only after it
        has written DUPLICATE to all other runs of the result: of two runs, a process that chooses the later one sees
        the earlier one too.
        """
        experiment = self.experiment(result.dataset)
        while True:
            runs = self.search(experiment, "result", result.hash)
            active = sorted(filter(is_active, runs), key=lambda run: run.info.run_id)
            undecided = [run for run in active if DECISIVE not in run.data.params]
            chosen = [run for run in active if run.data.params.get(DECISIVE, DUPLICATE) != DUPLICATE]
            deleted = [run for run in runs if not is_active(run)]
            if undecided and not (chosen or deleted):
                if all(self.decide(run, DUPLICATE) for run in undecided[1:]):
                    self.decide(undecided[0], str(result.metrics["parameters"]))
                continue  # other processes may have decided otherwise: look again
            live = self.live_runs(experiment, result.fingerprint)
            if chosen or deleted:
                for run in filter(is_active, [*active, *live]):
                    if run not in chosen and self.decide(run, DUPLICATE):
                        self.client.delete_run(run.info.run_id)
                if not chosen:
                    refuse_deleted(deleted)
                return min(chosen, key=lambda run: run.info.status != "FINISHED")
            refuse_deleted(live)
            tags = {"result": result.hash, "dvc.stage": f"evaluate@{result.experiment}"}
            for run in filter(is_active, live):
                self.client.update_run(run.info.run_id, "RUNNING")  # until it is complete
                known = {key: value for key, value in result.origin.tags().items() if value}
                self.tag(run.info.run_id, **known, **tags)
                break
            else:
                self.create(experiment, result.experiment, result.origin, fingerprint=result.fingerprint, **tags)

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

    def live(self, dataset: str, name: str, fingerprint: str, origin: Origin) -> str | None:
        """The run that shows this training while it goes on, created if it is missing. Raises Refused.

        None if the result of the same training is already there.
        """
        experiment = self.experiment(dataset)
        results = [run for run in self.search(experiment, "fingerprint", fingerprint) if "result" in run.data.tags]
        if any(map(is_active, results)):
            return None
        live = self.live_runs(experiment, fingerprint)
        refuse_deleted([*results, *live])
        process = identity(os.getppid())
        for run in filter(is_active, live):
            self.client.update_run(run.info.run_id, "RUNNING")  # its training was killed, and goes on
            self.tag(run.info.run_id, **{PROCESS: process})
            return run.info.run_id
        tags = {"fingerprint": fingerprint, FOLDER: folder(), PROCESS: process, "dvc.stage": f"train@{name}"}
        return self.create(experiment, name, origin, **tags)

    def end_killed(self) -> None:
        """End the live runs of this folder whose trainings were killed together with what logged them.

        Their data sets become known, also those that have no result yet.
        """
        ours = self.client.search_experiments(filter_string=f"tags.`{view.TAG}` LIKE '%'")
        names = {found.experiment_id: found.name for found in ours}
        filters = f"tags.`{FOLDER}` = '{folder()}' and attributes.status = 'RUNNING'"
        for run in self.client.search_runs([*names], filters) if names else []:
            self.experiments[names[run.info.experiment_id]] = run.info.experiment_id
            if "result" not in run.data.tags and has_ended(run.data.tags.get(PROCESS, "")):
                self.client.set_terminated(run.info.run_id, "KILLED")

    @contextmanager
    def unless_deleted(self, run_id: str) -> Iterator[None]:
        """Ignore that the run was deleted in the meantime as a duplicate. Raises Refused if a person has deleted it."""
        from mlflow import MlflowException

        try:
            yield
        except MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE" or is_active(run := self.client.get_run(run_id)):
                raise
            if run.data.params.get(DECISIVE) != DUPLICATE:
                refuse_deleted([run])

    def create(self, experiment: str, name: str, origin: Origin, **more: str | None) -> str:
        """Create a run with the tags of its origin and `more`, without those that are None; return its id."""
        known = {key: value for key, value in {**origin.tags(), **more}.items() if value}
        start = None if origin.start is None else milliseconds(origin.start)
        return self.client.create_run(experiment, start, known, name).info.run_id

    def tag(self, run_id: str, **tags: str) -> None:
        from mlflow.entities import RunTag

        self.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])


def milliseconds(seconds: float) -> int:
    """MLflow's unit of time."""
    return round(seconds * 1000)


def is_active(run: Run) -> bool:
    return run.info.lifecycle_stage == "active"


def refuse_deleted(runs: list[Run]) -> None:
    """Raise Refused if there are runs, and a person has deleted all of them."""
    if runs and not any(map(is_active, runs)):
        run_id = runs[0].info.run_id
        raise Refused(
            f"its run was deleted in {hide_in(tracking_uri())}; `mlflow runs restore --run-id {run_id}` brings it back"
        )


def folder() -> str:
    """Stands for machine and folder. The same training in two of them has two live runs, until one has the result."""
    return hashlib.sha256(f"{socket.gethostname()}:{root().resolve()}".encode()).hexdigest()[:16]
