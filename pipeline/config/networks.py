"""What a config may say about its network."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config.fields import Address, Fraction, Positive, Strict

Activation = Literal["relu", "sigmoid", "tanh", "gelu", "silu"]


class Layers(Strict):
    """Fully connected layers; each hidden one is linear, batch norm, activation, dropout."""

    hidden: list[Positive] = []
    activation: Activation = "relu"
    batch_norm: bool = False
    dropout: Fraction = 0.0


class MLP(Layers):
    """A multilayer perceptron on the flattened image."""

    name: Literal["mlp"]
    log_softmax: bool = False  # as the last layer, for studies that have one
    initialization: Literal["default", "xavier_normal"] = "default"

    def incompatible_size(self, height: int, width: int) -> str | None:
        return None


def convolved(network: CNN, height: int, width: int) -> tuple[int, int]:
    """Height and width after the last block of a `cnn`; below 1 where the image is too small."""
    for _ in network.convolutions:
        height, width = ((side + 2 * network.padding - network.kernel + 1) // network.pool for side in (height, width))
    return height, width


class CNN(Layers):
    """Blocks of convolution, batch norm, activation and max pooling, then fully connected layers."""

    name: Literal["cnn"]
    convolutions: list[Positive]  # output channels of each block
    kernel: Positive = 3
    padding: Annotated[int, Field(ge=0)] = 0
    pool: Positive = 2

    def incompatible_size(self, height: int, width: int) -> str | None:
        if min(convolved(self, height, width)) >= 1:
            return None
        needed = 1
        for _ in self.convolutions:
            needed = needed * self.pool + self.kernel - 1 - 2 * self.padding
        return f"nothing is left after {len(self.convolutions)} convolutions; expected at least {needed} pixels a side"


Widths = Annotated[list[Positive], Field(min_length=1)]


class ResNet(Strict):
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


class Airbench(Strict):
    """The small network of the CIFAR-10 speed runs."""

    name: Literal["airbench"]
    widths: Widths = [64, 256, 256]  # channels of each group of two convolutions, which halves the image

    def incompatible_size(self, height: int, width: int) -> str | None:
        needed = 2 ** len(self.widths) + 1  # whitening takes one pixel a side
        if min(height, width) >= needed:
            return None
        return f"nothing is left after {len(self.widths)} groups; expected at least {needed} pixels a side"


class Head(Layers):
    """What replaces a backbone's own classifier."""


class WeightsFile(Strict):
    """Pretrained weights that torchvision does not publish: a state dict, checked before it is loaded."""

    file: str
    sha256: str
    mirrors: list[Address] = []


class Transfer(Strict):
    """Any torchvision classification model as a backbone, with a new head."""

    name: Literal["torchvision"]
    backbone: str  # torchvision's name, as in torchvision.models.list_models()
    weights: str | WeightsFile | None = None  # torchvision's name, e.g. IMAGENET1K_V1
    freeze: bool = False
    head: Head = Head()

    def incompatible_size(self, height: int, width: int) -> str | None:
        return None  # only building the backbone tells: `networks.build` does


Network = Annotated[MLP | CNN | ResNet | Airbench | Transfer, Field(discriminator="name")]
