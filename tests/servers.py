"""Real servers on this machine, for tests that reach data over a network."""

from __future__ import annotations

import base64
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from glob import glob
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
from conftest import ENVIRONMENT, REPOSITORY

# Debian keeps it out of PATH
POSTGRES = shutil.which("postgres", path=os.pathsep.join([os.environ["PATH"], *glob("/usr/lib/postgresql/*/bin")]))
SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin:/usr/bin")


@dataclass
class Server:
    port: int
    key: Path


def free_port() -> int:
    """A port of this machine at which nobody answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class MLflowServer:
    """A real MLflow server with a store of artifacts in a folder, which can be killed and started again."""

    def __init__(self, home: Path, backend: str, *options: str, **environment: str) -> None:
        self.home, self.port = home, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.command = [
            str(REPOSITORY / ".venv/bin/mlflow"), "server", "--port", str(self.port), "--workers", "1",
            "--backend-store-uri", backend, "--artifacts-destination", str(home / "artifacts"), *options,
        ]  # fmt: skip
        self.environment = {**ENVIRONMENT, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **environment}  # as `make ui`
        self.start()

    def start(self) -> None:
        with (self.home / "log").open("w") as log:
            self.process = subprocess.Popen(
                self.command, cwd=self.home, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        for _ in range(600):
            assert self.process.poll() is None, (self.home / "log").read_text()
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.1)
        else:
            raise AssertionError((self.home / "log").read_text())

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def mlflow_server(home: Path, *options: str, **environment: str) -> Iterator[str]:
    """The address of a server that keeps runs in a folder, too."""
    server = MLflowServer(home, f"sqlite:///{home}/mlflow.db", *options, **environment)
    try:
        yield server.uri
    finally:
        server.kill()


ADMIN = ("admin", "a longer password")


@contextmanager
def guarded_server(home: Path, *users: str) -> Iterator[str]:
    """The address of a server with MLflow's own users, who may read what others have logged."""
    import mlflow

    settings = (Path(mlflow.__file__).parent / "server/auth/basic_auth.ini").read_text()
    config = home / "auth.ini"
    config.write_text(f"{settings}\nauth_cache_ttl_seconds = 60\n")  # else each request takes a third of a second
    variables = {
        "MLFLOW_AUTH_CONFIG_PATH": str(config),
        "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN[1],
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "secret",
    }
    with mlflow_server(home, "--app-name", "basic-auth", **variables) as uri:
        for user in users:
            ask_admin(uri, "2.0/mlflow/users/create", username=user, password=f"Hunter2 of {user}")
        yield uri


def ask_admin(uri: str, path: str, **values: str) -> None:
    """Send a request to a guarded server as its administrator."""
    requests.post(f"{uri}/api/{path}", json=values, auth=ADMIN, timeout=60).raise_for_status()


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Server]:
    """A real SSH server on this machine that lets this user in with a key made for the test."""
    if SSHD is None or shutil.which("ssh-keygen") is None:
        pytest.skip("no sshd on this machine: apt install openssh-server")
    home = tmp_path / "sshd"
    home.mkdir()
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # as the system's own start of sshd does
    for key in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(home / key)], check=True)
    port = free_port()
    options = {
        "Port": port, "ListenAddress": "127.0.0.1", "HostKey": home / "host", "PidFile": home / "pid",
        "AuthorizedKeysFile": home / "user.pub", "StrictModes": "no", "UsePAM": "no", "PermitRootLogin": "yes",
        "PasswordAuthentication": "no", "Subsystem": "sftp internal-sftp",
    }  # fmt: skip
    config = home / "config"
    config.write_text("".join(f"{key} {value}\n" for key, value in options.items()))
    command = [SSHD, "-D", "-e", "-f", str(config)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert answers(port, server), server.stderr.read() if server.stderr else ""
            yield Server(port, home / "user")
        finally:
            server.kill()


def answers(port: int, server: subprocess.Popen[str]) -> bool:
    for _ in range(100):
        if server.poll() is not None:
            return False
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return True
        except OSError:
            time.sleep(0.05)
    server.kill()
    return False


@contextmanager
def postgres_server() -> Iterator[str]:
    """The address of an empty PostgreSQL database on this machine, with user and password."""
    assert POSTGRES is not None
    programs = Path(POSTGRES).resolve().parent
    # not in a folder of pytest's, which only its user may enter; and root may not run PostgreSQL
    with tempfile.TemporaryDirectory() as folder:
        other = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
        if other:
            shutil.chown(folder, "postgres")
        home, port = Path(folder), free_port()
        (home / "password").write_text("Pass-Word9")
        (home / "password").chmod(0o644)
        make = [str(programs / "initdb"), "-D", str(home / "data"), "-U", "mlflow", "--auth=scram-sha-256"]
        subprocess.run(
            [*other, *make, f"--pwfile={home}/password", "--no-sync"], check=True, capture_output=True, cwd=home
        )
        serve = [str(programs / "postgres"), "-D", str(home / "data"), "-p", str(port), "-k", "", "-c", "fsync=off"]
        with subprocess.Popen([*other, *serve], cwd=home, stderr=subprocess.PIPE, text=True) as server:
            try:
                assert answers(port, server), server.stderr.read() if server.stderr else ""
                yield f"postgresql+pg8000://mlflow:Pass-Word9@127.0.0.1:{port}/postgres"
            finally:
                server.send_signal(signal.SIGINT)  # ends its processes too


@contextmanager
def s3_server() -> Iterator[dict[str, str]]:
    """The environment with which s3://bucket is an empty bucket on this machine."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }  # fmt: skip
    # all servers of one process share what they hold
    requests.post(f"{environment['AWS_ENDPOINT_URL']}/moto-api/reset", timeout=10).raise_for_status()
    s3_client(environment).create_bucket(Bucket="bucket")
    yield environment
    server.stop()


def s3_client(environment: dict[str, str]) -> Any:
    import boto3

    return boto3.client(
        "s3", endpoint_url=environment["AWS_ENDPOINT_URL"], region_name="us-east-1", aws_access_key_id="key",
        aws_secret_access_key="secret",
    )  # fmt: skip


class Locked(BaseHTTPRequestHandler):
    """Serves `server.files` to those who log in; a path that begins with /moved leads to `server.elsewhere`."""

    server: LockedServer

    def do_HEAD(self) -> None:
        self.do_GET(False)

    def do_GET(self, with_body: bool = True) -> None:
        status, headers, body = self.answer()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        body = self.server.files.get(self.path)
        if self.path.startswith("/moved"):
            return 302, {"Location": self.server.elsewhere}, b""
        if self.headers["Authorization"] != self.server.expected:
            return 401, {"WWW-Authenticate": "Basic"}, b""
        if body is None:
            return 404, {}, b""
        if not self.headers["Range"]:
            return 200, {"Accept-Ranges": "bytes"}, body
        start, end = self.headers["Range"].removeprefix("bytes=").split("-")
        part = body[int(start) : int(end or len(body) - 1) + 1]
        return 206, {"Content-Range": f"bytes {start}-{int(start) + len(part) - 1}/{len(body)}"}, part

    def log_message(self, format: str, *args: Any) -> None:
        pass


class LockedServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, user: str, password: str) -> None:
        super().__init__(("127.0.0.1", 0), Locked)
        self.expected = f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"
        self.files: dict[str, bytes] = {}
        self.elsewhere = ""
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
