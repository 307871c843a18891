"""Live logging of a long training to MLflow, by a process of its own, so that a slow server can't slow training down.

Rows that do not arrive are not lost: `pipeline.track` logs them from the files when the training is done.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from pipeline.system import parent

if TYPE_CHECKING:
    from pipeline.training.trainer import Row

SHORT = 10  # seconds: shorter trainings are not logged live
LAST_WORDS = 30  # seconds that the process has at the end to send the last rows


class Logger:
    """Starts `python -m pipeline.track --live` after SHORT seconds of training and sends it the row of each epoch."""

    def __init__(self, experiment: str, fingerprint: str) -> None:
        self.command = [sys.executable, "-m", "pipeline.track", "--live", experiment, fingerprint]
        self.start = time.monotonic()
        self.process: subprocess.Popen[bytes] | None = None
        self.sent = 0

    def __enter__(self) -> Logger:
        return self

    def log(self, history: list[Row]) -> None:
        """Send the rows of `history` that were not sent yet. Never waits and never raises for a slow process."""
        if self.process is None:
            if time.monotonic() - self.start < SHORT:
                return
            # in a session of its own Ctrl-C does not reach it, and without STAGE it does not end with DVC:
            # it ends when training closes the pipe
            environment = {name: value for name, value in os.environ.items() if name != parent.STAGE}
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, start_new_session=True, env=environment
            )
            assert self.process.stdin is not None
            os.set_blocking(self.process.stdin.fileno(), False)
        assert self.process.stdin is not None
        try:
            for row in history[self.sent :]:
                os.write(self.process.stdin.fileno(), json.dumps(row).encode() + b"\n")
                self.sent += 1
        except (BlockingIOError, BrokenPipeError):
            pass  # the next epoch tries again

    def __exit__(self, *error: object) -> None:
        if self.process is None:
            return
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(0 if any(error) else LAST_WORDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
