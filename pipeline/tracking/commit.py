"""Which commit of the code a result comes from."""

from __future__ import annotations

import subprocess

UNSEEN_CHANGES = ("dvc.lock", "data/splits", "reports")  # what every run of the pipeline changes by itself


def git_state() -> tuple[str | None, str | None]:
    """The commit, and whether files other than the pipeline's own results differ from it; None outside git."""
    try:
        commit = git("rev-parse", "HEAD")
        changes = git("status", "--porcelain", "--", ".", *(f":(exclude){path}" for path in UNSEEN_CHANGES))
    except (OSError, subprocess.CalledProcessError):
        return None, None
    return commit, "true" if changes else "false"


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout.strip()
