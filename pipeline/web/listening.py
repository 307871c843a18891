"""The port that `app` and `serve` listen at."""

from __future__ import annotations

import errno
import socket

from pipeline.system.console import UserError


def listen(host: str, port: int) -> socket.socket:
    """A TCP socket that listens there. Raises UserError where that can't be."""
    # with the protocol named, asyncio sends small answers at once
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen()
    except (OSError, OverflowError) as error:
        listening.close()
        said = getattr(error, "strerror", None) or error
        advice = "give another --port, or end what listens there"
        if isinstance(error, socket.gaierror) or getattr(error, "errno", None) == errno.EADDRNOTAVAIL:
            advice = "expected as --host an IPv4 address of this machine, or 0.0.0.0 for all of them"
        raise UserError(f"can't listen at {host}:{port} ({said}): {advice}") from None
    return listening
