"""What two people have changed at the same time, merged by git as `.gitattributes` and `make drivers` say."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import REPOSITORY, Clone, Ran, commit, edit, follow, git_clone, picture, recipe, run, share

from pipeline.splitting.cuts import write_cuts

LOCK = "schema: '2.0'\nstages:\n  train@a:\n    cmd: x\n    outs:\n    - path: a\n      md5: 0\n"
PARAMS = """\
# All of it
seed: 1

datasets: {}

experiments:
  a:
    lr: 1  # found by hand
    epochs: 2
    batch_size: 3
    dataset: x
    seeds: 4

# The end
"""


def git(root: Path, *arguments: str) -> Ran:
    ran = run(["git", *arguments], root)
    assert ran.status == 0, ran.out + ran.err
    return ran


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git repository with the project's merge drivers, and nothing else of the project."""
    for name in ("Makefile", "requirements.lock", "pipeline", ".venv"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    shutil.copy(REPOSITORY / ".gitattributes", tmp_path)  # git follows no link to it
    git(tmp_path, "init", "-q", "-b", "main")
    assert run(["make", "drivers"], tmp_path).status == 0
    return tmp_path


def merge(root: Path, name: str, base: str | None, ours: str, theirs: str) -> tuple[Ran, str]:
    """What git says when it merges `theirs` into `ours`, and what it makes of them."""
    file = root / name

    def version(content: str | None) -> None:
        if content is not None:
            file.parent.mkdir(parents=True, exist_ok=True)  # which git removes with its last file
            file.write_text(content)
            git(root, "add", name)
        git(root, "commit", "-q", "--allow-empty", "-m", "One")

    version(base)
    git(root, "checkout", "-q", "-b", "theirs")
    version(theirs)
    git(root, "checkout", "-q", "main")
    version(ours)
    return run(["git", "merge", "--no-edit", "theirs"], root), file.read_text()


def test_two_who_add_and_change_experiments_train_nothing_again(
    digits: Clone, copy_of: Callable[[Clone], Clone], tmp_path: Path
) -> None:
    mine = copy_of(digits)
    share(mine, tmp_path / "team")
    theirs = git_clone(mine, tmp_path / "theirs")
    theirs.must_run("dvc", "pull")
    for clone, changed, epochs in ((mine, "digits-mlp", 40), (theirs, "digits-cnn", 20)):
        clone.must_run("make", "drivers")
        params = clone.root / "params.yaml"
        edit(params, f"epochs: {epochs}", "epochs: 1")
        described = "dataset: digits, network: {name: mlp}, optimizer: {name: sgd, lr: 0.1}, epochs: 1, batch_size: 64"
        params.write_text(f"{params.read_text()}\n  # the linear one\n  {clone.root.name}: {{{described}}}\n")
        clone.must_run("dvc", "repro", f"train@{changed}", f"train@{clone.root.name}")
        clone.must_run("dvc", "push")
        commit(clone)

    mine.must_run("git", "pull", "--no-rebase", "--no-edit", str(theirs.root), "main")
    assert (mine.root / "params.yaml").read_text().count("# the linear one") == 2
    mine.must_run("dvc", "pull", "--with-deps", "train@theirs", "train@digits-cnn")
    stages = ("train@digits-mlp", "train@digits-cnn", "train@copy", "train@theirs")
    assert "up to date" in mine.must_run("dvc", "status", *stages).out
    ran = mine.must_run("dvc", "repro", *stages)
    assert "Data and pipelines are up to date." in ran.out and "Running stage" not in ran.out
    assert mine.must_run("git", "status", "--porcelain").out == ""


def test_comments_and_lines_stay_as_they_were(repository: Path) -> None:
    mine = PARAMS.replace("  a:\n", "  # mine\n  m: {lr: 3}\n\n  a:\n").replace("lr: 1", "lr: 5")
    theirs = PARAMS.replace("  # found", "  # it was found").replace("4\n", "4\n\n  # theirs\n  t:\n    lr: 2\n")
    theirs = theirs.replace("  # it was found by hand", "  # found by hand").replace("{}", "{x: {}}")
    ran, merged = merge(repository, "params.yaml", PARAMS, mine, theirs)
    assert ran.status == 0, ran.out + ran.err
    assert merged == mine.replace("4\n", "4\n\n  # theirs\n  t:\n    lr: 2\n").replace("{}", "{x: {}}")


def test_the_same_experiment_is_merged_by_lines(repository: Path) -> None:
    end = "    seeds: 4\n"
    mine, theirs = PARAMS.replace("lr: 1", "lr: 5"), PARAMS.replace(end, "    seeds: 5\n")
    ran, merged = merge(
        repository, "params.yaml", PARAMS, mine.replace(end, f"{end}  m: {{}}\n"), theirs + "  # last\n"
    )
    assert ran.status == 0, ran.out + ran.err
    assert "lr: 5" in merged and "seeds: 5\n  m: {}\n" in merged


def test_what_is_only_written_in_another_form_has_not_changed(repository: Path) -> None:
    base = PARAMS.replace("    epochs", "    sizes: [1, 2]\n    epochs")
    mine = base.replace("sizes: [1, 2]", "sizes:\n    - 1\n    - 2").replace("seed: 1", "seed: 2")  # as DVC writes it
    theirs = base.replace("lr: 1", "lr: 5")
    ran, merged = merge(repository, "params.yaml", base, mine, theirs)
    assert ran.status == 0, ran.out + ran.err
    assert merged == theirs.replace("seed: 1", "seed: 2")


@pytest.mark.parametrize(
    ("base", "ours", "theirs", "word"),
    [
        (PARAMS, PARAMS.replace("lr: 1", "lr: 5"), PARAMS.replace("lr: 1", "lr: 6"), "experiments.a: changed on both"),
        (PARAMS, PARAMS + "x: 1\n", PARAMS + "x: 2\n", "x: changed on both"),
        ("y:\n  a: 1\nx:\n  a: 1\n", "y:\n  a: 1\n", "y:\n  a: 1\nx:\n  a: 1\n  b: 2\n", "its sections changed"),
        ("x: 1\n", "x: [\n", "x: 2\n", "not YAML"),
        ('{"x": 1}\n', '{"x": 2}\n', '{"x": 3}\n', "expected a line"),
    ],
)
def test_what_conflicts_is_left_to_git(repository: Path, base: str, ours: str, theirs: str, word: str) -> None:
    ran, merged = merge(repository, "params.yaml", base, ours, theirs)
    assert ran.status == 1 and "CONFLICT (content): Merge conflict in params.yaml" in ran.out
    assert f"error: params.yaml: {word}" in ran.err
    for side, text in (("base", base), ("ours", ours), ("theirs", theirs)):
        (repository / side).write_text(text)
    assert merged == run(["git", "merge-file", "-p", "ours", "base", "theirs"], repository).out


def test_a_file_that_is_damaged_on_one_side_is_left_to_git(repository: Path) -> None:
    ran, _ = merge(repository, "data/splits/photos.json", "{}\n", '{"a": {}}\n', '{"b": \n')
    assert ran.status == 1 and "CONFLICT (content): Merge conflict in data/splits/photos.json" in ran.out
    assert "error: data/splits/photos.json: not JSON: Expecting value" in ran.err and "Traceback" not in ran.err


def test_without_the_packages_git_merges_lines(repository: Path) -> None:
    (repository / ".venv").unlink()
    ran, merged = merge(repository, "params.yaml", "x: 1\n", "x: 2\n", "x: 3\n")
    assert ran.status == 1 and merged == "<<<<<<< ours\nx: 2\n=======\nx: 3\n>>>>>>> theirs\n"


def test_a_stage_that_both_ran_is_ours(repository: Path) -> None:
    mine, theirs = (LOCK.replace("md5: 0", f"md5: {side}") for side in (1, 2))
    ran, merged = merge(repository, "dvc.lock", LOCK, mine, f"{theirs}  train@t:\n    cmd: x\n")
    assert ran.status == 0, ran.out + ran.err
    assert merged == f"{mine}  train@t:\n    cmd: x\n"
    assert "dvc.lock: stages.train@a: changed on both sides; `dvc repro`" in ran.out


def test_two_who_add_classes(repository: Path, tmp_path: Path) -> None:
    cuts = {"b": {"seed 1": {"test 0.2": [0.2]}}}
    texts = []
    for more in ({}, {"a": {"seed 1": {"test 0.2": [0.3]}}}, {"c": {"seed 1": {"test 0.2": [0.4]}}}):
        write_cuts(tmp_path / "cuts.json", {**cuts, **more})
        texts.append((tmp_path / "cuts.json").read_text())
    base, ours, theirs = texts
    theirs = theirs.replace('{"seed 1": {"test 0.2": [0.2]}}', '{"seed 1": {"test 0.2": [0.2], "test 0.3": [0.3]}}')
    ran, merged = merge(repository, "data/splits/x.json", base, ours, theirs)
    assert ran.status == 0, ran.out + ran.err
    assert [line[:5] for line in merged.splitlines()] == ["{", '  "a"', '  "b"', '  "c"', "}"]
    assert json.loads(merged) == {**json.loads(theirs), **json.loads(ours), "b": json.loads(theirs)["b"]}


def test_a_class_that_both_cut_conflicts(repository: Path) -> None:
    texts = [f'{{\n  "b": {{"seed 1": {{"test 0.2": [{cut}]}}}}\n}}\n' for cut in (0.2, 0.3)]
    ran, merged = merge(repository, "data/splits/x.json", None, *texts)
    assert ran.status == 1 and "data/splits/x.json: b: seed 1: test 0.2: changed on both sides" in ran.err
    assert "<<<<<<< ours" in merged


@pytest.mark.parametrize("base", [None, "path,decision,label,note\n"])
def test_two_who_decide(repository: Path, base: str | None) -> None:
    start = "path,decision,label,note\n"
    ran, merged = merge(repository, "data/decisions/x.csv", base, f"{start}a,drop,,\n", f"{start}b,keep,,\n")
    assert ran.status == 0 and merged == f"{start}a,drop,,\nb,keep,,\n"


def test_two_who_add_a_class_to_one_folder(clone: Clone, tmp_path: Path) -> None:
    def add(clone: Clone, *labels: str) -> None:
        for label in labels:
            (clone.root / "data/raw/letters" / label).mkdir(parents=True)
            for number in range(6):
                picture(ord(label) * 10 + number).save(clone.root / f"data/raw/letters/{label}/{number}.png")
        clone.must_run("dvc", "add", "data/raw/letters")
        clone.must_run("dvc", "repro", "split@letters")
        clone.must_run("dvc", "push", "data/raw/letters")
        commit(clone)

    entry = "{source: data/raw/letters, check: {}, split: {}, pack: {size: 8}}"
    edit(clone.root / "params.yaml", "datasets:\n", f"datasets:\n  letters: {entry}\n")
    clone.must_run("make", "drivers")
    clone.must_run("dvc", "remote", "add", "--default", "team", str(tmp_path / "team"))
    add(clone, "b", "x")
    theirs = git_clone(clone, tmp_path / "theirs")
    theirs.must_run("dvc", "pull", "data/raw/letters")
    add(theirs, "c")
    add(clone, "a")

    clone.must_run("git", "remote", "add", "origin", str(theirs.root))
    *fetch, merge = recipe("git fetch\n").splitlines()
    follow(clone, "\n".join(fetch))
    assert clone.run(*merge.split()).status == 1  # nobody has counted the images of all four classes
    status = clone.must_run("git", "status", "--porcelain").out.splitlines()
    assert [line for line in status if "U" in line[:2] or line.startswith("AA")] == [
        "UU reports/letters/check.json",
        "UU reports/letters/split.json",
    ]
    clone.must_run("dvc", "pull", "data/raw/letters")
    repro, *rest = recipe(".venv/bin/dvc repro\ngit add", ("git commit", "git commit --no-edit")).splitlines()
    follow(clone, f"{repro} split@letters\n" + "\n".join(rest))
    assert sorted(path.name for path in (clone.root / "data/raw/letters").iterdir()) == ["a", "b", "c", "x"]
    assert json.loads((clone.root / "reports/letters/check.json").read_text())["files"] == 24
    assert sorted(json.loads((clone.root / "data/splits/letters.json").read_text())) == ["a", "b", "c", "x"]
    assert "up to date" in clone.must_run("dvc", "status", "split@letters", "check@letters").out
