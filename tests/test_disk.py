"""Disks that are full and folders that belong to somebody else: what is told, and what is left behind."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import REPOSITORY, Project, Ran, class_folders, failed_in_one_line, make_clone, outputs, run, wait_until
from test_tracking import Results

from pipeline.system.outputs import atomic_write

DAEMON, BIN, TEAM = 1, 2, 50  # accounts and a group (staff) of every Debian


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("file systems can't be mounted here: that is for root")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def fill(disk: Path, left: int = 0) -> Path:
    """Leave so many bytes free."""
    file = disk / "filler"
    free = os.statvfs(disk)
    file.write_bytes(bytes(free.f_bavail * free.f_frsize - left))
    return file


def test_a_full_disk_is_one_line_that_names_the_file(small_disk: Path) -> None:
    project = Project(small_disk)
    class_folders(small_disk / "photos", {"cat": 9, "dog": 9})
    project.dataset("photos", "photos")
    written = {"check": "000000.parquet", "split": "data/splits/photos.json", "pack": "data/packed/photos"}
    for stage, path in written.items():
        before, command = outputs(project), project.command(stage, "photos")
        filler = fill(small_disk)
        failed_in_one_line(run(command, small_disk, PYTHONPATH=str(REPOSITORY)), path, "No space left on device")
        assert outputs(project) == before and not list(small_disk.rglob(".*.partial"))
        filler.unlink()
        project.must_run(stage, "photos")


@pytest.mark.skipif(not Path("/proc").exists(), reason="only /proc tells which processes have ended")
def test_what_a_killed_process_left_is_removed_before_anybody_has_asked_how_it_ended(tmp_path: Path) -> None:
    """In many containers, nobody asks for long."""
    with subprocess.Popen(["true"]) as killed:
        wait_until(lambda: b") Z " in Path(f"/proc/{killed.pid}/stat").read_bytes())
        (tmp_path / f".table.{killed.pid}.partial").write_text("half")
        (tmp_path / f".table.{os.getppid()}.partial").write_text("of a process that runs")
        with atomic_write(tmp_path / "table") as partial:
            partial.write_text("whole")
    assert {path.name for path in tmp_path.iterdir()} == {"table", f".table.{os.getppid()}.partial"}


@pytest.mark.parametrize("inside", ["", "folder/1.csv"])
def test_a_write_that_fails_names_the_file_that_was_to_be(tmp_path: Path, inside: str) -> None:
    with pytest.raises(FileNotFoundError) as caught, atomic_write(tmp_path / "table") as partial:
        (partial / inside).read_bytes()
    assert caught.value.filename == str(tmp_path / "table" / inside)
    assert list(tmp_path.iterdir()) == []


def test_a_read_only_folder_is_one_line(small_disk: Path) -> None:
    project = Project(small_disk)
    class_folders(small_disk / "photos", {"cat": 9, "dog": 9})
    project.dataset("photos", "photos")
    command = project.command("check", "photos")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    ran = run(command, small_disk, PYTHONPATH=str(REPOSITORY))
    failed_in_one_line(ran, ".checkpoints", "Read-only file system")
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    project.must_run("check", "photos")


class Member:
    """Somebody who shares a machine and a group with others, and has a clone of their own."""

    def __init__(self, account: int, root: Path) -> None:
        self.clone = make_clone(root)
        (root / "data/raw").mkdir()
        self.clone.must_run("chown", "-R", f"{account}:{account}", str(root))
        # may read what this test's user may, such as the installed packages, but write only as themselves
        capability = "+dac_read_search"
        self.prefix = ["setpriv", f"--reuid={account}", f"--regid={account}", f"--groups={TEAM}"]
        self.prefix += [f"--inh-caps={capability}", f"--ambient-caps={capability}", "--"]

    def dvc(self, *arguments: str) -> Ran:
        command = [*self.prefix, str(REPOSITORY / ".venv/bin/dvc"), *arguments]
        own = {"HOME": str(self.clone.root), "DVC_SITE_CACHE_DIR": str(self.clone.root / "site")}
        return run(["sh", "-c", 'umask 022; exec "$@"', "sh", *command], self.clone.root, **own)

    def push(self, content: bytes) -> Ran:
        """Add a file of their own and push it."""
        (self.clone.root / "data/raw/own.bin").write_bytes(content)
        added = self.dvc("add", "data/raw/own.bin")
        assert added.status == 0, added.err
        return self.dvc("push", "data/raw/own.bin")


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="only root can be several people")
def test_two_people_push_to_a_shared_folder(tmp_path: Path) -> None:
    shared = tmp_path / "team"
    shared.mkdir()
    os.chown(shared, -1, TEAM)
    shared.chmod(0o2775)
    people = [Member(account, tmp_path / str(account)) for account in (DAEMON, BIN)]
    for person in people:
        person.dvc("remote", "add", "--default", "team", str(shared))
        person.dvc("remote", "modify", "team", "shared", "group")
    # the same first two digits of a hash: both write into one folder
    contents = b"19", b"24"
    for person, content in zip(people, contents, strict=True):
        pushed = person.push(content)
        assert pushed.status == 0 and "1 file pushed" in pushed.out, pushed.err


def test_a_full_disk_under_mlflow_costs_a_line_and_track_completes_later(small_disk: Path, tmp_path: Path) -> None:
    results = Results(tmp_path)
    results.add("a")
    uri = f"sqlite:///{small_disk}/mlflow.db"
    filler = fill(small_disk, left=300_000)  # for some of the tables
    ran = results.track("a", MLFLOW_TRACKING_URI=uri, DVC_STAGE="evaluate@a")
    assert ran.status == 0
    (line,) = ran.err.splitlines()
    assert line.startswith(f"warning: not logged to {uri}: ") and "pace" in line
    filler.unlink()
    ran = results.track(MLFLOW_TRACKING_URI=uri)
    assert (ran.status, ran.err) == (0, "") and "logged to" in ran.out
