"""Two clones and a place that both reach: what one has made, the other gets without running anything."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from configparser import ConfigParser
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import pytest
import requests
from conftest import ENVIRONMENT, REPOSITORY, VIEWS, Clone, class_folders, commit, edit, git_clone, share, wait_until
from servers import free_port


def bytes_of(clone: Clone, *folders: str) -> dict[str, bytes]:
    files = (path for folder in folders for path in (clone.root / folder).rglob("*") if path.is_file())
    found = {path.relative_to(clone.root).as_posix(): path.read_bytes() for path in files}
    return {path: content for path, content in found.items() if not VIEWS.fullmatch(path)}


def runs_in(uri: str) -> dict[str, list[str]]:
    """The artifacts of each run in an MLflow database or server, by the run's name; one run a name."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    found = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    names = [one.info.run_name for one in found]
    assert len(names) == len(set(names))
    assert {one.info.status for one in found} == {"FINISHED"}
    return {one.info.run_name: [file.path for file in client.list_artifacts(one.info.run_id)] for one in found}


@contextmanager
def make_ui(clone: Clone) -> Iterator[tuple[str, str]]:
    """The address of a server that `make ui` has started, and what it has printed until it answers."""
    port, printed = free_port(), clone.root.with_name("ui.log")
    with printed.open("w") as log:
        ui = subprocess.Popen(
            ["make", "--no-print-directory", "ui", f"PORT={port}"],
            cwd=clone.root, env=ENVIRONMENT, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip

    def answers() -> bool:
        assert ui.poll() is None, printed.read_text()
        with suppress(requests.ConnectionError):
            return requests.get(f"http://127.0.0.1:{port}/health", timeout=60).ok
        return False

    try:
        wait_until(answers, 120)
        yield f"http://127.0.0.1:{port}", printed.read_text()
    finally:
        os.killpg(ui.pid, signal.SIGTERM)
        ui.wait()


def test_the_cache_links_and_no_remote_is_set() -> None:
    config = ConfigParser()
    config.read(REPOSITORY / ".dvc/config")
    assert config["cache"]["type"].strip('"') == "reflink,hardlink,symlink,copy"
    assert not [section for section in config.sections() if "remote" in section]
    assert "remote" not in config["core"]


def test_a_colleague_gets_everything_without_running_it(
    digits: Clone, copy_of: Callable[[Clone], Clone], tables: Path, tmp_path: Path
) -> None:
    mine = copy_of(digits)
    share(mine, tmp_path / "team")
    theirs = git_clone(mine, tmp_path / "theirs")
    shutil.copy(tables, theirs.root / "mlflow.db")

    # what git has is enough to log: the rest is named, not needed
    theirs.must_run("python", "-m", "pipeline.track")
    database = f"sqlite:///{theirs.root}/mlflow.db"
    from_git = runs_in(database)
    assert sorted(from_git) == ["digits-cnn", "digits-mlp"]
    assert "metrics.json" in from_git["digits-mlp"] and "samples.png" not in from_git["digits-mlp"]

    theirs.must_run("dvc", "pull")
    made = ("data", "models", "reports")
    assert len(bytes_of(mine, *made)) > 20
    assert bytes_of(theirs, *made) == bytes_of(mine, *made)
    ran = theirs.must_run("make", "repro")
    assert "Data and pipelines are up to date." in ran.out and "Running stage" not in ran.out
    assert "open reports/index.html in a browser" in ran.out
    mine.must_run("python", "-m", "pipeline.index")
    trained_in = re.compile(r'<td data-value="[\d.]*">(–|[\w. ]+<span class="below">.*</span>)</td>')
    pages = [trained_in.sub("", (clone.root / "reports/index.html").read_text()) for clone in (mine, theirs)]
    assert pages[0] == pages[1] and "digits-cnn" in pages[0]
    spreads = []
    for place in ("HEAD~1", "-"):  # to the results of more seeds, and back
        theirs.must_run("git", "checkout", "-q", place)
        theirs.run("dvc", "checkout")  # the other ones' predictions are nowhere
        theirs.must_run("make", "page")
        page = (theirs.root / "reports/index.html").read_text()
        said = theirs.must_run("git", "log", "-1", "--format=those of %h, “%s”").out.strip()
        spread = json.loads((theirs.root / "reports/digits-cnn/metrics.json").read_text())["test"]["accuracy_sd"]
        assert f"{said}." in page and f"± {spread:.4f}" in page
        spreads.append(spread)
    assert spreads[0] != spreads[1] and trained_in.sub("", page) == pages[1]
    assert theirs.must_run("git", "status", "--porcelain").out == ""

    with make_ui(theirs) as (server, printed):
        assert "digits-cnn, digits-mlp" in printed  # what was pulled
        assert f"digits: {server}/#/experiments/1/runs?" in printed
        pulled = runs_in(server)
    assert pulled == runs_in(database)
    for name, files in from_git.items():
        assert {*files, "samples.png", "predictions.parquet"} <= {*pulled[name]}
    assert "has every result already" in theirs.must_run("python", "-m", "pipeline.track").out
    another = f"sqlite:///{shutil.copy(tables, theirs.root / 'another.db')}"
    secret = uuid4().hex
    theirs.must_run("git", "remote", "set-url", "origin", f"https://me:{secret}@host/x")
    theirs.must_run("python", "-m", "pipeline.track", MLFLOW_TRACKING_URI=another, AWS_SECRET_ACCESS_KEY=secret)
    pulled = runs_in(another)
    assert sorted(pulled) == sorted(from_git) and "samples.png" in pulled["digits-mlp"]
    holding = [name for name, content in bytes_of(theirs, ".").items() if secret.encode() in content]
    assert holding == [".git/config"]


def test_a_users_own_archive_is_dvcs(clone: Clone, tmp_path: Path) -> None:
    pictures = class_folders(tmp_path / "photos", {"cat": 8, "dog": 8})
    photos = clone.root / "data/raw/photos.zip"
    photos.parent.mkdir()
    archive = Path(shutil.make_archive(str(photos.with_suffix("")), "zip", pictures)).read_bytes()
    with (clone.root / "params.yaml").open("a") as params:
        params.write("  photos-mlp: {dataset: photos, network: {name: mlp}, optimizer: {name: sgd, lr: 0.1},")
        params.write(" epochs: 1, batch_size: 4}\n")
    entry = "  photos: {source: data/raw/photos.zip, check: {}, split: {}, pack: {size: 8}}\n"
    edit(clone.root / "params.yaml", "datasets:\n", f"datasets:\n{entry}")
    clone.must_run("dvc", "add", "data/raw/photos.zip")
    assert "data/raw/photos.zip.dvc" in clone.must_run("git", "status", "--porcelain", "-uall").out
    clone.must_run("dvc", "remote", "add", "--default", "team", str(tmp_path / "team"))
    commit(clone)

    assert "1 file pushed" in clone.must_run("dvc", "push").out
    clone.run("dvc", "checkout")  # fails for digits, which has not run here
    assert photos.read_bytes() == archive
    clone.must_run("dvc", "gc", "--workspace", "--force")
    photos.unlink()
    clone.must_run("dvc", "checkout", "data/raw/photos.zip")
    assert photos.read_bytes() == archive

    theirs = git_clone(clone, tmp_path / "theirs")
    theirs.run("dvc", "pull")  # as well
    assert (theirs.root / "data/raw/photos.zip").read_bytes() == archive

    # in a copy of the project, which gets the archive by DVC
    clone.must_run("dvc", "exp", "run", "--queue", "-S", "datasets.photos.pack.size=4", "check@photos")
    path = f"{clone.root}/.venv/bin:{os.environ['PATH']}"  # the worker calls `dvc`
    clone.must_run("dvc", "queue", "start", PATH=path)
    try:
        wait_until(lambda: "Success" in clone.must_run("dvc", "queue", "status").out, pause=1)
    finally:
        clone.run("dvc", "queue", "stop", "--kill")


@pytest.mark.parametrize("name", ["x;touch PWN", "$(touch PWN)", "x'; touch PWN; '", "x\ntouch PWN\n"])
def test_no_name_reaches_a_shell(clone: Clone, name: str) -> None:
    key = json.dumps(name)
    entry = "{source: data/raw, check: {}, split: {}, pack: {size: 8}}"
    edit(clone.root / "params.yaml", "datasets:\n", f"datasets:\n  {key}: {entry}\n")
    (clone.root / "data/raw").mkdir()
    ran = clone.run("dvc", "repro", f"check@{name}")
    assert ran.status and not (clone.root / "PWN").exists()
    assert "a name is letters, digits" in ran.err
