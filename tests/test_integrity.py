"""What is said of single files that are damaged, mislabeled or made to do harm, and that whole ones are left alone."""

from __future__ import annotations

import gzip
import io
import itertools
import random
import re
import struct
import tarfile
import tracemalloc
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from conftest import Project
from PIL import Image
from PIL.ImageCms import ImageCmsProfile, createProfile
from samples import bmp, chunk, encoded, frames, gray_tiff, photo, png, replaced, samples, tiff

from pipeline.images.decode import decode
from pipeline.images.errors import ImageError

SAMPLES = samples()


def verdict(content: bytes, path: str = "x") -> tuple[set[str], str]:
    """Issue codes and the reason, which only unusable ones have."""
    try:
        return set(decode(content, path).issues), ""
    except ImageError as error:
        return {error.code}, error.reason


def as_expected(content: bytes, path: str, codes: str, words: str) -> None:
    found, reason = verdict(content, path)
    assert found == set(codes.split()), reason
    assert words in reason and "\n" not in reason


# The corpus of hostile files: issue codes and words of the reason; those without a reason can be used

HOSTILE = {
    "DS_Store": ("not_an_image", "DS_Store"),
    "all_black.jpg": ("", ""),
    "animated.gif": ("animated unexpected_mode", ""),
    "animated_trunc.gif": ("truncated", "frame 3"),
    "bad_huffman.jpg": ("unreadable", "broken data"),
    "bilevel.png": ("unexpected_mode", ""),
    "bitflips_scan.jpg": ("corrupt", "56 extraneous bytes"),
    "bmp_named.jpg": ("format_mismatch", ""),
    "bomb_11968sq_1bit.png": ("unexpected_mode", ""),
    "bomb_20032sq_1bit.png": ("too_large", "20032×20032"),
    "cmyk.jpg": ("unexpected_mode", ""),
    "dims_12000.jpg": ("truncated", "last row"),
    "dims_lie_taller.jpg": ("truncated", "last row"),
    "dims_zero.jpg": ("unreadable", "header"),
    "directory.jpg/.keep": ("empty_file", "0 bytes"),
    "exif_corrupt.jpg": ("corrupt_exif", ""),
    "exif_orientation_3.jpg": ("exif_rotated", ""),
    "exif_orientation_6.jpg": ("exif_rotated", ""),
    "exif_orientation_8.jpg": ("exif_rotated", ""),
    "exif_orientation_99.jpg": ("corrupt_exif", ""),
    "gif_named.jpg": ("format_mismatch unexpected_mode", ""),
    "good_photo.jpg": ("", ""),
    "gray.jpg": ("", ""),
    "gray16.png": ("unexpected_mode", ""),
    "html_named.jpg": ("not_an_image", "HTML"),
    "idat_bad_crc.png": ("corrupt", "checksum of chunk IDAT"),
    "idat_crc_only.png": ("corrupt", "checksum of chunk IDAT"),
    "jpeg_magic_random.jpg": ("truncated", "header"),
    "jpeg_named.png": ("format_mismatch", ""),
    "la.png": ("unexpected_mode", ""),
    "lfs_pointer.jpg": ("not_an_image", "git lfs pull"),
    "multipage.tif": ("animated", ""),
    "name with spaces & ünï.jpg": ("", ""),
    "no_dqt.jpg": ("unreadable", "broken data"),
    "no_eoi.jpg": ("truncated", "end-of-image"),
    "no_iend.png": ("truncated", "IEND"),
    "one_byte.jpg": ("not_an_image", "not in a known"),
    "one_pixel.jpg": ("", ""),
    "palette_trns.png": ("unexpected_mode", ""),
    "pdf_named.jpg": ("not_an_image", "PDF"),
    "pixel_flood_64250.jpg": ("too_large", "64250×64250"),
    "png_named.jpg": ("format_mismatch", ""),
    "progressive.jpg": ("", ""),
    "random.jpg": ("not_an_image", "not in a known"),
    "rgba.png": ("unexpected_mode", ""),
    "second_half_zero.jpg": ("truncated", "end-of-image"),
    "soi_only.jpg": ("truncated", "header"),
    "svg_named.jpg": ("not_an_image", "SVG"),
    "text_named.jpg": ("not_an_image", "this is not an image"),
    "thin_1x2000.jpg": ("", ""),
    "thumbs.db": ("not_an_image", "Windows"),
    "trailing_garbage.jpg": ("trailing_data", ""),
    "trailing_zip.jpg": ("trailing_data", ""),
    "trunc_10pct.jpg": ("truncated", "end-of-image"),
    "trunc_50pct.jpg": ("truncated", "end-of-image"),
    "trunc_50pct.png": ("truncated", "chunk IDAT"),
    "trunc_50pct_progressive.jpg": ("truncated", "end-of-image"),
    "trunc_90pct.jpg": ("truncated", "end-of-image"),
    "trunc_99pct.jpg": ("truncated", "end-of-image"),
    "trunc_header.jpg": ("truncated", "header"),
    "webp_named.jpg": ("format_mismatch", ""),
    "zero_byte.jpg": ("empty_file", "0 bytes"),
    "zeroed_block.jpg": ("corrupt", "hole of zero bytes"),
    "ztxt_bomb.png": ("too_large", "MAX_TEXT_CHUNK"),
}
NO_FILES = {
    "dangling_link.jpg": ("unreadable", "link"),
    "directory.jpg": ("not_an_image", "folder"),
    "loop_link.jpg": ("unreadable", "link"),
}


@pytest.fixture(scope="module")
def hostile(data_mirror: Path) -> dict[str, bytes]:
    with tarfile.open(data_mirror / "hostile/hostile.tar.gz") as archive:
        members = [member for member in archive.getmembers() if member.isreg()]
        files = {member.name: archive.extractfile(member) for member in members}
        return {name.removeprefix("hostile/"): file.read() for name, file in files.items() if file is not None}


@pytest.mark.parametrize("name", HOSTILE)
def test_the_verdict_on_a_hostile_file(hostile: dict[str, bytes], name: str) -> None:
    as_expected(hostile[name], name, *HOSTILE[name])


@pytest.mark.xdist_group("hostile")
def test_the_stage_says_the_same_of_every_hostile_file(
    data_mirror: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    import pandas as pd

    project = Project(tmp_path_factory.mktemp("hostile"))
    project.dataset("hostile", str(data_mirror / "hostile/hostile.tar.gz"), max_quarantined=1)
    project.must_run("check", "hostile")
    rows = pd.read_parquet(project.root / "data/checked/hostile.parquet").set_index("path")
    index = pd.read_csv(data_mirror / "hostile/INDEX.tsv", sep="\t", comment="#")
    expected = {f"hostile/{name}": said for name, said in {**HOSTILE, **NO_FILES}.items()}
    assert set(rows.index) == set(expected) == {*index.file, "hostile/directory.jpg/.keep"}
    for path, (codes, words) in expected.items():
        row = rows.loc[path]
        # beside what is wrong with the file there is what it shares with others
        assert set(codes.split()) <= set(row.issues), (path, row.issues)
        assert (row.status == "quarantined") == bool(words), (path, row.status)
        assert not words or words in row.reason, (path, row.reason)


# Files that are made here: name, content, issue codes, words of the reason

JPEG, PNG, GIF, WEBP, BMP = (SAMPLES[name] for name in ("jpg", "png", "gif", "webp", "bmp"))
FRAME = JPEG.find(b"\xff\xc0")
SCAN = JPEG.find(b"\xff\xda")
TABLES = JPEG[2:FRAME]
DATA = PNG.find(b"IDAT") - 4
NOT_WHOLE = ({"truncated"}, {"corrupt"}, {"unreadable"})
GIF_FRAME = 13 + 768 + GIF[13 + 768 :].find(b",")
EXIF = b"Exif\0\0"
PIXELS = bytes(range(64))


def jpeg_of(height: int, width: int) -> bytes:
    return replaced(JPEG, FRAME + 5, struct.pack(">HH", height, width))


def png_of(width: int, height: int) -> bytes:
    return replaced(PNG, 8, chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)))


def png_with(*chunks: bytes) -> bytes:
    return PNG[:33] + b"".join(chunks) + PNG[33:]


def idat(*parts: bytes) -> bytes:
    """The PNG with other image data."""
    length = struct.unpack_from(">I", PNG, DATA)[0]
    return PNG[:DATA] + b"".join(chunk(b"IDAT", part) for part in parts) + PNG[DATA + 12 + length :]


def idat_data() -> bytes:
    return PNG[DATA + 8 : DATA + 8 + struct.unpack_from(">I", PNG, DATA)[0]]


def gif_frame(left: int, top: int, width: int, height: int) -> bytes:
    return replaced(GIF, GIF_FRAME + 1, struct.pack("<4H", left, top, width, height))


def webp_with(kind: bytes) -> bytes:
    """The WebP with metadata, of which those of a kind are noise."""
    profile = ImageCmsProfile(createProfile("sRGB")).tobytes()
    content = encoded(photo(), "WEBP", icc_profile=profile, exif=tiff([(274, 3, 1, 1)]), xmp=b"<x:xmpmeta/>" * 9)
    return replaced(content, content.find(kind) + 8, b"\xff" * 26)


def damaged_later(name: str) -> bytes:
    return SAMPLES[name][:-400]


@cache
def made() -> dict[str, tuple[bytes, str, str]]:
    mpo = SAMPLES["mpo jpg"]
    turned = Image.Exif()
    turned[0x0112] = 6
    progressive = SAMPLES["progressive jpg"]
    later = progressive.find(b"\xff\xc4", progressive.find(b"\xff\xda"))
    adobe = SAMPLES["cmyk jpg"]
    profile = ImageCmsProfile(createProfile("sRGB")).tobytes()
    profiled = encoded(photo(), "JPEG", icc_profile=profile)
    part = profiled.find(b"ICC_PROFILE\0") + 12  # its number, and how many there are
    told = {"exif": tiff([(270, 2, 4, 0x41424344)]), "icc_profile": profile}
    avif, heic = encoded(photo(), "AVIF", **told), encoded(photo(), "HEIF", **told)
    bomb = zlib.compress(bytes(70_000_000), 1)
    return {
        "comments.html": (b"<!---->" * 60 + b"x", "not_an_image", "not in a known"),  # to be parted in many ways
        # sizes that lie
        "narrower.jpg": (jpeg_of(48, 32), "corrupt", "extraneous"),
        "wider.jpg": (jpeg_of(48, 128), "truncated", "last row"),
        "shorter.jpg": (jpeg_of(24, 64), "corrupt", "extraneous"),
        "taller.jpg": (jpeg_of(96, 64), "truncated", "last row"),
        "height_in_dnl.jpg": (jpeg_of(0, 64), "unreadable", "header"),
        "flood.jpg": (jpeg_of(65500, 65500), "too_large", "65500×65500"),
        "narrower.png": (png_of(32, 48), "unreadable", "data stream"),
        "wider.png": (png_of(128, 48), "unreadable", "data stream"),
        "shorter.png": (png_of(64, 24), "corrupt", "64×24"),
        "taller.png": (png_of(64, 96), "truncated", "last row"),
        "flood.png": (png(60000, 60000, 1, 0, b""), "too_large", "60000×60000"),
        "no_width.png": (png_of(0, 48), "unreadable", "header"),
        "narrower.tif": (gray_tiff(4, 8, PIXELS), "corrupt", "asks for 32"),
        "wider.tif": (gray_tiff(16, 8, PIXELS), "truncated", "asks for 128"),
        "shorter.tif": (gray_tiff(8, 4, PIXELS), "corrupt", "asks for 32"),
        "taller.tif": (gray_tiff(8, 16, PIXELS), "truncated", "asks for 128"),
        "flood.tif": (gray_tiff(65000, 65000, PIXELS), "too_large", "65000×65000"),
        "narrower.bmp": (replaced(BMP, 18, struct.pack("<i", 32)), "corrupt", "32×48"),
        "wider.bmp": (replaced(BMP, 18, struct.pack("<i", 128)), "truncated", "bytes"),
        "shorter.bmp": (replaced(BMP, 22, struct.pack("<i", 24)), "corrupt", "64×24"),
        "taller.bmp": (replaced(BMP, 22, struct.pack("<i", 96)), "truncated", "bytes"),
        "flood.bmp": (bmp(60000, 60000, 24, b""), "too_large", "60000×60000"),
        "flood.gif": (replaced(GIF, 6, b"\xff" * 4), "too_large", "65535×65535"),
        "stretched.gif": (gif_frame(65000, 65000, 64, 48), "too_large", "pixels"),
        "taller.gif": (gif_frame(0, 0, 64, 96), "truncated", ""),
        "flood.ppm": (b"P6 99999 99999 255\n" + bytes(9), "too_large", "99999×99999"),
        "longer.ppm": (b"P6 2 2 255\n" + bytes(99), "trailing_data", ""),
        # JPEG
        "two_beginnings.jpg": (JPEG[:2] + JPEG, "unreadable", ""),
        "two.jpg": (JPEG + JPEG, "trailing_data", ""),
        "thumbnail_only.jpg": (
            JPEG[:2] + b"\xff\xe1" + struct.pack(">H", len(JPEG) + 6) + EXIF + JPEG[2:] + JPEG[-2:],
            "truncated", "header",
        ),
        "header_only.jpg": (JPEG[:SCAN] + JPEG[-2:], "truncated", "header"),
        "no_data.jpg": (JPEG[: SCAN + 14] + JPEG[-2:], "truncated", "last row"),
        "12_bits.jpg": (replaced(JPEG, FRAME + 4, b"\x0c"), "unreadable", ""),
        "lossless.jpg": (replaced(JPEG, FRAME, b"\xff\xc3"), "unreadable", ""),
        "two_frames.jpg": (JPEG[:FRAME] + JPEG[FRAME : FRAME + 19] * 2 + JPEG[FRAME + 19 :], "unreadable", ""),
        "no_frame.jpg": (JPEG[:FRAME] + JPEG[FRAME + 19 :], "unreadable", ""),
        "scan_bomb.jpg": (JPEG[:SCAN] + JPEG[SCAN:-2] * 200 + JPEG[-2:], "too_large", "scans"),
        "junk_in_header.jpg": (JPEG[:FRAME] + b"junk" + JPEG[FRAME:], "damaged_metadata", ""),
        "junk_in_scans.jpg": (progressive[:later] + b"junk" + progressive[later:], "corrupt", "extraneous"),
        "lost_table.jpg": (replaced(JPEG, JPEG.find(b"\xff\xc4"), b"\0"), "corrupt", "stray"),
        "lost_adobe.jpg": (replaced(adobe, adobe.find(b"\xff\xee"), b"\0"), "corrupt", "stray"),
        "profile_twice.jpg": (replaced(profiled, part, b"\1\2"), "damaged_metadata", ""),
        "profile_of_none.jpg": (replaced(profiled, part, b"\0\1"), "damaged_metadata", ""),
        "profile_of_noise.jpg": (replaced(profiled, part + 2, b"\xff" * 99), "damaged_metadata", ""),
        "first_byte.jpg": (replaced(JPEG, 0, b"\0"), "unreadable", "first bytes"),
        "first_byte.png": (replaced(PNG, 0, b"\0"), "unreadable", "first bytes"),
        "as_text.jpg": (JPEG.decode("latin-1").encode(), "unreadable", "text"),
        "as_text_2.jpg": (JPEG.decode("utf-8", "replace").encode(), "unreadable", "text"),
        "exif_turned.jpg": (encoded(photo(), "JPEG", exif=EXIF + tiff([(274, 3, 1, 6)])), "exif_rotated", ""),
        "exif_zero.jpg": (encoded(photo(), "JPEG", exif=EXIF + tiff([(274, 3, 1, 0)])), "corrupt_exif", ""),
        "exif_garbage.jpg": (encoded(photo(), "JPEG", exif=EXIF + b"garbage"), "corrupt_exif", ""),
        "exif_beyond.jpg": (encoded(photo(), "JPEG", exif=EXIF + tiff([(270, 2, 5000, 30)])), "corrupt_exif", ""),
        "phone.jpg": (mpo, "", ""),
        "phone_first.jpg": (mpo[: mpo.find(b"\xff\xd9") + 2], "", ""),
        "phone_cut.jpg": (mpo[:-9], "truncated", "last picture"),
        "phone_cut_early.jpg": (mpo[: mpo.find(b"\xff\xd9") + 99], "truncated", "last picture"),
        # PNG
        "only_end.png": (PNG[:33] + PNG[-12:], "corrupt", "IDAT"),
        "no_header.png": (PNG[:8] + PNG[33:], "corrupt", "out of place"),
        "two_headers.png": (PNG[:33] + PNG[8:], "corrupt", "out of place"),
        "header_checksum.png": (replaced(PNG, 30, b"?"), "corrupt", "IHDR"),
        "text_checksum.png": (png_with(chunk(b"tEXt", b"a\0b")[:-1] + b"?"), "damaged_metadata", ""),
        "late_text_checksum.png": (PNG[:-12] + chunk(b"tEXt", b"a\0b")[:-1] + b"?" + PNG[-12:], "damaged_metadata", ""),
        "profile_checksum.png": (png_with(chunk(b"iCCP", b"a\0\0b")[:-1] + b"?"), "damaged_metadata", ""),
        "profile_of_noise.png": (png(4, 3, 8, 0, bytes(15), chunk(b"iCCP", b"a\0\0b")), "damaged_metadata", ""),
        "profile_method.png": (png_with(chunk(b"iCCP", b"a\0\1b")), "damaged_metadata", ""),
        "text_method.png": (png_with(chunk(b"zTXt", b"a\0\1b")), "damaged_metadata", ""),
        "short_gamma.png": (png_with(chunk(b"gAMA", b"a")), "damaged_metadata", ""),
        "transparency_checksum.png": (png_with(chunk(b"tRNS", bytes(6))[:-1] + b"?"), "corrupt", "tRNS"),
        "frame_checksum.png": (png_with(chunk(b"acTL", struct.pack(">II", 1, 0))[:-1] + b"?"), "corrupt", "acTL"),
        "long_chunk.png": (replaced(PNG, 33, b"\x7f\xff\xff\xff"), "truncated", "chunk"),
        "no_chunk.png": (replaced(PNG, 37, b"\0\0\0\0"), "corrupt", "no chunk"),
        "trailing.png": (PNG + b"junk", "trailing_data", ""),
        "two.png": (PNG + PNG, "trailing_data", ""),
        "line_ends.png": (PNG.replace(b"\r\n", b"\n"), "unreadable", "text"),
        "apple.png": (PNG[:8] + chunk(b"CgBI", bytes(4)) + PNG[8:], "unreadable", "iOS"),
        "16_bits.png": (png(4, 3, 16, 2, (b"\0" + bytes(24)) * 3), "unexpected_mode", ""),
        "no_palette.png": (png(4, 3, 8, 3, bytes(15)), "corrupt", "PLTE"),
        "beyond_palette.png": (png(4, 3, 8, 3, b"\0\0\1\2\3" * 3, chunk(b"PLTE", b"abcdef")), "corrupt", "palette"),
        "filter_9.png": (png(4, 3, 8, 0, (b"\x09" + bytes(4)) * 3), "unreadable", "data stream"),
        "depth_3.png": (png(4, 3, 3, 0, bytes(20)), "unreadable", "header"),
        "interlaced.png": (png(1, 1, 8, 0, b"\0\1", interlaced=1), "", ""),
        "interlaced_cut.png": (png(8, 7, 8, 0, b"\0\1" * 9, interlaced=1), "truncated", "last row"),
        "byte_by_byte.png": (idat(*(bytes([value]) for value in idat_data())), "", ""),
        "empty_chunks.png": (idat(*[b""] * 99, idat_data(), *[b""] * 99), "", ""),
        "frames_missing.png": (png_with(chunk(b"acTL", struct.pack(">II", 3, 0))), "truncated", "0 of 3 frames"),
        "text_bomb.png": (png_with(chunk(b"zTXt", b"a\0\0" + bomb)), "too_large", ""),
        "profile_bomb.png": (png_with(chunk(b"iCCP", b"a\0\0" + bomb)), "too_large", ""),
        "texts_bomb.png": (png_with(chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**20))) * 70), "too_large", ""),
        "exif_turned.png": (encoded(photo(), "PNG", exif=EXIF + tiff([(274, 3, 1, 6)])), "exif_rotated", ""),
        "exif_beyond.png": (encoded(photo(), "PNG", exif=EXIF + b"II*\0\xff\0\0\0"), "corrupt_exif", ""),
        # GIF
        "no_frame.gif": (b"GIF89a\1\0\1\0\0\0\0;", "unreadable", "no frame"),
        "no_trailer.gif": (GIF[:-1], "truncated", "frame 1"),
        "trailing.gif": (GIF + b"junk", "trailing_data unexpected_mode", ""),
        "junk_block.gif": (GIF[:-1] + b"\x55;", "corrupt", "no block"),
        "bad_codes.gif": (replaced(GIF, GIF_FRAME + 12, b"\xff" * 255), "unreadable", "data stream"),
        "code_size_13.gif": (replaced(GIF, GIF_FRAME + 10, b"\x0d"), "unreadable", ""),
        "outside.gif": (gif_frame(60, 40, 64, 48), "unexpected_mode", ""),
        # WebP
        "riff_long.webp": (replaced(WEBP, 4, struct.pack("<I", len(WEBP))), "truncated", "bytes"),
        "riff_short.webp": (replaced(WEBP, 4, struct.pack("<I", len(WEBP) - 50)), "corrupt", "chunk"),
        "chunk_long.webp": (replaced(WEBP, 16, struct.pack("<I", len(WEBP))), "corrupt", "chunk"),
        "other_chunk.webp": (replaced(WEBP, 12, b"VPXX"), "unreadable", "header"),
        "trailing.webp": (WEBP + b"junk", "trailing_data", ""),
        "profile_of_noise.webp": (webp_with(b"ICCP"), "damaged_metadata", ""),
        "exif_of_noise.webp": (webp_with(b"EXIF"), "corrupt_exif", ""),
        "xmp_of_noise.webp": (webp_with(b"XMP "), "", ""),
        "exif_turned.webp": (encoded(photo(), "WEBP", exif=tiff([(274, 3, 1, 6)])), "exif_rotated", ""),
        # TIFF
        "gray.tif": (gray_tiff(8, 8, PIXELS), "", ""),
        "circle.tif": (gray_tiff(8, 8, PIXELS, next_page=8), "corrupt", "circle"),
        "tile_bomb.tif": (
            gray_tiff(8, 8, PIXELS, t322=(4, 1, 60000), t323=(4, 1, 60000), t324=(4, 1, 8), t325=(4, 1, 64)),
            "too_large", "60000×60000",
        ),
        "tag_bomb.tif": (tiff([(tag, 1, 3000, 8) for tag in range(1000, 2000)], bytes(4000)), "corrupt", "tags"),
        "no_page.tif": (b"II*\0\0\0\0\0", "unreadable", "no page"),
        "no_pixels.tif": (tiff([(256, 4, 1, 8), (257, 4, 1, 8)]), "unreadable", "header"),
        "strips_missing.tif": (gray_tiff(8, 8, PIXELS, t278=(4, 1, 2)), "truncated", "1 of 4 strips"),
        "float.tif": (encoded(Image.fromarray(np.ones((8, 8), np.float32)), "TIFF"), "unexpected_mode", ""),
        "complex.tif": (gray_tiff(8, 8, bytes(512), t258=(3, 1, 64), t339=(3, 1, 6)), "unreadable", "64 bits a pixel"),
        "half.tif": (gray_tiff(8, 8, bytes(128), t258=(3, 1, 16), t339=(3, 1, 3)), "unreadable", "16 bits a pixel"),
        "10_bits.tif": (gray_tiff(8, 8, bytes(80), t258=(3, 1, 10)), "unreadable", "10 bits a pixel (unsigned)"),
        "floats.tif": (
            gray_tiff(8, 8, bytes(768), t258=(3, 1, 32), t262=(3, 1, 2), t277=(3, 1, 3), t339=(3, 1, 3)),
            "unreadable", "3 × 32 bits a pixel (float)",
        ),
        "compression_999.tif": (gray_tiff(8, 8, PIXELS, t259=(3, 1, 999)), "unreadable", "header"),
        "big.tif": (encoded(photo(), "TIFF", big_tiff=True), "", ""),
        "later_page_cut.tif": (damaged_later("tif of pages"), "truncated", "image data"),
        "exif_turned.tif": (encoded(photo(), "TIFF", exif=turned), "exif_rotated", ""),
        "text_elsewhere.tif": (gray_tiff(8, 8, PIXELS, t270=(2, 99, 2**31)), "damaged_metadata", ""),
        "profile_elsewhere.tif": (gray_tiff(8, 8, PIXELS, t34675=(7, 3000, 2**31)), "damaged_metadata", ""),
        "exif_elsewhere.tif": (gray_tiff(8, 8, PIXELS, t34665=(4, 1, 2**31)), "damaged_metadata", ""),
        "date_elsewhere.tif": (
            gray_tiff(8, 8, b"\xff" * 64, t306=(2, 20, 2**31), t339=(3, 1, 2)), "damaged_metadata clipped", "",
        ),
        "text_cut.tif": (gray_tiff(8, 8, PIXELS, t270=(2, 99, 14 + 12 * 10 + 60)), "truncated", "tag 270"),
        "bits_elsewhere.tif": (gray_tiff(8, 8, PIXELS, t258=(3, 9, 2**31)), "truncated", "tag 258"),
        "exif_99.tif": (gray_tiff(8, 8, PIXELS, t274=(3, 1, 99)), "corrupt_exif", ""),
        # BMP
        "upside_down.bmp": (bmp(8, -8, 24, bytes(192)), "", ""),
        "run_lengths.bmp": (bmp(8, 8, 8, b"\x08\1\0\0" * 7 + b"\x08\1\0\1", 1), "unexpected_mode", ""),
        "run_lengths_short.bmp": (bmp(8, 8, 8, b"\x08\1\0\1", 1), "truncated", "data"),
        "os2.bmp": (b"BM" + struct.pack("<4I4H", 218, 0, 26, 12, 8, 8, 1, 24) + bytes(192), "", ""),
        "7_bits.bmp": (bmp(8, 8, 7, bytes(64)), "unreadable", "depth"),
        "header_9.bmp": (replaced(BMP, 14, b"\x09"), "unreadable", "header"),
        "wrong_size.bmp": (bmp(8, 8, 24, bytes(192), size=99), "", ""),
        "trailing.bmp": (bmp(8, 8, 24, bytes(192)) + b"junk", "trailing_data", ""),
        # TIFF, as raw files of cameras have it, and one that is small itself
        "raw.tif": (gray_tiff(8, 8, PIXELS, t254=(4, 1, 1), t330=(4, 1, 8)), "unreadable", "thumbnail"),
        "reduced.tif": (gray_tiff(8, 8, PIXELS, t254=(4, 1, 1)), "", ""),
        # PPM
        "16_bits.ppm": (b"P6 2 2 65535\n" + bytes(24), "", ""),
        "comments.ppm": (b"P6 # a\n# b\n2 # c\n 2\n255\n" + bytes(12), "", ""),
        "no_levels.ppm": (b"P6 2 2 0\n" + bytes(12), "unreadable", "maxval"),
        "long_number.ppm": (b"P3 2 2 255\n" + b"9" * 5000, "unreadable", "Token"),
        "high_value.ppm": (b"P3 2 1 255\n1 2 3 4 5 999\n", "unreadable", "999"),
        # AVIF
        "sequence.avif": (encoded(photo(), "AVIF", **frames()), "animated", ""),
        "exif_of_noise.avif": (replaced(avif, avif.find(b"II*\0"), b"\xff" * 4), "corrupt_exif", ""),
        "profile_of_noise.avif": (replaced(avif, avif.find(b"acsp") - 9, bytes(99)), "damaged_metadata", ""),
        # HEIC
        "several.heic": (encoded(photo(), "HEIF", **frames()), "animated", ""),
        "trailing.heic": (SAMPLES["heic"] + b"junk and more junk", "trailing_data", ""),
        "exif_of_noise.heic": (replaced(heic, heic.find(b"II*\0"), b"\xff" * 4), "corrupt_exif", ""),
        "no_images.heic": (b"\0\0\0\x18ftypheic" + bytes(99), "unreadable", "header"),
        "video.heic": (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(99), "not_an_image", "video"),
        "trailing.avif": (SAMPLES["avif"] + b"junk and more junk", "trailing_data", ""),
        # no images, or of formats that are not read
        "page.jpg": (b"\xef\xbb\xbf\n<!-- a --><HTML lang=en>", "not_an_image", "HTML"),
        "denied.jpg": (b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code>', "not_an_image", "XML"),
        "drawing.png": (b'<?xml version="1.0"?>\n<!-- a -->\n<svg xmlns="">', "not_an_image", "SVG"),
        "answer.png": (b'{"message": "Not Found"}', "not_an_image", "JSON"),
        "annex.jpg": (b"/annex/objects/SHA256E-s1--0.jpg\n", "not_an_image", "git annex get"),
        "annex_link.jpg": (b"../../.git/modules/a/annex/objects/1/2/MD5E-s1--0.jpg", "not_an_image", "git annex get"),
        "lfs.jpg": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "not_an_image", "git lfs pull"),
        "byte_order_mark.jpg": (b"\xef\xbb\xbf" + JPEG, "unreadable", "before the image (JPEG): remove the first 3"),
        "byte_order_mark.png": (b"\xef\xbb\xbf" + PNG, "unreadable", "before the image (PNG): remove the first 3"),
        "line_ends.gif": (b"\r\n\n" + GIF, "unreadable", "before the image (GIF): remove the first 3"),
        "line_end.ppm": (b"\nP6 2 2 255\n" + bytes(12), "not_an_image", ""),
        "words.jpg": ("hello there".encode("utf-16"), "not_an_image", "hello there"),
        "squeezed.jpg": (gzip.compress(JPEG), "not_an_image", "gzip"),
        "zeros.jpg": (bytes(9999), "not_an_image", "zero bytes"),
        "eps.jpg": (encoded(photo(), "EPS"), "not_an_image", "PostScript"),
        "pdf.jpg": (encoded(photo(), "PDF"), "not_an_image", "PDF"),
        "film.jpg": (b"\0\0\0\x20ftypisom" + bytes(99), "not_an_image", "MP4"),
        "icon.jpg": (encoded(photo(), "ICO"), "unreadable", "ICO"),
        "targa.jpg": (encoded(photo(), "TGA"), "unreadable", "Targa"),
        "jpeg2000.jpg": (encoded(photo(), "JPEG2000"), "unreadable", "JPEG 2000"),
        "layers.jpg": (b"8BPS\0\1" + bytes(99), "unreadable", "Photoshop"),
        "canon.cr2": (b"II*\0\x10\0\0\0CR\2\0" + bytes(99), "unreadable", "raw file"),
        "canon.cr3": (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(99), "unreadable", "a raw photo"),
        "fuji.raf": (b"FUJIFILMCCD-RAW 0201" + bytes(99), "unreadable", "a raw photo"),
        "olympus.orf": (b"IIRO\x08\0\0\0" + bytes(99), "unreadable", "a raw photo"),
        "old_olympus.orf": (b"IIRS\x08\0\0\0" + bytes(99), "unreadable", "a raw photo"),
        "big_endian.orf": (b"MMOR\0\0\0\x08" + bytes(99), "unreadable", "a raw photo"),
        "panasonic.rw2": (b"IIU\0\x18\0\0\0" + bytes(99), "unreadable", "a raw photo"),
        "minolta.mrw": (b"\0MRM\0\1\0\0" + bytes(99), "unreadable", "a raw photo"),
        "old_canon.crw": (b"II\x1a\0\0\0HEAPCCDR" + bytes(99), "unreadable", "a raw photo"),
        "sigma.x3f": (b"FOVb\0\0\2\0" + bytes(99), "unreadable", "a raw photo"),
        "windows.jxr": (b"II\xbc\1\x20\0\0\0" + bytes(99), "unreadable", "JPEG XR"),
        "color.pfm": (b"PF\n2 1\n-1\n" + bytes(24), "unreadable", "a PFM image in color"),
    }  # fmt: skip


@pytest.mark.parametrize("name", made())
def test_the_verdict_on_a_made_file(name: str) -> None:
    content, codes, words = made()[name]
    as_expected(content, "x", codes, words)


# Whole files, and the same cut


@pytest.mark.parametrize("name", SAMPLES)
def test_whole_files_of_every_kind_pass(name: str) -> None:
    image = decode(SAMPLES[name], name.replace(" ", ".")).image
    allowed = {"unexpected_mode", *(["animated"] if "animated" in name or "pages" in name else [])}
    assert image.size == (64, 48)
    assert verdict(SAMPLES[name])[0] <= allowed
    assert ("animated" in verdict(SAMPLES[name])[0]) == ("animated" in allowed)


# Bytes at the end that nothing refers to: the line end of text, the place of the next page after the last
UNUSED = {"text ppm": 2, "tif of pages": 4}


@pytest.mark.parametrize("name", SAMPLES)
def test_a_file_cut_anywhere_is_truncated(name: str) -> None:
    content = SAMPLES[name]
    end = len(content) - UNUSED.get(name, 0)
    whole = {content.find(b"\xff\xd9") + 2} if name == "mpo jpg" else set()  # its first picture
    most = 200 if name == "text ppm" else 1500  # it is read word by word
    for kept in {*range(12, end, 1 + end // most), *range(end - 40, end)} - whole:
        codes, reason = verdict(content[:kept])
        # a file of boxes that is cut between two may as well never have had the second
        assert codes == {"truncated"} or (name in ("avif", "heic") and codes == {"unreadable"}), (kept, codes, reason)
    for kept in range(1, 12):
        assert verdict(content[:kept])[0] <= {"truncated", "not_an_image", "unreadable"}


# JPEG


def variants() -> dict[str, bytes]:
    image = photo(320, 240)
    pixels = np.asarray(image)
    return {
        "standard tables": encoded(image, "JPEG"),
        "optimized tables": encoded(image, "JPEG", optimize=True),
        "progressive": encoded(image, "JPEG", progressive=True),
        "restart markers": encoded(image, "JPEG", restart_marker_rows=1),
        "fine": encoded(image, "JPEG", quality=95, subsampling=0),
        "4:4:0": simplejpeg.encode_jpeg(pixels, colorsubsampling="440"),
        "4:1:1": simplejpeg.encode_jpeg(pixels, colorsubsampling="411"),
    }


VARIANTS = variants()


def pillows(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


def same_pixels(content: bytes) -> None:
    image = decode(content, "x.jpg").image
    assert image.mode == pillows(content).mode
    np.testing.assert_array_equal(np.asarray(image), np.asarray(pillows(content)))


@pytest.mark.parametrize("name", VARIANTS)
def test_pixels_are_pillows(name: str) -> None:
    same_pixels(VARIANTS[name])


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_pixels_are_pillows_at_every_size(mode: str) -> None:
    sizes = [*itertools.product((1, 2, 7, 8, 9, 15, 16, 17), (1, 3, 8, 16, 17)), (1, 3000), (3000, 1)]
    for (width, height), subsampling in itertools.product(sizes, (0, 1, 2)):
        image = photo().resize((width, height)).convert(mode)
        same_pixels(encoded(image, "JPEG", subsampling=subsampling, progressive=bool((width + height) % 2)))


def test_pixels_are_pillows_in_other_color_spaces() -> None:
    without_jfif = JPEG[:2] + JPEG[20:]
    for adobe in range(2):
        same_pixels(JPEG[:2] + b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + bytes([adobe]) + JPEG[20:])
    same_pixels(without_jfif)
    same_pixels(encoded(photo(), "JPEG", keep_rgb=True))


def test_harmless_oddities_of_cameras_pass() -> None:
    version = JPEG.find(b"JFIF\0") + 5
    tables = re.compile(rb"\xff\xc4..", re.DOTALL)
    film = JPEG
    while found := tables.search(film, 0, film.find(b"\xff\xda")):  # frames of films leave the tables out
        film = film[: found.start()] + film[found.start() + 2 + int.from_bytes(found[0][2:], "big") :]
    for content in (
        replaced(JPEG, version, b"\0\0"),
        replaced(JPEG, version, b"\2\1"),
        JPEG[:-2] + bytes(12) + JPEG[-2:],
        JPEG[:-2] + b"\xff" * 12 + JPEG[-2:],
        JPEG[:FRAME] + b"\xff\xff" + JPEG[FRAME:],
        film,
    ):
        assert verdict(content) == (set(), "")
        same_pixels(content)


def test_a_header_of_many_comments_takes_no_memory() -> None:
    content = b"P6" + b"\n#" * 500_000 + b"\n2 2 255\n" + bytes(12)
    tracemalloc.start()
    assert verdict(content) == (set(), "")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * len(content)


def test_line_ends_of_text_are_damage() -> None:
    assert verdict(JPEG.replace(b"\n", b"\r\n"))[0] in NOT_WHOLE


def test_padding_that_is_not_empty_is_damage() -> None:
    assert verdict(JPEG[:-2] + b"abcdefghijkl" + JPEG[-2:])[0] == {"corrupt"}


@pytest.mark.parametrize("name", ["standard tables", "optimized tables", "restart markers", "fine"])
def test_half_written_jpegs_are_found_though_they_decode(name: str) -> None:
    content = VARIANTS[name]
    other = encoded(photo(320, 240).rotate(180), "JPEG")
    scan, end = content.find(b"\xff\xda") + 14, len(content) - 2
    swapped = []
    for at in np.linspace(scan, end - 2600, 25).astype(int):
        for fill in (b"", b"\0", b"\xff"):
            assert verdict(content[:at] + fill * (end - at) + content[end:])[0] in NOT_WHOLE, (at, fill)
        for hole in (b"", bytes(2048), b"\xff" * 2048):
            assert verdict(content[:at] + hole + content[at + 2048 :])[0] in NOT_WHOLE, (at, hole[:9])
        for page in (other[2000:4048], content[at - 2048 : at]):
            swapped.append(verdict(content[:at] + page + content[at + 2048 :])[0])
    # data of another place end, once in a while, in step with those that they replace
    assert sum(found in NOT_WHOLE for found in swapped) >= 0.9 * len(swapped)


def test_progressive_jpegs_that_lack_their_last_scans_are_truncated() -> None:
    content = VARIANTS["progressive"]
    scan = content.find(b"\xff\xda")
    between_scans = [found.start() for found in re.finditer(b"\xff\xc4", content) if found.start() > scan]
    for at in [*between_scans, *np.linspace(scan, len(content) - 600, 60).astype(int)]:
        assert verdict(content[:at] + b"\xff\xd9")[0] == {"truncated"}
        assert verdict(content[:at] + bytes(len(content) - at) + b"\xff\xd9")[0] in NOT_WHOLE


@pytest.mark.parametrize("color", ["white", "black", (128, 128, 128)])
def test_pictures_on_a_flat_ground_pass(color: str) -> None:
    """Their data may hold long runs of zeros, as a hole does."""
    ground = Image.new("RGB", (640, 800), color)
    below = ground.copy()
    below.paste(photo(640, 200), (0, 0))
    for image, optimize, progressive, rows in itertools.product((ground, below), (False, True), (False, True), (0, 1)):
        for mode, quality in (("RGB", 30), ("RGB", 90), ("L", 75)):
            content = encoded(
                image.convert(mode), "JPEG",
                quality=quality, optimize=optimize, progressive=progressive, restart_marker_rows=rows,
            )  # fmt: skip
            assert verdict(content) == (set(), "")


def test_many_flipped_bits_are_found() -> None:
    """Few of them may leave a picture that decodes as well as any other: its data have no checksum."""
    randomly = random.Random(1)
    verdicts = []
    for content in VARIANTS.values():
        scan = content.find(b"\xff\xda") + 14
        for _ in range(12):
            damaged = bytearray(content)
            for at in randomly.sample(range(scan, len(content) - 2), 60):
                damaged[at] ^= 1 << randomly.randrange(8)
            verdicts.append(verdict(bytes(damaged))[0])
    assert sum(map(bool, verdicts)) > 0.9 * len(verdicts)
