"""What images of every depth, color mode and kind of transparency look like, through the stages `check` and `pack`."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pillow_heif
import pytest
from conftest import Project
from PIL import Image
from PIL.ImageCms import buildTransform, createProfile
from samples import bmp, chunk, encoded, gray_tiff, photo, png, tiff

from pipeline.images.decode import decode, upright
from pipeline.images.formats import SUFFIXES

HEIGHT, WIDTH = 6, 8
RANDOM = np.random.default_rng(1)
DEEP = RANDOM.integers(0, 65536, (HEIGHT, WIDTH)).astype(np.uint16)
DARK = (DEEP % 251).astype(np.uint16)  # underexposed: no value above 250 of 65,535
BITS_12 = DEEP >> 4
GRAY = (DEEP >> 8).astype(np.uint8)
COLOR = RANDOM.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
ALPHA = RANDOM.integers(0, 256, (HEIGHT, WIDTH)).astype(np.uint8)
FRACTIONS = RANDOM.random((HEIGHT, WIDTH)).astype(np.float32)
SMOOTH = np.asarray(photo(WIDTH, HEIGHT))
MILD = SMOOTH // 2 + 64  # no color so strong that 8 bits of CIELAB have it only roughly


class Case(NamedTuple):
    """A file, its pixels as a person sees them (gray or color, 0 to 255), its issues, and how far pixels may be off."""

    content: bytes
    seen: Any
    issues: str = "unexpected_mode"
    tolerance: float = 0.5


def signed(values: np.ndarray, kind: str) -> bytes:
    return values.astype(kind).tobytes()


def deep_tiff(values: np.ndarray, bits: int, kind: str, **more: tuple[int, int, int]) -> bytes:
    data = values.astype(kind).tobytes()
    return gray_tiff(WIDTH, HEIGHT, data, t258=(3, 1, bits), t278=(4, 1, HEIGHT), **more)


def packed_12(values: np.ndarray) -> bytes:
    """Two values of 12 bits in three bytes, as TIFF packs them."""
    first, second = values[:, ::2].astype(int), values[:, 1::2].astype(int)
    return np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], -1).astype(np.uint8).tobytes()


def pgm(values: np.ndarray, maxval: int) -> bytes:
    return f"P5 {WIDTH} {HEIGHT} {maxval}\n".encode() + values.astype(">u2" if maxval > 255 else "u1").tobytes()


def rows(samples: bytes) -> bytes:
    """The rows of a PNG, none of them filtered."""
    size = len(samples) // HEIGHT
    return b"".join(b"\0" + samples[at : at + size] for at in range(0, len(samples), size))


def small_bits(values: np.ndarray, depth: int) -> bytes:
    """Samples of 1, 2 or 4 bits, the first in the highest bits of a byte."""
    bits = np.unpackbits(values[..., None].astype(np.uint8), axis=-1)[..., 8 - depth :]
    return np.packbits(bits.reshape(HEIGHT, -1), axis=-1).tobytes()


def with_one_transparent(values: np.ndarray, depth: int) -> Case:
    """A gray PNG in which the value in the middle is transparent, and what else has it."""
    middle = int(values[3, 3])
    data = small_bits(values, depth) if depth < 8 else values.astype(">u2" if depth == 16 else "u1").tobytes()
    content = png(WIDTH, HEIGHT, depth, 0, rows(data), chunk(b"tRNS", struct.pack(">H", middle)))
    shades = values * (255 / (2**depth - 1))
    issues = "" if depth in (2, 4, 8) else "unexpected_mode"
    return Case(content, np.where(values == middle, 255, shades), issues)


def color_with_one_transparent(depth: int) -> Case:
    """The same in color; with 16 bits, a neighbor's upper bytes are those of the transparent one."""
    values = COLOR.astype(np.uint16) * (257 if depth == 16 else 1)
    values[0, 1] = values[0, 0]
    if depth == 16:
        values[0, 1] ^= 1
    kind = ">u2" if depth == 16 else "u1"
    transparent = chunk(b"tRNS", values[0, 0].astype(">u2").tobytes())
    content = png(WIDTH, HEIGHT, depth, 2, rows(values.astype(kind).tobytes()), transparent)
    seen = values // 256 if depth == 16 else values.copy()
    seen[0, : 1 if depth == 16 else 2] = 255
    return Case(content, seen, "unexpected_mode" if depth == 16 else "")


def windows_bmp(alpha: np.ndarray, masks: bool = True) -> bytes:
    """32 bits with Windows' latest header; with masks, one of them is for alpha."""
    data = np.dstack([COLOR[..., ::-1], alpha])[::-1].tobytes()
    header = struct.pack("<IiiHHIIiiII", 124, WIDTH, HEIGHT, 1, 32, 3 if masks else 0, len(data), 2835, 2835, 0, 0)
    header = (header + struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)).ljust(124, b"\0")
    return b"BM" + struct.pack("<IHHI", 14 + 124 + len(data), 0, 0, 138) + header + data


def on_white(color: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    opacity = alpha[..., None] / 255
    return color * opacity + 255 * (1 - opacity)


def samples_tiff(values: np.ndarray, photometric: int, **more: tuple[int, int, int]) -> bytes:
    """An uncompressed TIFF of several samples of 8 bits a pixel."""
    samples = values.shape[-1]
    return gray_tiff(
        WIDTH, HEIGHT, values.astype(np.uint8).tobytes(),
        t262=(3, 1, photometric), t277=(3, 1, samples), t258=(3, 1, 8), **more,
    )  # fmt: skip


def planes_tiff() -> bytes:
    """Red, green and blue of 16 bits, one after the other, each in a strip of its own."""
    planes = (COLOR.astype("<u2") * 257).transpose(2, 0, 1).tobytes()
    place = 14 + 12 * 10  # behind ten tags
    size = 2 * HEIGHT * WIDTH
    strips = range(place + 30, place + 30 + 3 * size, size)
    values = struct.pack("<3H", 16, 16, 16) + struct.pack("<3I", *strips) + struct.pack("<3I", size, size, size)
    tags = [
        (256, 4, 1, WIDTH), (257, 4, 1, HEIGHT), (258, 3, 3, place), (259, 3, 1, 1), (262, 3, 1, 2),
        (273, 4, 3, place + 6), (277, 3, 1, 3), (278, 4, 1, HEIGHT), (279, 4, 3, place + 18), (284, 3, 1, 2),
    ]  # fmt: skip
    return tiff(tags, values + planes)


def lab_tiff() -> bytes:
    transform = buildTransform(createProfile("sRGB"), createProfile("LAB"), "RGB", "LAB")
    return encoded(transform.apply(Image.fromarray(MILD)), "TIFF")


def branded(content: bytes, brands: bytes) -> bytes:
    """A file in boxes with other brands: the major one, a version, compatible ones."""
    size = int.from_bytes(content[:4], "big")
    padding = brands[-4:] * ((size - 8 - len(brands)) // 4)
    return content[:8] + brands + padding + content[size:]


def heic_of_10_bits() -> bytes:
    stream = io.BytesIO()
    image = pillow_heif.from_bytes("RGB;16", (WIDTH, HEIGHT), (SMOOTH.astype(np.uint16) * 257).tobytes())
    image.save(stream, quality=-1, chroma=444)
    return stream.getvalue()


def turned_heic() -> bytes:
    """Stored lying on its side, with the file's own orientation and with EXIF's, as phones write it."""
    image = Image.fromarray(SMOOTH).transpose(Image.Transpose.ROTATE_90)
    return encoded(image, "HEIF", exif=tiff([(274, 3, 1, 6)]), **BEST)


BEST = {"quality": -1, "chroma": 444}
AVIF = encoded(Image.fromarray(SMOOTH), "AVIF", quality=100, subsampling="4:4:4")
HEIC = encoded(Image.fromarray(SMOOTH), "HEIF", **BEST)
JPEG = encoded(Image.fromarray(SMOOTH), "JPEG")
WHITE_IS_ZERO = {"t262": (3, 1, 0)}
SIGNED, FLOAT = {"t339": (3, 1, 2)}, {"t339": (3, 1, 3)}
TWO_SAMPLES = {"t277": (3, 1, 2), "t338": (3, 1, 2)}
WIDE_FRACTIONS = FRACTIONS * 3 - 1
WITH_NAN = FRACTIONS.copy()
WITH_NAN[2, 2] = np.nan
HALF = (ALPHA > 127) * np.uint8(255)
OUTSIDE = "damaged_metadata"
CASES = {
    # gray of more than 8 bits: value × 255 / the format's own white
    "deep.png": Case(encoded(Image.fromarray(DEEP), "PNG"), DEEP / 257),
    "deep.pgm": Case(pgm(DEEP, 65535), DEEP / 257),
    "text.pgm": Case(f"P2 {WIDTH} {HEIGHT} 65535\n".encode() + b" ".join(b"%d" % v for v in DEEP.flat), DEEP / 257),
    "deep.tif": Case(encoded(Image.fromarray(DEEP), "TIFF"), DEEP / 257),
    "deflated.tif": Case(encoded(Image.fromarray(DEEP), "TIFF", compression="tiff_deflate"), DEEP / 257),
    "big-endian.tif": Case(encoded(Image.fromarray(DEEP.astype(">u2")), "TIFF"), DEEP / 257),
    "dark.png": Case(encoded(Image.fromarray(DARK), "PNG"), DARK / 257),
    "dark.pgm": Case(pgm(DARK, 65535), DARK / 257),
    "dark.tif": Case(encoded(Image.fromarray(DARK), "TIFF"), DARK / 257),
    "12-bits.pgm": Case(pgm(BITS_12, 4095), BITS_12 * (255 / 4095)),
    "to-100.pgm": Case(pgm(GRAY % 101, 100), GRAY % 101 * 2.55, ""),
    "12-bits.tif": Case(
        gray_tiff(WIDTH, HEIGHT, packed_12(BITS_12), t258=(3, 1, 12)), BITS_12 * (255 / 4095)
    ),
    "white-is-0.tif": Case(deep_tiff(DEEP, 16, "<u2", **WHITE_IS_ZERO), (65535 - DEEP) / 257),
    "white-is-0-8.tif": Case(gray_tiff(WIDTH, HEIGHT, GRAY.tobytes(), **WHITE_IS_ZERO), 255 - GRAY, ""),
    "white-is-0-1.tif": Case(
        gray_tiff(WIDTH, HEIGHT, small_bits(GRAY > 99, 1), t258=(3, 1, 1), **WHITE_IS_ZERO), (GRAY <= 99) * 255
    ),
    "signed-8.tif": Case(
        gray_tiff(WIDTH, HEIGHT, GRAY.tobytes(), **SIGNED), GRAY.view(np.int8).clip(0, 127) * (255 / 127), "clipped"
    ),
    "signed-16.tif": Case(
        deep_tiff(DEEP, 16, "<u2", **SIGNED), DEEP.view(np.int16).clip(0, 32767) * (255 / 32767),
        "unexpected_mode clipped",
    ),
    "positive-16.tif": Case(deep_tiff(DEEP >> 1, 16, "<u2", **SIGNED), (DEEP >> 1) * (255 / 32767)),
    "signed-32.tif": Case(deep_tiff(DEEP, 32, "<i4", **SIGNED), DEEP / 257),
    "unsigned-32.tif": Case(deep_tiff(DEEP, 32, "<u4"), DEEP / 257),
    "counts-32.tif": Case(
        deep_tiff(DEEP.astype(np.uint32) * 65537, 32, "<u4"), (DEEP > 0) * 255, "unexpected_mode clipped"
    ),
    "float.tif": Case(deep_tiff(FRACTIONS, 32, "<f4", **FLOAT), FRACTIONS * 255),
    "dark-float.tif": Case(deep_tiff(FRACTIONS / 100, 32, "<f4", **FLOAT), FRACTIONS * 2.55),
    "negative-float.tif": Case(
        deep_tiff(WIDE_FRACTIONS, 32, "<f4", **FLOAT), WIDE_FRACTIONS.clip(0, 1) * 255, "unexpected_mode clipped"
    ),
    "nan.tif": Case(deep_tiff(WITH_NAN, 32, "<f4", **FLOAT), np.nan_to_num(WITH_NAN) * 255, "unexpected_mode clipped"),
    "white-is-0-float.tif": Case(
        deep_tiff(FRACTIONS, 32, "<f4", **FLOAT, **WHITE_IS_ZERO), (1 - FRACTIONS) * 255
    ),
    "float.pfm": Case(f"Pf\n{WIDTH} {HEIGHT}\n-1\n".encode() + FRACTIONS[::-1].tobytes(), FRACTIONS * 255),
    # transparency
    "no-alpha.bmp": Case(windows_bmp(np.zeros_like(ALPHA)), COLOR),
    "alpha.bmp": Case(windows_bmp(ALPHA), on_white(COLOR, ALPHA), tolerance=1.5),
    "some-alpha.bmp": Case(windows_bmp(HALF), on_white(COLOR, HALF), tolerance=1.5),
    "unused-alpha.bmp": Case(windows_bmp(ALPHA, masks=False), COLOR, ""),
    "16-bits.bmp": Case(
        bmp(WIDTH, HEIGHT, 16, ((COLOR >> 3).astype(np.uint16) @ np.uint16([1024, 32, 1]))[::-1].tobytes()),
        (COLOR >> 3) * (255 / 31), "", 1,
    ),
    "unnamed-alpha.tif": Case(samples_tiff(np.dstack([COLOR, np.zeros_like(ALPHA)]), 2), COLOR),
    "1-bit.png": with_one_transparent(GRAY // 128, 1),
    "2-bits.png": with_one_transparent(GRAY // 64, 2),
    "4-bits.png": with_one_transparent(GRAY // 16, 4),
    "8-bits.png": with_one_transparent(GRAY, 8),
    "16-bits.png": with_one_transparent(DEEP, 16),
    "similar-16-bits.png": with_one_transparent(DEEP & 3 | 512, 16),
    "color.png": color_with_one_transparent(8),
    "color-16-bits.png": color_with_one_transparent(16),
    "la.tif": Case(
        samples_tiff(np.dstack([GRAY, ALPHA]), 1, t338=(3, 1, 2)), on_white(GRAY[..., None], ALPHA)[..., 0],
        tolerance=1.5,
    ),
    "premultiplied.tif": Case(
        samples_tiff(np.dstack([np.minimum(GRAY, ALPHA), ALPHA]), 1, t338=(3, 1, 1)),
        np.minimum(GRAY, ALPHA) + 255.0 - ALPHA, tolerance=2,
    ),
    # other colors
    "planes.tif": Case(planes_tiff(), COLOR, ""),
    "lab.tif": Case(lab_tiff(), MILD, tolerance=4),
    "ycbcr.tif": Case(encoded(Image.fromarray(SMOOTH).convert("YCbCr"), "TIFF"), SMOOTH, tolerance=3),
    "cmyk.tif": Case(encoded(Image.fromarray(COLOR).convert("CMYK"), "TIFF"), COLOR),
    # damage outside of the pixels, which are those of the whole file
    "stray-bytes.jpg": Case(JPEG[:20] + b"\0\0" + JPEG[20:], np.asarray(Image.open(io.BytesIO(JPEG))), OUTSIDE, 0),
    "text.png": Case(
        png(WIDTH, HEIGHT, 8, 0, rows(GRAY.tobytes()), chunk(b"tEXt", b"a\0b")[:-1] + b"?"), GRAY, OUTSIDE, 0
    ),
    "text-elsewhere.tif": Case(gray_tiff(WIDTH, HEIGHT, GRAY.tobytes(), t270=(2, 99, 2**31)), GRAY, OUTSIDE, 0),
    # AVIF and HEIC
    "plain.avif": Case(AVIF, SMOOTH, "", 3),
    "mif1.avif": Case(branded(AVIF, b"mif1\0\0\0\0mif1miafavif"), SMOOTH, "", 3),
    "baseline.avif": Case(branded(AVIF, b"MA1B\0\0\0\0avifmif1miaf"), SMOOTH, "", 3),
    "plain.heic": Case(HEIC, SMOOTH, "", 2),
    "mif1.heif": Case(branded(HEIC, b"mif1\0\0\0\0mif1heicmiaf"), SMOOTH, "", 2),
    "unnamed.hif": Case(branded(HEIC, b"mif1\0\0\0\0mif1miafmif1"), SMOOTH, "", 2),
    "10-bits.heic": Case(heic_of_10_bits(), SMOOTH, "", 2),
    "turned.heic": Case(turned_heic(), SMOOTH, "", 2),
    "second-is-primary.heic": Case(
        encoded(
            Image.fromarray(255 - SMOOTH), "HEIF",
            save_all=True, append_images=[Image.fromarray(SMOOTH)], primary_index=1, **BEST,
        ),
        SMOOTH, "animated", 2,
    ),
    "alpha.heic": Case(
        encoded(Image.fromarray(np.dstack([SMOOTH, HALF])), "HEIF", **BEST), on_white(SMOOTH, HALF), tolerance=2
    ),
}  # fmt: skip
ABOUT_PIXELS = {"unexpected_mode", "clipped", "animated", "exif_rotated", OUTSIDE, "format_mismatch"}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """What `check` says of each case, and the pixels that `pack` stores, by name."""
    project = Project(tmp_path_factory.mktemp("modes"))
    for label in ("a", "b"):
        (project.root / "in" / label).mkdir(parents=True)
    for number, (name, case) in enumerate(CASES.items()):
        (project.root / "in" / "ab"[number % 2] / name).write_bytes(case.content)
    project.dataset("photos", "in", [HEIGHT, WIDTH], max_quarantined=0, near_duplicates=False)
    project.must_run("check", "photos")
    project.must_run("pack", "photos")
    images = np.load(project.root / "data/packed/photos/images.npy")
    index = pd.read_parquet(project.root / "data/packed/photos/index.parquet")
    pixels = {Path(path).name: image for path, image in zip(index.path, images, strict=True)}
    table = pd.read_parquet(project.root / "data/checked/photos.parquet")
    return table.set_index(table.path.str.rpartition("/")[2]), pixels


@pytest.mark.parametrize("name", CASES)
def test_pixels_are_as_a_person_sees_them(stored: tuple[pd.DataFrame, dict[str, np.ndarray]], name: str) -> None:
    table, pixels = stored
    case = CASES[name]
    assert ABOUT_PIXELS.intersection(table.issues[name]) == set(case.issues.split())
    wanted = case.seen if np.ndim(case.seen) == 3 else np.repeat(case.seen[..., None], 3, axis=-1)
    assert np.abs(pixels[name].astype(float) - wanted).max() <= case.tolerance + 1e-3


def test_the_same_values_are_the_same_pixels_in_every_format(
    stored: tuple[pd.DataFrame, dict[str, np.ndarray]],
) -> None:
    table, pixels = stored
    for kind, suffixes in (("deep", ("png", "pgm", "tif")), ("dark", ("png", "pgm", "tif"))):
        names = [f"{kind}.{suffix}" for suffix in suffixes]
        assert len({pixels[name].tobytes() for name in names}) == 1
        assert table.pixel_hash[names].nunique() == 1
    assert 0.3 < pixels["dark.pgm"].mean() < 0.7  # as dark as they were taken
    assert "blank" in table.issues["dark.pgm"] and "blank" not in table.issues["no-alpha.bmp"]


def test_gray_images_of_one_channel_are_scaled_alike() -> None:
    for name in ("deep.png", "deep.pgm", "deep.tif", "float.tif"):
        case = CASES[name]
        seen = np.asarray(upright(decode(case.content, name).image, channels=1))
        assert np.abs(seen - case.seen).max() <= 0.501


def test_the_names_of_all_cases_are_those_of_images() -> None:
    assert {Path(name).suffix for name in CASES} <= set(SUFFIXES)
