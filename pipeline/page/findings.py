"""Choose the findings that the page lists: images by issue, the worst first, and groups of duplicates.

The page stays small however many findings there are, because they share a fixed number of rows and thumbnails.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.page.issues import GROUPS, ISSUES, PAIRS, Issue

LISTED, PICTURED = 7_500, 400  # images that are listed by issue, and those of them with a thumbnail
PER_ISSUE_LISTED, PER_ISSUE_PICTURED = 5_000, 60  # of one issue
GROUPS_LISTED, GROUPS_PICTURED = 500, 100
MEMBERS = 6  # shown of one group
OTHERS = 5_000  # images of groups that are not shown, in all; their paths are in the page, to be ticked with the rest


@dataclass
class Section:
    """What the page says about one issue. Each entry is an image or a group of images, given by rows of the table.

    Of a group, the first MEMBERS are shown.
    """

    code: str
    issue: Issue
    total: int  # images, or groups, that were found
    entries: list[list[int]]  # the worst first
    pictured: int  # how many entries, from the first, have thumbnails
    sizes: list[int]  # images in each entry
    same_pixels: list[bool]  # whether all images of an entry that is a group have equal pixels

    @property
    def is_groups(self) -> bool:
        return self.code in GROUPS or self.code in PAIRS


def find(table: pa.Table) -> list[Section]:
    """The sections of the page, in its order: contradictions, leaks, single images by issue, duplicates.

    `table` is what the stage check wrote.
    """
    by_issue = rows_by_issue(table["issues"])
    contradictions, leaks, *duplicates = group_sections(table, by_issue)
    singles = image_sections(table, {code: rows for code, rows in by_issue.items() if code not in GROUPS})
    return [section for section in (contradictions, leaks, *singles, *duplicates) if section.total]


def rows_by_issue(issues: pa.ChunkedArray) -> dict[str, NDArray[np.int64]]:
    """For each issue code, the rows that have it, (N,) int64, ascending."""
    lists = issues.combine_chunks()
    rows = pc.list_parent_indices(lists).to_numpy()
    codes = lists.flatten().dictionary_encode()
    numbers = codes.indices.to_numpy()
    return {code: rows[numbers == number] for number, code in enumerate(codes.dictionary.to_pylist())}


def image_sections(table: pa.Table, by_issue: dict[str, NDArray[np.int64]]) -> list[Section]:
    """One section for each issue of single images, in the order of ISSUES."""
    counts = {code: len(rows) for code, rows in by_issue.items()}
    listed = shares(counts, LISTED, PER_ISSUE_LISTED)
    pictured = shares(counts, PICTURED, PER_ISSUE_PICTURED)
    sections = []
    for code in sorted(counts, key=[*ISSUES, *sorted(counts)].index):
        issue = ISSUES.get(code) or Issue(code.replace("_", " ").capitalize(), "")
        rows = by_issue[code]
        if issue.worst:
            rows = worst_first(rows, measure(table, issue.measure), issue.worst)[: listed[code]]
        else:
            rows = evenly_spaced_first(rows[evenly_spaced(len(rows), listed[code])], pictured[code])
        entries = [[row] for row in rows.tolist()]
        ones = [1] * len(entries)
        sections.append(Section(code, issue, counts[code], entries, pictured[code], ones, [False] * len(entries)))
    return sections


def shares(counts: dict[str, int], total: int, most: int) -> dict[str, int]:
    """Divide `total` places among codes that want as many as their count, at most `most`.

    Places that rare codes do not need are divided equally among the frequent ones.
    """
    places = {}
    for position, (code, count) in enumerate(sorted(counts.items(), key=lambda pair: pair[1])):
        places[code] = min(count, most, total // (len(counts) - position))
        total -= places[code]
    return places


def measure(table: pa.Table, name: str) -> NDArray[np.float64]:
    """A column, or `pixels` or `aspect_ratio` of width and height, as (rows,) float64, NaN for null."""
    if name not in ("pixels", "aspect_ratio"):
        return table[name].cast(pa.float64()).to_numpy()
    width, height = (table[side].cast(pa.float64()).to_numpy() for side in ("width", "height"))
    return width * height if name == "pixels" else width / height


def worst_first(rows: NDArray[np.int64], values: NDArray[np.float64], worst: str) -> NDArray[np.int64]:
    """Sort rows by their values, as `Issue.worst` says."""
    if worst == "far":
        logarithms = np.log(values)
        return rows[np.argsort(-np.abs(logarithms[rows] - np.nanmedian(logarithms)), kind="stable")]
    return rows[np.argsort(values[rows] if worst == "low" else -values[rows], kind="stable")]


def evenly_spaced(count: int, wanted: int) -> NDArray[np.int64]:
    """`wanted` positions among `count`, evenly spaced from the first to the last."""
    return np.linspace(0, count - 1, wanted).round().astype(int)


def evenly_spaced_first(rows: NDArray[np.int64], wanted: int) -> NDArray[np.int64]:
    """All rows, beginning with `wanted` that are evenly spaced."""
    first = evenly_spaced(len(rows), wanted)
    return np.concatenate([rows[first], np.delete(rows, first)])


def group_sections(table: pa.Table, by_issue: dict[str, NDArray[np.int64]]) -> list[Section]:
    """One section for each of GROUPS. A group of the table is in the first section whose issue it has."""
    numbers = table["group"].cast(pa.float64()).to_numpy()
    rows = np.flatnonzero(~np.isnan(numbers))
    rows = rows[np.argsort(numbers[rows], kind="stable")]
    starts = np.flatnonzero(np.diff(numbers[rows], prepend=-1))
    sizes = np.diff(starts, append=len(rows))

    def any_has(code: str) -> NDArray[np.bool_]:
        flags = np.zeros(len(table), bool)
        flags[by_issue.get(code, [])] = True
        return np.logical_or.reduceat(flags[rows], starts) if len(starts) else np.zeros(0, bool)

    pixels = table["pixel_hash"].take(rows).combine_chunks().dictionary_encode().indices.fill_null(-1).to_numpy()
    same = np.maximum.reduceat(pixels, starts) == np.minimum.reduceat(pixels, starts) if len(starts) else sizes == 0
    kinds = np.select([any_has("label_conflict"), any_has("split_leak"), ~same], [0, 1, 2], 3)

    counts = {code: int((kinds == kind).sum()) for kind, code in enumerate(GROUPS)}
    listed = shares(counts, GROUPS_LISTED, GROUPS_LISTED)
    pictured = shares(counts, GROUPS_PICTURED, GROUPS_PICTURED)
    labels, official = (table[name].combine_chunks() for name in ("label", "official_split"))
    sections = []
    left = OTHERS
    for kind, (code, issue) in enumerate(GROUPS.items()):
        groups = np.flatnonzero(kinds == kind)
        groups = groups[np.argsort(-sizes[groups], kind="stable")][: listed[code]]
        entries = []
        for group in groups:
            members = rows[starts[group] : starts[group] + sizes[group]]
            shown = of_every_kind(members, labels.take(members).to_pylist(), official.take(members).to_pylist())
            others = members[~np.isin(members, shown)][:left].tolist()
            left -= len(others)
            entries.append([*shown, *others])
        sections.append(
            Section(code, issue, counts[code], entries, pictured[code], sizes[groups].tolist(), same[groups].tolist())
        )
    return sections


def of_every_kind(members: NDArray[np.int64], labels: list[str | None], splits: list[str | None]) -> list[int]:
    """At most MEMBERS rows of a group, from as many classes and official splits as possible, which stand together."""
    seen: Counter[tuple[str, str]] = Counter()
    ranked = []
    for row, label, split in zip(members.tolist(), labels, splits, strict=True):
        kind = (label or "", split or "")
        ranked.append((seen[kind], kind, row))
        seen[kind] += 1
    return [row for _, _, row in sorted(sorted(ranked)[:MEMBERS], key=lambda member: member[1:])]
