"""What a run shows: params, metrics, data set, tags, files and images. Logging anything of it twice adds nothing."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.system.credentials import hide
from pipeline.tracking.results import Result, flat
from pipeline.tracking.tracker import FOLDER, PROCESS, milliseconds
from pipeline.tracking.uploads import upload
from pipeline.tracking.view import IMAGES

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from pipeline.training.times import TrainTime

PARTIAL = "without"  # tag of a run: which files of its result were not there when it was logged
COUNTS = ("parameters", "trainable_parameters")
# The few that people compare; the rest of metrics.json is an artifact
METRICS = ("accuracy", "macro_f1", "loss", "ece", "accuracy_mean", "accuracy_sd")


class RunContent:
    """Logs the content of one run. Times are seconds since the run's start."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self.client, self.run_id = client, run_id
        run = client.get_run(run_id)
        self.start, self.known = run.info.start_time, run.data

    def log_tags(self, tags: dict[str, str | None]) -> None:
        """Log the tags that have a value and that the run does not have yet."""
        from mlflow.entities import RunTag

        new = [RunTag(key, value) for key, value in tags.items() if value and key not in self.known.tags]
        self.client.log_batch(self.run_id, tags=new)

    def log_params(self, values: dict[str, Any]) -> None:
        """Log the params that the run does not have yet. Nested keys are joined by dots."""
        from mlflow.entities import Param

        new = [Param(key, text(value)) for key, value in flat(values) if key not in self.known.params]
        self.client.log_batch(self.run_id, params=new)

    def log_history(self, history: list[dict[str, float]], seconds: list[float]) -> None:
        """Log a point for each epoch, val first. `seconds` has the end of each epoch, as far as it is known."""
        ends = [*seconds, *[0.0] * len(history)]
        points = [
            (key, row[key], int(row["epoch"]), end)
            for row, end in zip(history, ends, strict=False)
            for key in sorted(row, key=lambda key: not key.startswith("val_"))
            if key != "epoch"
        ]
        self.log_metrics(points)

    def log_results(self, result: Result) -> None:
        """Log what the trained model reaches, val_accuracy, …, test_accuracy, …, and how long it trained.

        The history has val_accuracy and val_loss already. MLflow shows the value of the last step as that of the run.
        Where the weights of an earlier epoch were kept it is another one: that has a step of its own, after the last.
        """
        last = result.history[-1] if result.history else {}
        time = result.origin.time
        seconds = time.train_seconds if time else 0.0
        points = []
        for split in ("val", "test"):
            for key in METRICS:
                name, value = f"{split}_{key}", result.metrics.get(split, {}).get(key)
                if value is not None and value != last.get(name):
                    points.append((name, value, int(last["epoch"]) + 1 if name in last else 0, seconds))
        if time and "train_seconds" not in self.known.metrics:  # of two machines with this result, the first one's
            points.append(("train_seconds", time.train_seconds, 0, seconds))
        self.log_metrics(points)

    def log_metrics(self, points: list[tuple[str, float, int, float]]) -> None:
        """Log points (key, value, step, seconds) that the run does not have yet.

        If two processes log the same point with the same time, MLflow keeps it once.
        """
        from mlflow.entities import Metric

        begun = self.known.metrics.keys() & {key for key, *_ in points}
        known = {
            (key, point.value, point.step)
            for key in begun
            for point in self.client.get_metric_history(self.run_id, key)
        }
        new = [
            Metric(key, value, self.start + milliseconds(seconds), step)
            for key, value, step, seconds in points
            if (key, value, step) not in known
        ]
        for start in range(0, len(new), 1000):  # MLflow's limit for one request
            self.client.log_batch(self.run_id, metrics=new[start : start + 1000])

    def log_dataset(self, name: str, digest: str) -> None:
        """Log which packed data set the run was trained on, by DVC's hash of it."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        source = json.dumps({"uri": f"data/packed/{name}"})
        dataset = Dataset(name=name, digest=digest, source_type="dvc", source=source)
        self.client.log_inputs(self.run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])

    def log_files(self, folder: Path, files: list[Path]) -> None:
        """Log files of a folder as artifacts, under their paths in it."""
        upload(partial(self.client.log_artifact, self.run_id), folder, files)

    def log_images(self, folder: Path) -> None:
        """Log IMAGES of a folder, as far as they are there, in the form that MLflow shows side by side."""
        from PIL import Image

        known = [Path(file.path).name for file in self.client.list_artifacts(self.run_id, "images")]
        for key in IMAGES:
            file = folder / f"{key}.png"
            if file.exists() and not any(name.startswith(f"{key}+") for name in known):
                with Image.open(file) as image:
                    self.client.log_image(self.run_id, image, key=key, step=0, timestamp=self.start)  # shown at first

    def finish(self, time: TrainTime | None, is_whole: bool) -> None:
        """Say that the run is complete, with its files if it `is_whole`, and when training ended, if that is known."""
        from mlflow import MlflowException

        for key in self.known.tags.keys() & {FOLDER, PROCESS, *([PARTIAL] if is_whole else [])}:
            try:
                self.client.delete_tag(self.run_id, key)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":  # another process has just deleted it
                    raise
        if time is None:
            self.client.update_run(self.run_id, "FINISHED")
        else:
            self.client.set_terminated(self.run_id, "FINISHED", self.start + milliseconds(time.train_seconds))


def text(value: object) -> str:
    """A value as a param in MLflow: text as it is, anything else as JSON, without credentials."""
    return hide(value if isinstance(value, str) else json.dumps(value))
