"""Pictures of a data set: a histogram of image sizes, a contact sheet for each class."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.images.decode import upright
from pipeline.outputs import whole

PER_CLASS = 32  # images on a contact sheet
COLUMNS = 8
TILE = 96  # pixels


def thumbnail(image: Image.Image) -> np.ndarray:
    """(height, width, 3) uint8 of at most TILE pixels a side; small images are enlarged without smoothing."""
    seen = upright(image, channels=3)
    scale = TILE / max(seen.size)
    size = (max(1, round(seen.width * scale)), max(1, round(seen.height * scale)))
    method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BILINEAR
    return np.asarray(seen.resize(size, method))


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


def draw_sizes(path: Path, rows: list[dict[str, Any]]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, side in zip(figure.subplots(1, 2, sharey=True), ("width", "height"), strict=True):
        axes.hist([row[side] for row in rows if row[side]], bins=40, color="tab:blue")
        axes.set_xlabel(f"{side} (pixels)")
        axes.set_ylabel("images")
    with whole(path) as partial:
        figure.savefig(partial, format="png", metadata={"Software": None})
