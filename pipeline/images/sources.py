"""Where images come from: a folder, a zip or tar, MNIST's idx files, CIFAR-10's binary archive.

Archives stay closed: members are read in place and nothing is unpacked. `open_source` gives the items in a
fixed order; `read` yields their contents in that order, one at a time, and never raises for a single bad one.
"""

from __future__ import annotations

import gzip
import lzma
import os
import re
import stat
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol

from pipeline.console import UserError
from pipeline.images import arrays
from pipeline.images.items import (
    IMAGE_SUFFIXES,
    Content,
    Item,
    Problem,
    is_visible,
    label_by_folder,
    number_repeats,
    sort_classes,
)

LARGEST_FILE = 512 * 1024**2  # bytes of one encoded image
# A link made by DVC leads into its cache, which may lie anywhere
DVC_CACHE_FILE = re.compile(r"/files/md5/[0-9a-f]{2}/[0-9a-f]{30}$")
BROKEN_ARCHIVE = (
    *(zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile),
    *(NotImplementedError, UnicodeDecodeError),
)


class Source(Protocol):
    items: list[Item]
    classes: list[str]

    def read(self, wanted: Callable[[str], bool] = ...) -> Iterator[tuple[Item, Content]]:
        """Yield each item whose path is wanted with its content, in order."""


def open_source(path: Path, class_names: list[str] | None = None) -> Source:
    """List the items of `path`. `class_names` replaces the numbers of formats that only number their classes.

    Raises UserError for a missing, empty, truncated or unknown source.
    """
    if not path.exists():
        raise UserError(f"{path} is not there: place your images at that path, or correct `source` in params.yaml")
    if path.is_dir():
        visible = [entry for entry in sorted(path.iterdir()) if is_visible(entry.name)]
        if arrays.is_idx(visible):
            return arrays.IdxFiles(visible, class_names)
        if len(visible) == 1 and visible[0].is_file() and visible[0].suffix.lower() not in IMAGE_SUFFIXES:
            return open_archive(visible[0], class_names)
        source: Source = Folder(path)
    else:
        source = open_archive(path, class_names)
    return source


def open_archive(path: Path, class_names: list[str] | None) -> Source:
    with told_as_archive(path):
        if path.suffix.lower() == ".zip" or begins_like_zip(path):
            return Zip(path)
        members = tar_members(path)
        if arrays.is_cifar(members):
            return arrays.CifarBinary(path, members)
        return Tar(path, members)


def begins_like_zip(path: Path) -> bool:
    """Not `zipfile.is_zipfile`: that looks at the end, where a tar may hold a zip."""
    with path.open("rb") as file:
        return file.read(4) in (b"PK\3\4", b"PK\5\6")


def tar_members(path: Path) -> list[tarfile.TarInfo]:
    """All members; tarfile takes a damaged header for the end, and the members after it would be lost in silence."""
    with tarfile.open(path) as archive:
        members = archive.getmembers()
        assert archive.fileobj is not None
        archive.fileobj.seek(archive.offset)
        if any(archive.fileobj.read(tarfile.BLOCKSIZE)):
            raise tarfile.ReadError(f"damaged after {len(members)} members")
        while archive.fileobj.read(1024**2):  # to the checksum at the end of a compressed one
            pass
    return members


@contextmanager
def told_as_archive(path: Path) -> Iterator[None]:
    try:
        yield
    except BROKEN_ARCHIVE as error:
        raise UserError(
            f"{path}: not a whole zip or tar archive ({in_one_line(error)}): it may be truncated; fetch it again"
        ) from None


class Files(ABC):
    """What folder, zip and tar have in common: classes from folder names, members read one by one."""

    def __init__(self, path: Path, items: list[Item]) -> None:
        if not items:
            raise UserError(f"{path} is empty: expected images in one folder per class")
        self.path = path
        self.items = items
        number_repeats(items)
        label_by_folder(items)
        self.classes = sort_classes(item.label for item in items if item.label is not None)

    def read(self, wanted: Callable[[str], bool] = lambda path: True) -> Iterator[tuple[Item, Content]]:
        with self.opened() as opened:
            for item in self.items:
                if wanted(item.path):
                    yield item, item.problem or self.content(opened, item)

    def content(self, opened: object, item: Item) -> bytes | Problem:
        try:
            with self.open_item(opened, item) as file:
                data = file.read(LARGEST_FILE + 1)
        except (*BROKEN_ARCHIVE, OSError) as error:
            return Problem("unreadable", in_one_line(error))
        except RuntimeError:  # zipfile's only way to say so
            return Problem("unreadable", "encrypted")
        if len(data) > LARGEST_FILE:
            return Problem("too_large", f"more than {LARGEST_FILE // 1024**2} MB")
        return data

    @contextmanager
    def opened(self) -> Iterator[object]:
        yield None

    @abstractmethod
    def open_item(self, opened: object, item: Item) -> IO[bytes]: ...


class Folder(Files):
    """A folder of class folders. Links are not followed out of it, except into DVC's cache."""

    def __init__(self, path: Path) -> None:
        self.root = path.resolve()
        found = []
        for folder, subfolders, names in os.walk(path):
            subfolders.sort()
            links = [name for name in subfolders if os.path.islink(os.path.join(folder, name))]
            for name in (*names, *links):
                file = Path(folder, name)
                found.append(Item(utf8(file.relative_to(path).as_posix()), file, problem=self.problem(file)))
        super().__init__(path, sorted(found, key=lambda item: item.path))

    def problem(self, file: Path) -> Problem | None:
        try:
            if file.is_symlink():
                target = file.resolve(strict=True)
                if not (target.is_relative_to(self.root) or DVC_CACHE_FILE.search(target.as_posix())):
                    return Problem("unreadable", "a link out of the data set")
            mode = file.stat().st_mode
        except (OSError, RuntimeError):  # RuntimeError: a loop, up to Python 3.12
            return Problem("unreadable", "a link that leads nowhere")
        if not stat.S_ISREG(mode):
            return Problem("not_an_image", "not a regular file")
        return None

    def open_item(self, opened: object, item: Item) -> IO[bytes]:
        return Path(item.key).open("rb")


class Zip(Files):
    def __init__(self, path: Path) -> None:
        with zipfile.ZipFile(path) as archive:
            # `is_dir` fails for a member without a name
            files = [info for info in archive.infolist() if not info.filename.endswith("/")]
        super().__init__(path, [Item(info.filename.replace("\\", "/").removeprefix("./"), info) for info in files])

    @contextmanager
    def opened(self) -> Iterator[zipfile.ZipFile]:
        with told_as_archive(self.path), zipfile.ZipFile(self.path) as archive:
            yield archive

    def open_item(self, opened: object, item: Item) -> IO[bytes]:
        assert isinstance(opened, zipfile.ZipFile)
        return opened.open(item.key)


class Tar(Files):
    def __init__(self, path: Path, members: list[tarfile.TarInfo]) -> None:
        items = []
        for member in members:
            looks_like_image = Path(member.name).suffix.lower() in IMAGE_SUFFIXES
            if member.isreg() or not member.isdir() or looks_like_image:
                problem = None if member.isreg() else Problem("not_an_image", f"not a regular file ({kind(member)})")
                items.append(Item(utf8(member.name.removeprefix("./")), member, problem=problem))
        super().__init__(path, items)

    @contextmanager
    def opened(self) -> Iterator[tarfile.TarFile]:
        with told_as_archive(self.path), tarfile.open(self.path) as archive:
            yield archive

    def open_item(self, opened: object, item: Item) -> IO[bytes]:
        assert isinstance(opened, tarfile.TarFile)
        file = opened.extractfile(item.key)
        assert file is not None
        return file


def in_one_line(error: Exception) -> str:
    """What an error says; of tarfile's list of all that it tried, the headline."""
    return " ".join(str(error).partition("\n")[0].removesuffix(":").split()) or type(error).__name__


def kind(member: tarfile.TarInfo) -> str:
    return "a folder" if member.isdir() else "a link" if member.issym() or member.islnk() else "a device"


def utf8(name: str) -> str:
    """A file name of any bytes as text that can be stored: what is not UTF-8 becomes an escape."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
