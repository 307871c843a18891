"""Hide credentials in addresses, wherever an address is shown, written to a file or sent to a tracker."""

from __future__ import annotations

import re
from urllib.parse import unquote

HIDDEN = "***"
ANY = "any://"  # scheme for addresses without one
# A URL ends at the next space. In quotes, a password may have spaces: there it goes on to the closing quote at least
URL = re.compile(r"""(["'])?([a-z][a-z0-9+.-]{0,30})://((?(1)(?:(?!\1).)*)\S*)""", re.IGNORECASE)
HOST = re.compile(r"(\[[^\]]*\]|[^:]*)(:\d*)?")
# The value of a query parameter whose name is that of a secret, without punctuation that belongs to the sentence
VALUE = re.compile(
    r"""([?&;#](?:[\w.~%-]{0,40}(?:passw|pwd|secret|token|signature|credential|api[-_]?key|access[-_]?key|odbc_connect)"""
    r"""[\w.~%-]{0,40}|sig|key|pass|auth)=)([^&#\s]+?)(?=["')\]},.:;]{0,9}(?:[&#\s]|$))""",
    re.IGNORECASE,
)
SHORTEST = 3  # characters; shorter parts of a password are not looked for by themselves


def hide(text: str) -> str:
    """The text, with *** for passwords and tokens in all URLs."""
    return VALUE.sub(rf"\g<1>{HIDDEN}", URL.sub(without_secret, text))


def hide_in(address: str) -> str:
    """An address with *** for its password. Unlike in the text that `hide` takes, the password may have spaces."""
    url = as_url(address)
    hidden = hide(url)
    return address if hidden == url else hidden.removeprefix("" if "://" in address else ANY)


def redacted(error: Exception, address: str) -> str:
    """The message of a library's error about an address, without credentials of it or of the proxies before it.

    A library may misread an address and name parts of its password as host or port: they are hidden too.
    """
    from urllib.request import getproxies

    text = str(error)
    for known in (address, *getproxies().values()):
        for part in secret_parts(known):
            text = text.replace(part, HIDDEN)
    return hide(text)


def holds_secret(address: str) -> bool:
    """Whether this is an address, not a path, with a password or token."""
    return "://" in address and hide_in(address) != address


def as_url(address: str) -> str:
    """An address in the form in which `hide` recognizes it: without spaces, and with a scheme."""
    return ("" if "://" in address else ANY) + re.sub(r"\s", "%20", address)


def without_secret(url: re.Match[str]) -> str:
    """The text of a match of URL, with *** for its password."""
    start, end = secret(url)
    text = url.string
    return text[url.start() : start] + (HIDDEN if end > start else "") + text[end : url.end()]


def secret(url: re.Match[str]) -> tuple[int, int]:
    """Where the password begins and ends in the text that a match of URL is from; (end, end) if there is none.

    A password may contain any character, so it ends at the last @. With http(s) the user is part of the secret: without
    a password it may be a token, and in token:x-oauth-basic@host it is one.
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
    """The parts into which a parser of URLs may cut the secrets of an address, the longest first."""
    parts: set[str] = set()
    text = as_url(address)
    secrets = [text[slice(*secret(url))] for url in URL.finditer(text)] + [value[2] for value in VALUE.finditer(text)]
    for whole in (*secrets, *map(unquote, secrets)):
        parts.update((whole, *re.split(r"[@:/?#]", whole)))
    return sorted((part for part in parts if len(part) >= SHORTEST), key=len, reverse=True)
