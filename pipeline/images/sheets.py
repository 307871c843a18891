"""Pictures of a data set: a histogram of image sizes, a contact sheet for each class."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.outputs import whole

PER_CLASS = 32  # images on a contact sheet
COLUMNS = 8
TILE = 96  # pixels


def thumbnail(image: Image.Image) -> np.ndarray:
    """(height, width, 3) uint8 of an upright RGB image: at most TILE pixels a side, enlarged without smoothing."""
    scale = TILE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BILINEAR
    return np.asarray(image.resize(size, method))


def file_name(number: int, label: str) -> str:
    return f"{number:03d}-{re.sub(r'[^A-Za-z0-9_-]+', '-', label)[:100]}.png"


def draw_contact_sheet(path: Path, tiles: list[np.ndarray]) -> None:
    rows = max(1, -(-len(tiles) // COLUMNS))
    gap = 4
    sheet = Image.new("RGB", (COLUMNS * (TILE + gap) + gap, rows * (TILE + gap) + gap), "white")
    for position, tile in enumerate(tiles):
        row, column = divmod(position, COLUMNS)
        sheet.paste(Image.fromarray(tile), (gap + column * (TILE + gap), gap + row * (TILE + gap)))
    sheet.save(path)


def draw_sizes(path: Path, widths: np.ndarray, heights: np.ndarray) -> None:
    """Histograms of two arrays of pixels, (N,); nan is left out."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3), layout="constrained")
    FigureCanvasAgg(figure)
    drawn = zip(figure.subplots(1, 2, sharey=True), ("width", "height"), (widths, heights), strict=True)
    for axes, side, pixels in drawn:
        axes.hist(pixels[~np.isnan(pixels)], bins=40, color="tab:blue")
        axes.set_xlabel(f"{side} (pixels)")
        axes.set_ylabel("images")
    with whole(path) as partial:
        figure.savefig(partial, format="png", metadata={"Software": None})
