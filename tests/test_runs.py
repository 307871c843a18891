"""What a run in MLflow shows of a result: times, metrics, tags, description, files and images."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import IS_LINUX, wait_until
from conftest import run as run_command
from PIL import Image
from test_tracking import Results, client_of, database, epochs_in, runs_of, shown

START = 1_700_000_000.5


class Trained(Results):
    """Results that were trained in this folder, with figures."""

    def add(self, name: str, *arguments: Any, seconds: float = 90.0, **options: Any) -> None:
        super().add(name, *arguments, **options)
        folder = self.root / "reports" / name
        (folder / "provenance.json").write_text(json.dumps({"fingerprint": f"print-of-{name}"}))
        for key in ("train_batch", "confusion_matrix", "samples"):
            Image.new("RGB", (40, 30), (len(name) * 40, 0, 0)).save(folder / f"{key}.png")
        (folder / "galleries").mkdir(exist_ok=True)
        (folder / "galleries/worst.csv").write_text("path\n")
        times = {"start": START, "train_seconds": seconds, "device": "NVIDIA H200", "threads": 1, "devices": 1}
        (self.root / ".train_times").mkdir(exist_ok=True)
        file = self.root / f".train_times/print-of-{name}.json"
        file.write_text(json.dumps({**times, "epochs": [20.0, 40.0, 60.0]}))

    def git(self, *command: str) -> str:
        ran = run_command(["git", *command], self.root)
        assert ran.status == 0, ran.err
        return ran.out.strip()

    def commit(self) -> None:
        (self.root / ".gitignore").write_text("mlflow.db*\nmlartifacts\n.origins\n.train_times\n")
        self.git("init", "-q")
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "Start", "--author", "Maria <maria@example.com>")


@pytest.fixture
def made(tmp_path: Path, tables: Path) -> Trained:
    shutil.copy(tables, tmp_path / "mlflow.db")
    return Trained(tmp_path)


@pytest.fixture
def anew(made: Trained, tables: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, Any]]:
    """Track again into an empty database, and return what MLflow shows then."""

    def tracked() -> dict[str, Any]:
        other = made.root / "anew"
        other.mkdir()
        shutil.copy(tables, other / "mlflow.db")
        with monkeypatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_URI", database(other))
            assert made.log().status == 0
        return shown(database(other))

    return tracked


def test_a_run_has_the_times_of_its_training(made: Trained) -> None:
    made.add("a", val={"accuracy": 0.875, "loss": 0.25, "macro_f1": 0.5})
    assert made.log().status == 0
    run = shown(database(made.root))["a"]
    start = 1_700_000_000_500
    assert run["times"] == (start, start + 90_000)
    assert run["metrics"]["train_seconds"] == [(0, 90.0, start + 90_000)]
    assert [(step, moment - start) for step, _, moment in run["metrics"]["train_loss"]] == [
        (1, 20_000),
        (2, 40_000),
        (3, 60_000),
    ]
    assert run["metrics"]["val_accuracy"][-1] == (4, 0.875, start + 90_000)
    assert run["tags"]["device"] == "NVIDIA H200" and "cores" in run["tags"]["host"]


def test_a_run_says_who_made_it_and_how_to_repeat_it(made: Trained) -> None:
    made.add("a")
    made.commit()
    (made.root / "params.yaml").write_text("edited")  # which has no entry in git
    made.add("a", val={"accuracy": 0.6})
    assert made.log().status == 0
    tags = shown(database(made.root))["a"]["tags"]
    commit = made.git("rev-parse", "HEAD")
    assert (tags["mlflow.user"], tags["mlflow.source.name"]) == (getpass.getuser(), "dvc.yaml")
    assert (tags["mlflow.source.git.commit"], tags["git.dirty"]) == (commit, "true")
    assert tags["dvc.stage"] == "evaluate@a"
    note = tags["mlflow.note.content"].splitlines()
    assert note[:4] == [
        "```",
        f"git checkout {commit[:10]}  # and changes that were not committed",
        "dvc repro evaluate@a",
        "```",
    ]
    assert note[5:7] == ["| | val | test |", "| --- | ---: | ---: |"]
    assert "| accuracy | 0.6000 | 0.5000 |" in note
    assert os.uname().nodename not in json.dumps(tags) and str(made.root) not in json.dumps(tags)


def test_a_dvc_experiment_is_named(made: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    made.add("a")
    monkeypatch.setenv("DVC_EXP_NAME", "wider-net")
    assert made.log().status == 0
    tags = shown(database(made.root))["a"]["tags"]
    assert tags["dvc.exp_name"] == "wider-net"
    assert tags["mlflow.note.content"].splitlines()[1:3] == ["dvc exp apply wider-net", "dvc repro evaluate@a"]


def test_a_result_that_was_pulled_is_of_the_one_who_committed_it(made: Trained) -> None:
    made.add("a")
    made.commit()
    for file in (made.root / ".train_times").iterdir():
        file.unlink()
    assert made.log().status == 0
    run = shown(database(made.root))["a"]
    moment = 1000 * int(made.git("log", "-1", "--format=%ct"))
    assert run["times"] == (moment, None) and run["status"] == "FINISHED"  # nobody here knows how long it took
    assert run["tags"]["mlflow.user"] == "Maria"
    assert run["tags"]["mlflow.source.git.commit"] == made.git("rev-parse", "HEAD")
    assert {"host", "device"}.isdisjoint(run["tags"]) and "train_seconds" not in run["metrics"]
    assert [step for step, *_ in run["metrics"]["val_loss"]] == [1, 2, 3]


def test_only_few_metrics_are_shown(made: Trained) -> None:
    split = {"accuracy": 0.9, "loss": 0.3, "macro_f1": 0.8, "accuracy_low": 0.8, "auc": 0.7}
    made.add("a", val=split)  # as long as people look at them all
    assert made.log().status == 0
    run = shown(database(made.root))["a"]
    names = {"accuracy", "loss", "macro_f1"}
    assert run["metrics"].keys() == {
        *(f"{split}_{name}" for split in ("val", "test") for name in names),
        *("train_loss", "train_accuracy", "train_seconds"),
    }
    files = {path for path, suffix in run["files"] if not path.startswith("images/")}
    assert {"metrics.json", "samples.png", "galleries/worst.csv"} <= files


def test_a_new_database_shows_all_as_it_was(
    made: Trained, anew: Callable[[], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made.commit()
    made.add("a")
    with monkeypatch.context() as patch:
        patch.setenv("DVC_EXP_NAME", "wider-net")
        assert made.log().status == 0
    made.git("add", "-A")
    made.git("commit", "-q", "-m", "Keep it", "--author", "Maria <maria@example.com>")  # which is not where a is from
    made.add("bb")
    ran = made.log()
    assert ran.status == 0 and "bb (" in ran.out and " s to start MLflow)" in ran.out
    before = shown(database(made.root))
    tags = before["a"]["tags"]
    assert (tags["mlflow.source.git.commit"], tags["git.dirty"]) == (made.git("rev-parse", "HEAD~"), "false")
    assert (tags["dvc.exp_name"], before["bb"]["tags"].get("dvc.exp_name")) == ("wider-net", None)
    (made.root / "params.yaml").write_text("edited")
    images = {path for path, suffix in before["a"]["files"] if path.startswith("images/")}
    assert images == {f"images/{key}+step+0+timestamp+1700000000500" for key in ("train_batch", "confusion_matrix")}
    assert anew() == before


def test_an_experiment_of_others_is_left_alone(made: Trained) -> None:
    made.add("a")
    made.add("b")
    assert made.log("b").status == 0
    client = client_of(database(made.root))
    client.rename_experiment(client.get_experiment_by_name("digits").experiment_id, "ours")
    number = client.create_experiment("digits")
    client.create_run(number)
    ran = made.log("a")
    assert ran.status == 0 and ran.err == ""
    (line,) = ran.out.splitlines()
    assert line.startswith("a: the MLflow experiment digits in ") and f"rename --experiment-id {number}" in line
    assert len(client.search_runs([number])) == 1
    client.rename_experiment(number, "theirs")
    assert made.log("a").out.startswith("logged to ")


# --- trainings that end before they have a result ---


def live(made: Trained, *lines: object) -> Any:
    """The process that logs a training live, which has got these lines."""
    made.dataset("digits", "folders")
    made.experiment("a", "digits")
    process = made.begin("--live", "a", "print-of-a", str(START))
    assert process.stdin is not None
    for line in lines:
        process.stdin.write(json.dumps(line) + "\n")
    process.stdin.flush()
    return process


FIRST = {"epoch": 1, "train_loss": 1.0, "val_loss": 2.0, "seconds": 20.0}


@pytest.mark.parametrize(("last", "status"), [([], "KILLED"), (["FINISHED"], "FINISHED")])
def test_a_training_that_has_ended_does_not_run_in_mlflow(
    made: Trained, anew: Callable[[], dict[str, Any]], last: list[str], status: str
) -> None:
    made.commit()
    process = live(made, FIRST, *last)
    assert process.communicate(timeout=120)[1] == "" and process.returncode == 0
    client = client_of(database(made.root))
    (run,) = runs_of(client)
    assert run.info.status == status and run.data.metrics["val_loss"] == 2.0
    made.add("a")  # it went on, or was evaluated
    made.git("add", "-A")
    made.git("commit", "-q", "-m", "Keep it")
    assert made.log().status == 0
    assert [found.info.run_id for found in runs_of(client)] == [run.info.run_id]
    after, other = shown(database(made.root))["a"], anew()["a"]
    assert after["status"] == "FINISHED"
    for part in ("times", "tags", "metrics", "files"):
        assert other[part] == after[part]


def test_a_training_that_was_killed_with_its_logger_is_ended_by_the_next(made: Trained) -> None:
    """As when a machine goes down. The number of the training is that of no process then, or of another one."""
    process = live(made, FIRST)
    try:
        wait_until(lambda: (made.root / "mlflow.db").exists())
        client = client_of(database(made.root))
        wait_until(lambda: [run for run in runs_of(client) if "val_loss" in run.data.metrics])
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    (run,) = runs_of(client)
    assert run.info.status == "RUNNING"
    made.add("b")
    assert made.log("b").status == 0
    assert client.get_run(run.info.run_id).info.status == "RUNNING"  # this process, which began it, still runs
    number, _, start = run.data.tags["train.process"].partition(" ")
    assert number == str(os.getpid()) and bool(start) == IS_LINUX
    gone = {"c": str(process.pid), "d": f"1 {start}"} if IS_LINUX else {"c": str(process.pid)}
    for name, told in gone.items():
        client.update_run(run.info.run_id, "RUNNING")
        client.set_tag(run.info.run_id, "train.process", told)
        made.add(name)
        assert made.log(name).status == 0
        assert client.get_run(run.info.run_id).info.status == "KILLED", told


def test_a_first_training_that_was_killed_is_ended_where_nothing_has_a_result(made: Trained) -> None:
    made.lock({})
    process = live(made, FIRST)
    wait_until(lambda: epochs_in(made.root) == 1)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    client = client_of(database(made.root))
    (run,) = runs_of(client)
    pages = ("--pages", "http://127.0.0.1:5000")
    ran = made.log(*pages)  # while it trains
    assert (ran.status, runs_of(client)[0].info.status) == (0, "RUNNING")
    assert "nothing to log" in ran.out and f"/experiments/{run.info.experiment_id}/runs" in ran.out
    client.set_tag(run.info.run_id, "train.process", str(process.pid))
    assert made.log(*pages).status == 0
    assert client.get_run(run.info.run_id).info.status == "KILLED"
