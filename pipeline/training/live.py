"""Live logging of a long training to MLflow, by a process of its own, so that a slow server can't slow training down.

Rows that do not arrive are not lost: `pipeline.track` logs them from the files when the training is done.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pipeline.system import parent

if TYPE_CHECKING:
    from pipeline.training.times import Stopwatch
    from pipeline.training.trainer import Row

SHORT = 10  # seconds: shorter trainings are not logged live
LAST_WORDS = 30  # seconds that the process has at the end to send the last rows


class Logger:
    """Starts `python -m pipeline.track --live` after SHORT seconds of training and sends it the row of each epoch.

    At the end it sends how the training ended. Where the pipe is closed without that, training was killed.
    """

    def __init__(self, experiment: str, fingerprint: str, stopwatch: Stopwatch) -> None:
        self.command = [sys.executable, "-m", "pipeline.track", "--live", experiment, fingerprint]
        self.began = time.monotonic()
        self.stopwatch = stopwatch
        self.process: subprocess.Popen[bytes] | None = None
        self.sent = 0

    def __enter__(self) -> Logger:
        return self

    def log(self, history: list[Row]) -> None:
        """Send the rows of `history` that were not sent yet. Never waits and never raises for a slow process."""
        if self.process is None:
            if time.monotonic() - self.began < SHORT:
                return
            # in a session of its own Ctrl-C does not reach it, and without STAGE it does not end with DVC:
            # it ends when training closes the pipe
            environment = {name: value for name, value in os.environ.items() if name != parent.STAGE}
            self.process = subprocess.Popen(
                [*self.command, str(self.stopwatch.start)],
                stdin=subprocess.PIPE,
                start_new_session=True,
                env=environment,
            )
            assert self.process.stdin is not None
            os.set_blocking(self.process.stdin.fileno(), False)
        with suppress(BlockingIOError, BrokenPipeError):  # the next epoch tries again
            for row, seconds in list(zip(history, self.stopwatch.epochs, strict=False))[self.sent :]:
                self.send({**row, "seconds": seconds})
                self.sent += 1

    def send(self, value: Any) -> None:
        assert self.process is not None and self.process.stdin is not None
        os.write(self.process.stdin.fileno(), json.dumps(value).encode() + b"\n")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.process is None:
            return
        assert self.process.stdin is not None
        with suppress(BlockingIOError, BrokenPipeError):
            self.send("FINISHED" if kind is None else "FAILED" if issubclass(kind, Exception) else "KILLED")
        self.process.stdin.close()
        if kind is None:
            try:
                self.process.wait(LAST_WORDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
