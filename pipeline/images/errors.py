"""Why an image or an archive can't be read."""

from __future__ import annotations

import gzip
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.system.console import UserError
from pipeline.system.credentials import hide

if TYPE_CHECKING:
    from upath import UPath

BROKEN_ARCHIVE = (
    *(zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile),
    UnicodeDecodeError,  # of a damaged name in a zip
)


class ImageError(Exception):
    """An image that can't be decoded whole: an issue code and the reason."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code, self.reason = code, reason


def in_one_line(error: BaseException) -> str:
    """The first line of an error's message, without credentials."""
    return hide(" ".join(str(error).partition("\n")[0].split())) or type(error).__name__


@contextmanager
def archive_errors(path: Path | UPath) -> Iterator[None]:
    """Raise a UserError for whatever archive readers raise in the block."""
    try:
        yield
    except (*BROKEN_ARCHIVE, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk failed; bz2 raises OSErrors without a number for damaged data
        raise UserError(
            f"{path}: not a whole zip or tar archive ({in_one_line(error)}); expected one, or a folder: fetch it again"
            " if it was cut off"
        ) from None


@contextmanager
def remote_errors(place: str) -> Iterator[None]:
    """Raise a UserError for whatever a remote storage raises in the block."""
    try:
        yield
    except (UserError, KeyboardInterrupt):
        raise
    except Exception as error:  # every kind of storage has its own
        raise UserError(
            f"{place}: {type(error).__name__}: {in_one_line(error)}; expected an address that fsspec can read: see to"
            " the package, the credentials and the network that it needs"
        ) from None
