"""Move files that are not the published ones out of the way instead of removing them: they may be a person's own."""

from __future__ import annotations

import itertools
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from pipeline.fetching.checksums import Wanted
from pipeline.system.console import say
from pipeline.system.outputs import remove

OF_SYSTEMS = (".DS_Store", "desktop.ini", "Thumbs.db")  # which the file managers of macOS and Windows leave


def set_aside(folder: Path, files: Iterable[Wanted], waiting: Path, verified: Iterable[str] = ()) -> None:
    """Move everything out of `folder`, except those of `files` that are intact, and names that are `verified` already.

    It goes to WAITING.others, and a line is printed for each. If `folder` is a file, that goes there too.
    """
    wrong = {wanted.name: wanted.difference(folder / wanted.name) for wanted in files} | dict.fromkeys(verified)
    # listed only now, since the checksums of large files take minutes
    for path in sorted(folder.iterdir()) if folder.is_dir() else [folder] if folder.exists() else []:
        if path.name in OF_SYSTEMS:
            remove(path)
        elif path.name not in wrong:
            move_aside(path, waiting, "is not among the published files")
        elif difference := wrong[path.name]:
            move_aside(path, waiting, f"is not the published file ({difference})")


def move_aside(path: Path, waiting: Path, reason: str) -> None:
    others = waiting.with_name(f"{waiting.name}.others")
    others.mkdir(parents=True, exist_ok=True)
    target = unused(others / path.name)
    shutil.move(path, target)
    say(f"warning: {path} {reason}: moved to {target}", file=sys.stderr)


def unused(path: Path) -> Path:
    """This path, or one like it at which nothing is, not even a broken link."""
    numbered = (path.with_name(f"{path.name}.{number}") for number in itertools.count(1))
    return next(other for other in itertools.chain([path], numbered) if not os.path.lexists(other))
