"""What the tests share: a small project to run stages in, a clone to run DVC in, images of every kind."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from filelock import FileLock
from forks import forks
from hypothesis import settings
from PIL import Image

from pipeline.images.sources import open_source
from pipeline.images.tables import CHECKED, write_tables
from pipeline.system import console
from pipeline.system.console import UserError
from pipeline.system.workers.pool import cores
from pipeline.tracking.database import create

REPOSITORY = Path(__file__).parents[1]
IS_LINUX = sys.platform == "linux"  # other systems lack what `forks` needs
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in a shell's background; what the tests start would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ["OMP_NUM_THREADS"] = "1"  # before anything imports torch: one test process a core already
# the last but one costs each process a moment; the last hides lines that a pipe holds back
NOT_PASSED_ON = ("DVC_", "MLFLOW_", "GIT_", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED")
ENVIRONMENT = {
    **{key: value for key, value in os.environ.items() if not key.startswith(NOT_PASSED_ON)},
    "DVC_NO_ANALYTICS": "1",
    "NO_PROXY": "127.0.0.1,localhost",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@example.com",
    "GIT_COMMITTER_NAME": "A", "GIT_COMMITTER_EMAIL": "a@example.com",
}  # fmt: skip


settings.register_profile("busy", deadline=None)  # beside other work any example may take long
settings.load_profile("busy")

# by the time they take, so that no process of pytest-xdist is left alone with one of them at the end; the second and
# the third do not need the clone that the first one makes (`digits`)
LONG = (
    "test_pipeline",
    "test_distributed",
    "test_benchmarks",
    "test_tracking",
    "test_walk",
    "test_scale",
    "test_merge",
    "test_verify",
    "test_sharing",
    "test_champion",
    "test_export",
    "test_check",
    "test_team",
    "test_networks",
    "test_audit",
    "test_workflow",
    "test_torture",
    "test_portable",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores, because some tests wait: for servers, DVC's queue, what they have killed."""
    return cores() + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


# Pages that `evaluate` writes anew: outputs of no stage, as they tell what only this machine and this commit know
VIEWS = re.compile(r"reports/(index|\w+-[\w-]+/index|[\w-]+/labels)\.html")  # an experiment has a - in its name
OF_IMAGES = ("check", "decisions", "split", "report", "pack")  # stages that set nothing for the whole process


@dataclass
class Ran:
    """How a command ended."""

    status: int
    out: str
    err: str


def run(command: list[str], cwd: Path, timeout: float = 300, **environment: str) -> Ran:
    done = subprocess.run(
        command, cwd=cwd, env={**ENVIRONMENT, **environment}, capture_output=True, text=True, timeout=timeout
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def run_or_skip(*command: str) -> None:
    """Run a tool of the system; skip the test where it is not installed, or where it may not do that."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip(f"there is no {command[0]}")
    if done.returncode:
        pytest.skip(f"{command[0]} fails here: {done.stderr.strip()}")


def here(root: Path, module: str, *arguments: str) -> Ran:
    """Run a command in this process, which has its imports already: they are most of its time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [module, *arguments])
        return call(root, import_module(f"pipeline.{module}").main)


def call(root: Path, main: Callable[[], int | None]) -> Ran:
    """Call a `main` as its program does, but in this process."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))  # as stdout and stderr are
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with chdir(root), redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        console.run(main)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    if ended.value.code == console.INTERRUPTED:
        raise KeyboardInterrupt  # it was meant for the tests
    out.flush()
    err.flush()
    return Ran(ended.value.code, *(stream.buffer.getvalue().decode() for stream in (out, err)))


class Project:
    """A folder with a params.yaml of its own, in which stages run without DVC."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.params: dict[str, Any] = {"seed": 1, "downloads": {}, "datasets": {}, "experiments": {}}

    def command(self, stage: str, *arguments: str) -> list[str]:
        """Write params.yaml (JSON is YAML too) and return the command of a stage."""
        (self.root / "params.yaml").write_text(json.dumps(self.params))
        return [sys.executable, "-m", f"pipeline.{stage}", *arguments]

    def run(self, stage: str, *arguments: str, timeout: float = 300, **environment: str) -> Ran:
        if stage in OF_IMAGES and not environment:
            return self.run_here(stage, *arguments)
        variables = {"PYTHONPATH": str(REPOSITORY), "DVC_ROOT": str(self.root), **environment}
        if IS_LINUX and stage == "track":
            self.command(stage)
            return Ran(*forks("pipeline.track").run([*arguments], self.root, timeout, {**ENVIRONMENT, **variables}))
        return run(self.command(stage, *arguments), self.root, timeout, **variables)

    def must_run(self, stage: str, *arguments: str, **environment: str) -> Ran:
        ran = self.run(stage, *arguments, **environment)
        assert ran.status == 0, ran.out + ran.err
        return ran

    def run_here(self, stage: str, name: str) -> Ran:
        """Run a stage in this process."""
        self.command(stage)
        main = import_module(f"pipeline.{stage}").main
        return call(self.root, lambda: main(name))

    def dataset(
        self,
        name: str,
        source: str,
        size: int | list[int] = 8,
        channels: int = 3,
        split: dict[str, Any] | None = None,
        **check: Any,
    ) -> None:
        """Add an entry to `datasets`; what is not named here is a key of its section `check`."""
        pack = {"size": size, "channels": channels}
        self.params["datasets"][name] = {"source": source, "check": check, "split": split or {}, "pack": pack}

    def experiment(self, name: str, dataset: str, **more: Any) -> None:
        self.params["experiments"][name] = {
            "dataset": dataset,
            "network": {"name": "mlp", "hidden": [16]},
            "optimizer": {"name": "adam", "lr": 0.01},
            "epochs": 2,
            "batch_size": 8,
            **more,
        }


def write_manifest(path: Path, rows: list[dict[str, Any]], classes: list[str], schema: pa.Schema = CHECKED) -> None:
    """A table as `check` or `split` writes it."""
    write_tables(path, [pa.Table.from_pylist(rows, schema)], classes, schema)


def write_summary(root: Path, name: str) -> None:
    """What `report` reads of check.json: nothing to remark on."""
    of_files = ("used", "left_out", "without_class", "empty_folders", "official_splits")
    of_classes = ("classes", "classes_left_out", "classes_missing", "classes_respelled")
    folder = root / "reports" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "check.json").write_text(json.dumps({key: {} for key in (*of_files, *of_classes)}))


def outputs(project: Project) -> dict[str, bytes]:
    """All that the stages of a project wrote, by path."""
    return {
        str(path.relative_to(project.root)): path.read_bytes()
        for top in ("data", "reports")
        for path in sorted((project.root / top).rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="session", autouse=True)
def no_traces(tmp_path_factory: pytest.TempPathFactory) -> None:
    """DVC keeps a folder for every repository that it has seen, outside of it."""
    ENVIRONMENT["DVC_SITE_CACHE_DIR"] = str(tmp_path_factory.mktemp("dvc-site"))


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables, once for all processes of pytest-xdist, because making them takes seconds."""
    base = tmp_path_factory.getbasetemp()
    file = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "tables" / "mlflow.db"
    with FileLock(file.parent.with_suffix(".lock")):
        if not file.exists():
            file.parent.mkdir()
            create(file)
    return file


@pytest.fixture
def untracked(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that look at no run in MLflow: nobody listens there, and each `evaluate` ends two seconds sooner."""
    monkeypatch.setitem(ENVIRONMENT, "MLFLOW_TRACKING_URI", "http://127.0.0.1:9")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def refusal(place: Path) -> str:
    """The one line for which a source is not opened."""
    with pytest.raises(UserError) as caught:
        open_source(place)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def failed_in_one_line(ran: Ran, *words: str) -> None:
    """The promise for a person's mistake: exit status 1, one line `error: …` with these words, no traceback."""
    assert ran.status == 1, ran.out + ran.err
    assert "Traceback" not in ran.err
    errors = [line for line in ran.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, ran.err
    assert ran.err.rstrip().splitlines()[-1] == errors[0]
    for word in words:
        assert word in errors[0], errors[0]


def picture(seed: int, height: int = 12, width: int = 10, mode: str = "RGB") -> Image.Image:
    """A small picture, another one for every seed."""
    shape = (height, width) if mode == "L" else (height, width, len(mode))
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def class_folders(root: Path, classes: dict[str, int], suffix: str = ".png", **options: Any) -> Path:
    """Write `count` different pictures for each class to root/class/NNN.png."""
    seed = 0
    for label, count in classes.items():
        (root / label).mkdir(parents=True)
        for number in range(count):
            picture(seed, **options).save(root / label / f"{number:03d}{suffix}")
            seed += 1
    return root


@pytest.fixture(scope="session")
def data_mirror() -> Path:
    """The folder of real data, for tests that do more with it."""
    folder = os.environ.get("DATA_MIRROR", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("DATA_MIRROR names no folder of real data")
    return Path(folder)


def processes(root: Path) -> list[tuple[bytes, dict[str, str]]]:
    """Command and environment of those that work below `root`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink().is_relative_to(root):
                told = (process / "environ").read_text().split("\0")
                environment = dict(line.split("=", 1) for line in told if "=" in line)
                found.append(((process / "cmdline").read_bytes(), environment))
        except OSError:
            pass  # it has ended
    return found


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def wait_until(condition: Callable[[], Any], seconds: float = 60, pause: float = 0.1) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it took too long"
        time.sleep(pause)
    return found


@dataclass
class Clone:
    """A copy of this repository's files as a git repository of its own, sharing the installed packages."""

    root: Path

    def run(self, *command: str, timeout: float = 600, **environment: str) -> Ran:
        if (
            IS_LINUX and command[0] == "dvc" and command[1] not in ("exp", "queue")
        ):  # these start others like themselves
            return Ran(*forks("dvc").run([*command[1:]], self.root, timeout, {**ENVIRONMENT, **environment}))
        program = REPOSITORY / ".venv/bin" / command[0]
        first = str(program) if program.exists() else command[0]
        return run([first, *command[1:]], self.root, timeout, **environment)

    def must_run(self, *command: str, **environment: str) -> Ran:
        ran = self.run(*command, **environment)
        assert ran.status == 0, ran.out + ran.err
        return ran


def make_clone(root: Path) -> Clone:
    clone = Clone(root)
    root.mkdir(parents=True)
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=REPOSITORY, capture_output=True, check=True
    ).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (REPOSITORY / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, root / name)
    (root / ".venv").symlink_to(REPOSITORY / ".venv")
    clone.must_run("git", "init", "-q", "-b", "main")
    clone.must_run("git", "add", "-A")
    clone.must_run("git", "commit", "-q", "-m", "Start")
    return clone


def noted(clone: Clone) -> dict[str, str]:
    """An environment in which each stage notes what it has imported, for `imported`."""
    return {"PYTHONPATH": str(REPOSITORY / "tests/imports"), "NOTES": str(clone.root.with_name("notes"))}


def imported(clone: Clone, module: str, name: str) -> tuple[set[str], list[str]]:
    """The modules of the project that a stage had imported at its end, and those of the heavy packages."""
    told = json.loads(clone.root.with_name("notes").joinpath(f"pipeline.{module} {name}.json").read_text())
    return set(told["modules"]), told["heavy"]


def git_clone(source: Clone, root: Path) -> Clone:
    """What git has of a clone, for another person."""
    source.must_run("git", "clone", "-q", ".", str(root))
    (root / ".venv").symlink_to(REPOSITORY / ".venv")
    return Clone(root)


def copy_clone(source: Clone, root: Path, *without: str) -> Clone:
    """Copy a clone with what ran in it, but for what matches and what comes and goes while others use it."""
    ignored = shutil.ignore_patterns("index.lock", "tmp", "*.pyc.*", *without)
    shutil.copytree(source.root, root, symlinks=True, ignore=ignored)
    return Clone(root)


def recipe(beginning: str, *replaced: tuple[str, str], document: str = "sharing") -> str:
    """The commands of a document that begin so, with names of this machine instead of those of the document."""
    text = (REPOSITORY / f"docs/{document}.md").read_text()
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    block: str = next(block for language, block in blocks if not language and block.startswith(beginning))
    for old, new in replaced:
        assert old in block
        block = block.replace(old, new)
    return block


def follow(clone: Clone, commands: str) -> Ran:
    return clone.must_run("bash", "-ec", commands)


def commit(clone: Clone) -> None:
    clone.must_run("git", "add", "-A")
    clone.must_run("git", "commit", "-q", "--allow-empty", "-m", "More")


def share(clone: Clone, remote: Path) -> None:
    """Push to a folder as the remote of a team, and commit where it is."""
    clone.must_run("dvc", "remote", "add", "--default", "team", str(remote))
    clone.must_run("dvc", "push")
    commit(clone)


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    """A clone of its own for tests that change it; nothing has run in it."""
    return make_clone(tmp_path / "clone")


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone in which `dvc repro` has run for digits, once for all processes of pytest-xdist.

    Tests leave it as it is; those that change something copy it first.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    root = shared / "digits" / "new clone"  # a path with a space
    done = shared / "digits.done"
    with FileLock(shared / "digits.lock"):
        if done.exists():
            return Clone(root)
        clone = make_clone(root)
        params = root / "params.yaml"
        params.write_text(params.read_text().replace("seeds: 5", "seeds: 2"))  # of digits-cnn: more show nothing more
        clone.must_run("git", "commit", "-qam", "Train with fewer seeds")
        clone.must_run("dvc", "repro", "--glob", "evaluate@digits-*", "report@digits", **noted(clone))
        done.touch()
        return clone


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[Clone], Clone]:
    """Copy a clone with everything that ran in it, for a test that changes it."""

    # the database's artifacts have absolute paths: they would lead back to the original
    return lambda clone: copy_clone(clone, tmp_path / "copy", "mlflow.db*", "mlartifacts")
