"""Outputs that are whole or absent: written beside their place, renamed into it when complete."""

from __future__ import annotations

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
def named(path: Path) -> Iterator[None]:
    """Let an OSError of the block, such as that of a full disk, tell which file it was about."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write a file or folder to; it becomes `path` only if the block succeeds.

    Raises whatever the block raises, after removing what it had written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    remove(partial)
    try:
        with named(path):
            yield partial
        if partial.is_dir():  # a folder can't replace another one in one step
            remove(path)
        os.replace(partial, path)
    except BaseException:
        remove(partial)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with keys in the order given."""
    with whole(path) as partial:
        partial.write_text(json_text(value) + "\n")


def json_text(value: Any) -> str:
    """`value` as indented JSON: of its signs only those that can't be seen are escapes."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    return "".join(sign if sign.isprintable() or sign == "\n" else json.dumps(sign)[1:-1] for sign in text)
