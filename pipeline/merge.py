"""Merge dvc.lock, params.yaml or data/splits/*.json by stage, by entry or by class; git runs this.

Two people who add an experiment each add lines at the same place, which git takes for a conflict. Here lines belong to
a key, and a key that one side alone has changed is taken from that side. Where both have changed one, nothing is
written, and git merges lines as usual. Only stages of dvc.lock never conflict: the file keeps ours, and `dvc repro`
runs the stage again or takes its result from the run-cache.
"""

from __future__ import annotations

from pipeline.system.entry import command_line

import json
import re
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

from pipeline.splitting.cuts import write_cuts
from pipeline.system.console import UserError, one_line, run, say

# ("experiments", "digits-mlp"), ("experiments",) for the line above its entries, () for the comments at the end
Key: TypeAlias = tuple[Any, ...]


def main() -> None:
    parser = command_line("merge", __doc__)
    for name, what in (
        ("base", "the file as both began with it"),
        ("ours", "as the current branch has it; the result is written here"),
        ("theirs", "as the other branch has it"),
        ("path", "what the file is called in the repository"),
    ):
        parser.add_argument(name, type=Path, help=what)
    given = parser.parse_args()
    is_json = given.path.suffix == ".json"
    try:
        base, ours, theirs = (file.read_bytes().decode() for file in (given.base, given.ours, given.theirs))
        values = [json.loads(text or "{}") for text in (base, ours, theirs)] if is_json else []
    except ValueError as error:
        raise UserError(f"{given.path}: not {'JSON' if is_json else 'UTF-8'}: {one_line(error)}") from None
    if is_json:
        write_cuts(given.ours, merge_values(*values, where=str(given.path)))
    else:
        given.ours.write_bytes(merge_yaml(base, ours, theirs, given.path).encode())


def merge_values(base: Any, ours: Any, theirs: Any, *, where: str) -> Any:
    """The value that one side has changed; of mappings, key by key. None is what is not there."""
    if theirs in (base, ours):
        return ours
    if ours == base:
        return theirs
    if not (isinstance(ours, dict) and isinstance(theirs, dict)):
        raise UserError(f"{where}: changed on both sides")
    merged = {
        key: merge_values((base or {}).get(key), ours.get(key), theirs.get(key), where=f"{where}: {key}")
        for key in {**ours, **theirs}
    }
    return {key: value for key, value in merged.items() if value is not None}


def merge_yaml(base: str, ours: str, theirs: str, path: Path) -> str:
    """The text of a YAML file, in which the lines of a key are those of the side that has changed them."""
    base_of, ours_of, theirs_of = (entries(text, path) for text in (base, ours, theirs))
    merged = {}
    for key in in_order(list(ours_of), list(theirs_of)):
        before, our, their = base_of.get(key), ours_of.get(key), theirs_of.get(key)
        where = f"{path}: {'.'.join(map(str, key)) or 'comments at the end'}"
        if their in (before, our):
            lines = our
        elif our == before:
            lines = their
        elif path.name == "dvc.lock":
            say(f"{where}: changed on both sides; `dvc repro` brings it up to date")
            lines = our
        else:
            lines = merge_lines(before, our, their, where)
        if lines is not None:
            merged[key] = lines
    text = "".join(merged.values())
    if list(entries(text, path)) != list(merged):  # a section went on one side and got an entry on the other
        raise UserError(f"{path}: its sections changed on both sides")
    return text


def entries(text: str, path: Path) -> dict[Key, str]:
    """The lines of each section of a YAML file and of each key in it, in order; comments above a key are the key's."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        document = YAML().load(text)
    except YAMLError as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if document is None:
        return {}
    if is_inline(document):
        raise UserError(f"{path}: expected a line or more for each key")
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"

    key_of: dict[int, Key] = {begin(lines, len(lines)): ()}  # by the first line
    for section, (line, *_) in document.lc.data.items():
        key_of[begin(lines, line)] = (section,)
        if not is_inline(document[section]):
            for name, (below, *_) in document[section].lc.data.items():
                key_of[begin(lines, below)] = (section, name)
    starts = sorted(key_of)
    ends = [*starts[1:], len(lines)]
    return {key_of[start]: "".join(lines[start:end]) for start, end in zip(starts, ends, strict=True)}


def is_inline(value: Any) -> bool:
    """Whether a value is anything but a mapping with a line or more for each key."""
    from ruamel.yaml.comments import CommentedMap

    return not isinstance(value, CommentedMap) or value.fa.flow_style() is not False


def begin(lines: list[str], line: int) -> int:
    """The first line of a key: that of the blank lines and comments above it."""
    while line > 0 and lines[line - 1].strip()[:1] in ("", "#"):
        line -= 1
    return line


def in_order(ours: list[Key], theirs: list[Key]) -> list[Key]:
    """Our keys, and each of theirs that we lack after the one that is before it there."""
    keys = list(ours)
    place = 0
    for key in theirs:
        if key not in keys:
            keys.insert(place, key)
        place = keys.index(key) + 1
    return keys


def merge_lines(base: str | None, ours: str | None, theirs: str | None, where: str) -> str:
    """What git makes of lines that both sides have changed. Raises UserError if they conflict.

    A side that has only written them in another form, as `dvc exp run -S` does, has changed nothing.
    """
    if base is not None and ours is not None and theirs is not None:
        with TemporaryDirectory() as folder:
            files = [Path(folder, name) for name in ("ours", "base", "theirs")]
            for file, text in zip(files, (ours, base, theirs), strict=True):
                file.write_text(text, encoding="utf-8")
            done = subprocess.run(["git", "merge-file", "-p", *files], capture_output=True, encoding="utf-8")
        if done.returncode == 0:
            return done.stdout
        if content(ours) == content(base):
            return theirs
        if content(theirs) == content(base):
            return ours
    raise UserError(f"{where}: changed on both sides")


def content(lines: str) -> tuple[Any, list[str]]:
    """The values and the comments in the lines of a key."""
    from ruamel.yaml import YAML

    return YAML(typ="safe").load(lines), re.findall("#.*", lines)


if __name__ == "__main__":
    run(main)
