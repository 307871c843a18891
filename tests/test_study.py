"""Published studies: what adding one to params.yaml changes, and what it leaves alone."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable

from conftest import REPOSITORY, Clone, Project, failed_in_one_line
from dvc.utils.serialize import load_yaml, modify_yaml


def test_a_study_is_added_with_its_data_set(project: Project) -> None:
    file = project.root / "params.yaml"
    shutil.copy(REPOSITORY / "params.yaml", file)
    before = file.read_text()
    command = project.command("study")[1:]
    file.write_text(before)
    studies = Clone(project.root)
    listed = studies.must_run("python", *command, PYTHONPATH=str(REPOSITORY))
    assert "mnist: mnist-mlp, mnist-gd, mnist-cnn" in listed.out.splitlines() and file.read_text() == before

    ran = studies.must_run("python", *command, "mnist-*", "cats-dogs-cnn", PYTHONPATH=str(REPOSITORY))
    added = ["mnist-mlp", "mnist-gd", "mnist-cnn", "cats-dogs-cnn"]
    assert ran.out.splitlines()[-1] == f"run: dvc repro {' '.join(f'evaluate@{name}' for name in added)}"
    params = load_yaml(str(file))
    assert list(params["experiments"])[2:] == added
    assert list(params["datasets"]) == list(params["downloads"]) == ["digits", "mnist", "cats-dogs"]
    after = file.read_text()
    assert set(before.splitlines()) <= set(after.splitlines())
    above = re.compile(r"^((?:#.*\n)+)(\w+):", re.MULTILINE)  # the comments above each section
    assert above.findall(after) == above.findall(before)
    with modify_yaml(str(file)):
        pass
    assert file.read_text() == after  # DVC writes it the same

    ran = studies.must_run("python", *command, "mnist-mlp", PYTHONPATH=str(REPOSITORY))
    assert "params.yaml has them already" in ran.out and file.read_text() == after
    failed = studies.run("python", *command, "mnist-mpl", PYTHONPATH=str(REPOSITORY))
    failed_in_one_line(failed, "no study 'mnist-mpl'", "did you mean 'mnist-mlp'?")
    assert file.read_text() == after


def test_an_entry_of_ones_own_stays(project: Project) -> None:
    project.dataset("mnist", "data/raw/other", 14)
    project.must_run("study", "mnist-mlp")
    params = load_yaml(str(project.root / "params.yaml"))
    assert params["datasets"]["mnist"] == project.params["datasets"]["mnist"]
    assert params["experiments"]["mnist-mlp"]["epochs"] == 10


def test_dvc_writes_params_as_they_are(project: Project) -> None:
    file = project.root / "params.yaml"
    shutil.copy(REPOSITORY / "params.yaml", file)
    with modify_yaml(str(file)) as params:  # what `dvc exp run -S` does
        params["experiments"]["digits-mlp"]["optimizer"]["lr"] = 0.01
    old, new = (path.read_text().splitlines() for path in (REPOSITORY / "params.yaml", file))
    assert [pair for pair in zip(old, new, strict=True) if pair[0] != pair[1]] == [
        ("    optimizer: {name: adam, lr: 0.002}", "    optimizer: {name: adam, lr: 0.01}")
    ]


def test_a_study_that_never_ran_leaves_the_rest_alone(digits: Clone, copy_of: Callable[[Clone], Clone]) -> None:
    copy = copy_of(digits)
    copy.must_run("python", "-m", "pipeline.study", "mnist-mlp")
    status = json.loads(copy.must_run("dvc", "status", "--json").out)
    assert {stage.partition("@")[2] for stage in status} == {"mnist", "mnist-mlp"}
    model, plots = copy.root / "models/digits-mlp", copy.root / "dvc_plots/index.html"
    shutil.rmtree(model)
    copy.must_run("dvc", "remote", "add", "-q", "--default", "there", str(copy.root / "there"))
    for quiet in ("checkout -q --allow-missing", "pull -q --allow-missing", "exp show --csv", "params diff"):
        assert copy.must_run("dvc", *quiet.split()).err == ""
    assert model.is_dir()
    shown = copy.must_run("dvc", "metrics", "show")
    assert "reports/digits-mlp/summary.json" in shown.out and len(shown.err.splitlines()) == 1
    assert len(copy.must_run("dvc", "plots", "show").err.splitlines()) == 1 and "digits-mlp" in plots.read_text()
    # without --allow-missing, DVC names each output of a stage that never ran and fails, but brings the rest
    shutil.rmtree(model)
    ran = copy.run("dvc", "checkout")
    assert model.is_dir() and all("mnist" in line for line in ran.err.splitlines() if line.startswith("WARNING"))
