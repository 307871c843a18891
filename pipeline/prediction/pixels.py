"""From a file to the pixels that a model takes, as the stage `pack` would have stored them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.images.decode import Preprocessing
from pipeline.images.errors import ImageError
from pipeline.images.stored import LARGEST_FILE, Problem, Read, too_large

if TYPE_CHECKING:
    from pipeline.evaluation.model import Model

UNREAD = ""  # the code of a file that the system does not let us read
NOT_FINITE = "the network's logits of it are no finite numbers"


def preprocessing(model: Model) -> Preprocessing:
    shape = model.shape
    return Preprocessing(
        shape.height, shape.width, shape.channels, model.interpolation, model.fit, model.color_profile, model.max_pixels
    )


def pixels_of(content: Read, name: str, how: Preprocessing) -> NDArray[np.uint8] | Problem:
    """An image file's bytes as pixels (H, W, C) uint8, or why there are none. Of `name`, the suffix matters."""
    try:
        return how.scaled(how.upright(content, name))
    except ImageError as error:
        return Problem(error.code, error.reason)
    except MemoryError:
        return Problem("too_large", "not enough memory to decode it")


def read_all(paths: list[str], how: Preprocessing) -> Iterator[NDArray[np.uint8] | Problem]:
    """The pixels of each file. Runs in a worker process."""
    for path in paths:
        content = read(path)
        yield content if isinstance(content, Problem) else pixels_of(content, path, how)


def read(path: str) -> bytes | Problem:
    try:
        about = Path(path).stat()
        if not stat.S_ISREG(about.st_mode):  # reading a pipe could wait for ever
            return Problem(UNREAD, "not a regular file")
        return too_large() if about.st_size > LARGEST_FILE else Path(path).read_bytes()
    except OSError as error:
        return Problem(UNREAD, error.strerror or str(error))


def size(path: str, how: Preprocessing) -> int:
    """Bytes that an image takes, as a file and as pixels."""
    pixels = how.height * how.width * how.channels
    try:
        return os.stat(path).st_size + pixels  # not through pathlib: it is asked for every file
    except OSError:
        return pixels


def crashed(path: str, reason: str) -> Problem:
    return Problem("unreadable", reason)


def in_words(problem: Problem) -> str:
    return f"{problem.code}: {problem.reason}" if problem.code else problem.reason
