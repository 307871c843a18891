"""Whole files of every format that is read, made from a real photo, and ways to take them apart."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
from PIL import Image
from pillow_heif import register_heif_opener

register_heif_opener()  # the tests write such files
PHOTO_FILE = Path(sklearn.__file__).parent / "datasets/images/flower.jpg"


@cache
def photo(width: int = 64, height: int = 48) -> Image.Image:
    with Image.open(PHOTO_FILE) as image:
        return image.convert("RGB").resize((width, height))


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def frames() -> dict[str, Any]:
    return {"save_all": True, "append_images": [photo().rotate(90).resize((64, 48)), photo().rotate(180)]}


def text_ppm() -> bytes:
    return b"P3\n# words\n64 48\n255\n" + b" ".join(b"%d" % value for value in photo().tobytes()) + b"\n"


def samples() -> dict[str, bytes]:
    """A file of each format and of its variants that are written differently."""
    image = photo()
    return {
        "jpg": encoded(image, "JPEG"),
        "progressive jpg": encoded(image, "JPEG", progressive=True),
        "optimized jpg": encoded(image, "JPEG", optimize=True),
        "restarting jpg": encoded(image, "JPEG", restart_marker_blocks=2),
        "gray jpg": encoded(image.convert("L"), "JPEG"),
        "cmyk jpg": encoded(image.convert("CMYK"), "JPEG"),
        "mpo jpg": encoded(image, "MPO", **frames()),
        "png": encoded(image, "PNG"),
        "palette png": encoded(image.convert("P"), "PNG"),
        "animated png": encoded(image, "PNG", **frames()),
        "gif": encoded(image, "GIF"),
        "animated gif": encoded(image, "GIF", **frames()),
        "webp": encoded(image, "WEBP"),
        "lossless webp": encoded(image, "WEBP", lossless=True),
        "animated webp": encoded(image, "WEBP", **frames()),
        "bmp": encoded(image, "BMP"),
        "palette bmp": encoded(image.convert("P"), "BMP"),
        "tif": encoded(image, "TIFF"),
        "lzw tif": encoded(image, "TIFF", compression="tiff_lzw"),
        "deflate tif": encoded(image, "TIFF", compression="tiff_deflate"),
        "jpeg tif": encoded(image, "TIFF", compression="jpeg"),
        "tif of pages": encoded(image, "TIFF", **frames()),
        "ppm": encoded(image, "PPM"),
        "pgm": encoded(image.convert("L"), "PPM"),
        "pbm": encoded(image.convert("1"), "PPM"),
        "text ppm": text_ppm(),
        "avif": encoded(image, "AVIF"),
        "heic": encoded(image, "HEIF"),
    }


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, color: int, rows: bytes, *before: bytes, interlaced: int = 0) -> bytes:
    """A PNG of any header and rows (each with its filter byte), with chunks between them."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlaced)
    chunks = (chunk(b"IHDR", header), *before, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def tiff(tags: Iterable[tuple[int, int, int, int]], data: bytes = b"", next_page: int = 0) -> bytes:
    """A little-endian TIFF of one directory at 8 and data after it; tags are (tag, type, values, value or place)."""
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(entries) // 12) + entries + struct.pack("<I", next_page) + data


def gray_tiff(width: int, height: int, data: bytes, next_page: int = 0, **more: tuple[int, int, int]) -> bytes:
    """An uncompressed 8-bit gray TIFF; `more` replaces or adds tags as t<number>=(type, values, value)."""
    tags = {256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1), 277: (3, 1, 1)}
    tags |= {273: (4, 1, 0), 278: (4, 1, height), 279: (4, 1, len(data))}
    tags |= {int(name[1:]): value for name, value in more.items()}
    if 273 not in (int(name[1:]) for name in more):
        tags[273] = (4, 1, 14 + 12 * len(tags))
    return tiff([(tag, *value) for tag, value in sorted(tags.items())], data, next_page)


def bmp(width: int, height: int, bits: int, pixels: bytes, compression: int = 0, size: int | None = None) -> bytes:
    colors = b"" if bits > 8 else bytes(range(256)) * 4
    start = 54 + len(colors)
    whole = start + len(pixels) if size is None else size
    header = struct.pack("<2s4I2i2HI", b"BM", whole, 0, start, 40, width, height, 1, bits, compression)
    return header + struct.pack("<5I", len(pixels) if compression else 0, 0, 0, len(colors) // 4, 0) + colors + pixels


ADOBE_RGB = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))  # chromaticities of its primaries
SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))


def icc(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    """A color profile of a monitor (ICC.1:2001-04): its tags, whose data have whole words."""
    place = 132 + 12 * len(tags)
    table, data = struct.pack(">I", len(tags)), b""
    for name, value in tags.items():
        table += name + struct.pack(">II", place + len(data), len(value))
        data += value.ljust(-(-len(value) // 4) * 4, b"\0")
    header = struct.pack(">II4s4s4s4s", place + len(data), 0, b"\2\x10\0\0", b"mntr", space, b"XYZ ")
    return (header.ljust(36, b"\0") + b"acsp").ljust(68, b"\0") + xyz(D50)[8:] + bytes(48) + table + data


def xyz(values: Iterable[float]) -> bytes:
    return b"XYZ " + bytes(4) + b"".join(struct.pack(">i", round(value * 65536)) for value in values)


D50 = (0.9642, 1.0, 0.8249)
TEXTS = {b"desc": b"desc" + bytes(4) + struct.pack(">I", 2) + b"x" + bytes(79), b"cprt": b"text" + bytes(5)}


def gamma(value: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(value * 256))


def gray_profile(curve: float) -> bytes:
    return icc(b"GRAY", {**TEXTS, b"wtpt": xyz(D50), b"kTRC": gamma(curve)})


def rgb_profile(primaries: Iterable[tuple[float, float]], curve: float) -> bytes:
    """A profile of three primaries and a gamma, with the white of sRGB and Adobe RGB (D65), adapted to D50."""
    colors = np.array([(x / y, 1, (1 - x - y) / y) for x, y in primaries]).T
    white = np.array([0.95047, 1, 1.08883])
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    adapted = np.linalg.solve(bradford, (bradford @ D50 / (bradford @ white))[:, None] * bradford)
    red, green, blue = (adapted @ (colors * np.linalg.solve(colors, white))).T
    curves = dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), gamma(curve))
    return icc(
        b"RGB ", {**TEXTS, b"wtpt": xyz(D50), b"rXYZ": xyz(red), b"gXYZ": xyz(green), b"bXYZ": xyz(blue), **curves}
    )


def bit_flipped(data: bytes, at: int) -> bytes:
    """With one bit another one."""
    return replaced(data, at, bytes([data[at] ^ 1]))


def replaced(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]
