"""A source whose labels are in a list among its files, instead of in the names of its folders."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import compress, islice
from posixpath import splitext

import numpy as np
from numpy.typing import NDArray

from pipeline.images import stored
from pipeline.images.folders import Folders, to_parts
from pipeline.images.formats import SUFFIXES, UNREAD_SUFFIXES
from pipeline.images.items import Item, is_named_as_image, is_visible, sort_classes
from pipeline.images.label_lists import NONE, LabelList, plain_path
from pipeline.images.sources import Source
from pipeline.images.stored import Content
from pipeline.system.console import UserError

TABLES = (".csv", ".tsv", ".txt")  # named where the list is not there
NAMED = 3  # files, in a message
REPEATED = -2  # in `file_of_row`, for a row that repeats another one
FROM_LIST, FROM_ROOT, BY_END = range(3)  # where the path that a row names begins: best at the list's folder
UNREAD = 3  # added for a format that is not read: an id means the JPEG, not the raw photo beside it
NOT = 2 * UNREAD


class Labeled:
    """A source with the labels, splits and groups of a list. The list itself is none of its items.

    An image that the list does not name has no label. `place` is where the source is, `file` the path of the list
    inside it. Raises UserError for a list that is not there, is no list, or names a file that may be several.
    """

    def __init__(self, source: Source, place: str, file: str, class_names: list[str] | None) -> None:
        self.source = source
        self.folders = Folders()  # they mean no class
        self.splits = source.folders.named_splits()
        self.path, content = find_list(source, place, file)
        self.folder = plain_path(self.path).rpartition("/")[0]
        self.list = LabelList(f"{self.path} in {place}", content, class_names)
        if not self.list.has_splits:
            self.folders.splits = self.splits
        self.row_of_file = array("q")  # by position in the source, NONE for files without a row
        self.file_of_row = np.full(len(self.list), NONE)  # or REPEATED
        self.unlisted = 0  # images without a row
        self.unlisted_names: list[str] = []  # of the first ones
        self.match()
        is_missing: NDArray[np.bool_] = self.file_of_row == NONE
        self.missing = int(is_missing.sum())  # files that the list names
        self.missing_names = list(islice(compress(self.list.row_of, is_missing), NAMED))
        self.list.row_of.clear()  # of a million names, 200 MB
        self.count = source.count - 1  # without the list
        self.per_class: Counter[str | None] = Counter(map(self.label, self.row_of_file))
        self.per_class[None] -= 1
        self.classes = class_names or sort_classes(label for label in self.per_class if label is not None)
        self.fingerprint = hashlib.sha256(source.fingerprint.encode() + content).hexdigest()

    def match(self) -> None:
        """Find the row of each file. Raises UserError where a row fits two files equally well."""
        fit_of_row = np.full(len(self.list), NOT)
        rivals: dict[int, int] = {}  # another file that fits a row as well as the one that has it, by row
        for position, (item, _) in enumerate(self.source.read()):
            row, fit = self.find(item.path)
            if fit < fit_of_row[row]:
                if self.file_of_row[row] != NONE:
                    self.row_of_file[self.file_of_row[row]] = NONE
                    self.unlisted += 1
                self.file_of_row[row], fit_of_row[row] = position, fit
                rivals.pop(row, None)
            elif row != NONE:
                if fit == fit_of_row[row]:
                    rivals[row] = position
                row = NONE
            self.row_of_file.append(row)
            if row == NONE and is_visible(item.path) and is_named_as_image(item.path):
                self.unlisted += 1
                self.unlisted_names += [item.path] * (len(self.unlisted_names) < NAMED)
        if rivals:
            row = min(rivals)
            both = {self.file_of_row[row], rivals[row]}
            first, second = (item.path for number, (item, _) in enumerate(self.source.read()) if number in both)
            (name,) = islice(self.list.row_of, row, row + 1)
            problem = f"{name!r} may be {first!r} or {second!r}; expected more of its path"
            raise self.list.wrong(self.list.lines[row], problem)
        if (self.file_of_row == NONE).any():
            self.find_repeated()

    def find_repeated(self) -> None:
        """Mark rows that name, in other words, a file that has a row. Raises UserError where the two do not agree."""
        for row, (item, _) in zip(self.row_of_file, self.source.read(), strict=True):
            for key, _ in keys(item.path, self.folder) if row != NONE else ():
                other = self.list.row_of.get(key, row)
                if self.file_of_row[other] == NONE:
                    self.list.check_same(row, other, item.path)
                    self.file_of_row[other] = REPEATED
                    self.list.repeated += 1

    def find(self, path: str) -> tuple[int, int]:
        """The row that fits a file, and how well."""
        if path != self.path and is_visible(path):
            for key, fit in keys(path, self.folder):
                if (row := self.list.row_of.get(key)) is not None:
                    return row, fit
        return NONE, NOT

    def label(self, row: int) -> str | None:
        number = NONE if row == NONE else self.list.label[row]
        return None if number == NONE else self.list.labels[number]

    def read(self, wanted: Callable[[str], bool] = lambda path: True) -> Iterator[tuple[Item, Content]]:
        for row, (item, content) in zip(self.row_of_file, self.source.read(), strict=False):
            if item.path != self.path and wanted(item.path):
                yield self.labeled(item, row), content

    def labeled(self, item: Item, row: int) -> Item:
        if row == NONE:
            return Item(item.path, None, self.named_split(item.path), unlabeled=f"not in {self.path}")
        label, group = self.label(row), self.list.group[row]
        if not self.list.has_splits:
            split = self.named_split(item.path)
        else:
            split = None if self.list.split[row] == NONE else self.list.splits[self.list.split[row]]
        unlabeled = None if label else f"no label in {self.path}"
        return Item(item.path, label, split, None if group == NONE else self.list.groups[group], unlabeled)

    def named_split(self, path: str) -> str | None:
        """The split that the outermost of a file's folders says."""
        folders = to_parts(path.rpartition("/")[0]) if self.splits else ()
        above = (folders[: depth + 1] for depth in range(len(folders)))
        return next((self.splits[folder] for folder in above if folder in self.splits), None)


def keys(path: str, folder: str) -> Iterator[tuple[str, int]]:
    """What a list in `folder` may call a file, and how well it fits: with or without the suffix of an image."""
    plain = plain_path(path)
    names = [(plain, FROM_ROOT)]
    if plain.startswith(f"{folder}/"):
        names.insert(0, (plain.removeprefix(f"{folder}/"), FROM_LIST))
    while plain := plain.partition("/")[2]:
        names.append((plain, BY_END))
    for name, fit in names:
        yield name, fit
        stem, suffix = splitext(name)
        if suffix.lower() in SUFFIXES:
            yield stem, fit
        elif suffix.lower() in UNREAD_SUFFIXES:
            yield stem, fit + UNREAD


def find_list(source: Source, place: str, file: str) -> tuple[str, bytes]:
    """The path and the content of the list: the file of that path, or else the only one whose path ends so."""
    file = plain_path(file).removeprefix(f"{plain_path(place)}/")
    tables: list[str] = []
    found: dict[str, Content] = {}
    for item, content in source.read(lambda path: plain_path(path).endswith((file, *TABLES))):
        if f"/{plain_path(item.path)}".endswith(f"/{file}"):
            found[item.path] = content
        elif is_visible(item.path) and len(tables) < NAMED:
            tables.append(item.path)
    if not found:
        has = f"; it has: {', '.join(tables)}" if tables else ""
        raise UserError(
            f"{place} holds no {file!r}, which check.labels names{has}; expected the list among the images, where DVC"
            " follows both"
        )
    exactly = [path for path in found if plain_path(path) == file]
    path = exactly[0] if exactly else next(iter(found))
    if len(exactly or found) > 1:
        first, second, *_ = found
        raise UserError(f"check.labels = {file!r} may be {first!r} or {second!r} in {place}; expected more of its path")
    read = stored.read(found[path])
    if not isinstance(read, bytes):
        raise UserError(f"{path} in {place}, which check.labels names, can't be read: {read}")
    return path, read
