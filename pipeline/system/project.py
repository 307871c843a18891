"""Where the project is."""

from __future__ import annotations

import os
from pathlib import Path

CHECKPOINTS = Path(".checkpoints")  # outside DVC's outputs, which are deleted at every start


def root() -> Path:
    """The project's root folder. In the temporary copy of a queued experiment, that of the original."""
    return Path(os.environ.get("DVC_ROOT") or Path.cwd())
