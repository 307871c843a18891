"""The tables that check and split write and later stages read: parquet, with the class list in the file's metadata."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.system import readers
from pipeline.system.memory import MOST_PIXELS
from pipeline.system.outputs import atomic_write

if TYPE_CHECKING:
    import pandas as pd

WRITTEN_BY = {"checked": "check", "splits": "split"}  # stages, by the folder of their table
STATUSES = ("ok", "warning", "quarantined")
SPLITS = ("train", "val", "test")  # where copies are in several official splits, those in the last one stay in use
CHECKED = pa.schema(
    {
        "path": pa.string(),
        "label": pa.string(),
        "official_split": pa.string(),
        "width": pa.int32(),
        "height": pa.int32(),
        "mode": pa.string(),
        "format": pa.string(),
        "bytes": pa.int64(),
        "camera": pa.string(),
        "sha256": pa.string(),
        "phash": pa.string(),
        "pixel_hash": pa.string(),
        "brightness": pa.float32(),
        "contrast": pa.float32(),
        "sharpness": pa.float32(),
        "color": pa.bool_(),
        "group": pa.int32(),  # of duplicates
        "listed_group": pa.string(),  # of a list of labels
        "status": pa.string(),
        "issues": pa.list_(pa.string()),
        "reason": pa.string(),
    }
)
SPLIT = pa.schema(
    {
        "path": pa.string(),
        "label": pa.string(),
        "split": pa.string(),
        "train_order": pa.float64(),
        "fold": pa.int32(),
    }
)


def write_tables(
    path: Path,
    tables: Iterable[pa.Table],
    classes: list[str],
    schema: pa.Schema = CHECKED,
    max_pixels: int = MOST_PIXELS,
) -> None:
    """Write a table that comes in pieces, because it may not fit into memory. Each piece becomes a row group.

    The class list goes into the metadata of the file, and so does a limit of pixels that somebody has chosen.
    """
    metadata = {"classes": json.dumps(classes)}
    if max_pixels != MOST_PIXELS:
        metadata["max_pixels"] = json.dumps(max_pixels)
    schema = schema.with_metadata(metadata)
    with atomic_write(path) as partial, pq.ParquetWriter(partial, schema, write_page_checksum=True) as writer:
        for table in tables:
            writer.write_table(table.select(schema.names).cast(schema))


def read_manifest(path: Path) -> tuple[pd.DataFrame, list[str]]:
    """A whole table and its class list. Raises UserError where the file is missing or damaged."""
    table, classes = read_columns(path)
    return table.to_pandas(), classes


def read_columns(path: Path, columns: list[str] | None = None) -> tuple[pa.Table, list[str]]:
    """Some columns of a table, or all, and its class list. Raises UserError where the file is missing or damaged."""
    with readers.telling_damage(path, stage_of(path)):
        # pq.read_table would compare no checksums, and import pandas, which takes half a second
        table = pq.ParquetFile(path, page_checksum_verification=True).read(columns)
        table = table if columns is None else table.select(columns)  # KeyError for one that is missing
        return table, readers.classes_in(table.schema)


def read_max_pixels(path: Path) -> int:
    """The largest images that `check` decoded, in pixels. Raises UserError where its table is missing or damaged."""
    with readers.telling_damage(path, stage_of(path)):
        return int((pq.read_schema(path).metadata or {}).get(b"max_pixels", MOST_PIXELS))


def stage_of(path: Path) -> str:
    """The stage that writes data/checked/NAME.parquet or data/splits/NAME.parquet."""
    return f"{WRITTEN_BY[path.parent.name]}@{path.stem}"
