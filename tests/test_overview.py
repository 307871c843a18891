"""What is wrong with a data set as a whole: what predicts the class, how splits differ, which groups names show."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import Project, write_manifest
from PIL import Image
from samples import photo

from pipeline.checking.overview import Overview
from pipeline.images.tables import CHECKED
from pipeline.system.console import UserError

CLASSES = ("apple", "orange")
COUNT = 40  # images of a class
MAKE, MODEL = 0x010F, 0x0110  # EXIF tags


def part(draw: np.random.Generator, side: int = 48) -> Image.Image:
    """A random part of a photo."""
    whole = photo(640, 480)
    width = int(draw.integers(60, 240))
    left, top = int(draw.integers(640 - width)), int(draw.integers(480 - width))
    return whole.crop((left, top, left + width, top + width)).resize((side, side))


def with_camera(draw: np.random.Generator, path: Path, is_first: bool) -> None:
    exif = Image.Exif()
    exif[MAKE], exif[MODEL] = "Canon", "Canon EOS 5D" if is_first else "PowerShot"
    part(draw).save(path, exif=exif)


def darkened(draw: np.random.Generator, path: Path, is_first: bool) -> None:
    part(draw).point(lambda value: value * 0.2 if is_first else 255 - (255 - value) * 0.4).save(path)


# How the images of two classes are saved, and what alone predicts the class then
WAYS: dict[str, tuple[Callable[[np.random.Generator, Path, bool], None], str | None]] = {
    "none": (lambda draw, path, is_first: part(draw).save(path), None),
    "size": (lambda draw, path, is_first: part(draw, int(draw.normal(30 if is_first else 60, 5))).save(path), "size"),
    "quality": (lambda draw, path, is_first: part(draw).save(path, quality=20 if is_first else 98), "bytes"),
    "format": (lambda draw, path, is_first: part(draw).save(path, "JPEG" if is_first else "PNG"), "format"),
    "camera": (with_camera, "camera"),
    "brightness": (darkened, "brightness"),
}


def write_classes(root: Path, way: str, seed: int = 0) -> None:
    draw = np.random.default_rng(seed)
    for label in CLASSES:
        (root / label).mkdir(parents=True)
        for number in range(COUNT):
            WAYS[way][0](draw, root / label / f"{number:04d}.jpg", label == CLASSES[0])


@pytest.mark.parametrize("way", WAYS)
def test_check_says_what_alone_predicts_the_class(project: Project, way: str) -> None:
    write_classes(project.root / "photos", way)
    project.dataset("photos", "photos", near_duplicates=False)
    ran = project.must_run("check", "photos")
    said = [line for line in ran.out.splitlines() if " alone predicts the class: " in line]
    summary = json.loads((project.root / "reports/photos/check.json").read_text())
    expected = WAYS[way][1]
    if expected is None:
        assert said == [] and "class_predicted_by" not in summary
        return
    assert said[0].startswith(f"photos: {expected} alone predicts the class: ")
    found = summary["class_predicted_by"][expected]
    assert found["class"] == "all" and found["balanced_accuracy"] > 0.75 and found["chance"] == 0.5
    assert not {"size", "format", "camera"}.difference([expected]).intersection(summary["class_predicted_by"])


# From here on, tables as `check` writes them


def row(path: str, label: str, number: int, **facts: Any) -> dict[str, Any]:
    """An image that is like any other, but for its `facts`."""
    draw = np.random.default_rng(number)
    light = dict(zip(("brightness", "contrast", "sharpness"), draw.uniform(0.2, 0.8, 3).tolist(), strict=True))
    good: dict[str, Any] = {
        **dict.fromkeys(CHECKED.names),
        **{"path": path, "label": label, "width": 100, "height": 80, "mode": "RGB", "format": "JPEG", **light},
        **{"bytes": int(draw.integers(4000, 6000)), "color": True, "status": "ok", "issues": []},
        **{"phash": f"{int(draw.integers(2**63)):016x}", "pixel_hash": f"{number:032x}"},
    }
    return {**good, **facts}


def overview(root: Path, rows: list[dict[str, Any]]) -> Overview:
    file = root / "data/checked/photos.parquet"
    write_manifest(file, rows, sorted({row["label"] for row in rows}))
    return Overview(file)


def predictors(root: Path, rows: list[dict[str, Any]]) -> dict[str, str | None]:
    return {found.attribute.name: found.label for found in overview(root, rows).correlations}


def of_classes(name: Callable[[str, int], str], count: int = 60, classes: tuple[str, ...] = CLASSES) -> list[Any]:
    """Rows with the file name that `name` gives to class and number."""
    pairs = [(label, number) for label in classes for number in range(count)]
    return [row(f"{label}/{name(label, number)}", label, seed) for seed, (label, number) in enumerate(pairs)]


CAMERAS = {"apple": "IMG", "orange": "DSC"}
NAMES: dict[str, tuple[Callable[[str, int], str], set[str]]] = {
    "of another camera": (lambda label, number: f"{CAMERAS[label]}_{number:04d}.jpg", {"beginning of the file name"}),
    "of another source": (lambda label, number: f"{number:04d}{'' if label == 'apple' else '-web'}.jpg",
                          {"length of the file name"}),
    "counted anew": (lambda label, number: f"{number}.jpg", set()),
    "counted on": (lambda label, number: f"{number + 60 * (label == 'orange'):05d}.jpg", set()),
    "with the class": (lambda label, number: f"{label}.{number}.jpg", set()),
    "with the class in other letters": (lambda label, number: f"{label.upper()}-{number}.jpg", set()),
    "with its initial": (lambda label, number: f"{label[0]}_{number}.jpg", set()),
    "of two sessions": (lambda label, number: f"IMG_{number + 60 * (number % 9 > 0) * (label == 'orange'):04d}.jpg",
                        {"number in the file name"}),
}  # fmt: skip


@pytest.mark.parametrize("names", NAMES)
def test_file_names(tmp_path: Path, names: str) -> None:
    name, expected = NAMES[names]
    assert set(predictors(tmp_path, of_classes(name))) == expected


def test_position_in_a_list_of_one_folder(tmp_path: Path) -> None:
    def listed(labels: list[str]) -> list[dict[str, Any]]:
        return [row(f"images/{number:04d}.jpg", label, number) for number, label in enumerate(labels)]

    mixed = ["apple", "orange"] * 60
    mostly_sorted = ["apple"] * 50 + ["orange", "apple"] * 10 + ["orange"] * 50
    assert predictors(tmp_path, listed(mixed)) == {}
    assert predictors(tmp_path, listed(sorted(mixed))) == {}  # a list that is sorted by class says nothing of images
    assert set(predictors(tmp_path, listed(mostly_sorted))) == {"number in the file name", "position in the source"}


def test_one_class_among_many(tmp_path: Path) -> None:
    rows = of_classes(lambda label, number: f"{number}.jpg", 40, ("a", "b", "c", "d", "e", "f"))
    for number, one in enumerate(rows):
        if one["label"] == "d":
            one.update(width=300 + number, brightness=0.95)
    assert predictors(tmp_path, rows) == {"size": "d", "aspect ratio": "d"}  # and not that it is the brightest


def test_a_value_that_many_images_have(tmp_path: Path) -> None:
    """All images of one class have the size that is the median of the other."""
    rows = of_classes(lambda label, number: f"{number}.jpg")
    for number, one in enumerate(rows):
        one["width"] = 100 if one["label"] == "apple" else 40 + number
    assert "size" in predictors(tmp_path, rows)


def test_copies_and_few_images_are_no_evidence(tmp_path: Path) -> None:
    rows = of_classes(lambda label, number: f"{number}.jpg")
    for one in rows:
        one.update(group=("apple", "orange").index(one["label"]), width=100 if one["label"] == "apple" else 200)
    assert predictors(tmp_path, rows) == {}  # two different pictures
    few = of_classes(lambda label, number: f"{number}.jpg", 7)
    for one in few:
        one["width"] = 100 if one["label"] == "apple" else 200
    assert predictors(tmp_path, few) == {}


def test_noise_says_nothing(tmp_path: Path) -> None:
    """With two classes and with thirty, of chance alone nothing is called out."""
    assert predictors(tmp_path, of_classes(lambda label, number: f"{number}.jpg", 1000)) == {}
    many = tuple(f"class {letter}{digit}" for letter in "abc" for digit in range(10))
    assert predictors(tmp_path, of_classes(lambda label, number: f"{number}.jpg", 30, many)) == {}


# splits


def test_check_and_split_say_how_official_splits_differ(project: Project) -> None:
    write_classes(project.root / "photos/train", "none")
    write_classes(project.root / "photos/test", "brightness", seed=1)
    for file in sorted((project.root / "photos/test/orange").iterdir())[1:]:
        file.unlink()
    project.dataset("photos", "photos", near_duplicates=False, split={"val": 0.4})
    said = [line for line in project.must_run("check", "photos").out.splitlines() if " differ in " in line]
    assert len(said) == 1 and said[0].startswith("photos: train and test differ in ")
    summary = json.loads((project.root / "reports/photos/check.json").read_text())
    found = summary["official_splits_differ_in"]["train-test"]
    assert {"brightness", "class"} <= found.keys() and found["class"] == {"class": "all", "distance": 0.4756}
    said = [line for line in project.must_run("split", "photos").out.splitlines() if " differ in " in line]
    assert said == []  # check has said it, and the validation images are like the others
    page = (project.root / "reports/photos/split.html").read_text()
    assert "How the splits differ" in page and "Train and test differ in" in page and "Train and val" not in page


def test_split_says_how_splits_differ_that_it_has_drawn(project: Project) -> None:
    """Half of the images are of one group, which is in one split, and dark."""
    rows = of_classes(lambda label, number: f"{number}.jpg", 120)
    for number, one in enumerate(rows):
        one["official_split"] = "test" if number % 3 == 0 else None
        if number % 3 == 1:
            one.update(group=0, brightness=0.1)
    write_manifest(project.root / "data/checked/photos.parquet", rows, list(CLASSES))
    (project.root / "data/decided").mkdir()
    project.dataset("photos", "photos", split={"val": 0.4})
    said = [line for line in project.must_run("split", "photos").out.splitlines() if " differ in " in line]
    assert said and all("val" in line or "train and test" in line for line in said)
    assert any("copies (with" in line for line in said)
    assert "another seed" in (project.root / "reports/photos/split.html").read_text()


def test_one_class_differs_between_splits(tmp_path: Path) -> None:
    rows = of_classes(lambda label, number: f"{number}.jpg", 80, ("a", "b", "c", "d", "e", "f"))
    for number, one in enumerate(rows):
        one["official_split"] = "test" if number % 2 else "train"
        if number % 2 and one["label"] == "c":
            one["contrast"] = 0.9
    assert [(shift.attribute.name, shift.label) for shift in overview(tmp_path, rows).shifts] == [("contrast", "c")]


# groups


def grouped(name: Callable[[str, int], str], light: Callable[[str, int], float] | None = None) -> list[Any]:
    rows = of_classes(name, 120)
    for number, one in enumerate(rows):
        if light:
            one["brightness"] = light(one["label"], number % 120) + number % 7 / 1000
    return rows


def of_group(label: str, number: int) -> float:
    """Images 0 to 5 of a class have one brightness, 6 to 11 another, and so on."""
    return (number // 6 * 37 + 61 * (label == "orange")) % 101 / 101


GROUPS: dict[str, tuple[list[Any], str | None]] = {
    "patients of one class": (
        grouped(lambda label, n: f"patient{n // 6 * 2 + (label == 'orange')}_{n % 6:03d}.jpg"), r"(patient\d+)_",
    ),
    "patients of both classes, alike": (
        grouped(lambda label, n: f"patient{n // 6}_{n % 6:03d}.jpg", lambda label, n: of_group("apple", n)),
        r"(patient\d+)_",
    ),
    "videos, counted anew in each class": (
        grouped(lambda label, n: f"video{n // 6}_frame{n % 6:04d}.jpg", of_group), r"([^/]+/video\d+)_",
    ),
    "times": (
        grouped(lambda label, n: f"IMG_{20240501 + n // 6}_{100000 + n}.jpg", lambda label, n: of_group("apple", n)),
        r"(IMG_\d+)_",
    ),
    "a folder for each": (
        grouped(lambda label, n: f"case {n // 6 * 2 + (label == 'orange')}/{n % 6:03d}.jpg"), r"([^/]+)/[^/]+$",
    ),
    "two spellings": (
        grouped(lambda label, n: f"{'ab'[n % 2]}{n // 6 * 2 + (label == 'orange')}_{n % 6}.jpg"),
        r"(?:^|/)([^/\d]*\d+)[^/\d][^/]*\d[^/]*$",
    ),
    "numbers like those of groups, but of images that are not alike": (
        grouped(lambda label, n: f"patient{n // 6}_{n % 6:03d}.jpg"), None,
    ),
    "cat.123.jpg": (grouped(lambda label, n: f"{label}.{n}.jpg", of_group), None),
    "00042.png": (grouped(lambda label, n: f"{n:05d}.png", of_group), None),
    "IMG_0042.jpg": (grouped(lambda label, n: f"IMG_{n:04d}.jpg", of_group), None),
    "n01440764_42.jpg": (grouped(lambda label, n: f"n{1440764 + len(label)}_{n}.jpg", of_group), None),
    "hexadecimal": (grouped(lambda label, n: f"{hash((len(label), n)) % 16**12:012x}.jpg", of_group), None),
    "a size at the end": (grouped(lambda label, n: f"{n:04d}_224x224.jpg", of_group), None),
}  # fmt: skip


@pytest.mark.parametrize("names", GROUPS)
def test_groups_that_file_names_show(tmp_path: Path, names: str) -> None:
    rows, expected = GROUPS[names]
    found = overview(tmp_path, rows).groups
    assert (found and found.pattern) == expected


def test_a_list_that_names_groups_needs_no_group_by(tmp_path: Path) -> None:
    rows, _ = GROUPS["patients of one class"]
    assert overview(tmp_path, [{**one, "listed_group": one["path"][:-8]} for one in rows]).groups is None


def test_groups_of_a_list_are_held_out_together(tmp_path: Path) -> None:
    """Each group has a size of its own: that predicts the class of no other group."""
    rows = grouped(lambda label, n: f"{n}.jpg")
    for number, one in enumerate(rows):
        one["width"] = 50 + number // 10 * 37 % 24
    assert "size" in predictors(tmp_path, rows)
    listed = [{**one, "listed_group": f"plant {number // 10}"} for number, one in enumerate(rows)]
    assert predictors(tmp_path, listed) == {}


def test_the_suggested_group_by_keeps_each_group_on_one_side(project: Project) -> None:
    rows, pattern = GROUPS["patients of one class"]
    write_manifest(project.root / "data/checked/photos.parquet", rows, list(CLASSES))
    (project.root / "data/decided").mkdir()
    project.dataset("photos", "photos")
    ran = project.must_run("split", "photos")
    assert f"set datasets.photos.split.group_by: '{pattern}'" in ran.out and " of 40 groups " in ran.out
    project.dataset("photos", "photos", split={"group_by": pattern})
    assert "group_by" not in project.must_run("split", "photos").out


def test_a_damaged_table_is_named(project: Project) -> None:
    rows, _ = GROUPS["00042.png"]
    file = project.root / "data/checked/photos.parquet"
    write_manifest(file, rows, list(CLASSES))
    table = pq.read_table(file).drop_columns(["camera"])  # as an earlier version wrote it
    pq.write_table(table, file)
    with pytest.raises(UserError, match=r"photos\.parquet is damaged .*dvc repro check@photos"):
        Overview(file)


# real data


def test_real_data_sets_without_such_faults(data_mirror: Path, project: Project) -> None:
    source = data_mirror / "cats-dogs/cats-dogs-sample.zip"
    if not source.exists():
        pytest.skip("no photos of cats and dogs in DATA_MIRROR")
    project.dataset("photos", str(source))
    out = project.must_run("check", "photos").out
    assert "predicts" not in out and "differ in" not in out and "group_by" not in out
