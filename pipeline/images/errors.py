"""The exceptions of archive readers, and their messages in one line."""

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


def in_one_line(error: BaseException) -> str:
    """The first line of an error's message, without credentials."""
    return hide(" ".join(str(error).partition("\n")[0].split())) or type(error).__name__
