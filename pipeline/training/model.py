"""The network of an experiment before its first step, and a table of its layers."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from pipeline.networks import build
from pipeline.system.console import aligned

if TYPE_CHECKING:
    from pipeline.config.experiments import Experiment
    from pipeline.dataset.packed import PackedDataset
    from pipeline.training.data import TrainingData

# Multiplications of a forward pass. With 10.5 million (`mnist-mlp`), two threads took 1.0 times as long as one on an
# AMD EPYC and 1.6 times on an Intel Xeon, beside a busy process on every core 1.9 times. With 43 million
# (`fashion-mnist-mlp`), 0.9 times on the first and 1.2 times on the second
SMALL_STEP = 20_000_000
INITIALIZATION_VALUES = 2**24  # pixels × channels of training images that `initialize` gets
MOST_ROWS = 40  # of the table of layers


def make_model(data: TrainingData, seed: int, weights: Path | None = None) -> nn.Module:
    """The network of the experiment that `data` is for, with the random weights of `seed`, on its device.

    `weights` is a file of pretrained weights for a backbone. Raises UserError as `networks.build` does.
    """
    torch.manual_seed(seed)
    model = build(data.config.network, data.shape, weights).to(data.device)
    if data.device.type == "cuda":
        model = model.to(memory_format=torch.channels_last)
    if initialize := getattr(model, "initialize", None):
        # evenly spaced images: in the file, those of a class may follow each other
        every = math.ceil(len(data.train) * math.prod(data.shape[:3]) / INITIALIZATION_VALUES)
        (pixels,) = data.train.batches([torch.arange(0, len(data.train), every, device=data.device)])
        initialize(data.train.images(pixels))
    if data.group.world_size > 1 and data.device.type == "cuda":  # on CPUs, each process has its own statistics
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return model


def has_small_steps(config: Experiment, packed: PackedDataset) -> bool:
    """Whether threads would wait for each other longer than they compute: in a perceptron on a small batch."""
    if config.network.name != "mlp" or config.batch_size == "full":
        return False
    layers = itertools.pairwise([math.prod(packed.images.shape[1:]), *config.network.hidden, len(packed.classes)])
    return config.batch_size * sum(map(math.prod, layers)) <= SMALL_STEP


def parameter_counts(model: nn.Module) -> tuple[int, int]:
    """The number of all parameters, and of those that train."""
    counts = [(weight.numel(), weight.requires_grad) for weight in model.parameters()]
    return sum(count for count, _ in counts), sum(count for count, trains in counts if trains)


def summary(model: nn.Module) -> list[str]:
    """Lines of a table: each layer with its type and number of parameters, and whether they are frozen.

    In a network of more than MOST_ROWS layers, a row is the deepest block that makes the table short enough.
    """
    layers = [
        (name, module) for name, module in model.named_modules() if next(module.parameters(False), None) is not None
    ]
    depth = max((name.count(".") + 1 for name, _ in layers), default=1)
    while len(names := list(dict.fromkeys(shortened(name, depth) for name, _ in layers))) > MOST_ROWS and depth > 1:
        depth -= 1
    rows = [("layer", "type", "parameters", "")]
    for name in names:
        module = model.get_submodule(name)
        count, trained = parameter_counts(module)
        state = "" if trained == count else "frozen" if not trained else f"{trained:,} train"
        rows.append((name or "(network)", type(module).__name__, f"{count:,}", state))
    return aligned(rows, right=[2])


def shortened(name: str, depth: int) -> str:
    """The first `depth` parts of a module's dotted name."""
    return ".".join(name.split(".")[:depth])
