"""HEIC and the other images of HEIF, which are read by pillow-heif, an optional package."""

from __future__ import annotations

import io

from PIL import Image

from pipeline.images.errors import ImageError

MISSING = "HEIC, which needs the package pillow-heif: run `.venv/bin/uv pip install 'pillow-heif>=0.22'`"


def open_image(content: bytes) -> Image.Image:
    """The primary image of a HEIF file, upright: the file's own orientation is applied, and EXIF's is none.

    Raises ImageError where pillow-heif is not installed.
    """
    try:
        import pillow_heif
    except ModuleNotFoundError as error:
        if error.name != "pillow_heif":
            raise
        raise ImageError("unreadable", MISSING) from None
    pillow_heif.options.DECODE_THREADS = 1  # there is a worker on each core already
    return pillow_heif.HeifImageFile(io.BytesIO(content))
