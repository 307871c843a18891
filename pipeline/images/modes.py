"""Color modes that can't be shown as they are stored, as others of 8 bits a sample.

Deep gray has one scale for each kind of file, never that of an image's own darkest and brightest pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.images.errors import ImageError
from pipeline.images.formats import png, tiff

# Pillow's color modes of images that are read
MODES = (
    *("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB"),
    *("I", "F", "I;16", "I;16B", "I;16L", "I;16N"),
)
ROWS = 64  # that are scaled at once
WHITE = 65535  # of gray of 16 bits, and of 32, which is taken for 16 in a wider type


def displayable(image: Image.Image, stored_as: str, content: bytes) -> tuple[Image.Image, list[str]]:
    """A decoded image in a mode of 8 bits a sample, with transparency if it has any, and issue codes.

    Raises ImageError for a mode that is not known.
    """
    if image.mode not in MODES:
        raise ImageError("unreadable", f"color mode {image.mode}")
    opacity = png.opacity(content, image) if stored_as == "PNG" and "transparency" in image.info else None
    shown, issues = image, []
    if stored_as == "TIFF" and tiff.is_deep(image):
        levels, is_clipped = scaled(*tiff.gray_values(image))
        shown, issues = Image.fromarray(levels), ["clipped"] * is_clipped
    elif image.mode in ("I", "F") or image.mode.startswith("I;16"):  # Pillow scales PGM's own white to WHITE
        levels, is_clipped = scaled(np.asarray(image), 1.0 if image.mode == "F" else WHITE)
        shown, issues = Image.fromarray(levels), ["clipped"] * is_clipped
    elif image.mode == "LAB":
        shown = image.convert("RGB")
    elif image.mode == "La":
        shown = image.convert("LA")
    elif image.mode == "RGBA" and is_unsure_of_alpha(image, stored_as) and not image.getchannel("A").getbbox():
        shown = image.convert("RGB")  # nobody saves a picture in which nothing is to be seen
    if opacity is not None:
        shown = shown.convert("L") if shown.mode == "1" else shown.copy()
        shown.putalpha(Image.fromarray(opacity))
    if shown is not image:
        outdated = {"transparency", *(["icc_profile"] if image.mode == "LAB" else [])}
        shown.info = {key: value for key, value in image.info.items() if key not in outdated}
    return shown, issues


def is_unsure_of_alpha(image: Image.Image, stored_as: str) -> bool:
    """Whether the format is one whose fourth sample many programs leave at 0, as unused."""
    return stored_as == "BMP" or (stored_as == "TIFF" and not tiff.names_its_alpha(image))


def scaled(values: NDArray[Any], white: float) -> tuple[NDArray[np.uint8], bool]:
    """Values (H, W) × 255 / white, rounded, (H, W); and whether some were cut off as darker than 0 or brighter."""
    levels = np.empty(values.shape, np.uint8)
    is_clipped = False
    for start in range(0, len(values), ROWS):
        exact = np.rint(values[start : start + ROWS] * (255 / white))
        is_clipped |= not (exact.min(initial=0) >= 0 and exact.max(initial=0) <= 255)  # nor is a NaN
        levels[start : start + ROWS] = np.nan_to_num(exact).clip(0, 255)
    return levels, is_clipped
