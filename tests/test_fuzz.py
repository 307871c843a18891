"""Damage of every kind to images and to archives of them: pixels or a reason, a content, a problem or a clear error."""

from __future__ import annotations

import gzip
import io
import os
import re
import struct
import tarfile
import tempfile
import time
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import samples

from pipeline.images import stored
from pipeline.images.decode import decode, upright, upright_pixels
from pipeline.images.errors import ImageError
from pipeline.images.items import Item
from pipeline.images.sources import open_source
from pipeline.images.stored import Problem
from pipeline.system.console import UserError

SAMPLES = samples()
CODES = {"unreadable", "truncated", "corrupt", "not_an_image", "empty_file", "too_large"}
WARNINGS = {
    *("format_mismatch", "exif_rotated", "corrupt_exif", "unexpected_mode", "animated", "trailing_data"),
    *("damaged_metadata", "color_profile", "clipped"),
}
SECONDS = 5  # for one small file on a busy machine
ROUNDS = int(os.environ.get("FUZZ_ROUNDS", "1"))  # more by hand


@st.composite
def damage(draw: st.DrawFn, contents: dict[str, bytes]) -> bytes:
    """One of the contents with bytes changed, cut off, left out, repeated, or taken from another one."""
    data = bytearray(contents[draw(st.sampled_from(sorted(contents)))])
    for _ in range(draw(st.integers(1, 4))):
        # headers are where it matters most
        at = draw(st.one_of(st.integers(0, min(len(data), 120)), st.integers(0, len(data))))
        length = draw(st.one_of(st.integers(1, 8), st.integers(1, 1 + len(data) // 2)))
        match draw(st.sampled_from(["flip", "set", "cut", "drop", "repeat", "splice", "fill"])):
            case "flip" if at < len(data):
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "set":
                extreme = st.sampled_from([b"\xff\xff", b"\0\0", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff", b"\x80"])
                new = draw(st.one_of(extreme, st.binary(min_size=1, max_size=4)))
                data[at : at + len(new)] = new
            case "cut":
                del data[at:]
            case "drop":
                del data[at : at + length]
            case "repeat":
                data[at:at] = data[at : at + length]
            case "splice":
                other = contents[draw(st.sampled_from(sorted(contents)))]
                data[at:] = other[draw(st.integers(0, len(other))) :]
            case "fill":
                data[at : at + length] = draw(st.sampled_from([b"\0", b"\xff", b"U"])) * length
    return bytes(data)


def pixels_or_a_reason(content: bytes) -> None:
    start = time.monotonic()
    try:
        decoded = decode(content, "x.jpg")
    except ImageError as error:
        decoded, issues, reason = None, [error.code], error.reason
    assert time.monotonic() - start < SECONDS
    if decoded is None:
        assert set(issues) < CODES
        assert reason and len(reason.splitlines()) == 1 and len(reason) < 300
    else:
        assert set(decoded.issues) <= WARNINGS and len(set(decoded.issues)) == len(decoded.issues)
        height, width, _ = upright_pixels(decoded).shape
        assert (width, height) in (decoded.image.size, decoded.image.size[::-1])
        assert (upright_pixels(decoded) == np.asarray(upright(decoded.image, 3))).all()


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=1500 * ROUNDS, deadline=None)
@given(damage(SAMPLES))
def test_damaged_images_end_in_pixels_or_a_reason(content: bytes) -> None:
    pixels_or_a_reason(content)


@cache
def photos(folder: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(folder / "cats-dogs/cats-dogs-sample.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")]
        return {name: content for name in names[:40] if (content := archive.read(name))}


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=400 * ROUNDS, deadline=None)
@given(st.data())
def test_damaged_photos_end_in_pixels_or_a_reason(data_mirror: Path, data: st.DataObject) -> None:
    pixels_or_a_reason(data.draw(damage(photos(data_mirror))))


@cache
def archives() -> dict[str, bytes]:
    made = {}
    files = {f"{label}/{name}": SAMPLES[name] for label in ("cat", "dog") for name in ("pgm", "jpg", "gif")}
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", method) as archive:
            for name, content in files.items():
                archive.writestr(zipfile.ZipInfo(name), content, method)
        made[f"{method}.zip"] = stream.getvalue()
    for compression in ("", "gz", "xz"):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode=f"w:{compression}") as tar:  # type: ignore[call-overload]
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        made[f"tar.{compression}"] = stream.getvalue()
    return made


def contents_or_an_error(content: bytes) -> None:
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "in")
        path.write_bytes(content)
        message = ""
        try:
            for item, found in open_source(path).read():
                assert isinstance(item, Item) and item.path
                assert isinstance(stored.read(found), bytes | Problem | np.ndarray)
        except UserError as error:
            message = str(error)
    assert len(message.splitlines()) <= 1
    assert time.monotonic() - start < SECONDS


@settings(max_examples=300 * ROUNDS, deadline=None)
@given(damage(archives()))
def test_damaged_archives_end_in_contents_problems_or_an_error(content: bytes) -> None:
    contents_or_an_error(content)


@st.composite
def lying_archive(draw: st.DrawFn) -> bytes:
    """An archive some of whose headers say anything at all, with checksums that are right."""
    whole = archives()
    name = draw(st.sampled_from(["tar.", "tar.gz", f"{zipfile.ZIP_STORED}.zip"]))
    data = bytearray(whole["tar." if name.startswith("tar") else name])
    numbers = st.sampled_from(
        [0, 1, 511, 512, 2**21, 2**31, 2**32 - 1, 2**50, 2**62, 2**63, 2**64 - 1, -1, -512, -(2**63)]
    )
    if name.endswith(".zip"):
        places = [at for magic in (b"PK\1\2", b"PK\5\6", b"PK\3\4") for at in found(data, magic)]
        for at in draw(st.lists(st.sampled_from(places), min_size=1, max_size=4)):
            field = at + draw(st.integers(4, 42))
            value = (draw(numbers) % 2**64).to_bytes(8, "little")[: draw(st.sampled_from([2, 4]))]
            data[field : field + len(value)] = value
        if draw(st.booleans()):
            end = bytes(data).rfind(b"PK\5\6")
            record, place = (draw(numbers) % 2**64 for _ in "12")
            data[end:end] = struct.pack("<4s4xQ4x", b"PK\6\7", draw(st.sampled_from([place, end])))
            data[end:end] = struct.pack("<4s28xQQQ", b"PK\6\6", 6, record, draw(numbers) % 2**64)
        return bytes(data)
    headers = [at for at in range(0, len(data), 512) if data[at + 257 : at + 262] == b"ustar"]
    for at in draw(st.lists(st.sampled_from(headers), min_size=1, max_size=4)):
        header = data[at : at + 512]
        match draw(st.sampled_from(["size", "kind", "any"])):
            case "size":
                header[124:136] = draw(numbers).to_bytes(12, "big", signed=True)
                header[124] |= 0x80
            case "kind":
                header[156:157] = draw(st.sampled_from([bytes([kind]) for kind in b"\0012567gxXLKSVMDN"]))
            case "any":
                field = draw(st.integers(0, 500))
                value = draw(st.binary(min_size=1, max_size=12))
                header[field : field + len(value)] = value
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header[:512])
        data[at : at + 512] = header[:512]
    return gzip.compress(data, 1) if name == "tar.gz" else bytes(data)


def found(data: bytes, magic: bytes) -> list[int]:
    return [match.start() for match in re.finditer(re.escape(magic), data)]


@settings(max_examples=300 * ROUNDS, deadline=None)
@given(lying_archive())
def test_archives_that_lie_end_in_contents_problems_or_an_error(content: bytes) -> None:
    contents_or_an_error(content)
