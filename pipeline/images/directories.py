"""Folders of images, on this machine or on a storage that fsspec reads."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.images import links
from pipeline.images.errors import remote_errors
from pipeline.images.files import problem, utf8
from pipeline.images.items import Entry, is_visible
from pipeline.images.stored import Stored, address
from pipeline.system.console import UserError

if TYPE_CHECKING:
    from upath import UPath

REPOSITORY = (".git", ".hg")  # DVC tracks nothing of them


class LocalFolder:
    """A folder of class folders. What is read of it is what DVC tracks of it."""

    def __init__(self, path: Path) -> None:
        links.stop_at_hub_cache(path)
        self.path, self.root = path, path.resolve()

    def entries(self) -> Iterator[Entry]:
        return self.walk(str(self.path), "")

    def walk(self, folder: str, prefix: str) -> Iterator[Entry]:
        """Yield everything below a folder, in the order that sorting whole paths would give."""
        with os.scandir(folder) as scanned:
            found = {entry.name + "/" * entry.is_dir(follow_symlinks=False): entry for entry in scanned}
        if ".dvc/" in found:
            raise UserError(
                f"{utf8(folder)} is a project of DVC by itself, of which DVC tracks nothing here: remove its .dvc, or"
                " copy the images out of it"
            )
        for name in sorted(found):
            if name.rstrip("/") in REPOSITORY:
                continue
            if name.endswith("/"):
                yield Entry.folder(utf8(prefix + name[:-1]))
                yield from self.walk(found[name].path, prefix + name)
            else:
                yield self.entry(found[name], utf8(prefix + name))

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
                yield Entry.folder(prefix + name[:-1])
                yield from self.walk(info["name"], prefix + name)
            elif info["type"] == "link":
                yield self.link(prefix + name)
            else:
                stored = Stored(f"{self.address.rstrip('/')}/{prefix}{name}", 0, info["size"])
                identity = [info["size"], *(str(info[key]) for key in ("ETag", "mtime", "LastModified") if key in info)]
                yield Entry(prefix + name, identity, stored)

    def link(self, path: str) -> Entry:
        """Where a link leads is the server's affair, and nothing here says whether it may be read."""
        if is_visible(path):
            raise UserError(f"{self.address.rstrip('/')}/{path} is a link; expected a file or a folder in its place")
        return problem(path, "unreadable", "a link")
