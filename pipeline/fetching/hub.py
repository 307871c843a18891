"""Files on the Hugging Face hub, whose commits name the checksum of every large file."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.fetching import http
from pipeline.fetching.checksums import FetchError, Wanted
from pipeline.system.console import UserError
from pipeline.system.credentials import hide_in, redacted
from pipeline.system.outputs import remove

if TYPE_CHECKING:
    from pipeline.config.networks import HubWeights

FILE = "model.safetensors"
HUB = "https://huggingface.co"
POINTER = re.compile(r"version https://git-lfs\S+\noid sha256:([0-9a-f]{64})\nsize (\d+)\n?")  # Git LFS's format
POINTER_BYTES = 1024  # most of a pointer, by that format


def hub_file(weights: HubWeights, waiting: Path) -> tuple[Wanted, list[str]]:
    """The file of weights at a commit of a repository, and the URL of its folder.

    The environment variable HF_ENDPOINT names another hub, as for the package huggingface_hub. It is asked for the
    checksum where `weights` have none. `waiting` is a folder for what is being downloaded. Raises UserError where the
    hub does not answer or has no such file.
    """
    hub = f"{os.environ.get('HF_ENDPOINT', HUB).rstrip('/')}/{weights.repo_id}"
    mirror = f"{hub}/resolve/{weights.revision}"
    if weights.sha256:
        return Wanted(FILE, sha256=weights.sha256), [mirror]
    url, pointer = f"{hub}/raw/{weights.revision}/{FILE}", waiting / f"{FILE}.pointer"
    waiting.mkdir(parents=True, exist_ok=True)
    remove(pointer)
    try:
        http.download(url, Wanted(FILE, most_bytes=POINTER_BYTES), pointer)
        found = POINTER.fullmatch(pointer.read_text(errors="replace"))
        if not found:
            raise FetchError("expected the pointer of Git LFS that names the file's checksum")
    except http.UnreachableError as failure:
        raise UserError(
            f"{hide_in(url)}: {redacted(failure, url)}; without the hub, name the file's checksum too: weights:"
            " {repo_id, revision, sha256}, and place the file in DATA_MIRROR"
        ) from None
    except FetchError as failure:
        raise UserError(
            f"{hide_in(url)}: {redacted(failure, url)}; expected a repository of the hub and one of its commits, or"
            " weights: {file, sha256, mirrors}"
        ) from None
    remove(pointer)
    return Wanted(FILE, bytes=int(found[2]), sha256=found[1]), [mirror]
