"""Where results are tracked, and whether a server answers there."""

from __future__ import annotations

import os
import socket
from urllib.parse import urlsplit

from pipeline.system.project import root


def tracking_uri() -> str:
    """The environment variable MLFLOW_TRACKING_URI, or else `mlflow.db` in the project's root folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root()}/mlflow.db"


def is_server(uri: str) -> bool:
    return urlsplit(uri).scheme in ("http", "https")


def complaint(error: Exception) -> Exception:
    """An error that says what to do if a server has refused a user or a password, otherwise the error itself."""
    words = COMPLAINTS.get(getattr(error, "error_code", ""))
    return PermissionError(words) if words else error


COMPLAINTS = {
    "UNAUTHENTICATED": "the server wants another user or password: see MLFLOW_TRACKING_USERNAME and _PASSWORD",
    "PERMISSION_DENIED": "this user may not do that on the server: its administrator grants permissions",
}


def knock(uri: str) -> None:
    """Connect to a server, or to the proxy before it, and disconnect. Raises OSError if it does not answer."""
    from requests.utils import get_environ_proxies, select_proxy  # MLflow asks through requests: the same proxies

    proxy = select_proxy(uri, get_environ_proxies(uri))
    address = urlsplit(uri if not proxy else proxy if "://" in proxy else f"http://{proxy}")
    port = address.port or {"http": 80, "https": 443}.get(address.scheme, 1080)  # else a SOCKS proxy
    socket.create_connection((address.hostname or "", port), timeout=5).close()
