"""What the readers of archives raise, and how it is told."""

from __future__ import annotations

import gzip
import lzma
import tarfile
import zipfile
import zlib

from pipeline.credentials import hide

BROKEN_ARCHIVE = (
    *(zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile),
    UnicodeDecodeError,  # of a damaged name in a zip
)


def in_one_line(error: BaseException) -> str:
    """What an error says; of tarfile's list of all that it tried, the headline."""
    return hide(" ".join(str(error).partition("\n")[0].removesuffix(":").split())) or type(error).__name__
