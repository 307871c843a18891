"""The files of a source, listed: unique ids, and the class and official split of each."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from posixpath import splitext
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.images.folders import Folders
from pipeline.images.formats import SUFFIXES, UNREAD_SUFFIXES
from pipeline.images.stored import Content

# Folders that systems make beside a user's: macOS, Synology's thumbnails and bin, Windows, Linux
OF_SYSTEMS = ("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found")


class Entry(NamedTuple):
    """A file, a link or a member of an archive; or a folder, which has no content: it only shows that it is there."""

    path: str  # inside the source; that of a folder ends in a slash
    identity: object  # changes when the content does: size and time, a checksum
    content: Content | Callable[[], Content]  # call it before the next entry is taken

    @classmethod
    def folder(cls, path: str) -> Entry:
        return cls(f"{path}/", None, b"")

    @property
    def is_folder(self) -> bool:
        return self.path.endswith("/")


@dataclass(slots=True)
class Item:
    """One file, or one image of an array format."""

    path: str  # stable id: the path inside the source, or train/00042
    label: str | None = None
    split: str | None = None
    group: str | None = None  # what it belongs to, such as a patient, where a list of labels says so
    unlabeled: str | None = None  # why it has no label, where a list of labels should give one


def is_visible(path: str) -> bool:
    """Whether no part of the path is hidden or a system's own."""
    return not any(part.startswith(".") or part in OF_SYSTEMS for part in path.split("/"))


def is_named_as_image(path: str) -> bool:
    """Whether the suffix is that of an image, of a format that is read or of another."""
    suffix = splitext(path)[1].lower()
    return suffix in SUFFIXES or suffix in UNREAD_SUFFIXES


def is_clutter(path: str, issues: Iterable[str]) -> bool:
    """Whether a file is no image and does not claim to be one: README.md, Thumbs.db, macOS's ._001.jpg."""
    if not is_visible(path):
        return True
    return not is_named_as_image(path) and bool({"not_an_image", "empty_file", "too_large"}.intersection(issues))


class Listing:
    """Counts, classes and a fingerprint from one pass over all entries.

    It keeps 8 bytes per entry, so that millions fit into memory.
    """

    def __init__(self, entries: Iterable[Entry]) -> None:
        files: Counter[tuple[str, bool]] = Counter()  # by folder, and whether they are visible
        listed: set[str] = set()
        with_images: set[str] = set()
        hashes = array("q")
        digest = blake2b(digest_size=16)
        for entry in entries:
            if entry.is_folder:
                listed.add(entry.path.rstrip("/"))
                continue
            folder, visible = entry.path.rpartition("/")[0], is_visible(entry.path)
            files[folder, visible] += 1
            if visible and is_named_as_image(entry.path):
                with_images.add(folder)
            hashes.append(hash(entry.path))
            digest.update(f"{entry.path}\0{entry.identity}\0".encode())
        self.count = len(hashes)
        self.fingerprint = digest.hexdigest()
        listed.update(folder for folder, visible in files if not visible)
        holding = (folder for folder, visible in files if visible)
        self.folders = Folders(holding, (folder for folder in listed if is_visible(folder)), with_images)
        self.per_class: Counter[str | None] = Counter()
        for (folder, visible), count in files.items():
            self.per_class[self.folders.label_and_split(folder)[0] if visible else None] += count
        self.classes = sort_classes(label for label in self.per_class if label is not None)
        self.hashes = np.sort(np.frombuffer(hashes, np.int64)) if hashes else np.zeros(0, np.int64)

    def items(self, entries: Iterable[Entry]) -> Iterator[tuple[Item, Entry]]:
        """Yield the same entries again, each with its id, class and split."""
        number = Numbering(self.hashes).number
        for entry in entries:
            if entry.is_folder:
                continue
            label, split = self.folders.label_and_split(entry.path.rpartition("/")[0])
            yield Item(number(entry.path), label if is_visible(entry.path) else None, split), entry


class Numbering:
    """Makes ids unique. An archive may hold a name twice: the second becomes `name#2`.

    `hashes` are those of all names, sorted.
    """

    def __init__(self, hashes: NDArray[np.int64]) -> None:
        self.hashes = hashes
        self.repeated = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
        self.seen: Counter[str] = Counter()
        self.given: set[str] = set()

    def number(self, name: str) -> str:
        if hash(name) not in self.repeated:
            return name
        self.seen[name] += 1
        if self.seen[name] == 1:
            return name
        while self.is_taken(f"{name}#{self.seen[name]}"):
            self.seen[name] += 1
        self.given.add(f"{name}#{self.seen[name]}")
        return f"{name}#{self.seen[name]}"

    def is_taken(self, name: str) -> bool:
        position = np.searchsorted(self.hashes, hash(name))
        return name in self.given or self.hashes[position : position + 1].tolist() == [hash(name)]


def sort_classes(labels: Iterable[str]) -> list[str]:
    """The class list: sorted as numbers where all names are numbers, else as text."""
    names = sorted(set(labels))
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else names
