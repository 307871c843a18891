"""Where images come from: a folder, a zip or tar, MNIST's idx files, CIFAR-10's binary archive; local or remote.

`open_source` lists the items once; `read` yields them in a fixed order, and does not raise for a single bad one.
Neither keeps the items in memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from pipeline.images import arrays, links
from pipeline.images.archives import Tar, open_archive
from pipeline.images.directories import LocalFolder, RemoteFolder
from pipeline.images.errors import remote_errors
from pipeline.images.files import Files
from pipeline.images.folders import Folders
from pipeline.images.items import Item, is_named_as_image, is_visible
from pipeline.images.paths import is_archive
from pipeline.images.side_by_side import SideBySide
from pipeline.images.stored import Content, is_remote, remote
from pipeline.system.console import UserError

if TYPE_CHECKING:
    from upath import UPath

MOST_FILES = 100  # of a folder that are looked at to find out whether it holds arrays or one archive


class Source(Protocol):
    """What `open_source` returns."""

    count: int  # of items
    per_class: Counter[str | None]  # items of each class
    classes: list[str]
    folders: Folders  # what they mean
    fingerprint: str  # changes when any content does

    def read(self, wanted: Callable[[str], bool] = ...) -> Iterator[tuple[Item, Content]]:
        """Yield each item whose path is wanted with its content, in order; `stored.read_all` reads the content."""


def open_source(place: str | Path, class_names: list[str] | None = None) -> Source:
    """List the items of a path or of an address that fsspec knows, such as s3://bucket/photos.zip.

    `class_names` replaces the numbers of formats that only number their classes. Raises UserError for a missing,
    empty, truncated or unknown source, or one that can't be reached.
    """
    if not is_remote(str(place)):
        return open_path(Path(place), class_names)
    with remote_errors(str(place)):
        return open_path(cast(Path, remote(str(place))), class_names)  # it has the methods of a Path


def open_path(path: Path, class_names: list[str] | None) -> Source:
    if not path.exists():
        raise UserError(f"{path} is not there: place your images at that path, or correct `source` in params.yaml")
    if not path.is_dir():
        return read_archive(path)
    files = visible_in(path, MOST_FILES)  # arrays are a few files; a folder of images may hold a million
    if len(files) == MOST_FILES and not any(map(is_image_or_folder, files)):
        files = visible_in(path)  # there may be an archive among them
    if arrays.is_idx(files):
        return arrays.IdxFiles(files, class_names)
    if len(files) == 1 and files[0].is_file() and not is_named_as_image(files[0].name):
        return read_archive(files[0])
    if any(is_archive(file.name) for file in files) and not any(map(is_image_or_folder, files := visible_in(path))):
        return Files(SideBySide(path, files))
    return Files(RemoteFolder(cast("UPath", path)) if is_remote(str(path)) else LocalFolder(path))


def visible_in(path: Path, most: int | None = None) -> list[Path]:
    """What lies in a folder. Raises UserError for a link that is not read."""
    found = sorted(islice((entry for entry in path.iterdir() if is_visible(entry.name)), most), key=str)
    for entry in found if not is_remote(str(path)) else ():
        if entry.is_symlink():
            links.unread(str(entry), entry.name, path.resolve())
    return found


def read_archive(path: Path) -> Source:
    reader = open_archive(path)
    files = Files(reader)
    if isinstance(reader, Tar) and reader.encoding:  # it has just been learned from all names
        files = Files(reader)
    return arrays.CifarBinary(path) if isinstance(reader, Tar) and reader.is_cifar else files


def is_image_or_folder(path: Path) -> bool:
    return is_named_as_image(path.name) or path.is_dir()
