"""What a config may say about its network; the name of a network is that of its module in `pipeline/networks`."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag

from pipeline.config.fields import Address, Fraction, Positive, Sha256, Strict, hint, shown
from pipeline.system.console import UserError, require

if TYPE_CHECKING:
    from types import ModuleType

    from torch import nn

Activation = Literal["relu", "sigmoid", "tanh", "gelu", "silu"]


class LayersConfig(Strict):
    """Fully connected layers; each hidden one is linear, batch norm, activation, dropout."""

    hidden: list[Positive] = []
    activation: Activation = "relu"
    batch_norm: bool = False
    dropout: Fraction = 0.0


class MLPConfig(LayersConfig):
    """A multilayer perceptron on the flattened image."""

    name: Literal["mlp"]
    log_softmax: bool = False  # as the last layer, for studies that have one
    initialization: Literal["default", "xavier_normal"] = "default"

    def incompatible_size(self, height: int, width: int) -> str | None:
        return None


def convolved(network: CNNConfig, height: int, width: int) -> tuple[int, int]:
    """Height and width after the last block of a `cnn`; below 1 where the image is too small."""
    for _ in network.convolutions:
        height, width = ((side + 2 * network.padding - network.kernel + 1) // network.pool for side in (height, width))
    return height, width


class CNNConfig(LayersConfig):
    """Blocks of convolution, batch norm, activation and max pooling, then fully connected layers."""

    name: Literal["cnn"]
    convolutions: list[Positive]  # output channels of each block
    kernel: Positive = 3
    padding: Annotated[int, Field(ge=0, le=8192)] = 0
    pool: Positive = 2

    def incompatible_size(self, height: int, width: int) -> str | None:
        if min(convolved(self, height, width)) >= 1:
            return None
        needed = 1
        for _ in self.convolutions:
            needed = needed * self.pool + self.kernel - 1 - 2 * self.padding
        return f"nothing is left after {len(self.convolutions)} convolutions; expected at least {needed} pixels a side"


Widths = Annotated[list[Positive], Field(min_length=1)]


class ResNetConfig(Strict):
    """A residual network for small images, of 2 × stages × blocks + 2 layers."""

    name: Literal["resnet"]
    widths: Widths = [32, 64, 128]  # channels of each stage; all but the first halve the image
    blocks: Positive = 1  # in each stage
    dropout: Fraction = 0.0  # inside each block

    def incompatible_size(self, height: int, width: int) -> str | None:
        needed = 2 ** (len(self.widths) - 1)
        if min(height, width) >= needed:
            return None
        return f"nothing is left to halve in {len(self.widths)} stages; expected at least {needed} pixels a side"


class AirbenchConfig(Strict):
    """The small network of the CIFAR-10 speed runs."""

    name: Literal["airbench"]
    widths: Widths = [64, 256, 256]  # channels of each group of two convolutions, which halves the image

    def incompatible_size(self, height: int, width: int) -> str | None:
        needed = 2 ** len(self.widths) + 1  # whitening takes one pixel a side
        if min(height, width) >= needed:
            return None
        return f"nothing is left after {len(self.widths)} groups; expected at least {needed} pixels a side"


class HeadConfig(LayersConfig):
    """What follows a backbone's features."""


class WeightsFile(Strict):
    """A file of pretrained weights: a state dict, checked before it is loaded."""

    file: str
    sha256: Sha256
    mirrors: list[Address] = []


def a_commit(revision: str) -> str:
    if not re.fullmatch("[0-9a-f]{40}", revision):
        raise ValueError(f"{shown(revision)}: expected a commit, of 40 hexadecimal digits; branches and tags move")
    return revision


class HubWeights(Strict):
    """The file `model.safetensors` of a repository on the Hugging Face hub, at one of its commits."""

    repo_id: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]  # e.g. timm/resnet50.a1_in1k
    revision: Annotated[str, AfterValidator(a_commit)]
    sha256: Sha256 | None = None  # for those who can't always ask the hub


def kind_of_weights(value: object) -> str | None:
    """Which of the two classes above an entry means, so that an error speaks of that one only."""
    if isinstance(value, HubWeights) or (isinstance(value, dict) and "repo_id" in value):
        return "hub"
    return "file" if isinstance(value, WeightsFile | dict) else None


FileOrHub = Annotated[
    Annotated[WeightsFile, Tag("file")] | Annotated[HubWeights, Tag("hub")],
    Discriminator(
        kind_of_weights,
        custom_error_type="weights",
        custom_error_message="expected {file, sha256, mirrors} or {repo_id, revision}",
    ),
]


class BackboneConfig(Strict, ABC):
    """A model of a library, of which the last layer is replaced by a new head."""

    name: str
    model: str
    weights: str | WeightsFile | HubWeights | None = None
    freeze: bool = False  # train the head only
    head: HeadConfig = HeadConfig()

    def incompatible_size(self, height: int, width: int) -> str | None:
        return None  # only building the model tells: `networks.build` does

    @abstractmethod
    def pretrained_on(self) -> tuple[int, int, str] | None:
        """Height, width and interpolation of the images that the weights are for, where the library tells."""

    def unknown_model(self, library: str, names: Iterable[str], listed: str) -> UserError:
        return UserError(
            f"params.yaml: network.model = {shown(self.model)}: {library} has no such model"
            f"{hint(self.model, names)}; {listed} lists them"
        )


class TorchvisionConfig(BackboneConfig):
    """Any classification model of torchvision."""

    name: Literal["torchvision"]
    weights: str | WeightsFile | None = None  # torchvision's name, e.g. IMAGENET1K_V1
    replace: Literal["last_layer", "classifier"] = "last_layer"  # classifier: all layers behind the convolutions

    def builder(self) -> Callable[..., nn.Module]:
        """torchvision's function that builds the model. Raises UserError for a name that it does not have."""
        from torchvision import models

        known = models.list_models(module=models)
        if self.model not in known:
            raise self.unknown_model("torchvision", known, "https://docs.pytorch.org/vision/stable/models.html")
        builder: Callable[..., nn.Module] = models.get_model_builder(self.model)
        return builder

    def pretrained_on(self) -> tuple[int, int, str] | None:
        if not isinstance(self.weights, str):
            return None
        from torchvision import models

        preset = models.get_model_weights(self.model)[self.weights].transforms()
        (side,) = preset.crop_size
        return side, side, preset.interpolation.value


class TimmConfig(BackboneConfig):
    """Any model of timm."""

    name: Literal["timm"]
    weights: FileOrHub | None = None

    def library(self) -> ModuleType:
        """The module `timm`. Raises MissingExtra where it is not installed, UserError for a model that it lacks."""
        require("params.yaml: network.name = 'timm'", "timm")

        import timm

        try:
            if timm.is_model(self.model):
                timm.get_pretrained_cfg(self.model)
                return timm
            known = timm.list_models()
        except RuntimeError:  # the model is known, but not what follows the dot
            known = timm.list_pretrained(f"{self.model.partition('.')[0]}.*")
        raise self.unknown_model("timm", known, "timm.list_models()")

    def normalization(self) -> tuple[list[float], list[float]]:
        """Mean and std per channel, of values in [0, 1], that timm's configuration of the model gives."""
        config = self.data_config()
        return list(config["mean"]), list(config["std"])

    def pretrained_on(self) -> tuple[int, int, str] | None:
        if self.weights is None:
            return None
        config = self.data_config()
        _, height, width = config["input_size"]
        return height, width, config["interpolation"]

    def data_config(self) -> dict[str, Any]:
        """timm's description of the images that the model takes."""
        timm = self.library()
        known = timm.get_pretrained_cfg(self.model)
        config: dict[str, Any] = timm.data.resolve_data_config(pretrained_cfg=known.to_dict() if known else {})
        return config


Network = Annotated[
    MLPConfig | CNNConfig | ResNetConfig | AirbenchConfig | TorchvisionConfig | TimmConfig,
    Field(discriminator="name"),
]
