"""The stage `split`: no group torn, nothing moved by new images, the same for everybody."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from conftest import Project, class_folders, failed_in_one_line, write_manifest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline import split as stage
from pipeline.config.datasets import Split
from pipeline.splitting import groups
from pipeline.splitting.draw import draw, train_order, uniform
from pipeline.splitting.groups import join
from pipeline.system.console import UserError

Rows = list[dict[str, Any]]
SIDES = ["train", "val", "test"]
PATIENT = r"patient(\d+)"


def content(of: str) -> str:
    return hashlib.md5(of.encode()).hexdigest()


def row(
    path: str, label: str | None, pixels: str, official: str | None = None, status: str = "ok", group: int | None = None
) -> dict[str, Any]:
    known: dict[str, Any] = {"width": 8, "height": 8, "mode": "RGB", "format": "PNG", "bytes": 9, "phash": "0" * 16}
    return {
        "path": path, "label": label, "official_split": official, "sha256": "0" * 64, "pixel_hash": content(pixels),
        "group": group, "status": status, "issues": [], "reason": None, **known,
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


def sides(project: Project) -> dict[str, str]:
    table = pq.read_table(project.root / "data/splits/photos.parquet")
    assert table.column_names == ["path", "label", "split", "train_order", "fold", "pixel_hash"]
    frame = table.to_pandas()
    assert set(frame.split) <= set(SIDES) and frame.path.is_unique
    return dict(zip(frame.path, frame.split, strict=True))


def split(project: Project, rows: Rows, **options: Any) -> dict[str, str]:
    write(project, rows, **options)
    project.must_run("split", "photos")
    return sides(project)


def outputs(project: Project) -> tuple[bytes, bytes]:
    root = project.root
    return (root / "data/splits/photos.parquet").read_bytes(), (root / "reports/photos/split.json").read_bytes()


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
        "total": {side: int((table.split == side).sum()) for side in SIDES},
        "classes": {label: {side: counted[label, side] for side in SIDES} for label in ("1", "2", "10")},
        "groups": {side: int((table.split == side).sum()) for side in SIDES},
        "largest_group": 1,
        "left_out": {"quarantined": 1, "dropped": 0, "leaked": 0},
        "decisions": {"kept": 0, "dropped": 0, "relabelled": 0},
    }
    for label, count in (("1", 33), ("2", 400), ("10", 300)):
        assert within(counted[label, "test"], 0.2, count) and within(counted[label, "val"], 0.1, count)
    assert ", ".join(f"{report['total'][side]} {side}" for side in SIDES) in ran.out and "1 quarantined" in ran.out
    schema = pq.read_schema(project.root / "data/splits/photos.parquet")
    assert json.loads(schema.metadata[b"classes"]) == ["1", "2", "10"]
    assert list(table.path) == [row["path"] for row in rows[:-1]]  # in check's order
    assert list(table.label) == [row["label"] for row in rows[:-1]]
    assert table.fold.isna().all()


def test_official_splits_are_kept(project: Project) -> None:
    rows = rows_of({"a": 100, "b": 100}, "train") + rows_of({"a": 7, "b": 3}, "test")
    split_of = split(project, rows, val=0.1, test=0.2)
    assert {path for path, side in split_of.items() if side == "test"} == {r["path"] for r in rows[200:]}
    validates = [path for path, side in split_of.items() if side == "val"]
    assert within(len(validates), 0.1, 200) and any("/a/" in path for path in validates)
    assert all(path.startswith("train/") for path in validates)


def run_here(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stage in this process: the tests below run it often."""
    project.command("split")
    monkeypatch.chdir(project.root)
    stage.main("photos")


def test_the_same_again_in_any_order_and_another_with_another_seed(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def once_more(rows: Rows) -> dict[str, str]:
        write(project, rows)
        run_here(project, monkeypatch)
        return sides(project)

    rows = rows_of({"a": 60, "b": 50})
    first = once_more(rows)
    written = outputs(project)
    assert once_more(rows) == first and outputs(project) == written  # with its own output there …
    (project.root / "data/splits/photos.parquet").unlink()
    assert once_more(rows) == first and outputs(project) == written  # … and without
    (project.root / "data/splits/photos.parquet").unlink()
    assert once_more(rows[::-1]) == first
    project.params["seed"] = 2
    other = once_more(rows)
    assert "with other settings" in capsys.readouterr().out
    assert sum(other[path] != first[path] for path in first) > 10


def test_ten_percent_more_images_move_none_of_the_old(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Some of the new ones are near copies of old ones; many of these have the smaller key of their group."""
    rows = rows_of({"a": 250, "b": 150, "few": 5})
    for number in range(40):
        rows[number]["group"] = number // 2
    write(project, rows)
    run_here(project, monkeypatch)
    first = sides(project)
    for round_ in range(3):
        grown = [dict(r) for r in rows]
        new = [row(f"{'ab'[n % 2]}/new{round_}-{n}.png", "ab"[n % 2], f"new{round_}-{n}") for n in range(40)]
        for number, copy in enumerate(new[:20]):
            original = grown[5 * number + round_]  # some have a group already
            if original["group"] is None:
                original["group"] = 1000 * (round_ + 1) + number
            copy["group"] = original["group"]
        rows = [*new, *grown]  # their rows come first
        write(project, rows)
        run_here(project, monkeypatch)
        second = sides(project)
        changed = sum(second[path] != side for path, side in first.items())
        with capsys.disabled():
            print(f"\n{len(new)} images added to {len(first)}: {changed} old images changed side")
        assert changed == 0
        side_of = {r["path"]: second[r["path"]] for r in rows}
        for number, copy in enumerate(new[:20]):
            assert side_of[copy["path"]] == side_of[grown[5 * number + round_]["path"]]
        first = second


def test_other_settings_draw_anew_but_another_fold_does_not(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = rows_of({"a": 40, "b": 40})
    for options in ({}, {"val": 0.3}, {"test": 0.3}, {"folds": 4}, {"folds": 3}, {"folds": 3, "group_by": "[0-9]+"}):
        write(project, rows, **options)
        run_here(project, monkeypatch)
        assert ("with other settings" in capsys.readouterr().out) == (options != {})
        output = project.root / "data/splits/photos.parquet"
        with_earlier = output.read_bytes()
        output.unlink()
        run_here(project, monkeypatch)
        assert output.read_bytes() == with_earlier
    capsys.readouterr()
    before = pd.read_parquet(output)
    write(project, rows, folds=3, group_by="[0-9]+", fold=2)
    run_here(project, monkeypatch)
    assert "with other settings" not in capsys.readouterr().out
    after = pd.read_parquet(output)
    pd.testing.assert_series_equal(before.fold, after.fold)
    assert ((after.split == "val") == (after.fold == 2)).all()


def test_an_earlier_table_that_is_damaged_or_of_another_version(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rows_of({"a": 30, "b": 30})
    write(project, rows)
    run_here(project, monkeypatch)
    first = sides(project)
    output = project.root / "data/splits/photos.parquet"
    whole = output.read_bytes()
    middle = len(whole) // 3
    for damage in (whole[:-20], b"", whole[:50] + bytes(middle) + whole[50 + middle :]):
        output.write_bytes(damage)
        with pytest.raises(UserError, match=r"^data/splits/photos.parquet is damaged: remove it and run dvc repro$"):
            run_here(project, monkeypatch)
    write_manifest(output, [], ["a"])
    run_here(project, monkeypatch)
    assert sides(project) == first


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
            ["class 'new'", "(0)", "val and train"],
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
    project.must_run("check", "photos")
    failed_in_one_line(project.run("split", "photos"), "no usable image in a class folder")


def test_before_check_has_run(project: Project) -> None:
    project.dataset("photos", "in")
    failed_in_one_line(project.run("split", "photos"), "data/checked/photos.parquet is not there", "dvc repro")
    (project.root / "data/checked").mkdir(parents=True)
    (project.root / "data/checked/photos.parquet").write_bytes(b"PAR1 cut")
    failed_in_one_line(project.run("split", "photos"), "data/checked/photos.parquet is damaged")


# What always holds: join, draw and train_order


def options_of(**options: Any) -> Split:
    return Split.model_validate(options)


def made(table: pd.DataFrame, options: Split, seed: int = 1, previous: pd.DataFrame | None = None) -> pd.DataFrame:
    """The split table, as the stage makes it, with all columns of `table`."""
    grouped = join("photos", table, options)
    kept = grouped[grouped.used & ~grouped.leaked]
    kept = kept.join(draw("photos", kept, options, seed, previous))
    return kept.assign(train_order=train_order(kept, seed))


def made_if_it_can_be(*arguments: Any) -> pd.DataFrame | None:
    """None where a class has too few groups for its sides."""
    try:
        return made(*arguments)
    except UserError as error:
        refusal = str(error)
    assert "different images" in refusal
    return None


def as_table(rows: Rows, left_out: frozenset[str] = frozenset()) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["path", "label", "official_split", "pixel_hash", "group"])
    return table.assign(used=~table.path.isin(left_out))


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
    """The paths of each group, by plain search from neighbour to neighbour."""
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


@settings(deadline=None, max_examples=80)
@given(images(), OPTIONS, st.integers(0, 99), st.randoms(use_true_random=False))
def test_what_always_holds(rows: Rows, options: Split, seed: int, random: Any) -> None:
    table = made_if_it_can_be(as_table(rows), options, seed)
    shuffled = random.sample(rows, len(rows))
    again = made_if_it_can_be(as_table(shuffled), options, seed)
    if table is None:
        assert again is None
        return
    # all images, independent of the order of rows
    assert again is not None and side_of(again) == side_of(table) and len(table) == len(rows)
    orders = [dict(zip(drawn.path, drawn.train_order, strict=True)) for drawn in (again, table)]
    assert orders[0] == orders[1]
    # no group is torn
    for paths in links(rows).values():
        assert len({side_of(table)[path] for path in paths}) == 1
    # every class is on every side that is wanted
    wanted = {"train", *(["test"] if options.test else []), *(["val"] if options.val or options.folds else [])}
    for _, of_class in table.groupby("label"):
        assert set(of_class.split) == wanted
    # of every class and side, the fractions are nested and none is empty
    for _, of_side in table.groupby(["label", "split"]):
        np.testing.assert_allclose(sorted(of_side.train_order), np.arange(len(of_side)) / len(of_side))
    # the output, read back, is a fixed point
    fixed = made(as_table(rows), options, seed, table)
    pd.testing.assert_frame_equal(fixed, table)


@settings(deadline=None, max_examples=80)
@given(images(), images(prefix="new-", most=40), OPTIONS, st.integers(0, 99), st.integers(0, 2**32))
def test_new_images_move_only_what_they_join(old: Rows, new: Rows, options: Split, seed: int, links_seed: int) -> None:
    before = made_if_it_can_be(as_table(old), options, seed)
    assume(before is not None)
    assert before is not None
    random = np.random.default_rng(links_seed)
    known = sorted({image["label"] for image in old})
    for image in new:  # patients and groups may be those of old images already
        image["label"] = known[random.integers(len(known))]
        if random.random() < 0.1:
            image["pixel_hash"] = old[random.integers(len(old))]["pixel_hash"]
    rows = [*new, *old] if random.random() < 0.5 else [*old, *new]
    after = made_if_it_can_be(as_table(rows), options, seed, before)
    if after is None:
        return
    was, is_ = side_of(before), side_of(after)
    fold_was = dict(zip(before.path, before.fold.astype(str), strict=True))
    merged = set()
    for paths in links(rows).values():
        assert len({is_[path] for path in paths}) == 1
        sides_before = {was[path] for path in paths if path in was}
        if len({(was[path], fold_was[path]) for path in paths if path in was}) > 1:  # folds are sides of other splits
            merged.update(paths)
            assert "test" not in sides_before or is_[paths[0]] == "test"
    changed = {path for path in was if is_[path] != was[path]}
    assert not any(was[path] == "test" for path in changed)  # what was tested on is never trained on
    taken = {image["label"] for image in rows if image["path"] in merged}
    label_of = {image["path"]: image["label"] for image in rows}
    # but for groups that are one now, only a class that has lost a side's last group that way may move
    assert all(path in merged or label_of[path] in taken for path in changed)
    if not merged:
        assert not changed


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
def test_official_sides_stay_and_leaks_are_left_out(rows: Rows, rest: dict[str, Any], seed: int) -> None:
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
    for path, side in split_of.items():  # what the publisher has placed stays, and nothing else comes there
        assert side == placed[path] if placed[path] in official else side not in official


# One rule at a time


def test_fractions_are_within_the_stated_tolerance_however_large_the_groups() -> None:
    """A group that is known by the smallest of many hashes must not end in test more often."""
    rows = [
        row(f"{label}/{size}/patient{size}{label}{n}/{i}.png", label, f"{label}{size}/{n}/{i}", group=None)
        for label, size, count in itertools.product("ab", (1, 4, 12), (700,))
        for n in range(count)
        for i in range(size)
    ]
    numbers = {key: n for n, key in enumerate(sorted({r["path"].rsplit("/", 1)[0] for r in rows}))}
    for image in rows:
        image["group"] = numbers[image["path"].rsplit("/", 1)[0]]
    for options in (options_of(), options_of(group_by=r"/(patient\w+)/")):
        table = made(as_table(rows), options)
        groups = table.drop_duplicates("component")
        for kind in ("label", groups.path.str.split("/").str[1]):
            for _, some in groups.groupby(kind):
                assert within((some.split == "test").sum(), 0.2, len(some))
                assert within((some.split == "val").sum(), 0.1, len(some))


def test_another_seed_is_another_draw() -> None:
    """Over many seeds every image validates about as often as any other."""
    table = as_table(rows_of({"a": 30, "b": 30}))
    times = sum((made(table, options_of(test=0.0, val=0.2), seed).split == "val").to_numpy() for seed in range(100))
    assert all(within(count, 0.2, 100) for count in times) and within(times.sum(), 0.2, 6000)
    assert len(set(times)) > 5


def test_folds_are_of_equal_size() -> None:
    table = made(as_table(rows_of({"a": 1500, "b": 1500})), options_of(test=0.4, folds=5))
    for fold in range(5):
        assert within((table.fold == fold).sum(), 0.6 / 5, 3000)


def as_documented(positions: list[float], test: float, rest: list[float]) -> list[int]:
    """The bins of the groups of one class: 0 tests; `rest` are the ends of the other bins."""
    edges = [0, test, *rest]
    bins = [next(b for b, end in enumerate(edges[1:]) if position < end) for position in positions]

    def move(to: int, low: float, high: float, spare: Any) -> None:
        distances = {
            group: max(low - position, position - high, 0)
            for group, position in enumerate(positions)
            if bins[group] != to and spare(bins[group])
        }
        bins[min(distances, key=lambda group: distances[group])] = to

    if 0 not in bins:
        move(0, 0, test, lambda _: True)
    while len(bins) - bins.count(0) < 2:
        move(1, test, 1, lambda side: side == 0)
    for side in range(1, len(edges) - 1):
        if side not in bins:
            move(side, edges[side], edges[side + 1], lambda from_: from_ > 0 and bins.count(from_) > 1)
    return bins


@pytest.mark.parametrize(
    ("options", "rest"),
    [
        ({"test": 0.2, "val": 0.1}, [0.3, 1]),
        ({"test": 0.2, "val": 0.7}, [0.9, 1]),
        ({"test": 0.8, "val": 0.1}, [0.9, 1]),
        ({"test": 0.1, "folds": 3}, [0.4, 0.7, 1]),
    ],
)
def test_the_nearest_group_goes_to_a_side_that_chance_forgot(options: dict[str, Any], rest: list[float]) -> None:
    rows = rows_of({"a": 60, "few": 5})
    moved = 0
    for seed in range(60):
        table = made(as_table(rows), options_of(**options), seed)
        expected = []
        for _, of_class in table.groupby("label"):
            positions = uniform("side", seed, of_class.key).tolist()
            expected += as_documented(positions, options["test"], rest)
            moved += expected[-len(positions) :] != np.searchsorted([options["test"], *rest], positions).tolist()
        if "folds" in options:
            assert (table.fold + 1).fillna(0).tolist() == expected
        else:
            assert [["test", "val", "train"].index(side) for side in table.split] == expected
    assert moved > 5


def test_the_order_of_training_images_is_not_that_of_the_sides() -> None:
    table = made(as_table(rows_of({"a": 300, "b": 300})), options_of(group_by=".+"), 1)  # known by their paths, both
    positions = pd.Series(uniform("side", 1, table.key), table.index)
    for _, of_side in table[table.split == "train"].groupby("label"):
        assert abs(of_side.train_order.corr(positions[of_side.index])) < 0.3


def test_new_groups_go_where_one_is_missing_before_old_ones_move_and_none_leaves_test() -> None:
    rows = rows_of({"a": 90, "few": 6})
    before = made(as_table(rows), options_of(test=0.4, val=0.2))
    before.loc[before.label == "few", "split"] = ["test", "test", "test", "val", "train", "train"]
    few = before[before.label == "few"]
    gone = frozenset(few.path[few.split == "val"])

    def without_val(rows: Rows) -> tuple[dict[str, str], set[str]]:
        is_ = side_of(made(as_table(rows, gone), options_of(test=0.4, val=0.2), 1, before))
        return is_, {path for path, side in side_of(before).items() if path not in gone and is_[path] != side}

    _, moved = without_val(rows)
    assert len(moved) == 1 and moved < set(few.path[few.split == "train"])
    new = [row(f"few/new{n}.png", "few", f"new{n}") for n in range(12)]
    natural = side_of(made(as_table([*rows, *new], gone), options_of(test=0.4, val=0.2)))
    new = [image for image in new if natural[image["path"]] == "train"]
    is_, moved = without_val([*rows, *new])
    assert not moved and [is_[image["path"]] for image in new].count("val") == 1

    gone = frozenset(few.path[few.split != "test"])
    with pytest.raises(UserError, match=r"'few' has 3 different images, but .* remove data/splits/photos.parquet"):
        without_val(rows)


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
        assert set(table.split) == set(SIDES)


def test_a_patient_keeps_his_side_with_other_pictures() -> None:
    """Without an earlier table: the side comes from the name."""
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
    whole = made(as_table(rows), options_of())
    firsts = whole.path[whole.pixel_hash == whole.key]
    assert len(firsts) == 100
    rest = made(as_table(rows, frozenset(firsts)), options_of())
    assert len(rest) == 300 and side_of(rest).items() <= side_of(whole).items()


def test_old_images_are_known_by_their_pixels_and_else_by_their_path() -> None:
    rows = rows_of({"a": 40, "b": 40})
    turned = {"train": "val", "val": "train", "test": "test"}
    previous = made(as_table(rows), options_of()).assign(split=lambda table: table.split.map(turned))
    was = side_of(previous)
    assert side_of(made(as_table(rows), options_of(), 1, previous)) == was
    renamed = [{**image, "path": f"moved/{image['path']}"} for image in rows]
    assert side_of(made(as_table(renamed), options_of(), 1, previous)) == {f"moved/{p}": s for p, s in was.items()}
    stored_anew = [{**image, "pixel_hash": content(f"jpeg of {image['path']}")} for image in rows]
    assert side_of(made(as_table(stored_anew), options_of(), 1, previous)) == was
    other_way_round = [{**image, "path": other["path"]} for image, other in zip(rows, rows[::-1], strict=True)]
    swapped = made(as_table(other_way_round), options_of(), 1, previous)
    assert dict(zip(swapped.pixel_hash, swapped.split, strict=True)) == {
        image["pixel_hash"]: was[image["path"]] for image in rows
    }


def test_groups_that_a_new_image_joins_go_to_test_before_val_before_train() -> None:
    rows = rows_of({"a": 90, "b": 90})
    before = made(as_table(rows), options_of())
    some = {side: before.path[before.split == side].iloc[:2].tolist() for side in SIDES}
    for number, pair in enumerate((("train", "val"), ("val", "test"))):
        for image in rows:
            if image["path"] in {some[side][number] for side in pair}:
                image["group"] = number
    rows += [row(f"a/bridge{number}.png", "a", f"bridge{number}", group=number) for number in range(2)]
    after = side_of(made(as_table(rows), options_of(), 1, before))
    assert after["a/bridge0.png"] == after[some["train"][0]] == after[some["val"][0]] == "val"
    assert after["a/bridge1.png"] == after[some["val"][1]] == after[some["test"][1]] == "test"
    moved = {path for path, side in side_of(before).items() if after[path] != side}
    assert moved == {some["train"][0], some["val"][1]}
