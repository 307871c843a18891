"""The recipes of docs/sharing.md, run as they are written there, on real services of this machine."""

from __future__ import annotations

import getpass
import os
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import ENVIRONMENT, REPOSITORY, Clone, Ran, commit, follow, git_clone, recipe, run, wait_until
from servers import Server, s3_client, s3_server
from servers import sshd as sshd

SECRET = "Hunter2"


def project(root: Path) -> Clone:
    """A git repository with DVC set up as here, and a folder of files."""
    (root / ".dvc").mkdir(parents=True)
    for name in ("config", ".gitignore"):
        shutil.copy(REPOSITORY / ".dvc" / name, root / ".dvc")
    (root / ".venv").symlink_to(REPOSITORY / ".venv")
    (root / ".gitignore").write_text(".venv\n/photos\n")
    clone = Clone(root)
    clone.must_run("git", "init", "-q", "-b", "main")
    return clone


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# A remote on another machine


@dataclass
class Remote:
    """A recipe for a remote, what each person adds to it, and how many complete files are there."""

    shared: str
    own: str
    environment: dict[str, str]
    files: Callable[[], int]


@pytest.fixture
def ssh(sshd: Server, tmp_path: Path) -> Remote:
    folder = tmp_path / "srv"
    address = f"ssh://{getpass.getuser()}@127.0.0.1:{sshd.port}{folder}"
    shared = recipe(
        ".venv/bin/dvc remote add --default team ssh:", ("ssh://clasificador@host/srv/clasificador", address)
    )
    own = recipe(".venv/bin/dvc remote modify --local team keyfile", ("~/.ssh/team", str(sshd.key)))
    own += ".venv/bin/dvc remote modify --local team allow_agent false"
    return Remote(shared, own, {}, lambda: len(whole_files(folder)))


@pytest.fixture
def s3() -> Iterator[Remote]:
    with s3_server() as environment:
        client = s3_client(environment)
        del environment["AWS_ENDPOINT_URL"]
        shared = recipe(
            ".venv/bin/dvc remote add --default team s3:", ("https://s3.example.com", client.meta.endpoint_url)
        )
        own = recipe(".venv/bin/dvc remote modify --local team access", ("KEY", "key"), ("SECRET", SECRET))
        environment["AWS_SECRET_ACCESS_KEY"] = SECRET
        yield Remote(shared, own, environment, lambda: client.list_objects_v2(Bucket="bucket")["KeyCount"])


def whole_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("files/md5/*/*") if not path.name.endswith(".tmp")]


def killed_after(clone: Clone, begun: Callable[[], int], *command: str, **environment: str) -> None:
    """Kill a command with all that it has started once it has brought a file to its place."""
    program = [str(REPOSITORY / ".venv/bin" / command[0]), *command[1:]]
    process = subprocess.Popen(
        program, cwd=clone.root, env={**ENVIRONMENT, **environment}, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_until(begun, pause=0.01)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


@pytest.mark.parametrize("service", ["ssh", "s3"])
def test_killed_pushes_and_pulls_go_on(service: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    remote: Remote = request.getfixturevalue(service)
    mine = project(tmp_path / "mine")
    (mine.root / "photos").mkdir()
    for number in range(6):
        (mine.root / f"photos/{number}").write_bytes(os.urandom(16_000_000))
    mine.must_run("dvc", "add", "photos")
    follow(mine, remote.shared)
    commit(mine)
    follow(mine, remote.own)
    killed_after(mine, remote.files, "dvc", "push", "--jobs", "1", **remote.environment)
    assert remote.files() < 7  # one names the others
    told = mine.must_run("dvc", "push", "--verbose", **remote.environment)
    assert remote.files() == 7

    theirs = git_clone(mine, tmp_path / "theirs")
    follow(theirs, remote.own)
    cache = theirs.root / ".dvc/cache"
    killed_after(theirs, lambda: len(whole_files(cache)) > 1, "dvc", "pull", "--jobs", "1", **remote.environment)
    assert len(whole_files(cache)) < 7
    theirs.must_run("dvc", "pull", **remote.environment)
    assert contents(theirs.root / "photos") == contents(mine.root / "photos")
    assert theirs.must_run("git", "status", "--porcelain").out == ""

    assert SECRET not in told.out + told.err
    for clone in (mine, theirs):
        files = [path for path in clone.root.rglob("*") if path.is_file()]
        holding = [path.name for path in files if SECRET.encode() in path.read_bytes()]
        assert holding == (["config.local"] if service == "s3" else [])
        assert clone.must_run("git", "check-ignore", ".dvc/config.local").status == 0


# A shared folder and a shared cache of two users of this machine

GROUP = 20000  # of both; users and groups need no names


@dataclass
class Person(Clone):
    """A clone of another user, who keeps new files to themselves."""

    number: int
    python: str

    def run(self, *command: str, timeout: float = 600, **environment: str) -> Ran:
        text = shlex.join(command).replace(".venv/bin/dvc", f"{self.python} -m dvc")
        variables = {
            **ENVIRONMENT,
            "HOME": str(self.root),
            "DVC_SITE_CACHE_DIR": f"{self.root}/site",
            "USER": "someone",
        }
        done = subprocess.run(
            ["bash", "-c", f"umask 077; {text}"], cwd=self.root, env={**variables, "PYTHONPATH": PACKAGES},
            user=self.number, group=self.number, extra_groups=[GROUP], capture_output=True, text=True, timeout=timeout,
        )  # fmt: skip
        return Ran(done.returncode, done.stdout, done.stderr)

    def dvc(self, *arguments: str) -> Ran:
        return self.must_run(".venv/bin/dvc", *arguments)

    def photo(self, name: str) -> None:
        self.must_run("bash", "-c", f"mkdir -p photos; echo {name} > photos/{name}")
        self.dvc("add", "photos")


PACKAGES = sysconfig.get_paths()["purelib"]


def python_of_all() -> str:
    """A Python of this version that other users can run; the one of .venv may lie in a closed home."""
    for python in (sys.executable, f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"):
        try:
            command = [python, "-c", "import dvc"]
            if subprocess.run(command, user=GROUP, env={"PYTHONPATH": PACKAGES}, capture_output=True).returncode == 0:
                return python
        except OSError:
            pass
    pytest.skip("no Python here that other users can run together with the installed packages")


@pytest.fixture
def team() -> Iterator[tuple[Path, Person, Person]]:
    """A folder in which everyone may make folders, and the clones of two users."""
    if os.geteuid() != 0:
        pytest.skip("only root can act as two users")
    python = python_of_all()
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to others
        Path(folder).chmod(0o755)
        Path(folder, "team").mkdir()
        Path(folder, "team").chmod(0o777)
        project(Path(folder, "ana"))
        ana, ben = (Person(Path(folder, name), number, python) for name, number in (("ana", 20001), ("ben", 20002)))
        yield Path(folder, "team"), ana, ben


def hand_over(clone: Person, source: Person | None = None) -> None:
    """Make a clone its person's own; with `source`, make it from what git has there."""
    if source is not None:
        shutil.copytree(source.root / ".git", clone.root / ".git")
        run(["git", "reset", "-q", "--hard"], clone.root)
    subprocess.run(["chown", "-R", f"{clone.number}:{clone.number}", clone.root], check=True)


def test_two_users_share_a_folder(team: tuple[Path, Person, Person]) -> None:
    folder, ana, ben = team
    hand_over(ana)
    ana.photo("one")
    follow(ana, recipe("install -d -m 2775", ("-g team", f"-g {GROUP}"), ("/mnt/team", str(folder))))
    commit(ana)
    ana.dvc("push")
    hand_over(ben, ana)
    ben.dvc("pull")
    ben.photo("two")
    ben.dvc("push")
    shutil.copy(ben.root / "photos.dvc", ana.root)
    ana.dvc("pull")
    assert contents(ana.root / "photos") == {"one": b"one\n", "two": b"two\n"}


def test_two_users_share_a_cache_and_none_can_clear_it(team: tuple[Path, Person, Person]) -> None:
    folder, ana, ben = team
    (ana.root / "dvc.yaml").write_text("stages: {copy: {cmd: cat in > out, deps: [in], outs: [out]}}\n")
    (ana.root / "in").write_text("in")
    (ana.root / ".gitignore").open("a").write("/out\n")
    hand_over(ana)
    commit(ana)
    by_root, _, by_everyone = recipe(
        "sudo install", ("sudo ", ""), ("-g team", f"-g {GROUP}"), ("/mnt/team", str(folder))
    ).partition("\n")
    subprocess.run(["bash", "-ec", by_root], check=True)
    follow(ana, by_everyone)
    assert "Running stage 'copy'" in ana.dvc("repro").out
    hand_over(ben, ana)
    follow(ben, by_everyone)
    assert "Stage 'copy' is cached" in ben.dvc("repro").out
    assert (ben.root / "out").samefile(ana.root / "out")
    assert ben.run("bash", "-c", "echo > out").status != 0

    ben.photo("one")
    ben.dvc("remote", "add", "--default", "team", f"{folder}/remote")
    ben.dvc("push")
    cleared = ana.run(".venv/bin/dvc", "gc", "--workspace", "--force")
    assert cleared.status != 0 and "Operation not permitted" in cleared.err
    assert "up to date" in ben.dvc("status").out

    by_root = recipe("sudo find", ("sudo ", ""), ("/mnt/team", str(folder)))
    subprocess.run(["bash", "-ec", by_root], check=True)
    ben.dvc("pull")
    assert contents(ben.root / "photos") == {"one": b"one\n"}


# dvc gc


@pytest.fixture
def hub(tmp_path: Path) -> tuple[Clone, Clone]:
    """Two clones of a repository, with a remote for DVC, and with one photo each that the other has not."""
    mine = project(tmp_path / "mine")
    mine.must_run("dvc", "remote", "add", "--default", "team", str(tmp_path / "team"))
    commit(mine)
    theirs = git_clone(mine, tmp_path / "another")
    for clone in (mine, theirs):
        clone.must_run("dvc", "cache", "dir", "--local", str(tmp_path / "cache"))
        add_photo(clone, clone.root.name)
    return mine, theirs


def add_photo(clone: Clone, content: str) -> None:
    (clone.root / "photos").mkdir(exist_ok=True)
    photo = clone.root / "photos/photo"
    photo.unlink(missing_ok=True)  # it may be a link to the cache
    photo.write_text(content)
    clone.must_run("dvc", "add", "photos")


def texts(folder: Path) -> list[str]:
    """What the photos below a cache or a remote hold."""
    return sorted(path.read_text() for path in whole_files(folder) if path.suffix != ".dir")


def test_clones_of_one_person_share_a_cache(hub: tuple[Clone, Clone], tmp_path: Path) -> None:
    mine, _ = hub
    (clear,) = recipe(".venv/bin/dvc gc --workspace --projects", (" gc ", " gc --force ")).splitlines()
    add_photo(mine, "newer")
    follow(mine, clear)
    assert texts(tmp_path / "cache") == ["another", "newer"]


def test_what_others_have_committed_stays_in_the_remote(hub: tuple[Clone, Clone], tmp_path: Path) -> None:
    mine, theirs = hub
    for clone in hub:
        clone.must_run("dvc", "push")
    theirs.must_run("git", "checkout", "-q", "-b", "idea")
    commit(theirs)
    theirs.must_run("git", "push", "-q", "origin", "idea")
    mine.must_run("git", "remote", "add", "origin", str(theirs.root))
    add_photo(mine, "newer")
    mine.must_run("dvc", "push")
    commit(mine)
    assert texts(tmp_path / "team") == ["another", "mine", "newer"]
    follow(mine, recipe("git fetch --all", (" gc ", " gc --force ")))
    assert texts(tmp_path / "team") == ["another", "newer"]

    add_photo(mine, "draft")
    add_photo(mine, "newest")
    assert texts(tmp_path / "cache") == ["another", "draft", "newer", "newest"]
    follow(mine, recipe(".venv/bin/dvc gc --all-commits", (" gc ", " gc --force ")))
    assert texts(tmp_path / "cache") == ["another", "newer", "newest"]  # no commit has the draft
    theirs.must_run("dvc", "pull")
    assert (theirs.root / "photos/photo").read_text() == "another"
