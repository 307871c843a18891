"""Contact sheets: what the images of each class look like."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PER_CLASS = 32  # images on a contact sheet
COLUMNS = 8
TILE = 96  # pixels


def thumbnail(image: Image.Image) -> NDArray[np.uint8]:
    """(height, width, 3) uint8 of an upright RGB image: at most TILE pixels a side, enlarged without smoothing."""
    scale = TILE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BILINEAR
    return np.asarray(image.resize(size, method))


def file_name(number: int, label: str) -> str:
    """A name in ASCII that sorts by the number of the class."""
    return f"{number:03d}-{re.sub(r'[^A-Za-z0-9_-]+', '-', label)[:100]}.png"


def draw_contact_sheet(path: Path, tiles: list[NDArray[np.uint8]]) -> None:
    """Draw thumbnails (height, width, 3) uint8 side by side, row by row, as one PNG."""
    rows = max(1, -(-len(tiles) // COLUMNS))
    gap = 4
    sheet = Image.new("RGB", (COLUMNS * (TILE + gap) + gap, rows * (TILE + gap) + gap), "white")
    for position, tile in enumerate(tiles):
        row, column = divmod(position, COLUMNS)
        sheet.paste(Image.fromarray(tile), (gap + column * (TILE + gap), gap + row * (TILE + gap)))
    sheet.save(path, compress_level=1)
