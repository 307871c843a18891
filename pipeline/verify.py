"""Verify published results: run experiments again in a fresh clone of the last commit, and compare.

Downloads, pretrained weights and what `dvc add` keeps come from DVC's cache; all else is computed again. The outputs of
every stage are compared with those that dvc.lock and git hold, byte by byte, then metrics, within a tolerance. Portable
experiments have to give the same bytes where the processor has AVX2. The exit status is 0 if every experiment passes.

An experiment may be a pattern: 'digits-*'. The clone is made in TMPDIR, and removed in the end.
"""

from __future__ import annotations

from pipeline.system.entry import command_line

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from pipeline.compare import read_metrics
from pipeline.config import params
from pipeline.config.patterns import matching
from pipeline.fetching.mirrors import absolute
from pipeline.system.console import UserError, aligned, run, say
from pipeline.system.portable import has_avx2
from pipeline.tracking.commit import git
from pipeline.tracking.results import LOCK, flat, locked_stages, provenance_of

DVC = (sys.executable, "-m", "dvc")
FETCHING = ("download@", "weights@")  # stages that fetch only what is not there yet
Stages = dict[str, dict[str, Any]]  # of dvc.lock


def main() -> int:
    parser = command_line("verify", __doc__)
    parser.add_argument("experiments", nargs="*", metavar="EXPERIMENT", help="a name or a pattern; none: all")
    parser.add_argument("--tolerance", type=float, default=0.01, help="by how much a metric may differ (default: 0.01)")
    arguments = parser.parse_args()
    packages = Path(".venv").resolve()
    if mirror := os.environ.get("DATA_MIRROR"):
        os.environ["DATA_MIRROR"] = absolute(mirror)
    with TemporaryDirectory(prefix="verify-") as temporary:
        clone = fresh_clone(Path(temporary))
        cache = dvc("cache", "dir")
        with chdir(clone):
            if packages.exists():
                Path(".venv").symlink_to(packages)
            before = committed_stages()
            names = chosen(arguments.experiments or ["*"], before)
            published = {name: (metrics_of(name), provenance_of(name)) for name in names}
            bring_sources(needed(names, before), before, cache)
            reproduce(names, Path(temporary))
            return report(names, before, published, arguments.tolerance)


# --- the clone and what runs in it ---


def fresh_clone(folder: Path) -> Path:
    """Clone the last commit into `folder`. Returns the project's root in the clone."""
    try:
        top, commit = git("rev-parse", "--show-toplevel"), git("rev-parse", "--short", "HEAD")
        changes = git("status", "--porcelain")
        git("clone", "--quiet", top, str(folder / "clone"))
    except (OSError, subprocess.CalledProcessError) as error:
        reason = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1]
        raise UserError(f"{Path.cwd()} has no commit that can be cloned: {reason}") from None
    say(f"verifying commit {commit} in a fresh clone")
    if changes:
        say("note: there are changes that are not committed, and not verified")
    return folder / "clone" / git("rev-parse", "--show-prefix")


def committed_stages() -> Stages:
    """The stages in the dvc.lock of the last commit. Raises UserError where there is none, or half a file."""
    if not LOCK.exists():
        raise UserError(f"the last commit has no {LOCK}: commit the results of dvc repro first")
    try:
        return locked_stages()
    except ValueError:
        raise UserError(
            f"the {LOCK} of the last commit is cut off, or holds a conflict of git: take it from an earlier commit, run"
            " dvc repro and commit what it writes"
        ) from None


def chosen(patterns: list[str], stages: Stages) -> list[str]:
    """The evaluated experiments that patterns match. Raises UserError for a pattern that matches none."""
    known = [name for name in params.load().experiments if f"evaluate@{name}" in stages]
    advice = "; run dvc repro evaluate@EXPERIMENT and commit what it writes"
    return matching(patterns, known, "the last commit has no results of", advice)


def needed(names: list[str], stages: Stages) -> list[str]:
    """The stages that lead to the evaluation of these experiments, in an order in which they can run."""

    @cache
    def with_ancestors(stage: str) -> list[str]:
        before = [
            other
            for path in locked(stage, "deps", stages)
            for other in stages
            if any(overlap(path, output) for output in locked(other, "outs", stages))
        ]
        return [*dict.fromkeys(each for other in before for each in with_ancestors(other)), stage]

    return list(dict.fromkeys(stage for name in names for stage in with_ancestors(f"evaluate@{name}")))


def overlap(one: str, other: str) -> bool:
    """Whether two paths are the same, or one is a folder that holds the other."""
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")


def bring_sources(names: list[str], stages: Stages, cache: str) -> None:
    """Give the clone a cache of its own, and in it what no stage computes, as far as the project's `cache` has it.

    Downloads that are not there are downloaded by their stages. Raises UserError for what only DVC can have.
    """
    from dvc.config import Config

    with Config(".dvc").edit("local") as local:
        local["cache"]["dir"], local["remote"]["project"] = ".dvc/cache", {"url": cache}
    paths = [Path(path) for name in names for path in locked(name, "deps", stages)]
    files = {Path(f"{part}.dvc") for path in paths for part in (path, *path.parents)}
    added = sorted(file for file in files if file.is_file())
    if targets := [*map(str, added), *(name for name in names if name.startswith(FETCHING))]:
        subprocess.run([*DVC, "pull", "--remote", "project", *targets], capture_output=True, check=False)
    for file in added:
        if not file.with_suffix("").exists():
            raise UserError(f"DVC's cache does not have {file.with_suffix('')}: run dvc pull {file}")


def reproduce(names: list[str], folder: Path) -> None:
    """Run all stages again. Raises UserError where one fails."""
    command = [*DVC, "repro", "--force", *(f"evaluate@{name}" for name in names)]
    environment = {
        **os.environ,
        "DVC_SITE_CACHE_DIR": str(folder / "site"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
    }
    # of a process group that is interrupted, DVC ends last: then nobody writes to the clone any more
    process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, process_group=0)
    try:
        status = process.wait()
    except KeyboardInterrupt:
        os.killpg(process.pid, signal.SIGINT)
        process.wait()
        raise
    if status:
        raise UserError("a stage failed in the fresh clone, as DVC says above: nothing was compared")


def dvc(*arguments: str) -> str:
    """What a command of DVC prints. Raises UserError where it fails."""
    done = subprocess.run([*DVC, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"dvc {' '.join(arguments)}: {' '.join(done.stderr.split())}")
    return done.stdout.strip()


# --- the comparison ---


def metrics_of(name: str) -> dict[str, Any]:
    """The content of metrics.json, such as {"val.accuracy": 0.97}. Raises UserError where git does not have it."""
    metrics = read_metrics(name)
    if metrics is None:
        raise UserError(f"the last commit has no reports/{name}/metrics.json: commit reports with dvc.lock")
    return dict(flat(metrics))


def other_packages(name: str, then: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """A note, if an experiment was published with other packages than it was trained with here."""
    old, new = (
        ", ".join(f"{library} {version}" for library, version in made.get("libraries", {}).items())
        for made in (then, now)
    )
    if old != new:
        yield f"note: {name} was published with {old or 'unknown libraries'}; here it was trained with {new}"
    elif then.get("requirements.lock") != now.get("requirements.lock"):
        yield f"note: {name} was published with another requirements.lock; other packages may give other bytes"


def report(
    names: list[str], before: Stages, published: dict[str, tuple[dict[str, Any], dict[str, Any]]], tolerance: float
) -> int:
    """Compare what is there now with what was published, and say how it went. Returns the exit status."""
    after = locked_stages()
    rewritten = git("diff", "HEAD", "--name-only", "--relative", "-z").split("\0")  # of what git holds
    different = {}
    rows = [["stage", "outputs", ""]]
    for stage in needed(names, after):
        outputs = locked(stage, "outs", after)
        paths = different[stage] = changed(locked(stage, "outs", before), outputs, rewritten)
        told = f"other bytes: {', '.join(paths)}" if paths else "the same bytes"
        rows.append([stage, str(len(outputs)), told])
    say("", *aligned(rows), "")

    if others := other_inputs([*different], before, after):
        say(f"note: dvc.lock was not made of this commit's {', '.join(others)}: run dvc repro and commit")
    status, rows = 0, [["experiment", "verdict"]]
    for name in names:
        metrics, provenance = published[name]
        say(*other_packages(name, provenance, provenance_of(name)))
        same = not any(different[stage] for stage in needed([name], after))
        passes, told = (True, "the same bytes") if same else compared(name, metrics, metrics_of(name), tolerance)
        rows.append([name, told])
        status = status if passes else 1
    say(*aligned(rows))
    return status


def locked(stage: str, kind: Literal["deps", "outs"], stages: Stages) -> dict[str, Any]:
    """What dvc.lock says of each output or dependency of a stage, by path."""
    return {entry["path"]: entry for entry in stages.get(stage, {}).get(kind, [])}


def changed(old: dict[str, Any], new: dict[str, Any], rewritten: list[str]) -> list[str]:
    """Paths of other content. Provenance is left out: it says how results were made, and differs with every package."""
    paths = [path for path in {**old, **new} if Path(path).name != "provenance.json"]
    return [path for path in paths if old.get(path) != new.get(path) or path in rewritten]


def other_inputs(names: list[str], before: Stages, after: Stages) -> list[str]:
    """Files and parameters, but for what stages write, that dvc.lock was made of in another version."""
    written = {path for stage in after for path in locked(stage, "outs", after)}
    paths = {path for name in names for path in changed(locked(name, "deps", before), locked(name, "deps", after), [])}
    params_differ = any(before.get(name, {}).get("params") != after[name].get("params") for name in names)
    return sorted((paths - written) | ({"params.yaml"} if params_differ else set()))


def compared(name: str, old: dict[str, Any], new: dict[str, Any], tolerance: float) -> tuple[bool, str]:
    """Whether results of other bytes are good enough, and why."""
    if old.keys() != new.keys() or not all(isinstance(value, int | float) for value in old.values()):
        return False, "differs: the published metrics.json has other entries"
    offs = {key.replace(".", " "): abs(old[key] - new[key]) for key in old}
    largest = max(offs, key=lambda key: offs[key])
    told = f"{largest} is off by {offs[largest]:.2g}"
    if params.load().experiment(name).compute.portable and has_avx2():
        return False, f"differs: it is portable, so the bytes have to be the same; {told}"
    if offs[largest] <= tolerance:
        return True, f"within {tolerance} of the published metrics; {told}"
    return False, f"differs: {told}, more than {tolerance}"


if __name__ == "__main__":
    run(main)
