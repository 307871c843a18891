"""Figures of results: a confusion matrix, a grid of sample predictions."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.system.console import printable
from pipeline.system.outputs import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from scipy.sparse import csr_array

COLUMNS = 6
WIDTH, HEIGHT = 1.7, 2.1  # inches of a tile with its title
SMALLEST, LARGEST = 8, 14  # points of a title
SHOWN = 40  # classes of a confusion matrix: more can't be read, and take memory and minutes to draw


class Tile(NamedTuple):
    """One image of a grid, (H, W) or (H, W, C) uint8, its title and the title's color."""

    image: NDArray[np.uint8]
    title: str
    color: str


def new_figure(width: float, height: float, layout: Literal["constrained"] | None = None) -> Figure:
    """A figure of that many inches, without pyplot and its global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path) -> None:
    with atomic_write(path) as partial, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a name in a script that the font lacks: boxes, and no more fuss
        figure.savefig(partial, format="png", dpi=100, metadata={"Software": None})


def draw_grid(path: Path, tiles: Sequence[Tile]) -> None:
    rows = max(1, -(-len(tiles) // COLUMNS))
    titles = ["\n".join(map(printable, tile.title.split("\n"))) for tile in tiles]
    longest = max((len(line) for title in titles for line in title.split("\n")), default=1)
    # a sign is about 0.6 times as wide as the font is high
    size = min(LARGEST, max(SMALLEST, 72 * WIDTH / (0.6 * longest)))
    figure = new_figure(WIDTH * COLUMNS, HEIGHT * rows)
    # fixed margins: a layout engine measures every title, twice, for seconds
    figure.subplots_adjust(left=0.02, right=0.98, bottom=0.02, top=1 - 0.5 / (HEIGHT * rows), wspace=0.1, hspace=0.4)
    for position, (tile, title) in enumerate(zip(tiles, titles, strict=True)):
        axes = figure.add_subplot(rows, COLUMNS, position + 1)
        axes.set_axis_off()
        axes.imshow(tile.image.squeeze(), cmap="gray", vmin=0, vmax=255)
        axes.set_title(title, color=tile.color, fontsize=size, parse_math=False)  # a $ in a name is no formula
    save(figure, path)


def draw_confusion_matrix(path: Path, counts: csr_array, classes: list[str]) -> None:
    """Of counts (classes, classes), rows the true classes and columns the predicted ones; shades are shares of a row.

    Of more than `SHOWN` classes, those are drawn that are confused most, by all images that are taken for another
    class, or another class's for them.
    """
    shown, title = np.arange(len(classes)), None
    if len(classes) > SHOWN:
        confused = counts.sum(axis=0) + counts.sum(axis=1) - 2 * counts.diagonal()
        shown = np.sort(np.argsort(-confused, kind="stable")[:SHOWN])
        title = f"the {SHOWN} of {len(classes):,} classes that are confused most"
    part = counts[shown][:, shown].toarray()
    shares = part / np.maximum(counts.sum(axis=1)[shown, None], 1)
    names = [short(printable(classes[number])) for number in shown.tolist()]

    side = max(4.0, 0.5 * len(shown) + 2)
    figure = new_figure(side, side, layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=90, parse_math=False)
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if title:
        axes.set_title(title, fontsize="x-large")
    if len(names) <= 20:
        for (row, column), count in np.ndenumerate(part):
            axes.text(
                column, row, count, ha="center", va="center", fontsize=9,
                color="white" if shares[row, column] > 0.5 else "black",
            )  # fmt: skip
    save(figure, path)


def short(name: str, most: int = 30) -> str:
    """A name without its middle where it is too long: names often differ at their ends."""
    kept = (most - 1) // 2
    return name if len(name) <= most else f"{name[:kept]}…{name[-kept:]}"
