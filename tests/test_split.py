"""The stage `split`: no group torn, nothing moved by new images, the same for everybody."""

from __future__ import annotations

import copy
import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from conftest import REPOSITORY, Project, class_folders, failed_in_one_line, run, write_manifest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline import split as stage
from pipeline.config.datasets import Split
from pipeline.splitting import groups
from pipeline.splitting.cuts import Cuts, choose_cuts
from pipeline.splitting.draw import draw, train_order, uniform
from pipeline.splitting.groups import join
from pipeline.system.console import UserError

Rows = list[dict[str, Any]]
SPLITS = ["train", "val", "test"]
ORDER = {"test": 0, "val": 1, "train": 2}
PATIENT = r"patient(\d+)"


def content(of: str) -> str:
    return hashlib.md5(of.encode()).hexdigest()


def row(
    path: str, label: str | None, pixels: str, official: str | None = None, status: str = "ok", group: int | None = None
) -> dict[str, Any]:
    known: dict[str, Any] = {"width": 8, "height": 8, "mode": "RGB", "format": "PNG", "bytes": 9}
    return {
        "path": path, "label": label, "official_split": official, "sha256": "0" * 64, "pixel_hash": content(pixels),
        "phash": content(pixels)[:16], "group": group, "status": status, "issues": [], "reason": None, **known,
    }  # fmt: skip


def rows_of(counts: dict[str, int], official: str | None = None) -> Rows:
    prefix = f"{official}/" if official else ""
    return [
        row(f"{prefix}{label}/{number:04d}.png", label, f"{prefix}{label}{number}", official)
        for label, count in counts.items()
        for number in range(count)
    ]


def write(project: Project, rows: Rows, classes: list[str] | None = None, **split: Any) -> None:
    classes = classes or sorted({row["label"] for row in rows if row["label"]})
    write_manifest(project.root / "data/checked/photos.parquet", rows, classes)
    project.dataset("photos", "in", split=split)


def splits(project: Project) -> dict[str, str]:
    table = pq.read_table(project.root / "data/splits/photos.parquet")
    assert table.column_names == ["path", "label", "split", "train_order", "fold"]
    frame = table.to_pandas()
    assert set(frame.split) <= set(SPLITS) and frame.path.is_unique
    return dict(zip(frame.path, frame.split, strict=True))


def split(project: Project, rows: Rows, **options: Any) -> dict[str, str]:
    write(project, rows, **options)
    project.must_run("split", "photos")
    return splits(project)


def outputs(project: Project) -> list[bytes]:
    names = ("data/splits/photos.parquet", "data/splits/photos.json", "reports/photos/split.json")
    return [(project.root / path).read_bytes() for path in (*names, "reports/photos/split.html")]


def within(count: int, fraction: float, of: int, deviations: float = 5) -> bool:
    """Whether a binomial draw is within so many standard deviations."""
    return abs(count - fraction * of) <= deviations * np.sqrt(fraction * (1 - fraction) * of) + 1e-9


# The stage


def test_fractions_of_every_class_and_a_report(project: Project) -> None:
    rows = rows_of({"2": 400, "10": 300, "1": 33})
    rows.append(row("2/broken.png", "2", "broken", status="quarantined"))
    rows[0]["status"] = "warning"
    write(project, rows, ["1", "2", "10"], val=0.1, test=0.2)
    ran = project.must_run("split", "photos")
    report = json.loads((project.root / "reports/photos/split.json").read_text())
    table = pd.read_parquet(project.root / "data/splits/photos.parquet")
    assert list(report["classes"]) == ["1", "2", "10"]  # check's order
    counted = Counter(zip(table.label, table.split, strict=True))
    assert report == {
        "total": {split: int((table.split == split).sum()) for split in SPLITS},
        "classes": {label: {split: counted[label, split] for split in SPLITS} for label in ("1", "2", "10")},
        "groups": {split: int((table.split == split).sum()) for split in SPLITS},
        "largest_group": 1,
        "left_out": {"quarantined": 1, "dropped": 0, "leaked": 0, "tested": 0},
        "decisions": {"kept": 0, "dropped": 0, "relabeled": 0},
    }
    for label, count in (("1", 33), ("2", 400), ("10", 300)):
        assert abs(counted[label, "test"] - 0.2 * count) < 1 and abs(counted[label, "val"] - 0.1 * count) < 1
    assert ", ".join(f"{report['total'][split]} {split}" for split in SPLITS) in ran.out and "1 quarantined" in ran.out
    assert ran.out.splitlines()[1] == "photos: 3 classes: 1, 2, 10"
    schema = pq.read_schema(project.root / "data/splits/photos.parquet")
    assert json.loads(schema.metadata[b"classes"]) == ["1", "2", "10"]
    assert list(table.path) == [row["path"] for row in rows[:-1]]  # in check's order
    assert list(table.label) == [row["label"] for row in rows[:-1]]
    assert table.fold.isna().all()


def test_classes_without_images_are_told(project: Project) -> None:
    rows = rows_of({"a": 40, "b": 40}, "train") + rows_of({"a": 8}, "test") + rows_of({"gone": 1}, "train")
    write(project, rows, val=0.2, test=0.2)
    decided = project.root / "data/decided/photos.csv"
    decided.parent.mkdir(parents=True, exist_ok=True)
    decided.write_text(f"path,decision,label,note\n{rows[-1]['path']},drop,,\n")
    lines = project.must_run("split", "photos").out.splitlines()
    assert lines[1:3] == [
        "photos: 2 classes: a, b; no image is left of 1 more",
        "photos: no test images of b",
    ]
    schema = pq.read_schema(project.root / "data/splits/photos.parquet")
    assert json.loads(schema.metadata[b"classes"]) == ["a", "b"]


def test_official_splits_are_kept(project: Project) -> None:
    rows = rows_of({"a": 100, "b": 100}, "train") + rows_of({"a": 7, "b": 3}, "test")
    split_of = split(project, rows, val=0.1, test=0.2)
    assert {path for path, split in split_of.items() if split == "test"} == {r["path"] for r in rows[200:]}
    validates = [path for path, split in split_of.items() if split == "val"]
    assert len(validates) == 20 and sum("/a/" in path for path in validates) == 10
    assert all(path.startswith("train/") for path in validates)


def run_here(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stage in this process: the tests below run it often."""
    project.command("split")
    monkeypatch.chdir(project.root)
    stage.main("photos")


def test_the_same_again_in_any_order_and_another_with_another_seed(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def once_more(rows: Rows) -> dict[str, str]:
        write(project, rows)
        run_here(project, monkeypatch)
        return splits(project)

    rows = rows_of({"a": 60, "b": 50})
    first = once_more(rows)
    written = outputs(project)
    assert once_more(rows) == first and outputs(project) == written  # with its memory …
    (project.root / "data/splits/photos.json").unlink()
    assert once_more(rows) == first and outputs(project) == written  # … and without
    assert once_more(rows[::-1]) == first
    seed, project.params["seed"] = project.params["seed"], 2
    other = once_more(rows)
    assert sum(other[path] != first[path] for path in first) > 10
    project.params["seed"] = seed
    assert once_more(rows) == first


def test_a_clone_that_has_only_what_git_keeps_draws_the_same_as_data_grow_and_settings_change(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rows = rows_of({"a": 250, "b": 150, "few": 5})
    write(project, rows)
    run_here(project, monkeypatch)
    first = splits(project)
    clone = Project(tmp_path_factory.mktemp("clone"))
    for round_ in range(3):
        new = [row(f"{'ab'[n % 2]}/new{round_}-{n}.png", "ab"[n % 2], f"new{round_}-{n}") for n in range(40)]
        copied = rows[:: 5 + round_]
        rows = [*new, *({**image, "path": f"copies/{round_}/{image['path']}"} for image in copied), *rows]
        cuts = (project.root / "data/splits/photos.json").read_bytes()
        (clone.root / "data/splits").mkdir(parents=True, exist_ok=True)
        (clone.root / "data/splits/photos.json").write_bytes(cuts)
        for options in ({"val": 0.3}, {"folds": 4}, {"folds": 4, "fold": 1}, {}):  # others, and back
            write(project, rows, **options)
            run_here(project, monkeypatch)
            is_ = splits(project)
            assert {path for path in first if first[path] == "test"} == {p for p in first if is_[p] == "test"}
        write(clone, rows)
        run_here(clone, monkeypatch)
        second = splits(project)
        assert second == splits(clone) and first.items() <= second.items()
        assert all(second[f"copies/{round_}/{image['path']}"] == first[image["path"]] for image in copied)
        first = second


def test_a_smaller_test_set_leaves_out_what_has_tested(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = rows_of({"a": 100, "b": 100})
    tested: dict[float, set[str]] = {}
    for test, left_out in ((0.2, 0), (0.3, 0), (0.2, 20), (0.05, 50), (0.3, 0)):
        write(project, rows, test=test)
        run_here(project, monkeypatch)
        split_of = splits(project)
        tests = {path for path, split in split_of.items() if split == "test"}
        assert tested.setdefault(test, tests) == tests and len(tests) == 200 * test  # the same as before
        assert not set().union(*tested.values()) & {path for path, split in split_of.items() if split != "test"}
        assert Counter(split_of.values())["val"] == 20
        report = json.loads((project.root / "reports/photos/split.json").read_text())
        assert report["left_out"]["tested"] == left_out == 200 - len(split_of)
        assert ("they tested when split.test was larger" in capsys.readouterr().out) == (left_out > 0)


def test_a_split_without_test_images_is_one_line(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    write(project, rows_of({"a": 20, "b": 20}), test=0)
    with pytest.raises(UserError, match=r"^photos: no image is left to test: raise datasets.photos.split.test"):
        run_here(project, monkeypatch)
    assert not list(project.root.glob("data/splits/*"))


def test_the_memory_is_a_line_a_class_and_a_damaged_one_is_told(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(project, rows_of({"b": 30, "añb": 30}), group_by=r"(\d+)\.png")
    run_here(project, monkeypatch)
    memory = project.root / "data/splits/photos.json"
    lines = memory.read_text().splitlines()
    assert len(lines) == 4 and json.loads(memory.read_text()).keys() == {"añb", "b"}
    by_settings = json.loads("\n".join(lines))["b"][r"seed 1, group_by (\d+)\.png"]
    assert list(by_settings) == ["test 0.2", "test 0.2, val 0.1"]
    whole = outputs(project)
    conflict = "\n".join(["{", "<<<<<<< HEAD", lines[1], "=======", lines[1], ">>>>>>> other", *lines[2:]])
    for damage in (conflict, "", "[]", '{"b": 1}', '{"b": {"seed 1": {"test 0.2": [1.5]}}}'):
        memory.write_text(damage)
        with pytest.raises(UserError, match=r"^data/splits/photos.json can't be read.* git checkout") as refused:
            run_here(project, monkeypatch)
        assert len(str(refused.value).splitlines()) == 1
    memory.unlink()
    run_here(project, monkeypatch)
    assert outputs(project) == whole


@pytest.mark.parametrize(
    ("rows", "options", "words"),
    [
        (rows_of({"a": 20, "rare": 2}), {}, ["class 'rare'", "(2)", "test and val and train", "at least 3"]),
        (
            [*rows_of({"a": 20}), *(row(f"rare/{n}.png", "rare", "the same") for n in range(9))],
            {},
            ["class 'rare'", "different images (1)"],
        ),
        (
            [*rows_of({"a": 9, "b": 9}, "train"), *rows_of({"a": 3, "new": 3}, "test")],
            {},
            ["class 'new' has different images in the official val or test split alone", "at least 2"],
        ),
        (rows_of({"a": 20, "b": 4}), {"folds": 4}, ["class 'b'", "(4)", "test and fold 0", "fold 3", "at least 5"]),
        (
            [row(f"{label}/x{n}.png", label, f"{label}{n}") for n in range(9) for label in "ab"],
            {"group_by": "^[ab]"},
            ["class 'a'", "different images (1)"],
        ),
        (rows_of({"a": 20, "b": 20}), {"group_by": r"patient(\d+)"}, ["group_by = 'patient(", "finds nothing", "a/00"]),
        (rows_of({"a": 20}), {}, ["only one class", "'a'", "one folder per class"]),
        (
            [*rows_of({"a": 20}), *(dict(r, status="quarantined") for r in rows_of({"b": 20}))],
            {},
            ["only one class", "'a'"],
        ),
        (
            [row(f"{n}.png", None, str(n), status="quarantined") for n in range(9)],
            {},
            ["no usable image in a class folder"],
        ),
        (
            [dict(row(f"{n}.png", None, str(n), status="quarantined"), pixel_hash=None) for n in range(9)],
            {},
            ["no usable image in a class folder"],
        ),
    ],
)
def test_what_can_not_be_split_is_said_in_one_line(
    project: Project, monkeypatch: pytest.MonkeyPatch, rows: Rows, options: dict[str, Any], words: list[str]
) -> None:
    write(project, rows, **options)
    with pytest.raises(UserError) as refused:
        run_here(project, monkeypatch)
    message = str(refused.value)
    assert "photos" in message and len(message.splitlines()) == 1
    for word in words:
        assert word in message
    assert not (project.root / "data/splits").exists() and not (project.root / "reports").exists()


def test_loose_images_and_one_folder_end_in_one_line(project: Project) -> None:
    """From the files on, as a person meets it."""
    class_folders(project.root / "in", {"only": 9})
    project.dataset("photos", "in")
    project.must_run("check", "photos")
    failed_in_one_line(project.run("split", "photos"), "only one class", "'only'", "in")
    for image in (project.root / "in/only").iterdir():
        image.rename(project.root / "in" / image.name)
    failed_in_one_line(project.run("check", "photos"), "none of 9 files is a usable image with a class: no_label (9);")


def test_before_check_has_run(project: Project) -> None:
    project.dataset("photos", "in")
    failed_in_one_line(project.run("split", "photos"), "data/checked/photos.parquet is not there", "dvc repro")
    (project.root / "data/checked").mkdir(parents=True)
    (project.root / "data/checked/photos.parquet").write_bytes(b"PAR1 cut")
    failed_in_one_line(project.run("split", "photos"), "data/checked/photos.parquet is damaged")


# What always holds: join, draw and train_order


def options_of(**options: Any) -> Split:
    return Split.model_validate(options)


def made(table: pd.DataFrame, options: Split, seed: int = 1, cuts: Cuts | None = None) -> pd.DataFrame:
    """The split table, as the stage makes it, with all columns of `table`."""
    grouped = join("photos", table, options)
    drawn = draw("photos", grouped, options, seed, {} if cuts is None else cuts)
    kept = grouped.join(drawn.dropna(subset="split"), how="inner")
    return kept.assign(train_order=train_order(kept, seed))


def made_if_it_can_be(*arguments: Any) -> pd.DataFrame | None:
    """None where a class has too few groups for its splits."""
    try:
        return made(*arguments)
    except UserError as error:
        refusal = str(error)
    assert "different images" in refusal
    return None


def as_table(rows: Rows, left_out: frozenset[str] = frozenset()) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["path", "label", "official_split", "pixel_hash", "phash", "group"])
    return table.assign(used=~table.path.isin(left_out), first_label=table.label, listed_group=None)


def same_pixels(image: dict[str, Any]) -> dict[str, Any]:
    return {key: image[key] for key in ("pixel_hash", "phash")}


def side_of(table: pd.DataFrame) -> dict[str, str]:
    return dict(zip(table.path, table.split, strict=True))


@st.composite
def images(draw_: st.DrawFn, prefix: str = "", official: bool = False, most: int = 90) -> Rows:
    """Images of two or three classes, of which some are equal, some alike, and some of one patient."""
    random = np.random.default_rng(draw_(st.integers(0, 2**32)))
    count, classes = draw_(st.integers(12, most)), draw_(st.integers(2, 3))
    equal, alike, patients = (draw_(st.sampled_from([0.0, 0.1, 0.5])) for _ in range(3))
    rows: Rows = []
    for number in range(count):
        label = "abc"[random.integers(classes)]
        of = f"{prefix}{random.integers(count) if random.random() < equal else count + number}"
        patient = f"patient{random.integers(count // 2)}" if number == 0 or random.random() < patients else "nobody"
        group = int(random.integers(count)) if random.random() < alike else None
        placed = ("train", "val", "test")[random.integers(3)] if official else None
        rows.append(row(f"{prefix}{label}/{patient}/{number}.png", label, of, placed, group=group))
    return rows


def links(rows: Rows) -> dict[str, list[str]]:
    """The paths of each group, by plain search from neighbor to neighbor."""
    by_value: dict[Any, list[dict[str, Any]]] = {}
    values_of = {}
    for image in rows:
        patient = image["path"].split("/")[-2]
        values = [("pixels", image["pixel_hash"])]
        values += [("group", image["group"])] if image["group"] is not None else []
        values += [("patient", patient)] if patient != "nobody" else []
        values_of[image["path"]] = values
        for value in values:
            by_value.setdefault(value, []).append(image)
    found: dict[str, list[str]] = {}
    seen = set()
    for image in rows:
        todo = [image["path"]]
        while todo:
            path = todo.pop()
            if path not in seen:
                seen.add(path)
                found.setdefault(image["path"], []).append(path)
                todo += [other["path"] for value in values_of[path] for other in by_value[value]]
    return found


OPTIONS = st.builds(
    lambda test, rest: options_of(test=test, group_by=PATIENT, **rest),
    st.sampled_from([0.0, 0.1, 0.2, 0.45]),
    st.sampled_from([{"val": 0.0}, {"val": 0.1}, {"val": 0.3}, {"folds": 2}, {"folds": 3, "fold": 1}]),
)


@settings(deadline=None, max_examples=50)
@given(images(), OPTIONS, st.integers(0, 99), st.randoms(use_true_random=False))
def test_what_always_holds(rows: Rows, options: Split, seed: int, random: Any) -> None:
    cuts: Cuts = {}
    table = made_if_it_can_be(as_table(rows), options, seed, cuts)
    shuffled = random.sample(rows, len(rows))
    again = made_if_it_can_be(as_table(shuffled), options, seed)
    if table is None:
        assert again is None and cuts == {}
        return
    # all images, independent of the order of rows
    assert again is not None and side_of(again) == side_of(table) and len(table) == len(rows)
    orders = [dict(zip(drawn.path, drawn.train_order, strict=True)) for drawn in (again, table)]
    assert orders[0] == orders[1]
    # no group is torn
    for paths in links(rows).values():
        assert len({side_of(table)[path] for path in paths}) == 1
    # every class is in every split that is wanted
    wanted = {"train", *(["test"] if options.test else []), *(["val"] if options.val or options.folds else [])}
    for _, of_class in table.groupby("label"):
        assert set(of_class.split) == wanted
    # of every class and split, the fractions are nested and none is empty
    for _, of_split in table.groupby(["label", "split"]):
        np.testing.assert_allclose(sorted(of_split.train_order), np.arange(len(of_split)) / len(of_split))
    # with what it remembers, it is the same again
    remembered = copy.deepcopy(cuts)
    pd.testing.assert_frame_equal(made(as_table(rows), options, seed, cuts), table)
    assert cuts == remembered


@settings(deadline=None, max_examples=20)
@given(images(official=True), OPTIONS, st.integers(0, 99))
def test_groups_of_a_list_count_as_those_that_paths_name(rows: Rows, options: Split, seed: int) -> None:
    by_path = made_if_it_can_be(as_table(rows), options, seed)
    table = as_table(rows)
    listed = table.assign(listed_group=table.path.str.extract(PATIENT)[0].astype(object))
    cuts: Cuts = {}
    by_list = made_if_it_can_be(listed, options.model_copy(update={"group_by": None}), seed, cuts)
    assert (by_path is None) == (by_list is None)
    if by_path is not None and by_list is not None:
        assert side_of(by_list) == side_of(by_path)
        # groups that were not there before are another draw: the cuts of the one without them do not count
        assert {key for drawn in cuts.values() for key in drawn} <= {f"seed {seed}, listed groups"}


@settings(deadline=None, max_examples=80)
@given(st.lists(st.integers(1, 4), min_size=8, max_size=60), OPTIONS, st.integers(0, 99))
def test_the_first_draw_is_exact_to_within_one_group(sizes: list[int], options: Split, seed: int) -> None:
    """Of a class whose groups hold no other class: `b` here, of patients with as many images as `sizes` says."""
    rows = [row(f"b/patient{n}/{i}.png", "b", f"{n}/{i}") for n, size in enumerate(sizes) for i in range(size)]
    table = made(as_table([*rows, *rows_of({"a": 9})]), options, seed)
    of_class = table[table.label == "b"]
    shares = [("test", options.test), ("val", options.val)][: 1 if options.folds else 2]
    rest = len(rows) - (of_class.split == "test").sum()
    counts = [((of_class.split == split).sum(), fraction * len(rows)) for split, fraction in shares]
    counts += [((of_class.fold == fold).sum(), rest / options.folds) for fold in range(options.folds or 0)]
    for count, wanted in counts:
        assert abs(count - wanted) <= max(sizes)


@settings(deadline=None, max_examples=40)
@given(
    images(),
    st.lists(st.tuples(images(prefix="new-", most=30), OPTIONS, st.sampled_from([1, 1, 2])), min_size=2, max_size=4),
    st.integers(0, 2**32),
)
def test_what_was_in_test_never_trains(rows: Rows, steps: list[tuple[Rows, Split, int]], copies_seed: int) -> None:
    """While data grow, also by copies of old images, and fractions, folds and seed change."""
    random = np.random.default_rng(copies_seed)
    known = sorted({image["label"] for image in rows})
    cuts: Cuts = {}
    tested: dict[int, set[str]] = {1: set(), 2: set()}
    for number, (new, options, seed) in enumerate(steps):
        for image in new if number else []:
            image |= {"path": f"{number}/{image['path']}", "label": known[random.integers(len(known))]}
            if random.random() < 0.2:
                image |= same_pixels(rows[random.integers(len(rows))])
            rows = [image, *rows]
        table = made_if_it_can_be(as_table(rows), options, seed, cuts)
        if table is not None:
            assert not tested[seed] & set(table.path[table.split != "test"])
            tested[seed] |= set(table.path[table.split == "test"])
            for paths in links(rows).values():
                assert len({side_of(table).get(path) for path in paths}) == 1


@settings(deadline=None, max_examples=60)
@given(images(), images(prefix="new-", most=40), OPTIONS, st.integers(0, 99), st.integers(0, 2**32))
def test_growth_moves_only_what_is_tied_to_an_image_further_ahead(
    old: Rows, new: Rows, options: Split, seed: int, copies_seed: int
) -> None:
    cuts: Cuts = {}
    before = made_if_it_can_be(as_table(old), options, seed, cuts)
    assume(before is not None)
    assert before is not None
    random = np.random.default_rng(copies_seed)
    known = sorted({image["label"] for image in old})
    for image in new:  # patients and groups may be those of old images already
        image["label"] = known[random.integers(len(known))]
        if random.random() < 0.3:
            image |= same_pixels(old[random.integers(len(old))])
    cut_before = copy.deepcopy(cuts)
    after = made_if_it_can_be(as_table([*new, *old]), options, seed, cuts)
    assume(after is not None and cuts == cut_before)  # a class that has lost the last group of a split is cut anew
    assert after is not None
    bins_before, bins_after = (
        dict(zip(table.path, table.fold.fillna(-1) if options.folds else table.split.map(ORDER), strict=True))
        for table in (before, after)
    )
    groups_before = {path: set(paths) for paths in links(old).values() for path in paths}
    for paths in links([*new, *old]).values():
        were = {bins_before[path] for path in paths if path in bins_before}
        is_ = bins_after[paths[0]]
        assert all(is_ <= was for was in were)  # nobody moves back
        if groups_before.get(paths[0]) == set(paths):  # none has joined
            assert were == {is_}


@pytest.mark.parametrize("compressed", [False, True])
def test_copies_of_the_same_phash_move_nobody_whatever_group_they_make_larger(compressed: bool) -> None:
    rows = rows_of({"a": 200, "b": 200})
    for number in range(100):
        rows[number]["group"] = number // 2
    cuts: Cuts = {}
    was = side_of(made(as_table(rows), options_of(), 1, cuts))
    copies = [{**image, "path": f"copy/{image['path']}"} for image in rows[:100:2]]
    for image in copies if compressed else []:
        image["pixel_hash"] = content(image["path"])
    is_ = side_of(made(as_table([*copies, *rows]), options_of(), 1, cuts))
    assert was.items() <= is_.items()
    assert all(is_[image["path"]] == was[image["path"].removeprefix("copy/")] for image in copies)


def test_near_copies_move_only_what_they_tie_to_a_test_or_val_image() -> None:
    """An image that tests by itself takes its copies along, those that were there before too."""
    rows = rows_of({"a": 200, "b": 200})
    for number, image in enumerate(rows):
        image["group"] = number
    cuts: Cuts = {}
    was = side_of(made(as_table(rows), options_of(), 1, cuts))
    copies = [row(f"copy/{r['path']}", r["label"], f"near {r['path']}", group=r["group"]) for r in rows[::2]]
    alone = [{**image, "group": None} for image in copies]
    by_itself = side_of(made(as_table([*rows, *alone]), options_of(), 1, copy.deepcopy(cuts)))
    is_ = side_of(made(as_table([*copies, *rows]), options_of(), 1, cuts))
    for image in rows[::2]:
        path = image["path"]
        both = [was[path], by_itself[f"copy/{path}"]]
        assert is_[path] == is_[f"copy/{path}"] == min(both, key=ORDER.__getitem__)
    assert all(is_[image["path"]] == was[image["path"]] for image in rows[1::2])


@settings(deadline=None, max_examples=30)
@given(images(), st.integers(2, 4), st.sampled_from([0.0, 0.2, 0.4]), st.integers(0, 99))
def test_folds_share_out_all_that_test_leaves(rows: Rows, folds: int, test: float, seed: int) -> None:
    table = as_table(rows)
    without = made_if_it_can_be(table, options_of(test=test), seed)
    each = [made_if_it_can_be(table, options_of(test=test, folds=folds, fold=fold), seed) for fold in range(folds)]
    if without is None or any(one is None for one in each):
        assert without is None or all(one is None for one in each)
        return
    validated = Counter(path for one in each for path in one[one.split == "val"].path)
    tested = set(without[without.split == "test"].path)
    assert all(set(one[one.split == "test"].path) == tested for one in each)
    assert validated == dict.fromkeys({row["path"] for row in rows} - tested, 1)


@settings(deadline=None, max_examples=40)
@given(images(official=True), st.sampled_from([{"val": 0.1}, {"folds": 2}]), st.integers(0, 9))
def test_official_splits_stay_and_leaks_are_left_out(rows: Rows, rest: dict[str, Any], seed: int) -> None:
    options = options_of(group_by=PATIENT, **rest)
    table = made_if_it_can_be(as_table(rows), options, seed)
    if table is None:
        return
    placed = {image["path"]: image["official_split"] for image in rows}
    rank = {"train": 0, "val": 0 if options.folds else 1, "test": 2}
    split_of = side_of(table)
    for paths in links(rows).values():
        strongest = max(rank[placed[path]] for path in paths)
        assert {path for path in paths if path in split_of} == {p for p in paths if rank[placed[p]] == strongest}
    official = {placed[path] for path in split_of} - {"train", "val" if options.folds else "train"}
    for path, split in split_of.items():  # what the publisher has placed stays, and nothing else comes there
        assert split == placed[path] if placed[path] in official else split not in official


# One rule at a time


def test_another_seed_is_another_draw() -> None:
    """Over many seeds every image validates about as often as any other."""
    table = as_table(rows_of({"a": 30, "b": 30}))
    times = sum((made(table, options_of(test=0.0, val=0.2), seed).split == "val").to_numpy() for seed in range(100))
    assert all(within(count, 0.2, 100) for count in times) and within(times.sum(), 0.2, 6000)
    assert len(set(times)) > 5


@pytest.mark.parametrize(
    ("positions", "images", "targets", "spared", "expected"),
    [
        ([0.5, 0.1, 0.9, 0.3], [1, 1, 1, 1], [1, 2], 1, [0.2, 0.4]),
        ([0.5, 0.1, 0.9, 0.3], [1, 1, 1, 1], [0.1, 0.2], 1, [0.2, 0.4]),  # a group each …
        ([0.5, 0.1, 0.9, 0.3], [1, 1, 1, 1], [4, 4], 1, [0.4, 0.7]),  # … and one for the last split
        ([0.5, 0.1, 0.9, 0.3], [1, 1, 1, 1], [4], 2, [0.4]),
        ([0.5, 0.1, 0.9, 0.3], [1, 9, 1, 1], [5.1], 1, [0.2]),  # nearer to 9 than to 0
        ([0.5, 0.1, 0.9, 0.3], [1, 9, 1, 4], [12], 1, [0.4]),  # to 13 than to 9
        ([0.123456, 0.123457], [1, 1], [1], 1, [0.1234565]),  # as few digits as tell them apart
        ([0.25], [1], [1, 1], 1, [0.6, 0.6]),  # too few: `draw` says so
    ],
)
def test_where_a_class_is_cut(
    positions: list[float], images: list[int], targets: list[float], spared: int, expected: list[float]
) -> None:
    cuts = choose_cuts(np.array(positions), np.array(images), np.array(targets), spared)
    assert cuts == expected


def test_the_order_of_training_images_is_not_that_of_the_splits() -> None:
    table = made(as_table(rows_of({"a": 300, "b": 300})), options_of(group_by=".+"), 1)  # known by their paths, both
    positions = pd.Series(uniform("side", 1, table.key), table.index)
    for _, of_split in table[table.split == "train"].groupby("label"):
        assert abs(of_split.train_order.corr(positions[of_split.index])) < 0.3


def test_a_split_whose_images_were_dropped_gets_others_but_never_those_of_test() -> None:
    rows = rows_of({"a": 90, "few": 8})
    options, cuts = options_of(test=0.4, val=0.1), {}  # type: tuple[Split, Cuts]
    before = made(as_table(rows), options, 1, cuts)
    few = before[before.label == "few"].set_index("path").split
    assert few.value_counts().to_dict() == {"train": 4, "test": 3, "val": 1}

    def without(split: str) -> dict[str, str]:
        table = as_table(rows, frozenset(few.index[few == split]))
        return side_of(made(table, options, 1, copy.deepcopy(cuts)))

    for split in ("val", "test"):  # one or more that trained come instead
        is_ = without(split)
        moved = {path for path in is_ if is_[path] != before.set_index("path").split[path]}
        assert moved and all(few[path] != "test" for path in moved)
        assert {is_[path] for path in few.index if path in is_} == set(SPLITS)

    gone = frozenset(few.index[few != "test"])
    with pytest.raises(UserError, match=r"'few' has 3 different images, but none is left for val.*photos.json"):
        made(as_table(rows, gone), options, 1, cuts)


def test_a_new_label_takes_no_image_out_of_test() -> None:
    rows = rows_of({"a": 50, "b": 31})
    cuts: Cuts = {}
    table = as_table(rows)
    was = side_of(made(table, options_of(), 1, cuts))
    for first, second in ("ab", "ba"):
        relabeled = table.assign(label=table.label.where((table.label != first) | (table.index % 3 > 0), second))
        is_ = side_of(made(relabeled, options_of(), 1, copy.deepcopy(cuts)))
        assert all(is_[path] == "test" for path, split in was.items() if split == "test")


def test_an_image_that_is_brought_back_from_an_unlabeled_test_set_is_drawn() -> None:
    rows = [*rows_of({"a": 50, "b": 31}, "train"), row("test/1.png", None, "new", "test")]
    table = as_table(rows)
    before = table.assign(used=table.label.notna())
    after = table.assign(label=table.label.fillna("a"))
    cuts: Cuts = {}
    was, is_ = (side_of(made(each, options_of(test=0.25), 1, cuts)) for each in (before, after))
    assert sum(split == "test" for split in was.values()) >= 20
    assert {path: split for path, split in is_.items() if path in was} == was and is_["test/1.png"] in SPLITS


def test_folds_put_no_official_val_image_into_test() -> None:
    rows = [*rows_of({"a": 50, "b": 31}, "train"), *rows_of({"a": 20, "b": 20}, "val")]
    cuts: Cuts = {}
    folds = made(as_table(rows), options_of(folds=4, test=0.25), 1, cuts)
    assert folds.fold[folds.official_split == "val"].between(0, 3).all()
    assert within_one(folds[folds.split == "test"].label.value_counts().to_dict(), {"a": 12.5, "b": 7.75})
    plain = side_of(made(as_table(rows), options_of(test=0.25), 1, cuts))
    tested = {path for path, split in plain.items() if split == "test"}
    assert tested == set(folds.path[folds.split == "test"])
    assert all(plain[path] == "val" for path in folds.path[folds.official_split == "val"])


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 99), st.integers(0, 2**32), st.booleans())
def test_copies_of_test_images_among_official_val_images_do_not_train(seed: int, copies_seed: int, alike: bool) -> None:
    """The next to come are copies of old images, in the publisher's val, with folds that take its images."""
    rows = rows_of({"a": 40, "b": 40}, "train")
    options = options_of(folds=3, test=0.25)
    cuts: Cuts = {}
    before = side_of(made(as_table(rows), options, seed, cuts))
    tested = {path for path, split in before.items() if split == "test"}
    new = rows_of({"a": 20, "b": 20}, "val")
    random = np.random.default_rng(copies_seed)
    of = {}
    for image in new:
        old = rows[random.integers(len(rows))]
        of[image["path"]] = old["path"]
        if alike:
            old["group"] = image["group"] = int(old["path"][-8:-4]) + 100 * (old["label"] == "a")
        else:
            image |= same_pixels(old)
    after = side_of(made(as_table([*new, *rows]), options, seed, cuts))
    for path, split in after.items():
        assert split == "test" or of.get(path, path) not in tested


def within_one(counts: dict[str, int], expected: dict[str, float]) -> bool:
    return all(abs(counts[label] - number) <= 1 for label, number in expected.items())


def test_patients_with_images_of_every_class() -> None:
    rows = [
        row(f"{label}/patient{patient}/{n}.png", label, f"{label}{patient}/{n}")
        for patient in range(12)
        for n in range(3)
        for label in "ab"
    ]
    for seed in range(10):
        table = made(as_table(rows), options_of(group_by=PATIENT), seed)
        assert (table.groupby(table.path.str.extract(PATIENT)[0]).split.nunique() == 1).all()
        assert set(table.split) == set(SPLITS)


def test_a_patient_keeps_his_split_with_other_pictures() -> None:
    """The split comes from the name."""
    split_of = []
    for day in ("monday", "tuesday"):
        rows = [
            row(f"{'ab'[p % 2]}/patient{p}/{n}.png", "ab"[p % 2], f"{p}/{n}/{day}") for p in range(99) for n in "12"
        ]
        split_of.append([side_of(made(as_table(rows), options_of(group_by=by))) for by in (PATIENT, None)])
    assert split_of[0][0] == split_of[1][0]
    assert split_of[0][1] != split_of[1][1]  # without names, other pictures are other groups


@pytest.mark.parametrize(
    ("pattern", "together"),
    [
        (r"v\d", ["a/v1-1.png", "b/v1-2.png"]),  # the whole match
        (r"(v\d)-(\d)", ["a/v1-1.png", "b/v1-2.png"]),  # the first group
        (r"-(?:1)", ["a/v1-1.png", "a/v2-1.png"]),
        (r"(?i)V1", ["a/v1-1.png", "b/v1-2.png"]),
        (r"^(a)|b", ["a/v1-1.png", "a/v2-1.png"]),  # a match without the group is none
    ],
)
def test_what_group_by_takes_together(pattern: str, together: list[str]) -> None:
    paths = ["a/v1-1.png", "b/v1-2.png", "a/v2-1.png", "b/x.png", "b/y.png"]
    joined = join("photos", as_table([row(path, path[0], path) for path in paths]), options_of(group_by=pattern))
    assert list(joined.path[joined.component.duplicated(keep=False)]) == together


@pytest.mark.parametrize("pattern", ["(a+)+$", r"(\w*)*!", "(a|aa)+$"])
def test_a_pattern_that_would_search_for_ever_is_one_line(
    project: Project, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    rows = [row(f"{label}/{'a' * 60}{n}.png", label, f"{label}{n}") for label in "ab" for n in range(9)]
    if pattern == "(a+)+$":  # one of them through the stage
        write(project, rows, group_by=pattern)
        ran = project.run("split", "photos")
        failed_in_one_line(ran, "datasets.photos.split.group_by = '(a+)+$' takes too long", "a/aaaa", "expected")
    monkeypatch.setattr(groups, "PATIENCE", 0.05)
    with pytest.raises(UserError, match="takes too long"):
        join("photos", as_table(rows), options_of(group_by=pattern))


def test_leaving_an_image_out_moves_no_other() -> None:
    """Not even that by which its group is known, or that holds its group together."""
    rows = [row(f"{'ab'[n % 2]}/{n}.png", "ab"[n % 2], str(n), group=n // 4) for n in range(400)]
    cuts: Cuts = {}
    whole = made(as_table(rows), options_of(), 1, cuts)
    positions = pd.Series(uniform("side", 1, whole.key), whole.index)
    firsts = whole.path[positions.groupby(whole.component).idxmin()]
    rest = made(as_table(rows, frozenset(firsts)), options_of(), 1, cuts)
    assert len(rest) == 300 and side_of(rest).items() <= side_of(whole).items()


def test_splits_do_not_depend_on_paths() -> None:
    rows = rows_of({"a": 40, "b": 40})
    cuts: Cuts = {}
    was = side_of(made(as_table(rows), options_of(), 1, cuts))
    renamed = [{**image, "path": f"moved/{image['path']}"} for image in rows]
    assert side_of(made(as_table(renamed), options_of(), 1, cuts)) == {f"moved/{p}": s for p, s in was.items()}


def test_git_keeps_where_classes_are_cut(tmp_path: Path) -> None:
    run(["git", "init", "-q"], tmp_path)
    (tmp_path / ".gitignore").write_bytes((REPOSITORY / ".gitignore").read_bytes())
    (tmp_path / "data/splits").mkdir(parents=True)
    for name in ("photos.json", "photos.parquet", ".photos.json.1.partial"):
        (tmp_path / "data/splits" / name).touch()
    assert run(["git", "ls-files", "-o", "--exclude-standard", "data"], tmp_path).out.split() == [
        "data/splits/photos.json"
    ]
