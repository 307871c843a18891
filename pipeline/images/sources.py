"""Where images come from: a folder, a zip or tar, MNIST's idx files, CIFAR-10's binary archive; local or remote.

Archives stay closed: members are read in place and nothing is unpacked. `open_source` lists the items once; `read`
yields them in a fixed order, and does not raise for a single bad one. Neither keeps the items in memory.
"""

from __future__ import annotations

import os
import re
import stat
import tarfile
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Protocol, cast

from pipeline.images import arrays, tars, zips
from pipeline.images.errors import BROKEN_ARCHIVE, in_one_line
from pipeline.images.formats import SUFFIXES
from pipeline.images.items import Entry, Item, Listing, is_visible
from pipeline.images.stored import LARGEST_FILE, Content, Problem, Stored, address, is_remote, remote, too_large
from pipeline.system.console import UserError

if TYPE_CHECKING:
    from upath import UPath

MOST_FILES = 100  # of a folder that are looked at to find out whether it holds arrays or one archive
LONGEST_NAME, MOST_FOLDERS = 4096, 64  # in an archive: characters of a path (file systems take no more), folders
SHOWN_OF_NAME = 60  # characters
# A link made by DVC leads into its cache, which may lie anywhere
DVC_CACHE_FILE = re.compile(r"/files/md5/[0-9a-f]{2}/[0-9a-f]{30}$")


class Source(Protocol):
    """What `open_source` returns."""

    count: int  # of items
    per_class: Counter[str | None]  # items of each class
    classes: list[str]
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
        return open_archive(path, class_names)
    # arrays are a few files; a folder of images may hold a million
    visible = sorted(islice((entry for entry in path.iterdir() if is_visible(entry.name)), MOST_FILES), key=str)
    if arrays.is_idx(visible):
        return arrays.IdxFiles(visible, class_names)
    if len(visible) == 1 and visible[0].is_file() and visible[0].suffix.lower() not in SUFFIXES:
        return open_archive(visible[0], class_names)
    return RemoteFolder(path) if is_remote(str(path)) else Folder(path)


def open_archive(path: Path, class_names: list[str] | None) -> Source:
    with archive_errors(path):
        if path.suffix.lower() == ".zip" or begins_like_zip(path):
            return Zip(path)
        tar = Tar(path)
        return arrays.CifarBinary(path) if tar.is_cifar else tar


def begins_like_zip(path: Path) -> bool:
    """Unlike `zipfile.is_zipfile`, which looks at the end of the file, where a tar may hold a zip."""
    with path.open("rb") as file:
        return file.read(4) in (b"PK\3\4", b"PK\5\6")


@contextmanager
def archive_errors(path: Path | UPath) -> Iterator[None]:
    """Raise a UserError for whatever archive readers raise in the block."""
    try:
        yield
    except (*BROKEN_ARCHIVE, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk failed; bz2 raises OSErrors without a number for damaged data
        raise UserError(
            f"{path}: not a whole zip or tar archive ({in_one_line(error)}): it may be truncated; fetch it again"
        ) from None


@contextmanager
def remote_errors(place: str) -> Iterator[None]:
    """Raise a UserError for whatever a remote storage raises in the block."""
    try:
        yield
    except (UserError, KeyboardInterrupt):
        raise
    except Exception as error:  # every kind of storage has its own
        raise UserError(
            f"{place}: {type(error).__name__}: {in_one_line(error)}; expected an address that fsspec can read: see to"
            " the package, the credentials and the network that it needs"
        ) from None


class Files(ABC):
    """The base of folder, zip and tar: classes come from folder names, and files are read one by one."""

    path: Path | UPath

    def __init__(self, path: Path) -> None:
        self.path, self.address = path, address(path)
        self.listing = Listing(self.entries())
        self.count, self.per_class = self.listing.count, self.listing.per_class
        self.classes, self.fingerprint = self.listing.classes, self.listing.fingerprint
        if not self.count:
            raise UserError(f"{path} is empty: expected images in one folder per class")

    def read(self, wanted: Callable[[str], bool] = lambda path: True) -> Iterator[tuple[Item, Content]]:
        for item, entry in self.listing.items(self.entries()):
            if wanted(item.path):
                yield item, entry.content() if callable(entry.content) else entry.content

    @abstractmethod
    def entries(self) -> Iterator[Entry]:
        """Everything that is no folder, in a fixed order."""


class Folder(Files):
    """A folder of class folders. Links are not followed out of it, except into DVC's cache."""

    def __init__(self, path: Path) -> None:
        self.root = path.resolve()
        super().__init__(path)

    def entries(self) -> Iterator[Entry]:
        return self.walk(str(self.path), "")

    def walk(self, folder: str, prefix: str) -> Iterator[Entry]:
        """Yield everything below a folder, in the order that sorting whole paths would give."""
        with os.scandir(folder) as scanned:
            found = {entry.name + "/" * entry.is_dir(follow_symlinks=False): entry for entry in scanned}
        for name in sorted(found):
            if name.endswith("/"):
                yield from self.walk(found[name].path, prefix + name)
            else:
                yield self.entry(found[name], utf8(prefix + name))

    def entry(self, file: os.DirEntry[str], path: str) -> Entry:
        try:
            if file.is_symlink():
                target = Path(file).resolve(strict=True)
                if not (target.is_relative_to(self.root) or DVC_CACHE_FILE.search(target.as_posix())):
                    return problem(path, "unreadable", "a link out of the data set")
            status = file.stat()
        except (OSError, RuntimeError):  # RuntimeError: a loop, up to Python 3.12
            return problem(path, "unreadable", "a link that leads nowhere")
        if not stat.S_ISREG(status.st_mode):
            return problem(path, "not_an_image", "not a regular file")
        return Entry(path, (status.st_size, status.st_mtime_ns), Stored(file.path, 0, status.st_size))


class RemoteFolder(Files):
    """A folder of class folders on a storage that fsspec reads."""

    path: UPath

    def entries(self) -> Iterator[Entry]:
        with remote_errors(self.address):
            yield from self.walk(self.path.path, "")

    def walk(self, folder: str, prefix: str) -> Iterator[Entry]:
        system = self.path.fs
        found = {}
        for info in system.ls(folder, detail=True, refresh=True):
            name = info["name"].rstrip("/").rpartition("/")[2]
            if info["name"].rstrip("/") != folder.rstrip("/"):  # some storages list the folder itself
                found[name + "/" * (info["type"] == "directory")] = info
        for name in sorted(found):
            info = found[name]
            if name.endswith("/"):
                yield from self.walk(info["name"], prefix + name)
            else:
                stored = Stored(f"{self.address.rstrip('/')}/{prefix}{name}", 0, info["size"])
                identity = [info["size"], *(str(info[key]) for key in ("ETag", "mtime", "LastModified") if key in info)]
                yield Entry(prefix + name, identity, stored)


class Zip(Files):
    def entries(self) -> Iterator[Entry]:
        with archive_errors(self.path), self.path.open("rb") as file:
            for name, content in zips.members(file, self.address):
                if not name.endswith("/"):
                    yield member_entry(name.replace("\\", "/"), content[1:], content)


class Tar(Files):
    is_cifar = False

    def entries(self) -> Iterator[Entry]:
        with archive_errors(self.path), self.path.open("rb") as file:
            status = self.path.stat()
            identity = (status.st_size, getattr(status, "st_mtime", None))
            archive, is_plain = tars.decompressed(file)
            with archive:
                for member in tars.members(archive, is_plain):
                    self.is_cifar |= PurePosixPath(member.name).name == "data_batch_1.bin"
                    looks_like_image = PurePosixPath(member.name).suffix.lower() in SUFFIXES
                    if member.isreg() or not member.isdir() or looks_like_image:
                        content = partial(self.content, archive, member, is_plain)
                        yield member_entry(utf8(member.name), identity, content)

    def content(self, archive: IO[bytes], member: tarfile.TarInfo, is_plain: bool) -> Content:
        """Where a member is in a plain archive; its bytes in a compressed one, which has just been read up to them."""
        if not member.isreg():
            return Problem("not_an_image", f"not a regular file ({kind(member)})")
        if member.issparse():
            return Problem("unreadable", "stored by tar --sparse; archive it without that option")
        if is_plain:
            return Stored(self.address, member.offset_data, member.size)
        try:
            return archive.read(member.size) if member.size <= LARGEST_FILE else too_large()
        except (*BROKEN_ARCHIVE, OSError) as error:
            return Problem("unreadable", in_one_line(error))


def member_entry(name: str, identity: object, content: Content | Callable[[], Content]) -> Entry:
    """The entry of a member, under the path at which unpacking would place it."""
    if len(name) > LONGEST_NAME or name.count("/") > MOST_FOLDERS:
        beginning = f"{name[:SHOWN_OF_NAME].replace('/', ' ')}…"
        return problem(beginning, "unreadable", f"a name of {len(name)} characters in {name.count('/')} folders")
    path = placed(name)
    if path:
        return Entry(path, identity, content)
    return problem(name or "(no name)", "unreadable", "a name that leads to no place inside the archive")


def placed(name: str) -> str | None:
    """The normalized name: without leading slashes, empty parts, `.`, and `..` that stay inside the archive.

    None for a name that leads out of it.
    """
    parts: list[str] = []
    for part in name.split("/"):
        if part == ".." and not parts:
            return None
        if part == "..":
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def problem(path: str, code: str, reason: str) -> Entry:
    return Entry(path, reason, Problem(code, reason))


def kind(member: tarfile.TarInfo) -> str:
    return "a folder" if member.isdir() else "a link" if member.issym() or member.islnk() else "a device"


def utf8(name: str) -> str:
    """A file name of any bytes as text that can be stored: what is not UTF-8 becomes an escape."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
