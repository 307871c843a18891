"""PNG: check its chunks and their checksums, and decode it (PNG specification, third edition, sections 5 and 11)."""

from __future__ import annotations

import io
import struct
import zlib
from collections import Counter
from collections.abc import Iterator

from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from pipeline.images.errors import ImageError
from pipeline.images.formats.integrity import cut, trailing

SIGNATURE = 8  # bytes
PALETTE, RGB = 3, 2  # color types
SAMPLES = {0: 1, RGB: 3, PALETTE: 1, 4: 2, 6: 4}  # values of a pixel, by color type
READ = 4096  # bytes that the decoder is given at a time
MOST_REST = 64  # bytes that may follow the last row: the end of the compressed stream and its checksum


def inspect(content: bytes) -> list[str]:
    """Check the chunks of a PNG and return issue codes. Raises ImageError unless all are there and whole."""
    view, end = memoryview(content), SIGNATURE
    kinds: Counter[str] = Counter()
    frames = 1
    for kind, at, end in chunks(content):
        if zlib.crc32(view[at - 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            raise ImageError("corrupt", f"wrong checksum of chunk {kind}")
        if (kind == "IHDR") != (not kinds):
            raise ImageError("corrupt", f"chunk {kind} out of place")
        if kind == "acTL":
            frames = int.from_bytes(view[at : at + 4], "big")
        kinds[kind] += 1
    depth, color = content[SIGNATURE + 16 : SIGNATURE + 18]
    for needed in ("IDAT", "PLTE") if color == PALETTE else ("IDAT",):
        if not kinds[needed]:
            raise ImageError("corrupt", f"without chunk {needed}")
    if kinds["fcTL"] < frames > 1:
        raise cut(f"after {kinds['fcTL']} of {frames} frames")
    odd = ["animated"] if frames > 1 else []
    if depth == 16 and color == RGB:  # Pillow reduces these to 8 bits
        odd.append("unexpected_mode")
    return odd + trailing(content, end)


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
