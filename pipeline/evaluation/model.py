"""A trained model as it lies in `models/<experiment>/`: everything that prediction needs."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np
from numpy.typing import NDArray

from pipeline.system import readers
from pipeline.system.checksummed import checksum
from pipeline.system.console import MissingExtra, UserError

if TYPE_CHECKING:
    from pipeline.config.experiments import TTA


class Model:
    """Network with its weights, classes and preprocessing, on the CPU, in evaluation mode.

    Raises UserError for a folder that holds no whole model.
    """

    def __init__(self, folder: Path) -> None:
        from pydantic import TypeAdapter, ValidationError

        from pipeline.config.datasets import ColorProfile, Fit, Interpolation
        from pipeline.config.errors import in_one_line
        from pipeline.config.networks import Network
        from pipeline.networks import Shape, build

        self.folder = folder
        self.stage = f"train@{folder.name}"
        file = folder / "model.json"
        about = self.about = readers.read_description(file, self.stage)
        for key in ("shape", "preprocessing", "network"):
            if not isinstance(about.get(key), dict):
                raise readers.damaged(file, f"it has no {key}", self.stage)
        sizes = {key: about["shape"].get(key) for key in Shape._fields}
        counts = {key: about.get(key) for key in ("parameters", "trainable_parameters")}
        mean, std, tta = (about["preprocessing"].get(key) for key in ("mean", "std", "tta"))
        interpolation = about["preprocessing"].get("interpolation", "bilinear")
        fit = about["preprocessing"].get("fit", "crop")
        color_profile = about["preprocessing"].get("color_profile", "stored")
        reason = (
            readers.size_fault({**sizes, **counts})
            or readers.class_fault(about.get("classes"))
            or readers.statistics_fault(mean, std, sizes["channels"])
        )
        if not reason and len(about["classes"]) != sizes["classes"]:
            reason = f"{len(about['classes'])} classes, but shape.classes = {sizes['classes']}"
        if not reason and not (isinstance(tta, bool | None) or tta == "flip_and_shift"):
            reason = f"tta = {tta!r}; expected true, false or flip_and_shift"
        if not reason and interpolation not in get_args(Interpolation):
            reason = f"interpolation = {interpolation!r}; expected {' or '.join(get_args(Interpolation))}"
        if not reason and fit not in get_args(Fit):
            reason = f"fit = {fit!r}; expected {' or '.join(get_args(Fit))}"
        if not reason and color_profile not in get_args(ColorProfile):
            reason = f"color_profile = {color_profile!r}; expected {' or '.join(get_args(ColorProfile))}"
        if reason:
            raise readers.damaged(file, reason, self.stage)
        self.classes: list[str] = about["classes"]
        self.mean: list[float] = mean
        self.std: list[float] = std
        self.tta: TTA = tta or False
        self.interpolation: str = interpolation
        self.fit: str = fit
        self.color_profile: str = color_profile
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
        self.load(folder / "model.safetensors")
        self.network.eval()

    def load(self, file: Path) -> None:
        """Take the weights in a file. Raises UserError unless it has all of them, of finite numbers, and no others."""
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

    def other_seeds(self) -> list[Path]:
        """Files with weights of the same config's trainings with other seeds, if there are any."""
        return sorted(self.folder.glob("seed-*.safetensors"))

    def probabilities(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Class probabilities (N, classes) float32 of images (N, H, W, C) uint8."""
        import torch

        from pipeline.dataset.batches import Normalize
        from pipeline.evaluation.inference import logits

        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
        normalize = Normalize(self.mean, self.std, torch.device("cpu"))
        with torch.inference_mode():
            return logits(self.network, normalize(images), self.tta).exp().numpy()


def check_files(folder: Path, provenance: Path, stage: str) -> None:
    """Raises UserError unless the files of a model are those that its training's provenance.json tells of."""
    known = readers.read_description(provenance, stage).get("model")
    if not isinstance(known, dict):
        raise readers.damaged(provenance, "it has no model", stage)
    for file in sorted(folder.glob("[!.]*")):
        if known.get(file.name) != checksum(file).hex():
            raise UserError(
                f"{file} is not the file that {provenance} tells of: run dvc checkout {folder}, or dvc repro {stage}"
            )
