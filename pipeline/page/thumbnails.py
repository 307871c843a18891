"""Thumbnails of some images of a source, as text that can be part of a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator
from math import inf
from operator import itemgetter
from typing import TYPE_CHECKING

from pipeline.images import stored
from pipeline.images.decode import decode, upright
from pipeline.images.errors import ImageError
from pipeline.images.sources import Source
from pipeline.images.stored import Content, Read
from pipeline.system import memory, workers
from pipeline.system.console import progress

if TYPE_CHECKING:
    from PIL import Image

SIDE, QUALITY = 128, 65  # most pixels of a side, quality of JPEG
PathAndContent = tuple[str, Content]


def thumbnails(source: Source, wanted: set[str]) -> dict[str, str]:
    """JPEGs in base64, by path. Wanted images that can't be decoded are left out."""
    tasks = ((item.path, content) for item, content in source.read(wanted.__contains__))
    drawn = workers.ordered_map(draw, tasks, lambda task: stored.size(task[1]), not_drawn, itemgetter(0))
    return dict(found for found in progress(drawn, total=len(wanted), unit=" thumbnails") if found is not None)


def draw(tasks: Iterable[PathAndContent]) -> Iterator[tuple[str, str] | None]:
    """Yield path and thumbnail of each image; None for one that can't be decoded. Runs in a worker process."""
    tasks = list(tasks)
    for (path, _), content in zip(tasks, stored.read_all(content for _, content in tasks), strict=True):
        try:
            yield path, encode(content, path)
        except ImageError:
            yield None
        except MemoryError:
            if not memory.would_give():
                raise
            yield None


def encode(content: Read, path: str) -> str:
    return jpeg(upright(decode(content, path, inf).image, channels=3))  # `check` has limited them


def jpeg(image: Image.Image) -> str:
    """An image, scaled down to what a thumbnail has room for, as JPEG in base64."""
    image.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY, optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def not_drawn(task: PathAndContent, reason: str) -> None:
    """The result for an image whose worker crashed or hung."""
