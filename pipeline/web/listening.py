"""The port that `app` and `serve` listen at."""

from __future__ import annotations

import socket

from pipeline.system.console import UserError


def listen(host: str, port: int) -> socket.socket:
    """A TCP socket that listens there. Raises UserError where that can't be."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # asyncio sends at once only so
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen()
    except (OSError, OverflowError) as error:
        listening.close()
        said = getattr(error, "strerror", None) or error
        raise UserError(
            f"can't listen at {host}:{port} ({said}): give another --port, or end what listens there"
        ) from None
    return listening
