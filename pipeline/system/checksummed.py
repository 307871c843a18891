"""Write files that are kept between runs, with a checksum in another file, so that damage is noticed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.system.outputs import atomic_write, remove

SIZE = 32  # bytes of a checksum


@contextmanager
def checksummed_write(path: Path) -> Iterator[Path]:
    """Like `outputs.atomic_write`, for one file, whose checksum is written too."""
    with atomic_write(path) as partial:
        yield partial
        with atomic_write(checksum_file(path)) as new:
            new.write_bytes(checksum(partial))


def is_intact(path: Path) -> bool:
    """Whether a file exists and matches its checksum. Reads all of it."""
    try:
        return checksum(path) == checksum_file(path).read_bytes()
    except OSError:
        return False


def remove_checksummed(path: Path) -> None:
    """Remove a file, if it is there, with its checksum."""
    remove(path)
    remove(checksum_file(path))


def checksum(path: Path) -> bytes:
    """The SHA-256 of a file, SIZE bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def checksum_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")
