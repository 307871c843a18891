"""Checkpoints: the state of a training between two epochs, outside DVC's outputs, which DVC deletes at every start."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pipeline.system.checksummed import SIZE, checksum
from pipeline.system.console import UserError, one_line, say
from pipeline.system.outputs import atomic_write


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a state of tensors, numbers and strings, with its checksum. Raises OSError for a full disk."""
    with atomic_write(path) as partial:
        with partial.open("wb") as file:
            try:
                torch.save(state, file)
            except RuntimeError as error:  # torch wraps the OSError of a full disk in one, and Ctrl-C too
                raise error.__context__ or error from None
        found = checksum(partial)  # at the end of the file, which torch.load ignores: one rename replaces both
        with partial.open("ab") as file:
            file.write(found)


def load(
    path: Path,
    restore: Callable[[dict[str, Any]], None],
    on_first: Callable[[Callable[[], bytes | None]], bytes | None],
) -> None:
    """Call `restore` with the state in `path`, on the CPU; do nothing where the file is missing or damaged.

    The file may be on the first process's machine only: `on_first` (see distributed.Group) reads it for all processes.
    Raises UserError for a file that holds the state of another training.
    """
    contents = on_first(lambda: read(path))
    if contents is None:
        return
    try:
        restore(torch.load(io.BytesIO(contents), map_location="cpu", weights_only=True))
    except Exception as error:  # a damaged pickle raises any exception
        reason = one_line(error)
        raise UserError(f"{path} is of another training ({reason}): remove it to train from the start") from None


def read(path: Path) -> bytes | None:
    """The bytes of a checkpoint; None where there is none, or a damaged one, which gets another name."""
    if not path.exists():
        return None
    contents = path.read_bytes()
    if hashlib.sha256(memoryview(contents)[:-SIZE]).digest() == contents[-SIZE:]:
        return contents
    aside = path.with_name(f"{path.name}.damaged")
    os.replace(path, aside)
    say(f"{path} is damaged: set aside as {aside.name}; training from the start")
    return None
