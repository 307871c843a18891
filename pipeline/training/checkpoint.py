"""The state of a training run between two epochs, kept outside DVC's outputs, which are deleted at every start."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import xxhash

from pipeline.system.checksummed import checksum
from pipeline.system.console import UserError, say
from pipeline.system.outputs import atomic_write

CHECKSUM = 16  # bytes at the end of the file, so that both are replaced in one step; torch.load does not mind them


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a state of tensors, numbers and strings."""
    with atomic_write(path) as partial:
        with partial.open("wb") as file:
            try:
                torch.save(state, file)
            except RuntimeError as error:  # torch hides a full disk in one
                raise error.__context__ if isinstance(error.__context__, OSError) else error from None
        found = checksum(partial)
        with partial.open("ab") as file:
            file.write(found)


def load(path: Path, restore: Any, once: Callable[[Callable[[], Any]], Any]) -> None:
    """Give the state in `path`, on the CPU, to `restore`; nothing, if there is no such file or it is damaged.

    `once` (see distributed.Group) reads the file for all processes: it may be on the first one's machine only.
    Raises UserError for a file that holds the state of something else.
    """
    contents = once(lambda: read(path))
    if contents is None:
        return
    try:
        restore(torch.load(io.BytesIO(contents), map_location="cpu", weights_only=True))
    except Exception as error:  # unpickling raises whatever it likes
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is of another training ({reason}): remove it to train from the start") from None


def read(path: Path) -> bytes | None:
    """What was saved. A file that is no longer that is set aside, so that training starts anew."""
    if not path.exists():
        return None
    contents = path.read_bytes()
    if xxhash.xxh3_128_digest(memoryview(contents)[:-CHECKSUM]) == contents[-CHECKSUM:]:
        return contents
    aside = path.with_name(f"{path.name}.damaged")
    os.replace(path, aside)
    say(f"{path} is damaged: set aside as {aside.name}; training from the start")
    return None
