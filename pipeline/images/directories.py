"""Folders of images, on this machine or on a storage that fsspec reads."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.images.errors import remote_errors
from pipeline.images.files import problem, utf8
from pipeline.images.items import Entry
from pipeline.images.stored import Stored, address

if TYPE_CHECKING:
    from upath import UPath

# A link made by DVC leads into its cache, which may lie anywhere
DVC_CACHE_FILE = re.compile(r"/files/md5/[0-9a-f]{2}/[0-9a-f]{30}$")


class Folder:
    """A folder of class folders. Links are not followed out of it, except into DVC's cache."""

    def __init__(self, path: Path) -> None:
        self.path, self.root = path, path.resolve()

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
                yield from self.walk(info["name"], prefix + name)
            else:
                stored = Stored(f"{self.address.rstrip('/')}/{prefix}{name}", 0, info["size"])
                identity = [info["size"], *(str(info[key]) for key in ("ETag", "mtime", "LastModified") if key in info)]
                yield Entry(prefix + name, identity, stored)
