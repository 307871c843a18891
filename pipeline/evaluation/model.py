"""A trained model as it lies in `models/<experiment>/`: everything that prediction needs."""

from __future__ import annotations

import math
import re
import sys
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray

from pipeline.system import readers
from pipeline.system.console import MissingExtra, UserError
from pipeline.system.memory import MOST_PIXELS

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from pipeline.config.experiments import TTA


class Model:
    """Network with its weights, classes and preprocessing, on the CPU, in evaluation mode.

    Raises UserError for a folder that holds no whole model.
    """

    def __init__(self, folder: Path) -> None:
        import torch
        from pydantic import TypeAdapter, ValidationError

        from pipeline.config.datasets import ColorProfile, Fit, Interpolation
        from pipeline.config.errors import in_one_line
        from pipeline.config.networks import Network
        from pipeline.networks import Shape, build

        self.folder = folder
        self.stage = f"train@{folder.name}"
        file = folder / "model.json"
        if not file.exists() and folder.resolve().parent != Path("models").resolve():
            raise UserError(f"{str(folder)!r} holds no model.json: expected a folder models/EXPERIMENT")
        about = self.about = readers.read_json(file, self.stage)
        parts = {"shape": dict, "preprocessing": dict, "network": dict, "dataset": str, "experiment": str}
        for key, kind in parts.items():
            if not isinstance(about.get(key), kind):
                raise readers.damaged(file, f"it has no {key}", self.stage)
        sizes = {key: about["shape"].get(key) for key in Shape._fields}
        counts = {key: about.get(key) for key in ("parameters", "trainable_parameters")}
        unless_said = {"interpolation": "bilinear", "fit": "crop", "color_profile": "stored", "max_pixels": MOST_PIXELS}
        given = {**unless_said, **about["preprocessing"]}
        mean, std, tta = (about["preprocessing"].get(key) for key in ("mean", "std", "tta"))
        others = about.get("other_temperatures", {})
        normalizations = about.get("other_normalizations", {})  # of folds
        reason = (
            readers.size_fault({**sizes, **counts, "max_pixels": given["max_pixels"]})
            or readers.class_fault(about.get("classes"))
            or readers.statistics_fault(mean, std, sizes["channels"])
            or temperature_fault(about.get("temperature", 1.0), others)
            or normalization_fault(normalizations, sizes["channels"])
            or choice_fault(given, interpolation=Interpolation, fit=Fit, color_profile=ColorProfile)
        )
        if not reason and len(about["classes"]) != sizes["classes"]:
            reason = f"{len(about['classes'])} classes, but shape.classes = {sizes['classes']}"
        if not reason and not (isinstance(tta, bool | None) or tta == "flip_and_shift"):
            reason = f"tta = {tta!r}; expected true, false or flip_and_shift"
        if reason:
            raise readers.damaged(file, reason, self.stage)
        self.classes: list[str] = about["classes"]
        self.normalizations: dict[str, dict[str, list[float]]] = {
            "model.safetensors": {"mean": mean, "std": std},
            **normalizations,
        }
        self.tta: TTA = tta or False
        self.interpolation: str = given["interpolation"]
        self.fit: str = given["fit"]
        self.color_profile: str = given["color_profile"]
        self.max_pixels: int = given["max_pixels"]
        self.shape = Shape(**sizes)
        try:
            network = TypeAdapter(dict[str, Network]).validate_python({"network": about["network"]})["network"]
            self.network = build(network, self.shape)
        except ValidationError as error:
            raise readers.damaged(file, in_one_line(error, about), self.stage) from None
        except MissingExtra:
            raise
        # what can't take this shape, or is not known to torchvision any more
        except (ValueError, RuntimeError, UserError) as error:
            raise readers.damaged(file, f"network: {error}", self.stage) from None
        self.temperatures: dict[str, float] = {"model.safetensors": about.get("temperature", 1.0), **others}
        self.temperature = 1.0
        self.load(folder / "model.safetensors")
        self.network.eval()
        self.device = torch.device("cpu")

    def load(self, file: Path) -> None:
        """Take the weights in a file, with the temperature and the normalization that belong to them.

        Raises UserError unless it has all weights, of finite numbers, and no others.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        own = self.network.state_dict()
        try:
            state = load(file.read_bytes())  # `load_file` takes Ctrl-C for a broken file
            for name, values in state.items():
                if name in own and values.dtype != own[name].dtype:  # they would be converted in silence
                    raise ValueError(f"{name} is {values.dtype}; expected {own[name].dtype}")
                if not values.isfinite().all():
                    raise ValueError(f"{name} has values that are no finite numbers")
            # safetensors do not keep the versions of modules, which torchvision's MNASNet asks for
            versioned = OrderedDict(state)
            versioned._metadata = own._metadata  # type: ignore[attr-defined]
            self.network.load_state_dict(versioned)
        except FileNotFoundError:
            raise readers.missing(file, self.stage) from None
        except (SafetensorError, ValueError, KeyError) as error:  # KeyError: of a type that torch does not know
            raise readers.damaged(file, error, self.stage) from None
        except RuntimeError as error:
            raise readers.damaged(file, f"not of the network in model.json: {error}", self.stage) from None
        self.temperature = self.temperatures.get(file.name, 1.0)
        normalization = self.normalizations.get(file.name, self.normalizations["model.safetensors"])
        self.mean, self.std = normalization["mean"], normalization["std"]

    def other_trainings(self) -> list[Path]:
        """Files with weights of the same config with other seeds, or for other folds, in the order of their numbers."""
        named = {file: re.fullmatch(r"(?:seed|fold)-(\d+)", file.stem) for file in self.folder.glob("*.safetensors")}
        numbers = {file: int(found[1]) for file, found in named.items() if found}
        return sorted(numbers, key=lambda file: numbers[file])

    def to(self, device: torch.device) -> None:
        """Compute on this device from now on."""
        import torch

        self.device = device
        self.network.to(device)
        if device.type == "cuda":
            self.network.to(memory_format=torch.channels_last)

    def images(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Pixels (N, H, W, C) uint8 as the network takes them: (N, C, H, W) float32, normalized, on its device."""
        import torch

        from pipeline.dataset.normalize import Normalize

        images = torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2).float()
        return Normalize(self.mean, self.std, self.device)(images)

    def probabilities(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Calibrated class probabilities (N, classes) float32 of images (N, H, W, C) uint8.

        Large images go through the network a few at a time, as in `evaluate`.
        """
        import torch

        from pipeline.evaluation.inference import EVALUATION_VALUES, mean_logits

        size = max(1, EVALUATION_VALUES // math.prod(self.shape[:3]))
        found = []
        with torch.inference_mode():
            for start in range(0, len(pixels), size):
                logits = mean_logits(self.network, self.images(pixels[start : start + size]), self.tta).float()
                found.append(torch.softmax(logits / self.temperature, dim=1).cpu())
        return torch.cat(found).numpy()


def normalization_fault(others: object, channels: int) -> str | None:
    """Why mean and standard deviation of the files of weights are wrong, or None."""
    if not isinstance(others, dict) or not all(isinstance(each, dict) for each in others.values()):
        return f"other_normalizations = {others!r}; expected mean and std for each other file of weights"
    faults = (readers.statistics_fault(each.get("mean"), each.get("std"), channels) for each in others.values())
    return next(filter(None, faults), None)


def choice_fault(given: dict[str, Any], **allowed: object) -> str | None:
    """Which of the values is none of its `Literal`, or None."""
    for key, choices in allowed.items():
        if given[key] not in get_args(choices):
            return f"{key} = {given[key]!r}; expected {' or '.join(get_args(choices))}"
    return None


def temperature_fault(first: object, others: object) -> str | None:
    """Why the temperatures of the files of weights are wrong, or None."""
    if not isinstance(others, dict):
        return f"other_temperatures = {others!r}; expected a number for each other file of weights"
    for value in (first, *others.values()):
        if type(value) not in (int, float) or not 0 < value < sys.float_info.max:
            return f"temperature = {value!r}; expected a finite number above 0"
    return None
