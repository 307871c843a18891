"""A folder of archives, read as the folder that unpacking them would make."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pipeline.images.archives import open_archive
from pipeline.images.files import Reader, problem, utf8
from pipeline.images.folders import split_of
from pipeline.images.items import Entry, is_named_as_image, is_visible
from pipeline.images.paths import ARCHIVE, is_archive
from pipeline.images.stored import Stored, address
from pipeline.system.console import UserError

if TYPE_CHECKING:
    from upath import UPath


class SideBySide:
    """Archives, and files beside them that are no images.

    As usual, an archive that holds a single folder is unpacked as it is, and another one into a folder of its own name:
    cats.zip may hold cats/1.jpg or 1.jpg, and train.zip train/cats/1.jpg or cats/1.jpg. Raises UserError where that
    would not tell parts of one set from classes.
    """

    def __init__(self, path: Path | UPath, files: list[Path]) -> None:
        self.path = path
        for file in files:
            if is_archive(file.name) and not file.is_file():
                raise UserError(f"{file} is not a regular file; expected an archive")
        self.beside = [file for file in files if not is_archive(file.name)]
        archives = [Top.of(file) for file in files if is_archive(file.name)]
        self.prefixes = prefixes(path, archives)
        self.readers = [archive.reader for archive in archives]

    def entries(self) -> Iterator[Entry]:
        for prefix, reader in zip(self.prefixes, self.readers, strict=True):
            for entry in reader.entries():
                yield entry._replace(path=prefix + entry.path)
        for file in self.beside:
            if not file.is_file():
                yield problem(utf8(file.name), "not_an_image", "not a regular file")
                continue
            status = file.stat()
            identity = (status.st_size, getattr(status, "st_mtime", None))
            yield Entry(utf8(file.name), identity, Stored(address(file), 0, status.st_size))


class Top(NamedTuple):
    """What lies at the top of an archive."""

    name: str  # of the archive, without suffix
    reader: Reader
    folders: set[str]
    has_images: bool  # outside of these folders
    is_deep: bool  # whether no image lies directly in one of these folders

    @classmethod
    def of(cls, file: Path) -> Top:
        reader = open_archive(file)
        folders, depths, is_empty = set(), set(), True
        for entry in reader.entries():
            is_empty &= entry.is_folder
            if is_visible(entry.path) and not entry.is_folder:
                *parents, name = entry.path.split("/")
                folders.update(parents[:1])
                if is_named_as_image(name):
                    depths.add(len(parents))
        if is_empty:
            raise UserError(f"{file} is empty; expected images in it, or nothing of its name")
        return cls(utf8(ARCHIVE.sub("", file.name)), reader, folders, 0 in depths, 1 not in depths)

    @property
    def is_single(self) -> bool:
        return len(self.folders) == 1 and not self.has_images

    @property
    def is_split(self) -> bool:
        return split_of(self.name) is not None

    @property
    def names_its_split(self) -> bool:
        return self.is_single and split_of(*self.folders) is not None


def prefixes(path: Path | UPath, archives: list[Top]) -> list[str]:
    """For each archive where its members are placed: nowhere else, or in a folder of its name."""
    if len(archives) == 1:
        return [""]
    if any(archive.is_split for archive in archives):
        return ["" if archive.names_its_split else f"{archive.name}/" for archive in archives]
    are_parts = all(archive.is_single and archive.is_deep for archive in archives)
    folders = [folder for archive in archives for folder in archive.folders]
    # images-1.zip, images-2.zip
    are_numbered = len({re.sub(r"\d+", "", archive.name) for archive in archives}) == 1
    hold_several = any(len(archive.folders) > 1 for archive in archives)
    if (len(set(folders)) < len(folders) and not are_parts) or (are_numbered and hold_several):
        names = ", ".join(archive.reader.path.name for archive in archives)
        raise UserError(
            f"{path} holds {len(archives)} archives, whose folders may be parts or classes: {names};"
            " expected one archive, or one for each class or split"
        )
    return ["" if archive.is_single else f"{archive.name}/" for archive in archives]
