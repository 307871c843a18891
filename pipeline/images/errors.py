"""What the readers of archives raise, and how it is told."""

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
    """What an error says: its first line."""
    return hide(" ".join(str(error).partition("\n")[0].split())) or type(error).__name__
