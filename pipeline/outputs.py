"""Outputs that are whole or absent: written beside their place, renamed into it when complete."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def remove(path: Path) -> None:
    """Remove a file, link or folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write a file or folder to; it becomes `path` only if the block succeeds.

    Raises whatever the block raises, after removing what it had written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    remove(partial)
    try:
        yield partial
        if partial.is_dir():  # a folder can't replace another one in one step
            remove(path)
        os.replace(partial, path)
    except BaseException:
        remove(partial)
        raise


@contextmanager
def together(folder: Path) -> Iterator[Path]:
    """Yield an empty folder to write files to; all become files of `folder`, only if the block succeeds.

    Raises whatever the block raises, after removing what it had written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / ".new.partial"
    remove(partial)
    try:
        partial.mkdir()
        yield partial
        files = sorted(partial.iterdir())
        for file in files:
            if (folder / file.name).is_dir():  # found out now, or some would have moved already
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(folder / file.name))
        for file in files:
            os.replace(file, folder / file.name)
    finally:
        remove(partial)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with keys in the order given."""
    with whole(path) as partial:
        partial.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
