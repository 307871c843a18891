"""Published results are verified in a fresh clone, and what differs is found."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import (
    ENVIRONMENT,
    REPOSITORY,
    Clone,
    Project,
    Ran,
    commit,
    edit,
    failed_in_one_line,
    processes,
    wait_until,
)
from ruamel.yaml import YAML

from pipeline.system.portable import has_avx2

CopyOf = Callable[[Clone], Clone]
MLP = "digits-mlp"

# stages that do next to nothing; the environment plays the machine on which they run
STAGES = """
stages:
  train:
    foreach: ${experiments}
    do:
      cmd: (cat data/raw/photos.txt; echo "$WEIGHTS") > models/${key}
      deps: [data/raw/photos.txt]
      params: [seed]
      outs:
        - models/${key}
  evaluate:
    foreach: ${experiments}
    do:
      cmd: sh evaluate.sh reports/${key}
      deps:
        - models/${key}
        - evaluate.sh
      plots:
        - reports/${key}/metrics.json: {cache: false}
        - reports/${key}/provenance.json: {cache: false}
"""
EVALUATE = """
test -z "$SLOW" || { touch started; sleep 60; }
test -z "$BROKEN" || exit 3
counts='"parameters": 7, "trainable_parameters": 7'
echo '{"val": {"loss": '${LOSS:-0.5}'}, "test": {"loss": 0.25}, '$counts'}' > $1/metrics.json
echo '{"libraries": {"torch": "'${TORCH:-2}'"}, "requirements.lock": "'${LOCK:-1}'"}' > $1/provenance.json
"""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A project with results in git and DVC: of the experiments `any` and, a portable one, `same`."""
    project = Project(tmp_path_factory.mktemp("published") / "a project")
    project.dataset("photos", "data/raw/photos.txt")
    project.experiment("any", "photos")
    project.experiment("same", "photos", compute={"portable": True})
    for folder in ("data/raw", "models", "reports/any", "reports/same"):
        (project.root / folder).mkdir(parents=True)
    project.command("train")
    (project.root / "dvc.yaml").write_text(STAGES)
    (project.root / "evaluate.sh").write_text(EVALUATE)
    (project.root / "data/raw/photos.txt").write_text("photos\n")
    for folder in ("models", "reports/any", "reports/same"):
        (project.root / folder / ".gitkeep").touch()
    clone = Clone(project.root)
    clone.must_run("git", "init", "-q", "-b", "main")
    clone.must_run("dvc", "init", "-q")
    shutil.copy(REPOSITORY / ".dvc/config", project.root / ".dvc")
    clone.must_run("dvc", "config", "core.autostage", "true")
    clone.must_run("dvc", "add", "-q", "data/raw/photos.txt")
    clone.must_run("dvc", "repro", "-q")
    clone.must_run("git", "add", "-A")
    clone.must_run("git", "commit", "-qm", "Publish results")
    return clone


Verify = Callable[..., Ran]


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """A folder for temporary files."""
    (tmp_path / "of ours").mkdir()
    return tmp_path / "of ours"


@pytest.fixture
def verify(temporary: Path) -> Verify:
    """Verify in a clone. Whatever comes of it, nothing is left behind and nothing is changed."""

    def verified(clone: Clone, *arguments: str, **environment: str) -> Ran:
        before = clone.run("git", "status", "--porcelain").out
        variables = {"PYTHONPATH": str(REPOSITORY), "TMPDIR": str(temporary), **environment}
        ran = clone.run("python", "-m", "pipeline.verify", *arguments, **variables)
        assert not list(temporary.iterdir())
        assert clone.run("git", "status", "--porcelain").out == before
        return ran

    return verified


def table(ran: Ran, head: str) -> dict[str, str]:
    """The rows of the table whose first column has this head: their first and their last column."""
    lines = ran.out.splitlines()
    start = next(number for number, line in enumerate(lines) if line.split()[:1] == [head])
    rows = [line.split(maxsplit=2 if head == "stage" else 1) for line in lines[start + 1 :]]
    return {row[0]: row[-1] for row in rows[: rows.index([]) if [] in rows else None]}


def test_digits_are_the_same_bytes(digits: Clone, copy_of: CopyOf, verify: Verify) -> None:
    copy = copy_of(digits)
    copy.must_run("git", "add", "-A")
    copy.must_run("git", "commit", "-q", "--allow-empty", "-m", "Results")
    database = copy.root / "other.db"
    ran = verify(copy, MLP, MLFLOW_TRACKING_URI=f"sqlite:///{database}", HTTPS_PROXY="http://127.0.0.1:9")
    assert ran.status == 0, ran.out + ran.err
    assert not database.exists()
    of_data = [f"{stage}@digits" for stage in ("download", "check", "decisions", "split", "pack")]
    of_experiment = [f"{stage}@{MLP}" for stage in ("weights", "train", "evaluate")]
    assert table(ran, "stage") == dict.fromkeys([*of_data, *of_experiment], "the same bytes")
    assert all(f"Running stage '{stage}'" in ran.out for stage in of_data + of_experiment)
    assert table(ran, "experiment") == {MLP: "the same bytes"}


def test_provenance_tells_what_a_model_was_made_of(digits: Clone) -> None:
    told = json.loads((digits.root / f"reports/{MLP}/provenance.json").read_text())

    def sha256(path: str) -> str:
        return hashlib.sha256((digits.root / path).read_bytes()).hexdigest()

    files = {name: f"data/packed/digits/{file}" for name, file in (("meta", "meta.json"), ("index", "index.parquet"))}
    pixels = json.loads((digits.root / files["meta"]).read_text())["sha256"]
    hashes = {name: sha256(path) for name, path in {**files, "splits": "data/splits/digits.parquet"}.items()}
    assert told["data"] == {"pixels": pixels, **hashes, "weights": None}
    assert told["model"] == {name: sha256(f"models/{MLP}/{name}") for name in ("model.json", "model.safetensors")}
    assert told["requirements.lock"] == sha256("requirements.lock")
    assert sorted(told["libraries"]) == ["numpy", "torch"]
    locked = YAML(typ="safe").load(digits.root / "dvc.lock")["stages"][f"train@{MLP}"]
    assert sorted(told["code"]) == [dep["path"] for dep in locked["deps"] if dep["path"].startswith("pipeline/")]
    assert told["code"]["pipeline/networks/mlp.py"] == sha256("pipeline/networks/mlp.py")
    given = locked["params"]["params.yaml"]
    assert told["seed"] == given["seed"] and told["params"].items() >= {("epochs", 40), ("batch_size", 64)}


def test_results_that_are_the_same(published: Clone, copy_of: CopyOf, verify: Verify) -> None:
    copy = copy_of(published)
    edit(copy.root / "params.yaml", '"seed": 1', '"seed": 2')  # not committed
    ran = verify(copy)
    assert ran.status == 0, ran.out + ran.err
    stages = ["train@any", "evaluate@any", "train@same", "evaluate@same"]
    assert table(ran, "stage") == dict.fromkeys(stages, "the same bytes")
    assert table(ran, "experiment") == {"any": "the same bytes", "same": "the same bytes"}
    notes = [line for line in ran.out.splitlines() if line.startswith("note")]
    assert notes == ["note: there are changes that are not committed, and not verified"]


def test_metrics_may_differ_a_little_but_for_those_of_portable_experiments(published: Clone, verify: Verify) -> None:
    ran = verify(published, LOSS="0.504", TORCH="3")
    assert ran.status == int(has_avx2()), ran.out + ran.err
    others = {stage: told for stage, told in table(ran, "stage").items() if told != "the same bytes"}
    assert others == {f"evaluate@{name}": f"other bytes: reports/{name}/metrics.json" for name in ("any", "same")}
    little = "within 0.01 of the published metrics; val loss is off by 0.004"
    portable = "differs: it is portable, so the bytes have to be the same; val loss is off by 0.004"
    assert table(ran, "experiment") == {"any": little, "same": portable if has_avx2() else little}
    assert "note: any was published with torch 2; here it was trained with torch 3" in ran.out.splitlines()


def test_other_weights_with_the_same_metrics(published: Clone, verify: Verify) -> None:
    ran = verify(published, "a*", "--tolerance", "0", WEIGHTS="others", LOCK="2")
    assert ran.status == 0, ran.out + ran.err
    assert table(ran, "stage") == {"train@any": "other bytes: models/any", "evaluate@any": "the same bytes"}
    assert table(ran, "experiment") == {"any": "within 0.0 of the published metrics; val loss is off by 0"}
    other = "note: any was published with another requirements.lock; other packages may give other bytes"
    assert other in ran.out.splitlines()


def test_what_git_holds_was_tampered_with(published: Clone, copy_of: CopyOf, verify: Verify) -> None:
    copy = copy_of(published)
    for name, wrong in (("any", '"loss": 0.6'), ("same", '"loss": 0.5, "accuracy": 0.9')):
        metrics = copy.root / f"reports/{name}/metrics.json"
        metrics.chmod(0o644)
        edit(metrics, '"loss": 0.5', wrong)
    edit(copy.root / "evaluate.sh", "sleep 60", "sleep 61")
    edit(copy.root / "params.yaml", '"seed": 1', '"seed": 2')
    copy.must_run("git", "commit", "-qam", "Tamper")
    ran = verify(copy)
    assert ran.status == 1, ran.out + ran.err
    others = {stage: told for stage, told in table(ran, "stage").items() if told != "the same bytes"}
    assert others == {f"evaluate@{name}": f"other bytes: reports/{name}/metrics.json" for name in ("any", "same")}
    wrong = "differs: the published metrics.json has other entries"
    assert table(ran, "experiment") == {"any": "differs: val loss is off by 0.1, more than 0.01", "same": wrong}
    stale = "note: dvc.lock was not made of this commit's evaluate.sh, params.yaml: run dvc repro and commit"
    assert stale in ran.out.splitlines()


def test_mistakes_are_told_in_one_line(published: Clone, copy_of: CopyOf, verify: Verify, tmp_path: Path) -> None:
    failed_in_one_line(verify(published, "sane"), "no results of 'sane'", "did you mean 'same'?", "any, same")
    failed_in_one_line(verify(published, "any", BROKEN="yes"), "a stage failed in the fresh clone")
    copy = copy_of(published)
    shutil.rmtree(copy.root / ".dvc/cache")
    missing = "DVC's cache does not have data/raw/photos.txt: run dvc pull data/raw/photos.txt.dvc"
    failed_in_one_line(verify(copy, "any"), missing)
    for file, told in (("reports/any/metrics.json", "no reports/any/metrics.json"), ("dvc.lock", "no dvc.lock")):
        copy.must_run("git", "rm", "-q", file)
        copy.must_run("git", "commit", "-qm", "Remove")
        failed_in_one_line(verify(copy, "any"), f"the last commit has {told}")
    lock = (published.root / "dvc.lock").read_text()
    middle = lock.index("  evaluate@same:")
    conflict = f"{lock[:middle]}<<<<<<< HEAD\n=======\n{lock[middle:]}>>>>>>> theirs\n"
    for broken in (lock[: middle + len("  evaluate@same:")], conflict):
        (copy.root / "dvc.lock").write_text(broken)
        commit(copy)
        failed_in_one_line(verify(copy, "any"), "the dvc.lock of the last commit is cut off, or holds a conflict")
    (tmp_path / "nowhere").mkdir()
    failed_in_one_line(
        verify(Clone(tmp_path / "nowhere")), "nowhere has no commit that can be cloned", "not a git repository"
    )


@pytest.mark.skipif(not Path("/proc").exists(), reason="only /proc tells where a process works")
@pytest.mark.parametrize(("number", "word"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")])
def test_nothing_is_left_when_it_is_interrupted(
    published: Clone, temporary: Path, number: signal.Signals, word: str
) -> None:
    variables = {**ENVIRONMENT, "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(temporary), "SLOW": "yes"}
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.verify", "any"], cwd=published.root, env=variables,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_until(lambda: list(temporary.glob("verify-*/clone/started")))
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number and "Traceback" not in err
    assert err.splitlines()[-1].startswith(word)
    assert not list(temporary.iterdir()) and not processes(temporary)
