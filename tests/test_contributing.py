"""What CONTRIBUTING.md says has to be touched to add something is all that has to be."""

from __future__ import annotations

import ast
import csv
import re
from collections.abc import Callable
from pathlib import Path

from conftest import REPOSITORY, Clone, class_folders, edit

TEXT = (REPOSITORY / "CONTRIBUTING.md").read_text()


def code(beginning: str) -> str:
    """The block of code that begins so."""
    return next(
        block for block in re.findall(r"```\w*\n(.*?)```", TEXT, re.DOTALL) if block.lstrip().startswith(beginning)
    )


def touched(clone: Clone) -> list[str]:
    """Files that differ from the last commit, which then holds them."""
    files = [line[3:] for line in clone.must_run("git", "status", "--porcelain", "-uall").out.splitlines()]
    clone.must_run("git", "add", "-A")
    clone.must_run("git", "commit", "-q", "-m", "Add something")
    return sorted(file for file in files if file.startswith(("pipeline/", "params.yaml", "dvc.yaml")))


def test_the_worked_examples(digits: Clone, copy_of: Callable[[Clone], Clone]) -> None:
    clone = copy_of(digits)
    touched(clone)

    class_folders(clone.root / "data/raw/letters", {"a": 8, "b": 8})
    entry = "  letters: {source: data/raw/letters, check: {}, split: {}, pack: {size: 8}}\n"
    edit(clone.root / "params.yaml", "datasets:\n", f"datasets:\n{entry}")
    clone.must_run("dvc", "repro", "split@letters")
    assert touched(clone) == ["params.yaml"]

    (clone.root / "pipeline/networks/linear.py").write_text(code("# pipeline/networks/linear.py"))
    networks = clone.root / "pipeline/config/networks.py"
    edit(networks, "Network = Annotated[\n", f"{code('# pipeline/config/networks.py')}\n\nNetwork = Annotated[\n")
    edit(networks, "    MLPConfig | ", "    LinearConfig | MLPConfig | ")
    assert touched(clone) == ["pipeline/config/networks.py", "pipeline/networks/linear.py"]

    module = "pipeline/dataset/augmentation/invert.py"
    (clone.root / module).write_text(code(f"# {module}"))
    key = code("# pipeline/config/augmentation.py")
    edit(clone.root / "pipeline/config/augmentation.py", "    brightness: ", f"{key}    brightness: ")
    table = clone.root / "pipeline/dataset/augmentation/__init__.py"
    edit(table, "    crop,\n", "    crop,\n    invert,\n")
    edit(table, "PIXEL_LEVEL = (", "PIXEL_LEVEL = (invert, ")
    assert touched(clone) == ["pipeline/config/augmentation.py", "pipeline/dataset/augmentation/__init__.py", module]

    described = "dataset: digits, network: {name: linear}, optimizer: {name: sgd, lr: 0.1}, epochs: 1, batch_size: 64"
    entry = f"  digits-linear: {{{described}, augment: {{invert: 1.0}}}}\n"
    edit(clone.root / "params.yaml", "experiments:\n", f"experiments:\n{entry}")
    ran = clone.must_run("dvc", "repro", "--single-item", "weights@digits-linear", "train@digits-linear")
    assert "Running stage 'train@digits-linear'" in ran.out
    assert (clone.root / "models/digits-linear/model.json").exists()
    (row,) = csv.DictReader((clone.root / "reports/digits-linear/history.csv").open())
    assert float(row["train_accuracy"]) > 0.5 > float(row["val_accuracy"])  # only images to train on are inverted
    assert touched(clone) == ["params.yaml"]

    (clone.root / "pipeline/tally.py").write_text(code("# pipeline/tally.py"))
    edit(clone.root / "dvc.yaml", "stages:\n", f"stages:\n{code('tally:')}\n")
    clone.must_run("dvc", "repro", "--single-item", "tally@digits")
    assert "'counts': 1" in (clone.root / "reports/digits/tally.txt").read_text()
    assert touched(clone) == ["dvc.yaml", "pipeline/tally.py"]


def test_the_rooms_are_those_of_the_code() -> None:
    tree = code("pipeline/\n")
    rooms = re.findall(r"^  (\w+)/", tree, re.MULTILINE)
    assert sorted(rooms) == sorted(path.parent.name for path in (REPOSITORY / "pipeline").glob("*/__init__.py"))
    modules = re.findall(r"\b\w+\.py\b", tree)
    assert sorted(modules) == sorted(path.name for path in (REPOSITORY / "pipeline").glob("[!_]*.py"))

    for path in (REPOSITORY / "pipeline").glob("*/**/*.py"):
        room = path.relative_to(REPOSITORY / "pipeline").parts[0]
        assert not [name for name in imported(path) if rooms.index(name) > rooms.index(room)], path


def imported(path: Path) -> list[str]:
    """The rooms that a module imports, but for types alone."""
    module = ast.parse(path.read_text())
    for node in module.body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    froms = [node for node in ast.walk(module) if isinstance(node, ast.ImportFrom)]
    names = [f"{node.module}.{alias.name}" for node in froms for alias in node.names]
    return [name.split(".")[1] for name in names if name.startswith("pipeline.")]
