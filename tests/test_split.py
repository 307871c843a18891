"""The stage `split`: who trains, validates and tests; the same for everybody, and no image on two sides."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from conftest import Project, class_folders, failed_in_one_line
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.console import UserError
from pipeline.manifest import write_manifest
from pipeline.split import draw

Rows = list[dict[str, Any]]


def row(path: str, label: str | None, content: str, official: str | None = None, status: str = "ok") -> dict[str, Any]:
    digest = hashlib.sha256(content.encode()).hexdigest()
    known: dict[str, Any] = {"width": 8, "height": 8, "mode": "RGB", "format": "PNG", "bytes": 9, "phash": "0" * 16}
    return {
        "path": path, "label": label, "official_split": official, "sha256": digest, "status": status, "issues": [],
        "reason": None, **known,
    }  # fmt: skip


def rows_of(counts: dict[str, int], official: str | None = None) -> Rows:
    prefix = f"{official}/" if official else ""
    return [
        row(f"{prefix}{label}/{number:04d}.png", label, f"{prefix}{label}{number}", official)
        for label, count in counts.items()
        for number in range(count)
    ]


def write(project: Project, rows: Rows, classes: list[str] | None = None, **split: float) -> None:
    classes = classes or sorted({row["label"] for row in rows if row["label"]})
    write_manifest(project.root / "data/checked/photos.parquet", rows, classes)
    project.dataset("photos", "in", split=split)


def sides(project: Project) -> dict[str, str]:
    table = pq.read_table(project.root / "data/splits/photos.parquet")
    assert table.column_names == ["path", "label", "split"]
    frame = table.to_pandas()
    assert set(frame.split) <= {"train", "val", "test"} and frame.path.is_unique
    return dict(zip(frame.path, frame.split, strict=True))


def split(project: Project, rows: Rows, **fractions: float) -> dict[str, str]:
    write(project, rows, **fractions)
    project.must_run("split", "photos")
    return sides(project)


def test_fractions_of_every_class_and_a_report(project: Project) -> None:
    rows = rows_of({"2": 200, "10": 50, "1": 33})
    rows.append(row("2/broken.png", "2", "broken", status="quarantined"))
    rows[0]["status"] = "warning"
    write(project, rows, ["1", "2", "10"], val=0.1, test=0.2)
    ran = project.must_run("split", "photos")
    report = json.loads((project.root / "reports/photos/split.json").read_text())
    assert report == {
        "total": {"train": 198, "val": 28, "test": 57},
        "classes": {
            "1": {"train": 23, "val": 3, "test": 7},
            "2": {"train": 140, "val": 20, "test": 40},
            "10": {"train": 35, "val": 5, "test": 10},
        },
    }
    assert list(report["classes"]) == ["1", "2", "10"]  # check's order
    assert "198 train, 28 val, 57 test" in ran.out
    table = pq.read_table(project.root / "data/splits/photos.parquet")
    assert json.loads(table.schema.metadata[b"classes"]) == ["1", "2", "10"]
    assert table.column("path").to_pylist() == [row["path"] for row in rows[:-1]]  # in check's order
    assert table.column("label").to_pylist() == [row["label"] for row in rows[:-1]]
    counted = Counter(zip(table.column("label").to_pylist(), table.column("split").to_pylist(), strict=True))
    assert counted["2", "test"] == 40 and counted["1", "val"] == 3


def test_official_splits_are_kept(project: Project) -> None:
    rows = rows_of({"a": 40, "b": 40}, "train") + rows_of({"a": 7, "b": 3}, "test")
    split_of = split(project, rows, val=0.1, test=0.2)
    assert {path for path, side in split_of.items() if side == "test"} == {r["path"] for r in rows[80:]}
    validates = [path for path, side in split_of.items() if side == "val"]
    assert len(validates) == 8 and sum("/a/" in path for path in validates) == 4
    assert all(path.startswith("train/") for path in validates)


def test_an_official_validation_set_is_kept_and_test_is_drawn(project: Project) -> None:
    rows = rows_of({"a": 40, "b": 40}, "train") + rows_of({"a": 5, "b": 5}, "val")
    split_of = split(project, rows, val=0.4, test=0.25)
    assert {path for path, side in split_of.items() if side == "val"} == {r["path"] for r in rows[80:]}
    assert Counter(split_of.values()) == {"train": 60, "test": 20, "val": 10}


def test_all_three_official_sets_are_kept(project: Project) -> None:
    rows = [r for side in ("train", "val", "test") for r in rows_of({"a": 6, "b": 4}, side)]
    split_of = split(project, rows)
    assert all(path.startswith(f"{side}/") for path, side in split_of.items()) and len(split_of) == 30


def test_the_same_again_in_any_order_and_another_with_another_seed(project: Project) -> None:
    rows = rows_of({"a": 60, "b": 50})
    first = split(project, rows)
    output = (project.root / "data/splits/photos.parquet").read_bytes()
    report = (project.root / "reports/photos/split.json").read_bytes()
    assert split(project, rows) == first
    assert (project.root / "data/splits/photos.parquet").read_bytes() == output
    assert (project.root / "reports/photos/split.json").read_bytes() == report
    assert split(project, rows[::-1]) == first
    project.params["seed"] = 2
    other = split(project, rows)
    assert Counter(other.values()) == Counter(first.values())
    assert sum(other[path] != first[path] for path in first) > 10


def test_a_new_image_moves_hardly_any_other(project: Project) -> None:
    rows = rows_of({"a": 60, "b": 60})
    first = split(project, rows)
    second = split(project, [*rows, row("a/new.png", "a", "new")])
    assert sum(second[path] != first[path] for path in first) <= 2


def test_equal_images_stay_together_also_across_classes(project: Project) -> None:
    rows = rows_of({"a": 30, "b": 30})
    copies = [row(f"{label}/copy{n}-{c}.png", label, f"same{n}") for n in range(8) for c, label in enumerate("aba")]
    split_of = split(project, rows + copies, val=0.2, test=0.3)
    for number in range(8):
        assert len({split_of[copy["path"]] for copy in copies[3 * number : 3 * number + 3]}) == 1
    assert len({split_of[copy["path"]] for copy in copies}) > 1


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (rows_of({"a": 20, "rare": 2}), ["class 'rare'", "(2)", "val and test and train", "at least 3"]),
        (
            [*rows_of({"a": 20}), *(row(f"rare/{n}.png", "rare", "the same") for n in range(9))],
            ["class 'rare'", "different images (1)"],
        ),
        (
            [*rows_of({"a": 9, "b": 9}, "train"), *rows_of({"a": 3, "new": 3}, "test")],
            ["class 'new'", "(0)", "val and train"],
        ),
        (
            [
                *rows_of({"a": 9, "b": 9}),
                *(row(f"{label}/x{n}.png", label, f"x{n}") for n in range(9) for label in "ac"),
            ],
            ["class 'c'", "different images (0)"],
        ),
        (rows_of({"a": 20}), ["only one class", "'a'", "one folder per class"]),
        (
            [*rows_of({"a": 20}), *(dict(r, status="quarantined") for r in rows_of({"b": 20}))],
            ["only one class", "'a'"],
        ),
        (
            [row(f"{n}.png", None, str(n), status="quarantined") for n in range(9)],
            ["no usable image in a class folder"],
        ),
    ],
)
def test_what_can_not_be_split_is_said_in_one_line(project: Project, rows: Rows, words: list[str]) -> None:
    write(project, rows)
    failed_in_one_line(project.run("split", "photos"), "photos", *words)
    assert not (project.root / "data/splits").exists() and not (project.root / "reports").exists()


def test_loose_images_and_one_folder_end_in_one_line(project: Project) -> None:
    """From the files on, as a person meets it."""
    class_folders(project.root / "in", {"only": 9})
    project.dataset("photos", "in")
    project.must_run("check", "photos")
    failed_in_one_line(project.run("split", "photos"), "only one class", "'only'", "in")
    for image in (project.root / "in/only").iterdir():
        image.rename(project.root / "in" / image.name)
    project.must_run("check", "photos")
    failed_in_one_line(project.run("split", "photos"), "no usable image in a class folder")


def test_before_check_has_run(project: Project) -> None:
    project.dataset("photos", "in")
    failed_in_one_line(project.run("split", "photos"), "data/checked/photos.parquet is not there", "dvc repro")
    (project.root / "data/checked").mkdir(parents=True)
    (project.root / "data/checked/photos.parquet").write_bytes(b"PAR1 cut")
    failed_in_one_line(project.run("split", "photos"), "data/checked/photos.parquet is damaged")


# draw


@st.composite
def tables(draw_: st.DrawFn) -> pd.DataFrame:
    """Classes of 3 to 40 different contents, some of them several times, some also in another class."""
    rows = []
    labels = draw_(st.lists(st.text("abc", min_size=1, max_size=2), min_size=2, max_size=4, unique=True))
    for label in labels:
        for number in range(draw_(st.integers(3, 40))):
            copies = draw_(st.sampled_from([1, 1, 1, 1, 2, 5]))
            rows += [{"label": label, "sha256": f"{label}-{number}"}] * copies
            if draw_(st.integers(0, 9)) == 0:
                other = draw_(st.sampled_from(labels))
                rows += [{"label": other, "sha256": f"{label}-{number}"}]
    return pd.DataFrame(rows).assign(split="train")


FRACTIONS = st.fixed_dictionaries({"test": st.sampled_from([0, 0.1, 0.2, 0.45]), "val": st.sampled_from([0, 0.1, 0.3])})


def drawn(table: pd.DataFrame, wanted: dict[str, float], seed: int = 1) -> pd.Series | None:
    """The sides that `draw` gives, None where it refuses because of a class with too few images."""
    table = table.copy()
    refusal = ""
    try:
        draw("photos", table, wanted, seed)
    except UserError as error:
        refusal = str(error)
    assert not refusal or "has too few different images" in refusal
    return None if refusal else table.split


@settings(deadline=None, max_examples=60)
@given(tables(), FRACTIONS, st.integers(0, 99), st.randoms(use_true_random=False))
def test_what_always_holds_of_a_draw(table: pd.DataFrame, wanted: dict[str, float], seed: int, random: Any) -> None:
    split_of = drawn(table, wanted, seed)
    shuffled = table.sample(frac=1, random_state=random.randrange(1000))
    again = drawn(shuffled, wanted, seed)
    if split_of is None:  # a class whose contents are all in another class too
        assert again is None
        return
    # independent of the order of rows
    assert again is not None and again.sort_index().equals(split_of)
    table = table.assign(split=split_of)
    # groups of equal content are never torn
    assert (table.groupby("sha256").split.nunique() == 1).all()
    # every side that is wanted has at least one image of every class
    expected = {"train", *(side for side, fraction in wanted.items() if fraction)}
    assert set(table.split) == expected
    # a group counts for the first of its classes
    grouped = table.groupby("sha256").agg(label=("label", "min"), split=("split", "first"), size=("label", "size"))
    for _, members in grouped.groupby("label"):
        assert set(members.split) == expected
        if len(members) >= 10:
            for side, fraction in wanted.items():
                share = members["size"][members.split == side].sum()
                at_least_one = max(1, fraction * members["size"].sum()) if fraction else 0
                assert abs(share - at_least_one) <= 0.5 + members["size"].max()


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(3, 300), min_size=2, max_size=4), st.floats(0.01, 0.45), st.floats(0.01, 0.45))
@example([3, 3], 0.45, 0.45)
def test_without_duplicates_fractions_are_exact(counts: list[int], val: float, test: float) -> None:
    labels = np.repeat([f"class {number}" for number in range(len(counts))], counts)
    table = pd.DataFrame({"label": labels, "sha256": [str(n) for n in range(len(labels))], "split": "train"})
    draw("photos", table, {"test": test, "val": val}, 5)
    for label, count in zip(dict.fromkeys(labels), counts, strict=True):
        of_class = table[table.label == label].split.value_counts()
        assert of_class["train"] >= 1
        for side, fraction in (("val", val), ("test", test)):
            assert of_class[side] >= 1
            assert abs(of_class[side] - fraction * count) <= 1


@given(st.integers(0, 5))
def test_what_the_publisher_placed_is_not_moved(seed: int) -> None:
    table = pd.DataFrame(
        {"label": list("ab") * 30, "sha256": [str(n) for n in range(60)], "split": ["test"] * 20 + ["train"] * 40}
    )
    draw("photos", table, {"test": 0, "val": 0.1}, seed)
    assert list(table.split[:20]) == ["test"] * 20
    assert Counter(table.split[20:]) == {"train": 36, "val": 4}


def test_similar_seeds_and_neighbours_are_not_drawn_alike() -> None:
    """A fair draw: over many seeds every image validates about as often as any other."""
    times = np.zeros(60)
    for seed in range(100):
        table = pd.DataFrame({"label": list("ab") * 30, "sha256": [str(n) for n in range(60)], "split": "train"})
        draw("photos", table, {"test": 0, "val": 0.2}, seed)
        times += (table.split == "val").to_numpy()
    assert times.sum() == 100 * 12
    assert abs(times - 20).max() < 20  # five standard deviations of a fair draw
