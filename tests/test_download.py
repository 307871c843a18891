"""The stage `download` against real servers with faults, folders, packages and signals."""

from __future__ import annotations

import functools
import gzip
import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from servers import free_port

from pipeline import download, networks
from pipeline.config.networks import TorchvisionConfig
from pipeline.fetching import checksums, http, mirrors
from pipeline.fetching.checksums import FetchError, Wanted
from pipeline.fetching.digits import write_archive
from pipeline.system.console import UserError

ROOT = Path(__file__).parents[1]
BODY = random.Random(7).randbytes(1_500_000)
LABELS = gzip.compress(b"labels" * 99, mtime=0)
PAGE = b"<!DOCTYPE html><html><body>Please sign in</body></html>"
BINARY = "application/octet-stream"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def identified(content: bytes) -> dict[str, Any]:
    return {"bytes": len(content), "md5": hashlib.md5(content).hexdigest(), "sha256": sha256(content)}


REDIRECTS = {
    "circles": "",
    "to-a-file": "file:///etc/hostname",
    "nowhere": "http://[x/",
    "latin": "http://host/caf\xe9",
}


class Handler(BaseHTTPRequestHandler):
    """Serves `server.files`; the first folder of the path names the fault."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        _, fault, name = self.path.split("/")
        self.server.requests.append((fault, name, self.headers["Range"]))
        body = self.server.files.get(name)
        if fault in REDIRECTS:
            return self.answer(302, b"", location=REDIRECTS[fault] or self.path)
        if fault in ("trickles", "trickles-in-header", "trickles-in-size", "bit-by-bit"):
            return self.trickle(fault, self.headers["Range"])
        if fault == "changes" and len(self.server.requests) == 1 and body:
            return self.answer(200, body[::-1], fault="halves")
        if fault == "hang":
            self.server.released.wait(20)
            return
        if fault in ("500", "429") or (fault == "500-twice" and len(self.server.requests) <= 2):
            return self.answer(int(fault[:3]), b"busy")
        if busy := re.fullmatch(r"(429|503)-for-(\d+)-s", fault):
            self.server.free_at = self.server.free_at or time.monotonic() + int(busy[2])
            if time.monotonic() < self.server.free_at:
                return self.answer(int(busy[1]), b"busy", retry_after=busy[2])
        if body is None or fault == "404":
            return self.answer(404, b"<html>no such file</html>", kind="text/html")
        if fault == "html":
            return self.answer(200, PAGE, kind="text/html; charset=utf-8")
        if fault == "html-as-binary":
            return self.answer(200, PAGE)
        if fault == "empty":
            return self.answer(200, b"")
        if fault == "short-416" and self.headers["Range"]:
            return self.answer(416, b"")
        if fault == "wrong":
            return self.answer(200, body[::-1])
        if fault in ("short", "short-416"):  # as after an upload that broke off
            return self.answer(200, body[: len(body) // 2])
        if fault == "encoded":  # the label that some servers put on .gz files
            return self.answer(200, body, encoding="gzip")
        start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-")) if self.headers["Range"] else 0
        if fault == "416" and start:
            return self.answer(416, b"")
        if fault == "wrong-range" and start:
            return self.answer(206, body[start // 2 :], content_range=f"bytes {start // 2}-{len(body) - 1}/{len(body)}")
        if not start or fault in ("ignores-range", "416", "breaks"):
            return self.answer(200, body, fault=fault)
        self.answer(206, body[start:], fault=fault, content_range=f"bytes {start}-{len(body) - 1}/{len(body)}")

    def trickle(self, fault: str, wanted_range: str | None) -> None:
        """Byte after byte, for as long as the test lasts: never so long without one that it were a time-out."""
        self.close_connection = True
        start = int(wanted_range.removeprefix("bytes=").rstrip("-")) if wanted_range else 0
        status = "206 Partial" if start else "200 OK"
        ranges = f"Content-Range: bytes {start}-{len(BODY) - 1}/{len(BODY)}\r\n" if start else ""
        headers = f"HTTP/1.1 {status}\r\n{ranges}".encode()
        if fault == "trickles-in-header":
            headers += b"X-Name: "
        elif fault == "trickles-in-size":
            headers += b"Transfer-Encoding: chunked\r\n\r\n"
        else:
            headers += b"Content-Length: %d\r\n\r\n" % (len(BODY) - start)
        self.wfile.write(headers + BODY[start : start + 1] * (fault == "bit-by-bit"))
        while fault != "bit-by-bit" and not self.server.released.wait(0.02):
            self.wfile.write(b"0")

    def answer(self, status: int, body: bytes, *, fault: str = "", kind: str = BINARY, **more: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if fault == "no-length":
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(len(body)))
        if "content_range" in more:
            self.send_header("Content-Range", more["content_range"])
        if "location" in more:
            self.send_header("Location", more["location"])
        if "retry_after" in more:
            self.send_header("Retry-After", more["retry_after"])
        if "encoding" in more:
            self.send_header("Content-Encoding", more["encoding"])
        self.end_headers()
        if fault in ("breaks", "halves", "no-length") and len(body) > 100_000:
            body = body[: len(body) // 2]
            self.close_connection = True
        for start in range(0, len(body), 1 << 16):
            self.wfile.write(body[start : start + (1 << 16)])
            if fault == "slow" and not self.server.released.is_set():
                time.sleep(0.2)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {"images.gz": BODY, "labels.gz": LABELS}
        self.requests: list[tuple[str, str, str | None]] = []
        self.free_at = 0.0  # of a server that is busy at first, by time.monotonic
        self.released = threading.Event()  # ends every delay

    def mirror(self, fault: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{fault}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that is killed


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.released.set()
        server.shutdown()


class Project:
    """A folder with its own params.yaml, in which stages run as processes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.params: dict[str, Any] = {"seed": 1, "downloads": {}}

    def publish(self, mirrors: list[str], **files: bytes) -> None:
        entries = {name.replace("_", "."): identified(content) for name, content in files.items()}
        self.params["downloads"]["toy"] = {"mirrors": mirrors, "files": entries}
        self.save()

    def experiment(self, **network: Any) -> None:
        self.params["datasets"] = {"toy": {"source": "data/raw/toy", "check": {}, "split": {}, "pack": {"size": 64}}}
        self.params["experiments"] = {
            "toy-net": {
                "dataset": "toy",
                "network": network,
                "optimizer": {"name": "sgd", "lr": 0.1},
                "epochs": 1,
                "batch_size": 8,
            }
        }
        self.save()

    def save(self) -> None:
        with (self.root / "params.yaml").open("w") as file:
            YAML().dump(self.params, file)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "pipeline.download", *arguments],
            cwd=self.root,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, *arguments: str) -> tuple[int, str, str]:
        with self.start(*arguments) as process:
            output, errors = process.communicate(timeout=60)
        return process.returncode, output, errors

    def raw(self, name: str) -> bytes:
        return (self.root / "data/raw/toy" / name).read_bytes()

    def is_absent(self) -> bool:
        raw = self.root / "data/raw"
        return not raw.exists() or not list(raw.iterdir())


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("DATA_MIRROR", raising=False)
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path)


@pytest.fixture
def closed_port() -> str:
    return f"http://127.0.0.1:{free_port()}"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "BACK_OFF", 0.01)
    monkeypatch.setattr(http, "READ_TIMEOUT", 0.3)
    monkeypatch.setattr(http, "PATIENCE", 0.5)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "WINDOW", 0.4)


def fetch_images(mirror: str) -> bytes:
    """Through the functions themselves, where a process would be slow."""
    wanted = Wanted("images.gz", **identified(BODY))
    return (mirrors.fetch_all([wanted], [mirror], Path("waiting"), "toy") / "images.gz").read_bytes()


# --- the whole stage -------------------------------------------------------------------------------------------------


def test_second_mirror_gives_what_the_first_has_not(project: Project, server: Server) -> None:
    project.publish([server.mirror("404"), server.mirror("ok") + "/"], images_gz=BODY, labels_gz=LABELS)
    status, output, errors = project.run("toy")
    assert status == 0, errors
    assert project.raw("images.gz") == BODY and project.raw("labels.gz") == LABELS
    assert "HTTP 404" in errors and "/ok/images.gz" in output
    assert not list((project.root / "data/.downloads").iterdir())
    asked = len(server.requests)
    assert project.run("toy")[:2] == (0, "data/raw/toy is complete\n") and len(server.requests) == asked


def test_no_network_is_one_line_with_every_address(project: Project, closed_port: str) -> None:
    project.publish([closed_port + "/a", closed_port + "/b/", "nowhere", "ftp://host/c"], images_gz=BODY)
    began = time.monotonic()
    status, output, errors = project.run("toy")
    assert time.monotonic() - began < 15
    assert (status, output, errors.count("\n")) == (1, "", 1)
    for address in ("a/images.gz", "b/images.gz"):
        assert f"{closed_port}/{address}: connection refused" in errors
    assert "nowhere/images.gz: no such file" in errors and "ftp://host/c: expected an http(s)" in errors
    assert "set DATA_MIRROR to a folder that holds toy/images.gz" in errors
    assert project.is_absent()


def test_file_placed_by_hand_where_the_error_says(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.publish(["nowhere"], images_gz=BODY)
    with pytest.raises(UserError) as raised:
        download.download_dataset("toy")
    place = re.search(r"Place the file at (\S+)", str(raised.value))
    assert place
    Path(place[1]).write_bytes(BODY[::-1])
    with pytest.raises(UserError, match="Place the file at"):
        download.download_dataset("toy")
    assert set_aside("toy") == {"images.gz": BODY[::-1]}
    assert re.search(r"md5 is [0-9a-f]{12}…, expected [0-9a-f]{12}…\): moved to data/", capsys.readouterr().err)
    Path(place[1]).write_bytes(BODY)
    download.download_dataset("toy")
    assert project.raw("images.gz") == BODY and not Path("data/.downloads/toy").exists()


def interrupt_halfway(project: Project, sent: signal.Signals) -> tuple[int, str]:
    part = project.root / "data/.downloads/toy/images.gz.part"
    with project.start("toy") as process:
        while not part.exists() or part.stat().st_size < 1 << 17:
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        process.send_signal(sent)
        _, errors = process.communicate(timeout=20)
    assert 0 < part.stat().st_size < len(BODY) and project.is_absent()
    return process.returncode, errors


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_interrupted_download_resumes(project: Project, server: Server, sent: signal.Signals) -> None:
    project.publish([server.mirror("slow")], labels_gz=LABELS, images_gz=BODY)
    status, errors = interrupt_halfway(project, sent)
    if sent == signal.SIGINT:
        assert status == 130 and "Traceback" not in errors
    server.released.set()
    assert project.run("toy")[0] == 0
    (_, name, wanted_range) = server.requests[-1]
    assert name == "images.gz" and wanted_range and int(wanted_range[6:-1]) >= 1 << 17
    assert [name for _, name, _ in server.requests].count("labels.gz") == 1, (
        "complete files wait, they are not refetched"
    )
    assert project.raw("images.gz") == BODY and project.raw("labels.gz") == LABELS


def test_full_disk_is_one_line(project: Project, server: Server) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    project.publish([server.mirror("ok")], images_gz=BODY)
    (project.root / "data/.downloads/toy").mkdir(parents=True)
    (project.root / "data/.downloads/toy/images.gz.part").symlink_to("/dev/full")
    status, _, errors = project.run("toy")
    assert status == 1 and errors == "error: data/.downloads/toy/images.gz.part: No space left on device\n"
    assert project.is_absent()


def test_no_write_permission_is_one_line(project: Project, server: Server) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    project.publish([server.mirror("ok")], images_gz=BODY)
    (project.root / "data").mkdir(mode=0o555)
    status, _, errors = project.run("toy")
    assert status == 1 and "Permission denied" in errors and errors.count("\n") == 1


def test_file_in_place_of_the_folder_stays(project: Project, server: Server) -> None:
    project.publish([server.mirror("ok")], images_gz=BODY)
    Path("data").write_text("mine")
    with pytest.raises(NotADirectoryError):
        download.download_dataset("toy")
    assert Path("data").read_text() == "mine"


def test_names_cannot_leave_the_folder(project: Project) -> None:
    for name in ("../evil", "a/b", "..", "a\\b"):
        with pytest.raises(UserError, match="expected a file's name"):
            download.plain(name)


# --- http ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("404", "HTTP 404"),
        ("500", "HTTP 500"),
        ("429", "HTTP 429"),
        ("html", "an HTML page, not the file"),
        ("html-as-binary", "an HTML page, not the file"),
        ("short", "truncated: 750000 bytes, expected 1500000"),
        ("breaks", "truncated: the connection broke off after 7[0-9]{5} of 1500000 bytes"),
        ("wrong", "md5 is [0-9a-f]{12}…, expected [0-9a-f]{12}…"),
        ("hang", "no answer within 0.3 s"),
        ("circles", "Exceeded 30 redirects"),
        ("nowhere", "a redirect to what is no address"),
        ("latin", "a redirect to what is no address"),
        ("to-a-file", "No connection adapters were found for 'file:///etc/hostname'"),
    ],
)
def test_what_is_not_the_file_is_refused(
    project: Project, server: Server, impatient: None, fault: str, reason: str
) -> None:
    with pytest.raises(UserError, match=f"/{fault}/images.gz: {reason}"):
        fetch_images(server.mirror(fault))
    assert not list(Path("waiting/complete").iterdir())
    assert fetch_images(server.mirror("ok")) == BODY, "what was left must not harm the next mirror"


@pytest.mark.parametrize("fault", ["500-twice", "halves", "no-length", "encoded"])
def test_faults_that_pass(project: Project, server: Server, impatient: None, fault: str) -> None:
    assert fetch_images(server.mirror(fault)) == BODY


@pytest.mark.parametrize("fault", ["ok", "ignores-range", "416", "wrong-range"])
@pytest.mark.parametrize("beginning", [BODY[:500_000], b"x" * 500_000, b"x" * len(BODY), BODY])
def test_part_file_never_harms(project: Project, server: Server, fault: str, beginning: bytes) -> None:
    Path("waiting").mkdir()
    Path("waiting/images.gz.part").write_bytes(beginning)
    assert fetch_images(server.mirror(fault)) == BODY
    if fault == "ok" and beginning == BODY[:500_000]:
        assert server.requests == [("ok", "images.gz", "bytes=500000-")]
    if beginning == BODY:
        assert not server.requests


PAGES = ["html", "html-as-binary", "empty", "404", "500"]


@pytest.mark.parametrize(
    ("size", "fault"), [*((len(BODY), fault) for fault in [*PAGES, "short", "short-416"]), *((None, p) for p in PAGES)]
)
def test_what_is_not_the_file_costs_no_beginning(
    project: Project, server: Server, impatient: None, size: int | None, fault: str
) -> None:
    """As of a captive portal, which answers everything with a page of its own."""
    Path("waiting").mkdir()
    part = Path("waiting/images.gz.part")
    part.write_bytes(BODY[:1_000_000])
    wanted = Wanted("images.gz", bytes=size, sha256=sha256(BODY))
    with pytest.raises(UserError):
        mirrors.fetch_all([wanted], [server.mirror(fault)], Path("waiting"), "toy")
    assert part.read_bytes() == BODY[:1_000_000]
    mirrors.fetch_all([wanted], [server.mirror("ok")], Path("waiting"), "toy")
    assert server.requests[-1] == ("ok", "images.gz", "bytes=1000000-")


def test_part_file_of_unknown_size_is_complete(project: Project, server: Server) -> None:
    """Where only a checksum is known, the server's 416 starts it again."""
    Path("waiting").mkdir()
    Path("waiting/images.gz.part").write_bytes(BODY)
    wanted = Wanted("images.gz", sha256_prefix=sha256(BODY)[:8])
    assert (
        mirrors.fetch_all([wanted], [server.mirror("416")], Path("waiting"), "toy") / "images.gz"
    ).read_bytes() == BODY


@pytest.mark.parametrize("fault", ["trickles", "trickles-in-header", "trickles-in-size", "bit-by-bit"])
def test_a_server_that_is_hopelessly_slow_is_given_up(
    project: Project, server: Server, impatient: None, hurried: None, fault: str
) -> None:
    files = [Wanted("images.gz", **identified(BODY)), Wanted("labels.gz", **identified(LABELS))]
    places = [server.mirror(fault), server.mirror("ok")]
    complete = mirrors.fetch_all(files, places, Path("waiting"), "toy")
    assert (complete / "images.gz").read_bytes() == BODY and (complete / "labels.gz").read_bytes() == LABELS
    assert (fault, "labels.gz") not in [request[:2] for request in server.requests], "nobody waits for it twice"
    with pytest.raises(UserError, match=f"/{fault}/images.gz: only [0-9]+ bytes in 0.4 s"):
        mirrors.fetch_all(files, places[:1], Path("elsewhere"), "toy")
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_a_slow_server_is_waited_for(project: Project, server: Server, impatient: None, hurried: None) -> None:
    server.files["images.gz"] = BODY[:250_000]
    wanted = Wanted("images.gz", **identified(BODY[:250_000]))
    mirrors.fetch_all([wanted], [server.mirror("slow")], Path("waiting"), "toy")  # it takes two windows


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again_when_it_says(
    project: Project, server: Server, impatient: None, hurried: None, status: int
) -> None:
    """Though that is longer than anything else is waited for."""
    assert fetch_images(server.mirror(f"{status}-for-1-s")) == BODY
    assert len(server.requests) == 2


def test_a_server_that_is_busy_for_long_is_given_up(project: Project, server: Server) -> None:
    with pytest.raises(UserError, match="HTTP 429: asked to wait 3600 s"):
        fetch_images(server.mirror("429-for-3600-s"))
    assert len(server.requests) == 1


def test_a_file_that_changes_half_way_is_fetched_anew(project: Project, server: Server, impatient: None) -> None:
    assert fetch_images(server.mirror("changes")) == BODY
    assert [wanted for _, _, wanted in server.requests] == [None, "bytes=750000-", None]


def test_dead_server_is_waited_for_once(project: Project, server: Server, closed_port: str, impatient: None) -> None:
    files = [Wanted("images.gz", **identified(BODY)), Wanted("labels.gz", **identified(LABELS))]
    unreachable: dict[str, str] = {}
    Path("waiting/complete").mkdir(parents=True)
    for wanted in files:
        assert not mirrors.fetch_from_first(
            [closed_port, server.mirror("ok")], wanted, Path("waiting/complete"), unreachable
        )
    assert unreachable == {closed_port: "connection refused"}


def test_reasons_are_short(closed_port: str) -> None:
    wanted = Wanted("a", sha256="0")
    for url in ("http://", "http://[::1", "http://127.0.0.1:99999/a"):
        with pytest.raises(FetchError) as raised:
            http.request(url, wanted, Path("never-written"))
        assert "\n" not in str(raised.value) and len(str(raised.value)) < 100


# --- folders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["folder", "file URL", "http URL"])
def test_data_mirror_comes_first(
    project: Project, server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "own mirror/toy").mkdir(parents=True)
    (tmp_path / "own mirror/toy/images.gz").write_bytes(BODY)
    own = {"folder": "own mirror", "file URL": (tmp_path / "own mirror").as_uri(), "http URL": server.mirror("")[:-1]}
    monkeypatch.setenv("DATA_MIRROR", own[kind])
    project.publish([server.mirror("404")], images_gz=BODY)
    download.download_dataset("toy")
    assert project.raw("images.gz") == BODY
    assert not (project.root / "data/raw/toy/images.gz").is_symlink()
    assert [fault for fault, _, _ in server.requests] == (["toy"] if kind == "http URL" else [])


def test_checksum_decides_for_data_mirror_too(
    project: Project, server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "own/toy").mkdir(parents=True)
    (tmp_path / "own/toy/images.gz").write_bytes(BODY[::-1])
    monkeypatch.setenv("DATA_MIRROR", str(tmp_path / "own"))
    project.publish([server.mirror("ok")], images_gz=BODY)
    download.download_dataset("toy")
    assert project.raw("images.gz") == BODY
    project.publish([], images_gz=b"another")
    with pytest.raises(UserError, match=r"own/toy/images.gz: too large: 1500000 bytes, expected 7"):
        download.download_dataset("toy")
    assert project.raw("images.gz") == BODY  # nothing is lost where nothing comes in its place


def test_what_lies_in_the_folder_is_not_lost(
    project: Project, server: Server, closed_port: str, impatient: None, capsys: pytest.CaptureFixture[str]
) -> None:
    project.publish([closed_port], images_gz=BODY, labels_gz=LABELS)
    folder = project.root / "data/raw/toy"
    folder.mkdir(parents=True)
    (folder / "images.gz").write_bytes(BODY)  # placed by hand
    (folder / "notes.txt").write_text("mine")
    (folder / ".DS_Store").write_bytes(b"of macOS")
    for _ in range(2):
        with pytest.raises(UserError, match=r"toy/labels\.gz can't be fetched"):
            download.download_dataset("toy")
    assert (folder / "images.gz").read_bytes() == BODY
    (folder / "notes.txt").write_text("more")
    project.publish([server.mirror("ok")], images_gz=BODY, labels_gz=LABELS)
    download.download_dataset("toy")
    assert sorted(path.name for path in folder.iterdir()) == ["images.gz", "labels.gz"]
    assert [name for _, name, _ in server.requests] == ["labels.gz"]
    assert set_aside("toy") == {"notes.txt": b"more"}
    assert "notes.txt is not among the published files: moved to data/.downloads/toy.others" in capsys.readouterr().err

    (folder / "notes.txt").write_text("again")
    (folder / "labels.gz").write_bytes(b"my own")
    download.download_dataset("toy")
    assert project.raw("labels.gz") == LABELS
    assert set_aside("toy") == {"notes.txt": b"more", "notes.txt.1": b"again", "labels.gz": b"my own"}
    said = capsys.readouterr().err
    assert f"labels.gz is not the published file (truncated: 6 bytes, expected {len(LABELS)}): moved to" in said


def set_aside(waiting: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(f"data/.downloads/{waiting}.others").iterdir()}


@pytest.mark.parametrize("place", ["data/raw/toy", "data/.downloads/toy/complete"])
def test_what_comes_during_a_download_is_not_lost(project: Project, server: Server, place: str) -> None:
    project.publish([server.mirror("slow")], images_gz=BODY)
    part = Path("data/.downloads/toy/images.gz.part")
    with project.start("toy") as process:
        while not part.exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        Path(place).mkdir(parents=True, exist_ok=True)
        for name in ("images.gz", "notes.txt"):
            Path(place, name).write_bytes(b"mine")
        Path("data/.downloads/toy/mine.zip").write_bytes(b"mine")
        server.released.set()
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert [path.name for path in Path("data/raw/toy").iterdir()] == ["images.gz"] and project.raw("images.gz") == BODY
    assert set_aside("toy") == {"images.gz": b"mine", "notes.txt": b"mine"}
    assert [path.name for path in Path("data/.downloads/toy").iterdir()] == ["mine.zip"]


def test_a_file_in_place_of_the_data_sets_folder_is_not_lost(project: Project, server: Server) -> None:
    project.publish([server.mirror("ok")], images_gz=BODY)
    Path("data/raw").mkdir(parents=True)
    Path("data/raw/toy").write_bytes(b"mine")
    download.download_dataset("toy")
    assert project.raw("images.gz") == BODY and set_aside("toy") == {"toy": b"mine"}


def test_data_mirror_from_the_projects_root(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: Server
) -> None:
    """Also in a queued experiment, which runs elsewhere; and a folder may have a colon in its name."""
    (project.root / "own:files/toy").mkdir(parents=True)
    (project.root / "own:files/toy/images.gz").write_bytes(BODY)
    project.publish([], images_gz=BODY)
    monkeypatch.setenv("DATA_MIRROR", "./own:files")
    monkeypatch.setenv("DVC_ROOT", str(project.root))
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(project.root / "params.yaml", copy)
    monkeypatch.chdir(copy)
    download.download_dataset("toy")
    assert (copy / "data/raw/toy/images.gz").read_bytes() == BODY


def test_published_sets_from_data_mirror(project: Project, monkeypatch: pytest.MonkeyPatch, request: Any) -> None:
    if not MIRROR or not (Path(MIRROR) / "mnist").is_dir():
        pytest.skip("DATA_MIRROR names no folder that holds mnist/")
    monkeypatch.setenv("DATA_MIRROR", MIRROR)
    study = YAML(typ="safe").load(ROOT / "studies/mnist.yaml")
    with (project.root / "params.yaml").open("w") as file:
        YAML().dump({"seed": 1, "downloads": study["downloads"]}, file)
    status, _, errors = project.run("mnist")
    assert status == 0, errors
    names = sorted(path.name for path in (project.root / "data/raw/mnist").iterdir())
    assert [name[:12] for name in names] == ["t10k-images-", "t10k-labels-", "train-images", "train-labels"]


MIRROR = os.environ.get("DATA_MIRROR")  # before the fixture hides it


# --- Debian packages -------------------------------------------------------------------------------------------------


def test_package_that_compressed_again(project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With a package built here and an apt-get that hands it out."""
    if not shutil.which("dpkg-deb"):
        pytest.skip("no dpkg-deb on this system")
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(
        "Package: toy\nVersion: 1\nArchitecture: all\nMaintainer: me <me@example.org>\nDescription: toy\n"
    )
    (tree / "usr/share/toy").mkdir(parents=True)
    content = gzip.decompress(LABELS)
    (tree / "usr/share/toy/labels.gz").write_bytes(gzip.compress(content, 1, mtime=99))
    (tree / "usr/share/toy/broken.gz").write_bytes(LABELS[:-20])
    subprocess.run(["dpkg-deb", "--build", tree, tmp_path / "toy.deb"], check=True, capture_output=True)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/apt-get").write_text(
        f"#!/bin/sh\necho once >> {tmp_path}/calls\ncp {tmp_path}/toy.deb toy_1.deb\n"
    )
    (tmp_path / "bin/apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)

    def attempt(name: str, **more: str) -> Path:
        return mirrors.fetch("apt:toy", Wanted(name, **{**identified(LABELS), **more}), tmp_path)

    assert gzip.decompress(attempt("labels.gz", content_sha256=sha256(content)).read_bytes()) == content
    with pytest.raises(FetchError, match="bytes, expected"):
        attempt("labels.gz")
    with pytest.raises(FetchError, match="sha256 of the content is"):
        attempt("labels.gz", content_sha256=sha256(b"other"))
    with pytest.raises(FetchError, match="not a whole gzip file"):
        attempt("broken.gz", content_sha256=sha256(content))
    with pytest.raises(FetchError, match=r"toy_1.deb holds no file of that name"):
        attempt("none.gz")
    assert (tmp_path / "calls").read_text() == "once\n"


def test_published_package(project: Project) -> None:
    if not shutil.which("apt-get"):
        pytest.skip("no apt-get on this system")
    name = "t10k-labels-idx1-ubyte.gz"
    content = "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"
    wanted = Wanted(
        name, sha256="67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5", content_sha256=content
    )
    try:
        mirrors.unpackaged("dataset-fashion-mnist", project.root)
    except FetchError as failure:
        pytest.skip(f"the package can't be had here: {failure}")
    path = mirrors.fetch("apt:dataset-fashion-mnist", wanted, project.root)
    assert sha256(gzip.decompress(path.read_bytes())) == content


@pytest.mark.parametrize(
    "name", ["../../x", "/abs", "--option", "a/b", "A", "a", "", ".a", "x\n", "x=../y", "x y", "x.*"]
)
def test_what_is_no_packages_name(project: Project, name: str) -> None:
    project.publish([f"apt:{name}"], images_gz=BODY)
    before = sorted(project.root.parent.iterdir())
    with pytest.raises(UserError, match="expected apt: and a Debian package's name"):
        download.download_dataset("toy")
    assert sorted(project.root.parent.iterdir()) == before


def test_no_such_package(project: Project) -> None:
    with pytest.raises(FetchError, match="apt-get"):
        mirrors.unpackaged("no-such-package-at-all", project.root)
    assert not list(project.root.iterdir())


# --- digits ----------------------------------------------------------------------------------------------------------


def test_digits_need_no_network_and_are_the_same_always(project: Project) -> None:
    """The checksum in params.yaml was made elsewhere: the stage succeeds only with the same bytes."""
    shutil.copy(ROOT / "params.yaml", project.root)
    download.download_dataset("digits")
    write_archive(project.root / "again.zip")
    archive = project.root / "data/raw/digits/digits.zip"
    assert archive.read_bytes() == (project.root / "again.zip").read_bytes()


def test_digits_are_those_of_scikit_learn(tmp_path: Path) -> None:
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    write_archive(tmp_path / "digits.zip")
    with zipfile.ZipFile(tmp_path / "digits.zip") as archive:
        names = archive.namelist()
        assert names == [f"{label}/{number:04}.png" for number, label in enumerate(digits.target)]
        with archive.open(names[1796]) as file, Image.open(file) as image:
            assert (image.mode, image.size) == ("L", (8, 8))
            pixels = list(image.tobytes())
    assert pixels == [round(value * 255 / 16) for value in digits.images[1796].ravel()]


# --- weights ---------------------------------------------------------------------------------------------------------

WEIGHTS = {"file": "images.gz", "sha256": sha256(BODY)}


def test_network_without_weights_gets_none(project: Project) -> None:
    folder = project.root / "data/weights/toy-net"
    folder.mkdir(parents=True)
    (folder / "old.pth").write_bytes(b"old")
    project.experiment(name="mlp")
    aside = "data/.downloads/weights@toy-net.others/old.pth"
    line = f"warning: data/weights/toy-net/old.pth is not among the published files: moved to {aside}\n"
    for said in (line, ""):
        assert project.run("--weights", "toy-net") == (0, "", said)
        assert [path.name for path in folder.iterdir()] == ["none.txt"]
    assert Path(aside).read_bytes() == b"old"
    project.experiment(name="torchvision", model="alexnet")
    download.download_weights("toy-net")
    assert [path.name for path in folder.iterdir()] == ["none.txt"]


def test_own_weights(project: Project, server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    project.experiment(name="torchvision", model="alexnet", weights={**WEIGHTS, "mirrors": [server.mirror("ok")]})
    (tmp_path / "own/weights").mkdir(parents=True)
    (tmp_path / "own/weights/images.gz").write_bytes(BODY)
    monkeypatch.setenv("DATA_MIRROR", str(tmp_path / "own"))
    status, _, errors = project.run("--weights", "toy-net")
    assert status == 0, errors
    folder = project.root / "data/weights/toy-net"
    assert [path.name for path in folder.iterdir()] == ["images.gz"] and not server.requests
    assert (folder / "images.gz").read_bytes() == BODY

    (folder / "other.pth").write_bytes(b"old")
    (folder / "none.txt").write_text("Random weights to start from.\n")  # the stage's own, of another config
    (tmp_path / "own/weights/images.gz").unlink()
    kept = (folder / "images.gz").stat()
    download.download_weights("toy-net")
    assert [path.name for path in folder.iterdir()] == ["images.gz"] and not server.requests
    assert (folder / "images.gz").stat() == kept

    (folder / "images.gz").write_bytes(b"damaged")
    download.download_weights("toy-net")
    assert (folder / "images.gz").read_bytes() == BODY and len(server.requests) == 1
    assert set_aside("weights@toy-net") == {"other.pth": b"old", "images.gz": b"damaged"}


def test_weights_that_another_experiment_has(project: Project, closed_port: str) -> None:
    project.experiment(name="torchvision", model="alexnet", weights={**WEIGHTS, "mirrors": [closed_port]})
    for experiment, content in (("a-wrong", b"damaged"), ("b-right", BODY)):
        (project.root / "data/weights" / experiment).mkdir(parents=True)
        (project.root / "data/weights" / experiment / "images.gz").write_bytes(content)
    download.download_weights("toy-net")
    assert Path("data/weights/toy-net/images.gz").read_bytes() == BODY
    assert Path("data/weights/b-right/images.gz").read_bytes() == BODY


def test_weights_that_no_place_has(project: Project, closed_port: str, impatient: None) -> None:
    project.experiment(name="torchvision", model="alexnet", weights={**WEIGHTS, "mirrors": [closed_port]})
    with pytest.raises(UserError) as raised:
        download.download_weights("toy-net")
    assert f"{closed_port}/images.gz: connection refused" in str(raised.value)
    assert str(raised.value).endswith("holds weights/images.gz") and "\n" not in str(raised.value)
    assert not Path("data/weights/toy-net").exists()


def test_checksum_in_the_name_decides(project: Project, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's rule with a small file in place of its large ones."""
    name = f"tiny-owt-{sha256(BODY)[:8]}.pth"
    server.files[name] = BODY
    mirrors = [server.mirror("wrong"), server.mirror("ok")]
    wanted = Wanted(name, sha256_prefix=download.checksum_in(name))
    monkeypatch.setattr(download, "torchvision_file", lambda network, weights: (wanted, mirrors))
    project.experiment(name="torchvision", model="alexnet", weights="IMAGENET1K_V1")
    download.download_weights("toy-net")
    assert Path("data/weights/toy-net", name).read_bytes() == BODY
    assert [fault for fault, _, _ in server.requests] == ["wrong", "ok"]
    with pytest.raises(UserError, match="expected a name that ends with -XXXXXXXX"):
        download.checksum_in("mobilenet_v2_qnnpack_37f702c5.pth")


def test_what_torchvision_publishes(project: Project) -> None:
    network = TorchvisionConfig(name="torchvision", model="alexnet")
    wanted, (mirror,) = download.torchvision_file(network, "IMAGENET1K_V1")
    assert wanted == Wanted("alexnet-owt-7be5be79.pth", sha256_prefix="7be5be79")
    assert re.fullmatch(r"https://\S+/models", mirror)
    with pytest.raises(UserError, match=r"\(did you mean 'IMAGENET1K_V1'\?\); it has: IMAGENET1K_V1"):
        download.torchvision_file(network, "IMAGENET1K_V9")
    project.experiment(name="torchvision", model="alexnett", weights="IMAGENET1K_V1")
    with pytest.raises(UserError) as raised:
        download.download_weights("toy-net")
    with pytest.raises(UserError) as again:
        networks.build(TorchvisionConfig(name="torchvision", model="alexnett"), networks.Shape(3, 64, 64, 2))
    assert str(raised.value) == str(again.value)
    assert "no such model (did you mean 'alexnet'?); https://" in str(raised.value)


REVISION = "0123456789abcdef0123456789abcdef01234567"


def test_weights_of_a_hub_at_a_pinned_revision(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, impatient: None
) -> None:
    """The pointer that the hub keeps in git names the checksum of the file."""
    hub = tmp_path / "hub/timm/resnet18"
    file, pointer = hub / f"resolve/{REVISION}/model.safetensors", hub / f"raw/{REVISION}/model.safetensors"
    for path in (file, pointer):
        path.parent.mkdir(parents=True)
    file.write_bytes(BODY)
    pointer.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256(BODY)}\nsize {len(BODY)}\n")
    handler = functools.partial(SimpleHTTPRequestHandler, directory=tmp_path / "hub")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}/")
        weights = {"repo_id": "timm/resnet18", "revision": REVISION}
        project.experiment(name="timm", model="resnet18", weights=weights)
        status, _, errors = project.run("--weights", "toy-net")
        assert status == 0, errors
        folder = project.root / "data/weights/toy-net"
        assert [path.name for path in folder.iterdir()] == ["model.safetensors"]
        assert (folder / "model.safetensors").read_bytes() == BODY

        # with the checksum in params.yaml, the hub is not asked, and needn't be there
        shutil.rmtree(folder)
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        with pytest.raises(UserError, match="without the hub, name the file's checksum too"):
            download.download_weights("toy-net")
        project.experiment(name="timm", model="resnet18", weights={**weights, "sha256": sha256(BODY)})
        own = project.root / "own/weights/timm/resnet18"
        own.mkdir(parents=True)
        (own / "model.safetensors").write_bytes(BODY)
        monkeypatch.setenv("DATA_MIRROR", str(project.root / "own"))
        download.download_weights("toy-net")
        assert (folder / "model.safetensors").read_bytes() == BODY
        monkeypatch.delenv("DATA_MIRROR")
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}/")
        project.experiment(name="timm", model="resnet18", weights=weights)

        shutil.rmtree(folder)
        file.write_bytes(BODY[::-1])
        with pytest.raises(UserError, match=r"model\.safetensors: sha256 is \w+…, expected"):
            download.download_weights("toy-net")
        pointer.write_text("{}")
        with pytest.raises(UserError, match="expected the pointer of Git LFS"):
            download.download_weights("toy-net")
        pointer.write_bytes(BODY)  # the file itself, which may be large
        with pytest.raises(UserError, match="expected the pointer of Git LFS"):
            download.download_weights("toy-net")
        (read,) = Path("data/.downloads/weights@toy-net").glob("*.pointer")
        assert read.stat().st_size < 100_000
        project.experiment(name="timm", model="resnet18", weights={**weights, "revision": REVISION[::-1]})
        with pytest.raises(UserError, match=f"raw/{REVISION[::-1]}/model.safetensors: HTTP 404; expected"):
            download.download_weights("toy-net")
        assert not folder.exists()
        server.shutdown()


def test_html_is_told_by_its_beginning() -> None:
    assert checksums.looks_like_html(b"\xef\xbb\xbf\n  <!DOCTYPE HTML>")
    assert not checksums.looks_like_html(b"\x1f\x8b\x08<html>")
