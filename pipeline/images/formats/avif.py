"""AVIF, opened by Pillow's decoder itself, whatever brand comes first and however damaged its EXIF is."""

from __future__ import annotations

import io
import re

from PIL import Image

# The entry of the EXIF block among the items of a file (ISO/IEC 14496-12, section 8.11.6), up to its kind
EXIF_ITEM = re.compile(rb"(infe[\2\3]...(?:..){2,3})Exif", re.DOTALL)


def open_image(content: bytes) -> Image.Image:
    """The image with its size and mode, not yet decoded. Raises what the decoder raises."""
    from PIL.AvifImagePlugin import AvifImageFile

    try:
        return AvifImageFile(io.BytesIO(content))
    except Exception as error:
        if "Exif" not in str(error):
            raise
        image = AvifImageFile(io.BytesIO(EXIF_ITEM.sub(rb"\1none", content)))
        image.info["exif"] = b"damaged"
        return image
