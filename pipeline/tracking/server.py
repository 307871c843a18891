"""Where results are tracked, and whether anybody answers there."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from urllib.parse import urlsplit


def tracking_uri() -> str:
    """`MLFLOW_TRACKING_URI`, else `mlflow.db` at the project's root; in a temporary copy of it, the original's."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root()}/mlflow.db"


def root() -> Path:
    return Path(os.environ.get("DVC_ROOT") or Path.cwd())


def is_server(uri: str) -> bool:
    return urlsplit(uri).scheme in ("http", "https")


def knock(uri: str) -> None:
    """Connect to the server, or to the proxy on the way to it. Raises OSError at once where nobody answers."""
    from requests.utils import get_environ_proxies, select_proxy  # MLflow asks through requests: the same proxies

    proxy = select_proxy(uri, get_environ_proxies(uri))
    address = urlsplit(uri if not proxy else proxy if "://" in proxy else f"http://{proxy}")
    port = address.port or {"http": 80, "https": 443}.get(address.scheme, 1080)  # else a SOCKS proxy
    socket.create_connection((address.hostname or "", port), timeout=5).close()
