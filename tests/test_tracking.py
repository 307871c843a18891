"""What MLflow shows, asked through its own client: one run a result, whole, whatever happens on the way."""

from __future__ import annotations

import http.client
import io
import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from conftest import ENVIRONMENT, REPOSITORY, Clone, Project, Ran, processes, wait_until
from conftest import run as run_command
from ruamel.yaml import YAML
from servers import POSTGRES, MLflowServer, guarded_server, postgres_server
from test_champion import Trained
from test_report import Browser, chromium  # noqa: F401  # a fixture

from pipeline import serve, track
from pipeline.registry.champion import ALIAS
from pipeline.system.console import UserError

MLP, CNN = "digits-mlp", "digits-cnn"


def client_of(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(uri)


def database(root: Path) -> str:
    return f"sqlite:///{root}/mlflow.db"


def runs_of(client: Any, experiment: str = "digits") -> list[Any]:
    found = client.get_experiment_by_name(experiment)
    return client.search_runs([found.experiment_id]) if found else []


def steps_of(client: Any, run: Any, metric: str) -> list[int]:
    return sorted(point.step for point in client.get_metric_history(run.info.run_id, metric))


def shown(uri: str) -> dict[str, Any]:
    """All that MLflow shows of each run, without what is another one for every run: ids and places."""
    client, told = client_of(uri), {}
    for run in runs_of(client):
        files = {}
        places = [file.path for file in client.list_artifacts(run.info.run_id)]
        for path in places:
            inside = client.list_artifacts(run.info.run_id, path)
            places += [file.path for file in inside if file.path != path]
            if not inside:  # a file
                name = path.rpartition("+compressed")[0] or path
                name = name.rpartition("+")[0] or name  # MLflow gives each image a number of its own
                with TemporaryDirectory() as folder:
                    content = Path(client.download_artifacts(run.info.run_id, path, folder)).read_bytes()
                files[name, Path(path).suffix] = content
        told[run.info.run_name] = {
            "status": run.info.status,
            "times": (run.info.start_time, run.info.end_time),
            "params": run.data.params,
            "tags": {key: value for key, value in run.data.tags.items() if key != "mlflow.log-model.history"},
            "metrics": {
                key: sorted(
                    (point.step, point.value, point.timestamp)
                    for point in client.get_metric_history(run.info.run_id, key)
                )
                for key in run.data.metrics
            },
            "data": [given.dataset.digest for given in run.inputs.dataset_inputs],
            "files": files,
        }
    return told


# --- what a run shows, in the project where digits ran ---


@pytest.fixture(scope="module")
def logged(digits: Clone) -> tuple[Any, dict[str, Any]]:
    """A client of the project's database, and its runs by name."""
    client = client_of(database(digits.root))
    found = runs_of(client)
    assert len(found) == 2
    return client, {run.info.run_name: run for run in found}


def test_a_data_set_is_an_experiment_and_an_experiment_a_run(logged: tuple[Any, dict[str, Any]]) -> None:
    client, runs = logged
    assert sorted(runs) == [CNN, MLP]
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert {experiment.name for experiment in client.search_experiments()} <= {"digits", "Default"}


@pytest.mark.parametrize("name", [MLP, CNN])
def test_parameters_are_those_of_params_yaml(digits: Clone, logged: tuple[Any, dict[str, Any]], name: str) -> None:
    everything = YAML(typ="safe").load((digits.root / "params.yaml").read_text())
    config = everything["experiments"][name]
    params = logged[1][name].data.params
    assert params["optimizer.lr"] == str(config["optimizer"]["lr"])
    assert params["network.hidden"] == str(config["network"]["hidden"])
    assert params["epochs"] == str(config["epochs"]) and params["seed"] == str(everything["seed"])
    assert params["dataset"] == "digits"
    about = json.loads((digits.root / f"models/{name}/model.json").read_text())
    assert params["parameters"] == str(about["parameters"])


@pytest.mark.parametrize("name", [MLP, CNN])
def test_metrics_are_those_of_the_reports(digits: Clone, logged: tuple[Any, dict[str, Any]], name: str) -> None:
    import pandas as pd

    client, runs = logged
    metrics = json.loads((digits.root / f"reports/{name}/metrics.json").read_text())
    for split in ("val", "test"):
        for key in ("accuracy", "loss", "macro_f1"):
            assert runs[name].data.metrics[f"{split}_{key}"] == metrics[split][key]
    history = pd.read_csv(digits.root / f"reports/{name}/history.csv")
    assert len(history) > 1
    for key in ("train_loss", "train_accuracy", "val_loss", "val_accuracy"):
        points = sorted(client.get_metric_history(runs[name].info.run_id, key), key=lambda point: point.step)
        assert [(point.step, point.value) for point in points] == list(zip(history.epoch, history[key], strict=True))


def test_a_run_says_what_made_it(digits: Clone, logged: tuple[Any, dict[str, Any]], tmp_path: Path) -> None:
    client, runs = logged
    run = runs[MLP]
    lock = YAML(typ="safe").load((digits.root / "dvc.lock").read_text())["stages"]
    (data,) = run.inputs.dataset_inputs
    packed = {out["path"]: out["md5"] for out in lock["pack@digits"]["outs"]}["data/packed/digits"]
    assert (data.dataset.name, data.dataset.digest) == ("digits", packed)
    tags = run.data.tags
    commit = digits.must_run("git", "log", "-1", "--format=%H", f"reports/{MLP}/metrics.json").out.strip()
    assert tags["mlflow.source.git.commit"] == commit
    assert tags["git.dirty"] == "false"  # the pipeline's own results are no change
    assert tags["dvc.stage"] == f"evaluate@{MLP}" and tags["result"]
    assert tags["result"] != runs[CNN].data.tags["result"]
    artifacts = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert artifacts >= {
        *("metrics.json", "classification_report.txt", "confusion_matrix.csv", "history.csv"),
        *("confusion_matrix.png", "samples.png"),
    }
    assert (
        Path(client.download_artifacts(run.info.run_id, "metrics.json", str(tmp_path))).read_bytes()
        == (digits.root / f"reports/{MLP}/metrics.json").read_bytes()
    )


def test_logging_again_adds_nothing(digits: Clone, logged: tuple[Any, dict[str, Any]]) -> None:
    client, runs = logged
    ran = digits.must_run("python", "-m", "pipeline.track")
    assert "has every result already" in ran.out
    assert {run.info.run_id for run in runs_of(client)} == {run.info.run_id for run in runs.values()}
    assert steps_of(client, runs[MLP], "train_loss") == list(range(1, 41))


# --- results written by hand: everything that can happen between here and MLflow ---


class Results(Project):
    """A folder with a dvc.lock and reports, as the pipeline leaves them."""

    def add(
        self, name: str, epochs: int = 3, accuracy: float = 0.5, seed: int = 1, val: dict[str, float] | None = None
    ) -> None:
        folder = self.root / "reports" / name
        folder.mkdir(parents=True, exist_ok=True)
        rows = [
            f"{epoch},{1 / epoch},{1 - 1 / epoch},{2 / epoch},{0.9 - 0.9 / epoch}" for epoch in range(1, epochs + 1)
        ]
        header = "epoch,train_loss,train_accuracy,val_loss,val_accuracy"
        (folder / "history.csv").write_text("\n".join([header, *rows]) + "\n")
        last = {"accuracy": 0.9 - 0.9 / epochs, "loss": 2 / epochs, "macro_f1": 0.25}
        splits = {"val": last if val is None else val, "test": {"accuracy": accuracy, "loss": 1.5, "macro_f1": 0.25}}
        metrics = {**splits, "parameters": 9, "trainable_parameters": 8}
        (folder / "metrics.json").write_text(json.dumps(metrics))
        config = {"dataset": "digits", "optimizer": {"name": "adam", "lr": 0.01}, "epochs": epochs}
        model = {"path": f"models/{name}", "md5": f"{name}-{epochs}"}
        self.lock(
            {
                "pack@digits": {"outs": [{"path": "data/packed/digits", "md5": "abc.dir"}]},
                f"train@{name}": {
                    "params": {"params.yaml": {f"experiments.{name}": config, "seed": seed}},
                    "outs": [model],
                },
                f"evaluate@{name}": {"deps": [model], "outs": []},
            }
        )

    def lock(self, stages: dict[str, Any]) -> None:
        file = self.root / "dvc.lock"
        known = json.loads(file.read_text())["stages"] if file.exists() else {}
        file.write_text(json.dumps({"schema": "2.0", "stages": {**known, **stages}}))

    def track(self, *names: str, **environment: str) -> Ran:
        return self.run("track", *names, **environment)

    def log(self, *names: str) -> Ran:
        """Run `track` in this process, which has imported MLflow already, as a moment's work."""
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.chdir(self.root)
            patch.setattr(sys, "argv", ["track", *names])
            status = track.main()
        return Ran(status, out.getvalue(), err.getvalue())

    def begin(self, *names: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command("track", *names), cwd=self.root, text=True, stdin=subprocess.PIPE,
            env={**ENVIRONMENT, "PYTHONPATH": str(REPOSITORY), "DVC_ROOT": str(self.root), **environment},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip


@pytest.fixture
def made(tmp_path: Path) -> Results:
    return Results(tmp_path)


@pytest.fixture
def with_tables(tmp_path: Path, tables: Path) -> None:
    """For tests that do not look at how a database is made."""
    shutil.copy(tables, tmp_path / "mlflow.db")


class Listener:
    """A server that accepts connections and never answers."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.uri = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.connections: list[socket.socket] = []
        self.moments: list[float] = []  # of each connection
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        try:
            while True:
                self.connections.append(self.socket.accept()[0])
                self.moments.append(time.monotonic())
        except OSError:
            pass  # closed

    def close(self) -> None:
        for connection in (self.socket, *self.connections):
            connection.close()


@pytest.fixture
def silent() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


@pytest.fixture(scope="module")
def waiting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[str], Listener]]:
    """A stage that logs to a server that never answers; begun early, because all that a test does is wait for it."""
    results, listener = Results(tmp_path_factory.mktemp("waiting")), Listener()
    results.add("a")
    process = results.begin("a", MLFLOW_TRACKING_URI=listener.uri, DVC_STAGE="evaluate@a")
    yield process, listener
    process.kill()
    process.communicate()
    listener.close()


def test_processes_that_start_together_make_one_database(made: Results, waiting: Any) -> None:
    names = ["a", "b", "c"]
    for name in names:
        made.add(name)
    processes = [made.begin(name) for name in names]
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0 and "warning" not in err, out + err
    client = client_of(database(made.root))
    assert sorted(run.info.run_name for run in runs_of(client)) == names
    for run in runs_of(client):
        assert run.info.status == "FINISHED" and steps_of(client, run, "val_loss") == [1, 2, 3]


def kill_at(results: Results, call: str, uri: str) -> None:
    """Run `track a` and let it die, as with SIGKILL, when it comes to that call of RunContent."""
    script = (
        "import os, sys; from pipeline import track; from pipeline.tracking import content; sys.argv[1:] = ['a'];"
        f"content.RunContent.{call} = lambda *arguments: os._exit(9); track.run(track.main)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=results.root, capture_output=True, text=True, check=False,
        env={**ENVIRONMENT, "PYTHONPATH": str(REPOSITORY), "MLFLOW_TRACKING_URI": uri},
    )  # fmt: skip
    assert ran.returncode == 9, ran.stdout + ran.stderr


@pytest.mark.usefixtures("with_tables")
def test_a_damaged_result_keeps_no_other_from_being_logged(made: Results) -> None:
    made.add("a")
    made.add("b")
    (made.root / "reports/a/history.csv").write_text("epoch,train_loss\n1,abc\n")
    with pytest.raises(UserError, match=re.escape("reports/a/history.csv is damaged")):
        made.log()
    assert [run.info.run_name for run in runs_of(client_of(database(made.root)))] == ["b"]
    with pytest.raises(UserError, match="run dvc repro"):
        made.log("a")
    ran = made.log("--pages", "http://127.0.0.1:5000")  # which opens for the others
    assert ran.status == 0 and "/#/experiments/" in ran.out
    assert ran.err.startswith("warning: reports/a/history.csv is damaged") and len(ran.err.splitlines()) == 1


@pytest.mark.usefixtures("with_tables")
def test_a_run_that_was_cut_off_is_completed_and_not_doubled(made: Results) -> None:
    made.add("a", epochs=600)  # more points than one request takes
    client = client_of(database(made.root))  # and the same database for all
    for call in ("log_results", "finish"):
        kill_at(made, call, database(made.root))
        (run,) = runs_of(client)
        assert run.info.status == "RUNNING"
    assert made.log().status == 0
    (run,) = runs_of(client)
    assert run.info.status == "FINISHED"
    for metric in ("train_loss", "val_accuracy"):
        assert steps_of(client, run, metric) == list(range(1, 601))
    assert steps_of(client, run, "test_accuracy") == [0]
    assert len(run.inputs.dataset_inputs) == 1


@pytest.mark.usefixtures("with_tables")
def test_another_result_is_another_run_and_the_first_stays(made: Results) -> None:
    made.add("a")
    assert made.log().status == 0
    made.add("a", accuracy=0.75)
    assert made.log("a").status == 0
    made.add("a")  # as after git checkout of the first
    assert "has every result already" in made.log("a").out
    accuracies = [run.data.metrics["test_accuracy"] for run in runs_of(client_of(database(made.root)))]
    assert sorted(accuracies) == [0.5, 0.75]


@pytest.mark.usefixtures("with_tables")
def test_a_run_shows_the_trained_model_and_not_its_last_epoch(made: Results) -> None:
    made.add("a", val={"accuracy": 0.875, "loss": 0.25, "macro_f1": 0.5})  # as where the best epoch was kept
    for _ in range(2):
        assert made.log().status == 0
    client = client_of(database(made.root))
    (run,) = runs_of(client)
    shown = {key: run.data.metrics[f"val_{key}"] for key in ("accuracy", "loss", "macro_f1")}
    assert shown == {"accuracy": 0.875, "loss": 0.25, "macro_f1": 0.5}
    points = client.get_metric_history(run.info.run_id, "val_accuracy")
    assert sorted((point.step, point.value) for point in points) == [
        (1, 0.0),
        (2, 0.45),
        (3, pytest.approx(0.6)),
        (4, 0.875),
    ]


@pytest.mark.usefixtures("with_tables")
def test_the_page_with_the_runs_is_named(made: Results) -> None:
    made.add("a")
    ran = made.log("--pages", "http://127.0.0.1:5000")
    assert ran.status == 0 and ran.err == ""
    number = client_of(database(made.root)).get_experiment_by_name("digits").experiment_id
    page = f"http://127.0.0.1:5000/#/experiments/{number}/runs?workflowType=machine_learning&viewStateShareKey=training"
    assert ran.out.splitlines()[-1] == f"digits: {page}"


def test_a_model_that_was_not_evaluated_lends_its_history_to_no_old_result(made: Results) -> None:
    made.add("a")
    retrained = {"path": "models/a", "md5": "another"}
    made.lock({"train@a": {"params": {}, "outs": [retrained]}})
    ran = made.track()
    assert ran.status == 0 and "a: trained but not evaluated since; run dvc repro evaluate@a" in ran.out
    assert not (made.root / "mlflow.db").exists()


@pytest.mark.parametrize("stage", [True, False])
def test_an_absent_server_costs_a_line(made: Results, stage: bool) -> None:
    made.add("a")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # not listening: refused
        uri = f"http://127.0.0.1:{unused.getsockname()[1]}"
        begin = time.monotonic()
        ran = made.track("a", MLFLOW_TRACKING_URI=uri, **({"DVC_STAGE": "evaluate@a"} if stage else {}))
        assert time.monotonic() - begin < 60
    assert ran.status == (0 if stage else 1)
    (line,) = ran.err.splitlines()
    assert line.startswith(f"warning: not logged to {uri}: ") and "`python -m pipeline.track` logs it later" in line


class Refusing(BaseHTTPRequestHandler):
    """An MLflow server whose database is read-only or full: every request ends in `server.status`."""

    def refuse(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_error(self.server.status)  # type: ignore[attr-defined]

    do_GET = do_POST = refuse  # noqa: N815 (http.server's names)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("status", [403, 500])
def test_a_server_that_is_read_only_or_full_costs_a_line(made: Results, status: int) -> None:
    made.add("a")
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        server.status = status  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        uri = f"http://127.0.0.1:{server.server_port}"
        ran = made.track("a", MLFLOW_TRACKING_URI=uri, DVC_STAGE="evaluate@a")
        server.shutdown()
    assert ran.status == 0
    (line,) = ran.err.splitlines()
    assert line.startswith(f"warning: not logged to {uri}: ") and "logs it later" in line


@pytest.mark.parametrize(
    ("uri", "word"), [("sqlite:///params.yaml/mlflow.db", "params.yaml"), ("http://127.0.0.1:no", "Port")]
)
def test_a_useless_address_costs_a_line(made: Results, uri: str, word: str) -> None:
    made.add("a")
    ran = made.track("a", MLFLOW_TRACKING_URI=uri, DVC_STAGE="evaluate@a")
    assert ran.status == 0
    (line,) = ran.err.splitlines()
    assert line.startswith("warning: not logged to ") and word in line


def test_a_mistake_is_an_error_in_one_line(made: Results) -> None:
    from conftest import failed_in_one_line

    failed_in_one_line(made.track(), "dvc.lock", "dvc repro")
    made.add("a")
    failed_in_one_line(made.track("b"), "train@b", "dvc repro evaluate@b")
    lock = made.root / "dvc.lock"
    whole = lock.read_text()
    pieces = ("stages:\n", "  evaluate@a:\n", "    deps:\n", "    - path", ":")  # as DVC writes it
    for half in (whole[:-9], "", *accumulate(pieces)):
        lock.write_text(half)
        ran = made.track()
        assert ran.status == 1 and "dvc.lock is cut off: `git checkout dvc.lock`" in ran.err
        assert len(ran.err.splitlines()) == 1
    lock.write_text(whole)
    shutil.rmtree(made.root / "reports/a")
    ran = made.track()
    assert ran.status == 0 and "nothing to log" in ran.out and "reports/a is not here" in ran.out


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MLflowServer]:
    """Its database is PostgreSQL's where there is one."""
    home = tmp_path_factory.mktemp("server")
    with postgres_server() if POSTGRES else nullcontext(database(home)) as backend:
        server = MLflowServer(home, backend)
        yield server
        server.kill()


@pytest.fixture(scope="module")
def server(mlflow_server: MLflowServer) -> str:
    return mlflow_server.uri


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere only root sees which addresses are bound")
def test_a_server_that_is_told_no_host_is_reached_from_this_machine_only(server: str) -> None:
    """`make ui` starts one."""
    port = int(server.rpartition(":")[2])
    places = [found.laddr for found in psutil.net_connections("inet") if found.status == psutil.CONN_LISTEN]
    assert {place.ip for place in places if place.port == port} == {"127.0.0.1"}


def test_a_server_gets_what_it_missed(made: Results, server: str) -> None:
    for name in ("a", "b"):
        made.add(name)
        ran = made.track(name, MLFLOW_TRACKING_URI="http://127.0.0.1:9", DVC_STAGE=f"evaluate@{name}")
        assert ran.status == 0 and "warning" in ran.err
    processes = [made.begin(*names, MLFLOW_TRACKING_URI=server) for names in ([], ["b"])]
    for process in processes:  # both have b to log, to a server that has no experiment yet
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, out + err
    client = client_of(server)
    found = {run.info.run_name: run for run in runs_of(client)}
    assert sorted(found) == ["a", "b"] and len(runs_of(client)) == 2
    assert found["a"].info.status == "FINISHED" and steps_of(client, found["a"], "train_loss") == [1, 2, 3]
    assert {file.path for file in client.list_artifacts(found["a"].info.run_id)} == {"history.csv", "metrics.json"}
    told = made.track(MLFLOW_TRACKING_URI=server.replace("http://", "http://me:Hunter2@")).out
    assert told.splitlines()[0] == f"{server.replace('http://', 'http://***@')} has every result already"
    assert not (made.root / "mlflow.db").exists()


def test_a_server_registers_a_model_and_moves_its_alias(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = Trained(tmp_path)
    trained.uri = server
    trained.add("a", 60)
    command = trained.prepare("a")
    environment = {**ENVIRONMENT, "PYTHONPATH": str(REPOSITORY), "MLFLOW_TRACKING_URI": server}
    both = [subprocess.Popen(command, cwd=trained.root, env=environment) for _ in range(2)]
    assert [process.wait(120) for process in both] == [0, 0]
    assert trained.champion() == "a" and len(trained.client.search_model_versions("name = 'letters'")) == 1
    trained.add("b", 90)
    trained.track()
    assert trained.champion() == "b" and "Champion: better than version 1 (a)" in trained.versions()["b"]
    tags = [version.tags for version in trained.client.search_model_versions("name = 'letters'")]
    assert [sorted(each) for each in tags] == [["experiment", "gates", "result"]] * 2
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    serve.download(f"letters@{ALIAS}", trained.root / "served")
    assert (trained.root / "served/artifacts/model.safetensors").read_bytes() == b"b"


@pytest.mark.skipif(not POSTGRES, reason="needs PostgreSQL")
def test_real_trainings_look_the_same_anew_and_on_postgresql(
    digits: Clone, logged: tuple[Any, dict[str, Any]], server: str, tmp_path: Path, tables: Path
) -> None:
    shutil.copy(tables, tmp_path / "mlflow.db")
    before = shown(database(digits.root))
    assert before.keys() == {MLP, CNN} and all(len(run["files"]) > 20 for run in before.values())
    for uri in (database(tmp_path), server):
        digits.must_run("python", "-m", "pipeline.track", MLFLOW_TRACKING_URI=uri)
        after = shown(uri)
        for name, run in before.items():
            assert after[name] == run, uri


def test_the_printed_page_shows_the_runs_val_first(made: Results, server: str, chromium: Browser) -> None:  # noqa: F811
    made.add("shown")
    page = made.track("--pages", "http://127.0.0.1:5000", MLFLOW_TRACKING_URI=server).out.split()[-1]
    assert page.startswith(server)
    chromium.size(1600)
    chromium.driver.get(page)
    wait_until(lambda: "shown" in chromium.texts("a"), 120)
    headers = chromium.script(
        """
        const cells = [...document.querySelectorAll(".ag-header-cell")].filter(cell => cell.checkVisibility());
        cells.sort((one, other) => one.getBoundingClientRect().x - other.getBoundingClientRect().x);
        return cells.map(cell => cell.innerText.trim());
        """
    )
    metrics = [header for header in headers if header.startswith(("val_", "test_", "train_"))]
    assert metrics == ["val_accuracy", "val_macro_f1", "val_loss", "test_accuracy"] and "Duration" in headers


class Forward(BaseHTTPRequestHandler):
    """A proxy that knows one server, whatever host it is asked for, and lets each answer wait."""

    address: tuple[str, int]
    asked: set[str]
    delay: float

    def forward(self) -> None:
        time.sleep(self.delay)
        asked = urlsplit(self.path)
        self.asked.add(asked.netloc)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {key: value for key, value in self.headers.items() if key != "Host"}
        connection = http.client.HTTPConnection(*self.address)
        connection.request(self.command, f"{asked.path}?{asked.query}", body, headers)
        with connection.getresponse() as answer:
            content = answer.read()
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.headers.get("Content-Type", ""))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        connection.close()

    do_GET = do_POST = do_PUT = do_PATCH = forward  # noqa: N815 (http.server's names)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def proxy(server: str, delay: float = 0.0) -> Iterator[dict[str, str]]:
    """An environment in which MLflow is asked through a proxy, at an address that nobody else could know."""
    address = urlsplit(server)
    Forward.address, Forward.asked, Forward.delay = (address.hostname or "", address.port or 0), set(), delay
    with ThreadingHTTPServer(("127.0.0.1", 0), Forward) as forwarding:
        threading.Thread(target=forwarding.serve_forever, daemon=True).start()
        here = f"http://127.0.0.1:{forwarding.server_port}"
        yield {"MLFLOW_TRACKING_URI": "http://mlflow.invalid:5000", "HTTP_PROXY": here, "http_proxy": here}
        forwarding.shutdown()


def test_a_server_behind_a_proxy(made: Results, server: str) -> None:
    made.add("proxied")
    with proxy(server) as variables:
        ran = made.track(**variables)
    uri = variables["MLFLOW_TRACKING_URI"]
    assert ran.status == 0 and ran.err == "" and f"logged to {uri}: proxied (" in ran.out
    assert Forward.asked == {"mlflow.invalid:5000"}
    (run,) = [run for run in runs_of(client_of(server)) if run.info.run_name == "proxied"]
    assert run.info.status == "FINISHED"

    refused = made.track(MLFLOW_TRACKING_URI=uri, HTTP_PROXY="http://127.0.0.1:9", http_proxy="http://127.0.0.1:9")
    assert refused.status == 1 and "Connection refused" in refused.err


def test_a_slow_server_is_waited_for(made: Results, server: str) -> None:
    made.add("slow")
    with proxy(server, delay=0.3) as variables:
        ran = made.track(**variables)
    assert ran.status == 0 and ran.err == "" and ": slow (" in ran.out
    (run,) = [run for run in runs_of(client_of(server)) if run.info.run_name == "slow"]
    assert run.info.status == "FINISHED" and run.data.metrics["val_accuracy"] > 0


@pytest.mark.usefixtures("with_tables")
def test_a_server_that_wants_a_user_and_a_password(made: Results, tmp_path: Path) -> None:
    with guarded_server(tmp_path, "maria", "bob") as uri:

        def track(user: str) -> Ran:
            account = {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": f"Hunter2 of {user}"}
            return made.track(MLFLOW_TRACKING_URI=uri, **account)

        made.add("guarded")
        wrong = made.track(MLFLOW_TRACKING_URI=uri.replace("//", "//maria:Hunter1@"))
        right, again = track("maria"), track("bob")
        made.add("more")
        refused = track("bob")
    assert wrong.status == 1 and wrong.out == ""
    (line,) = wrong.err.splitlines()
    assert "the server wants another user or password" in line and "Hunter" not in line
    assert right.status == 0 and right.err == "" and f"logged to {uri}: guarded (" in right.out
    assert again.status == 0 and "has every result already" in again.out
    assert refused.status == 1 and refused.out == ""
    (line,) = refused.err.splitlines()
    assert "this user may not do that on the server" in line
    for file in ("mlflow.db", "log"):
        assert b"Hunter2" not in (tmp_path / file).read_bytes()


# runs pipeline.track, and waits for the others before each run that it makes
MEET = """
import socket, sys
from pipeline import track
from pipeline.tracking import tracker
create, address = tracker.Tracker.create, ("127.0.0.1", int(sys.argv.pop(1)))
def meet(*arguments, **more):
    socket.create_connection(address).recv(1)
    return create(*arguments, **more)
tracker.Tracker.create = meet
track.run(track.main)
"""


def test_clones_that_log_one_result_at_once_make_one_run(tmp_path: Path, server: str) -> None:
    names, clones = ["c", "d", "e"], []
    with socket.create_server(("127.0.0.1", 0)) as meeting:
        port = str(meeting.getsockname()[1])
        for number in range(2):
            (tmp_path / str(number)).mkdir()
            results = Results(tmp_path / str(number))
            for name in names:
                results.add(name, epochs=30)
            environment = {**ENVIRONMENT, "PYTHONPATH": str(REPOSITORY), "MLFLOW_TRACKING_URI": server}
            clones.append(
                subprocess.Popen(
                    [sys.executable, "-c", MEET, port], cwd=results.root, env=environment,
                    stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                )
            )  # fmt: skip
        meeting.settimeout(120)
        for _ in names:
            both = [meeting.accept()[0] for _ in clones]
            for connection in both:
                connection.close()
        for clone in clones:
            out, err = clone.communicate(timeout=120)
            assert clone.returncode == 0 and "warning" not in err, out + err
    client = client_of(server)
    runs = [run for run in runs_of(client) if run.info.run_name in names]
    assert sorted(run.info.run_name for run in runs) == names
    for run in runs:
        assert run.info.status == "FINISHED" and run.data.params["parameters"] == "9"
        assert len(run.inputs.dataset_inputs) == 1
        for metric in ("train_loss", "val_accuracy"):
            assert steps_of(client, run, metric) == list(range(1, 31))
        assert steps_of(client, run, "test_accuracy") == [0]


def test_clones_that_train_the_same_at_once_end_in_one_run(tmp_path: Path, server: str) -> None:
    clones = []
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        clone = Results(tmp_path / str(number))
        clone.add("f", epochs=4)
        clone.dataset("digits", "folders")
        clone.experiment("f", "digits")
        (clone.root / "reports/f/provenance.json").write_text(json.dumps({"fingerprint": "alike"}))
        clones.append(clone)
    rows = "".join(json.dumps({"epoch": epoch, "train_loss": 1 / epoch, "seconds": epoch}) + "\n" for epoch in (1, 2))
    live = [clone.begin("--live", "f", "alike", "1700000000", MLFLOW_TRACKING_URI=server) for clone in clones]
    for process in live:
        assert process.communicate(rows, timeout=120)[1] == "" and process.returncode == 0
    client = client_of(server)
    begun = [run for run in runs_of(client) if run.info.run_name == "f"]
    assert len(begun) == 2 and all(steps_of(client, run, "train_loss") == [1, 2] for run in begun)
    for process in [clone.begin("f", MLFLOW_TRACKING_URI=server) for clone in clones]:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0 and "warning" not in err, out + err
    (run,) = [run for run in runs_of(client) if run.info.run_name == "f"]
    assert run.info.run_id in {run.info.run_id for run in begun} and run.info.status == "FINISHED"
    for metric in ("train_loss", "val_loss"):
        assert steps_of(client, run, metric) == [1, 2, 3, 4]


def test_a_server_that_is_killed_during_training_gets_the_rest_later(
    made: Results, mlflow_server: MLflowServer
) -> None:
    made.dataset("digits", "folders")
    made.experiment("g", "digits")
    process = made.begin("--live", "g", "print-of-g", "1700000000", MLFLOW_TRACKING_URI=mlflow_server.uri)
    assert process.stdin is not None
    client = client_of(mlflow_server.uri)

    def send(epoch: int) -> None:
        assert process.stdin is not None
        row = {"epoch": epoch, "train_loss": 1 / epoch, "seconds": 10 * epoch}
        process.stdin.write(json.dumps(row) + "\n")
        process.stdin.flush()

    def begun() -> list[Any]:
        return [run for run in runs_of(client) if run.info.run_name == "g" and "train_loss" in run.data.metrics]

    send(1)
    (run,) = wait_until(begun, 120)
    mlflow_server.kill()
    send(2)
    _, err = process.communicate(timeout=120)
    (line,) = err.splitlines()
    assert line.startswith(f"warning: not logged to {mlflow_server.uri}: ")
    mlflow_server.start()

    made.add("g")
    (made.root / "reports/g/provenance.json").write_text(json.dumps({"fingerprint": "print-of-g"}))
    assert made.track("g", MLFLOW_TRACKING_URI=mlflow_server.uri).err == ""
    (after,) = begun()
    assert after.info.run_id == run.info.run_id and after.info.status == "FINISHED"
    for metric in ("train_loss", "val_accuracy"):
        assert steps_of(client, after, metric) == [1, 2, 3]


@pytest.mark.skipif(POSTGRES is None, reason="no PostgreSQL on this machine")
def test_a_database_with_a_password_is_asked_once(made: Results, mlflow_server: MLflowServer) -> None:
    """MLflow itself would ask again and again for two minutes."""
    made.add("a")
    backend = mlflow_server.command[mlflow_server.command.index("--backend-store-uri") + 1]
    wrong = made.track(MLFLOW_TRACKING_URI=backend.replace("Pass-Word9", "Pass-Word8"))
    closed = made.track(MLFLOW_TRACKING_URI=backend.replace(urlsplit(backend).netloc, "me:Pass-Word8@127.0.0.1:9"))
    for ran, words in ((wrong, "password authentication failed"), (closed, "create a connection")):
        (line,) = ran.err.splitlines()
        assert ran.status == 1 and words in line and "Pass-Word8" not in line


def test_a_database_that_never_answers_costs_a_line(
    made: Results, silent: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.add("a")
    monkeypatch.setattr("pipeline.tracking.database.ANSWER", 1)
    monkeypatch.setenv("DVC_ROOT", str(made.root))
    monkeypatch.setenv(
        "MLFLOW_TRACKING_URI", silent.uri.replace("http://", "postgresql+pg8000://me:Hunter2@") + "/mlflow"
    )
    begin = time.monotonic()
    ran = made.log()
    assert time.monotonic() - begin < 30
    assert ran.status == 1 and ran.out == "" and len(silent.connections) == 1
    (line,) = ran.err.splitlines()
    assert "the database has not answered for 1 s; `python -m pipeline.track` logs it later" in line
    assert "Hunter2" not in line


@pytest.mark.usefixtures("with_tables")
def test_what_a_user_deleted_stays_deleted(made: Results) -> None:
    for name in ("a", "b"):
        made.add(name)
    assert made.log().status == 0
    client = client_of(database(made.root))
    runs = {run.info.run_name: run.info.run_id for run in runs_of(client)}
    client.delete_run(runs["a"])
    made.add("c")
    ran = made.log()
    assert ran.status == 0 and ran.err == ""
    line, last, _ = ran.out.splitlines()
    assert line.startswith("a: its run was deleted in ") and f"mlflow runs restore --run-id {runs['a']}" in line
    assert "mlflow.db: c (" in last
    assert sorted(run.info.run_name for run in runs_of(client)) == ["b", "c"]

    experiment = client.get_experiment_by_name("digits").experiment_id
    client.delete_experiment(experiment)
    made.add("b", accuracy=0.75)
    ran = made.track("b", DVC_STAGE="evaluate@b")
    assert ran.status == 0 and ran.err == ""
    (line,) = ran.out.splitlines()
    assert line.startswith("b: the MLflow experiment digits was deleted in ") and "restore" in line
    assert client.get_experiment(experiment).lifecycle_stage == "deleted"

    client.restore_experiment(experiment)  # which restores every run of it
    assert made.log("a", "b").out.startswith("logged to ")
    assert sorted(run.info.run_name for run in runs_of(client)) == ["a", "b", "b", "c"]


def test_a_project_that_moves_takes_its_artifacts_along(tmp_path: Path, tables: Path) -> None:
    first, copied, moved = (tmp_path / name for name in ("first one", "copied", "moved"))
    first.mkdir()
    shutil.copy(tables, first / "mlflow.db")
    results = Results(first)
    results.add("a")
    assert results.track().status == 0
    shutil.copytree(first, copied)

    def artifacts(root: Path) -> set[Path]:
        return {file for file in (root / "mlartifacts").rglob("*") if file.is_file()}

    before = artifacts(first)
    for folder in (copied, moved):
        if folder == moved:
            first.rename(moved)
        results = Results(folder)
        results.add("b")
        ran = results.track()
        assert ran.status == 0 and "mlflow.db: b (" in ran.out, ran.out + ran.err
        client = client_of(database(folder))
        assert {run.info.run_name for run in runs_of(client)} == {"a", "b"}
        for run in runs_of(client):
            assert run.info.artifact_uri.startswith(f"{folder.as_uri()}/mlartifacts/digits/")
            assert {file.path for file in client.list_artifacts(run.info.run_id)} == {"history.csv", "metrics.json"}
        assert len(artifacts(folder)) == 2 * len(before)
        if folder == copied:
            assert artifacts(first) == before
    assert not first.exists()


def unusable(root: Path, kind: str) -> sqlite3.Connection | None:
    """Make a database that nobody can write to."""
    file = root / "mlflow.db"
    if kind == "no database":
        file.write_text("this is no database\n" * 100)
        return None
    connection = sqlite3.connect(file, isolation_level=None)
    connection.execute("create table t (x)")
    if kind == "locked":
        connection.execute("begin exclusive")
    elif kind == "read-only":
        file.chmod(0o444)
    else:
        root.chmod(0o555)
    return connection


# as root, file permissions bind only a process without these
BOUND = "-dac_override,-dac_read_search"
AS_OTHERS = ["setpriv", f"--bounding-set={BOUND}", f"--inh-caps={BOUND}"] if os.geteuid() == 0 else []


@pytest.mark.parametrize(
    ("kind", "words", "stage"),
    [
        ("read-only", "the database is read-only: make the file and its folder writable", True),
        ("read-only folder", "the database is read-only: make the file and its folder writable", False),
        ("locked", "another process has locked the database", True),
        ("no database", "the file is no SQLite database", False),
    ],
)
def test_a_database_that_cannot_be_written_costs_a_line(made: Results, kind: str, words: str, stage: bool) -> None:
    if AS_OTHERS and shutil.which("setpriv") is None:
        pytest.skip("root may write everywhere, and there is no setpriv")
    made.add("a")
    made.command("track")
    connection = unusable(made.root, kind)
    script = "from pipeline import track; from pipeline.tracking import database; "
    script += "database.PATIENCE = 0; track.run(track.main)"
    environment = {"PYTHONPATH": str(REPOSITORY), **({"DVC_STAGE": "evaluate@a"} if stage else {})}
    ran = run_command([*AS_OTHERS, sys.executable, "-c", script], made.root, **environment)
    made.root.chmod(0o755)
    assert ran.status == (0 if stage else 1)
    (line,) = ran.err.splitlines()
    assert line.startswith(f"warning: not logged to {database(made.root)}: {words}")
    if connection:
        connection.close()


def test_a_server_that_never_answers_costs_less_than_a_minute(waiting: tuple[subprocess.Popen[str], Listener]) -> None:
    process, listener = waiting
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0
    (line,) = err.splitlines()
    assert line.startswith("warning: not logged to http://127.0.0.1:")
    _, first, *_, last = listener.moments  # of requests, after a knock
    assert last - first < 45  # and 15 for the last


# --- while training goes on ---

# trains at once visibly, `pause` seconds an epoch longer than it takes, and ends when there is no file `hold`
TRAIN = """
import os, sys, time
from pipeline import train
from pipeline.training import live
live.SHORT, live.LAST_WORDS, pause = 0, float(sys.argv[1]), float(sys.argv[2])
log = live.Logger.log

def log_slowly(logger, history):
    log(logger, history)
    time.sleep(pause)
    while len(history) == 40 and os.path.exists("hold"):
        time.sleep(0.1)

live.Logger.log = log_slowly
sys.argv = ["train", "digits-mlp"]
train.run(train.main)
"""


@pytest.fixture
def training(digits: Clone, copy_of: Callable[[Clone], Clone]) -> Clone:
    """A copy of the project without its MLflow database, which names the original's folders."""
    return copy_of(digits)


def live_processes(root: Path) -> list[bytes]:
    return [command for command, _ in processes(root) if b"--live" in command]


def epochs_in(root: Path) -> int:
    """How many epochs the database has, without MLflow's client, which would take part in making the tables."""
    if not (root / "mlflow.db").exists():
        return 0
    try:
        with sqlite3.connect(f"file:{root}/mlflow.db?mode=ro", uri=True) as connection:
            return connection.execute("select count(*) from metrics where key = 'train_loss'").fetchone()[0]
    except sqlite3.OperationalError:  # no such table yet
        return 0


@pytest.mark.skipif(not Path("/proc").exists(), reason="only /proc tells which processes are left")
def test_epochs_appear_while_training_goes_on_and_survive_its_death(digits: Clone, training: Clone) -> None:
    command = [sys.executable, "-c", TRAIN]
    killed = subprocess.Popen([*command, "30", "0.5"], cwd=training.root, env=ENVIRONMENT)
    try:
        wait_until(lambda: epochs_in(training.root) >= 2)
        first = epochs_in(training.root)
        wait_until(lambda: epochs_in(training.root) > first)
        client = client_of(database(training.root))
        (run,) = runs_of(client)
        assert killed.poll() is None and run.info.status == "RUNNING"
        assert run.data.params["optimizer.lr"] == "0.002" and run.data.tags["fingerprint"]
        assert live_processes(training.root)
    finally:
        killed.kill()
        killed.wait()
    wait_until(lambda: not live_processes(training.root), seconds=20)
    assert client.get_run(run.info.run_id).info.status == "KILLED"

    training.must_run("python", "-c", TRAIN, "30", "0")
    assert epochs_in(training.root) == 40
    assert not live_processes(training.root)
    training.must_run("python", "-m", "pipeline.track")
    runs = {run.info.run_name: run for run in runs_of(client)}
    assert runs.keys() == {MLP, CNN} and len(runs_of(client)) == 2
    assert runs[MLP].info.run_id == run.info.run_id
    assert runs[MLP].info.status == "FINISHED" and "test_accuracy" in runs[MLP].data.metrics
    for metric in ("train_loss", "val_accuracy"):
        assert steps_of(client, runs[MLP], metric) == list(range(1, 41))
    for file in ("models/digits-mlp/model.safetensors", "reports/digits-mlp/history.csv"):
        assert (training.root / file).read_bytes() == (digits.root / file).read_bytes()


@pytest.mark.skipif(not Path("/proc").exists(), reason="only /proc tells which processes are left")
@pytest.mark.parametrize("kind", ["absent", "silent"])
def test_a_dead_server_neither_slows_nor_fails_training(
    digits: Clone, training: Clone, silent: Listener, kind: str
) -> None:
    uri = silent.uri if kind == "silent" else "http://127.0.0.1:9"
    (training.root / "models/digits-mlp/model.safetensors").unlink()
    hold = training.root / "hold"
    hold.touch()
    process = subprocess.Popen(
        [sys.executable, "-c", TRAIN, "1", "0"], cwd=training.root, stderr=subprocess.PIPE, text=True,
        env={**ENVIRONMENT, "MLFLOW_TRACKING_URI": uri},
    )  # fmt: skip
    if kind == "silent":
        wait_until(lambda: silent.connections or process.poll() is not None, 200)
    hold.unlink()
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    if kind == "silent":
        assert silent.connections and not err  # it warns after three times 15 seconds: nobody waited for that
    else:
        assert "Traceback" not in err and len(err.splitlines()) <= 1
    wait_until(lambda: not live_processes(training.root), seconds=10)
    file = "models/digits-mlp/model.safetensors"
    assert (training.root / file).read_bytes() == (digits.root / file).read_bytes()


def test_a_short_training_starts_no_process(training: Clone) -> None:
    params = training.root / "params.yaml"
    params.write_text(params.read_text().replace("epochs: 40", "epochs: 1"))
    ran = training.run("python", "-m", "pipeline.train", MLP, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert ran.status == 0 and ran.err == ""
    assert not (training.root / "mlflow.db").exists()
