"""Files that are kept between runs and must still be what was written: beside each lies its checksum."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.system.outputs import atomic_write, remove

SIZE = 32  # bytes of a checksum


@contextmanager
def sealed(path: Path) -> Iterator[Path]:
    """As `outputs.atomic_write` for a new file, which `is_sealed` then knows again."""
    with atomic_write(path) as partial:
        yield partial
        with atomic_write(seal(path)) as new:
            new.write_bytes(checksum(partial))


def is_sealed(path: Path) -> bool:
    """Whether a file is there and, to the bit, as it was written. Reads all of it."""
    try:
        return checksum(path) == seal(path).read_bytes()
    except OSError:
        return False


def unseal(path: Path) -> None:
    """Remove a file, if it is there, with its checksum."""
    remove(path)
    remove(seal(path))


def checksum(path: Path) -> bytes:
    """Of all bytes of a file: SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def seal(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")
