"""Collect the metadata of every image of a source, and write it to disk in parts.

Memory use does not grow with the source, and an interrupted inspection resumes after the last complete part.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.checking import contact_sheets, hashing, metadata
from pipeline.images import stored
from pipeline.images.formats import heif
from pipeline.images.sources import Source
from pipeline.images.tables import CHECKED
from pipeline.system import workers
from pipeline.system.checksummed import checksummed_write, is_intact, remove_checksummed
from pipeline.system.console import UserError, progress, say
from pipeline.system.outputs import named, remove
from pipeline.system.project import CHECKPOINTS
from pipeline.system.version import version

PART_ROWS = 1024
PARTS_AT_ONCE = 16  # that are read together
METADATA = pa.schema(
    [
        *(field for field in CHECKED if field.name not in ("group", "status")),
        pa.field("fingerprint", pa.binary()),
        pa.field("thumbnail", pa.binary()),
    ]
)


class Inspected:
    """The table of metadata, in the order of the source: numbered parquet files of PART_ROWS rows each.

    The constructor inspects what has no valid part yet. Parts of another source or by other code are removed.
    """

    def __init__(self, name: str, source: Source, max_pixels: int) -> None:
        self.root = CHECKPOINTS / f"check@{name}"  # no experiment has a name with @
        code = version("images", "checking")
        inputs = f"{source.fingerprint} {source.classes} {max_pixels} {code}"
        key = hashlib.sha256(inputs.encode()).hexdigest()[:32]
        self.folder = self.root / key
        self.count = source.count
        for other in self.root.glob("*"):
            if other != self.folder:  # of another source, or by other code
                remove(other)
        self.inspect(source, max_pixels)

    def inspect(self, source: Source, max_pixels: int) -> None:
        """Inspect the images for which there is no part yet."""
        done = self.parts_to_keep()
        function = functools.partial(metadata.inspect, max_pixels=max_pixels)
        rows_done = min(done * PART_ROWS, self.count)
        left = workers.ordered_map(function, tasks(source, rows_done), task_size, metadata.unusable, task_name)
        rows = iter(progress(left, total=self.count, initial=rows_done, unit=" images"))
        for number in count(done):
            part = list(islice(rows, PART_ROWS))
            if part:
                with checksummed_write(self.part(number)) as partial:
                    pq.write_table(
                        pa.Table.from_pylist(part, METADATA), partial, compression="none", use_dictionary=False
                    )
            if len(part) < PART_ROWS:
                break

    def parts_to_keep(self) -> int:
        """Count the intact parts before the first one that is damaged, missing, or to be repeated (see `gives_up`).

        That one and all after it are removed.
        """
        kept: list[Path] = []
        found = set(self.parts())
        for number, start in enumerate(range(0, self.count, PART_ROWS)):
            part = self.part(number)
            if not is_intact(part) or pq.read_metadata(part).num_rows != min(PART_ROWS, self.count - start):
                if found.difference(kept):
                    say(f"{part} is damaged or missing: inspecting its images again, and all after them")
                break
            if gives_up(part):
                break
            kept.append(part)
        for part in found.difference(kept):
            remove_checksummed(part)
        return len(kept)

    def part(self, number: int) -> Path:
        return self.folder / f"{number:06d}.parquet"

    def parts(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9]*.parquet"))

    def tables(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """Yield the table in pieces of PARTS_AT_ONCE · PART_ROWS rows.

        Raises UserError unless there is a row for every file that the source has listed.
        """
        parts, rows = self.parts(), 0
        for start in range(0, len(parts), PARTS_AT_ONCE):
            table = pa.concat_tables(
                pq.ParquetFile(part).read(columns) for part in parts[start : start + PARTS_AT_ONCE]
            )
            rows += len(table)
            yield table
        if rows != self.count:
            raise UserError(f"{self.folder} holds {rows} of {self.count} images: the source has changed; run it again")

    def column(self, name: str) -> pa.ChunkedArray:
        return pa.concat_tables(list(self.tables([name])))[name]

    def numbers(self, name: str) -> NDArray[np.float32]:
        """A column of numbers, (rows,) float32, NaN for null."""
        column = self.column(name).cast(pa.float32()).combine_chunks()
        values = np.from_dlpack(pc.fill_null(column, np.nan))  # to_numpy would import pandas
        return values.astype(np.float32, copy=False)

    def codes(self, name: str) -> tuple[NDArray[np.int32], list[str]]:
        """A column of text as positions in a list of its values, (rows,) int32, and that list; -1 for null."""
        encoded = self.column(name).combine_chunks().dictionary_encode()
        positions = np.from_dlpack(pc.fill_null(encoded.indices, -1)).astype(np.int32, copy=False)
        return positions, encoded.dictionary.to_pylist()

    def issues(self) -> dict[str, NDArray[np.bool_]]:
        """For each issue code that was found, a bool array (rows,) of which rows have it."""
        issues = self.column("issues").combine_chunks()
        rows, codes = np.from_dlpack(pc.list_parent_indices(issues)), pc.list_flatten(issues).dictionary_encode()
        numbers = np.from_dlpack(codes.indices)
        found = {}
        for number, code in enumerate(codes.dictionary.to_pylist()):
            found[code] = np.zeros(len(issues), bool)
            found[code][rows[numbers == number]] = True
        return dict(sorted(found.items()))

    def fingerprints(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The fingerprints of N rows, given in ascending order: (N, SIDE, SIDE) uint8, mapped from a file."""
        path, start = self.folder / "fingerprints", 0
        with named(path), path.open("wb") as file:
            for table in self.tables(["fingerprint"]):
                inside = rows[(rows >= start) & (rows < start + len(table))] - start
                file.writelines(table["fingerprint"].take(inside).to_pylist())
                start += len(table)
        shape = (len(rows), hashing.SIDE, hashing.SIDE)
        return np.memmap(path, np.uint8, "r", shape=shape) if len(rows) else np.zeros(shape, np.uint8)

    def remove(self) -> None:
        remove(self.root)


def gives_up(part: Path) -> bool:
    """Whether a part has an image that is tried again.

    Its worker crashed or hung, because the machine was busy perhaps, or its decoder was not installed.
    """
    reasons = pq.ParquetFile(part).read(["reason"])["reason"]
    return any(pc.any(pc.starts_with(reasons, why)).as_py() for why in (workers.CRASHED, workers.LATE, heif.MISSING))


def tasks(source: Source, done: int) -> Iterator[metadata.Task]:
    """Yield a task for every item after the first `done`, and mark those that appear on a contact sheet."""
    shown = {
        label: set(np.linspace(0, total - 1, min(total, contact_sheets.PER_CLASS)).round().astype(int).tolist())
        for label, total in source.per_class.items()
        if label is not None
    }
    number = count()
    seen = dict.fromkeys(shown, -1)
    for item, content in source.read():
        if item.label is not None:
            seen[item.label] += 1
        if next(number) >= done:
            yield metadata.Task(item, content, item.label is not None and seen[item.label] in shown[item.label])


def task_name(task: metadata.Task) -> str:
    return task.item.path


def task_size(task: metadata.Task) -> int:
    return stored.size(task.content)
