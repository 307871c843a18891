"""Atomic writes: an output is written under a temporary name in the same folder, and renamed when it is complete."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def remove(path: Path) -> None:
    """Remove a file, link or folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def named(path: Path, partial: Path | None = None) -> Iterator[None]:
    """Add `path` to an OSError of the block that names no file, such as that of a full disk.

    If it names `partial`, or a file in it, it names `path` instead.
    """
    try:
        yield
    except OSError as error:
        where = error.filename
        if where is None:
            error.filename = str(path)
        elif partial and isinstance(where, str | Path) and Path(where).is_relative_to(partial):
            error.filename, error.filename2 = str(path / Path(where).relative_to(partial)), None
        raise


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a path in the same folder, to write a file or a folder to. It becomes `path` if the block succeeds.

    If the block raises, what it wrote is removed. What killed processes have left is removed first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_file() and not path.is_dir():  # a device or a pipe would be replaced
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    sweep(path)
    partial = own_partial(path)
    try:
        with named(path, partial):
            yield partial
            if partial.is_dir():  # a folder can't replace another one in one step
                remove(path)
            os.replace(partial, path)
    except BaseException:
        remove(partial)
        raise


def blocked(path: Path) -> Path | None:
    """The file that stands where `path` needs a folder; None if there is none."""
    first = next(parent for parent in path.absolute().parents if parent.exists())
    return None if first.is_dir() else first


def own_partial(path: Path) -> Path:
    """The temporary name under which this process writes what is to become `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def sweep(path: Path) -> None:
    """Remove what is to become `path` but was left by processes that no longer run."""
    own = re.compile(rf"\.{re.escape(path.name)}\.(\d+)\.partial")
    for entry in os.scandir(path.parent):
        found = own.fullmatch(entry.name)
        if found and not (int(found[1]) != os.getpid() and is_running(int(found[1]))):
            remove(Path(entry.path))


def is_running(process: int) -> bool:
    """Whether there is a process with this id that has not ended."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it is another user's
        return True
    with suppress(OSError):  # Z: it has ended, and its parent has not noticed yet; only Linux tells
        return Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    return True


@contextmanager
def together(folder: Path) -> Iterator[Path]:
    """Yield an empty folder to write files to. If the block succeeds, all of them are moved to `folder`.

    If it raises, what it wrote is removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder / "new")
    partial = own_partial(folder / "new")
    try:
        partial.mkdir()
        with named(folder):
            yield partial
        files = sorted(partial.iterdir())
        for file in files:
            if (folder / file.name).is_dir():  # found out before any file is moved
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(folder / file.name))
        for file in files:
            os.replace(file, folder / file.name)
    finally:
        remove(partial)


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON, with keys in their own order."""
    with atomic_write(path) as partial:
        partial.write_text(json_text(value) + "\n", encoding="utf-8")


def json_text(value: object) -> str:
    """`value` as indented JSON in which only characters that can't be printed are escaped."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    return "".join(sign if sign.isprintable() or sign == "\n" else json.dumps(sign)[1:-1] for sign in text)
