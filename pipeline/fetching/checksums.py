"""Verify that a file is the published one, by its size and checksums."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

HTML = "an HTML page, not the file"
SHOWN = 12  # digits of a checksum: enough to tell two apart
HTML_BEGINNINGS = (b"<!doctype", b"<html", b"<head", b"<body", b"<script")


class FetchError(Exception):
    """One mirror did not give the file; the message says why in a few words."""


@dataclass(frozen=True)
class Wanted:
    """A published file: its name, and its size and checksums as far as they are known."""

    name: str
    bytes: int | None = None
    most_bytes: int | None = None  # of a file whose size is not known, but small
    md5: str | None = None
    sha256: str | None = None
    sha256_prefix: str | None = None  # the first hexadecimal digits, as torchvision's file names carry them
    content_sha256: str | None = None  # of a gzip file's content, which may have been compressed in another way

    def verify(self, path: Path) -> None:
        """Raise FetchError if the file at `path` is not this one, byte for byte."""
        with path.open("rb") as file:
            if looks_like_html(file.read(1024)):
                raise FetchError(HTML)
            self.check_size(path.stat().st_size)
            if self.md5:
                compare("md5", digest(file, "md5"), self.md5)
            if self.sha256:
                compare("sha256", digest(file, "sha256"), self.sha256)
            if self.sha256_prefix:
                beginning = digest(file, "sha256")[: len(self.sha256_prefix)]
                compare("beginning of sha256", beginning, self.sha256_prefix)

    def verify_content(self, path: Path) -> None:
        """Raise FetchError if the gzip file at `path` has other content than this one, however it is compressed."""
        assert self.content_sha256, "only for files whose content has a checksum"
        try:
            with gzip.open(path) as content:
                compare("sha256 of the content", digest(content, "sha256"), self.content_sha256)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise FetchError(f"not a whole gzip file: {error}") from None

    def is_at(self, path: Path) -> bool:
        """Whether the file at `path` is this one or, with `content_sha256`, a gzip file of the same content."""
        return self.difference(path) is None

    def difference(self, path: Path) -> str | None:
        """Why what is at `path` is not this file, in the sense of `is_at`; None if it is."""
        if not path.is_file():
            return "not a file"
        try:
            self.verify(path)
        except FetchError as failure:
            if not self.content_sha256:
                return str(failure)
            try:
                self.verify_content(path)
            except FetchError as other:
                return str(other)
        return None

    def check_size(self, size: int | None) -> None:
        """Raise FetchError if both sizes, in bytes, are known and differ."""
        if self.bytes and size is not None and size != self.bytes:
            problem = "truncated" if size < self.bytes else "too large"
            raise FetchError(f"{problem}: {size} bytes, expected {self.bytes}")


def digest(file: BufferedReader | gzip.GzipFile, algorithm: str) -> str:
    """The checksum of a whole file, in hexadecimal digits."""
    file.seek(0)
    return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def compare(what: str, found: str, expected: str) -> None:
    """Raise FetchError if two checksums differ; `what` names them in the message."""
    if found != expected.lower():
        raise FetchError(f"{what} is {found[:SHOWN]}…, expected {expected[:SHOWN]}…")


def looks_like_html(beginning: bytes) -> bool:
    return beginning.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(HTML_BEGINNINGS)
