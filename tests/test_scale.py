"""Images that outgrow one machine: the same bytes from S3, over SSH, and from a cluster that loses a worker."""

from __future__ import annotations

import getpass
import logging
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil
import pytest
from conftest import ENVIRONMENT, REPOSITORY, Project, class_folders, failed_in_one_line, outputs, picture
from servers import Server, free_port, s3_client, s3_server
from servers import sshd as sshd

from pipeline.system import workers
from pipeline.system.workers.apart import apply_apart
from pipeline.system.workers.pool import OutOfMemory, WorkerCrashed

EXIT = "__import__('os')._exit(9)"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder and a zip of the same images, a broken one and copies among them."""
    root = tmp_path_factory.mktemp("photos")
    folder = class_folders(root / "photos", {"cat": 150, "dog": 130})
    for number in range(20):  # big ones
        picture(number, 300, 300).save(folder / f"dog/big{number:02d}.png", compress_level=9)
    (folder / "cat/broken.png").write_bytes((folder / "cat/000.png").read_bytes()[:99])
    shutil.copy(folder / "cat/001.png", folder / "dog/copy.png")
    with zipfile.ZipFile(root / "photos.zip", "w") as archive:
        for file in sorted(folder.rglob("*.png")):
            archive.write(file, file.relative_to(folder))
    for name in ("parts", "linked"):
        (root / name).mkdir()
    for label in ("cat", "dog"):
        (root / "linked" / label).symlink_to(folder / label)
        with zipfile.ZipFile(root / "parts" / f"{label}.zip", "w") as archive:
            for file in sorted((folder / label).iterdir()):
                archive.write(file, file.name)
    return root


@pytest.fixture(scope="module")
def here(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What check and pack make of the images on this machine alone."""
    return made(Project(tmp_path_factory.mktemp("here")), str(photos / "photos.zip"))


def made(project: Project, source: str, **environment: str) -> dict[str, bytes]:
    """Run check, split and pack on a source; all that they wrote."""
    project.dataset("photos", source, max_quarantined=0.1)
    for stage in ("check", "split", "pack"):
        project.must_run(stage, "photos", **environment)
    return outputs(project)


# S3 and SSH


class Requests(logging.Handler):
    """What the server was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


REQUESTS = Requests()


@pytest.fixture(scope="module")
def s3(photos: Path) -> Iterator[dict[str, str]]:
    """The environment with which s3://bucket is a server on this machine that holds the photos."""
    log = logging.getLogger("werkzeug")
    log.propagate, log.handlers = False, [REQUESTS]
    log.setLevel(logging.INFO)
    with s3_server() as environment:
        client = s3_client(environment)
        client.upload_file(str(photos / "photos.zip"), "bucket", "archives/photos.zip")
        for label in ("cat", "dog"):
            client.upload_file(str(photos / f"parts/{label}.zip"), "bucket", f"parts/{label}.zip")
        for file in sorted((photos / "photos").rglob("*.png")):
            client.upload_file(str(file), "bucket", str(file.relative_to(photos)))
        yield environment


@pytest.mark.parametrize("place", ["archives/photos.zip", "photos", "parts"])
def test_the_same_bytes_from_s3(s3: dict[str, str], here: dict[str, bytes], project: Project, place: str) -> None:
    assert made(project, f"s3://bucket/{place}", **s3) == here


@pytest.mark.parametrize("place", ["photos.zip", "photos"])
def test_the_same_bytes_over_ssh(
    sshd: Server, photos: Path, here: dict[str, bytes], project: Project, tmp_path: Path, place: str
) -> None:
    (tmp_path / "home/.ssh").mkdir(parents=True)
    shutil.copy(sshd.key, tmp_path / "home/.ssh/id_ed25519")
    address = f"ssh://{getpass.getuser()}@127.0.0.1:{sshd.port}{photos}/{place}"
    assert made(project, address, HOME=str(tmp_path / "home")) == here
    if place == "photos":
        linked = f"{address.removesuffix('photos')}linked"
        project.dataset("photos", linked)
        linked_too = project.run("check", "photos", HOME=str(tmp_path / "home"))
        failed_in_one_line(linked_too, f"{linked}/cat is a link; expected a file or a folder in its place")


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("s3://bucket/nothing", ["s3://bucket/nothing", "is not there"]),
        ("s3://other/photos", ["s3://other/photos"]),
        ("nonsense://bucket/photos", ["nonsense://bucket/photos", "expected an address that fsspec can read"]),
    ],
)
def test_an_address_that_leads_nowhere(s3: dict[str, str], project: Project, place: str, words: list[str]) -> None:
    project.dataset("photos", place)
    failed_in_one_line(project.run("check", "photos", **s3), *words)


def test_a_storage_that_does_not_answer(s3: dict[str, str], project: Project) -> None:
    project.dataset("photos", "s3://bucket/photos")
    closed = {**s3, "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}
    failed_in_one_line(project.run("check", "photos", **closed), "s3://bucket/photos", "EndpointConnectionError")


# Dask


@contextmanager
def dask(folder: Path, environment: dict[str, str], workers: int) -> Iterator[tuple[str, psutil.Process]]:
    """The address of a scheduler with worker processes, and the process above these, when all have joined."""
    from distributed import Client

    address = f"tcp://127.0.0.1:{free_port()}"
    host, port = address.removeprefix("tcp://").split(":")
    local, number = ("--local-directory", str(folder)), str(workers)
    commands = [
        ["scheduler", "--host", host, "--port", port, "--no-dashboard", "--no-jupyter"],
        ["worker", address, "--nworkers", number, "--nthreads", "1", "--no-dashboard", *local],
    ]
    variables = {**ENVIRONMENT, "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1", **environment}
    with (folder / "log").open("w") as log:
        processes = [
            subprocess.Popen(
                [str(Path(sys.executable).with_name("dask")), *command],
                env=variables, cwd=folder, stdout=log, stderr=log,
            )
            for command in commands
        ]  # fmt: skip
    try:
        with Client(address, timeout=60, set_as_default=False) as client:
            client.wait_for_workers(workers, timeout=120)
        yield address, psutil.Process(processes[1].pid)
    finally:
        started = [psutil.Process(process.pid) for process in processes]
        for each in (*started, *(child for one in started for child in one.children(recursive=True))):
            each.kill()
        for process in processes:
            process.wait()


@pytest.fixture(scope="module")
def cluster(s3: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, psutil.Process]]:
    """Two workers that run this code and read the images from S3 themselves."""
    with dask(tmp_path_factory.mktemp("dask"), {**s3, "PYTHONPATH": str(REPOSITORY)}, workers=2) as started:
        yield started


def worker_processes(nannies: psutil.Process) -> list[psutil.Process]:
    return [child for child in nannies.children() if "spawn_main" in " ".join(child.cmdline())]


def test_the_same_bytes_from_a_cluster_that_loses_a_worker(
    cluster: tuple[str, psutil.Process], s3: dict[str, str], here: dict[str, bytes], project: Project
) -> None:
    address, nannies = cluster
    environment = {**s3, "DASK_SCHEDULER_ADDRESS": address}
    project.dataset("photos", "s3://bucket/photos", max_quarantined=0.1)
    process = subprocess.Popen(
        project.command("check", "photos"), cwd=project.root,
        env={**ENVIRONMENT, "PYTHONPATH": str(REPOSITORY), **environment},
    )  # fmt: skip
    deadline = time.monotonic() + 60
    REQUESTS.lines.clear()
    while not any("GET /bucket/photos/" in line and ".png" in line for line in REQUESTS.lines):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.001)
    before = worker_processes(nannies)
    before[0].kill()
    assert process.wait(120) == 0
    deadline = time.monotonic() + 30
    while set(worker_processes(nannies)) & set(before) != {before[1]} or len(worker_processes(nannies)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    for stage in ("split", "pack"):
        project.must_run(stage, "photos", **environment)
    assert outputs(project) == here


def crashed(item: object, reason: str) -> str:
    return reason


def test_an_image_that_kills_every_worker_is_given_up(
    cluster: tuple[str, psutil.Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", cluster[0])
    monkeypatch.setattr(workers, "CHUNK_ITEMS", 4)
    monkeypatch.setattr(workers, "SECONDS_PER_CHUNK", 5)
    hang = "__import__('time').sleep(99)"
    tasks = [{5: EXIT, 9: hang}.get(number, str(number)) for number in range(14)]
    results = list(workers.ordered_map(partial(map, eval), tasks, len, crashed))
    given_up = {5: "its decoder crashed", 9: "not decoded in 5 s"}
    assert results == [given_up.get(number, number) for number in range(14)]


def test_a_process_of_its_own_tells_why_it_ended() -> None:
    """Which Dask does not: where its workers were killed, it is not the image's fault."""
    assert apply_apart(partial(map, eval), ["1 + 1", "2 * 3"], 60) == [2, 6]
    for task, ends, words in (
        (EXIT, WorkerCrashed, ""),
        ("__import__('os').kill(__import__('os').getpid(), 9)", OutOfMemory, "was killed, with .* MB"),
        ("bytearray(2**60)", MemoryError, ""),
    ):
        with pytest.raises(ends, match=words or None):
            apply_apart(partial(map, eval), [task], 60)
    with pytest.raises(TimeoutError):
        apply_apart(partial(map, eval), ["__import__('time').sleep(99)"], 1)


def test_a_scheduler_that_is_not_there(photos: Path, project: Project) -> None:
    project.dataset("photos", str(photos / "photos.zip"), max_quarantined=0.1)
    for address in ("tcp://127.0.0.1:9", "nonsense://x"):
        ran = project.run("check", "photos", DASK_SCHEDULER_ADDRESS=address)
        failed_in_one_line(ran, f"DASK_SCHEDULER_ADDRESS={address}", "no scheduler answers")


def test_a_worker_with_another_stage_module_is_refused(
    photos: Path, tmp_path: Path, cluster: tuple[str, psutil.Process]
) -> None:
    """All of the pipeline counts, also a stage's own module: `pack.py` holds what its workers run."""
    other = tmp_path / "other"
    shutil.copytree(REPOSITORY / "pipeline", other / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    with (other / "pipeline/pack.py").open("a") as file:
        file.write("# changed\n")
    project = Project(tmp_path)
    project.dataset("photos", str(photos / "photos.zip"), max_quarantined=0.1)
    ran = project.run("check", "photos", PYTHONPATH=str(other), DASK_SCHEDULER_ADDRESS=cluster[0])
    failed_in_one_line(ran, "runs another version of this project", "update its clone")
