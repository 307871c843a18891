"""The commit of the code that a result comes from."""

from __future__ import annotations

import subprocess

RESULTS = ("dvc.lock", "data/splits", "reports")  # in git, but every run of the pipeline changes them


def git_state() -> tuple[str | None, str | None]:
    """The commit, and "true" or "false": whether files other than RESULTS differ from it. None and None outside git."""
    try:
        commit = git("rev-parse", "HEAD")
        changes = git("status", "--porcelain", "--", ".", *(f":(exclude){path}" for path in RESULTS))
    except (OSError, subprocess.CalledProcessError):
        return None, None
    return commit, "true" if changes else "false"


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout.strip()
