"""Zips and tars. They stay closed: members are read in place and nothing is unpacked."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING

from pipeline.images import tars, zips
from pipeline.images.errors import BROKEN_ARCHIVE, archive_errors, in_one_line
from pipeline.images.files import problem, utf8
from pipeline.images.formats import SUFFIXES
from pipeline.images.items import Entry
from pipeline.images.stored import LARGEST_FILE, Content, Problem, Stored, address, too_large

if TYPE_CHECKING:
    from upath import UPath

LONGEST_NAME, MOST_FOLDERS = 4096, 64  # characters of a path (file systems take no more), folders
SHOWN_OF_NAME = 60  # characters


class Zip:
    def __init__(self, path: Path | UPath) -> None:
        self.path, self.address = path, address(path)

    def entries(self) -> Iterator[Entry]:
        with archive_errors(self.path), self.path.open("rb") as file:
            for name, content in zips.members(file, self.address):
                if not name.endswith("/"):
                    yield member_entry(name.replace("\\", "/"), content[1:], content)


class Tar:
    is_cifar = False

    def __init__(self, path: Path | UPath) -> None:
        self.path, self.address = path, address(path)

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


def begins_like_zip(path: Path | UPath) -> bool:
    """Unlike `zipfile.is_zipfile`, which looks at the end of the file, where a tar may hold a zip."""
    with path.open("rb") as file:
        return file.read(4) in (b"PK\3\4", b"PK\5\6")


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


def kind(member: tarfile.TarInfo) -> str:
    return "a folder" if member.isdir() else "a link" if member.issym() or member.islnk() else "a device"
