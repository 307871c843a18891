"""JPEG: check the segments that its markers begin, and decode it without accepting what libjpeg guesses.

For damaged data, libjpeg makes up pixels and only warns, and Pillow does not pass the warnings on.
"""

from __future__ import annotations

import re
import struct

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from pipeline.images.errors import ImageError
from pipeline.images.formats import DAMAGED_METADATA
from pipeline.images.formats.integrity import cut, trailing
from pipeline.images.formats.jpeg_segments import (
    APP2,
    BASELINE,
    DHT,
    EOI,
    FRAMES,
    ICC,
    PROGRESSIVE,
    SIGNATURE,
    SOS,
    damaged_ranges,
    huffman_tables,
    segments,
    without,
)
from pipeline.images.formats.tiff import directories

MOST_SCANS = 100  # a file usually has 1 to 20; the decoder goes through the whole image for each
END_OF_BLOCK = 0  # the symbol that ends a block; if its Huffman code is all zeros, flat areas are runs of zero bits
AC_OF_LUMINANCE = 0x10  # the Huffman table for it, usually
HOLE = bytes(64)  # otherwise image data never holds so many zero bytes: some program has failed to write them
MP_ENTRIES = 0xB002  # tag of the index of a multi-picture file: 16 bytes for each picture
JFIF_VERSION = re.compile(rb"(\xff\xe0..JFIF\0)..", re.DOTALL)
# Beginnings of libjpeg's warnings that it had to guess
GUESSED = ("Corrupt JPEG", "Inconsistent progression", "Invalid SOS", "Unknown Adobe")
SURPLUS = re.compile(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0xd9")
MOST_PADDING = 64  # zero bytes that some cameras write before the end
END = re.compile(rb"\xff\xd9")


def inspect(content: bytes) -> list[str]:
    """Check the segments of a JPEG and return issue codes.

    Raises ImageError for missing or damaged parts that the decoder does not notice, and for more than MOST_SCANS scans.
    """
    scans = scan = frame = components = kind = last = 0
    end, suspicious = SIGNATURE, False
    zeros = 1  # the symbol whose Huffman code is all zeros; 1 in the standard's tables, for files without any
    exact: set[tuple[int, int]] = set()  # (component, coefficient) that progressive scans have completed
    for start, kind, begin, following in segments(content):
        suspicious = suspicious or (start > end and not scans)
        end = following
        body = content[begin:end]
        if kind == SOS:
            scans, scan = scans + 1, end
            if scans > MOST_SCANS:
                raise ImageError("too_large", f"more than {MOST_SCANS} scans: a decompression bomb")
            if frame in PROGRESSIVE:
                exact |= brought_to_full_precision(body)
        elif kind == DHT:
            zeros = dict(huffman_tables(body)).get(AC_OF_LUMINANCE, zeros)
        elif kind in FRAMES:
            frame, components = kind, int.from_bytes(body[5:6], "big")
        elif kind == APP2 and body.startswith(b"MPF\0"):
            last = begin + 4 + last_picture(body[4:])
        elif kind == APP2 and body.startswith(ICC):
            suspicious = True
    if not scans:
        raise cut("in its header")
    if kind != EOI:
        raise cut("before its end-of-image marker")
    if frame in PROGRESSIVE and len(exact) < 64 * components:
        raise cut(f"after {scans} scans, before its details")
    if frame in BASELINE and scans == 1 and zeros != END_OF_BLOCK and content.find(HOLE, scan, end) >= 0:
        raise ImageError("corrupt", "a hole of zero bytes in its image data")
    odd = [DAMAGED_METADATA] if suspicious and damaged_ranges(content) else []
    if last and end < len(content):  # else some program has kept the first picture only
        if EOI not in (segment.kind for segment in segments(content, last)):
            raise cut("in its last picture")
        return odd
    return odd + trailing(content, end)


def without_damage(content: bytes) -> bytes:
    """The same picture without what is damaged outside of it."""
    return without(content, damaged_ranges(content))


def brought_to_full_precision(scan: bytes) -> set[tuple[int, int]]:
    """The pairs of component and coefficient whose last bits a progressive scan gives, from the scan's header."""
    count = scan[0] if scan else 0
    if len(scan) < 4 + 2 * count or scan[3 + 2 * count] & 15:  # how many low bits are left for later scans
        return set()
    first, last = scan[1 + 2 * count], min(scan[2 + 2 * count], 63)
    return {(component, number) for component in scan[1 : 1 + 2 * count : 2] for number in range(first, last + 1)}


def last_picture(index: bytes) -> int:
    """Where the last picture of a multi-picture file begins, counted from its index; 0 if unknown (CIPA DC-007)."""
    try:
        directory = next(directories(index))
        return max(place for _, _, place, _ in struct.iter_unpack(f"{directory.order}4I", directory.data(MP_ENTRIES)))
    except (ImageError, StopIteration, ValueError, struct.error):
        return 0


def load(content: bytes, image: Image.Image) -> tuple[Image.Image, NDArray[np.uint8] | None]:
    """Decode a JPEG that Pillow has opened. The pixels are the same as Pillow's own to the bit.

    Returns the image, and its pixels as (H, W, 3) uint8 where the image itself has none. Raises ImageError where the
    decoder had to guess.
    """
    try:
        pixels = strictly_decoded(content, image)
    except (ValueError, KeyError) as error:  # KeyError: a subsampling for which simplejpeg has no name
        message = str(error)
        if "remature end" in message:
            raise ImageError("truncated", "its image data end before its last row") from None
        if message.startswith(GUESSED) and not is_padding(message, content):
            raise ImageError("corrupt", message[0].lower() + message[1:]) from None
        pixels = None  # a rare subsampling, which Pillow decodes, or an error, which Pillow raises too
    if pixels is None or image.mode == "CMYK":  # Pillow finds out whether CMYK is stored inverted
        image.load()
        return image, None
    if image.mode == "RGB":
        return image, pixels
    loaded = Image.fromarray(pixels[:, :, 0])
    loaded.info = image.info
    return loaded, None


def strictly_decoded(content: bytes, image: Image.Image) -> NDArray[np.uint8]:
    """Pixels (H, W, C) uint8, with 1 channel, 3 or 4.

    Raises ValueError with the first warning or error of libjpeg, KeyError for a subsampling without a name, and
    ImageError if two headers contradict each other.
    """
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(content)
    except ValueError as error:
        if "JFIF revision" not in str(error):
            raise
        content = JFIF_VERSION.sub(rb"\g<1>\1\1", content)  # there are files of 0.00 and 2.01, like any other
        height, width, *_ = simplejpeg.decode_jpeg_header(content)
    if (width, height) != image.size:
        raise ImageError("corrupt", f"two headers, of {image.width}×{image.height} and {width}×{height} pixels")
    return simplejpeg.decode_jpeg(content, {"L": "GRAY", "CMYK": "CMYK"}.get(image.mode, "RGB"))


def is_padding(message: str, content: bytes) -> bool:
    """Whether libjpeg warned only of a few zero bytes before the end, which some cameras write as padding.

    Any other surplus, even a single byte, means that the decoder has lost its place in the data.
    """
    surplus = SURPLUS.match(message)
    if surplus is None or int(surplus[1]) > MOST_PADDING:
        return False
    return any(not content[end.start() - int(surplus[1]) : end.start()].strip(b"\0") for end in END.finditer(content))
