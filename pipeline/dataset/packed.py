"""A packed data set: one array of images, and a table with a row for each."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipeline.system import readers
from pipeline.system.console import UserError

if TYPE_CHECKING:
    import pandas as pd

NORMALIZATIONS = {
    "none": ([0.0], [1.0]),  # values in [0, 1]
    "symmetric": ([0.5], [0.5]),  # in [-1, 1]
    "imagenet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),  # torchvision's pretrained models
}
INDEX: dict[str, type] = {"path": str, "label": str, "split": str, "train_order": float}
VERIFIED = 2**31  # bytes of images that are compared with their checksum: one or two seconds


class PackedDataset:
    """`data/packed/<data set>`: images, and for each its path, class and split.

    Raises UserError if it is not there, or where its files are damaged or do not belong together.
    """

    def __init__(self, folder: Path) -> None:
        self.stage = f"pack@{folder.name}"
        if not folder.exists():
            raise readers.missing(folder, self.stage)
        about = folder / "meta.json"
        self.meta = readers.read_description(about, self.stage)
        sizes: dict[str, Any] = {key: self.meta.get(key) for key in ("images", "height", "width", "channels")}
        classes = self.meta.get("classes")
        if reason := readers.fault(sizes, classes, self.meta.get("mean"), self.meta.get("std")):
            raise readers.damaged(about, reason, self.stage)
        for key, kind in (("sha256", str), ("preprocessing", dict)):
            if not isinstance(self.meta.get(key), kind):
                raise readers.damaged(about, f"it has no {key}", self.stage)
        self.classes: list[str] = self.meta["classes"]
        self.file = folder / "images.npy"
        self.images = readers.open_images(self.file, tuple(sizes.values()), self.stage)  # (N, H, W, C) uint8
        columns = self.columns("label", "split", "train_order")
        numbers = {name: number for number, name in enumerate(self.classes)}
        try:
            self.labels = mapped(columns["label"], numbers.__getitem__)  # (N,) int64
        except KeyError as unknown:
            raise readers.damaged(
                about, f"index.parquet has images of {unknown}, which is none of its classes", self.stage
            ) from None
        self.split = columns["split"]
        self.train_order = np.from_dlpack(columns["train_order"].combine_chunks())

    def columns(self, *names: str) -> pa.Table:
        """Columns of `INDEX`, a row for each image."""
        kinds = {name: INDEX[name] for name in names}
        return readers.read_table(self.file.with_name("index.parquet"), kinds, len(self.images), self.stage)

    @cached_property
    def index(self) -> pd.DataFrame:
        """The whole table, a row for each image."""
        return self.columns(*INDEX).to_pandas()

    def verify(self) -> None:
        """Compare the images with their checksum, unless there are more than `VERIFIED` bytes of them.

        Raises UserError if they differ.
        """
        if self.images.nbytes > VERIFIED:
            return
        with self.file.open("rb") as file:
            file.seek(-self.images.nbytes, os.SEEK_END)
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != self.meta["sha256"]:
            raise readers.damaged(self.file, "its pixels have another checksum than meta.json says", self.stage)

    def rows(self, *splits: str, fraction: float = 1.0) -> np.ndarray:
        """Positions of the images of these splits, in file order; of each class and split the first `fraction`."""
        return np.flatnonzero(mapped(self.split, splits.__contains__) & (self.train_order < fraction))

    def normalization(self, chosen: Any) -> tuple[list[float], list[float]]:
        """Mean and std per channel, of values in [0, 1], for a name or an explicit choice in a config."""
        if chosen == "dataset":
            return self.meta["mean"], self.meta["std"]
        mean, std = NORMALIZATIONS[chosen] if isinstance(chosen, str) else (chosen.mean, chosen.std)
        channels = self.meta["channels"]
        if len(mean) not in (1, 3) or len(std) != len(mean):
            raise UserError(
                f"params.yaml: normalize has {len(mean)} means and {len(std)} stds for {channels} channels;"
                " expected 1 or 3 of each"
            )
        if channels == 1:  # of colour statistics, their mean
            return [sum(mean) / len(mean)], [sum(std) / len(std)]
        repeats = channels // len(mean)
        return mean * repeats, std * repeats


def mapped(column: pa.ChunkedArray, function: Callable[[str], int]) -> np.ndarray:
    """What a function makes of each value of a column of text, (N,); it is called once for equal ones."""
    encoded = column.combine_chunks().dictionary_encode()
    return np.array(list(map(function, encoded.dictionary.to_pylist())))[np.from_dlpack(encoded.indices)]
