"""The commit of the code that a result comes from."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple

RESULTS = ("dvc.lock", "data/splits", "reports")  # in git, but every run of the pipeline changes them


class LastChange(NamedTuple):
    """The last change of a file that git has."""

    commit: str
    seconds: int  # since 1970
    author: str


def git_state() -> tuple[str | None, str | None]:
    """The commit, and "true" or "false": whether files other than RESULTS differ from it. None and None outside git."""
    try:
        commit = git("rev-parse", "HEAD")
        changes = git("status", "--porcelain", "--", ".", *(f":(exclude){path}" for path in RESULTS))
    except (OSError, subprocess.CalledProcessError):
        return None, None
    return commit, "true" if changes else "false"


def last_change(file: Path) -> LastChange | None:
    """The last change of a file. None if git has no such file, or another version of it."""
    try:
        found = git("log", "-1", "--format=%H %ct %an", "--", str(file))
        changed = git("status", "--porcelain", "--", str(file))
    except (OSError, subprocess.CalledProcessError):
        return None
    if changed or not found:
        return None
    commit, seconds, author = found.split(" ", 2)
    return LastChange(commit, int(seconds), author)


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], check=True, capture_output=True, encoding="utf-8", errors="replace")
    return done.stdout.strip()
