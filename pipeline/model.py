"""A trained model as it lies in `models/<experiment>/`: everything that prediction needs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.console import UserError

if TYPE_CHECKING:
    from torch import Tensor


class Model:
    """Network with its weights, classes and preprocessing, on the CPU, in evaluation mode.

    Raises UserError for a folder that holds no whole model.
    """

    def __init__(self, folder: Path) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import load

        from pipeline.networks import Shape, build

        self.folder = folder
        try:
            self.about: dict[str, Any] = json.loads((folder / "model.json").read_text())
            # `load_file` takes Ctrl-C for a broken file
            state = load((folder / "model.safetensors").read_bytes())
            self.classes: list[str] = self.about["classes"]
            self.shape = Shape(**self.about["shape"])
            self.mean: list[float] = self.about["preprocessing"]["mean"]
            self.std: list[float] = self.about["preprocessing"]["std"]
            self.test_flip: bool = self.about["preprocessing"].get("test_flip", False)
            self.network = build(namespace(self.about["network"]), self.shape)
            self.network.load_state_dict(state)
        except FileNotFoundError as error:
            missing = error.filename or folder / "model.safetensors"
            raise UserError(f"{missing} is not there: train it with dvc repro, or dvc pull it") from None
        # ValueError: no JSON or no UTF-8; the rest: entries are missing, or the weights are another network's
        except (ValueError, SafetensorError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{folder} holds no whole model ({reason}): train it again or dvc pull it") from None
        self.network.eval()

    def other_seeds(self) -> Iterator[dict[str, Tensor]]:
        """Weights of the same recipe's trainings with other seeds, if there are any."""
        from safetensors.torch import load

        for file in sorted(self.folder.glob("seed-*.safetensors")):
            yield load(file.read_bytes())

    def probabilities(self, pixels: np.ndarray) -> np.ndarray:
        """Class probabilities (N, classes) float32 of images (N, H, W, C) uint8."""
        import torch

        from pipeline.training.data import Normalize
        from pipeline.training.inference import scores

        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
        normalize = Normalize(self.mean, self.std, torch.device("cpu"))
        with torch.inference_mode():
            return scores(self.network, normalize(images), self.test_flip).exp().numpy()


def namespace(value: Any) -> Any:
    """Nested dicts as objects with attributes, as networks read them."""
    if isinstance(value, dict):
        return SimpleNamespace(**{key: namespace(item) for key, item in value.items()})
    return value
