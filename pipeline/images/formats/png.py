"""PNG: check its chunks and their checksums, and decode it (PNG specification, third edition, sections 5 and 11)."""

from __future__ import annotations

import io
import struct
import zlib
from collections import Counter
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from pipeline.images.errors import ImageError
from pipeline.images.formats import DAMAGED_METADATA
from pipeline.images.formats.integrity import cut, trailing

SIGNATURE = 8  # bytes
GRAY, RGB, PALETTE = 0, 2, 3  # color types
SAMPLES = {GRAY: 1, RGB: 3, PALETTE: 1, 4: 2, 6: 4}  # values of a pixel, by color type
READ = 4096  # bytes that the decoder is given at a time
# Chunks that may be missing, but without which the pixels would be others: transparency, frames of an animation
PIXELS = {"tRNS", "acTL", "fcTL", "fdAT"}
LEAST = {"gAMA": 4, "cHRM": 32, "sRGB": 1, "pHYs": 9}  # bytes of chunks that Pillow refuses to read if they are shorter
COMPRESSED = ("iCCP", "zTXt")  # a name, a zero byte, the compression method (0, or Pillow refuses it), compressed data
MOST_REST = 64  # bytes that may follow the last row: the end of the compressed stream and its checksum


def inspect(content: bytes) -> list[str]:
    """Check the chunks of a PNG and return issue codes. Raises ImageError unless all are there and whole."""
    kinds: Counter[str] = Counter()
    frames, damaged = 1, False
    end = SIGNATURE
    for kind, at, end in chunks(content):
        if not is_needed(kind):
            damaged = damaged or is_damaged(content, kind, at, end)
        elif not has_right_checksum(content, at, end):
            raise ImageError("corrupt", f"wrong checksum of chunk {kind}")
        if (kind == "IHDR") != (not kinds):
            raise ImageError("corrupt", f"chunk {kind} out of place")
        if kind == "acTL":
            frames = int.from_bytes(content[at : at + 4], "big")
        kinds[kind] += 1
    depth, color = content[SIGNATURE + 16 : SIGNATURE + 18]
    for needed in ("IDAT", "PLTE") if color == PALETTE else ("IDAT",):
        if not kinds[needed]:
            raise ImageError("corrupt", f"without chunk {needed}")
    if kinds["fcTL"] < frames > 1:
        raise cut(f"after {kinds['fcTL']} of {frames} frames")
    odd = ["animated"] * (frames > 1) + [DAMAGED_METADATA] * damaged
    if depth == 16 and color == RGB:  # Pillow reduces these to 8 bits
        odd.append("unexpected_mode")
    return odd + trailing(content, end)


def is_needed(kind: str) -> bool:
    """Whether the pixels depend on chunks of a kind. Those that every decoder must read begin with a capital letter."""
    return kind[0].isupper() or kind in PIXELS


def has_right_checksum(content: bytes, at: int, end: int) -> bool:
    return zlib.crc32(memoryview(content)[at - 4 : end - 4]) == int.from_bytes(content[end - 4 : end], "big")


def is_damaged(content: bytes, kind: str, at: int, end: int) -> bool:
    """Whether a chunk on which no pixel depends has another checksum than it says, or can't be read."""
    if not has_right_checksum(content, at, end) or end - 4 - at < LEAST.get(kind, 0):
        return True
    return kind in COMPRESSED and content[at : end - 4].partition(b"\0")[2][:1] != b"\0"


def without_damage(content: bytes) -> bytes:
    """The same PNG without damaged chunks on which no pixel depends."""
    whole = (
        content[at - 8 : end]
        for kind, at, end in chunks(content)
        if is_needed(kind) or not is_damaged(content, kind, at, end)
    )
    return content[:SIGNATURE] + b"".join(whole)


def chunks(content: bytes) -> Iterator[tuple[str, int, int]]:
    """Yield the kind of each chunk up to IEND, where its data begins and where it ends.

    Raises ImageError where a chunk is cut, or none begins after another.
    """
    end, kind = SIGNATURE, ""
    while kind != "IEND":
        if end + 12 > len(content):
            raise cut("before its last chunk (IEND)")
        length, name = struct.unpack_from(">I4s", content, end)
        if not name.isalpha():
            raise ImageError("corrupt", "something that is no chunk where one should begin")
        kind, at = name.decode("ascii"), end + 8
        end = at + length + 4
        if end > len(content):
            raise cut(f"in chunk {kind}")
        yield kind, at, end


def load(content: bytes) -> Image.Image:
    """Decode a PNG. Raises ImageError if there is less or more data than its size needs."""
    image = RowsOfPng(io.BytesIO(content))
    image.decodermaxblock = READ
    image.load()
    data = [(at, end - 4) for kind, at, end in chunks(content) if kind == "IDAT"]
    if sum(max(0, end - max(at, image.rows_end)) for at, end in data) > MOST_REST:
        raise ImageError("corrupt", f"more data than its {image.width}×{image.height} pixels need")
    # Where data is missing, Pillow leaves the last rows black. Only then is it counted, which takes half as long as
    # decoding; in an interlaced image, missing data shows in any row
    interlaced = content[SIGNATURE + 20]
    if interlaced or image.crop((0, image.height - 1, *image.size)).getbbox() is None:
        needed, stream = bytes_of_rows(content), zlib.decompressobj()
        for at, end in data:
            needed -= len(stream.decompress(content[at:end], max(needed, 1)))
        if needed > 0:
            raise ImageError("truncated", "its image data end before its last row")
    if image.mode == "P" and image.palette and max(image.histogram()[len(image.palette.palette) // 3 : 256], default=0):
        raise ImageError("corrupt", "colors that its palette lacks")
    return image


def opacity(content: bytes, image: Image.Image) -> NDArray[np.uint8] | None:
    """Where the one color that a PNG names as transparent is not, (H, W) uint8; None without such a color.

    Samples are compared as they are stored (PNG specification, section 11.3.1.1): `image` has the scaled ones.
    """
    named = next((content[at : end - 4] for kind, at, end in chunks(content) if kind == "tRNS"), b"")
    depth, color = content[SIGNATURE + 16 : SIGNATURE + 18]
    if not named or color not in (GRAY, RGB):
        return None
    highest = 2**depth - 1
    samples = np.asarray(image)
    if depth < 8:
        samples = samples.astype(np.uint8) // (1 if depth == 1 else 255 // highest)
    elif depth == 16 and color == RGB:
        samples = samples * np.uint16(256) + lower_bytes(content)
    wanted = np.frombuffer(named, ">u2", SAMPLES[color]) & highest
    equal = samples == wanted
    return np.where(equal.all(-1) if color == RGB else equal, 0, 255).astype(np.uint8)


def lower_bytes(content: bytes) -> NDArray[np.uint8]:
    """The lower bytes of the samples of an RGB image of 16 bits, of which Pillow decodes the upper ones."""
    image = PngImageFile(io.BytesIO(content))
    image.tile = [tile._replace(args="RGB;16L") for tile in image.tile]  # as if the lower byte came first
    return np.asarray(image)


def bytes_of_rows(content: bytes) -> int:
    """Bytes of decompressed data: each row has its filter's byte before its samples. Interlaced images have more."""
    width, height, depth, color = struct.unpack_from(">IIBB", content, SIGNATURE + 8)
    return height * (1 + (width * depth * SAMPLES[color] + 7) // 8)


class RowsOfPng(PngImageFile):
    """A PNG that notes how far the file had been read when its last row was decoded."""

    rows_end = 0

    def load_end(self) -> None:
        assert self.fp is not None
        self.rows_end = self.fp.tell()
        super().load_end()
