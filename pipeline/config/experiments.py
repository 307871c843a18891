"""What an experiment in `params.yaml` may say: network, optimizer, schedule of epochs, augmentation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.config.augmentation import Augment
from pipeline.config.fields import Fraction, Positive, Seed, Strict
from pipeline.config.networks import BackboneConfig, Network, TimmConfig

Decay = Annotated[float, Field(ge=0)]
LearningRate = Annotated[float, Field(gt=0, le=1e38)]  # what a float32 holds
TTA = bool | Literal["flip_and_shift"]


class OptimizerConfig(Strict):
    """Arguments of torch.optim's class of that name, and some of this project's own."""

    name: Literal["sgd", "adam", "adamw", "muon"]
    lr: LearningRate
    bias_lr: LearningRate | None = None  # of biases and norms; for them, lr · weight_decay stays the same
    momentum: Fraction = 0.0  # muon: 0.95
    nesterov: bool = False
    weight_decay: Decay = 0.0
    decay_biases: bool = True  # whether biases and the weights of norms decay too
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0  # lr of each block ÷ lr of the block after it
    ns_steps: Annotated[int, Field(gt=0, lt=100)] = 5  # muon: Newton-Schulz iterations
    normalize_weights: bool = False  # muon: before each step; `lr` is then the size of a step relative to the weights
    rest: OptimizerConfig | None = None  # muon: of what it does not train; else adamw, with its lr and weight_decay

    @model_validator(mode="before")
    @classmethod
    def muon_has_momentum(cls, value: object) -> object:
        if isinstance(value, dict) and value.get("name") == "muon":
            return {"momentum": 0.95, **value}
        return value

    @model_validator(mode="after")
    def every_key_is_for_its_optimizer(self) -> OptimizerConfig:
        if self.name in ("adam", "adamw") and self.momentum:
            raise ValueError(f"momentum is for sgd and muon; {self.name} has its own")
        of_muon = {"ns_steps", "normalize_weights", "rest"} & self.model_fields_set
        if self.name != "muon" and of_muon:
            raise ValueError(f"{min(of_muon)} is for muon; {self.name} has no such thing")
        if self.rest is not None and self.rest.name == "muon":
            raise ValueError("rest.name = 'muon': it trains what muon does not; expected sgd, adam or adamw")
        of_rest = {"bias_lr", "decay_biases"} & self.model_fields_set
        if self.rest is not None and of_rest:
            raise ValueError(f"{min(of_rest)}: rest trains the biases; expected it there, rest.{min(of_rest)}")
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
    def one_cycle_warms_up(cls, value: object) -> object:
        if isinstance(value, dict) and value.get("name") == "one_cycle":
            return {"warmup": 0.3, **value}
        return value


class Regularization(Strict):
    """Terms added to the loss: `l1` times the sum of absolute weights, `l2` times the sum of their squares."""

    l1: Decay = 0.0
    l2: Decay = 0.0
    biases: bool = True  # whether biases count


class Normalization(Strict):
    """Subtract `mean`, divide by `std`, per channel, of values in [0, 1]."""

    mean: list[float]
    std: list[Annotated[float, Field(gt=0)]]


class Compute(Strict):
    """Where to train. Results are identical to the byte for the same kind of processor and number of threads."""

    portable: bool = False  # the same bytes on every x86-64 machine with AVX2, on its CPU
    device: str = "auto"  # auto, cpu, cuda, cuda:1, mps, …
    threads: Literal["auto"] | Annotated[int, Field(gt=0, le=1024)] = "auto"
    cache_mb: Literal["auto"] | Annotated[int, Field(ge=0)] = "auto"  # of images held on the device; others stream
    cuda_graphs: bool = True  # CUDA graphs, where they can be had
    devices: Annotated[int, Field(gt=0, le=1024)] = 1  # that train together, on each machine; one process each
    nodes: Annotated[int, Field(gt=0, le=1024)] = 1  # machines; see docs/scaling.md

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return self.devices * self.nodes

    @model_validator(mode="after")
    def several_devices_are_of_a_kind_that_can_be_joined(self) -> Compute:
        if self.world_size > 1 and self.device not in ("auto", "cpu", "cuda"):
            several = f"devices = {self.devices}, nodes = {self.nodes}"
            raise ValueError(f"device = {self.device!r} with {several}; expected auto, cuda or cpu")
        return self

    @model_validator(mode="after")
    def portable_is_for_the_cpu(self) -> Compute:
        if self.portable and self.device not in ("auto", "cpu"):
            raise ValueError(f"portable = true with device = {self.device!r}; expected auto or cpu")
        return self


class Experiment(Strict):
    """One network trained one way on one data set."""

    dataset: str
    network: Network
    optimizer: OptimizerConfig
    epochs: Positive
    batch_size: Positive | Literal["full"]
    shuffle: bool = True  # false: in file order
    seed: Seed | None = None  # instead of the pipeline's own
    seeds: Annotated[int, Field(gt=0, le=1000)] = 1  # trainings, with this seed and those after it; the first predicts
    folds: Literal["all"] | None = None  # train once for each fold of the data set; the first model predicts
    train_on_val: bool = False  # train on val too, for studies that pick nothing
    train_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0  # of every class, for learning curves
    normalize: Literal["none", "symmetric", "imagenet", "dataset", "pretrained"] | Normalization = "dataset"
    augment: Augment = Augment()
    views: Positive | None = None  # augmented versions of each image, for a frozen backbone; null: one an epoch
    schedule: Schedule = Schedule()
    regularization: Regularization = Regularization()
    label_smoothing: Fraction = 0.0
    class_weights: Literal["none", "balanced"] = "none"
    grad_clip: Annotated[float, Field(gt=0)] | None = None  # the largest norm of all gradients together
    grad_accum_steps: Positive = 1  # parts that a batch is computed in, one after another
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None  # decay of the average of the weights that is the model
    unfreeze_every: Positive | None = None  # epochs after which one more block trains, from the head on
    checkpoint: Literal["last", "best"] = "last"  # the epoch whose weights are kept; best: lowest loss on val
    patience: Positive | None = None  # epochs without a lower loss on val after which training ends
    tta: TTA = False  # predict the mean of an image and its mirror; flip_and_shift: also of both moved by a pixel
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    compile: bool = False  # by torch.compile; takes up to a minute before the first step
    compute: Compute = Compute()

    @model_validator(mode="before")
    @classmethod
    def timm_knows_its_normalization(cls, value: object) -> object:
        if (
            isinstance(value, dict)
            and isinstance(value.get("network"), dict)
            and value["network"].get("name") == "timm"
        ):
            return {"normalize": "pretrained", **value}
        return value

    @model_validator(mode="after")
    def only_timm_knows_its_normalization(self) -> Experiment:
        if self.normalize == "pretrained" and not isinstance(self.network, TimmConfig):
            raise ValueError("normalize = 'pretrained' is for network.name = 'timm'; expected imagenet or another")
        return self

    def normalization(self) -> str | Normalization:
        """What `normalize` says; for `pretrained`, the numbers. Raises UserError where timm can't tell them."""
        if self.normalize == "pretrained" and isinstance(self.network, TimmConfig):
            mean, std = self.network.normalization()
            return Normalization(mean=mean, std=std)
        return self.normalize

    @model_validator(mode="after")
    def choices_need_validation_images(self) -> Experiment:
        chooses = (
            "checkpoint = best"
            if self.checkpoint == "best"
            else f"patience = {self.patience}"
            if self.patience
            else None
        )
        if chooses and self.train_on_val:
            raise ValueError(f"{chooses} picks on validation images, and train_on_val trains on them; expected one")
        return self

    @model_validator(mode="after")
    def every_fold_validates_its_own_model(self) -> Experiment:
        if self.folds and self.seeds > 1:
            raise ValueError(f"folds = 'all' and seeds = {self.seeds} exclude each other; expected one of them")
        if self.folds and self.train_on_val:
            raise ValueError(
                "folds = 'all' validates on each fold, and train_on_val trains on it; expected one of them"
            )
        return self

    @model_validator(mode="after")
    def portable_is_plain_float32(self) -> Experiment:
        if self.compute.portable and (self.compile or self.precision != "fp32"):
            wrong = "compile = true" if self.compile else f"precision = '{self.precision}'"
            raise ValueError(f"compute.portable = true with {wrong}; expected compile: false and precision: fp32")
        return self

    @model_validator(mode="after")
    def parts_fit_the_batch(self) -> Experiment:
        if isinstance(self.batch_size, int) and self.grad_accum_steps > self.batch_size:
            raise ValueError(
                f"grad_accum_steps = {self.grad_accum_steps} parts of batch_size = {self.batch_size}; expected fewer"
            )
        return self

    @model_validator(mode="after")
    def views_are_of_a_frozen_backbone(self) -> Experiment:
        frozen = isinstance(self.network, BackboneConfig) and self.network.freeze
        if self.views and not frozen:
            raise ValueError(f"views = {self.views} is for a frozen backbone; expected network.freeze: true")
        if self.views and self.compute.world_size > 1:
            raise ValueError(f"views = {self.views} is for one device; compute has {self.compute.world_size}")
        if self.views and (self.augment.mixup or self.augment.cutmix):
            raise ValueError(
                f"views = {self.views} keeps features, which can't be mixed; expected no mixup and no cutmix"
            )
        if self.unfreeze_every and frozen:
            raise ValueError("unfreeze_every and network.freeze exclude each other; expected one of them")
        return self
