"""Batches of a packed data set, on a device: a batch is a list of indices into one uint8 array."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from pipeline.dataset.augmentation import augment, draw
from pipeline.dataset.packed import PackedDataset
from pipeline.system import memory
from pipeline.system.console import UserError

RESIDENT_SHARE = 0.5  # of the free memory of the device that resident images may take
AUGMENTATION = 1 << 40  # added to the seeds of other draws
CHUNK = 2**20  # values: what a CPU makes of so few stays in its caches, and in memory that it has already
AHEAD = 3  # batches read before they are asked for
PART = 2**26  # bytes that go to a GPU at a time: they pass through memory that can't be swapped


class Rows:
    """Some rows of a .npy file: on the device where they fit into `budget` bytes, else read as they are needed."""

    def __init__(self, file: Path, rows: np.ndarray, device: torch.device, budget: int) -> None:
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
        """For each list of positions, the rows there, on the device; they hold until the next are asked for.

        What is not resident is read ahead, on the CPU into the same few places: arrays that outlive what is made of
        the one before would leave holes in memory, more and more of them. (For a GPU, torch keeps such places.)
        """
        if self.resident is not None:
            yield from (self.resident.index_select(0, positions) for positions in chosen)
            return
        pending: deque[Future[Tensor]] = deque()
        most = max(map(len, chosen), default=0)
        places = [self.empty(most) for _ in range(min(AHEAD + 1, len(chosen)))] if self.device.type == "cpu" else [None]
        on_cpu = torch.cat(tuple(chosen)).cpu().split([len(positions) for positions in chosen])  # waits for a GPU once
        with ThreadPoolExecutor(1) as reader:
            for positions, place in zip(on_cpu, itertools.cycle(places), strict=False):
                pending.append(reader.submit(self.read, self.rows[positions.numpy()], place))
                if len(pending) > AHEAD:
                    yield pending.popleft().result().to(self.device, non_blocking=True)
            while pending:
                yield pending.popleft().result().to(self.device, non_blocking=True)

    def empty(self, count: int) -> Tensor:
        kind = torch.from_numpy(np.empty(0, self.dtype)).dtype
        return torch.empty((count, *self.shape), dtype=kind, pin_memory=self.device.type == "cuda")

    def read(self, rows: np.ndarray, place: Tensor | None = None) -> Tensor:
        """By plain reads: the pages of a memory map would count as this process's own."""
        rows_read = self.empty(len(rows)) if place is None else place[: len(rows)]
        place_bytes = rows_read.view(-1).view(torch.uint8).numpy().data
        runs = [*np.flatnonzero(np.diff(rows, prepend=-2) != 1), len(rows)]  # of rows that follow each other
        with self.file.open("rb", buffering=0) as file:
            for first, last in itertools.pairwise(runs):
                file.seek(self.start + int(rows[first]) * self.row_bytes)
                at, stop = first * self.row_bytes, last * self.row_bytes
                while at < stop:  # a read gives 2 GiB at most
                    count = file.readinto(place_bytes[at:stop])
                    if not count:
                        raise UserError(f"{self.file} ends too early: run dvc repro pack@{self.file.parent.name}")
                    at += count
        return rows_read


class Batches:
    """Images and labels of some rows of a packed data set, augmented and normalised batch by batch on a device."""

    def __init__(
        self,
        packed: PackedDataset,
        rows: np.ndarray,
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
        self.place = torch.empty(0)  # of the images made last, for the next: see Rows.batches

    def __len__(self) -> int:
        return len(self.labels)

    def normalize_once(self) -> None:
        """For a training that takes all images, unchanged, at every step."""
        if self.normalized is None:
            (pixels,) = self.batches([torch.arange(len(self), device=self.device)])
            self.normalized = self.images(pixels)

    def view(self, epoch: int) -> Batches:
        """What an epoch trains on: always the same pixels, augmented anew."""
        return self

    def draw(self, config: Any, seed: int, epoch: int) -> Tensor:
        """What an epoch's images are augmented by: (N, K) float32 on the CPU."""
        return draw(config, len(self), Generator().manual_seed(seed * 1_000_003 + epoch + AUGMENTATION))

    def mixes(self, config: Any) -> bool:
        """Whether images are mixed with others."""
        return bool(config.mixup or config.cutmix)

    def flips(self, config: Any) -> bool:
        """Whether an image is judged together with its mirror image."""
        return config.tta

    def batches(self, chosen: Sequence[Tensor]) -> Iterator[Tensor]:
        """For each list of positions, pixels (B, H, W, C) uint8, which hold until the next are asked for."""
        return self.pixels.batches(chosen) if self.normalized is None else iter([self.normalized])

    def images(self, pixels: Tensor, config: Any = None, draws: Tensor | None = None) -> Tensor:
        """From (B, H, W, C) uint8 to (B, C, H, W) float32, augmented as `config` says by `draws`, normalised.

        They hold until the next are asked for.
        """
        if self.normalized is not None:
            return pixels
        images = pixels.permute(0, 3, 1, 2)  # in the order of channels_last, which convolutions like best
        size = max(1, CHUNK // math.prod(images.shape[1:]))
        if self.device.type != "cpu" or len(images) <= size:
            return self.prepared(images, config, draws)
        if len(self.place) < len(images):
            with torch.inference_mode(False):  # images to train on may take its place
                self.place = torch.empty_like(images, dtype=torch.float32)
        made = self.place[: len(images)]
        for start in range(0, len(images), size):
            chunk = slice(start, start + size)
            made[chunk] = self.prepared(images[chunk], config, None if draws is None else draws[chunk])
        return made

    def prepared(self, images: Tensor, config: Any, draws: Tensor | None) -> Tensor:
        images = images.float()
        if draws is not None and draws.shape[1]:  # of no column nothing is random
            images = augment(images, config, draws)
        return self.normalize(images)


class Normalize:
    """From (B, C, H, W) float32 in [0, 255] to (value / 255 - mean) / std per channel, in place."""

    def __init__(self, mean: list[float], std: list[float], device: torch.device) -> None:
        means, stds = (torch.tensor(values, device=device).view(1, -1, 1, 1) for values in (mean, std))
        self.scale, self.shift = 1 / (255 * stds), means / stds

    def __call__(self, images: Tensor) -> Tensor:
        return images.mul_(self.scale).sub_(self.shift)


def resident_budget(device: torch.device, sharing: int = 1) -> int:
    """Bytes of images to hold on a device whose free memory so many take a part of."""
    return int(RESIDENT_SHARE * free_memory(device)) // sharing


def free_memory(device: torch.device) -> int:
    """Bytes free on a device; on the CPU what this process may still take."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else memory.available()
