"""What .github/workflows/ci.yml does for a pull request: its scripts run here, `gh` writes down what it is told."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import REPOSITORY, Clone, commit, edit, git_clone, share
from ruamel.yaml import YAML


@pytest.mark.usefixtures("untracked")
def test_a_pull_request_gets_its_results_as_a_comment(
    digits: Clone, copy_of: Callable[[Clone], Clone], tmp_path: Path
) -> None:
    base = copy_of(digits)
    share(base, tmp_path / "team")
    change = git_clone(base, tmp_path / "change")
    edit(change.root / "params.yaml", "epochs: 40", "epochs: 1")
    commit(change)

    gh = tmp_path / "bin/gh"
    gh.parent.mkdir()
    gh.write_text(f'#!/bin/sh\necho "$@" > "{tmp_path}/told"\n')
    gh.chmod(0o755)
    environment = {
        "PATH": f"{gh.parent}:{os.environ['PATH']}",
        "BASE": base.must_run("git", "rev-parse", "HEAD").out.strip(),
        "NUMBER": "7",
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary"),
    }
    steps = YAML(typ="safe").load(REPOSITORY / ".github/workflows/ci.yml")["jobs"]["results"]["steps"]
    scripts = {step["name"]: step["run"] for step in steps if "name" in step}
    ran = [change.must_run("bash", "-e", "-c", script, **environment).out for script in scripts.values()]
    assert list(scripts) == ["Run digits", "Compare with the base", "Comment"]
    assert "Running stage 'train@digits-mlp'" in ran[0] and "Running stage 'train@digits-cnn'" not in ran[0]
    assert not (change.root / "models/digits-cnn").exists()

    comment = (tmp_path / "summary").read_text()
    assert comment == (change.root / "results.md").read_text()
    assert comment.index("digits-mlp.val.accuracy") < comment.index("digits-mlp_test.accuracy")
    assert "experiments.digits-mlp.epochs" in comment and "digits-cnn" not in comment
    assert (tmp_path / "told").read_text().split() == [
        "pr", "comment", "7", "--body-file", "results.md", "--edit-last", "--create-if-none",
    ]  # fmt: skip
