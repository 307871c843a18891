"""What the files in `reports/<experiment>/` say of one experiment, as far as they can be read."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.config.experiments import Experiment
from pipeline.evaluation.stored import FILE, check_predictions, read_val
from pipeline.system import readers
from pipeline.system.console import UserError
from pipeline.tracking.results import flat, read_history
from pipeline.training import times
from pipeline.training.times import TrainTime

T = TypeVar("T")


class Validated(NamedTuple):
    """What a model says of each validation image, sorted by path."""

    table: pa.Table  # path, label, predicted, probability
    right: NDArray[np.bool_]  # (N,)


@dataclass
class Record:
    """What is known of one experiment. What is not there, or can't be read, is empty."""

    name: str
    config: Experiment
    metrics: dict[str, Any]  # the content of metrics.json
    history: list[dict[str, float]]  # a row for each epoch
    provenance: dict[str, Any]  # the content of provenance.json
    training: TrainTime | None  # of a training on this machine
    validated: Validated | None

    def metric(self, split: str, name: str) -> float | None:
        return number_in(self.metrics, split, name)

    def accuracy(self, split: str) -> float | None:
        """The mean over its trainings where there are several."""
        mean = self.metric(split, "accuracy_mean")
        return self.metric(split, "accuracy") if mean is None else mean

    def interval(self, split: str) -> tuple[float, float] | None:
        """Of the accuracy of the model that predicts, or of all folds together."""
        low, high = (self.metric(split, f"accuracy_{end}") for end in ("low", "high"))
        return None if low is None or high is None else (low, high)

    @property
    def parameters(self) -> int | None:
        count = self.metrics.get("parameters")
        return count if type(count) is int else None

    @property
    def in_short(self) -> str:
        """Its config in a few words."""
        network, optimizer = self.config.network, self.config.optimizer
        name = getattr(network, "model", network.name)
        words = [name, f"{optimizer.name} {optimizer.lr:g}", f"{self.config.epochs} epochs"]
        if self.config.seeds > 1:
            words.append(f"{self.config.seeds} seeds")
        return " · ".join([*words, *(["all folds"] if self.config.folds else [])])

    @property
    def is_stale(self) -> bool:
        """Whether params.yaml has changed since it was trained."""
        return bool(differing(self.trained_with, self.config.model_dump(mode="json")))

    @property
    def trained_with(self) -> dict[str, Any]:
        """The config that it was trained with, which params.yaml may no longer hold."""
        return as_mapping(self.provenance.get("params"))


def number_in(metrics: dict[str, Any], split: str, name: str) -> float | None:
    """A metric of a metrics.json. None where it has none, or anything but a number."""
    value = as_mapping(metrics.get(split)).get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        return None
    return float(value)


def as_mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def read(name: str, config: Experiment, notes: list[str]) -> Record | None:
    """None where the experiment never ran. `notes` gets a line for each file that can't be read or is of other data."""
    folder = Path("reports", name)

    def attempt(file: str, reader: Callable[[Path, str], T], stage: str, nothing: T) -> T:
        if not (folder / file).exists():
            return nothing
        try:
            return reader(folder / file, f"{stage}@{name}")
        except UserError as error:
            notes.append(str(error))
        except OSError as error:
            notes.append(f"{folder / file}: {error.strerror}")
        return nothing

    nothing: dict[str, Any] = {}
    provenance = attempt("provenance.json", readers.read_json, "train", nothing)
    trained_on = as_mapping(provenance.get("params")).get("dataset", config.dataset)
    if trained_on != config.dataset:
        instead = f"params.yaml trains {name} on {config.dataset}"
        notes.append(f"{folder} is of {trained_on}, but {instead}: run dvc repro evaluate@{name}")
        return None
    metrics = attempt("metrics.json", read_metrics, "evaluate", nothing)
    history = attempt("history.csv", read_history, "train", list[dict[str, float]]())
    if not (metrics or history):
        return None
    validated = attempt(FILE, read_validated, "evaluate", None) if metrics else None
    return Record(name, config, metrics, history, provenance, times.read(str(provenance.get("fingerprint"))), validated)


def read_metrics(file: Path, stage: str) -> dict[str, Any]:
    metrics = readers.read_json(file, stage)
    if all(number_in(metrics, split, "accuracy") is None for split in ("val", "test")):
        raise readers.damaged(file, "it has no accuracy of val or test", stage)
    return metrics


def read_validated(file: Path, stage: str) -> Validated | None:
    check_predictions(file.parent.name)
    table = read_val(file, stage).sort_by("path")
    if not len(table):
        return None
    return Validated(table, pc.equal(table["label"], table["predicted"]).to_numpy())


def differing(before: dict[str, Any], now: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Keys with other values. What only one side has is listed unless it is switched off."""
    if not (before and now):
        return []
    old, new = dict(flat(before)), dict(flat(now))
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    keys = [key for key in keys if (key in old or new[key]) and (key in new or old[key])]
    return [(key, in_words(old, key), in_words(new, key)) for key in keys]


def in_words(values: dict[str, Any], key: str) -> str:
    return json.dumps(values[key], ensure_ascii=False) if key in values else "not set"
