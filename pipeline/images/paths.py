"""What the names of archives and of their members say, which may be anything."""

from __future__ import annotations

import re

LONGEST_NAME, MOST_FOLDERS = 4096, 64  # characters of a path (file systems take no more), folders
SHOWN_OF_NAME = 60  # characters
WHOLE = r"\.(zip|7z|rar|tar(\.(gz|bz2|xz|lzma|zst|lz4|lz|z))?|tgz|tbz2?|txz|tlz|tzst)"
NUMBERED = r"\.(\d{3}|(?!gz)[a-h][a-z])"  # of the parts that 7-Zip and `split` make
# Suffixes of archives, also of kinds that are not read and of parts of one
ARCHIVE = re.compile(rf"({WHOLE}({NUMBERED})?|\.z\d\d|\.r\d\d)$", re.IGNORECASE)
PART = re.compile(rf"{WHOLE}{NUMBERED}$", re.IGNORECASE)


def is_archive(name: str) -> bool:
    return ARCHIVE.search(name) is not None


def placed(name: str) -> str | None:
    """The normalized name: without leading slashes, empty parts, `.`, and `..` that stay inside the archive.

    None for a name that leads out of it.
    """
    parts: list[str] = []
    for part in name.split("/"):
        if part == ".." and not parts:
            return None
        if part == "..":
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)
