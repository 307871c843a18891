"""Checks of a file's bytes: whether every block of its format is there, whole, and what follows the last one.

Each takes the content, returns warnings and raises ImageError. Decoders stop at the last pixel of the first frame and
see little of this. JPEG, PNG and TIFF, of which there is more to say, have modules of their own.
"""

from __future__ import annotations

import re
import struct

from pipeline.images.errors import ImageError

MOST_PIXELS = 89_478_485  # where Pillow begins to warn of a decompression bomb: a quarter of a GB as RGB
RLE = (1, 2)  # BMP's compressions
PROFILED = 124  # bytes of BMP's header that may announce a color profile after the pixels
MOST_PADDING = 15  # bytes that some write after a BMP's pixels
BOXES = {b"ftyp", b"meta", b"mdat", b"moov", b"moof", b"mfra", b"sidx", b"free", b"skip", b"uuid", b"udta", b"pdin"}
NUMBER = rb"(?:\s|#[^\n]*\n)+(\d{1,9})"
PPM_HEADER = re.compile(rb"P([56])" + 3 * NUMBER + rb"\s")


def limit_pixels(width: int, height: int) -> None:
    """Raises ImageError for more pixels than are decoded, whatever the file holds."""
    if width * height > MOST_PIXELS:
        raise ImageError("too_large", f"{width}×{height} pixels")


def cut(where: str) -> ImageError:
    return ImageError("truncated", f"cut {where}")


def trailing(content: bytes, end: int) -> list[str]:
    return ["trailing_data"] if len(content) > end else []


def gif(content: bytes) -> list[str]:
    """Extensions and images, each a chain of sub-blocks of at most 255 bytes, up to the trailer (GIF89a)."""
    frames = 0
    try:
        at = 13 + color_table(content[10])
        while (block := content[at]) != 0x3B:
            if block == 0x2C:
                at += 11 + color_table(content[at + 9])
                frames += 1
            elif block == 0x21:
                at += 2
            else:
                raise ImageError("corrupt", "something that is no block where one should begin")
            while size := content[at]:
                at += 1 + size
            at += 1
    except IndexError:
        raise cut(f"in or after frame {frames}" if frames else "before its first frame") from None
    if not frames:
        raise ImageError("unreadable", "no frame in it")
    return ["animated"] * (frames > 1) + trailing(content, at + 1)


def color_table(flags: int) -> int:
    """Bytes of the table that the flags announce."""
    return 6 << (flags & 7) if flags & 0x80 else 0


def webp(content: bytes) -> list[str]:
    """One RIFF chunk of chunks (RFC 9649, section 2)."""
    end = 8 + int.from_bytes(content[4:8], "little")
    if end > len(content):
        raise cut(f"after {len(content)} of {end} bytes")
    at, frames = 12, 0
    while at + 8 <= end:
        frames += content[at : at + 4] == b"ANMF"
        size = int.from_bytes(content[at + 4 : at + 8], "little")
        at += 8 + size + size % 2
    if at > end + 1:  # some leave out the last padding byte
        raise ImageError("corrupt", "a chunk reaches beyond the end that its header gives")
    return ["animated"] * (frames > 1) + trailing(content, max(at, end))


def avif(content: bytes) -> list[str]:
    """Boxes of a size and a kind (ISO/IEC 14496-12, section 4.2)."""
    at = 0
    odd = ["animated"] if content[8:12] == b"avis" else []
    while at < len(content):
        size, kind = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8]
        if len(kind) == 4 and kind not in BOXES:
            return [*odd, "trailing_data"]
        if size == 1:
            size = int.from_bytes(content[at + 8 : at + 16], "big")
        if at + max(size, 8) > len(content):
            raise cut("in one of its boxes")
        if size < 8:  # 0: to the end of the file
            break
        at += size
    return odd


def bmp(content: bytes) -> list[str]:
    """A header with the file's size and the place of the pixels, rows padded to 4 bytes (Windows' BITMAPINFOHEADER)."""
    if len(content) < 30:
        raise cut("in its header")
    size, _, start, header, width, height, _, bits, compression = struct.unpack_from(
        "<4I2i2HI", content.ljust(34, b"\0"), 2
    )
    stored = 0
    if header == 12:  # of OS/2
        width, height, _, bits = struct.unpack_from("<4H", content, 18)
        compression = 0
    elif len(content) >= 38:
        stored = int.from_bytes(content[34:38], "little")
    limit_pixels(width, abs(height))
    if compression not in RLE:
        stored = (width * bits + 31) // 32 * 4 * abs(height)
    if start + stored > len(content):
        raise cut(f"after {len(content)} of {start + stored} bytes")
    if compression not in RLE and header < PROFILED and min(size, len(content)) > start + stored + MOST_PADDING:
        raise ImageError("corrupt", f"more data than its {width}×{abs(height)} pixels need")
    return trailing(content, max(size, start + stored) + 3)  # some fill up to whole words


def ppm(content: bytes) -> list[str]:
    """A header in words, then raw pixels (netpbm.sourceforge.net/doc); the rarer kinds are left to the decoder."""
    header = PPM_HEADER.match(content)
    if header is None:
        return []
    kind, width, height, highest = (int(number) for number in header.groups())
    pixel = (3 if kind == 6 else 1) * (2 if highest > 255 else 1)
    return trailing(content, header.end() + width * height * pixel)
