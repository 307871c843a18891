"""What the trainings of an experiment share: data, device, and the paths of their checkpoints and features."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pipeline.dataset.packed import PackedDataset
from pipeline.system.console import UserError
from pipeline.system.device import make_deterministic, select_device
from pipeline.system.project import CHECKPOINTS
from pipeline.system.version import version
from pipeline.training import provenance
from pipeline.training.features import features_folder
from pipeline.training.model import has_small_steps
from pipeline.training.times import Stopwatch, TrainTime

if TYPE_CHECKING:
    from pipeline.config.experiments import Experiment
    from pipeline.training.distributed import Group
    from pipeline.training.trainings import Training


@dataclass(frozen=True)
class Setup:
    """An experiment, its data and where it trains: in one of the processes of `group`, on `device`."""

    name: str
    config: Experiment
    seed: int
    packed: PackedDataset
    weights: Path | None  # of a pretrained backbone
    group: Group
    device: torch.device
    threads: int
    stopwatch: Stopwatch

    @cached_property
    def inputs(self) -> dict[str, Any]:
        return provenance.inputs(self.name, self.config, self.seed, self.packed, self.weights)

    @cached_property
    def identity(self) -> str:
        """A fingerprint of config, seed and data, the same on every machine."""
        return fingerprint(self.inputs)

    @cached_property
    def code(self) -> str:
        libraries = provenance.library_versions(self.config.network)
        return fingerprint(version("dataset", "networks", "training", "evaluation"), libraries)

    @property
    def environment(self) -> list[object]:
        return [self.device.type, self.threads, self.config.compute.portable]

    def check_all_equal(self) -> None:
        """Raise UserError unless all processes have the same config, data, device and code."""
        self.group.check_all_equal(fingerprint(self.identity, self.environment, self.code))

    def checkpoint(self, number: int) -> Path:
        """The checkpoint of training `number`. Other config, data, device or code give it another name."""
        key = fingerprint(self.identity, self.environment, self.code, number)
        return CHECKPOINTS / self.name / f"{key}.pt"

    def features(self, training: Training, is_augmented: bool) -> Path:
        """The folder for the features of a frozen backbone. With `views` it serves other experiments too.

        A pretrained backbone gives the same features for every seed, unless the images are augmented.
        """
        seed = training.seed if self.weights is None or is_augmented else None
        made_of = [backbone_settings(self.config), self.inputs["data"], self.environment]
        folder = CHECKPOINTS if self.config.views else CHECKPOINTS / self.name
        return features_folder(folder, fingerprint(made_of, seed, training.fold), self.code)

    def train_time(self, epochs: int) -> TrainTime:
        """How long it took until now; `epochs` is how many the first training had."""
        device, watch = self.device, self.stopwatch
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        return TrainTime(watch.start, watch.seconds(), name, self.threads, self.group.world_size, watch.epochs[:epochs])


def prepare(name: str, config: Experiment, seed: int, group: Group) -> Setup:
    """Open the data, choose a device and connect with the other processes.

    Raises UserError for data or weights that are missing or damaged, and where processes have other ones.
    """
    stopwatch = Stopwatch()
    packed = PackedDataset.of(config.dataset)
    weights = pretrained(name, config)
    if not group.local_rank:  # one process on each machine
        packed.verify()
    device, threads = select_device(config.compute, group.local_rank, has_small_steps(config, packed))
    make_deterministic(device, threads, config.precision, config.compute.portable)
    group.connect(device)
    setup = Setup(name, config, seed, packed, weights, group, device, threads, stopwatch)
    setup.check_all_equal()
    return setup


def pretrained(name: str, config: Experiment) -> Path | None:
    """The file that the stage `weights` fetched, if the network starts from one."""
    if not getattr(config.network, "weights", None):
        return None
    file = next(Path("data/weights", name).glob("[!.]*"), None)
    if file is None:
        raise UserError(f"data/weights/{name} holds no weights: run dvc repro weights@{name}")
    return file


def backbone_settings(config: Experiment) -> dict[str, Any]:
    """What the features of a frozen backbone depend on: every head on the same ones finds them."""
    keys = dict.fromkeys(("normalize", "augment", "precision", "train_on_val", "train_fraction"), True)
    return config.model_dump(mode="json", include={"network": {"name", "model", "replace"}, **keys})


def fingerprint(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
