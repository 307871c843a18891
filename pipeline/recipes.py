"""What an experiment in `params.yaml` may say: network, optimizer, schedule of epochs, augmentation."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

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


Network = Annotated[MLP | CNN | Transfer, Field(discriminator="name")]


Decay = Annotated[float, Field(ge=0)]


class Optimizer(Strict):
    """The arguments of torch.optim's class of that name."""

    name: Literal["sgd", "adam", "adamw", "muon"]
    lr: Annotated[float, Field(gt=0, le=1e38)]  # what a float32 holds
    momentum: Fraction = 0.0
    nesterov: bool = False
    weight_decay: Decay = 0.0
    decay_biases: bool = True  # whether biases and the weights of norms decay too
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0  # the rate of each block, against the one behind it

    @model_validator(mode="after")
    def momentum_is_for_sgd_and_muon(self) -> Optimizer:
        if self.name in ("adam", "adamw") and self.momentum:
            raise ValueError(f"momentum is for sgd and muon; {self.name} has its own")
        if self.name != "sgd" and self.nesterov:
            raise ValueError(f"nesterov is for sgd; {self.name} has its own momentum")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class Schedule(Strict):
    """How the learning rate goes: up over `warmup` of all steps, then constant, or down to 0."""

    name: Literal["constant", "linear", "cosine", "one_cycle"] = "constant"
    warmup: Fraction = 0.0  # one_cycle: 0.3

    @model_validator(mode="before")
    @classmethod
    def one_cycle_warms_up(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("name") == "one_cycle":
            return {"warmup": 0.3, **value}
        return value


class Regularization(Strict):
    """Terms added to the loss: `l1` times the sum of absolute weights, `l2` times the sum of their squares."""

    l1: Decay = 0.0
    l2: Decay = 0.0
    biases: bool = True  # whether biases count


def as_pair(limits: Any) -> Any:
    if not isinstance(limits, list | tuple) or len(limits) != 2:
        raise ValueError(f"{limits!r}: expected [smallest, largest]")
    return tuple(limits)


def smallest_first(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] > limits[1]:
        raise ValueError(f"[{limits[0]:g}, {limits[1]:g}]: expected [smallest, largest]")
    return limits


Probability = Annotated[float, Field(ge=0, le=1)]
Change = Annotated[float, Field(ge=0, le=100)]  # relative: 0.4 is from 0.6 to 1.4 times
Area = Annotated[float, Field(gt=0, le=1)]  # fraction of the image
Zoom = Annotated[float, Field(ge=0.01, le=100)]
Limits = (BeforeValidator(as_pair), AfterValidator(smallest_first))  # of a tuple: it can be hashed, YAML's list can't


class Erase(Strict):
    """Random erasing: a black rectangle at a random place."""

    probability: Probability = 0.5
    area: Annotated[tuple[Area, Area], *Limits] = (0.02, 0.33)  # uniform between


class RandAugment(Strict):
    """So many random operations, one after another, each as strong as `magnitude` says."""

    operations: Annotated[int, Field(gt=0, le=14)] = 2
    magnitude: Annotated[int, Field(ge=0, le=30)] = 9


class Augment(Strict):
    """Random changes to training images, drawn anew for every image and epoch; what draws are of is uniform."""

    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0  # degrees, ± this
    horizontal_flip: Probability = 0.0
    vertical_flip: Probability = 0.0
    translate: Annotated[float, Field(ge=0, le=1)] = 0.0  # ± this fraction of the side
    scale: Annotated[tuple[Zoom, Zoom], *Limits] = (1.0, 1.0)
    crop_padding: Annotated[int, Field(ge=0, le=8192)] = 0  # pixels, by reflection, before a crop of the old size
    brightness: Change = 0.0
    contrast: Change = 0.0
    saturation: Change = 0.0
    erase: Erase | None = None
    randaugment: RandAugment | None = None
    mixup: Annotated[float, Field(ge=0, le=100)] = 0.0  # alpha of the Beta distribution of shares; 0: no mixing
    cutmix: Annotated[float, Field(ge=0, le=100)] = 0.0


class Normalization(Strict):
    """Subtract `mean`, divide by `std`, per channel, of values in [0, 1]."""

    mean: list[float]
    std: list[Annotated[float, Field(gt=0)]]


class Compute(Strict):
    """Where to train. Results are identical to the byte for the same device and number of threads."""

    device: str = "auto"  # auto, cpu, cuda, cuda:1, mps, …
    threads: Literal["auto"] | Annotated[int, Field(gt=0, le=1024)] = "auto"
    resident_mb: Literal["auto"] | Annotated[int, Field(ge=0)] = "auto"  # of images held on the device; others stream
    graphs: bool = True  # CUDA graphs, where they can be had
    devices: Annotated[int, Field(gt=0, le=1024)] = 1  # that train together, on each machine; one process each
    nodes: Annotated[int, Field(gt=0, le=1024)] = 1  # machines; see docs/scaling.md

    @property
    def world(self) -> int:
        """Number of processes."""
        return self.devices * self.nodes

    @model_validator(mode="after")
    def several_devices_are_of_a_kind_that_can_be_joined(self) -> Compute:
        if self.world > 1 and self.device not in ("auto", "cpu", "cuda"):
            several = f"devices = {self.devices}, nodes = {self.nodes}"
            raise ValueError(f"device = {self.device!r} with {several}; expected auto, cuda or cpu")
        return self


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
    views: Positive | None = None  # augmented versions of each image, for a frozen backbone; null: one an epoch
    schedule: Schedule = Schedule()
    regularization: Regularization = Regularization()
    label_smoothing: Fraction = 0.0
    class_weights: Literal["none", "balanced"] = "none"
    clip_norm: Annotated[float, Field(gt=0)] | None = None  # the largest norm of all gradients together
    accumulate: Literal["auto"] | Positive = "auto"  # parts that a batch is computed in; auto: more as memory runs out
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None  # decay of an average of the weights, which is the result
    unfreeze_every: Positive | None = None  # epochs after which one more block trains, from the head on
    keep: Literal["last", "best"] = "last"  # the epoch whose weights are kept; best: lowest loss on val
    patience: Positive | None = None  # epochs without a lower loss on val after which training ends
    test_flip: bool = False  # predict the mean of an image and its mirror
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    compile: bool = False  # by torch.compile; takes a minute before the first step
    compute: Compute = Compute()

    @model_validator(mode="after")
    def choices_need_validation_images(self) -> Experiment:
        chooses = "keep = best" if self.keep == "best" else f"patience = {self.patience}" if self.patience else None
        if chooses and self.whole_train:
            raise ValueError(f"{chooses} picks on validation images, and whole_train trains on them; expected one")
        return self

    @model_validator(mode="after")
    def parts_fit_the_batch(self) -> Experiment:
        if isinstance(self.accumulate, int) and isinstance(self.batch_size, int) and self.accumulate > self.batch_size:
            raise ValueError(f"accumulate = {self.accumulate} parts of batch_size = {self.batch_size}; expected fewer")
        return self

    @model_validator(mode="after")
    def views_are_of_a_frozen_backbone(self) -> Experiment:
        frozen = isinstance(self.network, Transfer) and self.network.freeze
        if self.views and not frozen:
            raise ValueError(f"views = {self.views} is for a frozen backbone; expected network.freeze: true")
        if self.views and self.compute.world > 1:
            raise ValueError(f"views = {self.views} is for one device; compute has {self.compute.world}")
        if self.unfreeze_every and frozen:
            raise ValueError("unfreeze_every and network.freeze exclude each other; expected one of them")
        return self
