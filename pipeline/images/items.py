"""One file of a source: its id, its class and official split as its path tells them, its content."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np

SPLIT_NAMES = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"}


class Problem(NamedTuple):
    """Why the content of an item can't be used: an issue code and a sentence."""

    code: str
    reason: str


Content = bytes | np.ndarray | Problem  # an encoded file, decoded pixels (H, W) or (H, W, 3) uint8, or neither


@dataclass(slots=True)
class Item:
    """One file, or one image of an array format."""

    path: str  # stable id: the path inside the source, or train/00042
    key: Any  # what its source needs to read it
    label: str | None = None
    split: str | None = None
    problem: Problem | None = None  # known before reading: a link, a device, …


def is_visible(path: str) -> bool:
    """Whether no part of the path is hidden or macOS's own."""
    return not any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))


def label_by_folder(items: Iterable[Item]) -> None:
    """Set `label` and `split` from the path: [wrapping folders/][train|val|test/]class/[…/]file.

    A file that is hidden, above the class folders or beside the folders of splits keeps `None`.
    """
    parents = {item.path: PurePosixPath(item.path).parts[:-1] for item in items}
    folders = {parents[path][:depth] for path in parents if is_visible(path) for depth in range(len(parents[path]) + 1)}
    children: dict[tuple[str, ...], list[str]] = {}
    for folder in folders:
        if folder:
            children.setdefault(folder[:-1], []).append(folder[-1])

    root: tuple[str, ...] = ()
    while len(children.get(root, [])) == 1 and children.get((*root, children[root][0])):
        root = (*root, children[root][0])
    splits = {SPLIT_NAMES.get(name.lower()) for name in children.get(root, [])}
    has_splits = "train" in splits and (bool(splits & {"val", "test"}) or None not in splits)

    for item in items:
        below = parents[item.path][len(root) :]
        if parents[item.path][: len(root)] != root or not below:
            continue
        if has_splits:
            item.split = SPLIT_NAMES.get(below[0].lower())
            below = below[1:]
            if item.split is None:
                continue
        item.label = below[0] if below and is_visible(item.path) else None


def number_repeats(items: Iterable[Item]) -> None:
    """Make ids unique: an archive may hold one name twice; the second becomes `name#2`."""
    taken = {item.path for item in items}
    seen: Counter[str] = Counter()
    for item in items:
        name = item.path
        seen[name] += 1
        if seen[name] > 1:
            while f"{name}#{seen[name]}" in taken:
                seen[name] += 1
            item.path = f"{name}#{seen[name]}"
            taken.add(item.path)


def sort_classes(labels: Iterable[str]) -> list[str]:
    """The class list: by number where all names are numbers, else by name."""
    names = sorted(set(labels))
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else names
