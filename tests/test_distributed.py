"""Training by several processes: the same result as by one, whatever happens to them meanwhile."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
import torch
import torch.distributed as dist
from conftest import ENVIRONMENT, REPOSITORY, Project, Ran, failed_in_one_line, run, run_or_skip
from safetensors.torch import load_file
from servers import free_port
from test_training import stage
from things import CPU, DROPOUT, MLP, batches, config, fresh, opened, pack
from things import one_thread as one_thread

from pipeline.config.experiments import Compute
from pipeline.system import device
from pipeline.system.console import UserError
from pipeline.training import distributed
from pipeline.training.batching import batch_starts, epoch_batches
from pipeline.training.cuda_graph import can_capture
from pipeline.training.distributed import Group

pytestmark = pytest.mark.usefixtures("one_thread")

LEFT = "nothing half-written is left; run it again to go on\n"
HANGING = """
import threading
from pipeline.system import console, parent

hanging = threading.Event()

def main():
    while True:
        try:
            hanging.set()
            threading.Event().wait()
        except KeyboardInterrupt:
            print("not yet", flush=True)

watch = parent.watch
parent.watch = lambda *process: (hanging.wait(), watch(*process))
parent.GRACE = 2
console.run(main)
"""
EPOCHS = 30  # half a second or more: long enough to be interrupted in the middle
HERE = "127.0.0.1"
TWO = {"device": "cpu", "threads": 1, "devices": 2}


@pytest.fixture(autouse=True)
def _not_started_by_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def things(project: Project) -> Project:
    pack(project.root / "data/packed/things")
    project.dataset("things", "data/raw/things", [6, 5])
    return project


def start(project: Project, name: str, *before: str, cwd: Path | None = None, **environment: str) -> Any:
    """Start `train` in a session of its own, after the words `before`.

    What it prints goes to files: thousands of lines would fill a pipe that nobody reads meanwhile.
    """
    variables = {**ENVIRONMENT, "PYTHONPATH": str(REPOSITORY), "DVC_ROOT": str(project.root), **environment}
    command = [*before, *project.command("train", name)]
    out, err = (tempfile.TemporaryFile("w+") for _ in range(2))  # noqa: SIM115
    process: Any = subprocess.Popen(
        command, cwd=cwd or project.root, env=variables, start_new_session=True, stdout=out, stderr=err
    )
    process.printed = out, err
    return process


def end(process: Any) -> Ran:
    process.wait(timeout=600)
    for file in process.printed:
        file.seek(0)
    out, err = (file.read() for file in process.printed)
    return Ran(process.returncode, out, err)


def workers(launcher: int) -> list[psutil.Process]:
    children = psutil.Process(launcher).children()
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


def listening(process: psutil.Process) -> list[Any]:
    """The addresses at which a process lets others connect."""
    return [found.laddr for found in process.net_connections("inet") if found.status == psutil.CONN_LISTEN]


def until(done: Callable[[], Any], process: Any) -> Any:
    """Wait until something is the case, while a process goes on."""
    deadline = time.monotonic() + 600
    while not (found := done()):
        assert process.poll() is None, end(process)
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def checkpoint(project: Project, name: str) -> tuple[Path, int] | None:
    """The checkpoint of a run, and when it was written."""
    found = [(path, path.stat().st_mtime_ns) for path in project.root.glob(f".checkpoints/{name}/[!.]*.pt")]
    return found[0] if found else None


def left(project: Project) -> list[Path]:
    """All files that training has written so far."""
    found = (path for name in (".checkpoints", "models", "reports") for path in (project.root / name).rglob("*"))
    return [path for path in found if path.is_file()]


def weights(project: Project, name: str) -> str:
    return hashlib.sha256((project.root / "models" / name / "model.safetensors").read_bytes()).hexdigest()


def history(project: Project, name: str) -> pd.DataFrame:
    return pd.read_csv(project.root / "reports" / name / "history.csv")


# --- The same batches ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world_size", [2, 3, 5])
@pytest.mark.parametrize("augment", [{}, {"mixup": 0.2}])
def test_shares_put_together_are_the_batches_of_one_process(
    tmp_path: Path, world_size: int, augment: dict[str, float]
) -> None:
    """And so are the images that they are mixed with."""
    packed = opened(pack(tmp_path / "packed/things"))
    data, experiment = batches(packed, "train"), config(augment=augment)

    def of(group: Group) -> list[Any]:
        starts = batch_starts(fresh(packed, experiment), experiment, len(data), group.world_size)
        return list(epoch_batches(data, experiment, starts, 1, 1, group))

    alone = of(Group())
    assert [whole for _, _, whole in alone] == [8, 8, 8, 7]
    for (batch, others, whole), *shares in zip(
        alone, *(of(Group(rank, world_size)) for rank in range(world_size)), strict=True
    ):
        assert {share[2] for share in shares} == {whole}
        for column, values in enumerate(batch):
            assert torch.cat([share[0][column] for share in shares]).equal(values)
            if others:
                assert torch.cat([share[1][column] for share in shares]).equal(others[column])
        assert bool(others) == bool(augment)
        sizes = [len(share[0].labels) for share in shares]
        assert max(sizes) - min(sizes) <= 1


def test_no_share_of_a_batch_is_too_small_for_batch_norm(tmp_path: Path) -> None:
    packed = opened(pack(tmp_path / "packed/things"))
    data = batches(packed, "train")
    experiment = config(network=DROPOUT, batch_size=7)  # 31 images: the last 3 join the batch before
    starts = batch_starts(fresh(packed, experiment), experiment, len(data), 2)
    assert [whole for _, _, whole in epoch_batches(data, experiment, starts, 1, 1, Group(1, 2))] == [7, 7, 7, 10]
    small = config(network=DROPOUT, batch_size=3)
    with pytest.raises(UserError, match=r"batch_size = 3: .*; expected 4 or more"):
        batch_starts(fresh(packed, small), small, len(data), 2)


# --- Who is who ------------------------------------------------------------------------------------------------------


def test_alone_unless_started_by_torchrun_or_srun(monkeypatch: pytest.MonkeyPatch) -> None:
    assert distributed.started() == Group(0, 1)
    for name, value in {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0"}.items():
        monkeypatch.setenv(name, value)
    assert distributed.started() == Group(0, 1)  # the script of a batch job
    for name, value in {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1"}.items():
        monkeypatch.setenv(name, value)
    assert distributed.started() == Group(5, 8, 1)
    for name, value in {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert distributed.started() == Group(3, 4, 0)  # torchrun, started by srun


def test_more_or_fewer_processes_than_params_say(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    for compute in (Compute(), Compute(devices=4, nodes=2)):
        with pytest.raises(UserError, match=r"started as 4 processes, but .*compute\.devices = "):
            distributed.run(compute, lambda group: pytest.fail("trained"))
    with pytest.raises(UserError, match="MASTER_ADDR is not set"):
        distributed.run(Compute(devices=4), lambda group: group.connect(CPU))


@pytest.mark.parametrize("environment", [{}, {"MASTER_ADDR": "a"}, {"MASTER_ADDR": "a", "NODE_RANK": "2"}])
def test_machines_that_do_not_know_each_other(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"compute\.nodes = 2 machines .* set MASTER_ADDR .* NODE_RANK .*0 to 1"):
        distributed.run(Compute(device="cpu", nodes=2), print)


def test_more_devices_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name in ("auto", "cuda"):
        with pytest.raises(UserError, match=r"compute\.devices = 3: CUDA has 2 here"):
            distributed.run(Compute(device=name, devices=3), print)


@pytest.mark.parametrize("name", ["cuda:1", "mps"])
def test_one_device_is_not_several(name: str) -> None:
    with pytest.raises(ValueError, match=rf"device = '{name}' with devices = 2, nodes = 1; expected auto, cuda or cpu"):
        Compute(device=name, devices=2)
    assert Compute(device=name).world_size == 1


def test_views_are_computed_by_one_process() -> None:
    frozen = {"name": "torchvision", "model": "squeezenet1_1", "freeze": True}
    with pytest.raises(ValueError, match="views = 2 is for one device; compute has 4"):
        config(network=frozen, views=2, compute={"devices": 2, "nodes": 2})


def test_processes_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    torch.set_num_threads(7)
    assert device.select_device(Compute(device="cpu", devices=2), 1) == (CPU, 3)
    assert device.select_device(Compute(device="cpu", devices=9), 1) == (CPU, 1)
    assert device.select_device(Compute(device="cpu", devices=2, threads=5), 1) == (CPU, 5)
    assert device.select_device(Compute(device="cpu", devices=2)) == (CPU, 7)  # evaluate is one process
    monkeypatch.setenv("OMP_NUM_THREADS", "7")  # of each, as torchrun has it
    assert device.select_device(Compute(device="cpu", devices=2), 1) == (CPU, 7)


def test_no_graph_is_captured_of_several_processes() -> None:
    cuda = torch.device("cuda")
    assert can_capture(config(), cuda)
    assert not can_capture(config(compute={"devices": 2}), cuda)


# --- The same weights ------------------------------------------------------------------------------------------------


def started_by_srun(project: Project, name: str, folders: list[Path]) -> list[Ran]:
    """Run as many tasks as folders."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "SLURM_STEP_NUM_TASKS": str(len(folders))}
    tasks = [
        start(project, name, cwd=folder, **address, SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank))
        for rank, folder in enumerate(folders)
    ]
    return [end(task) for task in tasks]


def test_two_processes_train_as_one_with_two_parts_of_a_batch(
    things: Project,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    more = {
        "network": {**MLP, "hidden": [12, 9]}, "epochs": 5, "optimizer": {"name": "adam", "lr": 0.01},
        "unfreeze_every": 2,  # what trains later is exchanged from then on
    }  # fmt: skip
    stage(things, monkeypatch, "things-parts", compute={"device": "cpu", "threads": 1}, grad_accum_steps=2, **more)
    stage(things, monkeypatch, "things-whole", compute={"device": "cpu", "threads": 1}, **more)
    things.experiment("things-two", "things", compute=TWO, **more)
    first, second = started_by_srun(things, "things-two", [things.root] * 2)
    assert (first.status, second.status) == (0, 0), first.err + second.err
    assert "on 2 × cpu (1 thread)" in first.out and "train loss" in first.out
    assert (second.out, second.err) == ("", "")  # one talks

    assert weights(things, "things-two") == weights(things, "things-parts")
    pd.testing.assert_frame_equal(history(things, "things-two"), history(things, "things-parts"), check_exact=True)
    two, whole = (
        load_file(things.root / f"models/{name}/model.safetensors") for name in ("things-two", "things-whole")
    )
    drawn = {path.read_bytes() for path in (things.root / "reports").glob("*/train_batch.png")}
    assert len(drawn) == 1  # of the whole batch, whoever has which part of it
    for key, value in whole.items():
        torch.testing.assert_close(two[key], value, rtol=1e-4, atol=1e-6)


def test_clones_that_differ(things: Project, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(things.root / "data", other / "data")
    with (other / "data/packed/things/meta.json").open("a") as meta:
        meta.write(" ")
    things.experiment("things-two", "things", compute=TWO)
    things.command("train")
    shutil.copy(things.root / "params.yaml", other)
    for ran in started_by_srun(things, "things-two", [things.root, other]):
        failed_in_one_line(ran, "process 1 of 2 has other data", "bring its clone to the same commit")
    assert not (things.root / "models").exists()


# --- Lost processes --------------------------------------------------------------------------------------------------


def test_addresses_of_lost_processes_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who takes an address of the last attempt for one of this waits for half an hour; it depends on who is first."""
    launcher = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    stores: list[dist.Store] = []
    monkeypatch.setattr(dist, "init_process_group", lambda *_, store, **__: stores.append(store))
    for attempt in range(2):
        variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": launcher.port, "TORCHELASTIC_RESTART_COUNT": attempt}
        for name, value in {**variables, "TORCHELASTIC_USE_AGENT_STORE": True}.items():
            monkeypatch.setenv(name, str(value))
        Group(1, 2).connect(CPU)
        stores[-1].set(f"address {attempt}", "here")
    assert stores[1].check(["address 1"]) and not stores[1].check(["address 0"])


def test_lost_processes_change_nothing(things: Project) -> None:
    """Neither the loss of the launcher, with a new run, nor the loss of a worker, in the same run."""
    more = {"network": DROPOUT, "epochs": EPOCHS, "checkpoint": "best", "compute": TWO}
    things.experiment("things-calm", "things", **more)
    things.experiment("things-lost", "things", **more)
    calm = things.must_run("train", "things-calm")
    assert calm.out.count("things-calm: trained in") == 1 and calm.err == ""  # once, not by each process

    launcher = start(things, "things-lost")
    until(lambda: checkpoint(things, "things-lost"), launcher)
    orphans = workers(launcher.pid)
    assert len(orphans) == 2
    launcher.kill()
    end(launcher)
    assert psutil.wait_procs(orphans, timeout=30)[1] == []

    before = checkpoint(things, "things-lost")
    again = start(things, "things-lost")
    until(lambda: checkpoint(things, "things-lost") != before, again)
    second = workers(again.pid)[1]
    second.kill()
    ran = end(again)
    assert ran.status == 0, ran.err
    resumed = [int(epoch) for epoch in re.findall(rf"resuming after epoch (\d+) of {EPOCHS}", ran.out)]
    assert len(resumed) == 2 and 0 < resumed[0] < resumed[1] < EPOCHS
    assert weights(things, "things-lost") == weights(things, "things-calm")
    assert history(things, "things-lost").equals(history(things, "things-calm"))
    assert not list(things.root.glob(".checkpoints/*"))


@pytest.mark.parametrize(
    ("send", "number", "expected"),
    [
        (os.killpg, signal.SIGINT, (130, f"interrupted: {LEFT}")),  # as a terminal does
        (os.kill, signal.SIGTERM, (143, f"terminated: {LEFT}")),
    ],
)
def test_interruption_leaves_no_process(
    things: Project, send: Callable[[int, int], None], number: int, expected: tuple[int, str]
) -> None:
    things.experiment("things-long", "things", epochs=10**6, compute=TWO)
    launcher = start(things, "things-long")
    until(lambda: checkpoint(things, "things-long"), launcher)
    started = workers(launcher.pid)
    assert {place.ip for process in (psutil.Process(launcher.pid), *started) for place in listening(process)} == {HERE}
    send(launcher.pid, number)
    ran = end(launcher)
    assert (ran.status, ran.err) == expected
    assert psutil.wait_procs(started, timeout=5)[1] == []
    # half of the next checkpoint, if one was just being written: the next run removes it
    whole = [file for file in left(things) if file.suffix != ".partial"]
    assert whole == [checkpoint(things, "things-long")[0]]


def test_second_stage_beside_a_running_one(things: Project) -> None:
    things.experiment("things-long", "things", epochs=10**6, compute={"device": "cpu", "threads": 1})
    first = start(things, "things-long")
    until(lambda: checkpoint(things, "things-long"), first)
    working = psutil.Process(first.pid)
    working.suspend()  # it would take the time of the second
    second = things.run("train", "things-long")
    working.resume()
    failed_in_one_line(second, "train@things-long", f"process {first.pid} on", "wait until it has ended, or end it")
    assert len(second.err.splitlines()) == 1

    before = checkpoint(things, "things-long")
    until(lambda: checkpoint(things, "things-long") != before, first)
    first.terminate()
    ran = end(first)
    assert (ran.status, ran.err) == (143, f"terminated: {LEFT}")
    assert left(things) == [checkpoint(things, "things-long")[0]]


def test_stage_whose_dvc_had_ended_before_it_looked(things: Project) -> None:
    things.experiment("things-long", "things", epochs=10**4)
    command = shlex.join(things.command("train", "things-long"))
    ran = run(
        ["setsid", "sh", "-c", f"{command} &"], things.root,
        PYTHONPATH=str(REPOSITORY), DVC_STAGE="train@things-long",
    )  # fmt: skip
    assert ran.err == f"stopped, as DVC has ended: {LEFT}"  # the pipe has no other end left: the process has gone too


def test_stage_that_hangs_ends_with_its_dvc_all_the_same(project: Project) -> None:
    (project.root / "hang.py").write_text(HANGING)
    ran = run(
        ["setsid", "sh", "-c", f"{shlex.quote(sys.executable)} hang.py &"], project.root,
        PYTHONPATH=str(REPOSITORY), DVC_STAGE="train@things-long",
    )  # fmt: skip
    assert (ran.out, ran.err) == ("not yet\n", "")


def test_error_for_the_person_comes_once_and_at_once(things: Project) -> None:
    # every epoch multiplies the weights by -999: the loss overflows after a few good ones
    runaway = {"name": "sgd", "lr": 1.0, "weight_decay": 1000.0}
    things.experiment("things-nan", "things", optimizer=runaway, epochs=50, batch_size="full", compute=TWO)
    ran = things.run("train", "things-nan")
    failed_in_one_line(ran, "in epoch", "the last good state", ".checkpoints/things-nan", "lower optimizer.lr")
    assert len(ran.err.splitlines()) == 1
    assert not (things.root / "models").exists()


# --- Several machines ------------------------------------------------------------------------------------------------


@pytest.fixture
def two_machines() -> Iterator[list[str]]:
    """Names of two network namespaces joined by a cable, 10.73.0.1 and 10.73.0.2 on their `eth0`."""
    names = [f"clasificador{os.getpid()}{side}" for side in "ab"]
    made: list[str] = []
    try:
        for name in names:
            run_or_skip("ip", "netns", "add", name)
            made.append(name)
        run_or_skip(
            "ip", "-n", names[0], "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", names[1]
        )
        for number, name in enumerate(names, start=1):
            run_or_skip("ip", "-n", name, "address", "add", f"10.73.0.{number}/24", "dev", "eth0")
            run_or_skip("ip", "-n", name, "link", "set", "eth0", "up")
            run_or_skip("ip", "-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "delete", name], check=True)


def test_two_machines_train_as_one(
    things: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, two_machines: list[str]
) -> None:
    """The first as DVC starts it, the second by torchrun, with its own copy of the data; the first has the results."""
    stage(things, monkeypatch, "things-parts", compute={"device": "cpu", "threads": 1}, grad_accum_steps=2)
    things.experiment("things-two", "things", compute={"device": "cpu", "threads": 1, "nodes": 2})
    things.command("train")
    other = tmp_path / "other"
    shutil.copytree(things.root / "data", other / "data")
    shutil.copy(things.root / "params.yaml", other)

    inside = [("ip", "netns", "exec", name) for name in two_machines]
    meeting = {"MASTER_ADDR": "10.73.0.1", "GLOO_SOCKET_IFNAME": "eth0"}
    first = start(things, "things-two", *inside[0], **meeting, NODE_RANK="0")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--node-rank=1", "--nproc-per-node=1"]
    second = subprocess.Popen(
        [*inside[1], *torchrun, "--master-addr=10.73.0.1", "-m", "pipeline.train", "things-two"],
        cwd=other,
        env={**ENVIRONMENT, **meeting, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    ran, (_, errors) = end(first), second.communicate(timeout=300)
    assert ran.status == 0, ran.err + errors
    assert second.returncode == 0, errors
    assert weights(things, "things-two") == weights(things, "things-parts")
    assert sorted(path.name for path in other.iterdir()) == ["data", "params.yaml"]
