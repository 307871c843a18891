"""Groups that file names show, such as all frames of a video or all images of a patient: a `group_by` to suggest.

It takes more than a name like patient12_003.jpg: the images of a group must be of one class, or look alike, far more
often than others.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipeline.checking.attributes import DIGITS, SEED

if TYPE_CHECKING:
    import pyarrow as pa

FEWEST = 10  # groups of two images or more
COVERED = 0.3  # of the images, at least, are in one of these groups
LARGEST = 0.2  # of the images, at most, are in any one of them
RUNS = 4  # first numbers of a name that are tried as the end of its key
PURE = 0.5  # how pure groups must be: 0 if classes mix in them as by chance, 1 if each is of one class
ALIKE = 0.75  # of pairs in one group, at least, are more alike than a pair from two groups
PAIRS = 30  # to compare, at least
EXAMPLES = 2
LOOKS = ("brightness", "contrast", "sharpness", "bytes")
START = "(?:^|/)"
Keys = list[str | None]


class Suggestion(NamedTuple):
    """A `group_by`, and what it would group."""

    pattern: str
    groups: int  # of two images or more
    images: int  # in them
    straddling: int  # groups with images in several of the publisher's splits
    reason: str  # what is particular about images of one group
    examples: list[tuple[str, list[str]]]  # some groups: their key, and paths of images


def suggest(table: pa.Table) -> Suggestion | None:
    """The coarsest groups for which there is evidence in the images of `attributes.stretches`.

    None where a list of labels names groups: those are kept together already.
    """
    if table["listed_group"].null_count < len(table):
        return None
    paths, labels = table["path"].to_pylist(), table["label"].to_pylist()
    likeness: Likeness | None = None
    for pattern, bare in candidates(paths):
        keys = found(pattern, paths)
        if not is_plausible(keys, labels):
            continue
        likeness = likeness or Likeness(table, labels)
        reason = ""
        if is_pure(found(bare, paths), labels):
            reason = "are of one class"
        elif likeness.within(keys):
            reason = "look alike"
            if not is_pure(keys, labels) and not likeness.across(keys):  # each class numbers its own groups
                pattern = rf"([^/]+/{pattern.removeprefix(START).removeprefix('(')}"
                keys = found(pattern, paths)
        if reason:
            return describe(pattern, keys, paths, table["official_split"].to_pylist(), reason)
    return None


def describe(pattern: str, keys: Keys, paths: list[str], splits: list[str | None], reason: str) -> Suggestion:
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for row, key in enumerate(keys):
        if key is not None:
            groups[key].append(row)
    large = {key: rows for key, rows in groups.items() if len(rows) > 1}
    return Suggestion(
        pattern,
        groups=len(large),
        images=sum(map(len, large.values())),
        straddling=sum(len({splits[row] for row in rows}) > 1 for rows in large.values()),
        reason=reason,
        examples=[(key, [paths[row] for row in rows]) for key, rows in list(large.items())[:EXAMPLES]],
    )


def in_words(found: Suggestion, name: str) -> str:
    example, _ = found.examples[0]
    return (
        f"file names show {found.groups} groups, such as {example}, whose images {found.reason}: to keep each in one"
        f" split, set datasets.{name}.split.group_by: {quoted(found.pattern)}"
    )


def quoted(pattern: str) -> str:
    """As a value in YAML."""
    return "'" + pattern.replace("'", "''") + "'"


def candidates(paths: list[str]) -> Iterator[tuple[str, str]]:
    """Patterns of keys, the coarsest first, each with one that finds the numbers of the key alone."""
    names = [path.rpartition("/")[2] for path in paths]
    for runs in range(1, RUNS + 1):
        # the key ends with the number `runs` of the name, and another number comes after it
        middle = r"\d+[^/\d]+" * (runs - 1)
        general = rf"{START}([^/\d]*{middle}\d+)[^/\d][^/]*\d[^/]*$"
        bare = rf"{START}[^/\d]*({middle}\d+)[^/\d][^/]*\d[^/]*$"
        skeletons = Counter(skeleton for name in names if (skeleton := words(name, runs)) is not None)
        if len(skeletons) == 1:
            yield as_text(*skeletons), bare
        elif skeletons:
            yield general, bare
    yield r"([^/]+)/[^/]+$", r"([^/]+)/[^/]+$"


def words(name: str, runs: int) -> tuple[str, ...] | None:
    """What is before, between and (one character) behind the first numbers of a name that has more of them."""
    found = list(DIGITS.finditer(name.rpartition(".")[0] or name))
    if len(found) <= runs:
        return None
    ends = [0, *(match.end() for match in found[:runs])]
    before = [name[end : match.start()] for end, match in zip(ends, found[:runs], strict=False)]
    return (*before, name[ends[-1]])


def as_text(skeleton: tuple[str, ...]) -> str:
    """A pattern for names that all have the same words, such as (patient\\d+)_."""
    *before, after = map(re.escape, skeleton)
    key = "".join(rf"{word}\d+" for word in before)
    return rf"({key}){after}" if skeleton[0] else rf"{START}({key}){after}"


def found(pattern: str, paths: list[str]) -> Keys:
    search = re.compile(pattern).search
    return [match[1] if (match := search(path)) else None for path in paths]


def is_plausible(keys: Keys, labels: list[str]) -> bool:
    """Whether there are many groups, far more than classes, and none of them is a large part of the images."""
    sizes = np.array(list(Counter(filter(None, keys)).values()))
    large = sizes[sizes > 1]
    return (
        len(large) >= max(FEWEST, 2 * len(set(labels)))
        and large.sum() >= COVERED * len(keys)
        and large.max() <= LARGEST * len(keys)
    )


def is_pure(keys: Keys, labels: list[str]) -> bool:
    """Whether pairs of one group are of one class far more often than by chance."""
    groups: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for key, label in zip(keys, labels, strict=True):
        if key is not None:
            groups[key][label] += 1
    same = pairs = 0
    for counts in groups.values():
        size = counts.total()
        pairs += size * (size - 1)
        same += sum(count * (count - 1) for count in counts.values())
    shares = np.array(list(Counter(labels).values())) / len(labels)
    chance = float((shares**2).sum())
    return pairs > 0 and chance < 1 and (same / pairs - chance) / (1 - chance) >= PURE


class Likeness:
    """Compares how alike two images of one group are with how alike two of different groups are."""

    def __init__(self, table: pa.Table, labels: list[str]) -> None:
        self.labels = labels
        self.hashes = np.array([int(value, 16) for value in table["phash"].to_pylist()], np.uint64)
        self.looks = [np.array(table[name].to_pylist(), np.float64) for name in LOOKS]
        self.rows_of: defaultdict[str, list[int]] = defaultdict(list)
        for row, label in enumerate(labels):
            self.rows_of[label].append(row)

    def within(self, keys: Keys) -> bool:
        """Whether images of a group that are of one class are more alike than others of this class."""
        last: dict[tuple[str, str], int] = {}
        pairs = []
        for row, (key, label) in enumerate(zip(keys, self.labels, strict=True)):
            if key is not None:
                if (key, label) in last:
                    pairs.append((last[key, label], row))
                last[key, label] = row
        return self.are_alike(pairs, keys)

    def across(self, keys: Keys) -> bool:
        """Whether images of a group that are of different classes are more alike than others of these classes."""
        first: dict[str, int] = {}
        pairs = [
            (first[key], row)
            for row, key in enumerate(keys)
            if key is not None and self.labels[first.setdefault(key, row)] != self.labels[row]
        ]
        return self.are_alike(pairs, keys)

    def are_alike(self, pairs: list[tuple[int, int]], keys: Keys) -> bool:
        """Whether most pairs are more alike than the first image and another one of the second's class."""
        draw = np.random.default_rng(SEED)
        compared = []
        for one, other in pairs:
            rows = self.rows_of[self.labels[other]]
            stranger = rows[int(draw.integers(len(rows)))]
            if keys[stranger] != keys[one]:
                compared.append((one, other, stranger))
        if len(compared) < PAIRS:
            return False
        one, other, stranger = np.array(compared).T
        bits = (np.bitwise_count(self.hashes[one] ^ self.hashes[rows]).astype(float) for rows in (other, stranger))
        distances = [tuple(bits), *((abs(v[one] - v[other]), abs(v[one] - v[stranger])) for v in self.looks)]
        return any(((near < far) + (near == far) / 2).mean() >= ALIKE for near, far in distances)
