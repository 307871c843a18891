"""Which images are in which batch of an epoch, and what they are augmented by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, overload

import torch
from torch import Generator, Tensor, nn

from pipeline.system.console import UserError

if TYPE_CHECKING:
    from pipeline.config.experiments import Experiment
    from pipeline.dataset.batches import Batches
    from pipeline.training.distributed import Group
    from pipeline.training.features import Features


class Batch(NamedTuple):
    """Images as they are stored, their labels and augmentation parameters, and where they are in the training data."""

    pixels: Tensor  # (B, H, W, C) uint8, or features (B, F) float32
    labels: Tensor  # (B,) int64
    augmentation: Tensor  # (B, K) float32
    positions: Tensor  # (B,) int64


def batch_size(config: Experiment, count: int) -> int:
    """The number of images in all but the last batch of an epoch of `count` images."""
    return count if config.batch_size == "full" else min(config.batch_size, count)


def batch_starts(model: nn.Module, config: Experiment, count: int, parts: int) -> list[int]:
    """The position of the first image of each batch in an epoch of `count` images.

    Each batch is computed in `parts`, by several processes or one after another. Batch norm needs two images in each:
    a last batch that is too small joins the one before it. Raises UserError where `batch_size` is too small.
    """
    size = batch_size(config, count)
    starts = list(range(0, count, size))
    model.train()
    if has_batch_norm(model):
        if size < 2 * parts:
            raise UserError(
                f"params.yaml: batch_size = {size}: batch norm has no variance of one image;"
                f" expected {2 * parts} or more"
            )
        if count - starts[-1] < 2 * parts and len(starts) > 1:
            starts.pop()
    return starts


def has_batch_norm(model: nn.Module) -> bool:
    """Whether a layer normalizes by the batch. In a frozen backbone none does: it is in evaluation mode."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training for module in model.modules())


def epoch_batches(
    data: Batches | Features, config: Experiment, starts: Sequence[int], seed: int, epoch: int, group: Group
) -> Iterator[tuple[Batch, Batch | None, int]]:
    """This process's shard of every batch, the images to mix it with, and the batch's size over all processes.

    The images to mix with (for MixUp and CutMix, else None) are the batch in reverse order. The order of the images
    and all augmentation parameters come from the seed and the number of the epoch alone.
    """
    count = len(data)
    generator = Generator().manual_seed(seed * 1_000_003 + epoch)
    mixes = data.mixes(config.augment)
    # if the whole data set is one batch, its order matters only where the batch is mixed or divided
    parts = config.grad_accum_steps * group.world_size
    shuffled = config.shuffle and (len(starts) > 1 or mixes or parts > 1)
    order = (torch.randperm(count, generator=generator) if shuffled else torch.arange(count)).to(data.device)
    augmentation = data.draw(config.augment, seed, epoch).to(data.device)
    sizes = [stop - start for start, stop in zip(starts, [*starts[1:], count], strict=True)]
    # gather the labels and parameters of the whole epoch at once: a gather takes as long as a step of a small network
    columns = [column.split(sizes) for column in (order, data.labels[order], augmentation[order])]
    if not mixes:
        columns = [[group.shard(part) for part in column] for column in columns]
    positions, labels, parameters = columns
    columns = [data.batches(positions), labels, parameters, positions]
    for *whole, global_batch_size in zip(*columns, sizes, strict=True):
        if mixes:
            partners = Batch(*(group.shard(tensor.flip(0)) for tensor in whole))
            yield Batch(*map(group.shard, whole)), partners, global_batch_size
        else:
            yield Batch(*whole), None, global_batch_size


@overload
def split_batch(batch: Batch, parts: int) -> Sequence[Batch]: ...
@overload
def split_batch(batch: Batch | None, parts: int) -> Sequence[Batch | None]: ...
def split_batch(batch: Batch | None, parts: int) -> Sequence[Batch | None]:
    """The batch in `parts` contiguous parts that differ by one image at most; as many Nones for no batch."""
    if batch is None or parts == 1:
        return [batch] * parts
    return [Batch(*tensors) for tensors in zip(*(tensor.tensor_split(parts) for tensor in batch), strict=True)]
