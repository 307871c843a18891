"""Answers as CSV, JSON or Parquet: written row by row, so that memory stays flat, and whole or not at all."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from pipeline.prediction.classify import Answer
from pipeline.system.console import UserError
from pipeline.system.csv_cells import escape_formula
from pipeline.system.outputs import atomic_write, blocked, json_text

ROWS = 10_000  # of a row group in Parquet
Add = Callable[[Answer], None]


class Columns(NamedTuple):
    """What a table says of each file."""

    top: int  # classes
    threshold: float | None
    label_of: Callable[[Answer], str | None] | None  # the true class by the path, where folders tell it

    def names(self) -> dict[str, type]:
        names: dict[str, type] = {"path": str}
        names |= {"label": str} if self.label_of else {}
        names |= {"predicted": str, "probability": float}
        names |= {"best": str} if self.threshold is not None else {}
        for rank in range(2, self.top + 1):
            names |= {f"class_{rank}": str, f"probability_{rank}": float}
        return names | {"error": str}

    def row(self, answer: Answer) -> dict[str, Any]:
        """The values by column; None where there is none."""
        row: dict[str, Any] = dict.fromkeys(self.names()) | {"path": answer.path, "error": answer.error}
        if self.label_of:
            row["label"] = self.label_of(answer)
        if answer.top:
            row["predicted"], row["probability"] = answer.predicted(self.threshold or 0), answer.top[0].probability
            if self.threshold is not None:
                row["best"] = answer.top[0].label
        for rank, prediction in enumerate(answer.top[1:], 2):
            row[f"class_{rank}"], row[f"probability_{rank}"] = prediction
        return row

    def item(self, answer: Answer) -> dict[str, Any]:
        """The same for JSON, with the classes as a list."""
        item: dict[str, Any] = {"path": answer.path}
        if self.label_of:
            item["label"] = self.label_of(answer)
        if answer.error is not None:
            return item | {"error": answer.error}
        if self.threshold is not None:
            item["predicted"] = answer.predicted(self.threshold)
        return item | {"predictions": [{"class": each.label, "probability": each.probability} for each in answer.top]}


def check(path: Path) -> None:
    """Raises UserError for another suffix than those of WRITERS, and for a folder."""
    if path.suffix.lower() not in WRITERS:
        raise UserError(f"--output {path}: expected a name that ends in {', '.join(WRITERS)}")
    if path.is_dir():
        raise UserError(f"--output {path}: is a folder; expected a file")
    if found := blocked(path):
        raise UserError(f"--output {path}: {found} is no folder")


def write(path: Path, columns: Columns) -> AbstractContextManager[Add]:
    """A function that adds an answer to the file, which appears when the block ends."""
    return WRITERS[path.suffix.lower()](path, columns)


@contextmanager
def write_csv(path: Path, columns: Columns) -> Iterator[Add]:
    with atomic_write(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns.names())

        def add(answer: Answer) -> None:
            values = columns.row(answer).values()
            writer.writerow([escape_formula(value) if isinstance(value, str) else value for value in values])

        yield add


@contextmanager
def write_json(path: Path, columns: Columns) -> Iterator[Add]:
    with atomic_write(path) as partial, partial.open("w", encoding="utf-8") as file, json_list(file, columns) as add:
        yield add


@contextmanager
def json_list(file: IO[str], columns: Columns) -> Iterator[Add]:
    """A list, an item for each answer; nothing at all where there are none."""
    before = "[\n  "

    def add(answer: Answer) -> None:
        nonlocal before
        file.write(before + json_text(columns.item(answer)).replace("\n", "\n  "))
        before = ",\n  "

    yield add
    if before.startswith(","):
        file.write("\n]\n")


@contextmanager
def write_parquet(path: Path, columns: Columns) -> Iterator[Add]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {str: pa.string(), float: pa.float64()}
    schema = pa.schema([(name, types[kind]) for name, kind in columns.names().items()])
    rows: list[dict[str, Any]] = []
    with atomic_write(path) as partial, pq.ParquetWriter(partial, schema, write_page_checksum=True) as writer:

        def add(answer: Answer) -> None:
            rows.append(columns.row(answer))
            if len(rows) == ROWS:
                flush()

        def flush() -> None:
            writer.write_table(pa.Table.from_pylist(rows, schema))
            rows.clear()

        yield add
        flush()


WRITERS = {".csv": write_csv, ".json": write_json, ".parquet": write_parquet}
