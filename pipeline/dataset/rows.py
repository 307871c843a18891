"""Rows of a .npy file on a device: resident, or read as they are needed."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.system.console import UserError

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
        on_cpu = torch.cat(tuple(chosen)).cpu().split([len(positions) for positions in chosen])  # one wait for the GPU
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
