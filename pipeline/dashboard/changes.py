"""What has changed in the results since the last commit: metrics, and the params that they come from."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.dashboard.records import Record, as_mapping, differing, number_in
from pipeline.tracking.commit import git

METRICS = (("val", "accuracy"), ("val", "macro_f1"), ("val", "loss"), ("test", "accuracy"))
FILES = ("metrics.json", "provenance.json")


class Delta(NamedTuple):
    """One metric before and now."""

    name: str
    before: float
    now: float

    @property
    def word(self) -> str:
        if self.now == self.before:
            return "same"
        return "better" if (self.now > self.before) != self.name.endswith("loss") else "worse"


class Change(NamedTuple):
    """What has become of one experiment: `new`, `gone` or `changed`."""

    name: str
    kind: str
    metrics: list[Delta]
    params: list[tuple[str, str, str]]  # key, before, now


class Commit(NamedTuple):
    """The last commit, and what differs from it."""

    short: str
    subject: str
    changes: list[Change]


def since_last_commit(records: list[Record]) -> Commit | None:
    """What has changed since the last commit; None outside of git, and before the first commit."""
    try:
        short, _, subject = git("log", "-1", "--format=%h %s").partition(" ")
        listed = git("ls-tree", "-r", "-z", "--name-only", "HEAD", "reports").split("\0")
        committed = [parts[1] for path in listed if len(parts := path.split("/")) == 3 and parts[2] == FILES[0]]
        before = read_committed(committed)
    except (OSError, subprocess.CalledProcessError):
        return None
    now = {record.name: record for record in records if record.metrics}
    changes = [change for record in now.values() if (change := changed(record, before.get(record.name)))]
    gone = [Change(name, "gone", [], []) for name in committed if not Path("reports", name, FILES[0]).exists()]
    return Commit(short, subject, [*changes, *gone])


def read_committed(names: list[str]) -> dict[str, list[dict[str, Any]]]:
    """The content of FILES of each experiment in the last commit. One process reads them all."""
    wanted = [f"HEAD:./reports/{name}/{file}" for name in names for file in FILES]
    asked = "".join(f"{path}\n" for path in wanted).encode()
    done = subprocess.run(["git", "cat-file", "--batch"], check=True, capture_output=True, input=asked).stdout
    contents: list[dict[str, Any]] = []
    for _ in wanted:
        head, _, done = done.partition(b"\n")
        if head.endswith(b" missing"):
            contents.append({})
            continue
        size = int(head.rsplit(b" ", 1)[1])
        contents.append(as_json(done[:size]))
        done = done[size + 1 :]
    return {name: contents[2 * number : 2 * number + 2] for number, name in enumerate(names)}


def as_json(content: bytes) -> dict[str, Any]:
    try:
        return as_mapping(json.loads(content))
    except (ValueError, RecursionError):
        return {}


def changed(record: Record, before: list[dict[str, Any]] | None) -> Change | None:
    """What has changed in a result since it was committed; None if nothing has."""
    if before is None:
        return Change(record.name, "new", [], [])
    metrics, provenance = before
    deltas = []
    for split, metric in METRICS:
        for name in (f"{metric}_mean", metric):  # the mean over seeds, where both have it
            old, new = number_in(metrics, split, name), record.metric(split, name)
            if old is not None and new is not None:
                deltas.append(Delta(f"{split} {metric}", old, new))
                break
    params = differing(as_mapping(provenance.get("params")), record.trained_with)
    if all(delta.word == "same" for delta in deltas) and not params:
        return None
    return Change(record.name, "changed", deltas, params)
