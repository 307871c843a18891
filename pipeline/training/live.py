"""Live logging of a long training run, by a process of its own: a slow or absent server can't slow training down.

What does not arrive is not lost: `pipeline.track` logs it from the files when the run is done.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

from pipeline.system import parent

SHORT = 10  # seconds; a run that is over by then has nothing to watch
LAST_WORDS = 30  # seconds that the process has, at the end, to hand on what it was given


class Logger:
    """Hands each epoch's row to `python -m pipeline.track --live`, once the run has turned out not to be short."""

    def __init__(self, experiment: str, fingerprint: str) -> None:
        self.command = [sys.executable, "-m", "pipeline.track", "--live", experiment, fingerprint]
        self.start = time.monotonic()
        self.process: subprocess.Popen[bytes] | None = None
        self.sent = 0

    def __enter__(self) -> Logger:
        return self

    def log(self, history: list[dict[str, Any]]) -> None:
        if self.process is None:
            if time.monotonic() - self.start < SHORT:
                return
            # a session of its own: Ctrl-C reaches training only, and the end of the pipe ends this process, not DVC's
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
            pass  # tried again with the next epoch

    def __exit__(self, *error: object) -> None:
        if self.process is None:
            return
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(0 if any(error) else LAST_WORDS)
        except subprocess.TimeoutExpired:
            self.process.kill()  # silently
