"""TIFF, and EXIF, which is a TIFF without pixels: check that all that the directories point to is there.

Adobe, TIFF Revision 6.0, sections 2 and 15. BigTIFF differs only in the width of its numbers.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.images.errors import ImageError
from pipeline.images.formats import DAMAGED_METADATA
from pipeline.images.formats.integrity import cut, limit_pixels

# Bytes of a value, by the number of its type
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
INTEGERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q"}  # types of unsigned integers, and struct's letters for them
SUBFILE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, PLANAR = 254, 256, 257, 258, 259, 262, 277, 284
ORIENTATION, EXTRA_SAMPLES, SAMPLE_FORMAT = 274, 338, 339
EXIF, GPS, SUBPAGES = 34665, 34853, 330  # places of further directories
CR2 = b"\x10\0\0\0CR\2\0"  # what follows TIFF's signature in Canon's raw files, whose first page is not marked
RAW = "its first page is a thumbnail, as in a camera's raw file: convert it to PNG"
STRIP_OFFSETS, STRIP_ROWS, STRIP_COUNTS = 273, 278, 279
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_COUNTS = 322, 323, 324, 325
SMALLER_OR_MASK = 0b101  # bits of SUBFILE: the page is a thumbnail or a mask of another one
UNCOMPRESSED, SEPARATE, YCBCR, WHITE_IS_ZERO, SIGNED = 1, 2, 6, 0, 2
KINDS = {1: "unsigned", SIGNED: "signed", 3: "float", 5: "complex integer", 6: "complex"}  # of samples
READ_GRAY = {1: (1, 2, 4, 8, 12, 16, 32), SIGNED: (8, 16, 32), 3: (32,)}  # bits that Pillow reads, by kind
READ_SEVERAL = {1: (8, 16)}  # the same of each of several samples
BIG = (b"+\0", b"\0+")  # begin a BigTIFF, after the byte order
MOST_PAGES = 100_000
# Tags that say what the pixels are: how they are arranged and compressed, and what their values mean
PIXELS = {*range(254, 267), *range(273, 282), 284, *range(290, 294), 317, *range(320, 348), *range(512, 533)}


class Field(NamedTuple):
    """How a tag's values are stored."""

    kind: int  # number of their type
    values: int  # how many there are
    place: int  # where the first one begins


class Beyond(NamedTuple):
    """A tag whose values reach beyond the end of its block."""

    tag: int
    counter: int  # where in the block their number is
    place: int  # where the first one should begin


class Directory(NamedTuple):
    """The fields of one page by tag, and the block that holds their values."""

    block: bytes
    order: str  # < or >
    fields: dict[int, Field]
    beyond: list[Beyond]  # the tags whose values reach beyond the end of the block, which are not in `fields`

    def data(self, tag: int) -> bytes:
        """The bytes of a tag's values; none without the tag."""
        kind, values, place = self.fields.get(tag, Field(0, 0, 0))
        return self.block[place : place + SIZES.get(kind, 0) * values]

    def numbers(self, tag: int) -> tuple[int, ...]:
        """A tag's values; none if they are not unsigned integers, or without the tag."""
        kind, values, _ = self.fields.get(tag, Field(0, 0, 0))
        return struct.unpack(f"{self.order}{values}{INTEGERS[kind]}", self.data(tag)) if kind in INTEGERS else ()

    def number(self, tag: int, default: int) -> int:
        return next(iter(self.numbers(tag)), default)


def inspect(content: bytes, most_pixels: float) -> list[str]:
    """Check the pages of a TIFF and return issue codes.

    Raises ImageError if a page or some of its pixels are missing, or the first page is too large.
    """
    if content[4:12] == CR2:
        raise ImageError("unreadable", RAW)
    pages, odd, damaged, first_is_part = 0, [], False, False
    for page in directories(content):
        is_part = bool(page.number(SUBFILE, 0) & SMALLER_OR_MASK)
        if not pages:
            limit_pixels(page.number(WIDTH, 0), page.number(HEIGHT, 0), most_pixels)
            odd = odd_orientation(page)  # Pillow turns the image and forgets it
            first_is_part = is_part
        if first_is_part and (SUBPAGES in page.fields or not is_part):
            raise ImageError("unreadable", RAW)
        pages += not pages or not is_part
        for tag, _, place in page.beyond:
            if tag in PIXELS or place <= len(content) + 1:  # values begin at even places
                raise cut(f"before the value of tag {tag}")
            damaged = True
        damaged |= any(page.number(tag, 0) >= len(content) for tag in (EXIF, GPS))
        check_pixels(page, most_pixels)
    if not pages:
        raise ImageError("unreadable", "no page in it")
    return [*odd, *["animated"] * (pages > 1), *[DAMAGED_METADATA] * damaged]


def without_damage(content: bytes) -> bytes:
    """The same TIFF without the values that are damaged: at the first of them, Pillow would stop reading tags."""
    repaired = bytearray(content)
    width = 8 if content[2:4] in BIG else 4
    for page in directories(content):
        for _, counter, _ in page.beyond:
            repaired[counter : counter + width] = bytes(width)
    return bytes(repaired)


def odd_orientation(page: Directory) -> list[str]:
    """The issue code for an orientation in which the picture is not upright, or that does not exist."""
    value = page.number(ORIENTATION, 1)
    return [] if value == 1 else ["exif_rotated"] if 1 < value <= 8 else ["corrupt_exif"]


def directories(block: bytes) -> Iterator[Directory]:
    """Follow the chain of directories and yield each.

    Raises ImageError where one of them lies beyond the end of the block, and for a chain that never ends.
    """
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        raise ImageError("unreadable", "no byte order at its beginning")
    big = block[2:4] in BIG
    word, counter, width = ("Q", "Q", 8) if big else ("I", "H", 4)

    def read(layout: str, at: int) -> tuple[int, ...]:
        return struct.unpack_from(order + layout, block, at)

    seen: set[int] = set()
    try:
        (at,) = read(word, width)
        while at:
            if at in seen or len(seen) == MOST_PAGES:
                raise ImageError("corrupt", "its pages lead in a circle or have no end")
            seen.add(at)
            (entries,) = read(counter, at)
            at += struct.calcsize(f"={counter}")
            fields: dict[int, Field] = {}
            beyond: list[Beyond] = []
            claimed = 0
            for _ in range(entries):
                tag, kind, values = read(f"HH{word}", at)
                size, place = SIZES.get(kind, 0) * values, at + 4 + width
                if size > width:
                    (place,) = read(word, place)
                if place + size > len(block):
                    beyond.append(Beyond(tag, at + 4, place))
                else:
                    claimed += size
                    fields[tag] = Field(kind, values, place)
                if claimed > len(block):  # the decoder would read each into memory
                    raise ImageError("corrupt", "its tags claim more than the whole file")
                at += 4 + 2 * width
            yield Directory(block, order, fields, beyond)
            (at,) = read(word, at)
    except struct.error:
        raise cut("in or before a directory") from None


def check_pixels(page: Directory, most_pixels: float) -> None:
    """Raise ImageError unless the strips or tiles of a page are in the file and are as many as its size needs.

    If they are not compressed, they also have to have as many bytes as it needs.
    """
    tiled = TILE_OFFSETS in page.fields
    width, height = page.number(WIDTH, 0), page.number(HEIGHT, 0)
    offsets = page.numbers(TILE_OFFSETS if tiled else STRIP_OFFSETS)
    counts = page.numbers(TILE_COUNTS if tiled else STRIP_COUNTS)
    if any(offset + count > len(page.block) for offset, count in zip(offsets, counts, strict=False)):
        raise cut("in its image data")
    across = page.number(TILE_WIDTH, 0) if tiled else width
    down = page.number(TILE_HEIGHT, 0) if tiled else min(page.number(STRIP_ROWS, height), height)
    if not (offsets and across and down):
        return  # the decoder decides
    limit_pixels(across, down, most_pixels)  # the decoder allocates memory for one strip or tile
    separate = page.number(PLANAR, 1) == SEPARATE
    planes = page.number(SAMPLES, 1)
    needed = -(-width // across) * -(-height // down) * (planes if separate else 1)
    if len(offsets) < needed:
        raise ImageError("truncated", f"{len(offsets)} of {needed} strips or tiles")
    if not counts or page.number(COMPRESSION, UNCOMPRESSED) != UNCOMPRESSED or page.number(PHOTOMETRIC, 0) == YCBCR:
        return
    row = -(-across * page.number(BITS, 1) * (1 if separate else planes) // 8)
    rows = needed * down if tiled else height * (planes if separate else 1)
    if sum(counts) < row * rows:
        raise ImageError("truncated", f"{sum(counts)} bytes of pixels, but its size asks for {row * rows}")
    if sum(counts) >= row * (rows + 1):
        raise ImageError("corrupt", f"{sum(counts)} bytes of pixels, but its size asks for {row * rows}")


def open_image(content: bytes) -> Image.Image:
    """The image with its size and mode, not yet decoded.

    Raises ImageError for samples of a kind that is not read, and what the decoder raises.
    """
    from PIL import TiffImagePlugin

    page = next(directories(content))
    check_samples(page)
    # Pillow by itself reads separate planes as if they had 8 bits a sample; libtiff reads them right
    TiffImagePlugin.READ_LIBTIFF = page.number(PLANAR, 1) == SEPARATE and page.number(BITS, 1) > 8
    return Image.open(io.BytesIO(content), formats=["TIFF"])


def check_samples(page: Directory) -> None:
    """Raise ImageError for samples of a kind that Pillow does not read, and of which it does not say so."""
    count, bits, kind = page.number(SAMPLES, 1), page.number(BITS, 1), page.number(SAMPLE_FORMAT, 1)
    if bits not in (READ_SEVERAL if count > 1 else READ_GRAY).get(kind, ()):
        told = KINDS.get(kind, f"sample format {kind}")
        size = f"{count} × {bits}" if count > 1 else str(bits)
        raise ImageError("unreadable", f"{size} bits a pixel ({told}) are not read: convert it to 8 or 16, unsigned")


def is_deep(image: Image.Image) -> bool:
    """Whether a decoded TIFF has gray values that are none of 8 bits: more bits, signs, or floats."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16") or (image.mode == "L" and is_signed(image))


def is_signed(image: Image.Image) -> bool:
    return bool(image.tag_v2.get(SAMPLE_FORMAT, (1,))[0] == SIGNED)  # type: ignore[attr-defined]


def gray_values(image: Image.Image) -> tuple[NDArray[Any], float]:
    """The gray values of a decoded TIFF that is deep, (H, W), and the one that is white."""
    tags = image.tag_v2  # type: ignore[attr-defined]
    bits, signed = tags.get(BITS, (1,))[0], is_signed(image)
    values: NDArray[Any] = np.asarray(image)
    white: float = 1.0
    if image.mode != "F":
        if bits == 32 and not signed:
            values = values.view(np.uint32)  # Pillow knows only signed ones
        elif signed and bits == 8:
            values = values.view(np.int8)
        white = 2 ** (min(bits, 16) - (signed and bits < 32)) - 1
    if tags.get(PHOTOMETRIC, 1) == WHITE_IS_ZERO:  # Pillow inverts only those of 8 bits
        values = np.asarray(white, values.dtype) - values
    return values, white


def names_its_alpha(image: Image.Image) -> bool:
    """Whether a decoded TIFF says what its samples beyond the colors are."""
    return EXTRA_SAMPLES in image.tag_v2  # type: ignore[attr-defined]
