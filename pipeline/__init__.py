"""Clasificador: from a set of images to a classifier, one module per DVC stage."""

from __future__ import annotations

import os
import sys
from types import TracebackType


def end_quietly(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Ctrl-C while a stage still imports: no traceback there either. Later, `pipeline.system.console.run` sees to it.

    The traceback of anything else is as fit for a terminal as all that a stage says.
    """
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        os._exit(130)
    import traceback

    from pipeline.system.console import say

    for part in traceback.format_exception(kind, error, trace):
        say(*part.splitlines(), file=sys.stderr)


sys.excepthook = end_quietly
