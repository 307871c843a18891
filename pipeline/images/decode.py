"""The one place where an image is opened: check, pack and predict all come here.

An image that is not whole raises `Unusable`; one that is whole but odd comes with warnings.
"""

from __future__ import annotations

import io
import warnings
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.Image import Transpose

from pipeline.images.items import Content, Problem

warnings.filterwarnings("ignore", module=r"PIL\.")  # doubts about metadata; what is wrong with pixels is raised

# Formats whose decoders are widely used and run no other program (EPS runs Ghostscript)
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
SUFFIXES = {
    ".jpg": "JPEG MPO", ".jpeg": "JPEG MPO", ".jpe": "JPEG MPO", ".png": "PNG", ".gif": "GIF", ".bmp": "BMP",
    ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF", ".ppm": "PPM", ".pgm": "PPM", ".pbm": "PPM",
}  # fmt: skip
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "I", "F", "I;16", "I;16B", "I;16L", "I;16N")
MAGIC = (b"\xff\xd8", b"\x89PNG", b"GIF8", b"BM", b"RIFF", b"II*\0", b"MM\0*")
MOST_PIXELS = 89_478_485  # where Pillow begins to warn of a decompression bomb: a quarter of a GB as RGB
ORIENTATION = 0x0112  # EXIF tag
UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM, 5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270, 7: Transpose.TRANSVERSE, 8: Transpose.ROTATE_90,
}  # fmt: skip


class Unusable(Exception):
    """An image that can't be decoded whole: an issue code and the reason."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code, self.reason = code, reason


class Decoded(NamedTuple):
    """The first frame with its pixels loaded, as stored, before EXIF orientation."""

    image: Image.Image
    format: str
    warnings: list[str]


def decode(content: Content, path: str) -> Decoded:
    """Decode every pixel of one image; `path` is only read for its suffix.

    Raises Unusable for anything that is not a whole image of at most MOST_PIXELS pixels.
    """
    if isinstance(content, Problem):
        raise Unusable(*content)
    if isinstance(content, np.ndarray):
        return Decoded(Image.fromarray(content), "array", [])
    if not content:
        raise Unusable("empty_file", "0 bytes")
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        if image.width * image.height > MOST_PIXELS:
            raise Unusable("too_large", f"{image.width}×{image.height} pixels")
        if image.format == "PNG":  # its checksums and its end are seen only by verify
            image.verify()
            image = Image.open(io.BytesIO(content), formats=FORMATS)
        image.load()
        if image.mode not in MODES:
            raise Unusable("unreadable", f"colour mode {image.mode}")
    except Unusable:
        raise
    except Exception as error:  # decoders raise whatever they like
        raise unusable(error, content) from None
    return Decoded(image, image.format or "", oddities(image, path))


def unusable(error: Exception, content: bytes) -> Unusable:
    """The issue code for what Pillow raised."""
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, UnidentifiedImageError):
        if content.startswith(MAGIC):
            return Unusable("unreadable", "begins like an image but its header makes no sense")
        return Unusable("not_an_image", "not in a known image format")
    if isinstance(error, Image.DecompressionBombError) or "too large" in reason:
        return Unusable("too_large", reason)
    return Unusable("truncated" if "truncated" in reason.lower() else "unreadable", reason)


def oddities(image: Image.Image, path: str) -> list[str]:
    """Issue codes of an image that is whole and usable."""
    found = []
    expected = SUFFIXES.get(PurePosixPath(path).suffix.lower())
    if expected and image.format not in expected.split():
        found.append("format_mismatch")
    if orientation(image) != 1:
        found.append("exif_rotated")
    if image.mode not in ("L", "RGB"):
        found.append("unexpected_mode")
    return found


def orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 where there is none or it makes no sense."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # a broken EXIF block says nothing about the pixels
        return 1
    return value if value in UPRIGHT else 1


def upright(image: Image.Image, channels: int) -> Image.Image:
    """As a person sees it: EXIF orientation applied, transparency on white, mode L (1 channel) or RGB (3), 8 bits."""
    turn = UPRIGHT.get(orientation(image))
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image, np.uint16) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        values = np.asarray(image, np.float64)
        highest = np.nan_to_num(values).max(initial=0)
        # 16 bits in a wider mode; values from 0 to 1
        scale = 257.0 if highest > 255 else 1 / 255 if image.mode == "F" and highest <= 1 else 1.0
        image = Image.fromarray((np.nan_to_num(values) / scale).clip(0, 255).astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    if turn is not None:
        image = image.transpose(turn)
    return image.convert("L" if channels == 1 else "RGB")


def to_size(image: Image.Image, height: int, width: int) -> np.ndarray:
    """Scale the shorter side to fit and crop the centre: (height, width, channels) uint8, bilinear as torchvision."""
    fitted = ImageOps.fit(image, (width, height), method=Image.Resampling.BILINEAR)
    pixels = np.asarray(fitted)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels
