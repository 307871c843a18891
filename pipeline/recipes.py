"""What an experiment in `params.yaml` may say: network, optimizer, schedule of epochs, augmentation."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.networks import convolved

Positive = Annotated[int, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Activation = Literal["relu", "sigmoid", "tanh", "gelu", "silu"]


def hint(word: str, known: Iterable[str]) -> str:
    by_lower_case = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), by_lower_case, n=1)
    return f" (did you mean '{by_lower_case[close[0]]}'?)" if close else ""


class Strict(BaseModel):
    """No coercion, no unknown keys, no change after validation."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def knows_every_key(cls, value: Any) -> Any:
        if isinstance(value, dict):
            for key in value:
                if key not in cls.model_fields:
                    allowed = ", ".join(cls.model_fields)
                    raise ValueError(f"unknown key {str(key)!r}{hint(str(key), cls.model_fields)}; allowed: {allowed}")
        return value


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

    def misfit(self, height: int, width: int) -> str | None:
        return None


class CNN(Layers):
    """Blocks of convolution, batch norm, activation and max pooling, then fully connected layers."""

    name: Literal["cnn"]
    convolutions: list[Positive]  # output channels of each block
    kernel: Positive = 3
    padding: Annotated[int, Field(ge=0)] = 0
    pool: Positive = 2

    def misfit(self, height: int, width: int) -> str | None:
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

    def misfit(self, height: int, width: int) -> str | None:
        needed = 2 ** (len(self.widths) - 1)
        if min(height, width) >= needed:
            return None
        return f"nothing is left to halve in {len(self.widths)} stages; expected at least {needed} pixels a side"


class Speedrun(Strict):
    """The small network of the CIFAR-10 speed runs."""

    name: Literal["speedrun"]
    widths: Widths = [64, 256, 256]  # channels of each group of two convolutions, which halves the image

    def misfit(self, height: int, width: int) -> str | None:
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
    mirrors: list[str] = []


class Transfer(Strict):
    """Any torchvision classification model as a backbone, with a new head."""

    name: Literal["transfer"]
    backbone: str  # torchvision's name, as in torchvision.models.list_models()
    weights: str | WeightsFile | None = None  # torchvision's name, e.g. IMAGENET1K_V1
    freeze: bool = False
    head: Head = Head()

    def misfit(self, height: int, width: int) -> str | None:
        return None  # only building the backbone tells: `networks.build` does


Network = Annotated[MLP | CNN | ResNet | Speedrun | Transfer, Field(discriminator="name")]


class Optimizer(Strict):
    """The arguments of torch.optim's class of that name."""

    name: Literal["sgd", "adam", "adamw"]
    lr: Annotated[float, Field(gt=0, le=1e38)]  # what a float32 holds
    momentum: Fraction = 0.0
    nesterov: bool = False
    weight_decay: Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="after")
    def momentum_is_for_sgd(self) -> Optimizer:
        if self.name != "sgd" and (self.momentum or self.nesterov):
            raise ValueError(f"momentum and nesterov are for sgd; {self.name} has its own")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class Regularization(Strict):
    """A term added to the loss: `l1` times the sum of absolute weights."""

    l1: Annotated[float, Field(ge=0)] = 0.0
    biases: bool = True  # whether biases count


class Augment(Strict):
    """Random changes to training images, drawn anew for every image and epoch."""

    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0  # degrees, uniform in ± this
    horizontal_flip: Annotated[float, Field(ge=0, le=1)] = 0.0  # probability


class Normalization(Strict):
    """Subtract `mean`, divide by `std`, per channel, of values in [0, 1]."""

    mean: list[float]
    std: list[Annotated[float, Field(gt=0)]]


class Compute(Strict):
    """Where to train. Results are identical to the byte for the same device and number of threads."""

    device: str = "auto"  # auto, cpu, cuda, cuda:1, mps, …
    threads: Literal["auto"] | Annotated[int, Field(gt=0, le=1024)] = "auto"


class Experiment(Strict):
    """One network trained one way on one data set."""

    dataset: str
    network: Network
    optimizer: Optimizer
    epochs: Positive
    batch_size: Positive | Literal["full"]
    shuffle: bool = True  # false: in file order
    seed: Seed | None = None  # instead of the pipeline's own
    whole_train: bool = False  # train on val too, for studies that pick nothing
    train_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0  # of every class, for learning curves
    normalize: Literal["none", "symmetric", "imagenet", "dataset"] | Normalization = "dataset"
    augment: Augment = Augment()
    regularization: Regularization = Regularization()
    compute: Compute = Compute()
