"""Read the central directory of a zip member by member. zipfile would keep half a kilobyte for each in memory.

The format is described in PKWARE's APPNOTE.TXT, sections 4.3, 4.5.3 and 4.6.9.
"""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import IO, NamedTuple

from pipeline.images.encodings import STANDARD, Candidates
from pipeline.images.stored import LOCAL_HEADER, SPARE, Problem, Stored, ZipMember

END = struct.Struct("<4s6xHIIH")  # magic, members, size and offset of the directory, length of the comment
END64_PLACE = struct.Struct("<4s4xQ4x")  # magic, offset of END64
END64 = struct.Struct("<4s28xQQQ")  # magic, members, size and offset of the directory
MEMBER = struct.Struct("<4s4xHH4xIIIHHH8xI")  # magic, flags, method, CRC, sizes, lengths of the fields, offset
WRAP = 1 << 32  # where offsets of 32 bits begin again at 0
IN_EXTRA = 0xFFFFFFFF  # stands for a number of 64 bits in the extra field
UTF8 = 0x800  # flag: the name is in UTF-8
MAKER = 5  # in the entry of a member: place of the system that wrote it
MODE = slice(40, 42)  # in the entry of a member: its kind and permissions, if a system that has them wrote it
PART = slice(4, 6)  # in the record at the end: its number, where the zip is split
LINK = Problem("unreadable", "a symbolic link")
ZIP64, UNICODE_PATH = 1, 0x7075  # kinds of extra fields
BACKSLASH_MAKERS = (0, 6, 10, 14)  # DOS, OS/2, Windows NTFS, VFAT


class CentralDirectory(NamedTuple):
    """Where the central directory lies."""

    start: int
    size: int
    shift: int  # bytes in front of the archive, which its offsets do not count
    wraps: bool  # whether its offsets begin anew at 4 GiB, as macOS writes them


class Naming(NamedTuple):
    """How the bytes of names become text, where a member does not say that they are UTF-8."""

    encoding: str
    has_slashes: bool


def find_naming(file: IO[bytes]) -> Naming:
    """Look at all names. Raises zipfile.BadZipFile where the directory is not whole."""
    has_slashes = False
    candidates, between_backslashes = Candidates(), Candidates()
    for _, flags, name, extra, _ in records(file, find_directory(file)):
        has_slashes = has_slashes or b"/" in name
        if not (flags & UTF8 or name.isascii() or unicode_path(name, extra)):
            candidates.narrow(name)
            between_backslashes.narrow(name.replace(b"\\", b"/"))
    # a wrong encoding may take a backslash between folders for half a letter
    best = None if has_slashes else between_backslashes.best
    return Naming(best or candidates.best or STANDARD, has_slashes)


def members(file: IO[bytes], place: str, naming: Naming | None = None) -> Iterator[tuple[str, Stored | Problem]]:
    """Yield the name of each member and where it is stored, in the directory's order. A folder's name ends in a slash.

    A member that would reach into the directory, which comes after all of them, is a problem.
    Raises zipfile.BadZipFile where the directory is not whole.
    """
    naming = naming or find_naming(file)
    directory = find_directory(file)
    last = wrapped = 0
    for header, flags, name, extra, (method, crc, compressed, size, offset) in records(file, directory):
        if extra:
            size, compressed, offset = wide(extra, size, compressed, offset)
        if directory.wraps:  # members are in the order of their offsets
            wrapped += WRAP * (offset < last)
            last = offset
            offset += wrapped
        member = ZipMember(compressed, size, method, flags, crc)
        length = LOCAL_HEADER.size + len(name) + compressed
        start = offset + directory.shift
        content: Stored | Problem = Stored(place, start, length + len(extra) + SPARE, member)
        if start + length > directory.start:
            content = Problem("truncated", f"{length} bytes at {start}, beyond the end of the archive's members")
        elif stat.S_ISLNK(int.from_bytes(header[MODE], "little")):
            content = LINK
        yield text_of(name, flags, extra, header[MAKER], naming), content


def records(
    file: IO[bytes], directory: CentralDirectory
) -> Iterator[tuple[bytes, int, bytes, bytes, tuple[int, int, int, int, int]]]:
    """Yield of each member its header, flags, name, extra field; and method, CRC, compressed size, size, offset."""
    file.seek(directory.start)
    left = directory.size
    while left > 0:
        header = file.read(MEMBER.size)
        if len(header) < MEMBER.size:
            raise zipfile.BadZipFile("Truncated central directory")
        magic, flags, method, crc, compressed, size, *lengths, offset = MEMBER.unpack(header)
        if magic != b"PK\1\2":
            raise zipfile.BadZipFile("Bad magic number for central directory")
        rest = file.read(sum(lengths))
        name, extra = rest[: lengths[0]], rest[lengths[0] : lengths[0] + lengths[1]]
        yield header, flags, name, extra, (method, crc, compressed, size, offset)
        left -= MEMBER.size + sum(lengths)


def text_of(name: bytes, flags: int, extra: bytes, maker: int, naming: Naming) -> str:
    """The name as text, with slashes between folders.

    A backslash is one where the maker's system writes paths with it. Where the encoding is a guess it may be half a
    letter, so there it counts only if the archive has no slashes.
    """
    is_certain = True
    if flags & UTF8:
        text = name.decode("utf-8")
    elif not (text := unicode_path(name, extra)):
        text = name.decode(naming.encoding)
        is_certain = naming.encoding == "utf-8" or name.isascii()
    if maker in BACKSLASH_MAKERS and (is_certain or not naming.has_slashes):
        text = text.replace("\\", "/")
    return text.partition("\0")[0]


def unicode_path(name: bytes, extra: bytes) -> str:
    """The name in the extra field 0x7075; none if the stored name was changed after the field was written."""
    for kind, data in extra_fields(extra):
        if kind == UNICODE_PATH and data[:1] == b"\1" and data[1:5] == struct.pack("<I", zlib.crc32(name)):
            with suppress(UnicodeDecodeError):
                return data[5:].decode("utf-8")
    return ""


def find_directory(file: IO[bytes]) -> CentralDirectory:
    """Find the central directory by the record at the end of the file. Raises zipfile.BadZipFile if it is not there."""
    length = file.seek(0, 2)
    from_end = min(length, END.size + 0xFFFF + END64_PLACE.size)  # the comment is last, of up to 65,535 bytes
    file.seek(length - from_end)
    tail = file.read(from_end)
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) - at < END.size:
        raise zipfile.BadZipFile("File is not a zip file")
    _, count, size, offset, _ = END.unpack_from(tail, at)
    part = int.from_bytes(tail[at:][PART], "little")
    if part not in (0, 0xFFFF):  # the latter stands for a number in END64
        raise zipfile.BadZipFile(f"the last of {part + 1} parts of a split zip: zip -s 0 joins them")
    end = length - from_end + at
    if at >= END64_PLACE.size and tail[at - END64_PLACE.size :].startswith(b"PK\6\7"):
        _, place64 = END64_PLACE.unpack_from(tail, at - END64_PLACE.size)
        if place64 + END64.size > length:
            raise zipfile.BadZipFile("Bad offset for zip64 end record")
        file.seek(place64)
        data = file.read(END64.size)
        if data.startswith(b"PK\6\6"):
            _, count, size, offset = END64.unpack(data)
            end = place64
    start = end - size
    if start < 0 or start < offset:
        raise zipfile.BadZipFile("Bad offset for central directory")
    if not size and count:
        raise zipfile.BadZipFile("Bad size of central directory")
    shift = start - offset
    wraps = shift > 0 and shift % WRAP == 0  # what lies in front of an archive hardly ever has just that size
    return CentralDirectory(start, size, 0 if wraps else shift, wraps)


def wide(extra: bytes, *numbers: int) -> list[int]:
    """The numbers, with those of 64 bits taken from the extra field."""
    found = list(numbers)
    for kind, data in extra_fields(extra):
        if kind == ZIP64:
            values = struct.iter_unpack("<Q", data[: len(data) // 8 * 8])
            for position, number in enumerate(numbers):
                if number == IN_EXTRA:
                    found[position] = next(values, (IN_EXTRA,))[0]
    return found


def extra_fields(extra: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the kind and the data of each part of an extra field."""
    at = 0
    while len(extra) - at >= 4:
        kind, length = struct.unpack_from("<HH", extra, at)
        yield kind, extra[at + 4 : at + 4 + length]
        at += 4 + length
