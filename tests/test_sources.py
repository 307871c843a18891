"""Where images come from: folders, zip, tar, idx files, CIFAR-10's binary; what a path says of class and split."""

from __future__ import annotations

import gzip
import io
import os
import struct
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import class_folders, picture
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.console import UserError
from pipeline.images import stored, zips
from pipeline.images.items import Entry, Item, Listing, sort_classes
from pipeline.images.sources import Source, open_source
from pipeline.images.stored import Problem, Read, read_all


def png(seed: int = 0) -> bytes:
    stream = io.BytesIO()
    picture(seed).save(stream, "PNG")
    return stream.getvalue()


PNG = png()


def zip_of(path: Path, members: dict[str, bytes] | list[tuple[str, bytes]], **options: int) -> Path:
    with zipfile.ZipFile(path, "w", **options) as archive:
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
        # hidden files, macOS's shadows
        (
            ["in/cat/1.png", "in/dog/1.png", "__MACOSX/in/cat/._1.png", "in/cat/.x.png", "in/.git/x/1.png"],
            [("cat", None), ("dog", None), (None, None), (None, None), (None, None)],
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


@given(st.dictionaries(NAMES, st.integers(1, 3), min_size=2, max_size=5), st.lists(NAMES, max_size=2), st.randoms())
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


def test_links_and_what_is_no_file(tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "in", {"cat": 1, "dog": 1})
    cached = tmp_path / "cache/files/md5/ab" / ("0123456789" * 3)
    cached.parent.mkdir(parents=True)
    cached.write_bytes(png(8))
    (tmp_path / "secret.png").write_bytes(png(9))
    links = {
        "inside": "000.png", "dangling": "nowhere.png", "loop": "loop.png", "outside": tmp_path / "secret.png",
        "up": "../../secret.png", "cached": cached, "device": "/dev/zero",
    }  # fmt: skip
    for name, target in links.items():
        (folder / "cat" / f"{name}.png").symlink_to(target)
    (folder / "cat" / "elsewhere").symlink_to(tmp_path)  # to a folder, which holds this one: a loop too
    os.mkfifo(folder / "cat" / "pipe.png")

    found = contents(folder)
    assert found.pop("cat/inside.png") == found.pop("cat/000.png") == (folder / "cat/000.png").read_bytes()
    assert found.pop("cat/cached.png") == png(8)
    assert found.pop("dog/000.png") == (folder / "dog/000.png").read_bytes()
    assert {path: content.code for path, content in found.items() if isinstance(content, Problem)} == {
        "cat/dangling.png": "unreadable", "cat/loop.png": "unreadable", "cat/outside.png": "unreadable",
        "cat/up.png": "unreadable", "cat/device.png": "unreadable", "cat/elsewhere": "unreadable",
        "cat/pipe.png": "not_an_image",
    }  # fmt: skip
    assert len(found) == 7


@pytest.mark.parametrize("damaged", ["ab/0123", "abc/012345678901234567890123456789", "zz/" + "0" * 30])
def test_only_dvcs_cache_may_lie_outside(tmp_path: Path, damaged: str) -> None:
    folder = class_folders(tmp_path / "in", {"cat": 1})
    target = tmp_path / "files/md5" / damaged
    target.parent.mkdir(parents=True)
    target.write_bytes(PNG)
    (folder / "cat/x.png").symlink_to(target)
    assert isinstance(contents(folder)["cat/x.png"], Problem)


def test_a_whole_folder_that_dvc_linked(tmp_path: Path) -> None:
    class_folders(tmp_path / "real", {"cat": 1, "dog": 1})
    (tmp_path / "in").symlink_to(tmp_path / "real")
    assert contents(tmp_path / "in") == contents(tmp_path / "real")


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
    source = open_source(tar_of(tmp_path / "images", members, mode))
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


def test_the_one_archive_of_a_folder(tmp_path: Path) -> None:
    zip_of(tmp_path / "kaggle.zip", {"cat/1.png": PNG, "dog/1.png": png(1)})
    (tmp_path / ".gitignore").write_text("/kaggle.zip\n")
    assert contents(tmp_path) == {"cat/1.png": PNG, "dog/1.png": png(1)}


def test_a_folder_of_one_image_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(PNG)
    assert contents(tmp_path) == {"1.png": PNG}


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
    members = {"../../up/1.png": PNG, "/etc/1.png": PNG, "cat/1.png": PNG, "dog/1.png": PNG}
    (tmp_path / "in").mkdir()
    before = sorted(tmp_path.rglob("*"))
    for path in (zip_of(tmp_path / "in/a.zip", members), tar_of(tmp_path / "in/a.tar", members)):
        found = contents(path)
        assert len(found) == 4 and set(found.values()) == {PNG}
        path.unlink()
    assert sorted(tmp_path.rglob("*")) == before


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
        for name, kind, target in [
            ("cat", tarfile.DIRTYPE, ""), ("cat/link.png", tarfile.SYMTYPE, "/etc/passwd"),
            ("cat/hard.png", tarfile.LNKTYPE, "cat/1.png"), ("cat/pipe.png", tarfile.FIFOTYPE, ""),
            ("cat/zero.png", tarfile.CHRTYPE, ""), ("cat/folder.png", tarfile.DIRTYPE, ""),
        ]:  # fmt: skip
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
    tar_of(path, {"cat/1.png": PNG, "dog/1.png": PNG}, "a")
    found = contents(path)
    assert {path for path, content in found.items() if isinstance(content, Problem)} == {
        "cat/link.png", "cat/hard.png", "cat/pipe.png", "cat/zero.png", "cat/folder.png"
    }  # fmt: skip
    assert (found["cat/1.png"], found["dog/1.png"], len(found)) == (PNG, PNG, 7)


def bad_sources(folder: Path) -> Iterator[tuple[str, str, bytes]]:
    members = {f"{label}/{number}.png": png(number) for label in ("cat", "dog") for number in range(20)}
    whole_zip = zip_of(folder / "w", members).read_bytes()
    whole_tar = tar_of(folder / "w", members, "w").read_bytes()
    whole_gz = tar_of(folder / "w", members, "w:gz").read_bytes()
    yield "a.zip", "not a whole", whole_zip[:-30]
    yield "a.zip", "not a whole", whole_zip[: len(whole_zip) // 2]
    yield "a.zip", "not a whole", b"<!DOCTYPE html>"
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
        (lambda data: data[:8] + bytes(8), "images without pixels"),
        (lambda data: idx(IMAGES[:3]), "3 images but 7 labels"),
    ],
)
def test_a_damaged_idx_file(tmp_path: Path, change: object, words: str) -> None:
    write_idx(tmp_path, "train", IMAGES, LABELS)
    file = tmp_path / "train-images-idx3-ubyte"
    file.write_bytes(change(file.read_bytes()))  # type: ignore[operator]
    assert words in refusal(tmp_path)


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


def test_cifars_binary_version(tmp_path: Path) -> None:
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
    tar_of(path, {**members, f"{batches}/test_batch.bin": bytes([9]) + bytes(3072)})
    assert "label 9 in test, but only 3 class names" in refusal(path)
