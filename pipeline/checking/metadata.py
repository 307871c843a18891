"""Read one image once and collect its metadata. Runs in worker processes."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.checking import contact_sheets, hashing, properties
from pipeline.images import decode, stored
from pipeline.images.errors import ImageError
from pipeline.images.items import Item, is_visible
from pipeline.images.stored import TOO_MUCH, Content, Problem, Read
from pipeline.system import memory

MAKE, MODEL = 0x010F, 0x0110  # EXIF tags
LONGEST = 80  # characters of a camera's name
BROKEN = {"unreadable", "truncated", "corrupt", "not_an_image", "empty_file", "too_large"}


class Task(NamedTuple):
    item: Item
    content: Content
    shown: bool  # on a contact sheet, for which it needs a thumbnail


def inspect(tasks: Iterable[Task], max_pixels: int) -> Iterator[dict[str, Any]]:
    """The metadata of each image, keyed as the columns of `inspected.METADATA`. Larger images are not decoded.

    Raises MemoryError if the system has too little memory for an image.
    """
    tasks = list(tasks)
    for task, content in zip(tasks, stored.read_all(task.content for task in tasks), strict=True):
        try:
            yield inspect_one(task, content, max_pixels)
        except MemoryError:
            if not memory.would_give():
                raise
            yield unusable(task, TOO_MUCH, "too_large")


def inspect_one(task: Task, content: Read, max_pixels: int) -> dict[str, Any]:
    """The metadata of one image. Raises MemoryError if the system has too little memory for it."""
    metadata = known_unread(task.item, content)
    try:
        decoded = decode.decode(content, task.item.path, max_pixels)
    except ImageError as error:
        return {**metadata, "issues": [error.code], "reason": error.reason}
    issues = decoded.issues
    seen = decode.upright_pixels(decoded)
    gray = properties.reduced(seen)
    measured = properties.measure(gray, seen)._asdict()
    if measured.pop("blank"):
        issues.append("blank")
    if task.item.label is None:
        issues.append("no_label")
        not_labeled = task.item.unlabeled or "not in a class folder"
        metadata["reason"] = not_labeled if is_visible(task.item.path) else "hidden"
    fingerprint = hashing.fingerprint(gray)
    metadata.update(
        measured,
        width=decoded.header.width,
        height=decoded.header.height,
        mode=decoded.mode,
        format=decoded.format,
        camera=camera(decoded.header),
        phash=hashing.phash(fingerprint),
        pixel_hash=hashing.pixel_hash(seen),
        fingerprint=fingerprint.tobytes(),
        issues=issues,
        thumbnail=ppm(contact_sheets.thumbnail(Image.fromarray(seen))) if task.shown else None,
    )
    return metadata


def camera(image: Image.Image) -> str | None:
    """Make and model of the camera by EXIF; None where there are none or they make no sense."""
    try:
        exif = image.getexif()
        make, model = (" ".join(str(exif.get(tag) or "").replace("\0", " ").split()) for tag in (MAKE, MODEL))
    except Exception:  # a broken EXIF block says nothing about the pixels
        return None
    return (model if model.startswith(make) else f"{make} {model}".strip())[:LONGEST] or None


def unusable(task: Task, reason: str, issue: str = "unreadable") -> dict[str, Any]:
    """The metadata of an image that was given up, for example because its worker crashed."""
    return {**known_unread(task.item, stored.read(task.content)), "issues": [issue], "reason": reason}


def known_unread(item: Item, content: Read) -> dict[str, Any]:
    """The metadata that is known without decoding."""
    metadata: dict[str, Any] = {
        "path": item.path, "label": item.label, "official_split": item.split, "listed_group": item.group, "bytes": 0,
    }  # fmt: skip
    if not isinstance(content, Problem):
        data = content.tobytes() if isinstance(content, np.ndarray) else content
        metadata.update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    return metadata


def ppm(pixels: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PPM")
    return stream.getvalue()
