"""Layouts of folders and spellings of names that people really have: what is a class, what a split, what neither."""

from __future__ import annotations

import json
import os
import struct
import tarfile
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import Project, failed_in_one_line, picture
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from samples import encoded

from pipeline.images.folder_problems import first_problem
from pipeline.images.folders import Folders
from pipeline.images.sources import open_source
from pipeline.images.tables import read_manifest


def labels(folders: Folders, paths: list[str]) -> dict[str, tuple[str | None, str | None]]:
    return {path: folders.label_and_split(path.rpartition("/")[0]) for path in paths}


def understood(*holding: str) -> dict[str, tuple[str | None, str | None]]:
    folders = Folders(holding)
    assert first_problem(folders) is None
    return {folder: folders.label_and_split(folder) for folder in holding}


def write(root: Path, folders: dict[str, int]) -> Path:
    """So many pictures in each folder, no two of them alike."""
    seed = 0
    for folder, count in folders.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for _ in range(count):
            picture(seed).save(root / folder / f"{seed:03d}.png")
            seed += 1
    return root


def summary(project: Project, name: str = "photos") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((project.root / "reports" / name / "check.json").read_text())
    assert sum(found["used"].values()) + sum(found["left_out"].values()) == found["files"]
    assert sum(found["left_out"].values()) == found["status"]["quarantined"]
    assert sum(found["without_class"].values()) == found["left_out"].get("no_label", 0)
    return found


# Splits


TRAIN = ["train", "training", "Training_Set", "TRAIN", "train-data", "trainset", "seg_train", "train2017", "trainval"]
VAL = ["val", "valid", "validation", "Validation-Images", "dev", "dev_set", "my val", "ValidationSet"]
TEST = ["test", "testing", "test_set", "Test", "my_test", "dataset-test", "holdout", "held_out", "eval", "evaluation"]


@settings(deadline=None)
@given(
    st.sampled_from(TRAIN),
    st.none() | st.sampled_from(VAL),
    st.none() | st.sampled_from(TEST),
    st.lists(st.sampled_from(["data", "photos", "train"]), max_size=2),
    st.data(),
)
def test_splits_by_every_usual_name(
    train: str, val: str | None, test: str | None, wrapping: list[str], data: st.DataObject
) -> None:
    """Each may be doubled, or hold its classes in a folder `images`; and what is around them does not matter."""
    assume(val or test)
    expected, holding = {}, []
    for name, split in ((train, "train"), (val, "val"), (test, "test")):
        if name:
            inner = data.draw(st.sampled_from([[], [name], ["images"], [name, name]]))
            for label in ("bread", "soup"):
                holding.append("/".join([*wrapping, name, *inner, label]))
                expected[holding[-1]] = (label, split)
    assert understood(*holding) == expected


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        # a class may have any name
        (["train", "plane", "car"], ["train", "plane", "car"]),
        (["train/day", "plane/day", "car/night"], ["train", "plane", "car"]),
        (["test", "good", "bad"], ["test", "good", "bad"]),
        (["freight_train", "bus"], ["freight_train", "bus"]),
        (["strain", "latest", "contest"], ["strain", "latest", "contest"]),
        # also below splits
        (["train/train", "train/bus", "test/train"], ["train in train", "bus in train", "train in test"]),
        (["train/test", "train/good", "test/test"], ["test in train", "good in train", "test in test"]),
        (["train/a/old", "train/b", "test/a/old"], ["a in train", "b in train", "a in test"]),
        # evaluation is what is missing
        (["train/a", "val/a", "eval/a"], ["a in train", "a in val", "a in test"]),
        (["train/a", "test/a", "eval/a"], ["a in train", "a in test", "a in val"]),
        # one is doubled, the other not; a contest's images to be labeled are in no class
        (["x_train/x_train/a", "x_train/x_train/b", "x_test/a"], ["a in train", "b in train", "a in test"]),
        (["train/train/a", "test/test/a", "pred/pred"], ["a in train", "a in test", None]),
        (["train/a", "train/b", "test"], ["a in train", "b in train", "None in test"]),
        (["train/a", "train/b", "test/test"], ["a in train", "b in train", "None in test"]),
        (["train/a", "train/b", "test/images"], ["a in train", "b in train", "None in test"]),
        (["train/x/a", "train/x/b", "test/y/a"], ["a in train", "b in train", "a in test"]),
        (["train/x/a", "train/x/b", "test/a", "test/b"], ["a in train", "b in train", "a in test", "b in test"]),
        # classes with folders in them: one name in common, few of many, or sessions and dates
        (["cat/indoor/1", "dog/indoor", "dog/outdoor"], ["cat", "dog", "dog"]),
        ([f"{top}/person{n}" for top in ("run", "walk") for n in (1, 2)], ["run", "run", "walk", "walk"]),
        (["cat/a", "cat/b", "cat/c", "cat/d", "dog/a", "dog/b"], ["cat"] * 4 + ["dog"] * 2),
        (["cat/sample_a", "cat/sample_b", "dog/sample_a", "dog/sample_b"], ["cat", "cat", "dog", "dog"]),
        (["cat/2019-05-01", "cat/2020", "dog/2019-05-01", "dog/2020"], ["cat", "cat", "dog", "dog"]),
        # splits in one of several folders
        (["pics/train/a", "pics/test/a", "docs"], ["a in train", "a in test", None]),
        (["pics/train/a", "pics/test/a", "xml/train", "xml/test"], ["a in train", "a in test", None, None]),
    ],
)  # fmt: skip
def test_what_a_folder_is(folders: list[str], expected: list[str | None]) -> None:
    found = [f"{label} in {split}" if split else label for label, split in understood(*folders).values()]
    assert found == expected


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        (["train/a", "test/a", "extra/a"], ["'extra' lies beside 'train' and 'test'", "'extra/a' is named as a class"]),
        (["train/a", "test/a", "more/deep/A b/x", "train/A b"], ["'more' lies beside", "'more/deep/A b'"]),
        (["train/a", "test/a", "a"], ["'a' lies beside"]),
        (["in/train/a", "in/test/a", "in/in/train/a", "in/in/test/a"], ["'in/in' lies beside 'in/train'"]),
        (["in/train/a", "in/test/a", "out/a"], ["'out' lies beside"]),
        (["train/a", "train2/a", "test/a"], ["'train' and 'train2' are both named as a train split", "rename one"]),
        (["train/a", "val/a", "dev/a"], ["'dev' and 'val' are both named as a val split"]),
        (["train/a", "dev/a", "test/a", "eval/a"], ["'dev' and 'eval' are both named as a val split"]),
        (["train/a", "train/b", "fold2/a", "fold2/b"], ["'fold2' lies beside"]),
        (["images/a", "images/b", "test/a", "test/b"], ["'test' holds folders as a test split", "rename 'images'"]),
        (["Traning/a", "Traning/b", "Testing/a", "Testing/b"], ["rename 'Traning'"]),
        (["fold1/a", "fold1/b", "fold2/a", "fold2/b"], ["'fold1' and 'fold2' are named as parts"]),
        # variants of one set, masks, misspelled splits, people or domains with all classes in each
        (["color/a", "color/b", "gray/a", "gray/b", "masks/a", "masks/b"], ["'color', 'gray' and 'masks' hold"]),
        (["images/a", "images/b", "masks/a", "masks/b"], ["'images' and 'masks' hold", "set source to one"]),
        (["trn/cat", "trn/dog", "trn/c", "tst/Cat", "tst/dog"], ["'trn' and 'tst' hold", "rename them to train"]),
        (["in/Treino/a", "in/Treino/b", "in/Teste/a", "in/Teste/b"], ["'in/Teste' and 'in/Treino' hold"]),
        (["a/images/x", "a/images/y", "b/images/x", "b/images/y"], ["'a' and 'b' hold folders of the same names"]),
        ([f"{n}/{label}" for n in range(9) for label in "ab"], ["'0', '1', '2' and 6 more hold", "check.labels"]),
        (
            ["train/images/a", "train/images/b", "train/masks/a", "train/masks/b", "test/a"],
            ["'train/images' and 'train/masks' hold", "take all but one out of the source"],
        ),
        (["big a", "big\N{NO-BREAK SPACE}a", "b"], ["differ in case or blanks alone"]),
        (["train/a", "train/b", "unlabeled"], ["'unlabeled' lies beside"]),
        (["train/a", "train/b", "x/a", "x/b", "y"], ["'x' lies beside"]),
        (["train", "test"], ["'train' and 'test' are splits", "no train/CLASS/FILE"]),
        (["train", "test", "sample"], ["'test' and 'train' are named as splits", "no train/CLASS/FILE"]),
        (["val/a", "test/a"], ["'val' and 'test' are splits", "no train/CLASS/FILE"]),
        (["cat/train", "cat/test", "dog/train", "dog/test"], ["splits in 'cat', and in 'dog' too"]),
        (["one/train/a", "one/test/a", "two/train/a", "two/test/a"], ["splits in 'one', and in 'two' too"]),
        (["Cat", "cat"], ["'Cat' and 'cat' differ in case or blanks alone"]),
        # a set that was unpacked into itself, and images to be labeled beside classes in a folder
        (["in/a", "in/b", "in/in/a", "in/in/b"], ["'in/in' holds folders of the same names as those beside it"]),
        (["train/a", "train/b", "train/train/a", "train/train/b", "test/a"], ["'train/train' holds folders"]),
        (["pictures/a", "pictures/b", "test"], ["'test' is named as a test split, and 'pictures' beside it holds"]),
        (["train/Cat", "train/cat", "test/cat"], ["'train/Cat' and 'train/cat' differ in case or blanks alone"]),
    ],
)  # fmt: skip
def test_what_can_not_be_understood(folders: list[str], words: list[str]) -> None:
    problem = first_problem(Folders(folders))
    assert problem and all(word in problem for word in words), problem
    assert len(problem.splitlines()) == 1


def test_the_publishers_splits_reach_the_split(project: Project) -> None:
    photos = {"training_set/training_set/": 10, "validation/": 4, "evaluation/": 3}
    write(project.root / "in", {f"{side}{label}": count for side, count in photos.items() for label in ("cat", "dog")})
    project.dataset("photos", "in", near_duplicates=False)
    said = project.must_run("check", "photos").out.splitlines()
    assert "34 in use, 0 left out" in said
    assert "official splits: train in training_set/, val in validation/, test in evaluation/" in said
    found = summary(project)
    assert found["official_splits"] == {"training_set": "train", "validation": "val", "evaluation": "test"}
    assert found["used"] == {"train": 20, "val": 8, "test": 6}
    assert found["classes_by_split"] == {label: {"train": 10, "val": 4, "test": 3} for label in ("cat", "dog")}
    project.must_run("split", "photos")
    table, classes = read_manifest(project.root / "data/splits/photos.parquet")
    assert classes == ["cat", "dog"] and table.split.value_counts().to_dict() == {"train": 20, "val": 8, "test": 6}
    split_of = {"training_set": "train", "validation": "val", "evaluation": "test"}
    assert all(row.split == split_of[row.path.split("/")[0]] for row in table.itertuples())

    write(project.root / "in", {"more/cat": 1})
    failed_in_one_line(project.run("check", "photos"), "in: 'more' lies beside", "rename 'more'")


def test_every_file_is_counted_once_and_what_is_no_class_is_named(project: Project) -> None:
    source = write(project.root / "in", {"train/cat": 6, "train/dog": 5, "test": 4, "docs/old": 1})
    (source / "train/horse").mkdir()
    (source / "train/horse/1.png").write_bytes(b"")
    (source / "train/cow/calves").mkdir(parents=True)
    (source / "train/sheep").mkdir()
    (source / "train/sheep/.DS_Store").write_bytes(b"x")
    (source / "README.md").write_text("x")
    picture(99).save(source / "loose.png")
    (source / "train/dog/broken.png").write_bytes(b"x")
    (source / "train/dog/copy.png").write_bytes((source / "train/cat/000.png").read_bytes())
    project.dataset("photos", "in", max_quarantined=0.5, near_duplicates=False)
    said = project.must_run("check", "photos").out.splitlines()
    found = summary(project)
    assert found["files"] == 22 and found["used"] == {"train": 12, "val": 0, "test": 0}
    assert found["left_out"] == {"clutter": 1, "empty_file": 1, "hidden": 1, "no_label": 6, "not_an_image": 1}
    assert found["without_class"] == {"./": 1, "docs/": 1, "test/": 4}
    assert found["classes"] == {"cat": 6, "dog": 6} and found["classes_left_out"] == {"horse": 1}
    assert found["empty_folders"] == {"train/cow": 0, "train/sheep": 0}
    told = (
        "12 in use, 10 left out: clutter (1), empty_file (1), hidden (1), no_label (6), not_an_image (1)",
        "without a class: ./ (1), docs/ (1), test/ (4)",
        "empty folders, which are no classes: train/cow, train/sheep",
        "not a class, because none of its images can be decoded: horse",
        "no class has a usable image in the official test split: the stage split draws one",
    )
    assert not set(told).difference(said)
    (project.root / "data/decided").mkdir()
    project.must_run("report", "photos")
    page = (project.root / "reports/photos/index.html").read_text()
    assert not [line for line in told if f"{line.capitalize()}." not in page]


def test_folders_of_the_same_classes_stop_the_stage(project: Project) -> None:
    source = write(project.root / "in", {f"{top}/{label}": 2 for top in ("color", "gray") for label in ("cat", "dog")})
    project.dataset("photos", "in", near_duplicates=False)
    failed_in_one_line(project.run("check", "photos"), "in: 'color' and 'gray' hold folders of the same names")
    picture(98).save(source / "color/1.png")
    failed_in_one_line(project.run("check", "photos"), "in: 'color' and 'gray' hold folders of the same names")
    picture(99).save(source / "gray/1.png")  # with images beside their folders, both are classes
    project.must_run("check", "photos")
    assert summary(project)["classes"] == {"color": 5, "gray": 5}


def test_folders_mean_nothing_where_a_list_has_the_labels(project: Project) -> None:
    write(project.root / "in", {"train": 4, "test": 2, "cow": 0})
    rows = "".join(f"{number:03d},{'cat' if number % 2 else 'dog'}\n" for number in range(5))
    (project.root / "in/labels.csv").write_text(f"id,label\n{rows}")
    project.dataset("photos", "in", near_duplicates=False)
    failed_in_one_line(
        project.run("check", "photos"), "'train' and 'test' are splits, but there is no train/CLASS/FILE"
    )
    project.dataset("photos", "in", near_duplicates=False, labels="labels.csv", max_quarantined=0.5)
    assert "no classes" not in project.must_run("check", "photos").out
    found = summary(project)
    assert found["classes"] == {"cat": 2, "dog": 3} and found["without_class"] == {"test/": 1}
    assert found["used"] == {"train": 4, "val": 0, "test": 1}


@pytest.mark.parametrize("archive", ["zip", "tar"])
def test_empty_folders_of_archives(tmp_path: Path, archive: str) -> None:
    write(tmp_path / "in", {"cat": 1, "dog": 1, "cow/young": 0, ".git/refs": 0})
    path = tmp_path / f"in.{archive}"
    if archive == "tar":
        with tarfile.open(path, "w") as tar:
            tar.add(tmp_path / "in", "photos")
    else:
        with zipfile.ZipFile(path, "w") as zipped:
            for file in sorted((tmp_path / "in").rglob("*")):
                zipped.write(file, f"photos/{file.relative_to(tmp_path / 'in')}")
    source = open_source(path)
    assert (source.count, source.classes, source.folders.empty) == (2, ["cat", "dog"], ["photos/cow"])
    assert open_source(tmp_path / "in").folders.empty == ["cow"]


# Names


def test_one_class_in_two_unicode_forms_and_in_two_cases(project: Project) -> None:
    decomposed = unicodedata.normalize("NFD", "café")
    assert decomposed != "café"
    train, test = ("train/café", "train/Tea"), (f"test/{decomposed}", "test/tea")
    write(project.root / "in", {**dict.fromkeys(train, 10), **dict.fromkeys(test, 4)})
    project.dataset("photos", "in", near_duplicates=False)
    said = project.must_run("check", "photos").out.splitlines()
    assert summary(project)["classes_by_split"] == {
        "Tea": {"train": 10, "val": 0, "test": 4}, "café": {"train": 10, "val": 0, "test": 4}
    }  # fmt: skip
    assert "one class, written in two ways: test/tea (Tea)" in said
    table, _ = read_manifest(project.root / "data/checked/photos.parquet")
    assert set(table.path.str.rpartition("/")[0]) == {*train, *test}  # ids stay as they are stored
    project.must_run("split", "photos")


def test_letters_are_classes_in_both_cases() -> None:
    found = understood("train/A", "train/a", "test/A", "test/a")
    assert [label for label, _ in found.values()] == ["A", "a", "A", "a"]


def raw_zip(
    path: Path,
    names: list[bytes],
    maker: int = 0,
    extra: Callable[[bytes], bytes] = lambda name: b"",
    content: Callable[[int], bytes] = lambda number: b"%d" % number,
) -> Path:
    """A zip as archivers write it that know nothing of UTF-8."""
    body, directory = b"", b""
    for number, name in enumerate(names):
        data, more = content(number), extra(name)
        sizes = struct.pack("<IIIHH", zlib.crc32(data), len(data), len(data), len(name), len(more))
        head = struct.pack("<HHHHH", 20, 0, 0, 0, 0x21) + sizes
        directory += b"PK\1\2" + bytes([20, maker]) + head + struct.pack("<HHHII", 0, 0, 0, 0, len(body)) + name + more
        body += b"PK\3\4" + head + name + more + data
    counts = struct.pack("<HHHHIIH", 0, 0, len(names), len(names), len(directory), len(body), 0)
    path.write_bytes(body + directory + b"PK\5\6" + counts)
    return path


def raw_tar(
    path: Path, names: list[bytes], mode: str = "w:gz", content: Callable[[int], bytes] = lambda number: b"%d" % number
) -> Path:
    with tarfile.open(path, mode, format=tarfile.GNU_FORMAT) as archive:  # type: ignore[call-overload]
        for number, name in enumerate(names):
            info = tarfile.TarInfo(os.fsdecode(name))
            info.size = len(content(number))
            archive.addfile(info, BytesIO(content(number)))
    return path


def raw_names(classes: list[str], encoding: str, separator: str = "/", count: int = 3) -> list[bytes]:
    return [
        f"photos/{name}/{number}.jpg".replace("/", separator).encode(encoding)
        for name in classes
        for number in range(count)
    ]


JAPANESE = ["表面", "表示", "ソフト", "猫"]  # three of them have the byte of a backslash


@pytest.mark.parametrize(
    ("encoding", "classes"),
    [
        ("cp932", JAPANESE),
        ("gbk", ["照片", "汽车", "猫", "狗"]),
        ("big5", ["訓練", "蘋果", "功"]),
        ("cp949", ["고양이", "강아지"]),
        ("cp866", ["Кошки", "Собаки"]),
        ("cp1251", ["Кошки", "Собаки"]),
        ("cp437", ["Äpfel", "Birnen"]),
        ("cp1252", ["Äpfel", "café"]),
        ("cp850", ["Øre", "São"]),
        ("utf-8", ["Äpfel", *JAPANESE]),
    ],
)
def test_names_in_encodings_of_many_countries(tmp_path: Path, encoding: str, classes: list[str]) -> None:
    names = raw_names(classes, encoding)
    paths = [raw_zip(tmp_path / "slash.zip", names), raw_tar(tmp_path / "names.tar.gz", names)]
    paths += [raw_zip(tmp_path / "backslash.zip", raw_names(classes, encoding, "\\"), maker) for maker in (0, 10)]
    for path in paths:
        source = open_source(path)
        assert source.classes == sorted(classes), path
        assert source.per_class == dict.fromkeys(classes, 3)
        assert [item.path for item, _ in source.read()] == [name.decode(encoding) for name in names]


def test_links_and_archives_side_by_side_with_names_in_shift_jis(tmp_path: Path) -> None:
    names = raw_names(JAPANESE, "cp932")
    for split in ("seg_train", "seg_test"):
        (tmp_path / "in").mkdir(exist_ok=True)
        path = raw_tar(tmp_path / "in" / f"{split}.tar", names, "w")
        with tarfile.open(path, "a", format=tarfile.GNU_FORMAT) as tar:
            link = tarfile.TarInfo(os.fsdecode(names[0].replace(b"0.jpg", b"copy.jpg")))
            link.type, link.linkname = tarfile.LNKTYPE, os.fsdecode(names[0])
            tar.addfile(link)
    for place, count in (("in/seg_train.tar", 13), ("in", 26)):
        source = open_source(tmp_path / place)
        assert (source.count, source.classes) == (count, sorted(JAPANESE))
        assert first_problem(source.folders) is None
    assert [*source.folders.splits.values()] == ["train", "test"]


@pytest.mark.parametrize("maker", [0, 3, 10])
def test_names_in_no_known_encoding_are_ugly_but_none_is_lost(tmp_path: Path, maker: int) -> None:
    names = [
        b"in/\x95\x5c\xff/1.jpg",
        b"in/\x95\x5c\xff/2.jpg",
        b"in/\x95\xfe/1.jpg",
        b"in/\x80/1.jpg",
        b"in/\x80/1.jpg",
    ]
    for path, letter in (
        (raw_zip(tmp_path / "a.zip", names, maker), "ò"),
        (raw_tar(tmp_path / "a.tar", names), r"\x95"),
    ):
        source = open_source(path)
        found = [item.path for item, _ in source.read()]
        assert len(set(found)) == len(names) and found[4] == f"{found[3]}#2"
        assert sorted(source.per_class.values()) == [1, 2, 2]
        assert any(label.startswith(f"{letter}\\") for label in source.classes)


def test_a_backslash_is_a_letter_on_unix(tmp_path: Path) -> None:
    names = [b"in/a\\b/1.jpg", b"in/c/1.jpg"]
    assert open_source(raw_zip(tmp_path / "unix.zip", names, maker=3)).classes == ["a\\b", "c"]
    assert open_source(raw_zip(tmp_path / "dos.zip", names, maker=0)).classes == ["a", "c"]


def unicode_path(text: str, of: bytes) -> bytes:
    data = b"\1" + struct.pack("<I", zlib.crc32(of)) + text.encode()
    return struct.pack("<HH", 0x7075, len(data)) + data


def test_the_unicode_path_of_a_zip_counts_where_it_is_of_this_name(tmp_path: Path) -> None:
    names = raw_names(JAPANESE, "cp932")
    path = raw_zip(tmp_path / "a.zip", names, extra=lambda name: unicode_path(name.decode("cp932"), name))
    assert open_source(path).classes == sorted(JAPANESE)
    questions = {f"in/?/{number}.jpg".encode(): f"in/{'猫犬'[number % 2]}/{number}.jpg" for number in range(4)}
    path = raw_zip(tmp_path / "b.zip", [*questions], extra=lambda name: unicode_path(questions[name], name))
    assert [item.path for item, _ in open_source(path).read()] == [*questions.values()]

    renamed = raw_zip(
        tmp_path / "c.zip", [b"in/cat/1.jpg", b"in/dog/1.jpg"], extra=lambda name: unicode_path("x/y", b"old")
    )
    assert open_source(renamed).classes == ["cat", "dog"]
    other = raw_zip(tmp_path / "d.zip", [b"in/cat/1.jpg", b"in/dog/1.jpg"], extra=lambda name: b"\x75\x70\xff")
    assert open_source(other).classes == ["cat", "dog"]


ALPHABETS = {
    "cp932": "表示能ソ構犬猫あアＡ", "gbk": "猫狗汽车猿藏", "big5": "功許蓋貓狗", "cp949": "고양이똠방",
    "cp866": "Кошкисба", "cp437": "Äéüßab",
}  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_no_name_of_an_old_archive_is_merged_or_dropped(data: st.DataObject) -> None:
    encoding = data.draw(st.sampled_from([*ALPHABETS]))
    names = st.text(ALPHABETS[encoding] + "x1", min_size=1, max_size=3)
    folders = data.draw(st.lists(names, min_size=2, max_size=4, unique_by=str.lower))
    members = [f"{folder}/{number}.jpg".encode(encoding) for folder in folders for number in range(2)]
    with tempfile.TemporaryDirectory() as root:
        for path in (
            raw_zip(Path(root, "a.zip"), members, data.draw(st.sampled_from([0, 3, 10]))),
            raw_tar(Path(root, "a.tar"), members),
        ):
            source = open_source(path)
            items = [item for item, _ in source.read()]
            assert len({item.path for item in items}) == len(members) == source.count
            if not first_problem(source.folders):
                assert source.per_class == dict.fromkeys(source.classes, 2) and len(source.classes) == len(folders)


def test_archives_with_names_of_every_kind_through_the_stages(project: Project) -> None:
    """Each knows its names in a way of its own: by a guess, by the Unicode path field, as UTF-8 that no flag tells."""
    (project.root / "in").mkdir()
    expected: dict[str, Image.Image] = {}

    def pictures(classes: list[str], count: int) -> Callable[[int], bytes]:
        first = len(expected)
        paths = [f"photos/{name}/{number}.jpg" for name in classes for number in range(count)]
        expected.update({path: picture(number) for number, path in enumerate(paths, first)})
        return lambda number: encoded(picture(first + number), "PNG")

    raw_zip(project.root / "in/shift-jis.zip", raw_names(JAPANESE, "cp932", count=14), content=pictures(JAPANESE, 14))
    with_field, mac, in_tar = ["能面", "写真"], ["Äpfel", "Birnen"], ["照片", "汽车"]
    names = raw_names(with_field, "cp932", count=4)
    extra = dict(zip(names, (unicode_path(name.decode("cp932"), name) for name in names), strict=True))
    raw_zip(project.root / "in/unicode-path.zip", names, extra=extra.__getitem__, content=pictures(with_field, 4))
    decomposed = [unicodedata.normalize("NFD", name) for name in mac]
    names = raw_names(decomposed, "utf-8", count=4)
    raw_zip(project.root / "in/utf-8-without-flag.zip", names, maker=3, content=pictures(decomposed, 4))
    names = raw_names(in_tar, "gbk", count=4)
    raw_tar(project.root / "in/gbk.tar.gz", names, content=pictures(in_tar, 4))

    project.dataset("photos", "in", [12, 10], near_duplicates=False)
    project.must_run("check", "photos")
    found = summary(project)
    assert found["files"] == found["used"]["unassigned"] == len(expected) == 80
    few = dict.fromkeys([*with_field, *mac, *in_tar], 4)
    assert found["classes"] == {**few, **dict.fromkeys(JAPANESE, 14)}
    table, classes = read_manifest(project.root / "data/checked/photos.parquet")
    assert classes == sorted([*few, *JAPANESE]) and set(table.path) == {*expected}
    assert all(row.label == unicodedata.normalize("NFC", row.path.split("/")[1]) for row in table.itertuples())
    project.must_run("pack", "photos")
    index = pq.read_table(project.root / "data/packed/photos/index.parquet")["path"].to_pylist()
    images = np.load(project.root / "data/packed/photos/images.npy")
    assert index == list(table.path)
    for path, image in zip(index, images, strict=True):
        np.testing.assert_array_equal(image, np.asarray(expected[path]))


def test_splits_that_are_empty_are_named(project: Project) -> None:
    write(project.root / "in", {"train/cat": 6, "train/dog": 6})
    for name in ("test", "val"):
        (project.root / "in" / name).mkdir()
    project.dataset("photos", "in", near_duplicates=False)
    said = project.must_run("check", "photos").out.splitlines()
    assert "of these named as splits: test, val; the stage split draws what is empty" in said
