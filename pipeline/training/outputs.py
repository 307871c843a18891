"""What training gives: `models/<experiment>/`, and the history of the model that predicts."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from safetensors.torch import save

from pipeline.system.outputs import atomic_write, write_json
from pipeline.training.model import parameter_counts

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pipeline.training.data import TrainingData
    from pipeline.training.trainer import Row


class Trained(NamedTuple):
    """What one training has given."""

    history: list[Row]
    weights: dict[str, Tensor]  # on the CPU
    temperature: float | None  # None without validation images, and in other processes than the first
    normalization: dict[str, list[float]]  # of its training images: mean and std per channel


def describe(model: nn.Module, data: TrainingData) -> dict[str, Any]:
    """What prediction needs to know of a model beside its weights."""
    config, packed = data.config, data.packed
    preprocessing = {"mean": data.mean, "std": data.std, "tta": config.tta}
    parameters, trainable = parameter_counts(model)
    return {
        "dataset": config.dataset,
        "network": config.network.model_dump(mode="json"),
        "shape": data.shape._asdict(),
        "classes": packed.classes,
        "preprocessing": {**packed.meta["preprocessing"], **preprocessing},
        "parameters": parameters,
        "trainable_parameters": trainable,
    }


def write_model(folder: Path, about: dict[str, Any], models: dict[str, Trained]) -> None:
    """Write model.json, which says what is known `about` the model, and the weights of all `models` by their file."""
    with atomic_write(folder) as partial:
        partial.mkdir()
        for file, model in models.items():
            # `save_file` makes a file that only its owner may read, whatever the umask
            (partial / file).write_bytes(save(model.weights))
        write_json(partial / "model.json", {**about, **calibration(models), **other_normalizations(models)})


def calibration(models: dict[str, Trained]) -> dict[str, Any]:
    """What model.json says of the temperatures of its files of weights; nothing without validation images."""
    temperatures = {file: model.temperature for file, model in models.items() if model.temperature is not None}
    if not temperatures:
        return {}
    first, *others = temperatures.items()
    return {"temperature": first[1], **({"other_temperatures": dict(others)} if others else {})}


def other_normalizations(models: dict[str, Trained]) -> dict[str, Any]:
    """What model.json says of weights whose images are normalized in another way than those of the first training.

    Folds have different training images, and so different means and deviations.
    """
    first, *_ = (model.normalization for model in models.values())
    others = {file: model.normalization for file, model in models.items() if model.normalization != first}
    return {"other_normalizations": others} if others else {}


def write_history(path: Path, history: list[Row]) -> None:
    with atomic_write(path) as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(history[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
