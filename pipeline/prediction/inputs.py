"""The files that a person asks about: named one by one, in folders, by patterns, in lists or on standard input."""

from __future__ import annotations

import codecs
import glob
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.images.files import utf8
from pipeline.images.formats import magic
from pipeline.images.items import is_named_as_image, is_visible
from pipeline.system.console import UserError, first_few, say

STDIN = "-"
NAMED = 10  # files that are left out


class File(NamedTuple):
    path: str
    named: bool  # by the person, not found in a folder: it is meant, whatever it is
    root: str | None  # the given folder that it was found in; of files given one by one, the folder that holds them all


class Found:
    """Files in the order in which they were asked for; one that is asked for twice is answered twice."""

    def __init__(self) -> None:
        self.files: list[File] = []
        self.left_out: list[str] = []  # what else folders and patterns hold
        self.without: list[str] = []  # what stands for no file

    def add(self, argument: str) -> None:
        """A file, the visible files of a folder and all below it, what matches a pattern, or paths on stdin."""
        if argument == STDIN:
            self.add_list(STDIN)
            return
        found = expand(argument, self.left_out)
        self.files += found
        if not found:
            self.without.append(argument)

    def add_list(self, name: str) -> None:
        """The files and folders that a list names, one a line; with `find -print0`, one before each zero byte.

        Raises UserError for a list that can't be read or is an image.
        """
        if name == STDIN and sys.stdin is None:
            raise UserError("standard input is closed; expected one path a line")
        content = sys.stdin.buffer.read() if name == STDIN else read_list(Path(name))
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # as PowerShell writes
            content = content.decode("utf-16", "replace").encode()
        # P1 and P6 begin portable pixmaps, and may be names
        if magic.image_format(content) and not os.path.exists(os.fsdecode(content.partition(b"\n")[0].strip())):
            raise UserError(f"{name}: is an image; expected a text file with one path a line")
        files: list[File] = []
        for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\0" if b"\0" in content else b"\n"):
            if not (path := os.fsdecode(line.removesuffix(b"\r"))):
                continue
            if os.path.isdir(path):  # pathlib raises for names that are too long
                files += (File(str(each), False, path) for each in files_at(Path(path), self.left_out))
            else:
                files.append(File(path, True, None))
        self.files += with_root(files)
        if not files:
            self.without.append(name)

    def say_left_out(self) -> None:
        if self.left_out:
            say(f"left out: {utf8(first_few(list(dict.fromkeys(self.left_out)), NAMED))}", file=sys.stderr)


def find(arguments: Sequence[str], lists: Sequence[str]) -> Found:
    """All files that a command line asks about. Raises UserError where there are none."""
    found = Found()
    for argument in arguments:
        found.add(argument)
    for name in lists:
        found.add_list(name)
    found.files = with_root(found.files)
    if not found.files:
        found.say_left_out()
        raise UserError(f"no files in {in_words(arguments, lists)}")
    for each in found.without:
        say(f"{each!r}: no files", file=sys.stderr)
    return found


def in_words(arguments: Sequence[str], lists: Sequence[str]) -> str:
    return ", ".join("standard input" if each == STDIN else repr(each) for each in [*arguments, *lists])


def read_list(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"--files-from {file}: {error.strerror}; expected a text file with one path a line") from None


def with_root(files: list[File]) -> list[File]:
    """The same files; those that were given one by one get the folder that holds them all."""
    folders = {os.path.dirname(os.path.abspath(file.path)) for file in files if file.root is None}
    root = os.path.commonpath(folders) if folders else None
    return [file if file.root is not None else file._replace(root=root) for file in files]


def expand(pattern: str, left_out: list[str]) -> list[File]:
    """A file, the visible files of a folder and all below it, or what matches a pattern, as if each match were given.

    Whatever else a folder holds, or a pattern matches, is added to `left_out`. Raises UserError where `**` stands for
    folders that are a thousand deep.
    """
    if not pattern:  # a variable that is not set, not this folder
        return []
    path = Path(pattern)
    if os.path.exists(path) or not glob.has_magic(pattern):  # pathlib raises for names that are too long
        if not os.path.isdir(path):  # a file that is missing is reported like any that can't be read
            return [File(str(path), True, None)]
        return [File(str(each), False, pattern) for each in files_at(path, left_out)]
    literally = pattern.replace("[", "[[]")  # a folder may have brackets in its name
    try:
        matches = sorted(glob.glob(literally, recursive=True) or glob.glob(pattern, recursive=True))
    except RecursionError:
        raise UserError(f"{pattern!r}: folders are too deep for a pattern; name the folder instead") from None
    files: dict[Path, File] = {}  # ** matches folder and file
    for match in matches:
        root = match if os.path.isdir(match) else None
        for each in files_at(Path(match), left_out):
            files.setdefault(each, File(str(each), False, root))
    return list(files.values())


def files_at(start: Path, left_out: list[str]) -> Iterator[Path]:
    """A file, or the visible files of a folder, also behind links."""
    levels, around = [iter([start])], list[Path]()  # what is still to visit at each depth; the folders, without links
    while levels:
        path = next(levels[-1], None)
        if path is None:
            levels.pop()
            del around[-1:]
        elif around and not is_visible(path.name):
            left_out.append(f"{path} (hidden)")
        elif os.path.isdir(path):  # pathlib raises where a folder around it can't be read
            real = around[-1] / path.name if around and not path.is_symlink() else path.resolve()
            if real in around:
                left_out.append(f"{path} (a link to a folder around it)")
                continue
            try:
                levels.append(iter(sorted(path.iterdir())))
                around.append(real)
            except OSError as error:
                left_out.append(f"{path} ({error.strerror})")
        elif os.path.isfile(path) or (os.path.islink(path) and is_named_as_image(path.name)):
            yield path  # also a link that leads nowhere: an image is missing
        else:
            left_out.append(f"{path} ({why_not(path)})")


def why_not(path: Path) -> str:
    """Why there is no file that can be read."""
    try:
        path.stat()
    except OSError as error:
        return str(error.strerror)
    return "not a file"
