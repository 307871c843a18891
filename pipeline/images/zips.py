"""Read the central directory of a zip member by member. zipfile would keep half a kilobyte for each in memory.

The format is described in PKWARE's APPNOTE.TXT, sections 4.3 and 4.5.3.
"""

from __future__ import annotations

import stat
import struct
import zipfile
from collections.abc import Iterator
from typing import IO, NamedTuple

from pipeline.images.stored import LOCAL_HEADER, SPARE, Problem, Stored, ZipMember

END = struct.Struct("<4s6xHIIH")  # magic, members, size and offset of the directory, length of the comment
END64_PLACE = struct.Struct("<4s4xQ4x")  # magic, offset of END64
END64 = struct.Struct("<4s28xQQQ")  # magic, members, size and offset of the directory
MEMBER = struct.Struct("<4s4xHH4xIIIHHH8xI")  # magic, flags, method, CRC, sizes, lengths of the fields, offset
IN_EXTRA = 0xFFFFFFFF  # stands for a number of 64 bits in the extra field
UTF8 = 0x800  # flag: the name is in UTF-8
MODE = slice(40, 42)  # in the entry of a member: its kind and permissions, if a system that has them wrote it
PART = slice(4, 6)  # in the record at the end: its number, where the zip is split
LINK = Problem("unreadable", "a symbolic link")


class Directory(NamedTuple):
    """Where the central directory lies."""

    start: int
    size: int
    shift: int  # bytes in front of the archive, which its offsets do not count


def members(file: IO[bytes], place: str) -> Iterator[tuple[str, Stored | Problem]]:
    """Yield the name of each member and where it is stored, in the directory's order. A folder's name ends in a slash.

    A member that would reach into the directory, which comes after all of them, is a problem.
    Raises zipfile.BadZipFile where the directory is not whole.
    """
    directory = find_directory(file)
    file.seek(directory.start)
    left = directory.size
    while left > 0:
        header = file.read(MEMBER.size)
        if len(header) < MEMBER.size:
            raise zipfile.BadZipFile("Truncated central directory")
        magic, flags, method, crc, compressed, size, *lengths, offset = MEMBER.unpack(header)
        if magic != b"PK\1\2":
            raise zipfile.BadZipFile("Bad magic number for central directory")
        name, extra, _ = (file.read(length) for length in lengths)
        size, compressed, offset = wide(extra, size, compressed, offset)
        member = ZipMember(compressed, size, method, flags, crc)
        length = LOCAL_HEADER.size + len(name) + compressed
        start = offset + directory.shift
        content: Stored | Problem = Stored(place, start, length + len(extra) + SPARE, member)
        if start + length > directory.start:
            content = Problem("truncated", f"{length} bytes at {start}, beyond the end of the archive's members")
        elif stat.S_ISLNK(int.from_bytes(header[MODE], "little")):
            content = LINK
        text = name.decode("utf-8" if flags & UTF8 else "cp437")
        yield text.partition("\0")[0], content
        left -= MEMBER.size + sum(lengths)


def find_directory(file: IO[bytes]) -> Directory:
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
    return Directory(start, size, start - offset)


def wide(extra: bytes, *numbers: int) -> list[int]:
    """The numbers, with those of 64 bits taken from the extra field."""
    found, at = list(numbers), 0
    while len(extra) - at >= 4:
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            values = struct.iter_unpack("<Q", extra[at + 4 : at + 4 + length // 8 * 8])
            for position, number in enumerate(numbers):
                if number == IN_EXTRA:
                    found[position] = next(values, (IN_EXTRA,))[0]
        at += 4 + length
    return found
