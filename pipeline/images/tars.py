"""Read the members of a tar header by header. tarfile trusts false sizes, and keeps all headers in memory.

The format is described in POSIX (pax, "ustar Interchange Format") and in the manual of GNU tar.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import IO, cast

BLOCK = tarfile.BLOCKSIZE
LONGEST_HEADER = 1 << 20  # bytes of a long name or of the records of pax
MOST_AFTER_THE_END = 512 * 1024**2  # bytes of padding
FARTHEST = 1 << 62  # bytes; for compressed archives, whose length is not known
IS_EXTENDED = 482, 504  # place of the flag that another one follows, in GNU's first sparse header and in later ones
PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
DECOMPRESSORS: dict[bytes, Callable[[IO[bytes]], object]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
    b"]\0\0": lzma.open,
}


def decompressed(file: IO[bytes]) -> tuple[IO[bytes], bool]:
    """The archive after decompression, and whether it was plain, so that there was nothing to decompress.

    Raises tarfile.ReadError if it begins neither like a tar nor like a known compression.
    """
    beginning = file.read(BLOCK)
    file.seek(0)
    try:
        if len(beginning) < BLOCK or any(beginning):  # a tar without members is all zeros
            tarfile.TarInfo.frombuf(beginning, "utf-8", "surrogateescape")
        return file, True
    except tarfile.HeaderError:
        for magic, decompress in DECOMPRESSORS.items():
            if beginning.startswith(magic):
                return cast(IO[bytes], decompress(file)), False
        raise tarfile.ReadError("it begins like neither") from None


def members(file: IO[bytes], is_plain: bool) -> Iterator[tarfile.TarInfo]:
    """Yield each member. The file is then where the member's data begins, which may be read before the next one.

    Raises tarfile.ReadError where a header is damaged or gives a false size, and what the decompressor raises.
    """
    length = file.seek(0, 2) if is_plain else FARTHEST
    file.seek(0)
    count = 0
    while (member := next_member(file, count)) is not None:
        start = file.tell()
        has_data = member.isreg() or member.type not in tarfile.SUPPORTED_TYPES
        end = start + up_to_block(member.size) * has_data
        if member.size < 0:
            raise tarfile.ReadError(f"member {count + 1} has a size of {member.size} bytes")
        if end > length:
            raise tarfile.ReadError(f"member {count + 1} ends beyond the end of the archive")
        member.offset_data = start
        yield member
        if end > start:
            file.seek(end - 1)
            if not file.read(1):
                raise tarfile.ReadError(f"it ends within member {count + 1}")
        count += 1
    read_to_end(file)


def next_member(file: IO[bytes], count: int) -> tarfile.TarInfo | None:
    """The next member, with names and size of the extension headers before its own; None at the end.

    Its `sparse` is not None if it is stored with holes. `count` members came before it.
    """
    long_name: bytes | None = None
    long_link: bytes | None = None
    pax: dict[bytes, bytes] = {}
    while True:
        block = file.read(BLOCK)
        is_end = len(block) in (0, BLOCK) and not any(block)
        if is_end and long_name is None and not pax:
            return None
        try:
            member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError:
            raise tarfile.ReadError(f"damaged after {count} members" if count else "not a tar") from None
        if member.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XGLTYPE, *PAX):
            data = extension(file, member.size)
            if member.type == tarfile.GNUTYPE_LONGNAME:
                long_name = data
            elif member.type == tarfile.GNUTYPE_LONGLINK:
                long_link = data
            elif member.type in PAX:
                pax = records(data)
            continue
        if member.type == tarfile.GNUTYPE_SPARSE:
            member.sparse = b""
            at = IS_EXTENDED[0]
            while block[at]:
                block, at = read_exactly(file, BLOCK), IS_EXTENDED[1]
        if any(key.startswith(b"GNU.sparse.") for key in pax):
            member.sparse = b""
        name = pax.get(b"GNU.sparse.name", pax.get(b"path", long_name))
        if name is not None:
            member.name = text(name)
        link = pax.get(b"linkpath", long_link)
        if link is not None:
            member.linkname = text(link)
        if b"size" in pax:
            member.size = number(pax[b"size"])
        return member


def text(name: bytes) -> str:
    return name.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def extension(file: IO[bytes], size: int) -> bytes:
    """The data of an extension header."""
    if not 0 <= size <= LONGEST_HEADER:
        raise tarfile.ReadError(f"a header of {size} bytes")
    return read_exactly(file, up_to_block(size))[:size]


def read_exactly(file: IO[bytes], size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise tarfile.ReadError("it ends within a header")
    return data


def records(data: bytes) -> dict[bytes, bytes]:
    """The records of a pax header, lines of `LENGTH KEY=VALUE`. A length counts itself and the end of the line too."""
    found, at = {}, 0
    while at < len(data) and data[at]:
        length = data[at : at + 20].partition(b" ")[0]
        start, end = at + len(length) + 1, at + number(length)
        if not start < end <= len(data) or b"=" not in data[start : end - 1]:
            raise tarfile.ReadError("damaged pax header")
        key, _, value = data[start : end - 1].partition(b"=")
        found[key] = value
        at = end
    return found


def number(digits: bytes) -> int:
    if not digits.isdigit() or len(digits) > 20:
        raise tarfile.ReadError(f"{digits[:20]!r} where a pax header has a number")
    return int(digits)


def up_to_block(size: int) -> int:
    """The size rounded up to whole blocks."""
    return -(-size // BLOCK) * BLOCK


def read_to_end(file: IO[bytes]) -> None:
    """Read on behind the last member: there a decompressor raises if the checksum is wrong.

    Raises tarfile.ReadError if another archive follows, as `cat` joins them: nobody would notice that it was not read.
    """
    left = MOST_AFTER_THE_END
    while chunk := file.read(1 << 20):
        left -= len(chunk)
        if left < 0:
            raise tarfile.ReadError(f"more than {MOST_AFTER_THE_END // 1024**2} MB after its last member")
        if any(chunk):
            at = (len(chunk) - len(chunk.lstrip(b"\0"))) // BLOCK * BLOCK
            with suppress(tarfile.HeaderError):
                tarfile.TarInfo.frombuf(chunk[at : at + BLOCK], "utf-8", "surrogateescape")
                raise tarfile.ReadError("another archive begins behind its end: unpack both, and pack them as one")
