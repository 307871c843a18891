"""What the network sees: images of the first batch as the first step takes them, as a grid with their classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from pipeline.dataset.batches import Batches
    from pipeline.training.batching import Batch
    from pipeline.training.distributed import Group
    from pipeline.training.features import Features

SHOWN = 36  # images, evenly spaced in a larger batch
LARGEST = 256  # pixels of a side; they are drawn smaller


class FirstBatch:
    """Takes the first batch part by part, as the processes of `group` train on it; `classes` name its labels."""

    def __init__(self, classes: Sequence[str], group: Group) -> None:
        self.classes, self.group = classes, group
        self.tiles: list[tuple[Tensor, str]] = []  # images (H, W, C) uint8, on the CPU, and their titles
        self.is_complete = False
        self.to_come: Tensor | None = None  # whether to take each image of this process's shard that is still to come

    def take(
        self,
        data: Batches | Features,
        inputs: Tensor,
        batch: Batch,
        global_batch_size: int,
        mix_ratio: Tensor | None = None,
        partner_labels: Tensor | None = None,
    ) -> None:
        """Take the next part of this process's shard: `inputs` is what the network gets for the `batch` of `data`.

        Of mixed images, `mix_ratio` and `partner_labels` are as in `losses.cross_entropy`.
        """
        if self.to_come is None:
            shown = torch.zeros(global_batch_size, dtype=torch.bool)
            shown[torch.arange(SHOWN) * global_batch_size // SHOWN] = True
            self.to_come = self.group.shard(shown)
        here, self.to_come = self.to_come[: len(inputs)], self.to_come[len(inputs) :]
        chosen = here.nonzero().flatten().to(inputs.device)
        images = data.pictures(inputs[chosen], batch.positions[chosen])
        if (factor := -(-max(images.shape[2:]) // LARGEST)) > 1:  # checkpoints hold them
            images = F.avg_pool2d(images, factor)
        pixels = images.permute(0, 2, 3, 1).round().clamp(0, 255).byte().cpu()
        titles = [self.classes[label] for label in batch.labels[chosen].tolist()]
        if mix_ratio is not None and partner_labels is not None:
            others = [self.classes[label] for label in partner_labels[chosen].tolist()]
            titles = [*map(mixed_title, titles, others, mix_ratio[chosen].tolist())]
        self.tiles += zip(pixels.unbind(), titles, strict=True)

    def complete(self) -> None:
        """Put together what all processes have taken, in the order of the batch."""
        self.tiles = [tile for tiles in self.group.all_gather(self.tiles) for tile in tiles]
        self.is_complete = True

    def restore(self, tiles: list[tuple[Tensor, str]]) -> None:
        """Take from a checkpoint what was complete then."""
        self.tiles, self.is_complete = tiles, True

    def draw(self, path: Path) -> None:
        from pipeline.evaluation import grid

        grid.draw_grid(path, [grid.Tile(pixels.numpy(), title, "black") for pixels, title in self.tiles])


def mixed_title(own: str, other: str, ratio: float) -> str:
    """The classes of two mixed images, with the share of each."""
    return own if own == other or ratio == 1 else f"{own} {ratio:.0%}\n{other} {1 - ratio:.0%}"
