"""Portable results are the same bytes wherever they are computed, and those that are published."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import VIEWS, Clone, copy_clone, edit

MLP, CNN = "digits-mlp", "digits-cnn"

# what another processor, another maker's choice of code or a person's shell may bring
ELSEWHERE = {
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "AUTO",
    "OMP_NUM_THREADS": "3",
    "OPENBLAS_NUM_THREADS": "2",
    "TZ": "Asia/Tokyo",
    "LC_ALL": "C",
    "PYTHONUTF8": "0",
    "PYTHONCOERCECLOCALE": "0",  # text is ASCII, if nobody says otherwise
}


@pytest.fixture
def elsewhere(digits: Clone, tmp_path: Path) -> Clone:
    """A folder of another name with what training and evaluation of digits need."""
    return copy_clone(digits, tmp_path / "else where", "mlflow.db*", "mlartifacts")


def hashes(clone: Clone, *patterns: str) -> dict[str, str]:
    files = [file for pattern in patterns for file in clone.root.glob(pattern)]
    found = {str(file.relative_to(clone.root)): hashlib.md5(file.read_bytes()).hexdigest() for file in sorted(files)}
    return {path: md5 for path, md5 in found.items() if not VIEWS.fullmatch(path)}


def test_the_published_results_come_out_again(digits: Clone) -> None:
    """What git holds was computed on another machine. Of digits-cnn, the first of its seeds is compared."""
    published = ["reports/digits", "reports/digits-mlp", "reports/digits-cnn/history.csv", "data/splits"]
    changed = digits.must_run("git", "diff", "--stat", "HEAD~1", "--", *published).out
    assert not changed
    locked = digits.must_run("git", "diff", "-U0", "HEAD~1", "--", "dvc.lock").out.splitlines()
    assert not [line for line in locked if MLP in line or "data/" in line]


def test_portable_training_depends_on_nothing_around_it(digits: Clone, elsewhere: Clone) -> None:
    outputs = ("models/*/*.safetensors", "reports/*/history.csv", f"reports/{CNN}/*")
    expected = hashes(digits, *outputs)
    assert len(expected) == 22
    for file in expected:
        (elsewhere.root / file).unlink()
    for stage, name in (("train", MLP), ("train", CNN), ("evaluate", CNN)):
        elsewhere.must_run("taskset", "-c", "0", ".venv/bin/python", "-m", f"pipeline.{stage}", name, **ELSEWHERE)
    assert hashes(elsewhere, *outputs) == expected


def test_portable_training_computes_the_same_as_any_other(digits: Clone, elsewhere: Clone) -> None:
    edit(elsewhere.root / "params.yaml", "portable: true", "portable: false")
    elsewhere.must_run("python", "-m", "pipeline.train", MLP)
    file = "reports/digits-mlp/history.csv"
    portable, plain = (list(csv.DictReader((clone.root / file).open())) for clone in (digits, elsewhere))
    assert float(plain[0]["train_loss"]) == pytest.approx(float(portable[0]["train_loss"]), rel=1e-4)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ("compute: {portable: true, device: cuda}", "portable = true with device = 'cuda'; expected auto or cpu"),
        ("compute: {portable: true}\n    precision: bf16", "compute.portable = true with precision = 'bf16'"),
        ("compute: {portable: true}\n    compile: true", "compute.portable = true with compile = true"),
    ],
)
def test_what_is_not_portable(copy_of: Callable[[Clone], Clone], digits: Clone, changed: str, told: str) -> None:
    clone = copy_of(digits)
    edit(clone.root / "params.yaml", "compute: {portable: true}", changed)
    ran = clone.run("python", "-m", "pipeline.train", MLP)
    assert ran.status == 1
    assert len(ran.err.splitlines()) == 1
    assert told in ran.err
