"""Folders of images, on this machine or on a storage that fsspec reads."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.images import links
from pipeline.images.errors import remote_errors
from pipeline.images.files import problem, utf8
from pipeline.images.items import Entry, is_visible
from pipeline.images.stored import Stored, address
from pipeline.system.console import UserError

if TYPE_CHECKING:
    from upath import UPath

T = TypeVar("T")
REPOSITORY = (".git", ".hg")  # DVC tracks nothing of them


def descend(
    top: Iterator[tuple[str, T]], below: Callable[[str, T], Iterator[tuple[str, T]] | None]
) -> Iterator[tuple[str, T]]:
    """What `top` gives, each followed by all below it; without recursion, which a thousand folders would exhaust."""
    levels = [top]
    while levels:
        if (found := next(levels[-1], None)) is None:
            levels.pop()
            continue
        yield found
        if (inside := below(*found)) is not None:
            levels.append(inside)


class LocalFolder:
    """A folder of class folders. What is read of it is what DVC tracks of it."""

    def __init__(self, path: Path) -> None:
        links.stop_at_hub_cache(path)
        self.path, self.root = path, path.resolve()

    def entries(self) -> Iterator[Entry]:
        try:
            for path, file in descend(self.inside(str(self.path)), self.below):
                is_folder = file.is_dir(follow_symlinks=False)
                yield Entry.folder(utf8(path)) if is_folder else self.entry(file, utf8(path))
        except FileNotFoundError as error:
            raise UserError(f"{utf8(error.filename)} is gone: the source has changed; run it again") from None

    def below(self, path: str, file: os.DirEntry[str]) -> Iterator[tuple[str, os.DirEntry[str]]] | None:
        return self.inside(file.path, f"{path}/") if file.is_dir(follow_symlinks=False) else None

    def inside(self, folder: str, prefix: str = "") -> Iterator[tuple[str, os.DirEntry[str]]]:
        """What lies in a folder, in the order that sorting whole paths would give."""
        with os.scandir(folder) as scanned:
            found = {entry.name + "/" * entry.is_dir(follow_symlinks=False): entry for entry in scanned}
        if ".dvc/" in found:
            raise UserError(
                f"{utf8(folder)} is a project of DVC by itself, of which DVC tracks nothing here: remove its .dvc, or"
                " copy the images out of it"
            )
        for name in sorted(found):
            if name.rstrip("/") not in REPOSITORY:
                yield prefix + name.rstrip("/"), found[name]

    def entry(self, file: os.DirEntry[str], path: str) -> Entry:
        if file.is_symlink() and (without_content := links.unread(file.path, path, self.root)):
            return without_content
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            return problem(path, "not_an_image", "not a regular file")
        return Entry(path, (status.st_size, status.st_mtime_ns), Stored(file.path, 0, status.st_size))


class RemoteFolder:
    """A folder of class folders on a storage that fsspec reads."""

    def __init__(self, path: UPath) -> None:
        self.path, self.address = path, address(path)

    def entries(self) -> Iterator[Entry]:
        with remote_errors(self.address):
            for path, info in descend(self.inside(self.path.path), self.below):
                yield self.entry(path, info)

    def below(self, path: str, info: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]] | None:
        return self.inside(info["name"], f"{path}/") if info["type"] == "directory" else None

    def inside(self, folder: str, prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
        found = {}
        for info in self.path.fs.ls(folder, detail=True, refresh=True):
            name = info["name"].rstrip("/").rpartition("/")[2]
            if info["name"].rstrip("/") != folder.rstrip("/"):  # some storages list the folder itself
                found[name + "/" * (info["type"] == "directory")] = info
        for name in sorted(found):
            yield prefix + name.rstrip("/"), found[name]

    def entry(self, path: str, info: dict[str, Any]) -> Entry:
        if info["type"] == "directory":
            return Entry.folder(path)
        if info["type"] == "link":
            return self.link(path)
        identity = [info["size"], *(str(info[key]) for key in ("ETag", "mtime", "LastModified") if key in info)]
        return Entry(path, identity, Stored(f"{self.address.rstrip('/')}/{path}", 0, info["size"]))

    def link(self, path: str) -> Entry:
        """Where a link leads is the server's affair, and nothing here says whether it may be read."""
        if is_visible(path):
            raise UserError(f"{self.address.rstrip('/')}/{path} is a link; expected a file or a folder in its place")
        return problem(path, "unreadable", "a link")
