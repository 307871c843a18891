"""Links inside a folder of images, and which of them are read.

DVC tracks the content behind a link to a file, but nothing behind a link to a folder. And whoever made a data set shall
not make this machine's other files part of it. So a link is read where it leads to a file of the data set, or into a
store that keeps contents by their hash: DVC's cache, a cache of the Hugging Face hub, git-annex (and so DataLad).
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from pipeline.images.files import problem, utf8
from pipeline.images.items import Entry, is_named_as_image, is_visible
from pipeline.system.console import UserError

STORES = re.compile(r"/[0-9a-f]{2}/[0-9a-f]{30}$|/\.git/(?:.+/)?annex/objects/")  # of DVC, of git-annex
NOWHERE = "a link that leads nowhere"
NOT_FETCHED = "a link to what git-annex has not fetched: run git annex get"


def stop_at_hub_cache(path: Path) -> None:
    """Raise a UserError for a whole cache of the Hugging Face hub: its folders are no classes."""
    for cache in (path, path.parent):
        snapshots = cache / "snapshots"
        if path in (cache, snapshots) and snapshots.is_dir() and (cache / "blobs").is_dir():
            names = ", ".join(sorted(str(snapshot) for snapshot in snapshots.iterdir()))
            raise UserError(f"{path} is a cache of the Hugging Face hub; expected one of its snapshots: {names}")


def unread(link: str, path: str, root: Path) -> Entry | None:
    """None for a link that is read. `path` is its path inside the data set, whose real place is `root`.

    A hidden link that is not, and a dangling one that is named as an image, become entries without content. Any other
    raises a UserError, since it may stand for a whole class.
    """
    leads_to = utf8(os.readlink(link))
    more, remedy = "", "put what it leads to in its place, as cp -rL does, or remove it"
    try:
        target = Path(link).resolve(strict=True)
    except (OSError, RuntimeError):  # RuntimeError: a loop, up to Python 3.12
        why = NOT_FETCHED if "annex/objects/" in leads_to else NOWHERE
        if is_named_as_image(path):
            return problem(path, "unreadable", why)
        remedy = "correct or remove it"
    else:
        if target.is_dir():
            why, more = "a link to a folder", ", behind which DVC tracks nothing"
        elif target.is_relative_to(root) or STORES.search(target.as_posix()) or target.parent in blobs(root):
            return None
        else:
            why = "a link out of the data set"
    if not is_visible(path):
        return problem(path, "unreadable", why)
    raise UserError(f"{utf8(link)} is {why} ({leads_to}){more}: {remedy}")


def blobs(root: Path) -> list[Path]:
    """Where the hub keeps the files of `root`, if that is one of its snapshots or inside of one."""
    return [folder.parent / "blobs" for folder in root.parents if folder.name == "snapshots"]
