"""A served model, asked over HTTP: good and broken images, requests that are none, models that are not there."""

from __future__ import annotations

import asyncio
import base64
import http.client
import io
import re
import socket
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import requests
from conftest import ENVIRONMENT, Clone, Project, Ran, failed_in_one_line, picture, wait_until
from PIL import Image
from samples import chunk
from servers import free_port

from pipeline import serve
from pipeline.registry import scoring
from pipeline.registry.scoring import LIMIT, MOST_IMAGES, MOST_KEYS, MOST_VALUES, MOST_WAITING
from pipeline.system import console

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def served(digits: Clone) -> Iterator[str]:
    """The address at which the champion of digits answers."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.serve", "digits@champion", "--port", "0"],
        cwd=digits.root, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.fullmatch(r"digits@champion answers at (http://127\.0\.0\.1:\d+)/invocations; Ctrl-C ends it\n", line)
    if found is None:
        process.kill()
        pytest.fail(line + process.communicate()[1])
    yield found[1]
    process.terminate()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in out + err


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def port_of(served: str) -> int:
    return int(served.rpartition(":")[2])


def listening() -> list[Any]:
    return [found for found in psutil.net_connections("inet") if found.status == psutil.CONN_LISTEN]


def in_base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def ask(served: str, *images: object) -> requests.Response:
    return requests.post(f"{served}/invocations", json={"inputs": images}, timeout=60)


def refused(answer: requests.Response, status: int, *words: str) -> None:
    """The promise for a request that can't be answered: a status, and one line that tells nothing of the server."""
    assert answer.status_code == status, answer.text
    (line,) = answer.json().values()
    assert list(answer.json()) == ["error"] and len(line.splitlines()) == 1 and len(line) < 400
    assert "Traceback" not in line and ".py" not in line and "/tmp" not in line
    for word in words:
        assert word in line, line


def test_an_image_gets_what_evaluate_said_of_it(digits: Clone, served: str) -> None:
    import zipfile

    import pandas as pd
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{digits.root}/mlflow.db")
    champion = client.get_model_version_by_alias("digits", "champion").tags["experiment"]
    predictions = pd.read_parquet(digits.root / f"reports/{champion}/predictions.parquet")
    chosen = predictions[predictions.split == "val"].head(30)
    with zipfile.ZipFile(digits.root / "data/raw/digits/digits.zip") as archive:
        answer = ask(served, *(in_base64(archive.read(path)) for path in chosen.path))
    assert answer.status_code == 200
    found = answer.json()["predictions"]
    assert [each["class"] for each in found] == chosen.predicted.tolist()
    assert np.allclose([each["probability"] for each in found], chosen.probability, atol=1e-5)
    assert list(found[0]["probabilities"]) == [*"0123456789"]


def test_every_kind_of_image_and_what_is_none(served: str) -> None:
    photo = picture(1, 40, 30)
    good = {
        "png": encoded(photo),
        "jpeg": encoded(photo, "JPEG"),
        "cmyk": encoded(photo.convert("CMYK"), "JPEG"),
        "16 bits": encoded(Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000)),
        "animated": encoded(photo, "GIF", save_all=True, append_images=[picture(2, 40, 30)]),
        "transparent": encoded(picture(3, 9, 9, "RGBA"), "WEBP"),
    }
    broken = {
        "truncated": (encoded(photo, "JPEG")[:-200], "truncated"),
        "text": (b"a letter", "not_an_image: text"),
        "empty": (b"", "empty_file"),
        "huge": (enormous(), "too_large"),
        "page": (b"<html></html>", "not_an_image"),
    }
    images = [in_base64(content) for content in [*good.values(), *(content for content, _ in broken.values())]]
    answer = ask(served, *images, "/etc/hostname", None, 5, {"image": "x"}, [[0, 255], [255, 0]], [[0, 256]])
    assert answer.status_code == 200
    found = answer.json()["predictions"]
    for kind, each in zip(good, found, strict=False):
        assert each["class"] in "0123456789" and 0 < each["probability"] <= 1, (kind, each)
    for (kind, (_, words)), each in zip(broken.items(), found[len(good) :], strict=False):
        assert list(each) == ["error"] and words in each["error"], (kind, each)
    path, nothing, number, record, array, too_bright = found[len(good) + len(broken) :]
    assert "a text that is not base64" in path["error"]  # a request reads no file of the server
    assert "found a NoneType" in nothing["error"]
    assert "error" in number and "error" in record and "error" in too_bright
    assert array["class"] in "0123456789"


def enormous() -> bytes:
    """A PNG of a few bytes that says it has 30,000 × 30,000 pixels."""
    small = bytearray(encoded(picture(1)))
    small[16:24] = (30_000).to_bytes(4) * 2
    small[29:33] = zlib.crc32(small[12:29]).to_bytes(4)
    return bytes(small)


def test_a_request_of_broken_images_alone_fails(served: str) -> None:
    refused(ask(served, in_base64(b"a letter")), 400, "not_an_image: text")
    refused(ask(served, in_base64(b""), "é"), 400, "no image can be read; the first: empty_file")


@pytest.mark.parametrize(
    ("body", "headers", "status", "words"),
    [
        (b"{", JSON, 400, "valid JSON"),
        (b"[" * 100_000, JSON, 400, "can't be read"),
        (b'{"inputs": %b%b}' % (b"[" * 900, b"]" * 900), JSON, 400, ""),
        (b"\xff\xfe", JSON, 400, "valid JSON"),
        (b'{"inputs": []}', JSON, 400, "0 inputs"),
        (b'{"images": ["aGk="]}', JSON, 400, "exactly one of the input fields"),
        (b'{"dataframe_split": 1}', JSON, 400, "must be a dictionary"),
        (b"image\naGk=\n", {"Content-Type": "text/csv"}, 415, "expected application/json"),
        (b"{}", {}, 415, "expected application/json"),
        (b"PAR1", {"Content-Type": "application/vnd.apache.parquet"}, 415, "expected application/json"),
        (b"", {**JSON, "Content-Length": str(LIMIT + 1)}, 413, f"expected at most {LIMIT:,}"),
    ],
)
def test_a_request_that_is_none(served: str, body: bytes, headers: dict[str, str], status: int, words: str) -> None:
    refused(requests.post(f"{served}/invocations", body, headers=headers, timeout=60), status, words)


def test_a_request_of_unknown_length(served: str) -> None:
    refused(requests.post(f"{served}/invocations", iter([b"{}"]), headers=JSON, timeout=60), 411, "Content-Length")
    connection = http.client.HTTPConnection("127.0.0.1", port_of(served), timeout=60)
    lengths = {"Content-Length": "2", "Transfer-Encoding": "chunked"}  # of which the second counts
    connection.request("POST", "/invocations", iter([b"{}"]), {**JSON, **lengths}, encode_chunked=True)
    answer = connection.getresponse()
    assert answer.status == 411 and b"no Transfer-Encoding" in answer.read()


def test_a_request_that_does_not_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow:
        async def body(self) -> bytes:
            await asyncio.sleep(60)
            return b""

    monkeypatch.setattr(scoring, "SLOWEST", 0.01)
    assert asyncio.run(scoring.absence(Slow())) == (408, "the request did not arrive within 0.01 seconds")


def beginnings(served: str, connections: ExitStack, count: int) -> None:
    """Send a few bytes of requests that announce more."""
    head = "POST /invocations HTTP/1.1\r\nHost: localhost\r\n"
    head += "Content-Type: application/json\r\nContent-Length: 999\r\n\r\n{"
    for _ in range(count):
        connections.enter_context(socket.create_connection(("127.0.0.1", port_of(served)))).sendall(head.encode())


@pytest.mark.parametrize(("host", "status"), [("localhost", 200), ("evil.example", 400), ("127.0.0.1.example:80", 400)])
def test_a_page_that_reaches_it_under_another_name(served: str, host: str, status: int) -> None:
    assert requests.get(f"{served}/ping", headers={"Host": host}, timeout=60).status_code == status


def test_requests_at_the_same_time(served: str) -> None:
    photos = [in_base64(encoded(picture(number, 30, 40))) for number in range(6)]
    alone = [ask(served, photo).json() for photo in photos]
    with ThreadPoolExecutor(6) as pool:
        assert [answer.json() for answer in pool.map(ask, [served] * 18, photos * 3)] == alone * 3
    with ExitStack() as held:
        beginnings(served, held, MOST_WAITING)
        wait_until(lambda: ask(served, photos[0]).status_code == 429)
        refused(ask(served, photos[0]), 429, f"more than {MOST_WAITING} requests at once")
        assert requests.get(f"{served}/ping", timeout=60).status_code == 200
    wait_until(lambda: ask(served, photos[0]).status_code == 200)  # the others broke off


def test_more_images_than_a_request_may_hold(served: str) -> None:
    image = in_base64(encoded(picture(1, 8, 8)))
    many: dict[str, Any] = {
        "inputs": [image] * (MOST_IMAGES + 1),
        "instances": [image] * (MOST_IMAGES + 1),
        "dataframe_records": [{"image": image}] * (MOST_IMAGES + 1),
        "dataframe_split": {"columns": ["image"], "data": [[image]] * (MOST_IMAGES + 1)},
    }
    for form, images in many.items():
        answer = requests.post(f"{served}/invocations", json={form: images}, timeout=60)
        refused(answer, 413, "1,001 images; expected at most 1,000")
    numbers = b'{"inputs": [[%b0]]}' % (b"0," * MOST_VALUES)
    answer = requests.post(f"{served}/invocations", numbers, headers=JSON, timeout=60)
    refused(answer, 413, "1,000,001 values; expected at most 1,000,000", "send images in base64")
    keys = b'{"dataframe_records": [{%b}]}' % b",".join(b'"%d": 0' % number for number in range(MOST_KEYS))
    answer = requests.post(f"{served}/invocations", keys, headers=JSON, timeout=60)
    refused(answer, 413, "10,001 keys; expected at most 10,000")
    assert len(ask(served, *[image] * MOST_IMAGES).json()["predictions"]) == MOST_IMAGES


def test_what_swells_is_refused_before_it_does(served: str) -> None:
    process = psutil.Process(next(found.pid for found in listening() if found.laddr.port == port_of(served)))
    ask(served, in_base64(encoded(picture(1))))
    before = process.memory_info().rss
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**28), 9))
    whole = encoded(picture(1))
    swelling = whole[:33] + text + whole[33:]  # after the header
    answers = ask(served, *[in_base64(enormous())] * 99, in_base64(swelling), in_base64(whole)).json()["predictions"]
    assert all("too_large" in each["error"] for each in answers[:99]) and "class" in answers[-1]
    refused(ask(served, in_base64(bytes(23 * 2**20))), 400, "not_an_image")
    assert process.memory_info().rss - before < 300 * 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere only root sees which addresses are bound")
def test_it_is_reached_from_this_machine_only(served: str) -> None:
    assert {found.laddr.ip for found in listening() if found.laddr.port == port_of(served)} == {"127.0.0.1"}


def test_what_a_load_balancer_asks(served: str) -> None:
    assert requests.get(f"{served}/ping", timeout=60).status_code == 200
    refused(requests.get(f"{served}/nothing", timeout=60), 404, "Not Found")
    refused(requests.get(f"{served}/invocations", timeout=60), 405, "Method Not Allowed")


# --- models that are not there ---


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """Run the command in this process, where it ends before it serves."""

    def started(root: Path, *arguments: str, **environment: str) -> Ran:
        monkeypatch.chdir(root)
        monkeypatch.setattr(sys, "argv", ["serve", *arguments])
        monkeypatch.setenv("DVC_ROOT", str(root))
        for key, value in environment.items():
            monkeypatch.setenv(key, value)
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
            console.run(serve.main)
        return Ran(int(ended.value.code or 0), out.getvalue(), err.getvalue())

    return started


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("digits@nobody", "Registered model alias nobody not found"),
        ("letters@champion", "Registered Model with name=letters not found"),
        ("models:/digits/99", "version=99) not found"),
        ("digits", "digits: no such folder; expected models/EXPERIMENT, NAME@ALIAS or NAME/VERSION"),
        ("models/digits-rnn", "models/digits-rnn: no such folder"),
        ("reports", "'reports' holds no model.json: expected a folder models/EXPERIMENT"),
    ],
)
def test_a_model_that_is_not_there(digits: Clone, start: Callable[..., Ran], name: str, words: str) -> None:
    failed_in_one_line(start(digits.root, name, "--port", "0"), words)


def test_a_place_without_models(project: Project, start: Callable[..., Ran]) -> None:
    failed_in_one_line(start(project.root, "digits@champion", "--port", "0"), "mlflow.db is not there: python -m")
    nobody = f"http://me:Hunter2@127.0.0.1:{free_port()}"
    ran = start(project.root, "digits@champion", "--port", "0", MLFLOW_TRACKING_URI=nobody)
    failed_in_one_line(ran, "can't be had from http://***@127.0.0.1", "refused")
    assert "Hunter2" not in ran.out + ran.err


def test_a_port_that_is_taken(project: Project, start: Callable[..., Ran], served: str) -> None:
    port = str(port_of(served))
    taken = start(project.root, "digits@champion", "--port", port)
    failed_in_one_line(taken, f"can't listen at 127.0.0.1:{port} (Address already in use)")
    failed_in_one_line(start(project.root, "digits@champion", "--port", "70000"), "can't listen at 127.0.0.1:70000")


def test_a_damaged_model(digits: Clone, copy_of: Callable[[Clone], Clone], start: Callable[..., Ran]) -> None:
    clone = copy_of(digits)
    weights = clone.root / "models/digits-mlp/model.safetensors"
    whole = weights.read_bytes()
    weights.unlink()
    failed_in_one_line(start(clone.root, "models/digits-mlp", "--port", "0"), "model.safetensors is not there: run dvc")
    weights.write_bytes(whole[:1000])
    failed_in_one_line(start(clone.root, "models/digits-mlp", "--port", "0"), "model.safetensors is damaged")
    (clone.root / "models/digits-mlp/model.json").unlink()
    (clone.root / "models/digits-mlp/model.json").write_text("{}")
    failed_in_one_line(start(clone.root, "models/digits-mlp", "--port", "0"), "model.json is damaged (it has no shape)")
