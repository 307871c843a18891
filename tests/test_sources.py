"""Where images come from: folders, zip, tar, idx files, CIFAR-10's binary; what a path says of class and split."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import struct
import subprocess
import tarfile
import tempfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import chdir, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import class_folders, picture
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.images import archives, arrays, stored, tars, zips
from pipeline.images.folders import class_key
from pipeline.images.items import Entry, Item, Listing, sort_classes
from pipeline.images.sources import Source, open_source
from pipeline.images.stored import Problem, Read, read_all
from pipeline.system.console import UserError


def png(seed: int = 0) -> bytes:
    stream = io.BytesIO()
    picture(seed).save(stream, "PNG")
    return stream.getvalue()


PNG = png()


def zip_of(
    path: Path, members: dict[str, bytes] | list[tuple[Any, bytes]], compression: int = zipfile.ZIP_STORED
) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items() if isinstance(members, dict) else members:
            archive.writestr(name, content)
    return path


def tar_of(path: Path, members: dict[str, bytes] | list[tuple[str, bytes]], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items() if isinstance(members, dict) else members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def read(source: Source) -> list[tuple[Item, Read]]:
    """All items with their contents, as a worker gets them."""
    items = list(source.read())
    assert len(items) == source.count
    return list(zip([item for item, _ in items], read_all(content for _, content in items), strict=True))


def contents(path: Path) -> dict[str, Read]:
    return {item.path: content for item, content in read(open_source(path))}


def listed(paths: list[str]) -> list[Item]:
    entries = [Entry(path, None, b"") for path in paths]
    return [item for item, _ in Listing(entries).items(entries)]


def labels(paths: list[str]) -> dict[str, tuple[str | None, str | None]]:
    return {item.path: (item.label, item.split) for item in listed(paths)}


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read(open_source(path))
    message = str(caught.value)
    assert str(path) in message and len(message.splitlines()) == 1, message
    return message


# Paths


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["cat/1.png", "dog/1.png"], [("cat", None), ("dog", None)]),
        (["PetImages/Cat/1.jpg", "PetImages/Dog/1.jpg"], [("Cat", None), ("Dog", None)]),
        (["a/b/c/cat/1.png", "a/b/c/dog/1.png"], [("cat", None), ("dog", None)]),
        (["cat/young/1.png", "dog/old/x/1.png"], [("cat", None), ("dog", None)]),
        (["train/cat/1.png", "test/cat/1.png"], [("cat", "train"), ("cat", "test")]),
        (["data/Train/cat/1.png", "data/TEST/dog/1.png"], [("cat", "train"), ("dog", "test")]),
        (
            ["training/0/1.png", "validation/0/1.png", "testing/1/1.png"],
            [("0", "train"), ("0", "val"), ("1", "test")],
        ),
        (["train/cat/1.png", "valid/dog/1.png"], [("cat", "train"), ("dog", "val")]),
        # a class may be called train: it takes a test or validation folder beside it to make it a split
        (["train/1.png", "bus/1.png", "car/1.png"], [("train", None), ("bus", None), ("car", None)]),
        (["train/cat/1.png", "test/cat/1.png", "notes/a.txt"], [("cat", "train"), ("cat", "test"), (None, None)]),
        # above the class folders
        (["cat/1.png", "dog/1.png", "README.md"], [("cat", None), ("dog", None), (None, None)]),
        (["in/cat/1.png", "in/dog/1.png", "README.md"], [("cat", None), ("dog", None), (None, None)]),
        (["train/cat/1.png", "test/dog/1.png", "train/1.png"], [("cat", "train"), ("dog", "test"), (None, "train")]),
        (["1.png", "2.png"], [(None, None), (None, None)]),
        # hidden files, and those of systems
        (
            ["in/cat/1.png", "in/dog/1.png", "__MACOSX/in/cat/._1.png", "in/cat/.x.png", "in/.git/x/1.png"],
            [("cat", None), ("dog", None), (None, None), (None, None), (None, None)],
        ),
        (
            ["cat/@eaDir/1.png/THUMB.png", "cat/1.png", "dog/1.png", "lost+found/1.png"],  # a Synology's, a disk's
            [(None, None), ("cat", None), ("dog", None), (None, None)],
        ),
        (["cat/.ipynb_checkpoints/1.png", "cat/1.png", "dog/1.png"], [(None, None), ("cat", None), ("dog", None)]),
        # names that look like a way out, or like a pattern
        (["../../etc/1.png", "cat/1.png", "dog/1.png"], [(None, None), ("cat", None), ("dog", None)]),
        (["a [1]*/1.png", "ü ñ/1.png"], [("a [1]*", None), ("ü ñ", None)]),
    ],
)
def test_class_and_split_come_from_the_path(paths: list[str], expected: list[tuple[str | None, str | None]]) -> None:
    assert labels(paths) == dict(zip(paths, expected, strict=True))


NAMES = st.text("ab1 é", min_size=1, max_size=3)


CLASSES = st.lists(NAMES, unique_by=class_key, min_size=2, max_size=5).flatmap(
    lambda names: st.fixed_dictionaries(dict.fromkeys(names, st.integers(1, 3)))
)


@given(CLASSES, st.lists(NAMES, max_size=2), st.randoms())
def test_wrapping_folders_and_order_change_nothing(
    classes: dict[str, int], wrapping: list[str], random: object
) -> None:
    plain = {f"{label}/{number}.png": label for label, count in classes.items() for number in range(count)}
    wrapped = {"/".join([*wrapping, path]): label for path, label in plain.items()}
    paths = list(wrapped)
    random.shuffle(paths)  # type: ignore[attr-defined]
    assert {path: label for path, (label, _) in labels(paths).items()} == wrapped


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["10", "2", "1", "2"], ["1", "2", "10"]),
        (["10", "2", "x"], ["10", "2", "x"]),
        (["dog", "Cat", "ape"], ["Cat", "ape", "dog"]),
        (["1.5", "-1"], ["-1", "1.5"]),
        ([], []),
    ],
)
def test_classes_are_in_order_of_number_else_name(names: list[str], expected: list[str]) -> None:
    assert sort_classes(names) == expected


@given(st.lists(st.sampled_from(["a", "b", "a#2", "a#3", "a#2#2"]), max_size=12))
@example(["a", "a", "a#2"])
def test_every_id_is_unique_and_first_ones_keep_their_name(names: list[str]) -> None:
    items = listed(names)
    assert len({item.path for item in items}) == len(names)
    assert all(item.path == name or item.path.startswith(f"{name}#") for item, name in zip(items, names, strict=True))
    assert all(items[names.index(name)].path == name for name in names)


# Folders


def test_a_folder_in_a_fixed_order(tmp_path: Path) -> None:
    class_folders(tmp_path / "in", {"dog": 3, "ape": 2})
    source = open_source(tmp_path / "in")
    assert [item.path for item, _ in source.read()] == [
        "ape/000.png", "ape/001.png", "dog/000.png", "dog/001.png", "dog/002.png"
    ]  # fmt: skip
    assert source.classes == ["ape", "dog"]
    found = {item.path: content for item, content in read(source)}
    assert found == {path: (tmp_path / "in" / path).read_bytes() for path in found} and len(found) == 5
    only = [item.path for item, _ in source.read(lambda path: path.startswith("dog"))]
    assert only == ["dog/000.png", "dog/001.png", "dog/002.png"]


def test_what_is_no_file_is_never_opened(tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "in", {"cat": 1, "dog": 1})
    os.mkfifo(folder / "cat" / "pipe.png")
    (folder / "cat" / "link.png").symlink_to("pipe.png")
    found = contents(folder)
    for name in ("cat/pipe.png", "cat/link.png"):
        assert found.pop(name) == Problem("not_an_image", "not a regular file")
    assert set(found) == {"cat/000.png", "dog/000.png"}


def test_a_very_deep_folder(tmp_path: Path) -> None:
    class_folders(tmp_path, {"cat": 1, "dog": 1})
    with chdir(tmp_path / "cat"):
        for _ in range(1500):
            os.mkdir("d")
            os.chdir("d")
        Path("a.png").write_bytes(b"1")
    try:
        items = [item for item, _ in open_source(tmp_path).read()]
    finally:
        subprocess.run(["rm", "-r", str(tmp_path / "cat/d")], check=True)  # pytest can't
    paths = ["cat/000.png", f"cat/{'d/' * 1500}a.png", "dog/000.png"]
    assert [(item.path, item.label) for item in items] == list(zip(paths, ("cat", "cat", "dog"), strict=True))


def test_what_vanishes_while_a_folder_is_read(tmp_path: Path) -> None:
    class_folders(tmp_path, {"cat": 2, "dog": 2})
    found = open_source(tmp_path).read()
    next(found)
    (tmp_path / "cat/001.png").unlink()
    with pytest.raises(UserError, match=r"cat/001\.png is gone: the source has changed; run it again$"):
        next(found)
    found = open_source(tmp_path).read()
    next(found)
    shutil.rmtree(tmp_path / "dog")
    with pytest.raises(UserError, match="dog is gone"):
        next(found)


def test_a_file_name_of_any_bytes(tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "in", {"cat": 1, "dog": 1})
    for name in (b"caf\xe9.png", b"a\nb.png", b" .png", b"-rf.png", "日本.png".encode(), b"a'\"$(x).png"):
        Path(os.fsdecode(os.path.join(os.fsencode(folder), b"cat", name))).write_bytes(PNG)
    found = contents(folder)
    assert sum(content == PNG for path, content in found.items() if path != "cat/000.png") == 6
    assert {"cat/caf\\xe9.png", "cat/a\nb.png", "cat/日本.png"} <= set(found)
    for path in found:
        path.encode()


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = class_folders(tmp_path / "in", {"cat": 2})

    def forbidding(place: str, *arguments: Any) -> object:
        if place.endswith("001.png"):
            raise PermissionError(13, "Permission denied", place)
        return open(place, *arguments)  # noqa: PTH123

    monkeypatch.setattr(stored, "open", forbidding, raising=False)
    problem = contents(folder)["cat/001.png"]
    assert isinstance(problem, Problem) and problem.code == "unreadable" and "Permission denied" in problem.reason


# Archives


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_every_kind_of_tar(tmp_path: Path, mode: str) -> None:
    members = {f"./in/{label}/{number}.png": png(number) for label in ("dog", "cat") for number in range(3)}
    # whatever its name says, but for a plain one
    source = open_source(tar_of(tmp_path / ("images" if mode == "w" else "images.zip"), members, mode))
    assert source.classes == ["cat", "dog"]
    assert {f"./{item.path}": content for item, content in read(source)} == members
    assert [item.label for item, _ in source.read()] == ["dog"] * 3 + ["cat"] * 3  # in the archive's order


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.tuples(st.text(max_size=9).filter(lambda name: "\0" not in name), st.binary(max_size=40)), max_size=9),
    st.sampled_from([b"", b"PK\5\6", b"comment"]),
    st.sampled_from([b"", b"#!/bin/sh\n"]),
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_the_directory_of_a_zip_is_what_zipfile_finds(
    members: list[tuple[str, bytes]], comment: bytes, prefix: bytes
) -> None:
    stream = io.BytesIO(prefix)
    stream.seek(0, 2)
    with zipfile.ZipFile(stream, "a") as archive:
        for number, (name, content) in enumerate(members):
            with archive.open(zipfile.ZipInfo(name or "x"), "w", force_zip64=number % 2 == 0) as file:
                file.write(content)
        archive.comment = comment if comment != b"PK\5\6" else b""
    with zipfile.ZipFile(stream) as archive:
        expected = [(info.filename, info.header_offset, info.compress_size, info.CRC) for info in archive.infolist()]
    found = [(name, at.start, at.member.compressed, at.member.crc) for name, at in zips.members(stream, "x")]
    assert found == expected


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_every_kind_of_zip(tmp_path: Path, compression: int) -> None:
    members = {f"in/{label}/{number} ü.png": png(number) for label in ("dog", "cat") for number in range(3)}
    path = zip_of(tmp_path / "images", members, compression=compression)  # known without a suffix
    assert contents(path) == members and open_source(path).classes == ["cat", "dog"]


def test_a_folder_of_one_image_is_no_archive(tmp_path: Path) -> None:
    for name in ("1.png", "1.dcm"):  # also of a format that is not read
        (tmp_path / name).write_bytes(PNG)
        assert contents(tmp_path) == {name: PNG}
        (tmp_path / name).unlink()


def test_a_tar_whose_last_image_carries_a_zip(tmp_path: Path) -> None:
    members = {"cat/1.jpg": PNG, "dog/1.jpg": PNG + zip_of(tmp_path / "z", {}).read_bytes()}
    assert contents(tar_of(tmp_path / "in.tar", members, "w")) == members


def test_two_members_of_one_name(tmp_path: Path) -> None:
    members = [("cat/1.png", png(1)), ("cat/1.png", png(2)), ("dog/1.png", png(3)), ("cat/1.png#2", png(4))]
    with pytest.warns(UserWarning, match="Duplicate name"):
        zipped = zip_of(tmp_path / "a.zip", members)
    expected = {"cat/1.png": png(1), "cat/1.png#3": png(2), "dog/1.png": png(3), "cat/1.png#2": png(4)}
    assert contents(zipped) == contents(tar_of(tmp_path / "a.tar", members)) == expected


def test_members_that_lead_out_stay_inside(tmp_path: Path) -> None:
    members = {"../../up/1.png": PNG, "cat/../../1.png": PNG, "/etc/1.png": PNG, "cat/1.png": PNG, "dog/1.png": PNG}
    (tmp_path / "in").mkdir()
    before = sorted(tmp_path.rglob("*"))
    for path in (zip_of(tmp_path / "in/a.zip", members), tar_of(tmp_path / "in/a.tar", members)):
        found = contents(path)
        for name in ("../../up/1.png", "cat/../../1.png"):
            problem = found.pop(name)
            assert isinstance(problem, Problem) and "no place inside the archive" in problem.reason
        assert found == {"etc/1.png": PNG, "cat/1.png": PNG, "dog/1.png": PNG}
        path.unlink()
    assert sorted(tmp_path.rglob("*")) == before


def test_members_are_where_unpacking_would_place_them(tmp_path: Path) -> None:
    names = ["/cat/1.png", "//cat/2.png", "./cat//3.png", "dog/../cat/4.png", "cat/./5.png", "dog/1.png", "/dog/1.png"]
    placed = ["cat/1.png", "cat/2.png", "cat/3.png", "cat/4.png", "cat/5.png", "dog/1.png", "dog/1.png#2"]
    members = {name: png(number) for number, name in enumerate(names)}
    for path in (zip_of(tmp_path / "a.zip", members), tar_of(tmp_path / "a.tar", members)):
        source = open_source(path)
        assert source.classes == ["cat", "dog"]
        assert {item.path: content for item, content in read(source)} == dict(
            zip(placed, members.values(), strict=True)
        )
    for maker, classes in ((0, ["cat", "dog"]), (10, ["cat", "dog"]), (3, [])):  # on DOS, Windows, Unix
        infos = [zipfile.ZipInfo(f"C:/{label}/1.png") for label in ("cat", "dog")]
        for info in infos:
            info.create_system, info.filename = maker, info.filename.replace("/", "\\")
        assert open_source(zip_of(tmp_path / "b.zip", [(info, PNG) for info in infos])).classes == classes
    nameless = zip_of(tmp_path / "c.zip", {"cat/1.png": PNG, "cat/..": PNG, "dog/1.png": PNG})
    assert isinstance(contents(nameless)["cat/.."], Problem)


def test_names_that_no_file_system_takes(tmp_path: Path) -> None:
    deep, long = "a/" * 30_000 + "1.png", "x" * 5000 + "/1.png"
    members = [(name, PNG) for name in ("cat/1.png", deep, deep, long, "dog/1.png")]
    with pytest.warns(UserWarning, match="Duplicate name"):
        zipped = zip_of(tmp_path / "a.zip", members)
    for path in (zipped, tar_of(tmp_path / "a.tar", members)):
        assert open_source(path).classes == ["cat", "dog"]
        found = contents(path)
        assert (found.pop("cat/1.png"), found.pop("dog/1.png"), len(found)) == (PNG, PNG, 3)
        assert all(isinstance(content, Problem) and len(name) < 99 for name, content in found.items())


def damaged_zip(path: Path, change: str) -> Path:
    """A zip of three members; the second one is encrypted, has a wrong checksum or an unknown compression."""
    zip_of(path, {"cat/1.png": png(1), "cat/2.png": png(2), "dog/1.png": png(3)})
    data = bytearray(path.read_bytes())
    local, central = data.find(b"PK\3\4", 10), data.find(b"PK\1\2")
    central = data.find(b"PK\1\2", central + 1)
    if change == "encrypted":
        data[local + 6] |= 1
        data[central + 8] |= 1
    elif change == "compression":
        data[local + 8 : local + 10] = data[central + 10 : central + 12] = struct.pack("<H", 9)  # deflate64
    elif change == "checksum":
        data[data.find(png(2)) + 60] ^= 1
    elif change == "offset":
        data[central + 42] ^= 1
    path.write_bytes(bytes(data))
    return path


@pytest.mark.parametrize(
    ("change", "reason"),
    [("encrypted", "encrypted"), ("compression", "method 9"), ("checksum", "CRC"), ("offset", "magic number")],
)
def test_one_bad_member_of_a_zip_stops_nothing(tmp_path: Path, change: str, reason: str) -> None:
    found = contents(damaged_zip(tmp_path / "a.zip", change))
    problem = found["cat/2.png"]
    assert isinstance(problem, Problem) and problem.code == "unreadable" and reason in problem.reason
    assert (found["cat/1.png"], found["dog/1.png"]) == (png(1), png(3))


def test_members_of_a_tar_that_are_no_files(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind in [
            ("cat", tarfile.DIRTYPE), ("cat/pipe.png", tarfile.FIFOTYPE), ("cat/zero.png", tarfile.CHRTYPE),
            ("cat/folder.png", tarfile.DIRTYPE),
        ]:  # fmt: skip
            info = tarfile.TarInfo(name)
            info.type = kind
            archive.addfile(info)
    tar_of(path, {"cat/1.png": PNG, "dog/1.png": PNG}, "a")
    found = contents(path)
    assert {path for path, content in found.items() if isinstance(content, Problem)} == {
        "cat/pipe.png", "cat/zero.png", "cat/folder.png"
    }  # fmt: skip
    assert (found["cat/1.png"], found["dog/1.png"], len(found)) == (PNG, PNG, 5)


def bad_sources(folder: Path) -> Iterator[tuple[str, str, bytes]]:
    members = {f"{label}/{number}.png": png(number) for label in ("cat", "dog") for number in range(20)}
    whole_zip = zip_of(folder / "w", members).read_bytes()
    whole_tar = tar_of(folder / "w", members, "w").read_bytes()
    whole_gz = tar_of(folder / "w", members, "w:gz").read_bytes()
    yield "a.zip", "not a whole", whole_zip[:-30]
    yield "a.zip", "not a whole", whole_zip[: len(whole_zip) // 2]
    yield "a.zip", "not a whole zip or tar archive, but a web page", b"<!DOCTYPE html>"
    yield "a.zip", "run git lfs pull", b"version https://git-lfs.github.com/spec/v1\noid sha256:0"
    yield "a.tar.gz", "run git annex get", b"/annex/objects/SHA256E-s1--0.tar.gz"
    yield "a.zip", "not a whole", whole_tar
    yield "a.zip", "not a whole", b""
    yield "a", "not a whole", whole_zip[: len(whole_zip) // 2]
    for size in (100, len(whole_gz) // 2, len(whole_gz) - 9):
        yield "a.tar.gz", "not a whole", whole_gz[:size]
    yield "a.tar", "not a whole", whole_tar[: len(whole_tar) // 2 + 100]
    yield "a.tar", "not a whole", b"<!DOCTYPE html>" * 100
    yield "a.tar", "not a whole", b""
    middle = whole_tar.find(b"dog/0.png")
    yield "a.tar", "damaged after 20 members", whole_tar[:middle] + b"x" + whole_tar[middle + 1 :]
    yield "a.tar.gz", "CRC", whole_gz[:-8] + bytes(8)
    for mode, name in (("w:bz2", "a.tar.bz2"), ("w:xz", "a.tar.xz")):
        data = tar_of(folder / "w", members, mode).read_bytes()
        yield name, "not a whole", data[: len(data) // 2]
    yield "a.zip", "is empty", zip_of(folder / "w", {}).read_bytes()
    yield "a.zip", "is empty", zip_of(folder / "w", {"cat/": b""}).read_bytes()
    yield "a.tar", "is empty", tar_of(folder / "w", {}).read_bytes()
    yield "a.zip", "utf-8", zip_of(folder / "w", {"é": PNG}).read_bytes().replace("é".encode(), b"\xff\xff")


def test_an_archive_that_is_not_whole_or_not_one(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    for name, expected, content in bad_sources(tmp_path / "made"):
        path = tmp_path / name
        path.write_bytes(content)
        assert expected in refusal(path), (name, len(content))
        path.unlink()


def test_an_empty_and_a_missing_source(tmp_path: Path) -> None:
    (tmp_path / "empty/cat").mkdir(parents=True)
    assert "is empty: expected images in one folder per class" in refusal(tmp_path / "empty")
    assert "is not there" in refusal(tmp_path / "missing")
    (tmp_path / "dangling").symlink_to("nowhere")
    assert "is not there" in refusal(tmp_path / "dangling")


def tar_header(name: bytes = b"cat/1.png", size: bytes = b"0" * 11, kind: bytes = b"0", **fields: bytes) -> bytes:
    """A header whose checksum is right, whatever it says."""
    block = bytearray(512)
    places = {"magic": 257, "prefix": 345, "sparse": 386, "extended": 482, "real_size": 483}
    for at, value in (
        (0, name),
        (124, size),
        (148, b" " * 8),
        (156, kind),
        *((places[k], v) for k, v in fields.items()),
    ):
        block[at : at + len(value)] = value
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def binary(size: int, length: int = 12) -> bytes:
    """A number as GNU tar writes those that need more than 33 bits."""
    number = bytearray(size.to_bytes(length, "big", signed=True))
    number[0] = 0xFF if size < 0 else number[0] | 0x80
    return bytes(number)


def pax_header(records: bytes, kind: bytes = b"x") -> bytes:
    return tar_header(b"pax", b"%011o" % len(records), kind) + records + bytes(-len(records) % 512)


def lying_tars() -> Iterator[tuple[str, bytes, str]]:
    """What it is, the archive and what is said of it."""
    good = tar_header(b"cat/0.png", b"%011o" % 5) + b"hello" + bytes(507)
    for size in (-1, -512, -1024, -(2**62), -(2**80)):
        yield f"size {size}", good + tar_header(size=binary(size)) + good, f"member 2 has a size of {size} bytes"
        yield f"size {size} first", tar_header(size=binary(size)) + good, f"member 1 has a size of {size} bytes"
    for size in (2**33, 2**50, 2**62, 2**63, 2**64, 2**87):
        yield f"size {size}", good + tar_header(size=binary(size)) + good, "member 2"
    for value in (b"-1", b"-512", b"x", b"", b"9" * 21, b"9" * 5000):
        record = b" size=" + value + b"\n"
        length = next(n for n in range(len(record), 9999) if n == len(record) + len(str(n)))
        yield f"pax size {value[:30]!r}", pax_header(b"%d" % length + record) + good, "where a pax header has a number"
    for size in (2**33, 2**50, 2**63, 10**19):
        record = b" size=%d\n" % size
        length = len(record) + 2
        yield f"pax size {size}", good + pax_header(b"%d" % length + record) + good, "member 2"
    for kind in (b"x", b"g", b"L", b"K", b"X"):
        for size in (-512, -1, 2**21, 2**50, 2**63):
            yield (
                f"{kind!r} of {size} bytes",
                tar_header(size=binary(size), kind=kind) + good,
                f"header of {size} bytes",
            )
        yield f"{kind!r} cut", tar_header(size=b"%011o" % 2000, kind=kind) + b"x" * 500, "ends within a header"
    for records in (b"0 a=b\n", b"1 a=b\n", b"4 a=", b"99 a=b\n", b"6 abc\n", b"9" * 600 + b" a=b\n", b"9" * 9000):
        yield f"pax {records[:30]!r}", pax_header(records) + good, "pax header"
    yield "endless sparse map", tar_header(kind=b"S", extended=b"\1") + b"\1" * 512 * 9, "ends within a header"
    yield "only long names", tar_header(kind=b"L") * 5000, "not a tar"
    yield "a name and the end", good + tar_header(kind=b"L") + bytes(1024), "damaged after 1 members"


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_a_header_of_a_tar_that_lies_is_one_line(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "a.tar"
    for what, content, expected in lying_tars():
        path.write_bytes(compress(content))
        assert expected in refusal(path), what


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_an_archive_behind_another_one_is_not_lost(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    member = tar_header(b"cat/0.png", b"%011o" % 5) + b"hello" + bytes(507)
    path = tmp_path / "a.tar"
    path.write_bytes(compress(member + bytes(10240)) + compress(member + bytes(1024)))
    assert "another archive begins behind its end" in refusal(path)
    path.write_bytes(compress(member + bytes(10240) + b"some words of the tape"))
    assert contents(path) == {"cat/0.png": b"hello"}


@given(st.text("0123456789 =a\n\0", max_size=60), st.sampled_from(["", "6 a=b\n"]))
def test_any_pax_header_is_read_or_refused(text: str, before: str) -> None:
    with suppress(tarfile.ReadError):
        tars.records((before + text).encode())


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_a_member_stored_with_holes_is_told_apart(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    good = tar_header(b"cat/0.png", b"%011o" % 5) + b"hello" + bytes(507)
    huge = binary(2**50)
    pax = pax_header(b"22 GNU.sparse.major=1\n25 GNU.sparse.name=cat/1\n")
    for sparse in (
        tar_header(b"cat/1", kind=b"S", sparse=huge + huge, extended=b"\1", real_size=huge) + bytes(512),
        pax + tar_header(b"GNUSparseFile.0/1", b"%011o" % 5) + b"hello" + bytes(507),
    ):
        (tmp_path / "a.tar").write_bytes(compress(good + sparse + good))
        found = contents(tmp_path / "a.tar")
        assert isinstance(problem := found.pop("cat/1"), Problem) and "--sparse" in problem.reason
        assert found == {"cat/0.png": b"hello", "cat/0.png#2": b"hello"}


def test_names_in_headers_before_a_header(tmp_path: Path) -> None:
    """As GNU tar, Python and others write those that are long or not ASCII."""
    names = ["cat/" + "é" * 90 + ".png", "dog/" + "x" * 200 + "/" + "y" * 120 + ".png", "cat/日本.png", "dog/1.png"]
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        path = tmp_path / f"{form}.tar"
        with tarfile.open(path, "w", format=form, pax_headers={"comment": "hello"}) as archive:
            for name in names:
                info = tarfile.TarInfo(name)
                info.size, info.mtime = len(PNG), 1.5
                archive.addfile(info, io.BytesIO(PNG))
        assert contents(path) == dict.fromkeys(names, PNG)


def test_numbers_of_a_zip_that_lie(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", {"cat/1.png": PNG, "cat/2.png": PNG, "dog/1.png": PNG})
    data = path.read_bytes()
    second = data.find(b"PK\1\2", data.find(b"PK\1\2") + 1)
    end, place = data.find(b"PK\5\6"), data.find(b"PK\1\2")

    def changed(at: int, form: str, *values: int) -> dict[str, Read]:
        path.write_bytes(data[:at] + struct.pack(form, *values) + data[at + struct.calcsize(form) :])
        return contents(path)

    for at, form, values in ((20, "<I", [2**32 - 2]), (42, "<I", [2**32 - 2]), (20, "<II", [2**32 - 1] * 2)):
        found = changed(second + at, form, *values)
        assert isinstance(problem := found.pop("cat/2.png"), Problem) and "beyond the end" in problem.reason
        assert found == {"cat/1.png": PNG, "dog/1.png": PNG}
    for size in (2**32 - 2, 2**31, 5, 0):
        problem = changed(second + 24, "<I", size)["cat/2.png"]  # the size once it is decompressed
        assert isinstance(problem, Problem | bytes)
    extra = struct.pack("<HHQQQ", 1, 24, len(PNG), len(PNG), 2**63 + 5)
    head, name = data[second : second + 46], data[second + 46 : second + 55]
    wide = (
        head[:20] + b"\xff" * 8 + head[28:30] + struct.pack("<H", len(extra)) + head[32:42] + b"\xff" * 4 + name + extra
    )
    size = end - place + len(extra)
    path.write_bytes(data[:second] + wide + data[second + 55 : end + 12] + struct.pack("<I", size) + data[end + 16 :])
    found = contents(path)
    assert isinstance(problem := found.pop("cat/2.png"), Problem) and "beyond the end" in problem.reason
    assert found == {"cat/1.png": PNG, "dog/1.png": PNG}
    for count, size, offset in ((3, 2**63, 0), (3, 2**32 - 2, 0), (2**63, 0, 0), (3, end - place, 2**63)):
        record = zips.END64.pack(b"PK\6\6", count, size, offset)
        path.write_bytes(data[:end] + record + struct.pack("<4sIQI", b"PK\6\7", 0, end, 1) + data[end:])
        assert "central directory" in refusal(path)
    for offset in (2**31, 2**62, 2**63, 2**64 - 1):
        path.write_bytes(data[:end] + struct.pack("<4sIQI", b"PK\6\7", 0, offset, 1) + data[end:])
        assert "Bad offset for zip64 end record" in refusal(path)


def zeros(says: int) -> bytes:
    """A zip of an image that says how large it is, and is 10 GB of zeros: 10 MB of deflate."""
    compressor = zlib.compressobj(9, wbits=-15)
    stretch = compressor.compress(bytes(2**26)) + compressor.flush(zlib.Z_FULL_FLUSH)
    data = stretch * 160 + zlib.compressobj(9, wbits=-15).flush()
    name, extra = b"cat/1.png", struct.pack("<HHQ", 1, 8, says)
    local = b"PK\3\4" + bytes(22) + struct.pack("<HH", len(name), 0) + name
    directory = zips.MEMBER.pack(b"PK\1\2", 0, 8, 0, len(data), zips.IN_EXTRA, len(name), len(extra), 0, 0)
    end = zips.END.pack(b"PK\5\6", 1, len(directory) + len(name) + len(extra), len(local) + len(data), 0)
    return local + data + directory + name + extra + end


@pytest.mark.parametrize(("says", "code"), [(160 * 2**26, "too_large"), (5, "unreadable")])
def test_ten_gigabytes_of_zeros_in_a_zip_are_never_held(tmp_path: Path, says: int, code: str) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(zeros(says))
    tracemalloc.start()
    ((_, problem),) = read(open_source(path))
    assert tracemalloc.get_traced_memory()[1] < 64 * 1024**2  # the 10 MB of the file, and copies
    tracemalloc.stop()
    assert isinstance(problem, Problem) and problem.code == code


def test_a_tar_whose_image_swells_is_read_past(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "LARGEST_FILE", 2**20)
    swollen = tar_header(b"cat/1.png", b"%011o" % 2**24) + bytes(2**24) + tar_header(b"dog/1.png", b"%011o" % 5)
    path = tmp_path / "a.tar"
    path.write_bytes(gzip.compress(swollen + b"hello" + bytes(507)))
    del swollen
    tracemalloc.start()
    found = contents(path)
    assert tracemalloc.get_traced_memory()[1] < 4 * 1024**2
    tracemalloc.stop()
    assert isinstance(problem := found.pop("cat/1.png"), Problem) and problem.code == "too_large"
    assert found == {"dog/1.png": b"hello"}


def test_no_member_of_many_is_kept_in_memory(tmp_path: Path) -> None:
    """Listing a million takes half a minute and as little memory."""
    path, count = tmp_path / "a.zip", 10_000
    with path.open("wb") as file:
        for number in range(count):
            name = b"c%d/%d.png" % (number % 2, number)
            file.write(zips.MEMBER.pack(b"PK\1\2", 0, 0, 0, 0, 0, len(name), 0, 0, 0) + name)
        file.write(zips.END.pack(b"PK\5\6", count, file.tell(), 0, 0))
    tracemalloc.start()
    source = open_source(path)
    assert source.count == count == sum(1 for _ in source.read())
    assert tracemalloc.get_traced_memory()[1] < 1024**2
    tracemalloc.stop()


MEMBERS = {f"c{number % 2}/{number}é.png": bytes([number]) * 50 for number in range(6)}
CHANGES = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(["zip", "w", "w:gz", "w:bz2", "w:xz"]), CHANGES, st.floats(0.01, 1) | st.just(1.0))
@example("w:bz2", [(0.05, 0)], 1.0)
def test_a_damaged_archive_never_ends_in_anything_but_a_line(
    kind: str, changes: list[tuple[float, int]], kept: float
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "archive")
        data = bytearray((zip_of(path, MEMBERS) if kind == "zip" else tar_of(path, MEMBERS, kind)).read_bytes())
        for where, value in changes:
            data[int(where * len(data))] = value
        path.write_bytes(data[: int(len(data) * kept)])
        with suppress(UserError):
            for _, content in read(open_source(path)):
                assert isinstance(content, bytes | Problem)


# Array formats


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_idx(folder: Path, split: str, images: np.ndarray, labels: np.ndarray, zipped: bool = False) -> None:
    folder.mkdir(exist_ok=True)
    for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
        data = idx(array.astype(np.uint8))
        name = f"{split}-{kind}-ubyte"
        (folder / (f"{name}.gz" if zipped else name)).write_bytes(gzip.compress(data) if zipped else data)


RANDOM = np.random.default_rng(5)
IMAGES = RANDOM.integers(0, 256, (7, 4, 6), np.uint8)
LABELS = np.array([0, 1, 10, 2, 0, 1, 2], np.uint8)


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_files(tmp_path: Path, zipped: bool) -> None:
    write_idx(tmp_path, "train", IMAGES, LABELS, zipped)
    write_idx(tmp_path, "t10k", IMAGES[:2], LABELS[:2], not zipped)
    (tmp_path / ".gitignore").touch()
    source = open_source(tmp_path)
    assert source.classes == [str(number) for number in range(11)]
    assert [(item.path, item.label, item.split) for item, _ in source.read()] == [
        *((f"train/{number:05d}", str(label), "train") for number, label in enumerate(LABELS)),
        ("test/00000", "0", "test"), ("test/00001", "1", "test"),
    ]  # fmt: skip
    found = [content for _, content in source.read()]
    np.testing.assert_array_equal(found, [*IMAGES, *IMAGES[:2]])
    assert [item.path for item, _ in source.read(lambda path: path == "test/00001")] == ["test/00001"]


def test_names_for_numbered_classes(tmp_path: Path) -> None:
    write_idx(tmp_path, "train", IMAGES[:2], LABELS[:2])
    source = open_source(tmp_path, ["Trouser", "Bag"])
    assert [item.label for item, _ in source.read()] == source.classes == ["Trouser", "Bag"]
    with pytest.raises(UserError, match="label 1 in train, but only 1 class names"):
        open_source(tmp_path, ["Trouser"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data[:-1], "bytes of data"),
        (lambda data: data + b"x", "bytes of data"),
        (lambda data: data[:10], "not an idx file"),
        (lambda data: b"", "not an idx file"),
        (lambda data: b"\0\0\x0d" + data[3:], "not an idx file"),
        (lambda data: gzip.compress(data)[:-12], "not a whole gzip file"),
        (lambda data: gzip.compress(data)[:-8] + bytes(8), "not a whole gzip file"),
        (lambda data: data[:4] + b"\xff" * 12, "bytes of data"),
        (lambda data: gzip.compress(data[:4] + b"\xff" * 12 + data[16:]), "168 bytes of data"),
        (lambda data: gzip.compress(data + bytes(9)), "more bytes of data"),
        (lambda data: data[:8] + bytes(8), "images without pixels"),
        (lambda data: idx(IMAGES[:3]), "3 images but 7 labels"),
    ],
)
def test_a_damaged_idx_file(tmp_path: Path, change: object, words: str) -> None:
    write_idx(tmp_path, "train", IMAGES, LABELS)
    file = tmp_path / "train-images-idx3-ubyte"
    file.write_bytes(change(file.read_bytes()))
    assert words in refusal(tmp_path)


@pytest.mark.parametrize("kind", ["idx", "end of a tar"])
def test_what_a_small_gzip_file_swells_to_is_not_held(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_idx(tmp_path, "train", IMAGES, LABELS)
    data = (tmp_path / "train-images-idx3-ubyte").read_bytes()
    swollen = gzip.compress((data if kind == "idx" else tar_header(b"cat/1.png")) + bytes(64 * 1024**2))
    path = tmp_path / "train-images-idx3-ubyte" if kind == "idx" else tmp_path / "a.tar"
    path.write_bytes(swollen)
    monkeypatch.setattr(tars, "MOST_AFTER_THE_END", 8 * 1024**2)
    tracemalloc.start()
    assert ("more bytes" if kind == "idx" else "more than 8 MB after") in refusal(path if kind != "idx" else tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 16 * 1024**2
    tracemalloc.stop()


def test_idx_images_without_labels(tmp_path: Path) -> None:
    write_idx(tmp_path, "train", IMAGES, LABELS)
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    assert "a file of labels beside it" in refusal(tmp_path)
    write_idx(tmp_path, "train", IMAGES[:0], LABELS[:0])
    assert "holds no images" in refusal(tmp_path)


def cifar(images: np.ndarray, labels: np.ndarray) -> bytes:
    """Records of a label and the red, green and blue plane, as CIFAR-10's page describes them."""
    return b"".join(
        bytes([label]) + b"".join(image[:, :, channel].tobytes() for channel in range(3))
        for image, label in zip(images, labels.tolist(), strict=True)
    )


def test_cifars_binary_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = RANDOM.integers(0, 256, (7, 32, 32, 3), np.uint8)
    batches = "cifar-10-batches-bin"
    members = {
        f"{batches}/batches.meta.txt": b"airplane\nautomobile\nbird\n\n",
        f"{batches}/data_batch_2.bin": cifar(images[2:4], LABELS[3:5]),  # not in order
        f"{batches}/data_batch_1.bin": cifar(images[:2], LABELS[:2]),
        f"{batches}/test_batch.bin": cifar(images[4:], LABELS[4:]),
        f"{batches}/readme.html": b"<html>",
    }
    path = tar_of(tmp_path / "cifar-10-binary.tar.gz", members)
    source = open_source(tmp_path)
    assert source.classes == ["airplane", "automobile", "bird"]
    expected = [0, 1, 2, 0, 0, 1, 2]
    assert [item.label for item, _ in source.read()] == [source.classes[label] for label in expected]
    assert [item.path for item, _ in source.read()][3:5] == ["train/00003", "test/00000"]
    np.testing.assert_array_equal([content for _, content in source.read()], images)

    tar_of(path, {**members, f"{batches}/test_batch.bin": bytes(3000)})
    assert "expected whole records" in refusal(path)
    tar_of(path, {name: data for name, data in members.items() if "meta" not in name})
    assert "batches.meta.txt" in refusal(path)
    tar_of(path, {**members, f"{batches}/batches.meta.txt": b"</script><script>alert(1)</script> automobile bird"})
    assert "a class name in batches.meta.txt holds a slash" in refusal(path)
    tar_of(path, {**members, f"{batches}/test_batch.bin": bytes([9]) + bytes(3072)})
    assert "label 9 in test, but only 3 class names" in refusal(path)
    monkeypatch.setattr(arrays, "LARGEST_CIFAR", 20_000)
    tar_of(path, {**members, f"{batches}/test_batch.bin": bytes(30_000)})
    assert "more than 20000 bytes" in refusal(path)
