"""The numbers behind the page's tables and drawings."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.checking.describe import NAMES, describe
from pipeline.images.tables import STATUSES
from pipeline.page.findings import measure

BINS = 32
HISTOGRAMS = {
    "width": "Width, pixels",
    "height": "Height, pixels",
    "aspect_ratio": "Aspect ratio",
    "brightness": "Brightness",
    "contrast": "Contrast",
    "sharpness": "Sharpness",
}


class Histogram(NamedTuple):
    title: str
    bars: list[tuple[float, str]]  # height from 0 to 1, and what the bar counts
    axis: list[str]  # lowest, median and highest value


class ClassRow(NamedTuple):
    label: str
    counts: dict[str, int]  # images by status
    total: int
    share: float  # total, as a fraction of that of the largest class
    size: str  # median width × median height, in pixels


def sizes(table: pa.Table) -> list[tuple[str, list[str]]]:
    """Rows of a table of statistics, as text: name, then the values for width and height in pixels."""
    sides = [describe(measure(table, side)) for side in ("width", "height")]
    return [(name.replace("%", " %"), [number(side[name]) for side in sides]) for name in NAMES]


def number(value: float) -> str:
    """A number as text, with two decimals unless it is whole; a dash for NaN."""
    if np.isnan(value):
        return "–"
    return f"{value:,.0f}" if value == round(value) else f"{value:,.2f}"


def tick(value: float) -> str:
    """A number as text, with three significant digits."""
    return f"{float(f'{value:.3g}'):,.8g}"


def histograms(table: pa.Table) -> list[Histogram]:
    """A histogram for each of HISTOGRAMS, unless no image has the value.

    The lowest and the highest half percent of the values are counted in the first and the last bar.
    """
    drawn = []
    for name, title in HISTOGRAMS.items():
        values = measure(table, name)
        values = values[~np.isnan(values)]
        if not len(values):
            continue
        low, median, high = np.percentile(values, (0.5, 50, 99.5))
        counts, edges = np.histogram(values.clip(low, high), BINS if high > low else 1, (low, high))
        bars = [
            (count / counts.max(), f"{tick(start)} to {tick(end)}: {count:,} images")
            for count, start, end in zip(counts.tolist(), edges, edges[1:], strict=False)
        ]
        axis = [
            ("≤ " if values.min() < low else "") + tick(low),
            f"median {tick(median)}",
            ("≥ " if values.max() > high else "") + tick(high),
        ]
        drawn.append(Histogram(title, bars, axis if high > low else ["", f"all {tick(low)}", ""]))
    return drawn


def by_class(table: pa.Table, classes: list[str]) -> list[ClassRow]:
    """For each class, how many images have each status, and their median size."""
    counts = crosstab(table["label"], classes, table["status"], STATUSES)
    labels = positions(table["label"], classes)
    width, height = measure(table, "width"), measure(table, "height")
    known = np.flatnonzero((labels >= 0) & ~np.isnan(width))
    known = known[np.argsort(labels[known], kind="stable")]
    members = np.split(known, np.searchsorted(labels[known], range(1, len(classes))))
    return [
        ClassRow(
            label=label,
            counts=dict(zip(STATUSES, row, strict=True)),
            total=sum(row),
            share=sum(row) / max(1, counts.sum(1).max()),
            size=f"{tick(np.median(width[rows]))} × {tick(np.median(height[rows]))}" if len(rows) else "–",
        )
        for label, row, rows in zip(classes, counts.tolist(), members, strict=True)
    ]


def crosstab(
    rows: pa.ChunkedArray, row_names: list[str], columns: pa.ChunkedArray, column_names: tuple[str, ...]
) -> NDArray[np.int64]:
    """How often each pair of values occurs: int64, of shape (row names, column names)."""
    row, column = positions(rows, row_names), positions(columns, list(column_names))
    cells = (row * len(column_names) + column)[(row >= 0) & (column >= 0)]
    return np.bincount(cells, minlength=len(row_names) * len(column_names)).reshape(-1, len(column_names))


def positions(values: pa.ChunkedArray, names: list[str]) -> NDArray[np.int64]:
    """The position of each value in `names`, (rows,) int64; -1 for values that are not in it."""
    found = pc.index_in(values, value_set=pa.array(names, pa.string()))
    return found.combine_chunks().fill_null(-1).to_numpy().astype(np.int64)
