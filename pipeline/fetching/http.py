"""Download one file over HTTP, with time-outs and retries. Resume where it broke off, and refuse HTML pages."""

from __future__ import annotations

import itertools
import re
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import IncompleteRead, RemoteDisconnected
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.fetching.checksums import HTML, FetchError, Wanted, looks_like_html
from pipeline.system.console import printable, progress, say
from pipeline.system.outputs import named

if TYPE_CHECKING:
    from requests import Response

CONNECT_TIMEOUT = 4.0  # seconds
READ_TIMEOUT = 10.0  # seconds without a byte
TRIES = 3  # without progress after which it is given up
BACK_OFF = 0.5  # seconds, doubled each time
PATIENCE = 10.0  # seconds without progress after which no new try begins
LONGEST_PAUSE = 60  # seconds that a busy server may ask for; else it is given up
WINDOW = 60.0  # seconds over which the speed is averaged
SLOWEST = 1000.0  # bytes a second; a slower server is given up
CHUNK = 1 << 16  # most bytes of one read
CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d+/(\d+|\*)")
LENGTH = re.compile(r"\d{1,18}", re.ASCII)  # more digits than any file has bytes


class TransientError(FetchError):
    """A failure that may not happen again, after the pause in seconds that the server asks for."""

    def __init__(self, reason: str, pause: int = 0) -> None:
        super().__init__(reason)
        self.pause = pause


class UnreachableError(TransientError):
    """The server does not answer, so it is not asked for other files."""


class TooSlowError(UnreachableError):
    """The server sends fewer than SLOWEST bytes a second."""


def download(url: str, wanted: Wanted, part: Path) -> bool:
    """Complete the file `part`, which may already hold the beginning. The caller verifies it.

    Returns whether `part` consists of several answers, which may be parts of different files. Raises FetchError with
    the reason; then `part` holds a beginning, which can be resumed from any mirror.
    """
    if wanted.bytes and size(part) >= wanted.bytes:
        return True
    most, tries, since = size(part), 0, time.monotonic()
    with given_up_if_slow(lambda: size(part)):
        while True:
            try:
                return request(url, wanted, part)
            except TooSlowError:
                raise
            except TransientError as failure:
                if size(part) > most:
                    most, tries, since = size(part), 0, time.monotonic()
                tries += 1
                if tries == TRIES or time.monotonic() - since > PATIENCE:
                    raise
                if failure.pause:
                    say(f"{wanted.name}: {failure}: asked to wait {failure.pause} s", file=sys.stderr)
                    since += failure.pause
                wait(max(BACK_OFF * 2 ** (tries - 1), failure.pause))


@contextmanager
def given_up_if_slow(received: Callable[[], int]) -> Iterator[None]:
    """Raise TooSlowError in the block when less than SLOWEST · WINDOW bytes have come in WINDOW seconds.

    It also interrupts a wait for headers. `received` gives the number of bytes so far; it may fall when a download
    begins anew. Works in the main thread only, because it uses a signal.
    """
    before = received()

    def look(signum: int, frame: object) -> None:
        nonlocal before
        now = received()
        if 0 <= now - before < SLOWEST * WINDOW:
            raise TooSlowError(f"only {now - before} bytes in {WINDOW:g} s")
        before = now

    handler = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, WINDOW, WINDOW)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)


def wait(seconds: float) -> None:
    """Sleep, while the time of `given_up_if_slow` stands still."""
    left, interval = signal.setitimer(signal.ITIMER_REAL, 0)
    time.sleep(seconds)
    signal.setitimer(signal.ITIMER_REAL, left, interval)


def request(url: str, wanted: Wanted, part: Path, *, anew: bool = False) -> bool:
    """Request what `part` lacks and append it. Returns whether `part` already had a beginning that was kept.

    With `anew`, the whole file is requested; `part` is kept until an answer may be that file. Raises FetchError; it is
    a TransientError if the same request may succeed later.
    """
    import requests
    import urllib3

    have = 0 if anew else size(part)
    headers = {"Accept-Encoding": "identity"}  # a .gz must not arrive decompressed
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        with answer(url, headers) as response:
            if have and not resumes(response, have):
                if response.status_code != requests.codes.ok:
                    return request(url, wanted, part, anew=True)
                have = 0
            check_headers(response, have)
            save(response, wanted, part, have)
    except (requests.ConnectionError, requests.Timeout) as error:
        raise UnreachableError(reason(error)) from None
    except urllib3.exceptions.HTTPError as error:
        raise TransientError(f"{reason(error)} after {size(part)} of {wanted.bytes or 'unknown'} bytes") from None
    except requests.RequestException as error:
        raise FetchError(reason(error)) from None
    if wanted.bytes and size(part) < wanted.bytes:
        raise TransientError(f"truncated: {size(part)} of {wanted.bytes} bytes")
    return have > 0


def answer(url: str, headers: dict[str, str]) -> Response:
    """The answer to a request, its body not yet read. Raises FetchError where requests lets other errors through."""
    import requests

    try:
        return requests.get(url, headers=headers, stream=True, timeout=(CONNECT_TIMEOUT, READ_TIMEOUT))
    except requests.RequestException:
        raise
    except ValueError:  # the address in a `Location`
        raise FetchError("a redirect to what is no address") from None
    except OSError as error:  # REQUESTS_CA_BUNDLE names a file that is not there
        raise FetchError(str(error)) from None


def resumes(response: Response, have: int) -> bool:
    """Whether the first `have` bytes are to be kept.

    They are not if the answer is the whole file, other bytes of it, or that it has no such bytes (416). An answer that
    says nothing about the file (404, 503) leaves them for another mirror.
    """
    if response.status_code == 206:
        sent = CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        return sent is not None and int(sent[1]) == have
    return response.status_code not in (200, 416)


def check_headers(response: Response, have: int) -> None:
    """Raise FetchError for an answer that can't be the file, before its body is read."""
    if response.status_code == 429 or response.status_code >= 500:
        asked = response.headers.get("Retry-After", "")  # seconds; its other form, a date, is rare
        pause = int(asked) if LENGTH.fullmatch(asked) else 0
        if pause > LONGEST_PAUSE:
            raise FetchError(f"HTTP {response.status_code}: asked to wait {pause} s")
        raise TransientError(f"HTTP {response.status_code}", pause)
    if response.status_code != (206 if have else 200):
        raise FetchError(f"HTTP {response.status_code}")
    if response.headers.get("Content-Type", "").lower().startswith("text/html"):
        raise FetchError(HTML)


def save(response: Response, wanted: Wanted, part: Path, have: int) -> None:
    """Append the body to the `have` bytes of `part`. A body that is too long is read for one chunk more, then left.

    Raises FetchError for an HTML page, a wrong length or no bytes, with `part` as it was, and urllib3's HTTPError when
    the connection breaks.
    """
    length = response.headers.get("Content-Length", "")
    total = have + int(length) if LENGTH.fullmatch(length) else None
    # read1 returns what has come; read would wait for a whole chunk, and lose it when the connection breaks
    chunks = iter(lambda: response.raw.read1(CHUNK, decode_content=False), b"")
    first = next(chunks, b"")
    if not have and looks_like_html(first):
        raise FetchError(HTML)
    wanted.check_size(total)
    if not first and size(part):
        raise TransientError("an empty answer")
    name, most = printable(wanted.name), wanted.bytes or wanted.most_bytes
    with (
        named(part),
        part.open("ab" if have else "wb") as file,
        progress(desc=name, total=total, initial=have, unit="B", unit_scale=True, unit_divisor=1024) as bar,
    ):
        for chunk in itertools.chain([first], chunks):
            file.write(chunk)
            file.flush()  # the speed is measured by the size of the file
            have += len(chunk)
            bar.update(len(chunk))
            if most and have > most:
                break


def size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def reason(error: Exception) -> str:
    """What went wrong, in a few words, from the chain of causes."""
    import requests
    import urllib3

    if isinstance(error, requests.ConnectTimeout):
        return f"no connection within {CONNECT_TIMEOUT:g} s"
    chain = list(causes(error))
    for cause in chain:
        if isinstance(cause, socket.gaierror):
            return "no such host, or no network"
        if isinstance(cause, (requests.Timeout, urllib3.exceptions.ReadTimeoutError)):
            return f"no answer within {READ_TIMEOUT:g} s"
        if isinstance(cause, ssl.SSLError):
            return f"TLS: {getattr(cause, 'verify_message', None) or cause.reason}"
        if isinstance(cause, (urllib3.exceptions.IncompleteRead, IncompleteRead)):
            return "truncated: the connection broke off"
        if isinstance(cause, RemoteDisconnected):
            return "the server closed the connection"
    for cause in chain:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror.lower()
    return str(error) if isinstance(error, (ValueError, requests.TooManyRedirects)) else type(error).__name__


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those that led to it, wherever requests and urllib3 keep them."""
    seen: list[BaseException] = []
    waiting = [error]
    while waiting:
        current = waiting.pop(0)
        if any(current is earlier for earlier in seen):
            continue
        seen.append(current)
        yield current
        linked = (getattr(current, "reason", None), current.__cause__, current.__context__, *current.args)
        waiting += [link for link in linked if isinstance(link, BaseException)]
