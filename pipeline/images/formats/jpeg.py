"""JPEG: what its markers tell, and its pixels with every warning of the decoder taken seriously.

libjpeg makes up what damaged data lack and only warns; Pillow does not pass the warnings on.
Markers: ITU-T T.81, Annex B.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from pipeline.images.errors import ImageError
from pipeline.images.formats.integrity import cut, trailing
from pipeline.images.formats.tiff import directories

MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # no stuffed 0xFF, no fill byte, no restart: those stand inside data
EOI, SOS, DHT, APP2 = 0xD9, 0xDA, 0xC4, 0xE2
BARE = (EOI, 0xD8, 0x01)  # markers without a body
BASELINE, PROGRESSIVE = (0xC0, 0xC1), (0xC2, 0xCA)  # Huffman sequential; Huffman and arithmetic progressive
FRAMES = {*range(0xC0, 0xD0)} - {DHT, 0xC8, 0xCC}
MOST_SCANS = 100  # usual are 1 to 20; each decodes the whole picture again
END_OF_BLOCK = 0  # the symbol for "the rest of this block is flat": only then are long runs of zeros data
HOLE = bytes(64)
MP_ENTRIES = 0xB002  # tag: 16 bytes for each picture
JFIF_VERSION = re.compile(rb"(\xff\xe0..JFIF\0)..", re.DOTALL)
GUESSED = ("Corrupt JPEG", "Inconsistent progression", "Invalid SOS", "Unknown Adobe")  # libjpeg's warnings
SURPLUS = re.compile(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0xd9")
MOST_PADDING = 64
END = re.compile(rb"\xff\xd9")


def inspect(content: bytes) -> list[str]:
    """Warnings that the markers tell.

    Raises ImageError for missing or damaged parts that the decoder does not notice, and for a bomb of scans.
    """
    scans = scan = frame = components = kind = end = last = 0
    zeros = 1  # what a code of zeros means in the standard's tables, for files that bring none
    exact: set[tuple[int, int]] = set()  # component and coefficient that a progressive scan brings to full precision
    for kind, begin, end in segments(content):
        body = content[begin:end]
        if kind == SOS:
            scans, scan = scans + 1, end
            if scans > MOST_SCANS:
                raise ImageError("too_large", f"more than {MOST_SCANS} scans: a decompression bomb")
            if frame in PROGRESSIVE:
                exact |= brought_to_full_precision(body)
        elif kind == DHT:
            zeros = meaning_of_zeros(body, zeros)
        elif kind in FRAMES:
            frame, components = kind, int.from_bytes(body[5:6], "big")
        elif kind == APP2 and body.startswith(b"MPF\0"):
            last = begin + 4 + last_picture(body[4:])
    if not scans:
        raise cut("in its header")
    if kind != EOI:
        raise cut("before its end-of-image marker")
    if frame in PROGRESSIVE and len(exact) < 64 * components:
        raise cut(f"after {scans} scans, before its details")
    if frame in BASELINE and scans == 1 and zeros != END_OF_BLOCK and content.find(HOLE, scan, end) >= 0:
        raise ImageError("corrupt", "a hole of zero bytes in its image data")
    if last and end < len(content):  # without more data, a program has kept the first picture only
        if EOI not in (kind for kind, _, _ in segments(content, last)):
            raise cut("in its last picture")
        return []
    return trailing(content, end)


def segments(content: bytes, at: int = 2) -> Iterator[tuple[int, int, int]]:
    """Marker, begin and end of each segment's body, up to the end of the image."""
    while marker := MARKER.search(content, at):
        kind, begin = content[marker.end() - 1], marker.end()
        at = begin if kind in BARE else begin + int.from_bytes(content[begin : begin + 2], "big")
        yield kind, min(begin + 2, at), at
        if kind == EOI:
            return


def brought_to_full_precision(scan: bytes) -> set[tuple[int, int]]:
    count = scan[0] if scan else 0
    if len(scan) < 4 + 2 * count or scan[3 + 2 * count] & 15:  # the low bits that are left for later scans
        return set()
    first, last = scan[1 + 2 * count], min(scan[2 + 2 * count], 63)
    return {(component, number) for component in scan[1 : 1 + 2 * count : 2] for number in range(first, last + 1)}


def meaning_of_zeros(tables: bytes, known: int) -> int:
    """The symbol whose Huffman code is all zeros among the luminance's AC coefficients, if these tables have it."""
    at = 0
    while at + 17 < len(tables):
        if tables[at] == 0x10:
            known = tables[at + 17]
        at += 17 + sum(tables[at + 1 : at + 17])
    return known


def last_picture(index: bytes) -> int:
    """Where the last picture of a multi-picture file begins, from the beginning of its index (CIPA DC-007)."""
    try:
        directory = next(directories(index))
        return max(place for _, _, place, _ in struct.iter_unpack(f"{directory.order}4I", directory.data(MP_ENTRIES)))
    except (ImageError, StopIteration, ValueError, struct.error):
        return 0


def load(content: bytes, image: Image.Image) -> tuple[Image.Image, NDArray[np.uint8] | None]:
    """The pixels of a JPEG that Pillow has opened, the same as Pillow's own to the bit: in the image, or beside it
    as (H, W, 3) uint8. Raises ImageError where the decoder had to guess.
    """
    try:
        pixels = strictly_decoded(content, image)
    except (ValueError, KeyError) as error:  # KeyError: a subsampling for which simplejpeg has no name
        message = str(error)
        if "remature end" in message:
            raise ImageError("truncated", "its image data end before its last row") from None
        if message.startswith(GUESSED) and not is_padding(message, content):
            raise ImageError("corrupt", message[0].lower() + message[1:]) from None
        pixels = (
            None  # rare subsampling, which only libjpeg's other interface decodes; or nothing does, and Pillow says so
        )
    if pixels is None or image.mode == "CMYK":  # Pillow knows whether that is stored inverted
        image.load()
        return image, None
    if image.mode == "RGB":
        return image, pixels
    loaded = Image.fromarray(pixels[:, :, 0])
    loaded.info = image.info
    return loaded, None


def strictly_decoded(content: bytes, image: Image.Image) -> NDArray[np.uint8]:
    """Pixels (H, W, 1, 3 or 4) uint8. Raises ValueError with the first warning or error of libjpeg."""
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(content)
    except ValueError as error:
        if "JFIF revision" not in str(error):
            raise
        content = JFIF_VERSION.sub(rb"\g<1>\1\1", content)  # 0.00 and 2.01 are about: they change nothing
        height, width, *_ = simplejpeg.decode_jpeg_header(content)
    if (width, height) != image.size:
        raise ImageError("corrupt", f"two headers, of {image.width}×{image.height} and {width}×{height} pixels")
    return simplejpeg.decode_jpeg(content, {"L": "GRAY", "CMYK": "CMYK"}.get(image.mode, "RGB"))


def is_padding(message: str, content: bytes) -> bool:
    """Whether libjpeg only stumbled over a few zeros before the end, as some cameras write to fill up a block.

    Any other surplus means that the data have lost their places, even where it is a single byte.
    """
    surplus = SURPLUS.match(message)
    if surplus is None or int(surplus[1]) > MOST_PADDING:
        return False
    return any(not content[end.start() - int(surplus[1]) : end.start()].strip(b"\0") for end in END.finditer(content))
