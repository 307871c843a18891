"""Check that a file is whole: every block of its format is there, and nothing follows the last one.

A decoder stops at the last pixel of the first frame and misses the rest. The function of a format takes the content of
a file, returns issue codes for what is odd, and raises ImageError for what is damaged. JPEG, PNG and TIFF need more
code and have modules of their own.
"""

from __future__ import annotations

import re
import struct

from pipeline.images.errors import ImageError

RLE = (1, 2)  # BMP's run-length encodings
PROFILED = 124  # bytes of the latest BMP header, with which a color profile may follow the pixels
MOST_PADDING = 15  # bytes that some programs write after a BMP's pixels
# Kinds of boxes at the top level of an AVIF or HEIF file
BOXES = {b"ftyp", b"meta", b"mdat", b"moov", b"moof", b"mfra", b"sidx", b"free", b"skip", b"uuid", b"udta", b"pdin"}
NUMBER = rb"(?:\s|#[^\n]*\n)++(\d{1,9})"  # possessive, as it would remember where each comment ended
PPM_HEADER = re.compile(rb"P([56])" + 3 * NUMBER + rb"\s")


def limit_pixels(width: int, height: int, most: float) -> None:
    """Raises ImageError for more pixels than are decoded, whatever the file holds."""
    if width * height > most:
        raise ImageError("too_large", f"{width}×{height} pixels, more than check.max_pixels = {most} allows")


def cut(where: str) -> ImageError:
    """The error for a file that ends too early; `where` completes the sentence that begins with "cut"."""
    return ImageError("truncated", f"cut {where}")


def trailing(content: bytes, end: int) -> list[str]:
    """The issue code for bytes after the end of the image, if there are any."""
    return ["trailing_data"] if len(content) > end else []


def gif(content: bytes) -> list[str]:
    """Follow extensions and images, which are chains of sub-blocks of at most 255 bytes, to the trailer (GIF89a)."""
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
    """Bytes of the color table that a GIF's flags announce: 3 for each of 2 to 256 colors."""
    return 6 << (flags & 7) if flags & 0x80 else 0


def webp(content: bytes) -> list[str]:
    """Follow the chunks of a WebP file, all inside one RIFF chunk (RFC 9649, section 2)."""
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


def boxes(content: bytes) -> list[str]:
    """Follow the boxes of an AVIF or HEIF file. Each begins with its size and kind (ISO/IEC 14496-12, section 4.2)."""
    at = 0
    while at < len(content):
        size, kind = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8]
        if len(kind) == 4 and kind not in BOXES:
            return ["trailing_data"]
        if size == 1:
            size = int.from_bytes(content[at + 8 : at + 16], "big")
        if at + max(size, 8) > len(content):
            raise cut("in one of its boxes")
        if size < 8:  # 0: to the end of the file
            break
        at += size
    return []


def bmp(content: bytes, most_pixels: float) -> list[str]:
    """Compare the length of a BMP with its header. Rows are padded to 4 bytes (Windows' BITMAPINFOHEADER)."""
    if len(content) < 30:
        raise cut("in its header")
    size, _, start, header, width, height, _, bits, compression = struct.unpack_from(
        "<4I2i2HI", content.ljust(34, b"\0"), 2
    )
    stored = 0
    if header == 12:  # OS/2's header
        width, height, _, bits = struct.unpack_from("<4H", content, 18)
        compression = 0
    elif len(content) >= 38:
        stored = int.from_bytes(content[34:38], "little")
    limit_pixels(width, abs(height), most_pixels)
    if compression not in RLE:
        stored = (width * bits + 31) // 32 * 4 * abs(height)
    if start + stored > len(content):
        raise cut(f"after {len(content)} of {start + stored} bytes")
    if compression not in RLE and header < PROFILED and min(size, len(content)) > start + stored + MOST_PADDING:
        raise ImageError("corrupt", f"more data than its {width}×{abs(height)} pixels need")
    return trailing(content, max(size, start + stored) + 3)  # some programs fill up the last 4 bytes


def ppm(content: bytes) -> list[str]:
    """Compare the length of a PGM or PPM with its header in text (netpbm.sourceforge.net/doc).

    The rarer kinds, such as those with pixels in text, are left to the decoder.
    """
    header = PPM_HEADER.match(content)
    if header is None:
        return []
    kind, width, height, highest = (int(number) for number in header.groups())
    pixel = (3 if kind == 6 else 1) * (2 if highest > 255 else 1)
    return trailing(content, header.end() + width * height * pixel)
