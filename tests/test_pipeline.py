"""The stages under DVC: what they depend on, what runs again and what does not, and what survives an interruption."""

from __future__ import annotations

import ast
import csv
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
from conftest import (
    ENVIRONMENT,
    REPOSITORY,
    VIEWS,
    Clone,
    copy_clone,
    edit,
    imported,
    noted,
    processes,
    run,
    wait_until,
)
from ruamel.yaml import YAML

from benchmarks import repro

CopyOf = Callable[[Clone], Clone]
MLP, CNN = "digits-mlp", "digits-cnn"
WRITTEN = ("data", "models", "reports", ".checkpoints")

# as shells report it; Python itself dies of the signal where it came inside `eval`, which shells report the same
INTERRUPTED = (130, -signal.SIGINT)


def files_below(root: Path, *folders: str) -> dict[str, bytes]:
    """The content of each file that is there, by path, but for views of others."""
    files = (path for folder in folders for path in (root / folder).rglob("*") if path.is_file())
    found = {path.relative_to(root).as_posix(): path.read_bytes() for path in files}
    return {path: content for path, content in found.items() if not VIEWS.fullmatch(path)}


def results(clone: Clone) -> dict[str, bytes]:
    """Every output of the stages, and the lock."""
    found = files_below(clone.root, "data", "models", "reports")
    return {"dvc.lock": (clone.root / "dvc.lock").read_bytes(), **found}


def assert_same(found: dict[str, bytes], expected: dict[str, bytes]) -> None:
    assert sorted(found) == sorted(expected)
    assert not [path for path in expected if found[path] != expected[path]]


# They validate all of params.yaml in every stage; what a stage writes does not depend on them
ONLY_VALIDATE = {
    f"pipeline/config/{name}.py" for name in ("augmentation", "errors", "experiments", "features", "networks")
}


def code_deps(stage: str, network: str = "") -> set[str]:
    """The rooms and modules of the project among the `deps` of a stage in dvc.yaml."""
    stages = YAML(typ="safe").load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    deps = [dep.replace("${item.network.name}", network) for dep in stages[stage]["do"]["deps"]]
    return {dep for dep in deps if dep.startswith("pipeline/")}


def covers(dep: str, module: str) -> bool:
    return module == dep or module.startswith(f"{dep}/")


def unnamed(modules: set[str], deps: set[str]) -> set[str]:
    """Modules that no dependency covers, but for packages that hold no more than a docstring."""
    empty = {module for module in modules if module.endswith("__init__.py") and not has_code(module)}
    return {module for module in modules - empty if not any(covers(dep, module) for dep in deps)}


def has_code(module: str) -> bool:
    return len(ast.parse((REPOSITORY / module).read_text()).body) > 1


@pytest.fixture(scope="module")
def scratch(digits: Clone, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A copy of `digits` for tests that put back what they change."""
    return copy_clone(digits, tmp_path_factory.mktemp("scratch") / "copy")


# --- what a stage depends on ---


@pytest.mark.parametrize(
    ("stage", "network", "name"),
    [
        ("download", "", "digits"),
        ("check", "", "digits"),
        ("decisions", "", "digits"),
        ("report", "", "digits"),
        ("split", "", "digits"),
        ("pack", "", "digits"),
        ("weights", "", MLP),
        ("train", "mlp", MLP),
        ("train", "cnn", CNN),
        ("evaluate", "mlp", MLP),
        ("evaluate", "cnn", CNN),
    ],
)
def test_a_stage_names_the_rooms_it_uses(digits: Clone, stage: str, network: str, name: str) -> None:
    module = "download" if stage == "weights" else stage
    modules, heavy = imported(digits, module, name)
    assert_rooms(modules, stage, network, f"pipeline/{module}.py")
    assert [package for package in heavy if package != "pandas"] == (
        ["torch"] if stage in ("train", "evaluate") else []
    )
    assert stage != "train" or "pandas" not in heavy


def assert_rooms(modules: set[str], stage: str, network: str, entry: str) -> None:
    """A stage names in dvc.yaml all that it imports, and nothing else."""
    deps = code_deps(stage, network)
    assert entry in modules
    of_others = {"pipeline/config/datasets.py"} if stage == "weights" else set()  # it reads no data set
    assert unnamed(modules, deps) <= (ONLY_VALIDATE | of_others if "pipeline/config" not in deps else set())
    assert not [dep for dep in deps if not any(covers(dep, module) for module in modules)]


def test_a_transfer_network_needs_its_own_module_and_no_other(clone: Clone) -> None:
    clone.must_run("python", "-m", "pipeline.networks.torchvision", "here", **noted(clone))
    modules, _ = imported(clone, "networks.torchvision", "here")
    assert "pipeline/networks/layers.py" in modules
    for stage in ("train", "evaluate"):
        deps = code_deps(stage, "torchvision")
        assert not unnamed(modules, deps)
        assert deps - code_deps(stage, "mlp") == {"pipeline/networks/torchvision.py"}


@pytest.mark.parametrize(
    "module", sorted(file.stem for file in (REPOSITORY / "pipeline").glob("*.py") if file.stem != "__init__")
)
def test_every_stage_and_command_has_help(module: str, tmp_path: Path) -> None:
    ran = run([sys.executable, "-m", f"pipeline.{module}", "--help"], tmp_path, PYTHONPATH=str(REPOSITORY))
    assert ran.status == 0 and ran.err == ""
    assert ran.out.startswith(f"usage: python -m pipeline.{module} [-h]")
    assert (ast.get_docstring(ast.parse((REPOSITORY / f"pipeline/{module}.py").read_text())) or "?") in ran.out
    assert not list(tmp_path.iterdir())


def test_only_programs_change_how_python_ends() -> None:
    """A test or a notebook that imports a stage keeps its own tracebacks."""
    script = "import sys; from pipeline import download; assert sys.excepthook is sys.__excepthook__"
    assert run([sys.executable, "-c", script], REPOSITORY).status == 0
    script = "import runpy, sys; sys.argv = ['x', '-h']; runpy.run_module('pipeline.download', None, '__main__', True)"
    hooked = f"import atexit, sys; atexit.register(lambda: print(sys.excepthook.__name__)); {script}"
    assert run([sys.executable, "-c", hooked], REPOSITORY).out.splitlines()[-1] == "end_quietly"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        ("MemoryError()", "error: not enough memory: end other programs, or take a machine with more\n"),
        ("OSError(5, 'failed', 'data/raw/a.zip')", "error: data/raw/a.zip: Input/output error\n"),
    ],
)
def test_what_a_machine_lacks_is_told_in_one_line(error: str, line: str) -> None:
    script = f"""
from pipeline.system import console
def main():
    raise {error}
console.run(main)
"""
    ran = run([sys.executable, "-c", script], REPOSITORY)
    assert (ran.status, ran.out, ran.err) == (1, "", line)


@pytest.mark.parametrize(("number", "status", "word"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated")])
def test_an_interruption_that_a_library_makes_an_error_of(number: str, status: int, word: str) -> None:
    """As pandas does where it is just being imported."""
    script = f"""
import signal
from pipeline.system import console
def main():
    try:
        signal.raise_signal(signal.{number})
    except KeyboardInterrupt:
        raise AttributeError("partially initialized module") from None
console.run(main)
"""
    ran = run([sys.executable, "-c", script], REPOSITORY)
    assert (ran.status, ran.out) == (status, "") and ran.err.startswith(f"{word}: nothing half-written is left")


@pytest.mark.parametrize(("number", "status", "word"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated")])
def test_an_interruption_that_python_drops(number: str, status: int, word: str) -> None:
    """As where an object is just being freed."""
    script = f"""
import signal, time
from pipeline.system import console
class Freed:
    def __del__(self):
        signal.raise_signal(signal.{number})
def main():
    Freed()
    time.sleep(30)
    print("went on")
console.run(main)
"""
    ran = run([sys.executable, "-c", script], REPOSITORY)
    assert (ran.status, ran.out) == (status, "") and ran.err.startswith(f"{word}: nothing half-written is left")


# --- what runs again ---


def test_the_time_of_every_stage_that_runs(digits: Clone, copy_of: CopyOf) -> None:
    copy = copy_of(digits)
    assert list(repro.timed(copy.root, MLP)) == ["dvc"]
    edit(copy.root / "pipeline/split.py", *CODE)
    edit(copy.root / "pipeline/pack.py", *CODE)
    seconds = repro.timed(copy.root, MLP)
    assert list(seconds) == ["dvc", "split", "pack"] and min(seconds.values()) > 0


def test_nothing_runs_twice(digits: Clone, copy_of: CopyOf) -> None:
    copy = copy_of(digits)
    ran = copy.must_run("dvc", "repro", "--glob", "evaluate@digits-*", "report@digits")
    assert "Data and pipelines are up to date." in ran.out
    assert "Running stage" not in ran.out
    assert_same(results(copy), results(digits))


def test_outputs_tell_nothing_of_the_machine(digits: Clone) -> None:
    # as whole words: a short host name can stand in compressed pixels by chance
    private = (str(digits.root), str(digits.root.parent), socket.gethostname(), time.strftime("%Y-%m-%d"))
    word = re.compile(rb"(?<![\w-])(" + b"|".join(re.escape(text.encode()) for text in private) + rb")(?![\w-])")
    files = results(digits)
    assert len(files) > 20
    assert not [
        (path, found[0])
        for path, content in files.items()
        if (found := word.search(content)) and (len(found[0]) > 6 or content.isascii())
    ]


CODE = ("from __future__ import annotations", "from __future__ import annotations  # changed")


@pytest.mark.parametrize(
    ("edits", "expected"),
    [
        ({"params.yaml": ("epochs: 40", "epochs: 41")}, {f"train@{MLP}"}),
        ({"pipeline/training/trainer.py": CODE}, {f"train@{MLP}", f"train@{CNN}"}),
        (
            {"pipeline/evaluation/inference.py": CODE},
            {f"train@{MLP}", f"train@{CNN}", f"evaluate@{MLP}", f"evaluate@{CNN}"},
        ),
        ({"pipeline/split.py": CODE}, {"split@digits"}),
        ({"pipeline/networks/cnn.py": CODE}, {f"train@{CNN}", f"evaluate@{CNN}"}),
        (
            {"params.yaml": ("val: 0.1, test: 0.2", "val: 0.2, test: 0.2")},
            # `evaluate` reads group_by there; then what reads the table of splits: see the next test
            {"split@digits", f"evaluate@{MLP}", f"evaluate@{CNN}"},
        ),
        ({"params.yaml": ("check: {}", "check: {max_quarantined: 0.1}")}, {"check@digits"}),
        ({"params.yaml": ("size: 8", "size: 9")}, {"pack@digits"}),
        (  # what experiments may say, and what augments their images, concerns no data set
            {"pipeline/config/experiments.py": CODE, "pipeline/dataset/augmentation/boxes.py": CODE},
            {f"{stage}@{name}" for stage in ("train", "evaluate") for name in (MLP, CNN)},
        ),
        ({f"pipeline/{file}.py": CODE for file in ("track", "tracking/tracker", "index", "dashboard/curves")}, set()),
    ],
    ids=["epochs", "trainer.py", "inference.py", "split.py", "cnn.py", "split", "check", "pack", "config", "views"],
)  # fmt: skip
def test_an_edit_makes_stale_what_it_concerns(
    scratch: Clone, edits: dict[str, tuple[str, str]], expected: set[str]
) -> None:
    for file, (old, new) in edits.items():
        edit(scratch.root / file, old, new)
    status = json.loads(scratch.must_run("dvc", "status", "--json").out)
    scratch.must_run("git", "checkout", "-q", *edits)
    # data sets that were never downloaded here are stale anyhow
    assert {stage for stage in status if "@digits" in stage} == expected


def test_another_split_decodes_nothing_again(digits: Clone, copy_of: CopyOf) -> None:
    copy = copy_of(digits)
    edit(copy.root / "params.yaml", "val: 0.1, test: 0.2", "val: 0.2, test: 0.2")
    edit(copy.root / "params.yaml", "epochs: 40", "epochs: 1")
    before = files_below(copy.root, "data/checked", "data/packed")
    page = (copy.root / "reports/digits/split.html").read_bytes()
    ran = copy.must_run("dvc", "repro", f"train@{MLP}", "report@digits")
    run = [line.split("'")[1] for line in ran.out.splitlines() if line.startswith("Running stage")]
    assert sorted(run) == ["split@digits", f"train@{MLP}"]
    assert files_below(copy.root, "data/checked", "data/packed") == before
    assert (copy.root / "reports/digits/split.html").read_bytes() != page


def test_a_decision_concerns_its_own_data_set(digits: Clone, copy_of: CopyOf) -> None:
    copy = copy_of(digits)

    def stages_that_run(decided: str, path: str, target: str) -> list[str]:
        (copy.root / f"data/decisions/{decided}.csv").write_text(f"path,decision,label,note\n{path},drop,,\n")
        ran = copy.must_run("dvc", "repro", target)
        return [line.split("'")[1] for line in ran.out.splitlines() if line.startswith("Running stage")]

    assert stages_that_run("photos", "cat/1.png", "report@digits") == ["decisions@digits"]
    path = pq.read_table(copy.root / "data/splits/digits.parquet", columns=["path"])["path"][0].as_py()
    assert stages_that_run("digits", path, "split@digits") == ["decisions@digits", "split@digits"]
    assert path not in pq.read_table(copy.root / "data/splits/digits.parquet", columns=["path"])["path"].to_pylist()
    status = json.loads(copy.must_run("dvc", "status", "--json", "report@digits").out)
    assert "data/decided/digits.csv" in str(status)


def test_a_clock_that_was_set_back(digits: Clone, copy_of: CopyOf) -> None:
    """All files are from next year. A run of this year goes as any other, and the old results are found again."""
    copy = copy_of(digits)
    next_year = time.time() + 365 * 86400
    for path in copy.root.rglob("*"):
        if not path.is_symlink() and ".venv" not in path.parts:
            os.utime(path, (next_year, next_year))
    assert "up to date" in copy.must_run("dvc", "repro", f"evaluate@{MLP}").out
    edit(copy.root / "params.yaml", "epochs: 40", "epochs: 1")
    ran = copy.must_run("dvc", "repro", f"train@{MLP}")
    assert [line for line in ran.out.splitlines() if line.startswith("Running")] == [f"Running stage 'train@{MLP}':"]
    edit(copy.root / "params.yaml", "epochs: 1\n", "epochs: 40\n")
    assert "Running" not in copy.must_run("dvc", "repro", f"evaluate@{MLP}").out
    assert_same(results(copy), results(digits))


def test_lost_results_come_from_the_run_cache(digits: Clone, copy_of: CopyOf) -> None:
    copy = copy_of(digits)
    for folder in ("models", "reports", "data"):
        shutil.rmtree(copy.root / folder)
    copy.must_run("git", "checkout", "-q", "data")  # what people decided is git's
    (copy.root / "dvc.lock").unlink()
    ran = copy.must_run("dvc", "repro", "--glob", "evaluate@digits-*", "report@digits")
    run = {line.split("'")[1] for line in ran.out.splitlines() if line.startswith("Running stage")}
    # what is kept by `persist`, to be read or not to be fetched again, has no run-cache
    assert run == {"download@digits", "split@digits", f"weights@{MLP}", f"weights@{CNN}"}
    for stage in (f"train@{MLP}", f"evaluate@{CNN}", "check@digits", "report@digits", "pack@digits"):
        assert f"Stage '{stage}' is cached - skipping run, checking out outputs" in ran.out
    expected = results(digits)
    order = YAML(typ="safe").load
    assert order(results(copy)["dvc.lock"].decode()) == order(expected["dvc.lock"].decode())
    kept = {path: content for path, content in results(copy).items() if path in expected and path != "dvc.lock"}
    outputs = {path: content for path, content in expected.items() if "digits" in path}
    assert_same({path: content for path, content in kept.items() if path in outputs}, outputs)


# --- interruptions ---


class Started:
    """A command in a session of its own, killed with all its processes at the end of the test."""

    def __init__(self, clone: Clone, *command: str, **environment: str) -> None:
        self.clone = clone
        self.process = subprocess.Popen(
            [str(REPOSITORY / ".venv/bin" / command[0]), *command[1:]],
            cwd=clone.root, env={**ENVIRONMENT, "PYTHONUNBUFFERED": "1", **environment},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def wait_for(self, condition: Callable[[], Any], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not condition():
            if self.process.poll() is not None:
                out, err = self.process.communicate()
                raise AssertionError(f"ended early with {self.process.returncode}: {out}{err}")
            assert time.monotonic() < end, "it took too long"
            time.sleep(0.01)

    def send(self, number: signal.Signals) -> tuple[int, str, str]:
        """Send a signal to all its processes and return its exit status and what it said."""
        os.killpg(self.process.pid, number)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.communicate()


@pytest.fixture
def start() -> Iterator[Callable[..., Started]]:
    started: list[Started] = []

    def begin(clone: Clone, *command: str, **environment: str) -> Started:
        started.append(Started(clone, *command, **environment))
        return started[-1]

    yield begin
    for one in started:
        one.close()


def checkpoints(clone: Clone, name: str = MLP) -> set[Path]:
    return set((clone.root / ".checkpoints" / name).glob("[!.]*.pt"))


def partials(clone: Clone) -> list[Path]:
    return [path for folder in WRITTEN for path in (clone.root / folder).rglob(".*.partial")]


def test_killed_training_goes_on_to_the_same_bytes(
    digits: Clone, copy_of: CopyOf, start: Callable[..., Started]
) -> None:
    copy = copy_of(digits)
    repro = start(copy, "dvc", "repro", "--force", "--single-item", f"train@{MLP}")
    repro.wait_for(lambda: checkpoints(copy))
    repro.send(signal.SIGKILL)  # DVC too, as when the power fails
    assert not (copy.root / "models" / MLP).exists()

    # by force, because DVC's cache knows the result already
    ran = copy.must_run("dvc", "repro", "--force", "--single-item", f"train@{MLP}")
    resumed = [line for line in ran.out.splitlines() if line.startswith("resuming after epoch ")]
    assert len(resumed) == 1 and resumed[0].endswith(" of 40")
    assert 1 <= int(resumed[0].split()[3]) < 40
    assert_same(results(copy), results(digits))
    assert not (copy.root / ".checkpoints" / MLP).exists()


def test_training_ends_with_its_dvc_and_the_next_goes_on(
    digits: Clone, copy_of: CopyOf, start: Callable[..., Started]
) -> None:
    copy = copy_of(digits)
    edit(copy.root / "params.yaml", "epochs: 40", "epochs: 1000000")
    repro = ("dvc", "repro", "--force", "--single-item", f"train@{MLP}")

    def written() -> set[int]:
        return {path.stat().st_mtime_ns for path in checkpoints(copy)}

    first = start(copy, *repro, SHELL="/bin/sh")  # the stage's parent, or replaced by it
    first.wait_for(written)
    busy = copy.run(*repro)
    assert busy.status and "Traceback" not in busy.err
    assert "is busy, it is being blocked by:" in busy.err and f"(PID {first.process.pid})" in busy.err
    first.process.kill()
    first.process.wait()
    second = start(copy, *repro, SHELL="/bin/bash")  # at once
    out, err = first.process.communicate(timeout=60)  # until no process holds its pipes
    assert "resuming" not in out and "Traceback" not in err
    assert err.splitlines()[-1] == "stopped, as DVC has ended: nothing half-written is left; run it again to go on"

    before = written()
    second.wait_for(lambda: written() - before)
    second.process.terminate()
    out, err = second.process.communicate(timeout=60)
    assert "resuming after epoch" in out and "Traceback" not in err
    wait_until(lambda: not processes(copy.root))
    assert not partials(copy) and not list((copy.root / ".checkpoints").glob(".*.lock"))

    shutil.copy(digits.root / "params.yaml", copy.root)
    copy.must_run(*repro)
    assert_same(results(copy), results(digits))


def test_interrupted_training_goes_on_only_with_the_same_inputs(
    digits: Clone, copy_of: CopyOf, start: Callable[..., Started]
) -> None:
    copy = copy_of(digits)
    train = ("python", "-m", "pipeline.train", MLP)
    other = copy.root / ".checkpoints" / f"{MLP}-wide" / "1.pt"  # of another experiment whose name begins alike
    other.parent.mkdir(parents=True)
    other.touch()
    interrupted = start(copy, *train)
    interrupted.wait_for(lambda: checkpoints(copy))
    status, _, err = interrupted.send(signal.SIGINT)
    assert status in INTERRUPTED, err
    assert err.startswith("interrupted") and len(err.splitlines()) == 1
    (saved,) = checkpoints(copy)
    assert not partials(copy)

    meta = copy.root / "data/packed/digits/meta.json"
    changes = {
        copy.root / "params.yaml": ("lr: 0.002", "lr: 0.003"),
        meta: ('"sha256"', '"sha256" '),
        copy.root / "pipeline/evaluation/inference.py": ("EVALUATION_BATCH = 1000", "EVALUATION_BATCH = 1001"),
    }
    for file, (old, new) in changes.items():
        original, known = file.read_bytes(), checkpoints(copy)
        file.chmod(0o644)
        edit(file, old, new)
        changed = start(copy, *train)
        changed.wait_for(lambda known=known: checkpoints(copy) - known)
        status, out, err = changed.send(signal.SIGINT)
        assert status in INTERRUPTED, err
        assert f"{MLP}: " in out and "resuming" not in out, f"{file.name} changed: {out}"
        file.write_bytes(original)
    assert saved.exists()

    ran = copy.must_run(*train)
    assert "resuming after epoch" in ran.out
    assert_same(results(copy), results(digits))
    assert not checkpoints(copy) and other.exists()
    model = copy.root / "models" / MLP
    assert (model / "model.safetensors").stat().st_mode == (model / "model.json").stat().st_mode  # others may read it


def test_interrupted_evaluation_ends_without_a_traceback(
    digits: Clone, copy_of: CopyOf, start: Callable[..., Started]
) -> None:
    copy = copy_of(digits)
    evaluate = start(copy, "python", "-m", "pipeline.evaluate", MLP)
    loaded = Path(f"/proc/{evaluate.process.pid}/maps")
    if not loaded.exists():
        pytest.skip("only /proc tells how far a process has come")
    evaluate.wait_for(lambda: "safetensors" in loaded.read_text())
    status, _, err = evaluate.send(signal.SIGINT)
    assert status in INTERRUPTED, err
    assert err.startswith("interrupted") and len(err.splitlines()) == 1
    assert not partials(copy)
    copy.must_run("python", "-m", "pipeline.evaluate", MLP)
    assert_same(results(copy), results(digits))


# --- what DVC shows ---


def test_what_dvc_compares_puts_validation_images_first(digits: Clone, copy_of: CopyOf) -> None:
    copy = copy_of(digits)
    committed = json.loads((copy.root / f"reports/{MLP}/metrics.json").read_text())
    assert committed["val"]["accuracy"] > 0.95 and committed["test"]["accuracy"] > 0.95
    shown = copy.must_run("python", "-m", "pipeline.compare", "digits-*").out.splitlines()
    assert shown[0].split()[:4] == ["experiment", "val", "accuracy", "val"] and len(shown) == 3
    assert shown[1].split()[:2] == [MLP, f"{committed['val']['accuracy']:.4f}"]
    assert "±" in shown[2]

    copy.must_run("git", "add", "-A")
    copy.must_run("git", "commit", "-qm", "Results")
    file = copy.root / f"reports/{MLP}/summary.json"
    changed = file.read_text()
    for accuracy in set(re.findall(r"accuracy.: (.*?),?\n", changed)):
        changed = changed.replace(accuracy, "0.5")
    file.unlink()
    file.write_text(changed)
    edit(copy.root / "params.yaml", "lr: 0.002", "lr: 0.01")
    lock = copy.root / "dvc.lock"
    model = YAML(typ="safe").load(lock.read_text())["stages"][f"train@{MLP}"]["outs"][0]
    lock.write_text(lock.read_text().replace(model["md5"], f"{0:032x}.dir"))
    documented = re.findall(r"^\.venv/bin/(dvc exp show .*)$", (REPOSITORY / "README.md").read_text(), re.MULTILINE)[0]
    head = copy.must_run(*documented.split(), "--csv").out.splitlines()[0]
    accuracies = [f"{MLP}.val.accuracy", f"{MLP}_test.accuracy"]
    assert head.split(",") == ["rev", "Created", *accuracies, f"experiments.{MLP}.optimizer.lr"]
    lines = copy.must_run("dvc", "metrics", "diff").out.splitlines()
    assert [line.split()[1] for line in lines[1:]] == accuracies


def test_plots_hold_curves_and_counts(digits: Clone, copy_of: CopyOf, tmp_path: Path) -> None:
    copy = copy_of(digits)
    ran = copy.must_run("dvc", "plots", "show", "--json", "-o", str(tmp_path / "json"))
    shown = json.loads(ran.out)
    assert "errors" not in shown

    def spec(plot: str) -> dict[str, Any]:
        (figure,) = shown["data"][plot]
        content = figure["content"]
        return json.loads(content) if isinstance(content, str) else content

    counts = list(csv.DictReader((digits.root / f"reports/{CNN}/confusion_matrix.csv").open()))
    assert 10 <= len(counts) < 100 and sum(int(row["count"]) for row in counts) == 359
    assert [row["actual"] for row in counts[:10]] == [row["predicted"] for row in counts[:10]] == list("0123456789")
    points = spec(f"reports/{CNN}/confusion_matrix.csv")["data"]["values"]
    cells = {(row["actual"], row["predicted"]): str(row["count"]) for row in points}
    assert cells == {(row["actual"], row["predicted"]): row["count"] for row in counts}

    for name in (MLP, CNN):
        chart = spec(f"reports/{name}/history.csv")
        assert chart["title"]["text"] == f"digits: {name}"
        history = list(csv.DictReader((digits.root / f"reports/{name}/history.csv").open()))
        columns = ("train_loss", "val_loss", "train_accuracy", "val_accuracy")
        assert {*columns} < history[0].keys() and chart["transform"][0]["fold"] == [*columns]
        assert [{key: row[key] for key in history[0]} for row in chart["data"]["values"]] == history


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to draw a page with")
def test_the_page_of_plots_is_drawn_without_a_network(digits: Clone, copy_of: CopyOf, tmp_path: Path) -> None:
    """An experiment that is new in params.yaml is drawn beside those of its data set, with no other file edited."""
    copy = copy_of(digits)
    params = copy.root / "params.yaml"
    params.write_text(
        f"{params.read_text()}\n  digits-new:\n    dataset: digits\n    network: {{name: mlp}}\n"
        "    optimizer: {name: adam, lr: 0.1}\n    epochs: 1\n    batch_size: 64\n"
    )
    shutil.copytree(copy.root / f"reports/{MLP}", copy.root / "reports/digits-new")
    ran = copy.must_run("dvc", "plots", "show", "-o", str(tmp_path / "page"))
    assert CHROMIUM and not ran.err, ran.err
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=10000"]
    page = subprocess.run(
        [*command, "--host-resolver-rules=MAP * ~NOTFOUND", "--dump-dom", str(tmp_path / "page/index.html")],
        env={**os.environ, "HOME": str(tmp_path)}, capture_output=True, text=True, timeout=120, check=True,
    ).stdout  # fmt: skip
    body = page[page.index("<body") :]
    drawn = re.findall(r'<div id="reports_(\S+)" class="vega-embed', body)
    assert sorted(drawn) == [
        "digits-cnn_confusion_matrix_csv", "digits-mlp_confusion_matrix_csv", "digits-mlp_history_csv",
        "digits-new_confusion_matrix_csv",
    ]  # fmt: skip
    assert not re.search(r'<div id="reports_\S+_json"', body)


def test_a_clone_in_which_no_study_ran_is_quiet(digits: Clone, copy_of: CopyOf) -> None:
    copy = copy_of(digits)
    for verb in ("checkout", "status", ["metrics", "show"], ["plots", "show"]):
        ran = copy.must_run("dvc", *([verb] if isinstance(verb, str) else verb))
        assert not ran.err and len(ran.out.splitlines()) < 10, ran.out + ran.err


def test_queued_experiments_train_side_by_side_each_on_its_gpu_and_are_logged_to_the_project(
    digits: Clone, copy_of: CopyOf
) -> None:
    from mlflow import MlflowClient

    copy = copy_of(digits)
    timed = {*(copy.root / ".train_times").iterdir()}
    for epochs in (2, 1):
        change = f"experiments.{MLP}.epochs={epochs}"
        copy.must_run("dvc", "exp", "run", "--queue", "--name", f"epochs-{epochs}", "-S", change, f"evaluate@{MLP}")

    def training() -> set[psutil.Process]:
        found = set()
        for process in psutil.process_iter():
            with suppress(psutil.Error):  # it has ended
                here = Path(process.cwd()).is_relative_to(copy.root)
                if here and process.cmdline()[1:3] == ["-m", "pipeline.train"]:
                    found.add(process)
        return found

    def start_worker(number: int) -> None:
        path = f"{copy.root}/.venv/bin:{os.environ['PATH']}"  # the worker calls `dvc`
        environment = {**ENVIRONMENT, "PATH": path, "CUDA_VISIBLE_DEVICES": str(number - 1)}
        command = [f"{copy.root}/.venv/bin/dvc", "queue", "start", "--jobs", str(number)]
        # not into a pipe, which the worker would hold open
        subprocess.run(command, cwd=copy.root, env=environment, stdout=subprocess.DEVNULL, check=True)

    def kept() -> set[str]:
        """The names of the experiments whose results DVC has."""
        refs = copy.must_run("git", "for-each-ref", "--format=%(refname)", "refs/exps").out.splitlines()
        return {ref.rpartition("/")[2] for ref in refs}

    try:
        start_worker(1)
        (first,) = wait_until(training, 600, pause=0.3)
        first.suspend()  # it is still at it when the second starts
        start_worker(2)
        (second,) = wait_until(lambda: training() - {first}, 600, pause=0.3)
        given = [process.environ() for process in (first, second)]
        first.resume()
        wait_until(lambda: {"epochs-2", "epochs-1"} <= kept(), 600, pause=0.3)
    finally:
        copy.run("dvc", "queue", "stop", "--kill")
    told = [(environment["DVC_EXP_NAME"], environment["CUDA_VISIBLE_DEVICES"]) for environment in given]
    assert told == [("epochs-2", "0"), ("epochs-1", "1")]
    assert copy.must_run("dvc", "queue", "status").out.count("Success") == 2
    lines = copy.must_run("dvc", "queue", "logs", "epochs-1").out.splitlines()
    run_stages = [line.split("'")[1] for line in lines if line.startswith("Running stage")]
    assert run_stages == [f"train@{MLP}", f"evaluate@{MLP}"]
    assert_same(results(copy), results(digits))
    assert len({*(copy.root / ".train_times").iterdir()} - timed) == 2  # not lost with the temporary copies

    client = MlflowClient(f"sqlite:///{copy.root}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    logged = {run.data.tags["dvc.exp_name"]: run for run in runs}
    assert len(runs) == len(logged) == 2
    shown = json.loads(copy.must_run("dvc", "exp", "show", "--json").out)
    (baseline,) = [revision for revision in shown if revision["rev"] != "workspace"]
    experiments = {one["name"]: one["data"] for group in baseline["experiments"] for one in group["revs"]}
    for epochs in (2, 1):
        name = f"epochs-{epochs}"
        run, metrics = logged[name], experiments[name]["metrics"][f"reports/{MLP}/summary.json"]["data"]
        assert run.data.params["epochs"] == str(epochs) and run.info.status == "FINISHED"
        assert client.list_artifacts(run.info.run_id)
        assert metrics[MLP]["val"]["accuracy"] == pytest.approx(run.data.metrics["val_accuracy"])
        assert metrics[f"{MLP}_test"]["accuracy"] == pytest.approx(run.data.metrics["test_accuracy"])
