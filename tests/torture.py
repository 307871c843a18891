"""Kill `dvc repro` at random moments of every stage, and see that it ends right when it is started again.

usage: PYTHONPATH=. python tests/torture.py [--kills N] [--seed S]

In a temporary clone with digits, a small data set of its own and weights from a slow server, a stage is started by
`dvc repro` and killed one to three times: by SIGKILL to all processes, as when the power fails, by SIGKILL or SIGTERM
to DVC alone, or by Ctrl-C. Then `dvc repro` has to end with the bytes and the MLflow runs that an undisturbed one gave,
and without any other file, process or lock. Where it does not, that is told, and the exit status is 1. Files of DVC's
own that it could not write to their end are mended first, as docs/pipeline.md says, and counted. Linux only.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

from conftest import ENVIRONMENT, REPOSITORY, VIEWS, Clone, class_folders, make_clone, processes, wait_until
from ruamel.yaml import YAML
from test_download import Server

from pipeline.system.outputs import remove

SIGNALS = ("SIGKILL", "SIGKILL to dvc", "SIGTERM to dvc", "Ctrl-C")
TARGETS = ("--glob", "evaluate@*", "report@*", "audit@*")
STAGES = (
    "download@digits", "weights@shapes-squeezenet", "check@shapes", "decisions@shapes", "split@shapes",
    "report@shapes", "pack@shapes", "features@shapes", "audit@shapes", "train@digits-mlp", "train@digits-two",
    "train@shapes-squeezenet", "evaluate@digits-mlp",
)  # fmt: skip
DATABASE = "mlflow.db"
LOST_BEFORE = {  # by the first two, what DVC would leave in its place, so that there were nothing to fetch
    "download@digits": "data/raw/digits",
    "weights@shapes-squeezenet": "data/weights/shapes-squeezenet",
    "evaluate@digits-mlp": DATABASE,
}
WEIGHTS = "squeezenet.safetensors"
LONGEST = 10.0  # seconds: longer than any of these stages on a quiet machine
PATIENCE = 20.0  # seconds for processes to end
OTHERS = {".git", ".venv", "__pycache__", DATABASE, "mlartifacts", ".origins", ".train_times", "tmp"}  # not compared


class Torture:
    """A clone in which everything has run, to be killed and compared with what it was."""

    def __init__(self, clone: Clone, seed: int, targets: tuple[str, ...] = TARGETS, longest: float = LONGEST) -> None:
        self.clone, self.targets, self.random = clone, targets, random.Random(seed)
        self.seconds: dict[str, float] = {}
        self.longest = longest
        self.kills: Counter[tuple[str, str]] = Counter()
        self.mended: Counter[str] = Counter()  # files that DVC had cut off
        clone.must_run("git", "commit", "-qam", "Results")
        self.expected = state(clone.root)
        self.log = clone.root.with_name("log")

    def round(self, stage: str, kills: int) -> str:
        """Kill a stage so many times, then let DVC go on. Returns what went wrong, or nothing."""
        told: list[str] = []
        try:
            while len(told) < kills:
                # of the signals, those that it had least
                how = min(SIGNALS, key=lambda how: (self.kills[stage, how], self.random.random()))
                if moment := self.kill(stage, how):
                    self.kills[stage, how] += 1
                    told.append(f"{how} after {moment:.1f} s")
                if self.random.random() < 0.5:  # else the next one starts beside what is still ending
                    wait_until(lambda: not processes(self.clone.root), PATIENCE)
            self.must_end_right(stage)
        except AssertionError as error:
            return f"{stage}: {', '.join(told) or how}: {error}"
        finally:
            print(f"{self.kills.total():4}  {stage}: {', '.join(told)}", flush=True)
        return ""

    def kill(self, stage: str, how: str) -> float:
        """Start a stage by DVC and kill it at a random moment. Returns the moment, or 0 if it had ended before."""
        self.forget(stage)
        if stage in LOST_BEFORE:
            wait_until(lambda: not processes(self.clone.root), PATIENCE)  # that still use it
            remove(self.clone.root / LOST_BEFORE[stage])
        command = [str(REPOSITORY / ".venv/bin/dvc"), "repro", "--force", "--no-run-cache", "--single-item", stage]
        with self.log.open("wb") as log:
            repro = subprocess.Popen(
                command, cwd=self.clone.root, stdout=log, stderr=log, start_new_session=True,
                env={**ENVIRONMENT, "PYTHONUNBUFFERED": "1"},
            )  # fmt: skip
        wait_until(lambda: f"Running stage '{stage}'" in self.said() or repro.poll() is not None)
        assert repro.poll() is None, f"it did not start: {self.said()}"
        start = time.monotonic()
        moment = self.random.uniform(0, self.seconds.get(stage, self.longest))
        try:
            assert repro.wait(moment) == 0, f"it failed by itself: {self.said()}"
            self.seconds[stage] = time.monotonic() - start
            return 0
        except subprocess.TimeoutExpired:
            send(repro, how)
        try:
            repro.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            repro.kill()
            raise AssertionError(f"dvc goes on after {how}: {self.said()}") from None
        assert "Traceback" not in self.said(), self.said()
        self.mend()
        return moment

    def mend(self) -> None:
        """Do what docs/pipeline.md advises where DVC was killed while it wrote a file of its own, in place."""
        if hash_of(self.clone.root / "dvc.lock") != self.expected["dvc.lock"]:
            self.clone.must_run("git", "checkout", "dvc.lock")
            self.mended["dvc.lock"] += 1
        lock = self.clone.root / ".dvc/tmp/rwlock"
        try:
            json.loads(lock.read_text())
        except ValueError:
            lock.unlink()
            self.mended[".dvc/tmp/rwlock"] += 1

    def forget(self, stage: str) -> None:
        """Remove a stage's outputs from DVC's cache. With them, DVC would not let the stage go on, but restore them."""
        lock = YAML(typ="safe").load(self.clone.root / "dvc.lock")
        for out in lock["stages"][stage]["outs"]:
            remove(self.clone.root / ".dvc/cache/files/md5" / out["md5"][:2] / out["md5"][2:])

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def must_end_right(self, stage: str) -> None:
        ran = self.clone.run("dvc", "repro", "--no-run-cache", *self.targets)
        assert ran.status == 0, f"dvc repro ended with {ran.status}: {ran.out}{ran.err}"
        if LOST_BEFORE.get(stage) == DATABASE:
            self.clone.must_run("python", "-m", "pipeline.track")  # the other runs, which were lost too
        wait_until(lambda: not processes(self.clone.root), PATIENCE)
        found = state(self.clone.root)
        other = {path for path, _ in found.items() ^ self.expected.items()}
        assert not other, f"not as before: {', '.join(sorted(other))}, {found.get(DATABASE)}"


def send(repro: subprocess.Popen[bytes], how: str) -> None:
    match how:
        case "SIGKILL":
            signal_all(repro, signal.SIGKILL)
        case "SIGKILL to dvc":
            repro.kill()
        case "SIGTERM to dvc":
            repro.terminate()
        case "Ctrl-C":
            signal_all(repro, signal.SIGINT)


def signal_all(repro: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send a signal to DVC and to what it started."""
    os.killpg(repro.pid, number)


def state(root: Path) -> dict[str, str]:
    """A hash of every file that is there, and what MLflow's database says of the runs."""
    found: dict[str, str] = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root)
        if OTHERS.intersection(name.parts) or name.parts[:2] == (".dvc", "cache") or VIEWS.fullmatch(str(name)):
            continue
        if path.is_file():
            found[str(name)] = hash_of(path)
    if (root / DATABASE).exists():
        with closing(sqlite3.connect(root / DATABASE)) as database:
            runs = database.execute("SELECT name, status FROM runs WHERE lifecycle_stage = 'active' ORDER BY name")
            found[DATABASE] = str(runs.fetchall())
    return found


def hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def prepared(root: Path, weights: str) -> Clone:
    """A clone in which all of STAGES have run. `weights` is where the file of pretrained weights is served."""
    clone = make_clone(root / "clone")
    params: dict[str, Any] = YAML(typ="safe").load(root / "clone/params.yaml")
    photos = class_folders(root / "shapes", {"cat": 150, "dog": 150}, height=64, width=64)
    (clone.root / "data/raw").mkdir(exist_ok=True)
    shutil.make_archive(str(clone.root / "data/raw/shapes"), "zip", photos)
    clone.must_run("dvc", "add", "data/raw/shapes.zip")
    params["datasets"]["shapes"] = {"source": "data/raw/shapes.zip", "check": {}, "split": {}, "pack": {"size": 32}}
    mlp = {**params["experiments"]["digits-mlp"], "epochs": 10}
    file = {"file": WEIGHTS, "sha256": hashlib.sha256(squeezenet()).hexdigest(), "mirrors": [weights]}
    backbone = {"name": "torchvision", "model": "squeezenet1_1"}
    network = {**backbone, "weights": file, "freeze": True}
    (clone.root / "data/raw" / WEIGHTS).write_bytes(squeezenet())
    params["features"] = {"shapes": {"network": backbone, "weights": f"data/raw/{WEIGHTS}", "size": 64}}
    params["experiments"] = {
        "digits-mlp": {**mlp, "seeds": 3},
        "digits-two": {**mlp, "compute": {"devices": 2, "device": "cpu"}},
        "shapes-squeezenet": {**mlp, "dataset": "shapes", "network": network},
    }
    (clone.root / "params.yaml").write_text(json.dumps(params))
    clone.must_run("dvc", "repro", *TARGETS)
    clone.must_run("python", "-m", "pipeline.track")  # results that git has, too
    return clone


@cache
def squeezenet() -> bytes:
    """Weights of a small backbone, random ones."""
    import torch
    from safetensors.torch import save
    from torchvision.models import squeezenet1_1

    torch.manual_seed(1)
    return save({name: value for name, value in squeezenet1_1().state_dict().items() if "features" in name})


def table(torture: Torture, spent: dict[str, float]) -> str:
    heads = ["stage", *SIGNALS, "kills", "seconds"]
    rows = [heads]
    for stage in STAGES:
        counts = [torture.kills[stage, how] for how in SIGNALS]
        rows.append([stage, *map(str, [*counts, sum(counts)]), f"{spent.get(stage, 0):.0f}"])
    totals = [sum(torture.kills[stage, how] for stage in STAGES) for how in SIGNALS]
    rows.append(["all", *map(str, [*totals, sum(totals)]), f"{sum(spent.values()):.0f}"])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=120)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    wrong = ""
    spent: defaultdict[str, float] = defaultdict(float)
    with tempfile.TemporaryDirectory(prefix="torture-") as folder, Server() as server:
        ENVIRONMENT["DVC_SITE_CACHE_DIR"] = f"{folder}/site"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        server.files[WEIGHTS] = squeezenet()
        clone = prepared(Path(folder), server.mirror("slow"))
        torture = Torture(clone, arguments.seed)
        for stage in itertools.cycle(STAGES):
            left = arguments.kills - torture.kills.total()
            if left <= 0 or wrong:  # what comes after a fault may be its consequence
                break
            start = time.monotonic()
            wrong = torture.round(stage, min(left, torture.random.randint(1, 3)))
            spent[stage] += time.monotonic() - start
    mended = [f"{count} × {file} was cut off, and mended" for file, count in torture.mended.items()]
    print(table(torture, spent), *mended, wrong or "all ended right", sep="\n")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
