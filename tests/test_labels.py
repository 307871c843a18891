"""Lists of labels through the stages: what people really write into them, and every row and file accounted for."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import Project, class_folders, edit, failed_in_one_line, make_clone, picture
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.images.folders import class_key, in_plain_blanks
from pipeline.images.label_lists import LabelList, plain_path
from pipeline.images.labeled import Labeled
from pipeline.images.sources import open_source
from pipeline.system.console import UserError


def write(root: Path, rows: list[str], name: str = "labels.csv", encoding: str = "utf-8") -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes("".join(f"{row}\n" for row in rows).encode(encoding))


def photos(root: Path, names: list[str]) -> None:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(root / name)


def checked(project: Project, name: str = "plants") -> pd.DataFrame:
    return pd.read_parquet(project.root / f"data/checked/{name}.parquet").set_index("path")


def labeled(root: Path, file: str = "labels.csv", **options: Any) -> dict[str, tuple[Any, ...]]:
    """Label, split and group of each file, as the list gives them."""
    source = Labeled(open_source(root), str(root), file, options.get("class_names"))
    return {item.path: (item.label, item.split, item.group) for item, _ in source.read()}


def refused(root: Path, *words: str, file: str = "labels.csv", **options: Any) -> None:
    with pytest.raises(UserError) as raised:
        labeled(root, file, **options)
    assert "\n" not in str(raised.value)
    for word in words:
        assert word in str(raised.value)


@pytest.fixture(scope="module")
def plants(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, str]:
    """As Kaggle has it: a list of ids beside two folders, one of which nobody has labeled."""
    project = Project(tmp_path_factory.mktemp("labels"))
    root = project.root / "plants"
    photos(root, [f"train_images/{number:04d}.jpg" for number in range(40)])
    for number in range(3):
        (root / "test_images").mkdir(exist_ok=True)
        picture(100 + number).save(root / f"test_images/9{number}.jpg")
    (root / "sample_submission.csv").write_text("id,label\n90,rust\n")
    rows = [f"{number:04d},{'rust' if number % 2 else 'scab'},p{number // 4}" for number in range(38)]
    write(root, ["id,label,group", *rows, "0038,,", "0002,scab,p0", "0099,rust,p1"], "train.csv")
    project.dataset("plants", "plants", labels="train.csv", max_quarantined=0.03)
    return project, project.must_run("check", "plants").out


together = pytest.mark.xdist_group("labels")


@together
def test_every_row_and_every_file_is_accounted_for(plants: tuple[Project, str]) -> None:
    project, said = plants
    table = checked(project)
    assert len(table) == 40 + 3 + 1  # the list itself is none of them
    of_train = [f"train_images/{number:04d}.jpg" for number in range(38)]
    assert list(table.label[of_train]) == ["scab", "rust"] * 19
    assert list(table.listed_group[of_train]) == [f"p{number // 4}" for number in range(38)]
    unlabeled = table[table.label.isna() & table.pixel_hash.notna()]
    assert dict(unlabeled.reason) == {
        "train_images/0038.jpg": "no label in train.csv",
        **dict.fromkeys(["train_images/0039.jpg", *(f"test_images/9{n}.jpg" for n in range(3))], "not in train.csv"),
    }
    assert {*unlabeled.status} == {"quarantined"} and all("no_label" in issues for issues in unlabeled.issues)
    assert (
        "plants: train.csv has 41 rows: 38 labels of images, 1 without a label, 1 repeated, 1 of files that are not"
        " there (0099); not in it, and left out: 4 images (test_images/90.jpg, test_images/91.jpg,"
        " test_images/92.jpg, …)\n"
    ) in said
    summary = json.loads((project.root / "reports/plants/check.json").read_text())
    assert summary["classes"] == {"rust": 19, "scab": 19}
    assert summary["official_splits"] == {"train_images": "train", "test_images": "test"}
    assert summary["label_list"] == {
        "rows": 41, "labeled": 38, "without_label": 1, "missing": 1, "repeated": 1, "unlisted": 4,
    }  # fmt: skip


@together
def test_the_page_says_what_the_folders_were_taken_for(plants: tuple[Project, str]) -> None:
    project, _ = plants
    (project.root / "data/decided").mkdir(exist_ok=True)
    project.must_run("report", "plants")
    page = (project.root / "reports/plants/index.html").read_text()
    assert "Official splits: " in page and "train in train_images/" in page and "test in test_images/" in page
    assert "Empty folders" not in page


@together
def test_groups_of_the_list_are_never_torn(plants: tuple[Project, str]) -> None:
    project, _ = plants
    project.must_run("split", "plants")
    split = pd.read_parquet(project.root / "data/splits/plants.parquet").set_index("path")
    assert len(split) == 38 and set(split.split) == {"train", "val", "test"}
    splits = split.split.groupby(checked(project).listed_group).nunique()
    assert len(splits) == 10 and (splits == 1).all()
    cuts = json.loads((project.root / "data/splits/plants.json").read_text())
    assert all("listed groups" in drawn for cut in cuts.values() for drawn in cut)


def test_one_group_in_several_forms_is_one(tmp_path: Path) -> None:
    photos(tmp_path, ["1.png", "2.png", "3.png", "4.png"])
    names = ("café 2", "cafe\N{COMBINING ACUTE ACCENT} 2", "café\N{NO-BREAK SPACE}2", "café\N{ZERO WIDTH SPACE} 2")
    write(tmp_path, ["id,label,group", *(f"{number},x,{name}" for number, name in enumerate(names, 1))])
    source = Labeled(open_source(tmp_path), str(tmp_path), "labels.csv", None)
    assert {item.group for item, _ in source.read()} == {"café 2"}


@together
def test_pack_takes_what_has_no_label_too(plants: tuple[Project, str]) -> None:
    project, _ = plants
    project.must_run("pack", "plants")
    packed = pd.read_parquet(project.root / "data/packed/plants/index.parquet")
    assert list(packed.path) == sorted(checked(project).index.drop("sample_submission.csv"))


@pytest.mark.parametrize(
    "lists",
    [
        {"comma": "path,label\na/1.png,x\na/2.png,y\n"},
        {"byte order mark and CRLF": "\ufeffpath,label\r\na/1.png,x\r\na/2.png,y\r\n"},
        {"semicolons": "path;label\na/1.png;x\na/2.png;y\n"},
        {"tabs": "path\tlabel\na/1.png\tx\na/2.png\ty\n"},
        {"quotes": '"path","label","note"\n"a/1.png","x","1,5"\n"a/2.png", "y","two\nlines"\n'},
        {"capitals, spaces and other columns": " No , Label , Path \n1, x , a/1.png \n2,y,a/2.png\n"},
        {"backslashes": "path,label\na\\1.png,x\n.\\a\\2.png,y\n"},
        {"slash in front": "path,label\n/a/1.png,x\n./a/2.png,y\n"},
        {"no suffix": "id,label\na/1,x\na/2,y\n"},
        {"names only": "id,label\n1.png,x\n2,y\n"},
        {"empty lines": "path,label\n\na/1.png,x\n,\n\na/2.png,y"},
        {"old Mac": "path,label\ra/1.png,x\ra/2.png,y\r"},
        {"path before id": "id,path,label\n7,a/1.png,x\n8,a/2.png,y\n"},
        {"a mask as text": f"path,mask,label\na/1.png,{'1 2 ' * 50_000},x\na/2.png,,y\n"},
        {"more cells, empty": "path;label\na/1.png;x;;\na/2.png;y;;\n"},
    ],
    ids=lambda lists: next(iter(lists)),
)
def test_lists_as_programs_write_them(tmp_path: Path, lists: dict[str, str]) -> None:
    photos(tmp_path, ["a/1.png", "a/2.png"])
    (text,) = lists.values()
    for content in (text.encode(), text.removeprefix("\ufeff").encode("utf-16")):
        (tmp_path / "labels.csv").write_bytes(content)
        assert labeled(tmp_path) == {"a/1.png": ("x", None, None), "a/2.png": ("y", None, None)}


def test_text_stays_as_it_is_written(tmp_path: Path) -> None:
    """Numbers keep their zeros, NA is a name, and both ways of writing é are one."""
    decomposed = unicodedata.normalize("NFD", "café")
    photos(tmp_path, ["007.png", "7.png", f"{decomposed}.png", "NA.png"])
    rows = ["id,label,group", "007,01,0012", "7,1.0,12", f"café,{decomposed},", "NA,NA,nan"]
    write(tmp_path, rows)
    found = labeled(tmp_path)
    assert found["007.png"] == ("01", None, "0012")
    assert found["7.png"] == ("1.0", None, "12")
    assert found[f"{decomposed}.png"] == ("café", None, None)
    assert found["NA.png"] == ("NA", None, "nan")


def test_splits_of_the_list_and_of_the_folders(tmp_path: Path) -> None:
    photos(tmp_path, ["train/1.png", "train/2.png", "test/3.png"])
    write(tmp_path, ["id,label", "1,x", "2,y", "3,x"])
    assert {path: split for path, (_, split, _) in labeled(tmp_path).items()} == {
        "train/1.png": "train", "train/2.png": "train", "test/3.png": "test",
    }  # fmt: skip
    write(tmp_path, ["id,label,split", "1,x,Validation", "2,y,", "3,x,train"])
    assert {path: split for path, (_, split, _) in labeled(tmp_path).items()} == {
        "train/1.png": "val", "train/2.png": None, "test/3.png": "train",
    }  # fmt: skip


@pytest.mark.parametrize("above", ["", "images/"])
def test_folders_that_are_named_as_splits_beside_others(tmp_path: Path, above: str) -> None:
    photos(tmp_path, [f"{above}train/1.png", f"{above}train/deep/test/2.png", f"{above}evaluation/3.png", "docs/4.png"])
    write(tmp_path, ["id,label", "1,x", "2,y", "3,x", "4,y"])
    assert {path: split for path, (_, split, _) in labeled(tmp_path).items()} == {
        f"{above}train/1.png": "train",
        f"{above}train/deep/test/2.png": "train",
        f"{above}evaluation/3.png": "test",
        "docs/4.png": None,
    }


def test_splits_are_told_in_one_order(project: Project) -> None:
    """Whatever the seed of Python's hashes is: check.json has the same bytes."""
    names = ["train", "training", "dev", "val", "valid", "holdout", "test"]
    photos(project.root / "in", [f"{name}/{name}.png" for name in names])
    write(project.root / "in", ["id,label", *(f"{name},x" for name in names)])
    project.dataset("photos", "in", labels="labels.csv")
    project.must_run("check", "photos")
    summary = json.loads((project.root / "reports/photos/check.json").read_text())
    assert list(summary["official_splits"]) == names


def test_a_list_whose_name_is_decomposed(tmp_path: Path) -> None:
    """As a zip of macOS has it. A row means the file beside the list first."""
    folder, name = unicodedata.normalize("NFD", "imágenes"), unicodedata.normalize("NFD", "español.csv")
    photos(tmp_path, ["1.png", f"{folder}/1.png"])
    write(tmp_path, ["id,label", "1,x"], f"{folder}/{name}")
    for named in ("español.csv", name, "imágenes/español.csv"):
        assert labeled(tmp_path, named) == {"1.png": (None, None, None), f"{folder}/1.png": ("x", None, None)}


def test_the_nearest_file_is_meant(tmp_path: Path) -> None:
    """What the path says from the list's folder on counts more than a file of the same name elsewhere."""
    photos(tmp_path, ["1.png", "train/1.png", "train/b/2.png", "test/1.png", "test/2.jpg", "test/2.png"])
    write(tmp_path, ["path,label", "1.png,x", "b/2.png,y"], "train/labels.csv")
    assert {path: label for path, (label, _, _) in labeled(tmp_path, "train/labels.csv").items() if label} == {
        "train/1.png": "x", "train/b/2.png": "y",
    }  # fmt: skip
    write(tmp_path, ["path,label", "1,x", "train/1,y", "test/2.jpg,x"])
    assert {path: label for path, (label, _, _) in labeled(tmp_path).items() if label} == {
        "1.png": "x", "train/1.png": "y", "test/2.jpg": "x",
    }  # fmt: skip


def test_ids_of_images_that_are_not_read_are_told_as_in_class_folders(project: Project) -> None:
    """Their files are there; of a raw photo and the JPEG beside it, the id means the JPEG, wherever the list is."""
    root = project.root / "plants"
    photos(root, [f"{number}.jpg" for number in range(8)])
    unread = {
        "8.dcm": bytes(128) + b"DICM",
        "9.JP2": b"\0\0\0\x0cjP  \r\n",
        "10.nef": b"",
        "0.CR2": b"II*\0",
        "raw/1.CR2": b"II*\0",
    }
    for name, content in unread.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(content)
    write(root, ["id,label", *(f"{number},{'ab'[number % 2]}" for number in range(11)), "10.nef,a"])
    project.dataset("plants", "plants", labels="labels.csv", max_quarantined=0)
    ran = project.run("check", "plants")
    failed_in_one_line(ran, "5 of 13 images are broken")
    assert "plants: labels.csv has 12 rows: 11 labels of images, 1 repeated; not in it, and left out: 2" in ran.out
    assert "8.dcm: unreadable: a DICOM image, a format that is not read: convert it to PNG or JPEG\n" in ran.err
    assert "9.JP2: unreadable: a JPEG 2000 image, a format that is not read" in ran.err
    assert "10.nef: empty_file: 0 bytes\n" in ran.err

    write(root, ["id,label", *(f"{number},{'ab'[number % 2]}" for number in range(10))])
    project.dataset("plants", "plants", labels="labels.csv", max_quarantined=1)
    assert "not in it, and left out: 3 images (10.nef, raw/1.CR2, …)" in project.must_run("check", "plants").out
    table = checked(project)
    assert list(table.label[["0.jpg", "1.jpg", "8.dcm", "9.JP2"]]) == ["a", "b", "a", "b"]
    assert table.label[["0.CR2", "raw/1.CR2"]].isna().all()
    assert {*table.status[[*unread]]} == {"quarantined"}
    assert json.loads((project.root / "reports/plants/check.json").read_text())["classes"] == {"a": 4, "b": 4}


def test_names_for_labels_that_are_numbers(tmp_path: Path) -> None:
    photos(tmp_path, ["1.png", "2.png"])
    write(tmp_path, ["id,label", "1,1", "2,0"])
    names = ["cat", "dog"]
    assert [label for label, _, _ in labeled(tmp_path, class_names=names).values()] == ["dog", "cat"]
    write(tmp_path, ["id,label", "1,1", "2,2"])
    refused(tmp_path, "line 3", "'2'", "a number below 2", class_names=names)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image,target\n1.png,x\n", ["line 1: found the columns image, target; expected path or id, and label"]),
        ("image_id;healthy;rust\n1;0;1\n", ["found the columns image_id, healthy, rust"]),
        ("", ["line 1: found the columns (none)"]),
        ("id,label,label\n1,x,y\n", ["line 1: two columns are called label"]),
        ("id,label\n", ["none of its 0 rows has a label"]),
        ("id,label\n1,\n2,\n", ["none of its 2 rows has a label"]),
        ("id,label\n1,x\n2,x\n1,y\n", ["line 4: '1' has another label on line 2"]),
        ("id,label,split\n1,x,test\n1,x,\n", ["line 3: '1' has another split on line 2"]),
        ("id,label,group\n1,x,p\n1,x,q\n", ["line 3: '1' has another group on line 2"]),
        ("id,label,split\n1,x,first\n", ["line 2: split 'first'; expected one of", "train", "val", "test"]),
        ("id,label\n1,Cat\n2,cat\n", ["line 3: label 'cat' differs from 'Cat' on line 2 in case or blanks alone"]),
        (f"id,label\n1,x\n2,{'9' * 5000}\n", ["line 3: a label of 5000 characters; expected at most 255"]),
        ("id,label\n1,a/b\n2,</script>\n", ["line 3: label '</script>'; expected none that holds '</'"]),
        ("id,label\n,x\n", ["line 2: its path or id is empty"]),
        ("id,label\n1,x\n2\n", ["line 3: 1 cells; expected 2, as in its first line"]),
        ("id,label\n1.png,x\n1,y\n", ["line 3: it means '1.png', which has another label on line 2"]),
        ("path,label,split\n1,x,test\n1.png,x,\n", ["line 3: it means '1.png', which has another split on line 2"]),
        (
            "id,label\n1,big a\n2,big\N{NO-BREAK SPACE}a\n",
            ["line 3: label", "differs from 'big a' on line 2"],
        ),
        ("id,label\n1,x\n2,x,y\n", ["line 3: 3 cells; expected 2", "quotes"]),
        ('id,label\n1,"x\n2,y\n', ["line 2: not CSV"]),
        ('id,label\n1,"x\n' + "2,y\n" * 50_000, ["line 2: not CSV: unexpected end of data"]),
        ('id,label\n"1\n1",x\n2,"y"z\n', ["line 4: not CSV"]),
    ],
)
def test_lists_that_are_none(tmp_path: Path, text: str, words: list[str]) -> None:
    photos(tmp_path, ["1.png", "2.png"])
    (tmp_path / "labels.csv").write_text(text)
    refused(tmp_path, "labels.csv", str(tmp_path), *words)


def test_a_list_in_another_encoding(tmp_path: Path) -> None:
    photos(tmp_path, ["1.png"])
    write(tmp_path, ["id,label", "1,Birne", "2,Äpfel"], encoding="cp1252")
    refused(tmp_path, "line 3: not UTF-8: save the table as 'CSV UTF-8'")
    (tmp_path / "labels.csv").write_bytes(b"\xff\xfei\0d")
    refused(tmp_path, "line 1")
    for content in ("id,label\n1,x\n".encode("utf-16-be"), b"PK\3\4\x14\0\6\0\x08\0"):  # the latter of Excel
        (tmp_path / "labels.csv").write_bytes(content)
        refused(tmp_path, "line 1: not UTF-8: save the table as 'CSV UTF-8'")


def test_a_name_that_fits_two_files(tmp_path: Path) -> None:
    photos(tmp_path, ["a/1.png", "b/1.png", "b/2.png"])
    write(tmp_path, ["id,label", "2,x", "1,y"])
    refused(tmp_path, "line 3: '1' may be 'a/1.png' or 'b/1.png'; expected more of its path")


def test_a_list_that_is_not_there(tmp_path: Path) -> None:
    photos(tmp_path, ["a/1.png"])
    refused(tmp_path, "holds no 'labels.csv', which check.labels names")
    for name in ("a/train.csv", "b/train.csv"):
        write(tmp_path, ["id,label", "1,x"], name)
    refused(tmp_path, "'labels.csv'", "it has: a/train.csv, b/train.csv")
    refused(tmp_path, "'train.csv' may be 'a/train.csv' or 'b/train.csv'", file="train.csv")
    assert labeled(tmp_path, "b/train.csv")["a/1.png"][0] == "x"
    assert labeled(tmp_path, str(tmp_path / "b/train.csv"))["a/1.png"][0] == "x"  # as one finds it


def test_too_many_files_that_are_not_there(project: Project) -> None:
    photos(project.root / "in", [f"{number}.png" for number in range(20)])
    write(project.root / "in", ["id,label", *(f"{number},{number % 2}" for number in range(18)), "20,0", "21,1"])
    project.dataset("plants", "in", labels="labels.csv", max_quarantined=0.05)
    failed_in_one_line(
        project.run("check", "plants"),
        "plants: 2 of 20 files that labels.csv names are not there (20, 21), more than"
        " datasets.plants.check.max_quarantined = 0.05 allows; it does not name 2 images (18.png, 19.png)",
    )


@pytest.mark.parametrize("form", ["zip", "tar", "gztar"])
def test_a_list_in_a_closed_archive(tmp_path: Path, form: str) -> None:
    class_folders(tmp_path / "in/plants/images", {"x": 2, "y": 2})
    rows = [f"{label}/{number:03d},{label * 2}" for label in "xy" for number in range(2)]
    write(tmp_path / "in/plants", ["id,label", *rows])
    archive = Path(shutil.make_archive(str(tmp_path / "plants"), form, tmp_path / "in"))
    assert [label for label, _, _ in labeled(archive).values()] == ["xx", "xx", "yy", "yy"]


def test_a_list_beside_closed_archives(tmp_path: Path) -> None:
    for archive in ("train", "test"):
        photos(tmp_path / archive, [f"{archive}/{number}.png" for number in range(3)])
        shutil.make_archive(str(tmp_path / "in" / archive), "zip", tmp_path / archive)
    write(tmp_path / "in", ["id,label", "0,x", "train/1,y"], "train.csv")
    (tmp_path / "in/test.zip").rename(tmp_path / "test.zip")
    expected: dict[str, str | None] = {"train/0.png": "x", "train/1.png": "y", "train/2.png": None}
    assert {path: label for path, (label, _, _) in labeled(tmp_path / "in", "train.csv").items()} == expected
    (tmp_path / "test.zip").rename(tmp_path / "in/test.zip")
    refused(tmp_path / "in", "line 2: '0' may be 'test/0.png' or 'train/0.png'", file="train.csv")
    write(tmp_path / "in", ["id,label", "train/0,x", "train/1,y"], "train.csv")
    expected |= dict.fromkeys(["test/0.png", "test/1.png", "test/2.png"])
    assert {path: label for path, (label, _, _) in labeled(tmp_path / "in", "train.csv").items()} == expected


NAMES = st.lists(
    st.text(st.sampled_from("ab1é ,;\"'#.=-"), min_size=1, max_size=4).map(str.strip).filter(
        lambda name: name and not name.startswith(".") and not name.endswith(".")
    ),
    unique_by=plain_path, min_size=1, max_size=12,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_what_is_written_is_what_is_read(data: st.DataObject) -> None:
    names = data.draw(NAMES)
    text = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=6).map(str.strip)
    rows = [
        (
            name,
            data.draw(text.map(lambda label: class_key(label.replace("<", "")).lower())),
            data.draw(st.sampled_from(["", "train", "VAL", "test"])),
            data.draw(text),
        )
        for name in names
    ]
    columns = data.draw(st.permutations(["id", "label", "split", "group"]))
    delimiter = data.draw(st.sampled_from(",;\t|"))
    stream = io.StringIO()
    quoting = data.draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    line_end = data.draw(st.sampled_from(["\n", "\r\n"]))
    writer = csv.writer(stream, delimiter=delimiter, quoting=quoting, lineterminator=line_end)
    writer.writerow(columns)
    for row in rows:
        writer.writerow([dict(zip(("id", "label", "split", "group"), row, strict=True))[column] for column in columns])
    content = stream.getvalue().encode(data.draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"])))
    if not any(label for _, label, _, _ in rows):
        with pytest.raises(UserError):
            LabelList("list", content)
        return
    found = LabelList("list", content)
    assert list(found.row_of) == [plain_path(name) for name in names]
    for position, (_, label, split, group) in enumerate(rows):
        texts = tuple(
            texts_of[number] if (number := column[position]) >= 0 else ""
            for texts_of, column in (
                (found.labels, found.label), (found.splits, found.split), (found.groups, found.group),
            )
        )  # fmt: skip
        assert texts == (unicodedata.normalize("NFC", label), split.lower(), in_plain_blanks(group))


UNREAD = (".CR2", ".dcm")
FILES = ["1.png", "2.png", "3.jpg", "a/1.png", "a/4.png", "b/5.png", "3.CR2", "a/2.CR2", "b/5.dcm", "b/6.dcm"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(FILES), unique=True, min_size=1),
    st.lists(st.sampled_from(["1", "2", "3", "1.png", "a/1", "a/1.png", "4", "5.png", "b\\5.png", "6"]), min_size=1),
)
def test_rows_add_up(tmp_path_factory: pytest.TempPathFactory, files: list[str], listed: list[str]) -> None:
    """Whatever a list names: each row is a label of one file, of none, or a repetition; or one line says why not."""
    root = tmp_path_factory.mktemp("rows")
    photos(root, [name for name in files if not name.endswith(UNREAD)])
    for name in files:
        if name.endswith(UNREAD):
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).write_bytes(b"")
    write(root, ["path,label", *(f"{name},x" for name in listed)])
    try:
        source = Labeled(open_source(root), str(root), "labels.csv", None)
    except UserError as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        assert re.search(r"line \d+: '.*' may be '.*' or '.*'; expected more of its path", refusal)
        return
    items = [item for item, _ in source.read()]
    assert [item.path for item in items] == sorted(files) and source.count == len(files)
    labels = sum(item.label == "x" for item in items)
    assert labels + source.missing + source.list.repeated == len(listed)
    assert labels + source.unlisted == len(files)
    assert source.per_class["x"] == labels and source.per_class[None] == len(files) - labels
    for name in listed:  # who is named by the whole path has the label
        if (plain := plain_path(name)) in files:
            assert next(item.label for item in items if item.path == plain) == "x"


def test_dvc_follows_the_list_with_the_images(tmp_path: Path) -> None:
    clone = make_clone(tmp_path / "clone")
    root = clone.root / "data/raw/plants"
    photos(root, [f"photos/{number:02d}.jpg" for number in range(24)])
    write(root, ["id,label", *(f"{number:02d},{'ab'[number % 2]}" for number in range(24))])
    clone.must_run("dvc", "add", "-q", "data/raw/plants")
    entry = (
        "  plants:\n    source: data/raw/plants\n    check: {labels: labels.csv}\n    split: {}\n    pack: {size: 8}\n"
    )
    edit(clone.root / "params.yaml", "datasets:\n", f"datasets:\n{entry}")

    def stages(command: str) -> list[str]:
        ran = clone.must_run("dvc", *command.split())
        return [line.split("'")[1] for line in ran.out.splitlines() if line.startswith("Running stage")]

    repro = "repro split@plants pack@plants"
    assert sorted(stages(repro)) == ["check@plants", "decisions@plants", "pack@plants", "split@plants"]
    assert stages(repro) == []
    edit(clone.root / "params.yaml", "pack: {size: 8}", "pack: {size: 8, fit: pad}")
    assert stages(repro) == ["pack@plants"]
    before = pd.read_parquet(clone.root / "data/splits/plants.parquet")
    edit(root / "labels.csv", "07,b", "07,a")
    status = json.loads(clone.must_run("dvc", "status", "--json", "check@plants").out)
    assert "data/raw/plants" in str(status["check@plants"])
    assert "check@plants" in stages(repro)
    after = pd.read_parquet(clone.root / "data/splits/plants.parquet")
    assert list(before.label[before.path == "photos/07.jpg"]) == ["b"]
    assert list(after.label[after.path == "photos/07.jpg"]) == ["a"]
