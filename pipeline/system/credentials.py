"""Credentials in addresses: left out wherever an address becomes text, for a terminal, a file or a tracker."""

from __future__ import annotations

import re
from urllib.parse import unquote

HIDDEN = "***"
ANY = "any://"  # the scheme of an address that lacks it
# Up to the next space; inside quotes, where a password may have spaces, at least to the closing one
URL = re.compile(r"""(["'])?([a-z][a-z0-9+.-]{0,30})://((?(1)(?:(?!\1).)*)\S*)""", re.IGNORECASE)
HOST = re.compile(r"(\[[^\]]*\]|[^:]*)(:\d*)?")
# A value of a query whose name says so, without the punctuation of the sentence around it
VALUE = re.compile(
    r"""([?&;#](?:[\w.~%-]{0,40}(?:passw|pwd|secret|token|signature|credential|api[-_]?key|access[-_]?key|odbc_connect)"""
    r"""[\w.~%-]{0,40}|sig|key|pass|auth)=)([^&#\s]+?)(?=["')\]},.:;]{0,9}(?:[&#\s]|$))""",
    re.IGNORECASE,
)
SHORTEST = 3  # characters of a part of a password that is looked for by itself


def hide(text: str) -> str:
    """The text, with *** for passwords and tokens in all URLs."""
    return VALUE.sub(rf"\g<1>{HIDDEN}", URL.sub(without_secret, text))


def hide_in(address: str) -> str:
    """An address that is known to be one, with *** for its password, which may have spaces here."""
    url = as_url(address)
    hidden = hide(url)
    return address if hidden == url else hidden.removeprefix("" if "://" in address else ANY)


def redacted(error: Exception, address: str) -> str:
    """What a library says of an address, and of the proxies before it, without credentials.

    One that misreads an address takes parts of its password for a host or a port.
    """
    from urllib.request import getproxies

    text = str(error)
    for known in (address, *getproxies().values()):
        for part in secret_parts(known):
            text = text.replace(part, HIDDEN)
    return hide(text)


def holds_secret(address: str) -> bool:
    """Whether a path or address is one with a password or token."""
    return "://" in address and hide_in(address) != address


def as_url(address: str) -> str:
    """An address as `hide` finds it in a text: without spaces, and with a scheme."""
    return ("" if "://" in address else ANY) + re.sub(r"\s", "%20", address)


def without_secret(url: re.Match[str]) -> str:
    start, end = secret(url)
    text = url.string
    return text[url.start() : start] + (HIDDEN if end > start else "") + text[end : url.end()]


def secret(url: re.Match[str]) -> tuple[int, int]:
    """Where the password stands in a text with a match of URL; (end, end) if there is none.

    It may contain anything, unquoted or not, so it goes on to the last @. With http a lone user may be a token,
    and is one in token:x-oauth-basic@host.
    """
    scheme, rest, begin = url[2].lower(), url[3], url.start(3)
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    user, at, _ = authority.rpartition("@")
    is_cut_off = not at and "@" in rest and ":" in authority and ("sql" in scheme or not HOST.fullmatch(authority))
    if ":" in user or is_cut_off:
        return begin if is_http(scheme) else begin + rest.index(":") + 1, begin + rest.rindex("@")
    if user and is_http(scheme):
        return begin, begin + len(user)
    return url.end(), url.end()


def is_http(scheme: str) -> bool:
    return scheme in ("http", "https")


def secret_parts(address: str) -> list[str]:
    """The pieces into which a reader of URLs may cut the password of one, the longest first."""
    parts: set[str] = set()
    text = as_url(address)
    secrets = [text[slice(*secret(url))] for url in URL.finditer(text)] + [value[2] for value in VALUE.finditer(text)]
    for whole in (*secrets, *map(unquote, secrets)):
        parts.update((whole, *re.split(r"[@:/?#]", whole)))
    return sorted((part for part in parts if len(part) >= SHORTEST), key=len, reverse=True)
