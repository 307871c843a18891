"""A grid of images with titles. `train` depends on this module too, so what only results need is in others."""

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

COLUMNS = 6
# inches: of a tile, its image's longer side, a line of its title, the space between tiles
WIDTH, SIDE, LINE, GAP = 1.7, 1.5, 0.24, 0.12
SMALLEST, LARGEST = 8, 14  # points of a title


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


def save(figure: Figure, path: Path, software: str | None = None) -> None:
    with atomic_write(path) as partial, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # what the font lacks is drawn as boxes, without a warning
        figure.savefig(partial, format="png", dpi=100, metadata={"Software": software})


def draw_grid(path: Path, tiles: Sequence[Tile], heading: str = "", software: str | None = None) -> None:
    """Images in rows of COLUMNS, each below its title, which has the room that its lines need.

    `software` goes into the field of this name in the PNG.
    """
    titles = ["\n".join(map(printable, tile.title.split("\n"))) for tile in tiles]
    lines = [line for title in titles for line in title.split("\n")]
    # a sign is about 0.6 times as wide as the font is high
    size = min(LARGEST, max(SMALLEST, 72 * WIDTH / (0.6 * max(map(len, lines), default=1))))
    above = GAP + LINE * max(2, max((title.count("\n") + 1 for title in titles), default=0))
    height = SIDE + above
    top = 2 * LINE if heading else 0.0
    figure = new_figure(WIDTH * COLUMNS, top + height * max(1, -(-len(tiles) // COLUMNS)))
    # one for all images, in inches from the upper left: axes for each take longer than drawing them
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.text(WIDTH * COLUMNS / 2, LINE, heading, fontsize=LARGEST, ha="center", va="center")
    for position, (tile, title) in enumerate(zip(tiles, titles, strict=True)):
        row, column = divmod(position, COLUMNS)
        x, y = WIDTH * (column + 0.5), top + height * row + above
        half_width, half_height = SIDE / 2 * np.array(tile.image.shape[1::-1]) / max(tile.image.shape[:2])
        box = (x - half_width, x + half_width, y + 2 * half_height, y)
        is_gray = tile.image.shape[2:] == (1,)
        axes.imshow(tile.image[:, :, 0] if is_gray else tile.image, cmap="gray", vmin=0, vmax=255, extent=box)
        axes.text(  # a $ in a name is no formula
            x, y - GAP / 2, title, color=tile.color, fontsize=size, ha="center", va="bottom", parse_math=False
        )
    axes.set(xlim=(0, figure.get_figwidth()), ylim=(figure.get_figheight(), 0), aspect="auto")
    save(figure, path, software)


def short(name: str, most: int = 30) -> str:
    """A name without its middle where it is too long: names often differ at their ends."""
    kept = (most - 1) // 2
    return name if len(name) <= most else f"{name[:kept]}…{name[-kept:]}"
