"""A source of files that are read one by one: their ids, classes and splits come from their paths."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pipeline.images.items import Entry, Item, Listing, is_visible
from pipeline.images.paths import is_archive
from pipeline.images.stored import Content, Problem
from pipeline.system.console import UserError

if TYPE_CHECKING:
    from upath import UPath


class Reader(Protocol):
    """A folder, a zip or a tar."""

    @property
    def path(self) -> Path | UPath: ...

    def entries(self) -> Iterator[Entry]:
        """Everything, in a fixed order; of folders those at least that may be empty."""


class Files:
    """The files that a reader finds, with the classes and splits that their folders stand for.

    Raises UserError where there are none, and for an archive among them: images in it would be missing.
    """

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.listing = Listing(self.entries())
        self.count, self.per_class = self.listing.count, self.listing.per_class
        self.classes, self.fingerprint = self.listing.classes, self.listing.fingerprint
        self.folders = self.listing.folders
        if not self.count:
            raise UserError(f"{reader.path} is empty: expected images in one folder per class")

    def entries(self) -> Iterator[Entry]:
        for entry in self.reader.entries():
            if is_archive(entry.path) and is_visible(entry.path):
                raise UserError(
                    f"{self.reader.path}: {entry.path} is an archive among other files, and is not read: unpack it in"
                    " its place, or take it out"
                )
            yield entry

    def read(self, wanted: Callable[[str], bool] = lambda path: True) -> Iterator[tuple[Item, Content]]:
        for item, entry in self.listing.items(self.entries()):
            if wanted(item.path):
                yield item, entry.content() if callable(entry.content) else entry.content


def problem(path: str, code: str, reason: str) -> Entry:
    return Entry(path, reason, Problem(code, reason))


def utf8(name: str) -> str:
    """A file name of any bytes as text that can be stored: what is not UTF-8 becomes an escape."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
