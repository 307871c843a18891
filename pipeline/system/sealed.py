"""Files that are kept between runs and must still be what was written: beside each lies its checksum."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import xxhash

from pipeline.system.outputs import atomic_write, remove


@contextmanager
def sealed(path: Path) -> Iterator[Path]:
    """As `outputs.whole` for a file, which `is_sealed` then knows again.

    Where it replaces another one, that is known until it is replaced: the process may be killed at any moment.
    """
    with atomic_write(path) as partial:
        yield partial
        checksums = [checksum(partial), *([checksum(path)] if is_sealed(path) else [])]
        with atomic_write(seal(path)) as new:
            new.write_text("\n".join(checksums) + "\n")


def is_sealed(path: Path) -> bool:
    """Whether a file is there and, to the bit, as it was written. Reads all of it."""
    try:
        return checksum(path) in known(path)
    except OSError:
        return False


def unseal(path: Path) -> None:
    """Remove a file, if it is there, with its checksum."""
    remove(path)
    remove(seal(path))


def checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()


def seal(path: Path) -> Path:
    return path.with_name(f"{path.name}.xxh3")


def known(path: Path) -> list[str]:
    try:
        return seal(path).read_text().split()
    except (OSError, UnicodeDecodeError):  # damaged too
        return []
