"""The content of an image, at hand or still in its file.

A stage sends its workers places instead of bytes: the process that decodes an image reads it, on whatever machine it
runs. A place is a path or an address that fsspec knows (s3://, gs://, ssh://, …).
"""

from __future__ import annotations

import inspect
import io
import struct
import zipfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.images.errors import BROKEN_ARCHIVE, in_one_line
from pipeline.system import memory

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem
    from upath import UPath

LARGEST_FILE = 512 * 1024**2  # bytes of one encoded image
LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a member of a zip: magic; lengths of name and extra field at its end
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)  # that zipfile decompresses
SIDE_BY_SIDE = 8  # parallel reads from a storage whose file system in fsspec has none of its own
TOO_MUCH = "needs more memory than a worker may take"
SPARE = 128  # more bytes to read: a zip's local header may have a longer extra field than its directory


class Problem(NamedTuple):
    """Why the content of an item can't be used: an issue code and a sentence."""

    code: str
    reason: str


class ZipMember(NamedTuple):
    """How a member is stored in its zip, according to the central directory."""

    compressed: int  # bytes
    uncompressed: int
    method: int
    flags: int
    crc: int


class Stored(NamedTuple):
    """A range of bytes in a file: an image, or the member of a zip with its local header."""

    place: str
    start: int
    size: int
    member: ZipMember | None = None


# The bytes of a file, pixels (H, W) or (H, W, 3) uint8, why there is neither, or where it is still to be read
Content = bytes | NDArray[np.uint8] | Problem | Stored
Read = bytes | NDArray[np.uint8] | Problem


def size(content: Content) -> int:
    """Bytes that a content takes once it is read; a compressed one is counted as it is stored."""
    if isinstance(content, Problem):
        return 0
    if isinstance(content, Stored):
        return content.size
    return content.nbytes if isinstance(content, np.ndarray) else len(content)


def is_remote(place: str) -> bool:
    return "://" in place


def address(path: Path | UPath) -> str:
    """The place from which `remote` makes the same path. The text of a UPath lacks the host of ssh:// and others."""
    options = getattr(path, "storage_options", {})
    if "host" not in options:
        return str(path)
    user = f"{options['username']}@" if "username" in options else ""  # params.yaml allows no password
    port = f":{options['port']}" if "port" in options else ""
    return f"{path.protocol}://{user}{options['host']}{port}{path.path}"  # type: ignore[union-attr]


def read_all(contents: Iterable[Content]) -> Iterator[Read]:
    """Read contents where they are stored and yield them in order. Those of a remote storage are read in parallel."""
    contents = list(contents)
    remote = [content for content in contents if isinstance(content, Stored) and is_remote(content.place)]
    fetched = iter(fetch(remote))
    for content in contents:
        if not isinstance(content, Stored):
            yield content
        elif content.size > LARGEST_FILE:
            next(fetched, None) if is_remote(content.place) else None
            yield too_large()
        else:
            yield unpack(content, next(fetched) if is_remote(content.place) else read_local(content))


def read(content: Content) -> Read:
    return next(read_all([content]))


def too_large() -> Problem:
    return Problem("too_large", f"more than {LARGEST_FILE // 1024**2} MB")


def fetch(contents: list[Stored]) -> list[bytes | Exception]:
    """Read from a remote storage, all in parallel. An exception stands for what can't be read."""
    if not contents:
        return []
    places = [remote(content.place) for content in contents]
    paths, system = [place.path for place in places], places[0].fs
    starts = [content.start for content in contents]
    stops = [content.start + min(content.size, LARGEST_FILE) for content in contents]
    if reads_ranges(system):
        return list(system.cat_ranges(paths, starts, stops, on_error="return"))
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        return list(pool.map(partial(read_range, system), paths, starts, stops))


def reads_ranges(system: AbstractFileSystem) -> bool:
    """Whether `cat_ranges` of a file system reads parts of files. That of sshfs reads whole files."""
    return not system.async_impl or "start" in inspect.signature(system._cat_file).parameters


def read_range(system: AbstractFileSystem, path: str, start: int, stop: int) -> bytes | Exception:
    from fsspec import AbstractFileSystem

    try:
        data: bytes = AbstractFileSystem.cat_file(system, path, start, stop)  # opens it, seeks and reads
        return data
    except Exception as error:  # every kind of storage has its own
        return error


@lru_cache(maxsize=4096)
def remote(place: str) -> UPath:
    """The UPath of an address."""
    from upath import UPath

    # fsspec's http looks into ~/.netrc, as DVC's does, only when it is told to
    options: dict[str, Any] = {}
    if place.lower().startswith(("http://", "https://")):
        options["client_kwargs"] = {"trust_env": True}
    return UPath(place, **options)


def read_local(content: Stored) -> bytes | Exception:
    try:
        with open(content.place, "rb", 0) as file:  # noqa: PTH123 - a path takes longer to make than to open
            file.seek(content.start)
            return file.read(content.size)
    except OSError as error:
        return error


def unpack(content: Stored, data: bytes | Exception) -> bytes | Problem:
    """The image in what was read, decompressed if it is the member of a zip, or why there is none.

    Raises MemoryError where the system has too little.
    """
    try:
        if isinstance(data, Exception):
            raise data
        if content.member is not None:
            return unzip(content, content.member, data)
        if len(data) < content.size:
            return Problem("unreadable", f"ends after {len(data)} of {content.size} bytes")
        return data
    except (*BROKEN_ARCHIVE, OSError) as error:
        return Problem("unreadable", in_one_line(error))
    except MemoryError:
        if not memory.would_give():
            raise
        return Problem("too_large", TOO_MUCH)


def why_unread(member: ZipMember) -> str | None:
    """Why a member of a zip can't be read, whatever its data; None if it can."""
    if member.flags & 1:
        return "encrypted"
    return None if member.method in METHODS else f"compressed by method {member.method} of zip, which is not read"


def unzip(content: Stored, member: ZipMember, data: bytes) -> bytes | Problem:
    """Decompress a member of a zip and compare its checksum. Raises what zipfile raises."""
    if why := why_unread(member):
        return Problem("unreadable", why)
    if member.uncompressed > LARGEST_FILE:
        return too_large()
    if len(data) < LOCAL_HEADER.size:
        raise zipfile.BadZipFile("Truncated file header")
    magic, name, extra = LOCAL_HEADER.unpack_from(data)
    if magic != b"PK\3\4":
        raise zipfile.BadZipFile("Bad magic number for file header")
    begin = LOCAL_HEADER.size + name + extra
    if len(data) < begin + member.compressed:
        rest = Stored(content.place, content.start + len(data), begin + member.compressed - len(data))
        more = read(rest) if content.size < begin + member.compressed else b""
        if isinstance(more, Problem):
            return more
        assert isinstance(more, bytes)
        data += more
    info = zipfile.ZipInfo("member")
    info.compress_size, info.file_size = member.compressed, member.uncompressed
    info.compress_type, info.flag_bits, info.CRC = member.method, member.flags, member.crc
    with zipfile.ZipExtFile(io.BytesIO(data[begin:]), "r", info) as file:
        return file.read(member.uncompressed + 1)  # without a limit it would decompress whatever there is
