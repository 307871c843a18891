"""No password or token comes out again: not in what is printed, not in a file, whatever fails."""

from __future__ import annotations

import hashlib
import io
import os
import sys
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from conftest import REPOSITORY, Project, failed_in_one_line, picture
from conftest import run as run_command
from hypothesis import given
from hypothesis import strategies as st
from servers import LockedServer, free_port
from test_tracking import Results

from pipeline import evaluate, predict, train
from pipeline.system.console import UserError, printable, run
from pipeline.system.credentials import hide, hide_in, holds_secret, redacted
from pipeline.system.workers.cluster import Cluster

SECRET = "Hunter2"
PASSWORD = f"{SECRET}:a@b/c d%"  # each sign of which is one of URLs
QUOTED = quote(PASSWORD, safe="")


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        (f"http://me:{SECRET}@host:80/x.zip", "http://***@host:80/x.zip"),
        (f"HTTPS://{SECRET}@host/", "HTTPS://***@host/"),
        (f"https://{SECRET}:@host", "https://***@host"),
        (f"https://{SECRET}:x-oauth-basic@host", "https://***@host"),
        (f"https://me@corp.example:{SECRET}@host", "https://***@host"),
        (f"http://me:{QUOTED}@host/", "http://***@host/"),
        (f"http://me:{PASSWORD}@host/", "http://***@host/"),
        (f"ssh://me:{PASSWORD}@host:22/data/x@2.zip", "ssh://me:***@2.zip"),  # the last @ is the one that is sure
        (f"postgresql+psycopg2://me:1/{SECRET}@db@host/mlflow", "postgresql+psycopg2://me:***@host/mlflow"),
        (f"mysql+pymysql://me:{SECRET}@[::1]:3306/x?ssl=1", "mysql+pymysql://me:***@[::1]:3306/x?ssl=1"),
        (f"postgresql://host/x?user=me&password={SECRET}", "postgresql://host/x?user=me&password=***"),
        (f"https://host/x?a=1&X-Amz-Signature={SECRET}&b=2", "https://host/x?a=1&X-Amz-Signature=***&b=2"),
        (f"https://host/x?sv=2&sig={SECRET}%3D", "https://host/x?sv=2&sig=***"),
        (f"https://host/x#access_token={SECRET}", "https://host/x#access_token=***"),
    ],
)
def test_an_address_without_its_credentials(address: str, shown: str) -> None:
    assert hide_in(address) == shown
    assert holds_secret(address) and not holds_secret(shown)
    assert hide(f"can't reach '{address}': see ssh://you@host or a@b") == (
        f"can't reach '{shown}': see ssh://you@host or a@b".replace("%20", " ")
    )
    if " " not in address:
        assert hide(f"{address}: HTTP 404; {address}") == f"{shown}: HTTP 404; {shown}"


@pytest.mark.parametrize(
    "address",
    [
        "ssh://me@host:22/photos@2x.zip", "http://host:8000/photos@2x", "http://[::1]:8000/a@b", "s3://bucket/a b:c@d",
        "sqlite:////home/a:b@c/mlflow.db", "gs://bucket/token=1", "C:/a@b", "/data/a:b@c", "photos", "apt:package",
        "https://host/x?monkey=1&design=2", "evaluate@digits",
    ],
)  # fmt: skip
def test_an_address_without_any_is_left_alone(address: str) -> None:
    assert hide(address) == address and not holds_secret(address)


def test_an_address_that_lacks_its_scheme() -> None:
    assert hide_in(f"me:{PASSWORD}@host/x") == "me:***@host/x"
    assert redacted(ValueError(f"no tracker {SECRET}"), f"me:{SECRET}@host") == "no tracker ***"


def test_a_part_that_a_library_took_for_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    said = f"port could not be cast to integer value as '{SECRET}'"
    hidden = "port could not be cast to integer value as '***'"
    address = f"http://me:{SECRET}/b@host"
    assert redacted(ValueError(said), address) == hidden
    assert redacted(ValueError(said), f"postgresql://host/x?password={SECRET}&user=me") == hidden
    monkeypatch.setenv("HTTPS_PROXY", address)
    assert redacted(ValueError(said), "https://elsewhere") == hidden


@pytest.mark.parametrize("address", ["tcp://me:{}@127.0.0.1:9", "me:{}@127.0.0.1:9"])
def test_a_scheduler_whose_address_holds_a_password(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    distributed = pytest.importorskip("distributed")

    def refuse(place: str, **options: Any) -> None:  # a real client takes 20 seconds to go
        raise ValueError(f"invalid address {place.rpartition('/')[2]!r}")

    monkeypatch.setattr(distributed, "Client", refuse)
    with pytest.raises(UserError, match=r"me:\*\*\*@127.0.0.1:9: no scheduler answers .*'me:\*\*\*@") as refused:
        Cluster(address.format(SECRET))
    assert SECRET not in str(refused.value)


@given(st.text(min_size=1), st.sampled_from(["ssh", "postgresql", "https"]))
def test_any_password_that_is_quoted(password: str, scheme: str) -> None:
    address = f"{scheme}://me:{quote(f'{SECRET}{password}', safe='', errors='replace')}@host/x"
    assert SECRET not in hide(f"a {address}, (b) '{address}'") and hide(address).endswith("@host/x")


@given(st.text())
def test_any_text_is_fit_for_a_terminal(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable() and (shown == text) == text.isprintable()


# Planted everywhere


def archive() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for number in range(24):
            image = io.BytesIO()
            picture(number).save(image, "PNG")
            file.writestr(f"{('cat', 'dog')[number % 2]}/{number}.png", image.getvalue())
    return stream.getvalue()


@pytest.fixture
def server() -> Iterator[LockedServer]:
    with LockedServer("me", PASSWORD) as server:
        server.files["/toy/toy.zip"] = archive()
        yield server
        server.shutdown()


@pytest.fixture
def closed() -> str:
    """Host and port at which nobody answers."""
    return f"127.0.0.1:{free_port()}"


@pytest.fixture
def planted(project: Project, server: LockedServer, closed: str, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project whose environment and params.yaml hold a password wherever one can be."""
    content = server.files["/toy/toy.zip"]
    file = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    mirrors = [
        f"http://me:{QUOTED}@{closed}/toy/", f"http://127.0.0.1:{server.server_port}/moved",
        f"http://me:wrong{SECRET}@127.0.0.1:{server.server_port}/toy", f"ftp://me:{PASSWORD}@host", f"http://me:{PASSWORD}@host:port",
        f"http://me:{QUOTED}@127.0.0.1:{server.server_port}/toy",
    ]  # fmt: skip
    server.elsewhere = f"nowhere://me:{SECRET}@host/toy.zip?X-Amz-Signature={SECRET}"
    project.params["downloads"]["toy"] = {"mirrors": mirrors, "files": {"toy.zip": file}}
    project.dataset("toy", "data/raw/toy", split={"val": 0.2, "test": 0.3})
    project.experiment("toy-mlp", "toy")
    environment = {
        "DATA_MIRROR": f"me:{PASSWORD}@host/data",
        "MLFLOW_TRACKING_URI": f"http://me:{QUOTED}@{closed}",
        **dict.fromkeys(("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"), SECRET),
        **dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"), SECRET),
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return project


def ran(project: Project, stage: str, *arguments: str, status: int = 0, **environment: str) -> str:
    """What a stage printed, which must not be the secret."""
    known = {key: value for key, value in os.environ.items() if SECRET in value}
    done = project.run(stage, *arguments, **{**known, **environment})
    assert done.status == status and "Traceback" not in done.err, done.out + done.err
    assert SECRET not in done.out + done.err, done.out + done.err
    return done.out + done.err


def test_stages_say_nothing_of_credentials(
    planted: Project, server: LockedServer, closed: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    printed = ran(planted, "download", "toy")
    assert f"toy.zip from http://***@127.0.0.1:{server.server_port}/toy/toy.zip" in printed
    for line in (f"http://***@{closed}/toy/toy.zip: connection refused", "me:***@host/data", "toy/toy.zip: HTTP 401"):
        assert line in printed
    for stage in ("check", "split", "report", "pack"):
        ran(planted, stage, "toy")
    ran(planted, "download", "--weights", "toy-mlp")
    monkeypatch.chdir(planted.root)
    for module, arguments in (
        (train, ["toy-mlp"]),
        (evaluate, ["toy-mlp"]),
        (predict, ["--model", "models/toy-mlp", "--json", f"http://me:{SECRET}@host/x.png"]),
    ):
        monkeypatch.setattr(sys, "argv", ["", *arguments])
        with pytest.raises(SystemExit):
            run(partial(evaluate.main, *arguments) if module is evaluate else module.main)
    told = "".join(capsys.readouterr())
    assert "accuracy" in told

    params = planted.params["downloads"]["toy"]
    *_, mirror = params["mirrors"]
    params["mirrors"] = params["mirrors"][1:3]  # a closed port is tried again and again
    (planted.root / "data/raw/toy/toy.zip").unlink()
    assert "toy/toy.zip can't be fetched: me:***@host/data/toy: expected" in ran(planted, "download", "toy", status=1)
    planted.params["downloads"]["toy"] = {**params, "mirrors": mirror}
    assert "http://***@127.0.0.1" in ran(planted, "download", "toy", status=1)
    planted.params["downloads"]["toy"] = {**params, mirror: 1}
    assert "unknown key 'http://***@127.0.0.1" in ran(planted, "download", "toy", status=1)

    texts = {path: path.read_bytes() for path in planted.root.rglob("*") if path.is_file()}
    holding = {path.name for path, content in texts.items() if SECRET.encode() in content or SECRET in str(path)}
    assert len(texts) > 20 and holding == {"params.yaml"}


@pytest.mark.parametrize(
    "uri",
    ["postgresql+psycopg2://me:{}@{}/mlflow?password={}", "nonsense://me:{}@{}?token={}", "http://me:{}/x@{}/?key={}"],
)
def test_an_unreachable_tracker_is_named_without_credentials(planted: Project, closed: str, uri: str) -> None:
    results = Results(planted.root)
    results.add("a")
    printed = ran(results, "track", "a", MLFLOW_TRACKING_URI=uri.format(SECRET, closed, SECRET), DVC_STAGE="evaluate@a")
    assert printed.startswith("warning: not logged to ") and "***@127.0.0.1" in printed
    assert not [path for path in planted.root.rglob("*") if SECRET in path.name]


@pytest.mark.parametrize(
    "source", [f"ssh://me:{PASSWORD}@host/x", f"https://{SECRET}@host/x.zip", f"https://host/x?sig={SECRET}"]
)
def test_what_dvc_would_write_into_its_lock_is_refused(planted: Project, source: str) -> None:
    planted.dataset("toy", source)
    refused = planted.run("check", "toy")
    failed_in_one_line(refused, "params.yaml: datasets.toy.source: ", "~/.netrc", "~/.ssh/config")
    assert SECRET not in refused.err

    planted.dataset("toy", "photos")
    weights = {"file": "x.pth", "sha256": "0" * 64, "mirrors": ["http://host", source]}
    network = {"name": "torchvision", "model": "alexnet", "weights": weights}
    planted.experiment("toy-mlp", "toy", network=network)
    refused = planted.run("download", "--weights", "toy-mlp")
    failed_in_one_line(refused, "params.yaml: experiments.toy-mlp.network.weights.mirrors.1: ")
    assert SECRET not in refused.err


def test_a_source_whose_password_is_in_netrc(project: Project, server: LockedServer, tmp_path: Path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text(f'machine 127.0.0.1 login me password "{PASSWORD}"\n')
    project.dataset("toy", f"http://127.0.0.1:{server.server_port}/toy/toy.zip")
    assert "24 files: 24 ok" in project.must_run("check", "toy", NETRC=str(netrc)).out
    failed_in_one_line(project.run("check", "toy", NETRC="nowhere"), "toy/toy.zip is not there")


def test_a_traceback_is_without_credentials() -> None:
    address = f"http://me:{SECRET}@host \x1b[2J"
    hook = "import sys; from pipeline.system import entry; sys.excepthook = entry.end_quietly"
    script = f"{hook}\nraise ValueError({address!r})"
    done = run_command([sys.executable, "-c", script], REPOSITORY)
    assert done.status == 1 and done.err.splitlines()[-1] == r"ValueError: http://***@host \x1b[2J"
