"""What the names of archives and of their members say, which may be anything."""

from __future__ import annotations

import re

LONGEST_NAME, MOST_FOLDERS = 4096, 64  # characters of a path (file systems take no more), folders
SHOWN_OF_NAME = 60  # characters
TAR = r"tar(\.(gz|bz2|xz|lzma|zst|lz4|lz|z))?|tgz|tbz2?|txz|tlz|tzst"
WHOLE = rf"\.(zipx?|7z|rar|cab|iso|dmg|cb[7rtz]|lzh|lha|arj|alz|{TAR})"
NUMBERED = r"\.(\d{3}|(?!gz)[a-h][a-z])"  # of the parts that 7-Zip and `split` make
# Other files that may hold images, unlike tables and texts
COMPRESSED = r"(?<!\.(?:csv|tsv|txt|xml|log))(?<!\.json)(?<!\.jsonl)\.(gz|bz2|xz|zst)"
BEING_FETCHED = r"\.(crdownload|opdownload|download|part|partial|filepart)"  # as browsers name what is not yet whole
# Suffixes of archives, also of kinds that are not read and of parts of one
ARCHIVE = re.compile(rf"({WHOLE}({NUMBERED})?|\.z\d\d|\.r\d\d|{COMPRESSED})({BEING_FETCHED})?$", re.IGNORECASE)
PART = re.compile(rf"{WHOLE}{NUMBERED}$", re.IGNORECASE)
UNFINISHED = re.compile(rf"{BEING_FETCHED}$", re.IGNORECASE)


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
