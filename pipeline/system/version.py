"""A hash of the code, to find out whether another machine or an earlier run has the same."""

from __future__ import annotations

import hashlib
from importlib import metadata
from pathlib import Path

PACKAGES = ("numpy", "pillow", "simplejpeg", "xxhash")  # how images are read depends on these too
PIPELINE = Path(__file__).parents[1]


def version(*rooms: str) -> str:
    """A hash of the code of these rooms, or of the whole pipeline, and of the versions of PACKAGES."""
    digest = hashlib.sha256()
    for folder in [PIPELINE / room for room in rooms] or [PIPELINE]:
        for file in sorted(folder.rglob("*.py")):
            digest.update(file.read_bytes())
    for name in PACKAGES:
        digest.update(metadata.version(name).encode())
    return digest.hexdigest()
