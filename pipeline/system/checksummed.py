"""Files that are kept between runs and must still be what was written: beside each lies its checksum."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import xxhash

from pipeline.system.outputs import atomic_write, remove


@contextmanager
def checksummed_write(path: Path) -> Iterator[Path]:
    """As `outputs.atomic_write` for a new file, which `is_intact` then knows again."""
    with atomic_write(path) as partial:
        yield partial
        with atomic_write(checksum_file(path)) as new:
            new.write_bytes(checksum(partial))


def is_intact(path: Path) -> bool:
    """Whether a file is there and, to the bit, as it was written. Reads all of it."""
    try:
        return checksum(path) == checksum_file(path).read_bytes()
    except OSError:
        return False


def remove_checksummed(path: Path) -> None:
    """Remove a file, if it is there, with its checksum."""
    remove(path)
    remove(checksum_file(path))


def checksum(path: Path) -> bytes:
    """Of all bytes of a file: XXH3, 128 bits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, xxhash.xxh3_128).digest()


def checksum_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.xxh3")
