"""A hash of the code, to find out whether another machine or an earlier run has the same."""

from __future__ import annotations

import hashlib
from importlib import metadata
from pathlib import Path

PACKAGES = ("numpy", "pillow", "simplejpeg", "xxhash")  # how images are read depends on these too
PIPELINE = Path(__file__).parents[1]


def version(*rooms: str) -> str:
    """A hash of the code of these rooms, or of the whole pipeline, and of the versions of PACKAGES."""
    codes = [code_sha256(PIPELINE / room) for room in rooms] or [code_sha256(PIPELINE)]
    return hashlib.sha256("\n".join([*codes, *map(metadata.version, PACKAGES)]).encode()).hexdigest()


def code_sha256(path: Path) -> str:
    """The SHA-256 of a module, or of all modules in a folder one after another."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
        digest.update(file.read_bytes())
    return digest.hexdigest()
