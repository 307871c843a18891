"""A packed data set: one array of images, joined by path with the table that says what each image is for."""

from __future__ import annotations

import copy
import hashlib
import math
import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.system import readers
from pipeline.system.console import UserError

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.config.experiments import Normalization

NORMALIZATIONS = {
    "none": ([0.0], [1.0]),  # values in [0, 1]
    "symmetric": ([0.5], [0.5]),  # in [-1, 1]
    "imagenet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),  # torchvision's pretrained models
}
SPLIT_COLUMNS: dict[str, type] = {"path": str, "label": str, "split": str, "train_order": float}
VERIFIED = 2**31  # bytes of images that are compared with their checksum: one or two seconds


class PackedImages:
    """`data/packed/<data set>`: `images` (N, H, W, C) uint8 are all that could be decoded, `index` has their paths.

    Raises UserError where a file is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.stage = f"pack@{folder.name}"
        if not folder.exists():
            raise readers.missing(folder, self.stage)
        about = folder / "meta.json"
        self.meta = readers.read_json(about, self.stage)
        sizes: dict[str, Any] = {key: self.meta.get(key) for key in ("images", "height", "width", "channels")}
        if reason := readers.size_fault(sizes):
            raise readers.damaged(about, reason, self.stage)
        for key, kind in (("sha256", str), ("preprocessing", dict)):
            if not isinstance(self.meta.get(key), kind):
                raise readers.damaged(about, f"it has no {key}", self.stage)
        self.file = folder / "images.npy"
        self.images = readers.open_images(self.file, tuple(sizes.values()), self.stage)

        columns = [f"{of}_{channel}" for of in ("sum", "sum_of_squares") for channel in range(sizes["channels"])]
        index_file = folder / "index.parquet"
        self.index = readers.read_table(index_file, {"path": str, **dict.fromkeys(columns, int)}, self.stage)
        if len(self.index) != len(self.images):
            reason = f"{len(self.index):,} rows; expected one for each of {len(self.images):,} images"
            raise readers.damaged(index_file, reason, self.stage)

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


class PackedDataset(PackedImages):
    """Packed images, and what each is for: `data/splits/<data set>.parquet`.

    `splits` has a row for each image that is used, in the order of training; `positions` (rows,) int64 says where its
    image is. `labels` (N,) int64 are numbers of `classes`, -1 for an image that is not used.

    Raises UserError where a file is missing or damaged, or where they do not belong together.
    """

    def __init__(self, folder: Path, splits_file: Path) -> None:
        super().__init__(folder)
        self.splits_file = splits_file
        self.split_stage = stage = f"split@{splits_file.stem}"
        self.splits = readers.read_table(splits_file, SPLIT_COLUMNS, stage)
        self.classes = readers.read_classes(splits_file, stage)
        numbers = {name: number for number, name in enumerate(self.classes)}
        try:
            labels = mapped(self.splits["label"], numbers.__getitem__)
        except KeyError as unknown:
            reason = f"it has images of {unknown}, which is none of its classes"
            raise readers.damaged(splits_file, reason, stage) from None
        positions = pc.index_in(self.splits["path"], value_set=self.index["path"])
        if positions.null_count:
            path = self.splits["path"].filter(positions.is_null())[0].as_py()
            raise UserError(
                f"{splits_file} has {path!r}, which is not in {folder}: they were made of different images;"
                f" run dvc repro {self.stage} {stage}"
            )
        self.positions = np.from_dlpack(positions.combine_chunks()).astype(np.int64)  # to_numpy would import pandas
        self.labels = np.full(len(self.images), -1)
        self.labels[self.positions] = labels

    @classmethod
    def of(cls, name: str) -> PackedDataset:
        """The project's data set of that name."""
        return cls(Path("data/packed", name), Path("data/splits", f"{name}.parquet"))

    @cached_property
    def fold(self) -> NDArray[np.int64]:
        """The fold of each row of `splits`, (rows,); -1 for those that test, and where there are no folds."""
        column = readers.read_table(self.splits_file, {"fold": int}, self.split_stage, nullable=True)
        return np.from_dlpack(column["fold"].fill_null(-1).combine_chunks()).astype(np.int64)

    @property
    def folds(self) -> int:
        """The number of folds. Raises UserError where the images were split without."""
        if count := int(self.fold.max()) + 1:
            return count
        raise UserError(f"{self.splits_file} has no folds: run dvc repro {self.split_stage}")

    def with_fold(self, fold: int) -> PackedDataset:
        """The same images, of which this fold validates, whichever does now; the other folds train."""
        other = copy.copy(self)
        vars(other).pop("table", None)
        split = np.where(self.fold < 0, "test", np.where(self.fold == fold, "val", "train"))
        other.splits = self.splits.set_column(self.splits.column_names.index("split"), "split", [split.tolist()])
        return other

    @cached_property
    def table(self) -> pd.DataFrame:
        """`splits`, indexed by `positions`."""
        return self.splits.to_pandas().set_axis(self.positions)

    def rows(self, *splits: str, fraction: float = 1.0) -> NDArray[np.int64]:
        """Positions (rows,) int64 of the images of these splits, in the order of training.

        With `fraction`, of each class and split only the images whose `train_order` is below it.
        """
        order = np.from_dlpack(self.splits["train_order"].combine_chunks())
        return self.positions[mapped(self.splits["split"], splits.__contains__) & (order < fraction)]

    def normalization(self, chosen: str | Normalization) -> tuple[list[float], list[float]]:
        """Mean and standard deviation per channel, of values in [0, 1].

        `chosen` is `dataset` (computed from the images in the split `train`), a key of `NORMALIZATIONS`, or the values
        themselves: one for all channels, or three. Raises UserError for another number of values.
        """
        if chosen == "dataset":
            return self.statistics(self.rows("train"))
        mean, std = NORMALIZATIONS[chosen] if isinstance(chosen, str) else (chosen.mean, chosen.std)
        channels = self.meta["channels"]
        if len(mean) not in (1, 3) or len(std) != len(mean):
            raise UserError(
                f"params.yaml: normalize has {len(mean)} means and {len(std)} stds for {channels} channels;"
                " expected 1 or 3 of each"
            )
        if channels == 1:  # gray: the mean over the three colors
            return [sum(mean) / len(mean)], [sum(std) / len(std)]
        repeats = channels // len(mean)
        return mean * repeats, std * repeats

    def statistics(self, rows: NDArray[np.int64]) -> tuple[list[float], list[float]]:
        """Mean and standard deviation per channel over all pixels of some images, to 6 digits; no std is below 1e-6.

        Computed from the sums in the index as whole numbers: the order of the images changes no digit.
        """
        mean, std = [], []
        count = len(rows) * self.meta["height"] * self.meta["width"]
        for channel in range(self.meta["channels"]):
            total, total_of_squares = (
                int(np.from_dlpack(self.index[f"{of}_{channel}"].combine_chunks())[rows].sum())
                for of in ("sum", "sum_of_squares")
            )
            variance = (count * total_of_squares - total**2) / count**2
            mean.append(round(total / count / 255, 6))
            std.append(max(round(math.sqrt(variance) / 255, 6), 1e-6))
        return mean, std


def mapped(column: pa.ChunkedArray, function: Callable[[str], int]) -> NDArray[np.int64]:
    """A function's results for a column of text, (rows,); it is called once for each distinct text."""
    encoded = column.combine_chunks().dictionary_encode()
    return np.array(list(map(function, encoded.dictionary.to_pylist())))[np.from_dlpack(encoded.indices)]
