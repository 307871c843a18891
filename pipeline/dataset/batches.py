"""Batches of a packed data set, on a device: a batch is a list of indices into one uint8 array."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.dataset.augmentation import augment, draw
from pipeline.dataset.packed import PackedDataset
from pipeline.system import memory
from pipeline.system.console import UserError

if TYPE_CHECKING:
    from pipeline.config.augmentation import Augment
    from pipeline.config.experiments import TTA, Experiment

RESIDENT_SHARE = 0.5  # the fraction of a device's free memory that resident images may take
CHUNK = 2**20  # values of images that a CPU prepares at a time: so few stay in its caches
AHEAD = 3  # batches that are read before they are asked for
PART = 2**26  # bytes that are copied to a GPU at a time, through pinned memory


class Rows:
    """Some rows of a .npy file.

    They are resident on the device if they fit into `budget` bytes; otherwise each batch is read when it is needed.
    """

    def __init__(self, file: Path, rows: NDArray[np.int64], device: torch.device, budget: int) -> None:
        header = np.load(file, mmap_mode="r")
        self.file, self.rows, self.device, self.budget = file, rows, device, budget
        self.shape, self.dtype, self.start = header.shape[1:], header.dtype, header.offset
        self.row_bytes = int(np.prod(self.shape)) * self.dtype.itemsize
        self.resident = self.all() if len(rows) * self.row_bytes <= budget else None

    def all(self) -> Tensor:
        """Every row, on the device."""
        if self.device.type == "cpu":
            return self.read(self.rows)
        rows = self.empty(0).new_empty((len(self.rows), *self.shape), device=self.device)
        size = max(1, PART // self.row_bytes)
        for start in range(0, len(rows), size):
            rows[start : start + size] = self.read(self.rows[start : start + size])
        return rows

    def batches(self, chosen: Sequence[Tensor]) -> Iterator[Tensor]:
        """For each list of positions, the rows there, on the device. The next batch may overwrite them.

        Rows that are not resident are read ahead. On the CPU they are read into the same few buffers in turn, because
        a new array for each batch would fragment memory. (For a GPU, torch reuses pinned memory by itself.)
        """
        if self.resident is not None:
            yield from (self.resident.index_select(0, positions) for positions in chosen)
            return
        pending: deque[Future[Tensor]] = deque()
        most = max(map(len, chosen), default=0)
        places = [self.empty(most) for _ in range(min(AHEAD + 1, len(chosen)))] if self.device.type == "cpu" else [None]
        on_cpu = torch.cat(tuple(chosen)).cpu().split([len(positions) for positions in chosen])  # one wait for a GPU
        with ThreadPoolExecutor(1) as reader:
            for positions, place in zip(on_cpu, itertools.cycle(places), strict=False):
                pending.append(reader.submit(self.read, self.rows[positions.numpy()], place))
                if len(pending) > AHEAD:
                    yield pending.popleft().result().to(self.device, non_blocking=True)
            while pending:
                yield pending.popleft().result().to(self.device, non_blocking=True)

    def empty(self, count: int) -> Tensor:
        """Memory on the CPU for `count` rows, pinned if they go to a GPU."""
        kind = torch.from_numpy(np.empty(0, self.dtype)).dtype
        return torch.empty((count, *self.shape), dtype=kind, pin_memory=self.device.type == "cuda")

    def read(self, rows: NDArray[np.int64], place: Tensor | None = None) -> Tensor:
        """Rows of the file on the CPU, written to the start of `place` if there is one.

        Plain reads, because the pages of a memory map would count as this process's memory. Raises UserError if the
        file ends too early.
        """
        rows_read = self.empty(len(rows)) if place is None else place[: len(rows)]
        place_bytes = rows_read.view(-1).view(torch.uint8).numpy().data
        # rows that follow each other are read at once
        runs = [*np.flatnonzero(np.diff(rows, prepend=-2) != 1), len(rows)]
        with self.file.open("rb", buffering=0) as file:
            for first, last in itertools.pairwise(runs):
                file.seek(self.start + int(rows[first]) * self.row_bytes)
                at, stop = first * self.row_bytes, last * self.row_bytes
                while at < stop:  # one read returns at most 2 GiB
                    count = file.readinto(place_bytes[at:stop])
                    if not count:
                        raise UserError(f"{self.file} ends too early: run dvc repro pack@{self.file.parent.name}")
                    at += count
        return rows_read


class Batches:
    """Images and labels of some rows of a packed data set, augmented and normalized batch by batch on a device."""

    def __init__(
        self,
        packed: PackedDataset,
        rows: NDArray[np.int64],
        mean: list[float],
        std: list[float],
        device: torch.device,
        budget: int,
    ) -> None:
        self.device = device
        self.pixels = Rows(packed.file, rows, device, budget)
        self.labels = torch.from_numpy(packed.labels[rows]).to(device)
        self.classes = len(packed.classes)
        self.normalize = Normalize(mean, std, device)
        self.normalized: Tensor | None = None
        self.place = torch.empty(0)  # a buffer that every batch is prepared in

    def __len__(self) -> int:
        return len(self.labels)

    def normalize_once(self) -> None:
        """Normalize all images now, for a training that takes all of them, without augmentation, at every step."""
        if self.normalized is None:
            (pixels,) = self.batches([torch.arange(len(self), device=self.device)])
            self.normalized = self.images(pixels)

    def view(self, epoch: int) -> Batches:
        """What an epoch trains on: the same pixels in every epoch."""
        return self

    def draw(self, config: Augment, seed: int, epoch: int) -> Tensor:
        """The parameters of an epoch's augmentation, one row for each image: (N, K) float32 on the CPU."""
        return draw(config, len(self), seed, epoch)

    def mixes(self, config: Augment) -> bool:
        """Whether the config mixes images with others of their batch."""
        return bool(config.mixup or config.cutmix)

    def tta(self, config: Experiment) -> TTA:
        """Over which views of an image predictions are averaged."""
        return config.tta

    def batches(self, chosen: Sequence[Tensor]) -> Iterator[Tensor]:
        """For each list of positions, pixels (B, H, W, C) uint8. The next batch may overwrite them.

        After `normalize_once`, images (B, C, H, W) float32: all in their order, or some, at the positions.
        """
        if (images := self.normalized) is None:
            return self.pixels.batches(chosen)
        return (images if len(positions) == len(self) else images[positions] for positions in chosen)

    def images(self, pixels: Tensor, config: Augment | None = None, draws: Tensor | None = None) -> Tensor:
        """From (B, H, W, C) uint8 to (B, C, H, W) float32, augmented as `config` and `draws` say, and normalized.

        On the CPU the next batch may overwrite them.
        """
        if self.normalized is not None:
            return pixels
        images = pixels.permute(0, 3, 1, 2)  # still channels_last in memory, which is fastest for convolutions
        size = max(1, CHUNK // math.prod(images.shape[1:]))
        if self.device.type != "cpu" or len(images) <= size:
            return self.prepared(images, config, draws)
        if len(self.place) < len(images):
            with torch.inference_mode(False):  # else no later training step could use the buffer
                self.place = torch.empty_like(images, dtype=torch.float32)
        made = self.place[: len(images)]
        for start in range(0, len(images), size):
            chunk = slice(start, start + size)
            made[chunk] = self.prepared(images[chunk], config, None if draws is None else draws[chunk])
        return made

    def pictures(self, inputs: Tensor, positions: Tensor) -> Tensor:
        """What a network sees in its `inputs` (B, C, H, W): they without the normalization, in [0, 255]."""
        return self.normalize.undo(inputs)

    def prepared(self, images: Tensor, config: Augment | None, draws: Tensor | None) -> Tensor:
        images = images.float()
        if config is not None and draws is not None and draws.shape[1]:  # without columns, nothing is random
            images = augment(images, config, draws)
        return self.normalize(images)


class Normalize:
    """From (B, C, H, W) float32 in [0, 255] to (value / 255 - mean) / std per channel, in place."""

    def __init__(self, mean: list[float], std: list[float], device: torch.device) -> None:
        means, stds = (torch.tensor(values, device=device).view(1, -1, 1, 1) for values in (mean, std))
        self.scale, self.shift = 1 / (255 * stds), means / stds

    def __call__(self, images: Tensor) -> Tensor:
        return images.mul_(self.scale).sub_(self.shift)

    def undo(self, images: Tensor) -> Tensor:
        return (images + self.shift) / self.scale


def resident_budget(device: torch.device, sharing: int = 1) -> int:
    """Bytes of images to hold on a device, when `sharing` users of its free memory each hold some."""
    return int(RESIDENT_SHARE * free_memory(device)) // sharing


def free_memory(device: torch.device) -> int:
    """Free bytes on a device; for the CPU, what this process may still take."""
    if device.type != "cuda":
        return memory.available()
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # torch keeps what it has freed
    return torch.cuda.mem_get_info(device)[0] + unused
