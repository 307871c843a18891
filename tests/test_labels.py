"""Lists of labels through the stages: what people really write into them, and every row and file accounted for."""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import Clone, Project, class_folders, edit, failed_in_one_line, make_clone, picture
from hypothesis import given, settings
from hypothesis import strategies as st

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
        " there (0099); not in it, and left out: 4 images (test_images/90.jpg, test_images/91.jpg, test_images/92.jpg, …)"
    ) in said
    summary = json.loads((project.root / "reports/plants/check.json").read_text())
    assert summary["classes"] == {"rust": 19, "scab": 19}
    assert summary["label_list"] == {
        "rows": 41, "labeled": 38, "without_label": 1, "missing": 1, "repeated": 1, "unlisted": 4,
    }  # fmt: skip


@together
def test_groups_of_the_list_are_never_torn(plants: tuple[Project, str]) -> None:
    project, _ = plants
    project.must_run("split", "plants")
    split = pd.read_parquet(project.root / "data/splits/plants.parquet").set_index("path")
    assert len(split) == 38 and set(split.split) == {"train", "val", "test"}
    sides = split.split.groupby(checked(project).listed_group).nunique()
    assert len(sides) == 10 and (sides == 1).all()
    cuts = json.loads((project.root / "data/splits/plants.json").read_text())
    assert all("listed groups" in drawn for cut in cuts.values() for drawn in cut)
