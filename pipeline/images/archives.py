"""Zips and tars. They stay closed: members are read in place and nothing is unpacked."""

from __future__ import annotations

import os
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING

from pipeline.images import tar_links, tars, zips
from pipeline.images.encodings import Candidates
from pipeline.images.errors import BROKEN_ARCHIVE, archive_errors, in_one_line
from pipeline.images.files import problem, utf8
from pipeline.images.formats import SUFFIXES
from pipeline.images.items import Entry, is_visible
from pipeline.images.paths import LONGEST_NAME, MOST_FOLDERS, PART, SHOWN_OF_NAME, UNFINISHED, placed
from pipeline.images.stored import LARGEST_FILE, Content, Problem, Stored, address, too_large, why_unread
from pipeline.system.console import UserError

if TYPE_CHECKING:
    from upath import UPath


NOT_READ = {
    b"7z\xbc\xaf": "a 7z archive", b"Rar!": "a RAR archive", b"\x28\xb5\x2f\xfd": "compressed by zstd",
    b"\x04\x22\x4d\x18": "compressed by lz4", b"LZIP": "compressed by lzip", b"\x1f\x9d": "compressed by compress",
    b"MSCF": "a CAB archive", b"PK\7\x08": "a part of a split zip",
}  # fmt: skip


NO_ARCHIVE = {
    b"version https://git-lfs": "a Git LFS pointer: run git lfs pull",
    b"/annex/objects/": "a git-annex pointer: run git annex get",
    b"<!doctype html": "a web page: fetch it again, signed in where its publisher asks for that",
}  # fmt: skip


def open_archive(path: Path | UPath) -> Zip | Tar:
    """The reader for a file, chosen by its first bytes: a tar whose last member is a zip ends as a zip does."""
    with path.open("rb") as file:
        beginning = file.read(32)
    if PART.search(path.name):
        raise UserError(f"{path} is a part of a split archive; expected a whole one: join its parts with cat")
    if UNFINISHED.search(path.name):
        raise UserError(
            f"{path} is a download that has not ended; expected a whole archive: let it end, or start it anew"
        )
    for signature, what in NOT_READ.items():
        if beginning.startswith(signature):
            raise UserError(f"{path} is {what}, which is not read; expected a zip or tar: unpack it, or pack it anew")
    for signature, what in NO_ARCHIVE.items():
        if beginning.lower().startswith(signature):
            raise UserError(f"{path} is not a whole zip or tar archive, but {what}")
    # a program may come before a zip, which unpacks it
    is_zip = path.suffix.lower() == ".zip" and not beginning.startswith(tuple(tars.DECOMPRESSORS))
    return Zip(path) if is_zip or beginning.startswith((b"PK\3\4", b"PK\5\6")) else Tar(path)


class Zip:
    """A zip. Raises UserError where nothing in it can be read, and for links, which it holds as small texts."""

    def __init__(self, path: Path | UPath) -> None:
        self.path, self.address = path, address(path)
        self.naming: zips.Naming | None = None  # found when the members are listed first

    def entries(self) -> Iterator[Entry]:
        files, unread = 0, Counter[str | None]()
        with archive_errors(self.path), self.path.open("rb") as file:
            self.naming = self.naming or zips.find_naming(file)
            for name, content in zips.members(file, self.address, self.naming):
                if name.endswith("/"):
                    yield from member_folder(name)
                    continue
                entry = member_entry(name, content[1:], content)
                if content is zips.LINK and is_visible(entry.path):
                    raise UserError(
                        f"{self.path}: {entry.path} is a symbolic link; expected files: zip the folder without -y, so"
                        " that zip follows links"
                    )
                files += 1
                if isinstance(content, Stored) and content.member:
                    unread[why_unread(content.member)] += 1
                yield entry
        for why, count in unread.items():
            if why and count == files:
                raise UserError(f"{self.path}: all {count} files in it are {why}: unpack it, or zip it anew without")


class Tar:
    """A tar, compressed or not. Links to its files are files too, and come after all others."""

    is_cifar = False

    def __init__(self, path: Path | UPath) -> None:
        self.path, self.address = path, address(path)
        self.links: tar_links.Links | None = None
        self.candidates = Candidates()
        self.encoding: str | None = None  # of the names, where they are not in UTF-8; learned when all have been seen

    def entries(self) -> Iterator[Entry]:
        status = self.path.stat()
        identity = (status.st_size, getattr(status, "st_mtime", None))
        links = []
        empty: dict[str, Entry] = {}  # folders that are named as images, until a file is seen in them
        for number, (member, content) in enumerate(self.members()):
            self.is_cifar |= PurePosixPath(member.name).name == "data_batch_1.bin"
            if not member.isdir():
                entry = member_entry(member.name, identity, content)
                for folder in PurePosixPath(entry.path).parents if empty and is_visible(entry.path) else ():
                    empty.pop(str(folder), None)
                if (member.issym() or member.islnk()) and entry.content is content:
                    links.append(tar_links.Link.of(number, entry.path, member))
                    if len(links) > tar_links.MOST_LINKS:
                        raise UserError(f"{self.path}: more than {tar_links.MOST_LINKS:,} links; archive it without")
                else:
                    yield entry
            elif PurePosixPath(member.name).suffix.lower() in SUFFIXES:
                entry = member_entry(member.name, identity, content)
                empty[entry.path] = entry
            else:
                yield from member_folder(member.name)
        yield from empty.values()
        if links:
            yield from self.linked(links, identity)
        if not self.encoding and self.candidates.best != "utf-8":
            self.encoding, self.links = self.candidates.best, None

    def linked(self, links: list[tar_links.Link], identity: object) -> Iterator[Entry]:
        """The entries of links, from one more pass over the files that they lead to."""
        if self.links is None:
            members = ((placed(member.name), member) for member, _ in self.members())
            self.links = tar_links.Links(str(self.path), links, members)
        yield from self.links.unread
        for number, (_, content) in enumerate(self.members()):
            once = cache(content)
            for path in self.links.shared.get(number, ()):
                yield Entry(path, identity, once)

    def members(self) -> Iterator[tuple[tarfile.TarInfo, Callable[[], Content]]]:
        """Each member, and how to get its content before the next one is taken."""
        with archive_errors(self.path), self.path.open("rb") as file:
            archive, is_plain = tars.decompressed(file)
            with archive:
                for member in tars.members(archive, is_plain):
                    member.name, member.linkname = self.text(member.name), self.text(member.linkname)
                    yield member, partial(self.content, archive, member, is_plain)

    def text(self, name: str) -> str:
        """A name as text, with escapes where its encoding is not known."""
        if self.encoding:
            return os.fsencode(name).decode(self.encoding)
        self.candidates.narrow(os.fsencode(name))
        return utf8(name)

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


def member_folder(name: str) -> Iterator[Entry]:
    """The entry of a folder in an archive, if unpacking would make one."""
    is_usual = len(name) <= LONGEST_NAME and name.count("/") <= MOST_FOLDERS
    if is_usual and (path := placed(name)):
        yield Entry.folder(path)


def kind(member: tarfile.TarInfo) -> str:
    return "a folder" if member.isdir() else "a device"
