"""Archives in folders: read as what unpacking them would make, or named in one line."""

from __future__ import annotations

import io
import os
import re
import struct
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import Project, failed_in_one_line, picture, refusal
from samples import replaced

from pipeline import check
from pipeline.images.items import Item
from pipeline.images.sources import open_source
from pipeline.images.stored import Problem, read_all


def png(seed: int) -> bytes:
    stream = io.BytesIO()
    picture(seed).save(stream, "PNG")
    return stream.getvalue()


def archive(path: Path, names: list[str]) -> None:
    """A zip or tar of pictures, no two of which are the same, and of other files."""
    members = {name: png(hash((path.name, name)) % 2**32) if name.endswith(".png") else b"words" for name in names}
    if path.suffix.lower() == ".zip":
        with zipfile.ZipFile(path, "w") as zipped:
            for name, content in members.items():
                zipped.writestr(name, content)
        return
    with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as tarred:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            info.size = 0 if name.endswith("/") else len(content)
            tarred.addfile(info, io.BytesIO(content))


def make(folder: Path, layout: dict[str, list[str]]) -> Path:
    """Archives, by name with their members; a name that is no archive's is a file by itself."""
    for name, members in layout.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if members:
            archive(folder / name, members)
        else:
            (folder / name).write_bytes(png(len(name)) if name.endswith(".png") else b"words")
    return folder


def items(place: Path) -> list[Item]:
    source = open_source(place)
    found = list(source.read())
    assert len(found) == source.count
    assert all(isinstance(content, bytes) for content in read_all(content for _, content in found))
    return [item for item, _ in found]


def test_two_zips_through_check(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cats", "dogs"):
        make(project.root / "in", {f"{name}.zip": [f"{name}/{number}.png" for number in range(5)]})
    project.dataset("photos", "in")
    project.command("check")
    monkeypatch.chdir(project.root)
    check.main("photos")
    rows = pq.read_table("data/checked/photos.parquet").to_pylist()
    assert Counter((row["label"], row["status"]) for row in rows) == {("cats", "ok"): 5, ("dogs", "ok"): 5}
    assert rows[0]["path"] == "cats/0.png"


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        (  # a folder for each class inside, or none
            {"cats.zip": ["cats/1.png", "cats/2.png"], "dogs.tar.gz": ["1.png", "deep/2.png", "README"]},
            {"cats/1.png": "cats", "cats/2.png": "cats", "dogs/1.png": "dogs", "dogs/deep/2.png": "dogs"},
        ),
        (  # as ImageNet is published
            {"n01440764.tar": ["1.png"], "n01443537.tar": ["1.png"], "n01484850.TAR": ["1.png"]},
            {f"{name}/1.png": name for name in ("n01440764", "n01443537", "n01484850")},
        ),
        (  # parts of one folder, as a cloud's drive makes them
            {"photos-001.zip": ["photos/cat/1.png"], "photos-002.zip": ["photos/cat/2.png", "photos/dog/1.png"]},
            {"photos/cat/1.png": "cat", "photos/cat/2.png": "cat", "photos/dog/1.png": "dog"},
        ),
        (
            {"train.zip": ["cat/1.png", "dog/1.png"], "test.zip": ["cat/1.png", "dog/1.png"], "README.txt": []},
            {"train/cat/1.png": "cat train", "train/dog/1.png": "dog train", "test/cat/1.png": "cat test",
             "test/dog/1.png": "dog test"},
        ),
        (
            {"train.zip": ["train/cat/1.png", "train/dog/1.png"], "valid.tgz": ["cat/1.png", "dog/1.png"]},
            {"train/cat/1.png": "cat train", "train/dog/1.png": "dog train", "valid/cat/1.png": "cat val",
             "valid/dog/1.png": "dog val"},
        ),
        (  # one archive, with what is no image beside it
            {"kaggle.zip": ["cat/1.png", "dog/1.png"], "LICENSE": [], "labels.csv": [], ".gitignore": []},
            {"cat/1.png": "cat", "dog/1.png": "dog"},
        ),
        ({"kaggle.zip": ["cat/1.png", "dog/1.png"], ".gitignore": []}, {"cat/1.png": "cat", "dog/1.png": "dog"}),
    ],
)  # fmt: skip
def test_archives_beside_each_other(tmp_path: Path, layout: dict[str, list[str]], expected: dict[str, str]) -> None:
    folder = make(tmp_path / "in", layout)
    found = {item.path: item for item in items(folder)}
    files = [name for members in layout.values() for name in members]
    visible = [name for name, members in layout.items() if not members and not name.startswith(".")]
    assert len(found) == len(files) + len(visible)
    labels = {
        path: f"{item.label or ''} {item.split or ''}".strip()
        for path, item in found.items()
        if path.endswith(".png")
    }  # fmt: skip
    assert labels == expected
    (folder / ("kaggle.zip" if "kaggle.zip" in layout else next(iter(layout)))).with_name("more.txt").write_text("x")
    assert len(items(folder)) == len(found) + 1


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        # parts of a set, or classes?
        ({"part1.zip": ["cat/1.png", "dog/1.png"], "part2.zip": ["cat/2.png", "dog/2.png"]}, "part1.zip, part2.zip"),
        (
            {"cats.zip": ["images/1.png"], "dogs.zip": ["images/1.png"]},
            "2 archives, whose folders may be parts or classes",
        ),
        ({"images-1.zip": ["a/1.png", "b/1.png"], "images-2.zip": ["c/1.png", "d/1.png"]}, "may be parts or classes"),
        # beside images, and in folders
        ({"pets.zip": ["cat/1.png"], "cat/1.png": [], "dog/1.png": []}, "pets.zip is an archive among other files"),
        ({"pets.zip": ["cat/1.png"], "1.png": []}, "pets.zip is an archive among other files"),
        ({"train/cats.zip": ["1.png"], "train/dogs.zip": ["1.png"], "test/cats.zip": ["1.png"]}, "test/cats.zip is an"),
        ({"cat/1.png": [], "dog/more.tar.gz": ["1.png"]}, "dog/more.tar.gz is an archive among other files"),
        ({"cat/1.png": [], "dog.7z": []}, "dog.7z is an archive among other files"),
        ({"cat/1.png": [], "rest.tar.gz.ab": []}, "rest.tar.gz.ab is an archive among other files"),
        *(
            ({"cat/1.png": [], f"dog{suffix}": []}, f"dog{suffix} is an archive among other files")
            for suffix in (
                ".gz",
                ".nii.gz",
                ".ppm.bz2",
                ".zipx",
                ".cab",
                ".ISO",
                ".cbz",
                ".lzh",
                ".zip.crdownload",
                ".tar.gz.part",
                ".tgz.download",
                ".7z.001.part",
            )
        ),
        ({"cats.zip": ["cats/1.png"], "dogs.zip.crdownload": ["dogs/1.png"]}, "crdownload is a download that has not"),
        ({"cats.tar.part": ["cats/1.png"]}, "cats.tar.part is a download that has not ended; expected a whole archive"),
        # of kinds that are not read, or without anything
        ({"cats.zip": ["cats/1.png"], "dogs.rar": []}, "dogs.rar: not a whole zip or tar archive"),
        ({"cats.zip": ["cats/1.png"], "dogs.tar": ["dogs/"]}, "dogs.tar is empty"),
        # archives in archives
        ({"competition.zip": ["train.zip", "test.zip", "sample.csv"]}, "competition.zip: train.zip is an archive"),
        ({"competition.tar": ["cat/1.png", "dog/more.part.rar"]}, "competition.tar: dog/more.part.rar is an archive"),
    ],
)
def test_archives_that_are_not_read_are_named(tmp_path: Path, layout: dict[str, list[str]], words: str) -> None:
    assert words in refusal(make(tmp_path / "in", layout))


def test_compressed_tables_beside_images_are_no_archives(tmp_path: Path) -> None:
    names = ["labels.csv.gz", "boxes.json.xz", "lines.jsonl.zst", "README.TXT.bz2", "train.part", "notes.download"]
    source = open_source(make(tmp_path / "in", {name: [] for name in ("cat/1.png", "dog/1.png", *names)}))
    assert source.per_class == {"cat": 1, "dog": 1, None: len(names)}
    make(tmp_path / "zipped", {"cats.zip": ["1.png"], "dogs.zip": ["1.png"], "labels.csv.gz": []})
    assert open_source(tmp_path / "zipped").per_class == {"cats": 1, "dogs": 1, None: 1}


def test_an_archive_that_is_not_read_stops_the_stage(project: Project) -> None:
    make(project.root / "in", {"cat/1.png": [], "dog/1.png": [], "more.zipx": []})
    project.dataset("photos", "in")
    failed_in_one_line(project.run("check", "photos"), "in: more.zipx is an archive among other files", "unpack it")


def test_a_folder_named_as_an_archive_is_a_folder(tmp_path: Path) -> None:
    make(tmp_path / "in", {"cat.zip/1.png": [], "dog.zip/1.png": []})
    assert {item.label for item in items(tmp_path / "in")} == {"cat.zip", "dog.zip"}


def test_an_archive_past_the_first_files_of_a_folder(tmp_path: Path) -> None:
    """Only so many are looked at to find out what a folder holds."""
    make(tmp_path / "in", {f"{number}.zip": [f"{number}/1.png"] for number in range(120)})
    assert len(items(tmp_path / "in")) == 120
    make(tmp_path / "in", {"cat/1.png": []})
    assert "is an archive among other files" in refusal(tmp_path / "in")


def test_an_archive_past_other_files(tmp_path: Path) -> None:
    folder = make(tmp_path / "in", {f"{number}.xml": [] for number in range(120)})
    for number in range(20):  # whichever of them the disk lists first
        make(folder, {f"{number}.zip": [f"{number}/1.png"]})
    assert {item.label for item in items(folder)} == {*map(str, range(20)), None}


def test_a_pipe_is_never_opened(tmp_path: Path) -> None:
    folder = make(tmp_path / "in", {"cats.zip": ["cats/1.png"], "dogs.zip": ["dogs/1.png"]})
    os.mkfifo(folder / "notes")
    (content,) = (content for item, content in open_source(folder).read() if item.path == "notes")
    assert content == Problem("not_an_image", "not a regular file")
    os.mkfifo(folder / "cows.zip")
    assert refusal(folder) == f"{folder / 'cows.zip'} is not a regular file; expected an archive"


def test_folders_that_are_named_as_images(tmp_path: Path) -> None:
    """As slides are that were cut into tiles; a tar has a member for each."""
    names = [
        "a/",
        "a/1.tif/",
        "a/1.tif/0.png",
        "a/1.tif/1.png",
        "b/",
        "b/2.png",
        "b/3.png/",
        "b/4.png/",
        "b/4.png/.keep",
    ]
    archive(tmp_path / "tiles.tar", names)
    found = {item.path: content for item, content in open_source(tmp_path / "tiles.tar").read()}
    rows = {"a/1.tif/0.png", "a/1.tif/1.png", "b/2.png", "b/3.png", "b/4.png", "b/4.png/.keep"}
    assert set(found) == rows
    for empty in ("b/3.png", "b/4.png"):
        (read,) = read_all([found[empty]])
        assert read == Problem("not_an_image", "not a regular file (a folder)")


def test_a_zip_of_more_than_4_gb_by_macos(tmp_path: Path) -> None:
    """Its offsets have 32 bits and begin anew; what is between the first two members here is a hole."""
    archive(tmp_path / "a.zip", ["cat/1.png", "dog/1.png", "dog/2.png"])
    data = (tmp_path / "a.zip").read_bytes()
    second, directory, end = data.index(b"PK\3\4", 1), data.index(b"PK\1\2"), data.index(b"PK\5\6")
    hole = (1 << 32) - 100 - second
    with (tmp_path / "large.zip").open("wb") as file:
        file.write(data[:second])
        file.seek(hole, os.SEEK_CUR)
        file.write(data[second:directory])
        entries = data[directory:end]
        for at in (match.start() for match in re.finditer(b"PK\1\2", entries)):
            (offset,) = struct.unpack_from("<I", entries, at + 42)
            if offset:
                entries = replaced(entries, at + 42, struct.pack("<I", (offset + hole) % (1 << 32)))
        file.write(entries)
        file.write(replaced(data[end:], 16, struct.pack("<I", (directory + hole) % (1 << 32))))
    found = {item.path: content for item, content in open_source(tmp_path / "large.zip").read()}
    assert list(read_all(found.values())) == list(read_all(c for _, c in open_source(tmp_path / "a.zip").read()))


@pytest.mark.parametrize(
    ("name", "beginning", "words"),
    [
        ("a.7z", b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
        ("a.rar", b"Rar!\x1a\x07\x01\0", "a RAR archive"),
        ("a.tar.zst", b"\x28\xb5\x2f\xfd\x04", "compressed by zstd"),
        ("a.tar.lz4", b"\x04\x22\x4d\x18", "compressed by lz4"),
        ("a.tar.Z", b"\x1f\x9d\x90", "compressed by compress"),
        ("a.z01", b"PK\7\x08PK\3\4", "a part of a split zip"),
        ("a.zip", b"7z\xbc\xaf\x27\x1c", "a 7z archive"),  # whatever its name says
    ],
)
@pytest.mark.parametrize("inside", [True, False])
def test_archives_of_other_kinds(tmp_path: Path, name: str, beginning: bytes, words: str, inside: bool) -> None:
    path = tmp_path / "in" / name
    path.parent.mkdir()
    path.write_bytes(beginning + bytes(600))
    assert refusal(path.parent if inside else path).startswith(f"{path} is {words}, which is not read")


def test_a_zip_that_is_split_or_locked(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    archive(project.root / "a.zip", ["cat/1.png", "dog/1.png"])
    data = bytearray((project.root / "a.zip").read_bytes())
    end = data.rfind(b"PK\5\6")
    split = bytearray(data)
    split[end + 4 : end + 8] = struct.pack("<HH", 2, 2)  # this is the third part
    (project.root / "split.zip").write_bytes(split)
    (project.root / "001.zip.001").write_bytes(data[: len(data) // 2])
    encrypted, deflated64 = bytearray(data), bytearray(data)
    for magic, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = -1
        while (at := data.find(magic, at + 1)) >= 0:
            encrypted[at + flags] |= 1
            deflated64[at + flags + 2] = 9
    (project.root / "locked.zip").write_bytes(encrypted)
    (project.root / "windows.zip").write_bytes(deflated64)
    monkeypatch.chdir(project.root)
    for name, words in {
        "split.zip": "split.zip: not a whole zip or tar archive (the last of 3 parts of a split zip: zip -s 0 joins",
        "001.zip.001": "001.zip.001 is a part of a split archive; expected a whole one: join its parts with cat",
        "locked.zip": "locked.zip: all 2 files in it are encrypted: unpack it, or zip it anew",
        "windows.zip": "windows.zip: all 2 files in it are compressed by method 9 of zip, which is not read",
    }.items():
        assert words in refusal(Path(name))
    project.dataset("photos", "locked.zip")
    failed_in_one_line(project.run("check", "photos"), "all 2 files in it are encrypted")


def test_links_beside_archives(tmp_path: Path) -> None:
    folder = make(tmp_path / "in", {"cats.zip": ["pets/cats/1.png"]})
    make(tmp_path, {"dogs.zip": ["dogs/1.png"]})
    (folder / "more.zip").symlink_to("cats.zip")
    assert [item.path for item in items(folder)] == ["pets/cats/1.png", "pets/cats/1.png#2"]
    (folder / "dogs.zip").symlink_to(tmp_path / "dogs.zip")
    assert "in/dogs.zip is a link out of the data set" in refusal(folder)
    (folder / "cats.zip").unlink()
    (folder / "more.zip").unlink()
    assert "in/dogs.zip is a link out of the data set" in refusal(folder)
