"""The stage `check`: a row for every file, a verdict for each, and nothing that one bad image can stop."""

from __future__ import annotations

import errno
import io
import json
import operator
import os
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import REPOSITORY, Project, class_folders, failed_in_one_line, outputs, picture, run
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from samples import bit_flipped

from pipeline.checking import metadata, properties
from pipeline.checking.inspected import Inspected
from pipeline.images.items import Item
from pipeline.images.sources import open_source
from pipeline.system import memory, workers
from pipeline.system.console import UserError
from pipeline.system.memory import MOST_MEMORY, MOST_PIXELS
from pipeline.system.workers import pool
from pipeline.system.workers.pool import cores

COLUMNS = [
    "path", "label", "official_split", "width", "height", "mode", "format", "bytes", "camera", "sha256",
    "phash", "pixel_hash", "brightness", "contrast", "sharpness", "color", "group", "listed_group", "status",
    "issues", "reason",
]  # fmt: skip


NEVER = {"brightness": None, "contrast": None, "sharpness": None, "size": None, "aspect_ratio": None, "color": 0}


class Checked(NamedTuple):
    rows: dict[str, dict[str, Any]]
    classes: list[str]
    summary: dict[str, Any]
    root: Path


def checked(project: Project, name: str) -> Checked:
    """What `check` left behind."""
    table = pq.read_table(project.root / f"data/checked/{name}.parquet")
    assert table.column_names == COLUMNS
    rows = table.to_pylist()
    by_path = {row["path"]: row for row in rows}
    assert len(by_path) == len(rows)
    classes = json.loads(table.schema.metadata[b"classes"])
    summary = json.loads((project.root / f"reports/{name}/check.json").read_text())
    return Checked(by_path, classes, summary, project.root)


def no_output(project: Project) -> None:
    assert not [path for top in ("data", "reports") for path in (project.root / top).rglob("*") if path.is_file()]


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def photo(seed: int) -> Image.Image:
    return picture(seed, 40, 50).resize((200, 160))


def with_orientation(value: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = value
    return encoded(photo(30 + value), "JPEG", exif=exif)


def png_of_any_size(width: int, height: int) -> bytes:
    """A PNG that claims any size in a few bytes."""
    chunks = {b"IHDR": struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT": zlib.compress(b""), b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks.items()
    )


def flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 0x55]) + data[position + 1 :]


JPEG, PNG = encoded(photo(1), "JPEG"), encoded(photo(2), "PNG")

# Files of one class, and what check must find in each: status, issues, a word of the reason
ZOO: dict[str, tuple[bytes, str, list[str], str]] = {
    "good.jpg": (JPEG, "ok", [], ""),
    "good.JPEG": (encoded(photo(3), "JPEG"), "ok", [], ""),
    "good.png": (PNG, "ok", [], ""),
    "good.gif": (encoded(photo(4).convert("L"), "GIF"), "warning", ["unexpected_mode"], ""),
    "good.webp": (encoded(photo(5), "WEBP"), "ok", [], ""),
    "good.tif": (encoded(photo(6), "TIFF"), "ok", [], ""),
    "good.ppm": (encoded(photo(7), "PPM"), "ok", [], ""),
    "good.bmp": (encoded(photo(8), "BMP"), "ok", [], ""),
    "one_pixel.png": (encoded(picture(9, 1, 1), "PNG"), "warning", ["blank"], ""),
    "thin.png": (encoded(picture(10, 1, 3000), "PNG"), "ok", [], ""),
    "no suffix": (encoded(photo(11), "PNG"), "ok", [], ""),
    "upright.jpg": (with_orientation(1), "ok", [], ""),
    "orientation_99.jpg": (with_orientation(99), "warning", ["corrupt_exif"], ""),
    "broken_exif.jpg": (encoded(photo(12), "JPEG", exif=b"Exif\0\0garbage"), "warning", ["corrupt_exif"], ""),
    "rotated.jpg": (with_orientation(6), "warning", ["exif_rotated"], ""),
    "mirrored.jpg": (with_orientation(2), "warning", ["exif_rotated"], ""),
    "png_named.jpg": (encoded(photo(13), "PNG"), "warning", ["format_mismatch"], ""),
    "jpeg_named.png": (encoded(photo(14), "JPEG"), "warning", ["format_mismatch"], ""),
    "cmyk.jpg": (encoded(photo(15).convert("CMYK"), "JPEG"), "warning", ["unexpected_mode"], ""),
    "alpha.png": (encoded(photo(16).convert("RGBA"), "PNG"), "warning", ["unexpected_mode"], ""),
    "palette.png": (encoded(photo(17).convert("P"), "PNG"), "warning", ["unexpected_mode"], ""),
    "empty.jpg": (b"", "quarantined", ["empty_file"], "0 bytes"),
    "text.jpg": (b"not found", "quarantined", ["not_an_image"], ""),
    "page.png": (b"<!DOCTYPE html><html>", "quarantined", ["not_an_image"], ""),
    "svg.png": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "quarantined", ["not_an_image"], ""),
    "postscript.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "quarantined", ["not_an_image"], ""),
    "random.jpg": (np.random.default_rng(1).bytes(5000), "quarantined", ["not_an_image"], ""),
    "magic.jpg": (b"\xff\xd8", "quarantined", ["truncated"], "header"),
    "cut.jpg": (JPEG[: len(JPEG) // 2], "quarantined", ["truncated"], "end-of-image"),
    "cut_at_the_end.jpg": (JPEG[:-2], "quarantined", ["truncated"], "end-of-image"),
    "cut.png": (PNG[: len(PNG) // 2], "quarantined", ["truncated"], "chunk IDAT"),
    "no_end.png": (PNG[:-12], "quarantined", ["truncated"], "IEND"),
    "checksum.png": (flipped(PNG, len(PNG) // 2), "quarantined", ["corrupt"], "checksum"),
    "lab.tif": (encoded(photo(18).convert("LAB"), "TIFF"), "warning", ["unexpected_mode"], ""),
    "big_bomb.png": (png_of_any_size(60_000, 60_000), "quarantined", ["too_large"], "pixels"),
    "Thumbs.db": (b"\xd0\xcf\x11\xe0" + bytes(300), "quarantined", ["not_an_image"], ""),
    ".DS_Store": (b"\0\0\0\1Bud1", "quarantined", ["not_an_image"], ""),
    "._good.jpg": (b"\0\5\x16\7" + bytes(90), "quarantined", ["not_an_image"], ""),
    ".hidden.png": (encoded(photo(19), "PNG"), "quarantined", ["no_label"], "hidden"),
    "copy_of_hidden.png": (encoded(photo(19), "PNG"), "ok", [], ""),
    "copy 1.png": (encoded(photo(20), "PNG"), "warning", ["exact_duplicate"], ""),
    "copy 2.jpg": (encoded(photo(20), "PNG"), "warning", ["format_mismatch", "exact_duplicate"], ""),
    "both.png": (encoded(photo(21), "PNG"), "warning", ["exact_duplicate", "label_conflict"], ""),
    "deep/folder.jpg/x.png": (encoded(photo(22), "PNG"), "ok", [], ""),
}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Checked:
    """One run of check over a folder with everything that can be wrong with a file."""
    project = Project(tmp_path_factory.mktemp("zoo"))
    folder = class_folders(project.root / "in", {"dog": 12})
    for name, (content, *_) in ZOO.items():
        (folder / "cat" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "cat" / name).write_bytes(content)
    (folder / "dog/both.png").write_bytes(ZOO["both.png"][0])
    (folder / "loose.png").write_bytes(encoded(photo(40), "PNG"))
    (folder / "notes.txt").write_text("some notes")
    (folder / "__MACOSX/cat").mkdir(parents=True)
    (folder / "__MACOSX/cat/._good.jpg").write_bytes(b"\0\5\x16\7")
    (folder / "cat/link.png").symlink_to("nowhere.png")
    os.mkfifo(folder / "cat/pipe.png")
    Path(os.fsdecode(os.fsencode(folder) + b"/cat/caf\xe9\n.png")).write_bytes(encoded(photo(41), "PNG"))
    project.dataset("photos", "in", max_quarantined=1, outliers=NEVER)
    project.must_run("check", "photos")
    return checked(project, "photos")


in_the_zoo = pytest.mark.xdist_group("zoo")  # in one process: its fixture is made once


@in_the_zoo
@pytest.mark.parametrize("name", ZOO)
def test_the_verdict_on_every_kind_of_file(zoo: Checked, name: str) -> None:
    content, status, issues, word = ZOO[name]
    row = zoo.rows[f"cat/{name}"]
    assert (row["status"], row["issues"]) == (status, issues), row
    assert row["bytes"] == len(content)
    decodes = not {"unreadable", "truncated", "corrupt", "not_an_image", "empty_file", "too_large"}.intersection(issues)
    assert decodes == (row["width"] is not None) == (row["phash"] is not None) == (row["mode"] is not None)
    assert word in (row["reason"] or "") and (row["reason"] is None) == (status != "quarantined")


@in_the_zoo
def test_metadata_of_a_good_image(zoo: Checked) -> None:
    row = zoo.rows["cat/good.jpg"]
    assert (row["label"], row["official_split"], row["width"], row["height"]) == ("cat", None, 200, 160)
    assert (row["mode"], row["format"], len(row["sha256"]), len(row["phash"])) == ("RGB", "JPEG", 64, 16)
    assert (zoo.rows["cat/rotated.jpg"]["width"], zoo.rows["cat/rotated.jpg"]["height"]) == (200, 160)  # as stored


@in_the_zoo
def test_every_file_has_a_row_and_keeps_its_place(zoo: Checked) -> None:
    others = {
        "cat/link.png": ["unreadable"], "cat/pipe.png": ["not_an_image"], "loose.png": ["no_label"],
        "notes.txt": ["not_an_image"], "__MACOSX/cat/._good.jpg": ["not_an_image"], "cat/caf\\xe9\n.png": [],
        "dog/both.png": ["exact_duplicate", "label_conflict"],
    }  # fmt: skip
    assert {path: zoo.rows[path]["issues"] for path in others} == others
    dogs = {f"dog/{number:03d}.png" for number in range(12)}
    assert set(zoo.rows) == {f"cat/{name}" for name in ZOO} | others.keys() | dogs
    assert all(zoo.rows[dog]["status"] == "ok" and zoo.rows[dog]["label"] == "dog" for dog in dogs)
    assert zoo.rows["loose.png"]["label"] is None and zoo.classes == ["cat", "dog"]


@in_the_zoo
def test_the_report_counts_what_the_table_holds(zoo: Checked) -> None:
    table = pd.DataFrame(zoo.rows.values())
    summary = zoo.summary
    assert summary["files"] == len(table)
    assert summary["status"] == {name: (table.status == name).sum() for name in ("ok", "warning", "quarantined")}
    assert summary["issues"] == Counter(issue for issues in table.issues for issue in issues)
    usable = table[table.status != "quarantined"]
    assert summary["classes"] == {label: (usable.label == label).sum() for label in ("cat", "dog")}
    for side in ("width", "height"):
        described = table[side].dropna().astype(float).describe()
        assert (
            list(summary[side]) == ["count", "mean", "std", "min", "25%", "50%", "75%", "max"] == list(described.index)
        )
        np.testing.assert_allclose(list(summary[side].values()), described, atol=1e-6)
    assert summary["width"]["std"] > 100


@in_the_zoo
def test_pictures_for_people(zoo: Checked) -> None:
    report = zoo.root / "reports/photos"
    sheets = sorted(path.name for path in (report / "contact_sheets").iterdir())
    assert sheets == ["000-cat.png", "001-dog.png"]
    for sheet in sheets:
        with Image.open(report / "contact_sheets" / sheet) as image:
            assert np.asarray(image).std() > 10  # not blank
    assert not list(zoo.root.rglob(".*.partial"))


def test_a_contact_sheet_shows_an_image_upright(project: Project) -> None:
    folder = project.root / "in"
    for label in ("a", "b"):
        (folder / label).mkdir(parents=True)
        left_red = Image.new("RGB", (96, 96), "blue")
        left_red.paste("red", (0, 0, 48, 96))
        exif = Image.Exif()
        exif[0x0112] = 6  # turn it a quarter to the right: red comes to the top
        left_red.save(folder / label / "1.jpg", quality=95, exif=exif)
    project.dataset("photos", "in")
    project.must_run("check", "photos")
    with Image.open(project.root / "reports/photos/contact_sheets/000-a.png") as sheet:
        top, bottom = np.asarray(sheet)[10, 50], np.asarray(sheet)[90, 50]
    assert top[0] > 200 > 60 > top[2] and bottom[2] > 200 > 60 > bottom[0]


def test_odd_class_names(project: Project) -> None:
    names = ["10", "9", "a/b".replace("/", "∕"), "c" * 250, "..x", "日本", "with space"]
    class_folders(project.root / "in", dict.fromkeys(names, 2))
    project.dataset("photos", "in")
    project.must_run("check", "photos")
    result = checked(project, "photos")
    assert result.classes == sorted(name for name in names if not name.startswith("."))
    sheets = list((project.root / "reports/photos/contact_sheets").iterdir())
    assert len(sheets) == len(result.classes)


def test_classes_come_from_images_that_can_be_used(project: Project) -> None:
    class_folders(project.root / "in/train", {"cat": 3, "dog": 2, "owl": 2})
    (project.root / "in/test/cat").mkdir(parents=True)
    picture(90).save(project.root / "in/test/cat/new.png")
    shutil.copy(project.root / "in/train/owl/000.png", project.root / "in/test/cat/owl.png")
    (project.root / "in/train/broken").mkdir()
    (project.root / "in/train/broken/1.png").write_bytes(b"")
    project.dataset("photos", "in", max_quarantined=0.5)
    said = project.must_run("check", "photos").out.splitlines()
    result = checked(project, "photos")
    assert result.classes == ["cat", "dog", "owl"] and result.rows["train/broken/1.png"]["label"] == "broken"
    assert result.summary["classes"] == {"cat": 5, "dog": 2, "owl": 1}
    assert result.summary["classes_left_out"] == {"broken": 1}
    assert result.summary["classes_missing"] == {"test": {"dog": 0, "owl": 0}}
    assert [line.split() for line in said[said.index("official splits: train in train/, test in test/") + 1 :][:5]] == [
        ["3", "classes", "train", "test", "all"], ["cat", "3", "2", "5"], ["dog", "2", "0", "2"],
        ["owl", "1", "0", "1"], ["6", "2", "8"],
    ]  # fmt: skip
    assert said[said.index("not a class, because none of its images can be decoded: broken") :][:2] == [
        "not a class, because none of its images can be decoded: broken",
        "without a usable image in the official test split: dog, owl",
    ]
    sheets = sorted(path.name for path in (project.root / "reports/photos/contact_sheets").iterdir())
    assert sheets == ["000-cat.png", "001-dog.png", "002-owl.png"]


def test_many_classes_are_named_in_short(project: Project) -> None:
    class_folders(project.root / "in", {f"class{number:02d}": 1 for number in range(30)})
    project.dataset("photos", "in")
    (line,) = (line for line in project.must_run("check", "photos").out.splitlines() if "classes: " in line)
    assert line.startswith("30 classes: class00 (1), ") and line.endswith("class18 (1), …, class29 (1)")


def test_classes_that_are_numbers(project: Project) -> None:
    class_folders(project.root / "in/train", {"10": 1, "9": 1, "0": 1})
    class_folders(project.root / "in/test", {"10": 1})
    project.dataset("photos", "in")
    project.must_run("check", "photos")
    result = checked(project, "photos")
    assert result.classes == list(result.summary["classes"]) == ["0", "9", "10"]
    # test/10 repeats the first picture of train
    assert {path: (row["status"], row["issues"]) for path, row in result.rows.items() if row["issues"]} == {
        "train/10/000.png": ("quarantined", ["exact_duplicate", "split_leak"]),
        "test/10/000.png": ("warning", ["exact_duplicate", "split_leak"]),
    }


def test_of_equal_images_in_several_splits_one_stays(project: Project) -> None:
    members = {
        "train/a/1": 1, "train/a/again": 1, "val/a/1": 1, "test/a/1": 1, "test/b/1": 1,
        "train/a/2": 2, "val/b/2": 2, "train/a/3": 3, "train/b/3": 3, "test/.hidden/4": 4, "train/b/4": 4,
        "train/a/5": 5, "val/a/6": 6, "test/a/7": 7, "train/b/8": 8,
    }  # fmt: skip
    with zipfile.ZipFile(project.root / "in.zip", "w") as archive:
        for name, seed in members.items():
            archive.writestr(f"{name}.png", encoded(picture(seed), "PNG"))
    project.dataset("photos", "in.zip")
    project.must_run("check", "photos")
    rows = checked(project, "photos").rows
    duplicate, leak, conflict = "exact_duplicate", "split_leak", "label_conflict"
    quarantined = {path[:-4] for path, row in rows.items() if row["status"] == "quarantined"}
    assert quarantined == {"train/a/1", "train/a/again", "val/a/1", "train/a/2", "test/.hidden/4"}
    assert set(rows["test/b/1.png"]["issues"]) == set(rows["train/a/1.png"]["issues"]) == {duplicate, leak, conflict}
    assert rows["val/b/2.png"]["issues"] == [duplicate, conflict, leak]
    assert rows["train/a/3.png"]["issues"] == [duplicate, conflict]
    assert rows["train/b/4.png"]["issues"] == []


# Copies


def smooth(seed: int, height: int = 120, width: int = 160) -> Image.Image:
    """A picture with shapes of all sizes, as photos have them."""
    return picture(seed, 6, 8).resize((width, height), Image.Resampling.BICUBIC)


def test_copies_are_found_by_their_pixels(project: Project) -> None:
    same = smooth(1)
    files = {
        "a/x.png": encoded(same, "PNG"), "b/x.bmp": encoded(same, "BMP"), "a/x.tif": encoded(same, "TIFF"),
        "a/again.jpg": encoded(same, "JPEG", quality=60), "a/small.png": encoded(same.resize((80, 60)), "PNG"),
        "a/mirrored.png": encoded(same.transpose(Image.Transpose.FLIP_LEFT_RIGHT), "PNG"),
        "a/gray.png": encoded(smooth(2).convert("L"), "PNG"),
        "a/gray as rgb.png": encoded(smooth(2).convert("L").convert("RGB"), "PNG"),
        "a/left alone.png": encoded(smooth(3), "PNG"), "b/left alone.png": encoded(smooth(4), "PNG"),
    }  # fmt: skip
    with zipfile.ZipFile(project.root / "in.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    project.dataset("photos", "in.zip")
    project.must_run("check", "photos")
    rows = checked(project, "photos").rows
    exact, near, conflict = "exact_duplicate", "near_duplicate", "label_conflict"
    copies = {name: [code for code in row["issues"] if code in (exact, near, conflict)] for name, row in rows.items()}
    assert copies == {
        "a/x.png": [exact, near, conflict], "b/x.bmp": [exact, near, conflict], "a/x.tif": [exact, near, conflict],
        "a/again.jpg": [near, conflict], "a/small.png": [near, conflict], "a/mirrored.png": [near, conflict],
        "a/gray.png": [exact], "a/gray as rgb.png": [exact], "a/left alone.png": [], "b/left alone.png": [],
    }  # fmt: skip
    groups = {name: row["group"] for name, row in rows.items()}
    first = ["a/x.png", "b/x.bmp", "a/x.tif", "a/again.jpg", "a/small.png", "a/mirrored.png"]
    assert groups == {
        **dict.fromkeys(first, 0), "a/gray.png": 1, "a/gray as rgb.png": 1, "a/left alone.png": None,
        "b/left alone.png": None,
    }  # fmt: skip

    # one that a decision may bring back belongs to them too, and is no issue of theirs
    with zipfile.ZipFile(project.root / "in.zip", "a") as archive:
        archive.writestr("loose.jpg", encoded(same, "JPEG", quality=70))
        archive.writestr("other.jpg", encoded(smooth(3), "JPEG", quality=70))
    project.must_run("check", "photos")
    table = checked(project, "photos")
    with_loose = {name: row["group"] for name, row in table.rows.items()}
    assert with_loose == {**groups, "loose.jpg": 0, "a/left alone.png": 2, "other.jpg": 2}
    for name in ("a/left alone.png", "loose.jpg"):
        assert not {exact, near, conflict}.intersection(table.rows[name]["issues"])

    project.dataset("photos", "in.zip", near_duplicates=False)
    project.must_run("check", "photos")
    rows = {name: row for name, row in checked(project, "photos").rows.items() if "." in name.partition("/")[2]}
    assert {name for name, row in rows.items() if row["group"] is not None} == {
        "a/x.png", "b/x.bmp", "a/x.tif", "a/gray.png", "a/gray as rgb.png"
    }  # fmt: skip


def test_near_copies_in_two_official_splits_leak(project: Project) -> None:
    for side, content in (("train", encoded(smooth(1), "PNG")), ("test", encoded(smooth(1), "JPEG", quality=50))):
        for label in ("a", "b"):
            (project.root / "in" / side / label).mkdir(parents=True)
            (project.root / "in" / side / label / "own.png").write_bytes(
                encoded(smooth(10 + 2 * (side == "test") + (label == "b")), "PNG")
            )
        (project.root / "in" / side / "a" / "copy.img").write_bytes(content)
    project.dataset("photos", "in")
    project.must_run("check", "photos")
    rows = checked(project, "photos").rows
    assert {path: row["status"] for path, row in rows.items() if "split_leak" in row["issues"]} == {
        "train/a/copy.img": "quarantined", "test/a/copy.img": "warning"
    }  # fmt: skip


# Outliers


def test_what_differs_from_the_rest_is_warned_of(project: Project) -> None:
    folder = project.root / "in"
    odd = {
        "dark": photo(1).point(lambda value: value // 20),
        "bright": photo(2).point(lambda value: 243 + value // 20),
        "blurry": picture(3, 2, 2).resize((190, 170), Image.Resampling.BICUBIC),
        "odd_color": photo(4).convert("L"),
        "odd_size": photo(5).resize((16, 12)),
        "odd_aspect_ratio": photo(6).resize((640, 30)),
        "blank": Image.new("RGB", (190, 170), (90, 100, 120)),
    }
    for label in ("a", "b"):
        (folder / label).mkdir(parents=True)
        for number in range(30):
            usual = photo(100 + number + 50 * (label == "b")).resize((200 - number, 160 + number))
            usual.save(folder / label / f"{number}.png")
    for name, image in odd.items():
        image.save(folder / "a" / f"{name}.png")
    project.dataset("photos", "in", outliers={"color": 0.05})
    project.must_run("check", "photos")
    rows = checked(project, "photos").rows
    for name in odd:
        assert name in rows[f"a/{name}.png"]["issues"], rows[f"a/{name}.png"]
    issues = [row["issues"] for path, row in rows.items() if path[2:-4].isdigit()]
    assert len(issues) == 60 and not any(issues)
    assert 0 < rows["a/0.png"]["contrast"] < 0.5 and rows["a/0.png"]["color"] is True
    assert rows["a/odd_color.png"]["color"] is False

    project.dataset("photos", "in", outliers=NEVER)
    project.must_run("check", "photos")
    rows = checked(project, "photos").rows
    assert {path for path, row in rows.items() if row["issues"]} == {"a/blank.png"}


# An interrupted inspection


def group_members(group: int) -> list[str]:
    """Command lines of the processes of a group, without those that are dead and only wait to be reaped."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = stat.read_text().rpartition(")")[2].split()[:3]
            command = stat.with_name("cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(its_group) == group and state not in "ZX":
            found.append(command)
    return found


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.03)


def test_an_inspection_that_was_killed_goes_on_where_it_was(project: Project, tmp_path: Path) -> None:
    with zipfile.ZipFile(project.root / "in.zip", "w") as archive:
        for number in range(2600):
            content = encoded(picture(number, 30, 30), "PNG") if number != 2500 else b""
            archive.writestr(f"c{number % 2}/{number}.png", content)
    project.dataset("photos", "in.zip", max_quarantined=0)
    command = project.command("check", "photos")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(command, cwd=project.root, env=environment, start_new_session=True)
    folder = project.root / ".checkpoints"

    def parts() -> dict[str, int]:
        return {part.name: part.stat().st_mtime_ns for part in folder.rglob("0*.parquet")}

    until(lambda: bool(parts()), 60)
    process.kill()
    process.wait()
    until(lambda: not group_members(process.pid))  # its workers end too
    before = parts()
    failed_in_one_line(project.run("check", "photos"), "1 of 2600 images")
    assert sorted(parts()) == ["000000.parquet", "000001.parquet", "000002.parquet"]
    assert before.items() <= parts().items()  # nothing was done twice

    project.dataset("photos", "in.zip", max_quarantined=0.1)
    project.must_run("check", "photos")
    assert not parts()
    interrupted = outputs(project)
    project.must_run("check", "photos")
    assert outputs(project) == interrupted
    assert len(checked(project, "photos").rows) == 2600


def test_parts_that_are_not_whole_are_inspected_again(project: Project) -> None:
    """The last one is as long as all others: without it nothing looks cut."""
    count = 3 * 1024
    (project.root / "in").mkdir()
    pixels = np.random.default_rng(1).integers(0, 256, (count, 4, 4), dtype=np.uint8)
    for kind, data in (("images-idx3", pixels), ("labels-idx1", np.arange(count, dtype=np.uint8) % 2)):
        header = bytes([0, 0, 8, data.ndim]) + struct.pack(f">{data.ndim}I", *data.shape)
        (project.root / "in" / f"train-{kind}-ubyte").write_bytes(header + data.tobytes())
    project.dataset("photos", "in", 4, channels=1)
    in_the_way = project.root / "reports"
    in_the_way.write_text("so that the parts are left behind")
    assert project.run("check", "photos").status == 1
    left, kept = project.root / ".checkpoints", project.root / "kept"
    shutil.copytree(left, kept)
    in_the_way.unlink()
    project.must_run("check", "photos")
    whole = outputs(project)

    damages: list[tuple[str, Callable[[Path], object], list[str]]] = [
        ("000001.parquet", Path.unlink, ["000001.parquet is damaged or missing"]),
        ("000002.parquet", Path.unlink, []),  # as if it had never come that far
        ("000002.parquet", lambda part: part.write_bytes(part.read_bytes()[:-500]), ["000002.parquet is damaged"]),
        ("000000.parquet", lambda part: part.write_bytes(bit_flipped(part.read_bytes(), 5000)), ["000000.parquet is"]),
        ("000001.parquet.sha256", lambda checksum: checksum.write_bytes(b"\xff"), ["000001.parquet is damaged"]),
    ]
    for name, damage, said in damages:
        shutil.copytree(kept, left, dirs_exist_ok=True)
        (file,) = left.rglob(name)
        damage(file)
        ran = project.must_run("check", "photos")
        assert outputs(project) == whole
        lines = [line for line in ran.out.splitlines() if "damaged" in line]
        assert len(lines) == len(said) and all(words in line for words, line in zip(said, lines, strict=True))
        assert not list(left.rglob("*.parquet*"))


def test_a_source_that_changes_while_it_is_read(monkeypatch: pytest.MonkeyPatch, project: Project) -> None:
    folder = class_folders(project.root / "in", {"a": 3, "b": 3})
    monkeypatch.chdir(project.root)
    source = open_source(folder)
    (folder / "b/002.png").unlink()
    with pytest.raises(UserError, match=r"5 of 6 images: the source has changed; run it again"):
        list(Inspected("photos", source, MOST_PIXELS).tables())


def test_metadata_of_another_source_are_not_used(project: Project) -> None:
    folder = class_folders(project.root / "in", {"a": 3, "b": 3})
    (folder / "a/000.png").write_bytes(b"")
    project.dataset("photos", "in", max_quarantined=0)
    failed_in_one_line(project.run("check", "photos"), "1 of 6 images")
    picture(99).save(folder / "a/000.png")
    project.must_run("check", "photos")
    assert {row["status"] for row in checked(project, "photos").rows.values()} == {"ok"}
    assert not list((project.root / ".checkpoints").rglob("*.parquet"))


def test_metadata_with_other_class_names_are_not_used(project: Project) -> None:
    folder = project.root / "in"
    folder.mkdir()
    for kind, data in (("images-idx3", bytes(2 * 16)), ("labels-idx1", bytes([0, 1]))):
        shape = (2, 4, 4) if "images" in kind else (2,)
        header = bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)
        (folder / f"train-{kind}-ubyte").write_bytes(header + data)
    (project.root / "reports").write_text("in the way")  # so that the facts are left behind
    project.dataset("photos", "in", 4, channels=1, classes=["cat", "dog"])
    assert project.run("check", "photos").status == 1
    assert list((project.root / ".checkpoints").rglob("*.parquet"))
    (project.root / "reports").unlink()
    project.dataset("photos", "in", 4, channels=1, classes=["ape", "bee"])
    project.must_run("check", "photos")
    assert [row["label"] for row in checked(project, "photos").rows.values()] == ["ape", "bee"]


def test_an_image_that_was_given_up_gets_another_chance(project: Project) -> None:
    folder = class_folders(project.root / "in", {"a": 3, "b": 3})
    (folder / "a/000.png").write_bytes(b"")
    project.dataset("photos", "in", max_quarantined=0)
    failed_in_one_line(project.run("check", "photos"), "1 of 6 images")
    (part,) = (project.root / ".checkpoints").rglob("0*.parquet")
    table = pq.read_table(part)  # as if its worker had been killed from outside
    reasons = [workers.CRASHED if path == "b/000.png" else None for path in table["path"].to_pylist()]
    issues = [["unreadable"] if reason else [] for reason in reasons]
    table = table.set_column(table.schema.get_field_index("reason"), "reason", pa.array(reasons, pa.string()))
    table = table.set_column(table.schema.get_field_index("issues"), "issues", pa.array(issues))
    pq.write_table(table, part)
    failed_in_one_line(project.run("check", "photos"), "1 of 6 images")
    found = dict(zip(*(pq.read_table(part)[name].to_pylist() for name in ("path", "issues")), strict=True))
    assert found["b/000.png"] == [] and found["a/000.png"] == ["empty_file"]


# Properties


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 3000), (700, 2), (90, 120), (360, 500), (401, 1023)])
def test_the_reduced_luminance_is_that_of_pillow(height: int, width: int) -> None:
    photo = smooth(3, height, width)
    side = max(1, max(height, width) // 128)
    down, across = min(side, height), min(side, width)
    whole = photo.crop((0, 0, width - width % across, height - height % down))
    gray = properties.reduced(np.asarray(photo))
    expected = np.asarray(whole.convert("L").reduce((across, down)), np.float32)
    assert gray.shape == expected.shape and max(gray.shape) <= 256
    np.testing.assert_allclose(gray, expected, atol=1.5)


def test_properties_of_pictures_that_are_known() -> None:
    stripes = np.zeros((200, 200, 3), np.uint8)
    stripes[:, ::2] = 200
    flat, tinted = np.full_like(stripes, 51), np.full_like(stripes, 51)
    tinted[..., 0] = 99
    found = {
        name: properties.measure(properties.reduced(pixels), pixels)
        for name, pixels in {"stripes": stripes, "flat": flat, "tinted": tinted}.items()
    }
    assert found["flat"] == (0.2, 0.0, 0.0, False, True)
    assert found["tinted"].color and found["tinted"].blank
    # a standard deviation of 100, and of 4 · 100 for the Laplacian, which is 0 along the stripes
    np.testing.assert_allclose(found["stripes"][:3], (100 / 255, 100 / 255, 400 / 255), atol=1e-4)


# Too many broken images


def test_more_broken_images_than_allowed_stop_the_pipeline(project: Project) -> None:
    folder = class_folders(project.root / "in", {"cat": 30, "dog": 30})
    for number in range(6):
        (folder / "dog" / f"{number:03d}.png").write_bytes(b"" if number else b"<html>")
    project.dataset("photos", "in", max_quarantined=0.09)
    ran = project.run("check", "photos")
    failed_in_one_line(ran, "6 of 60 images", "datasets.photos.check.max_quarantined = 0.09")
    assert ran.err.splitlines()[:2] == [
        "dog/000.png: not_an_image: an HTML page", "dog/001.png: empty_file: 0 bytes"
    ]  # fmt: skip
    no_output(project)
    project.dataset("photos", "in", max_quarantined=0.1)
    project.must_run("check", "photos")
    assert checked(project, "photos").summary["status"] == {"ok": 54, "warning": 0, "quarantined": 6}


def test_a_long_list_of_broken_images_ends(project: Project) -> None:
    with zipfile.ZipFile(project.root / "in.zip", "w") as archive:
        for number in range(120):
            archive.writestr(f"c{number % 2}/{number}.jpg", b"")
    project.dataset("photos", "in.zip", max_quarantined=0.5)
    ran = project.run("check", "photos")
    failed_in_one_line(ran, "120 of 120 images")
    assert ran.err.count("empty_file") == 50 and "… and 70 more" in ran.err


def test_what_does_not_claim_to_be_an_image_is_not_counted_as_broken(project: Project) -> None:
    with zipfile.ZipFile(project.root / "mac.zip", "w") as archive:
        for number in range(8):
            path = f"pets/c{number % 2}/{number}.png"
            archive.writestr(path, encoded(picture(number), "PNG"))
            archive.writestr(f"__MACOSX/{path.replace(str(number) + '.', '._' + str(number) + '.')}", b"\0\5\x16\7")
        for name in ("pets/.DS_Store", "pets/c0/.DS_Store", "pets/c0/Thumbs.db", "README.md", "pets/c1/.gitkeep"):
            archive.writestr(name, b"" if "keep" in name else b"x")
    project.dataset("photos", "mac.zip", max_quarantined=0)
    project.must_run("check", "photos")
    result = checked(project, "photos")
    assert result.classes == ["c0", "c1"] and len(result.rows) == 21
    assert result.summary["status"] == {"ok": 8, "warning": 0, "quarantined": 13}


def test_an_image_of_another_format_is_broken_whatever_its_name_says(project: Project) -> None:
    class_folders(project.root / "in", {"cat": 3, "dog": 3})
    (project.root / "in/dog/1.CR3").write_bytes(b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(99))
    (project.root / "in/dog/film.mp4").write_bytes(b"\0\0\0\x18ftypmp42\0\0\0\1mp42isom" + bytes(99))
    project.dataset("photos", "in", max_quarantined=0)
    ran = project.run("check", "photos")
    failed_in_one_line(ran, "1 of 7 images are broken")
    assert "dog/1.CR3: unreadable: a raw photo, a format that is not read: convert it to PNG or JPEG" in ran.err


def test_no_image_at_all(project: Project) -> None:
    (project.root / "in/a").mkdir(parents=True)
    (project.root / "in/a/notes.txt").write_text("notes")
    (project.root / "in/README.md").write_text("notes")
    project.dataset("photos", "in", max_quarantined=1)
    failed_in_one_line(project.run("check", "photos"), "none of 2 files is an image")
    no_output(project)


def test_images_without_any_class_stop_the_stage(project: Project) -> None:
    """As Kaggle's cat.0.jpg, dog.0.jpg in one folder: nothing after `check` could use them."""
    for seed, name in enumerate(("cat.0.png", "cat.1.png", "dog.0.png")):
        (project.root / "in").mkdir(exist_ok=True)
        picture(seed).save(project.root / "in" / name)
    project.dataset("photos", "in")
    failed_in_one_line(
        project.run("check", "photos"), "none of 3 files", "in/CLASS/FILE", "datasets.photos.check.labels"
    )
    assert not (project.root / "data/checked").exists()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("missing", "is not there"),
        ("empty", "is empty"),
        ("page.zip", "not a whole zip"),
        ("cut.tar.gz", "not a whole"),
        ("lies.tar", "member 1 has a size of -512 bytes"),
    ],
)
def test_a_source_that_can_not_be_opened(project: Project, source: str, words: str) -> None:
    (project.root / "empty").mkdir()
    (project.root / "page.zip").write_text("<html>")
    with tarfile.open(project.root / "cut.tar.gz", "w:gz") as archive:
        archive.add(class_folders(project.root / "in", {"a": 9, "b": 9}), "in")
    os.truncate(project.root / "cut.tar.gz", 3000)
    lies = tarfile.TarInfo("a/1.png")
    lies.size = -512
    (project.root / "lies.tar").write_bytes(lies.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    project.dataset("photos", source)
    failed_in_one_line(project.run("check", "photos"), source, words)
    no_output(project)


# Workers


# The workers evaluate Python: a function of this module would make each of them import it
EXIT = "__import__('os')._exit(9)"
CRASH = "__import__('os').kill(__import__('os').getpid(), __import__('signal').SIGSEGV)"
KILL = "__import__('os').kill(__import__('os').getpid(), 9)"
HANG = "__import__('time').sleep(60)"


def crashed(item: object, reason: str) -> str:
    return reason


def test_a_decoder_that_crashes_takes_nobody_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "CHUNK_ITEMS", 8)
    down = {3: EXIT, 13: EXIT, 14: CRASH, 37: EXIT}
    tasks = [down.get(number, f"{number} * {number}") for number in range(40)]
    results = list(workers.ordered_map(partial(map, eval), tasks, len, crashed))
    assert results == ["its decoder crashed" if n in down else n * n for n in range(40)]


def test_a_pool_that_breaks_while_it_starts_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own thread then closes the pipes that the worker was to get."""
    monkeypatch.setattr(workers, "CHUNK_ITEMS", 8)
    start, started = ProcessPoolExecutor._spawn_process, []  # type: ignore[attr-defined]

    def fails_once(pool: ProcessPoolExecutor) -> None:
        started.append(pool)
        if len(started) == 2:
            raise OSError(errno.EBADF, "Bad file descriptor")
        start(pool)

    monkeypatch.setattr(ProcessPoolExecutor, "_spawn_process", fails_once)
    tasks = [f"{number} * {number}" for number in range(40)]
    results = list(workers.ordered_map(partial(map, eval), tasks, len, crashed))
    assert results == [number * number for number in range(40)]
    assert len(set(started)) == 2


def test_a_worker_that_nobody_told_to_end_when_another_crashed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It started at that moment. The pool would wait for it for ever."""
    monkeypatch.setattr(workers, "CHUNK_ITEMS", 1)
    monkeypatch.setattr(pool, "SECONDS_TO_END", 0.2)
    terminate: Callable[[BaseProcess], None] = BaseProcess.terminate
    told: list[BaseProcess] = []

    def when_told_again(process: BaseProcess) -> None:
        if process in told:
            terminate(process)
        told.append(process)

    monkeypatch.setattr(BaseProcess, "terminate", when_told_again)
    tasks = ["__import__('time').sleep(1)", EXIT, "2", "3"]
    assert list(workers.ordered_map(partial(map, eval), tasks, len, crashed)) == [None, "its decoder crashed", 2, 3]
    assert len(told) > len(set(told)) or cores() == 1


def test_a_decoder_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(workers.ordered_map(partial(map, eval), ["1"], len, crashed)) == [1]  # the server of workers runs
    monkeypatch.setattr(workers, "CHUNK_ITEMS", 4)
    monkeypatch.setattr(workers, "SECONDS_PER_CHUNK", 3)
    tasks = [HANG if number == 4 else str(number) for number in range(10)]
    results = list(workers.ordered_map(partial(map, eval), tasks, len, crashed))
    assert results == [0, 1, 2, 3, "not decoded in 3 s", 5, 6, 7, 8, 9]


def once(does: str, marker: Path) -> str:
    """A task that does something the first time; later its result is 7."""
    return f"(lambda mark: 7 if mark.exists() else (mark.touch(), {does}))(__import__('pathlib').Path({str(marker)!r}))"


def test_a_worker_that_was_killed_says_nothing_about_the_image(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(workers, "CHUNK_ITEMS", 4)
    tasks = [str(number) for number in range(12)]
    tasks[5], tasks[6], tasks[10] = once(KILL, tmp_path / "5"), CRASH, once("bytearray(2**60)", tmp_path / "10")
    tasks[7] = f"{once(KILL, tmp_path / '7')} if __import__('pathlib').Path({str(tmp_path / '5')!r}).exists() else 0"
    results = list(workers.ordered_map(partial(map, eval), tasks, len, crashed))
    assert results == [0, 1, 2, 3, 4, 7, "its decoder crashed", 7, 8, 9, 7, 11]


@pytest.mark.parametrize(("task", "words"), [("KILL", "its worker was killed"), ("bytearray(2**60)", "refused memory")])
def test_too_little_memory_for_one_worker_stops_the_stage(task: str, words: str) -> None:
    tasks = ["1", KILL if task == "KILL" else task, "3"]
    results = workers.ordered_map(partial(map, eval), tasks, len, crashed, lambda task: f"number {tasks.index(task)}")
    with pytest.raises(UserError, match=rf"^number 1: not enough memory .* {words}, with .* MB"):
        list(results)


@pytest.mark.skipif(not Path("/proc/self/oom_score_adj").exists(), reason="needs Linux")
def test_workers_are_the_first_to_go_when_memory_is_short() -> None:
    tasks = ["int(open('/proc/self/oom_score_adj').read())"]
    assert list(workers.ordered_map(partial(map, eval), tasks, len, crashed)) == [1000]


@contextmanager
def memory_group(limit: int) -> Iterator[list[str]]:
    """What to put before a command so that it runs in a control group of so many bytes of memory."""
    top = Path("/sys/fs/cgroup")
    version_2 = (top / "cgroup.controllers").exists()
    group = (top if version_2 else top / "memory") / f"test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error.strerror}")
    try:
        try:
            (group / ("memory.max" if version_2 else "memory.limit_in_bytes")).write_text(str(limit))
        except OSError as error:
            pytest.skip(f"no control group limits memory here: {error.strerror}")
        for swap in ("memory.swap.max", "memory.memsw.limit_in_bytes"):
            with suppress(OSError):
                (group / swap).write_text("0" if version_2 else str(limit))
        yield ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"]
    finally:
        until(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()


def test_an_image_that_a_memory_limit_is_too_low_for_is_not_blamed(project: Project) -> None:
    folder = class_folders(project.root / "in", {"a": 30, "b": 30})
    Image.linear_gradient("L").resize((9400, 9400)).convert("RGB").save(folder / "b/015.jpg")
    project.dataset("photos", "in", max_quarantined=1)
    environment = {"PYTHONPATH": str(REPOSITORY)}
    with memory_group(300 * 1024**2) as limited:
        ran = run([*limited, *project.command("check", "photos")], project.root, **environment)
    failed_in_one_line(ran, "b/015.jpg", "not enough memory", "its worker was killed", "MB", "more")
    no_output(project)
    project.must_run("check", "photos")
    resumed = outputs(project)
    assert checked(project, "photos").rows["b/015.jpg"]["status"] != "quarantined"
    project.must_run("check", "photos")
    assert outputs(project) == resumed


# Prints what is found of an image in processes that may take some more MB of address space than they have
REFUSED = """
import os, resource, sys
from pathlib import Path
from pipeline.checking import metadata
from pipeline.images.items import Item

content = Path(sys.argv[1]).read_bytes()
size = 4096 * int(Path("/proc/self/statm").read_text().split()[0])
for more in map(int, sys.argv[2:]):
    if not os.fork():
        resource.setrlimit(resource.RLIMIT_AS, (size + more * 2**20,) * 2)
        try:
            task = metadata.Task(Item("x", "a", None), content, False)
            print(next(metadata.inspect([task], 10**9))["reason"], flush=True)
        except KeyError:
            print("whole", flush=True)
        except MemoryError:
            print("refused", flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a process")
@pytest.mark.parametrize(
    ("form", "options"),
    [("JPEG", {"progressive": True}), ("PNG", {"compress_level": 1}), ("WEBP", {"method": 0}), ("AVIF", {"speed": 10})],
)
def test_a_refusal_of_memory_says_nothing_about_the_image(tmp_path: Path, form: str, options: dict[str, Any]) -> None:
    """Whatever the decoder makes of it: many hide it behind another error."""
    image = Image.linear_gradient("L").resize((1500, 1400)).convert("RGB")
    (tmp_path / "image").write_bytes(encoded(image, form, **options))
    limits = [*map(str, range(2, 42, 3)), "400"]
    ran = run([sys.executable, "-c", REFUSED, str(tmp_path / "image"), *limits], tmp_path, PYTHONPATH=str(REPOSITORY))
    found = ran.out.split()
    assert set(found) == {"whole", "refused"} and found[0] == "refused" and found[-1] == "whole", ran.err


def test_an_image_that_wants_too_much_is_blamed_where_there_is_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    task = metadata.Task(Item("a/1.png", "a", None), encoded(picture(1), "PNG"), False)

    def greedy(*_: object) -> None:
        raise MemoryError

    for does in ("png.load", "upright_pixels"):
        with monkeypatch.context() as patched:
            patched.setattr(f"pipeline.images.decode.{does}", greedy)
            (found,) = metadata.inspect([task], MOST_PIXELS)
            assert (found["issues"], found["reason"]) == (["too_large"], "needs more memory than a worker may take")
            patched.setattr(memory, "would_give", lambda size=0: False)
            with pytest.raises(MemoryError):
                list(metadata.inspect([task], MOST_PIXELS))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a process")
def test_a_worker_may_not_take_all_memory() -> None:
    tasks = ["__import__('resource').getrlimit(__import__('resource').RLIMIT_AS)[0]"]
    assert list(workers.ordered_map(partial(map, eval), tasks, len, crashed)) == [MOST_MEMORY]


@settings(max_examples=6, deadline=None)
@given(st.lists(st.integers(-9, 9), max_size=700), st.integers(1, 2_000_000))
def test_ordered_map_is_map(numbers: list[int], size: int) -> None:
    results = workers.ordered_map(partial(map, operator.neg), numbers, lambda item: size, crashed)
    assert list(results) == [-number for number in numbers]


def test_no_more_is_read_than_is_worked_on() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(1000):
            taken.append(number)
            yield number

    results = workers.ordered_map(partial(map, operator.neg), items(), lambda item: workers.CHUNK_BYTES, crashed)
    assert next(results) == 0
    assert len(taken) <= 3 * cores() + 2
    results.close()  # type: ignore[attr-defined]


def test_an_error_of_our_own_is_not_swallowed() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        list(workers.ordered_map(partial(map, operator.neg), items(), lambda item: 1, crashed))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize(("processes", "pause"), [(2, 0.0), (3, 0.0), (3, 0.1), (4, 0.0), (5, 0.7)])
def test_ctrl_c_ends_everything_at_once(project: Project, processes: int, pause: float) -> None:
    """At several moments: while the first worker starts, when all have, in the middle of the work."""
    slow = encoded(Image.new("RGB", (3000, 3000)), "PNG", compress_level=1)
    with zipfile.ZipFile(project.root / "in.zip", "w") as archive:
        for number in range(400):
            archive.writestr(f"c{number % 2}/{number}.png", slow + bytes([number % 256]) * number)
    project.dataset("photos", "in.zip")
    process = subprocess.Popen(
        project.command("check", "photos"), cwd=project.root, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        until(lambda: len(group_members(process.pid)) >= min(processes, 2 + cores()))
        time.sleep(pause)
        assert process.poll() is None
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=20)
        until(lambda: not group_members(process.pid), 5)
    finally:
        if group_members(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert process.returncode == 130
    assert err.splitlines() == ["interrupted: nothing half-written is left; run it again to go on"], err
    assert out == ""
    no_output(project)


def test_a_temporary_folder_with_a_long_name(project: Project) -> None:
    temporary = project.root / ("long" * 25)  # no socket can have its path here
    temporary.mkdir()
    class_folders(project.root / "in", {"cat": 2, "dog": 2})
    project.dataset("photos", "in")
    assert project.must_run("check", "photos", TMPDIR=str(temporary)).err == ""
    assert not list(temporary.iterdir())


ONE_CORE = (
    "import os, sys; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); os.execv(sys.argv[1], sys.argv[1:])"
)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="can't choose cores here")
def test_the_same_bytes_again_and_with_one_core(project: Project) -> None:
    folder = class_folders(project.root / "in", {"cat": 40, "dog": 30})
    (folder / "cat/000.png").write_bytes(b"<html>")
    (folder / "dog/000.png").write_bytes(JPEG[:900])
    project.dataset("photos", "in", max_quarantined=0.1)
    project.must_run("check", "photos")
    first = outputs(project)
    assert len(first) == 4
    project.must_run("check", "photos")
    assert outputs(project) == first
    for name in first:
        (project.root / name).unlink()
    ran = run(
        [sys.executable, "-c", ONE_CORE, *project.command("check", "photos")], project.root, PYTHONPATH=str(REPOSITORY)
    )
    assert ran.status == 0, ran.err
    assert outputs(project) == first


# Real files


def test_the_cats_and_dogs_with_their_real_blemishes(project: Project, data_mirror: Path) -> None:
    source = str(data_mirror / "cats-dogs/cats-dogs-sample.zip")
    project.dataset("cats-dogs", source, 32, split={"test": 0.25}, outliers=NEVER)
    project.must_run("check", "cats-dogs")
    rows, classes, summary, _ = checked(project, "cats-dogs")
    assert (len(rows), classes) == (2004, ["Cat", "Dog"])
    assert {path: row["issues"] for path, row in rows.items() if row["issues"]} == {
        "PetImages/Cat/666.jpg": ["empty_file"], "PetImages/Dog/11702.jpg": ["empty_file"],
        "PetImages/Cat/Thumbs.db": ["not_an_image"], "PetImages/Dog/Thumbs.db": ["not_an_image"],
        "PetImages/Dog/2027.jpg": ["exact_duplicate"], "PetImages/Dog/3082.jpg": ["exact_duplicate"],
        # four puppies in an oval, saved twice
        "PetImages/Dog/74.jpg": ["near_duplicate"], "PetImages/Dog/180.jpg": ["near_duplicate"],
    }  # fmt: skip
    assert summary["status"] == {"ok": 1996, "warning": 4, "quarantined": 4}
    assert summary["width"] == {
        "count": 2000, "mean": 403.54, "std": 109.37566, "min": 59, "25%": 320, "50%": 440, "75%": 499, "max": 1023
    }  # fmt: skip
    assert (summary["height"]["mean"], summary["height"]["std"]) == (358.6585, 97.645206)

    project.must_run("split", "cats-dogs")
    splits = pd.read_parquet(project.root / "data/splits/cats-dogs.parquet").set_index("path").split
    assert splits["PetImages/Dog/2027.jpg"] == splits["PetImages/Dog/3082.jpg"]
    counts = splits.value_counts()  # five standard deviations of 2,000 draws
    assert abs(counts["test"] - 500) < 97 and abs(counts["val"] - 200) < 67 and counts.sum() == 2000


def test_mnist_as_published(project: Project, data_mirror: Path) -> None:
    project.dataset(
        "mnist", str(data_mirror / "mnist"), 28, channels=1, outliers=NEVER, near_duplicates=False, split={"val": 0.1}
    )
    project.must_run("check", "mnist")
    table = pd.read_parquet(project.root / "data/checked/mnist.parquet")
    assert table.official_split.value_counts().to_dict() == {"train": 60_000, "test": 10_000}
    assert list(table.label[:5]) == ["5", "0", "4", "1", "9"] and set(table.status) == {"ok"}
    assert list(table.path.iloc[[0, 60_000]]) == ["train/00000", "test/00000"]
    assert set(table.width) == set(table.height) == {28}

    project.must_run("split", "mnist")
    splits = pd.read_parquet(project.root / "data/splits/mnist.parquet")
    counts = splits.split.value_counts()
    assert counts["test"] == 10_000 and counts.sum() == 70_000
    assert abs(counts["val"] - 6_000) < 370  # five standard deviations of 60,000 draws
    assert (splits[splits.split == "test"].path.str.startswith("test/")).all()
