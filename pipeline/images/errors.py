"""Why an image or an archive can't be read."""

from __future__ import annotations

import gzip
import lzma
import tarfile
import zipfile
import zlib

from pipeline.system.credentials import hide

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
