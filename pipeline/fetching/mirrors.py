"""Fetch files from the first mirror that has them: a web server, a folder, a Debian package, or scikit-learn."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.parse import quote, urlsplit
from urllib.request import url2pathname

from pipeline.fetching import http
from pipeline.fetching.aside import move_aside, set_aside
from pipeline.fetching.checksums import FetchError, Wanted
from pipeline.system import project
from pipeline.system.console import UserError, say
from pipeline.system.credentials import hide_in, redacted
from pipeline.system.outputs import atomic_write, named, remove

DIGITS = "scikit-learn:load_digits"
APT = "apt:"
APT_PATIENCE = 10  # seconds until apt gives up a server
# A Debian package's name, and a version in apt's form
PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+(=[A-Za-z0-9+.~:-]+)?")
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")  # by RFC 3986, but of two characters at least: one is a drive
CHUNK = 1 << 20  # bytes
COMPLETE = "complete"  # the folder of the verified files
LEFT = re.compile(r"complete|apt-.+|.+\.(part|copy|pointer)|\.apt-.+\.partial")  # what fetching leaves in its folder


def user_mirror(folder: str) -> list[str]:
    """The folder of this name in the mirror of the environment variable DATA_MIRROR; an empty list if it is not set.

    A relative path begins at the project's root.
    """
    mirror = os.environ.get("DATA_MIRROR")
    return [f"{absolute(mirror).rstrip('/')}/{folder}"] if mirror else []


def absolute(mirror: str) -> str:
    """The mirror with an absolute path: a queued experiment runs in a copy of the project, in another folder."""
    return mirror if scheme_of(mirror) else str(project.root() / Path(mirror).expanduser())


def fetch_all(
    files: Iterable[Wanted], mirrors: list[str], waiting: Path, held_as: str, present: Collection[str] = ()
) -> Path:
    """Fetch files, but those of the names `present`, into a folder inside `waiting` and return it.

    After an interruption, the next call resumes. A wrong file in that folder, which a person may have placed, is set
    aside. `held_as` is the name of the folder in DATA_MIRROR in which a person may place the files. Raises UserError
    with every address that was tried and why it failed, and OSError when `waiting` can't be written.
    """
    files = list(files)
    complete = waiting / COMPLETE
    complete.mkdir(parents=True, exist_ok=True)
    set_aside(complete, files, waiting)
    there = {path.name for path in complete.iterdir()}.union(present)  # verified; `fetch` verifies the others
    unreachable: dict[str, str] = {}
    for wanted in files:
        if wanted.name not in there:
            tried = fetch_from_first(mirrors, wanted, complete, unreachable)
            if tried:
                raise UserError(
                    f"{held_as}/{wanted.name} can't be fetched: {'; '.join(tried)}. Place the file at "
                    f"{complete / wanted.name} yourself, or set DATA_MIRROR to a folder that holds "
                    f"{held_as}/{wanted.name}"
                )
    return complete


def clear(waiting: Path, files: Iterable[Wanted]) -> None:
    """Remove what fetching `files` has left in `waiting`; what else a person has put there stays or is set aside."""
    set_aside(waiting / COMPLETE, files, waiting)
    for path in waiting.iterdir():
        if LEFT.fullmatch(path.name):
            remove(path)
    if not any(waiting.iterdir()):
        waiting.rmdir()


def fetch_from_first(mirrors: list[str], wanted: Wanted, complete: Path, unreachable: dict[str, str]) -> list[str]:
    """Fetch one file into `complete` from the first mirror that has it. If none has, return why, for each mirror.

    `unreachable` collects mirrors that do not answer, with the reason, so that they are not asked for other files.
    """
    tried, news = [], []
    for mirror in mirrors:
        address = hide_in(address_of(mirror, wanted.name))
        if mirror in unreachable:
            tried.append(f"{address}: {unreachable[mirror]}")
            continue
        try:
            path = fetch(mirror, wanted, complete.parent)
        except FetchError as failure:
            reason = redacted(failure, mirror)
            tried.append(f"{address}: {reason}")
            news.append(tried[-1])
            if isinstance(failure, http.UnreachableError):
                unreachable[mirror] = reason
            continue
        if (complete / wanted.name).exists():
            move_aside(complete / wanted.name, complete.parent, f"came while it was fetched from {address}")
        os.replace(path, complete / wanted.name)
        for line in news:
            say(f"warning: {line}", file=sys.stderr)
        say(f"{wanted.name} from {address}")
        return []
    return tried or ["no mirror is named"]


def address_of(mirror: str, name: str) -> str:
    """Where a mirror has a file: a URL or path; for other kinds of mirrors, the mirror itself."""
    scheme = scheme_of(mirror)
    if scheme in ("http", "https", "file"):
        return f"{mirror.rstrip('/')}/{quote(name)}"
    return mirror if scheme else str(Path(mirror).expanduser() / name)


def scheme_of(mirror: str) -> str:
    """The part before the colon, in lower case; empty for paths, also with a drive letter."""
    found = SCHEME.match(mirror)
    return found[1].lower() if found else ""


def fetch(mirror: str, wanted: Wanted, waiting: Path) -> Path:
    """Fetch one file from one mirror to a temporary name inside `waiting`, verify it, and return its path.

    Raises FetchError with the reason. A wrong file is removed; the beginning of one is kept, to be resumed.
    """
    address = address_of(mirror, wanted.name)
    scheme = scheme_of(mirror)
    if scheme in ("http", "https"):
        return fetch_and_resume(address, wanted, waiting / f"{wanted.name}.part")
    copy = waiting / f"{wanted.name}.copy"  # not .part, which a download may have left to be resumed
    with removed_if_wrong(copy):
        if mirror.startswith(APT):
            copy_from_package(unpackaged(mirror.removeprefix(APT), waiting), wanted, copy)
            (wanted.verify_content if wanted.content_sha256 else wanted.verify)(copy)
            return copy
        if mirror == DIGITS:
            from pipeline.fetching.digits import write_archive

            write_archive(copy)
        elif scheme in ("", "file"):
            copy_file(Path(url2pathname(urlsplit(address).path) if scheme else address), copy)
        else:
            raise FetchError(f"expected an http(s) or file URL, a folder, {APT}PACKAGE or {DIGITS}")
        wanted.verify(copy)
    return copy


def fetch_and_resume(url: str, wanted: Wanted, part: Path) -> Path:
    is_joined = http.download(url, wanted, part)
    try:
        with removed_if_wrong(part):
            wanted.verify(part)
    except FetchError:
        if not is_joined:
            raise
        # the beginning may be of another mirror's file, or of an earlier one: begin anew
        http.download(url, wanted, part)
        with removed_if_wrong(part):
            wanted.verify(part)
    return part


@contextmanager
def removed_if_wrong(path: Path) -> Iterator[None]:
    """Remove the file if the block raises FetchError."""
    try:
        yield
    except FetchError:
        remove(path)
        raise


def copy_file(source: Path, target: Path) -> None:
    try:
        file = source.open("rb")
    except IsADirectoryError:
        raise FetchError("a folder, not a file") from None
    except (FileNotFoundError, NotADirectoryError):
        raise FetchError("no such file") from None
    except OSError as error:
        raise FetchError((error.strerror or str(error)).lower()) from None
    with file:
        copy_stream(file, target)


def copy_stream(source: IO[bytes], target: Path) -> None:
    with named(target), target.open("wb") as file:
        shutil.copyfileobj(source, file, CHUNK)


def unpackaged(package: str, waiting: Path) -> Path:
    """Download a Debian package into `waiting`, once for all files in it, and return its .deb file.

    Raises FetchError for a name that no package can have, a system without apt, and a package that apt does not have.
    """
    if not PACKAGE.fullmatch(package):
        raise FetchError(f"expected {APT} and a Debian package's name, of lower-case letters, digits, '+', '-' and '.'")
    folder = waiting / f"apt-{package}"
    if not folder.exists():
        with atomic_write(folder) as partial:
            partial.mkdir()
            options = [f"-oAcquire::http::Timeout={APT_PATIENCE}", "-oAcquire::Retries=1"]
            command = ["apt-get", "download", "-q", *options, "--", package]
            try:
                with http.given_up_if_slow(lambda: sum(map(http.size, partial.glob("*")))):
                    done = subprocess.run(command, cwd=partial, capture_output=True, text=True, check=False)
            except FileNotFoundError:
                raise FetchError("apt-get is not on this system") from None
            if done.returncode:
                complaints = [line.removeprefix("E: ") for line in done.stderr.splitlines() if line.startswith("E: ")]
                raise FetchError(f"apt-get download: {' '.join(complaints) or f'status {done.returncode}'}")
    (deb,) = folder.glob("*.deb")
    return deb


def copy_from_package(deb: Path, wanted: Wanted, target: Path) -> None:
    """Copy the file of this name out of a .deb file, whatever folder it is in.

    Raises FetchError if there is none, or the package can't be read.
    """
    command = ["dpkg-deb", "--fsys-tarfile", str(deb)]
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except FileNotFoundError:
        raise FetchError("dpkg-deb is not on this system") from None
    try:
        with process, tarfile.open(fileobj=process.stdout, mode="r|") as members:
            for member in members:
                if member.isfile() and PurePosixPath(member.name).name == wanted.name:
                    content = members.extractfile(member)
                    assert content, "a file has content"
                    copy_stream(content, target)
                    return
    except (tarfile.TarError, ValueError, ArithmeticError, LookupError, RecursionError) as error:  # headers that lie
        raise FetchError(f"{deb.name}: {error}") from None
    raise FetchError(f"{deb.name} holds no file of that name")
