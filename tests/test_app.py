"""`python -m pipeline.app`: a real server on loopback, asked by a client and by Chromium."""

from __future__ import annotations

import base64
import http.client
import io
import json
import re
import signal
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import pytest
from conftest import ENVIRONMENT, REPOSITORY, Clone, Ran, failed_in_one_line, picture, run, wait_until
from PIL import Image
from samples import chunk, encoded, photo, samples
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from test_report import Browser, chromium  # noqa: F401  # a fixture

from pipeline.web.server import MOST_WAITING

BODY = "application/octet-stream"
RUN = "window.hacked = 1"


class Server(NamedTuple):
    process: subprocess.Popen[str]
    port: int
    temporary: Path  # its TMPDIR

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        sent = {"Content-Type": BODY} | {key.replace("_", "-"): value for key, value in headers.items()}
        connection.request(method, path, body, sent)
        answer = connection.getresponse()
        return answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read()

    def classify(self, body: bytes, **headers: str) -> tuple[int, dict[str, Any]]:
        status, _, said = self.ask("POST", "/classify", body, **headers)
        return status, json.loads(said)


def start(root: Path, temporary: Path, *arguments: str) -> Server:
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.app", "--port", "0", *arguments],
        cwd=root, env={**ENVIRONMENT, "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout
    for line in process.stdout:
        if found := re.search(r"^http://127\.0\.0\.1:(\d+) classifies", line):
            return Server(process, int(found[1]), temporary)
    raise AssertionError(f"it ended with {process.wait()}")


@pytest.fixture(scope="module")
def server(digits: Clone, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = start(digits.root, tmp_path_factory.mktemp("app"), "--model", "models/digits-cnn")
    yield server
    server.process.send_signal(signal.SIGINT)
    said, _ = server.process.communicate(timeout=60)
    assert (server.process.returncode, said) == (0, "")  # Ctrl-C is how it ends; no request has made it complain


def of(address: str) -> np.ndarray:
    kind, _, content = address.partition(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


def test_it_says_what_predict_says(server: Server, digits: Clone, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(encoded(photo(), "PNG"))
    arguments = ["--model", "models/digits-cnn", "--json", "--top", "5", str(tmp_path / "photo.png")]
    (predicted,) = json.loads(digits.must_run("python", "-m", "pipeline.predict", *arguments).out)
    status, said = server.classify((tmp_path / "photo.png").read_bytes())
    assert status == 200
    assert said["predictions"] == [
        {"class": each["class"], "probability": pytest.approx(each["probability"], abs=1e-5)}
        for each in predicted["predictions"]
    ]
    assert of(said["picture"]).shape == (8, 8) and of(said["explanation"]).shape == (256, 256, 3)


def test_every_kind_of_image_and_of_damage(server: Server) -> None:
    for kind, content in samples().items():
        assert server.classify(content)[0] == 200, kind
    whole = encoded(photo(), "PNG")
    for content, status, words in [
        (b"", 422, "empty_file: 0 bytes"),
        (whole[: len(whole) // 2], 422, "truncated: "),
        (b"<!doctype html><script>alert(1)</script>" * 9, 422, "not_an_image: "),
        (np.random.default_rng(1).bytes(5000), 422, "not_an_image: "),
        (bomb(), 413, "too_large: "),
        (bytes(33 * 1024**2), 413, "too_large: more than 32 MB"),
    ]:
        got, said = server.classify(content)
        assert (got, list(said)) == (status, ["error"]) and said["error"].startswith(words), said
        assert len(said["error"].splitlines()) == 1 and "Traceback" not in said["error"]
    assert server.classify(whole)[0] == 200  # it goes on


def bomb() -> bytes:
    """A PNG whose header promises 40,000 × 40,000 pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(9999))) + chunk(b"IEND", b"")


def test_a_photo_sent_in_parts_is_cut_off_where_it_is_too_large(server: Server) -> None:
    """Without a Content-Length, nothing says beforehand how large it is."""
    process = psutil.Process(server.process.pid)
    before = process.memory_info().rss
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("POST", "/classify", (bytes(2**20) for _ in range(300)), {"Content-Type": BODY})
    answer = connection.getresponse()
    assert (answer.status, json.load(answer)) == (413, {"error": "too_large: more than 32 MB"})
    assert process.memory_info().rss - before < 100 * 2**20
    assert server.classify(encoded(photo(), "PNG"))[0] == 200


def test_a_photo_that_breaks_off(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        head = f"POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: {BODY}\r\nContent-Length: 999\r\n\r\n"
        connection.sendall(head.encode() + encoded(photo(), "PNG")[:99])
    assert server.classify(encoded(photo(), "PNG"))[0] == 200


def test_requests_at_the_same_time(server: Server) -> None:
    photos = [encoded(picture(number, 30, 40), "PNG") for number in range(6)]
    alone = [server.classify(content) for content in photos]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(server.classify, photos * 3))
    assert together == alone * 3 and {status for status, _ in together} == {200}


def test_more_photos_at_once_than_it_holds_are_asked_to_come_again(server: Server) -> None:
    content = encoded(photo(), "PNG")
    head = f"POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: {BODY}\r\nContent-Length: 999\r\n\r\n"
    with ExitStack() as held:
        for _ in range(MOST_WAITING):
            connection = held.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            connection.sendall(head.encode() + content[:9])
        wait_until(lambda: server.classify(content)[0] == 429)
    wait_until(lambda: server.classify(content)[0] == 200)


def test_other_pages_can_not_ask(server: Server) -> None:
    body, own = encoded(photo(), "PNG"), f"127.0.0.1:{server.port}"
    for origin in ("http://evil.example", "null", f"https://{own}", "http://127.0.0.1:1"):
        status, headers, said = server.ask("POST", "/classify", body, Origin=origin)
        assert (status, json.loads(said)) == (403, {"error": "only its own page may ask"}), origin
        assert not [name for name in headers if name.startswith("access-control")]
    for host in ("evil.example", f"evil.example:{server.port}", f"127.0.0.1.evil.example:{server.port}"):
        assert server.ask("POST", "/classify", body, Host=host)[0] == 400, host
        assert server.ask("GET", "/", Host=host)[0] == 400, host
    for kind in ("text/plain", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded"):  # of a form
        assert server.ask("POST", "/classify", body, Content_Type=kind)[0] == 415
    status, headers, _ = server.ask("OPTIONS", "/classify", Origin="http://evil.example")
    assert status == 403 and not [name for name in headers if name.startswith("access-control")]
    assert server.ask("POST", "/classify", body, Origin=f"http://{own}")[0] == 200
    assert server.ask("POST", "/classify", body, Host=f"localhost:{server.port}")[0] == 200
    assert server.ask("POST", "/classify", body, Content_Type="Application/Octet-Stream; a=b")[0] == 200


def test_it_listens_on_loopback_alone_and_has_no_other_pages(server: Server) -> None:
    listening = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    (line,) = [each for each in listening.splitlines() if f":{server.port:04X} " in each and " 0A " in each]
    assert line.split()[1].startswith("0100007F:")
    for path in ("/docs", "/openapi.json", "/redoc", "/server.py", "/..%2fapp.py", "/../pipeline/app.py", "/app.html"):
        status, _, said = server.ask("GET", path)
        assert status == 404 and b"import" not in said, path
    assert server.ask("GET", "/classify")[0] in (404, 405)
    for method, path in (("POST", "/"), ("DELETE", "/classify"), ("GET", "/a/b")):
        status, _, said = server.ask(method, path)
        assert status in (404, 405) and list(json.loads(said)) == ["error"]


def test_nothing_is_written_to_disk(server: Server, digits: Clone) -> None:
    def files() -> set[str]:
        found = {str(path) for path in server.temporary.rglob("*") if path.is_file()}
        return found | set(digits.must_run("git", "status", "--porcelain", "--ignored").out.splitlines())

    before = files()
    server.classify(encoded(photo(), "JPEG"))
    server.classify(b"no image")
    assert files() == before


@pytest.fixture
def page(chromium: Browser, server: Server) -> Browser:  # noqa: F811
    chromium.size(1280)
    chromium.errors()
    chromium.driver.get(f"http://127.0.0.1:{server.port}/")
    return chromium


def choose(page: Browser, *files: Path) -> list[str]:
    """Choose files as a person does; what the cards say once all are answered."""
    before = len(page.texts(".card"))
    page.find("#files").send_keys("\n".join(map(str, files)))
    wait_until(lambda: len(page.texts(".card .best, .card .error")) == before + len(files))
    return page.texts(".card")


def test_photos_that_a_person_chooses(page: Browser, tmp_path: Path) -> None:
    hostile = tmp_path / f"<img src=x onerror={RUN}>.png"
    hostile.write_bytes(encoded(photo(), "PNG"))
    whole = hostile.read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "phone.heic").write_bytes(samples()["heic"])
    (tmp_path / "large.png").write_bytes(bytes(33 * 1024**2))
    names = [hostile.name, "half.png", "empty.jpg", "phone.heic", "large.png"]
    cards = choose(page, *(tmp_path / name for name in names))
    assert [card.split("\n")[0] for card in cards] == names
    errors = ["truncated: ", "empty_file: 0 bytes", "too_large: more than 32 MB"]
    for text, words in zip(page.texts(".card .error"), errors, strict=True):
        assert text.startswith(words)
    for card in (cards[0], cards[3]):
        shares = [float(share) for share in re.findall(r"([\d.]+) %", card)]
        assert len(shares) == 5 and shares == sorted(shares, reverse=True) and sum(shares) <= 100.5
    assert page.script("return window.hacked ?? null") is None
    pictures = page.script("return [...document.images].map(image => [image.complete, image.naturalWidth, image.alt])")
    assert [width for _, width, _ in pictures] == [8, 256] * 2 and pictures[1][2].startswith("where it looks for ")
    widths = page.script(
        "return [...document.querySelectorAll('.classes-of i')].map(bar => parseFloat(bar.style.width))"
    )
    assert len(widths) == 10 and widths[0] >= widths[4] > 0
    assert page.texts("#count") == ["5 photos answered"]
    # what the browser says of answers 422 is no fault of the page
    assert [each for each in page.errors() if "422" not in each] == []
    requested = page.script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert all(name.startswith(("data:", page.driver.current_url)) for name in requested)


def test_by_keyboard(page: Browser, tmp_path: Path) -> None:
    assert page.script("return document.activeElement.tagName") == "BODY"
    ActionChains(page.driver).send_keys(Keys.TAB).perform()
    assert page.script("return document.activeElement.id") == "files"  # Enter opens the browser's dialog
    (tmp_path / "a.png").write_bytes(encoded(photo(), "PNG"))
    choose(page, tmp_path / "a.png")
    ActionChains(page.driver).send_keys(Keys.TAB).perform()
    assert page.script("return document.activeElement.id") == "clear"
    ActionChains(page.driver).send_keys(Keys.ENTER).perform()
    assert page.texts(".card") == [] and page.script("return document.activeElement.id") == "files"


TRANSFER = """
const transfer = new DataTransfer();
for (let number = 0; number < arguments[1]; number++) {
  const bytes = Uint8Array.from(atob(arguments[2]), sign => sign.charCodeAt(0));
  transfer.items.add(new File([bytes], `${number}.png`, {type: "image/png"}));
}
const options = {bubbles: true, cancelable: true, dataTransfer: transfer, clipboardData: transfer};
const kind = arguments[0] === "drop" ? DragEvent : ClipboardEvent;
document.body.dispatchEvent(new kind(arguments[0], options));
"""


def test_photos_that_are_dropped_or_pasted(page: Browser) -> None:
    content = base64.b64encode(encoded(picture(1, 9, 9), "PNG")).decode()
    page.script(TRANSFER, "drop", 2, content)
    wait_until(lambda: page.texts("#count") == ["2 photos answered"])
    page.script(TRANSFER, "paste", 1, content)
    wait_until(lambda: page.texts("#count") == ["3 photos answered"])
    assert page.texts(".card .name") == ["0.png", "1.png", "0.png"]
    assert len(page.texts(".card .best")) == 3
    page.script(TRANSFER, "drop", 203, content)
    assert "only 200 at a time: 3 photos left out" in page.texts("#count")[0]
    assert len(page.texts(".card")) == 203


@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_the_window(page: Browser, tmp_path: Path, width: int) -> None:
    page.size(width)
    name = tmp_path / f"{'long name ' * 15}.png"
    name.write_bytes(encoded(photo(), "PNG"))
    (tmp_path / "half.png").write_bytes(name.read_bytes()[:999])
    choose(page, name, tmp_path / "half.png")
    assert page.script("return document.documentElement.scrollWidth") <= width
    for element in page.driver.find_elements(
        By.CSS_SELECTOR, "h1, #drop, .card, .pictures img, .classes-of li, footer"
    ):
        box = element.rect
        assert box["x"] >= 0 and box["x"] + box["width"] <= width + 1 and box["height"] > 10


def test_a_server_that_has_ended_is_told(chromium: Browser, digits: Clone, tmp_path: Path) -> None:  # noqa: F811
    """And a network without convolutions has no explanations."""
    server = start(digits.root, tmp_path, "--model", "models/digits-mlp")
    chromium.driver.get(f"http://127.0.0.1:{server.port}/")
    (tmp_path / "a.png").write_bytes(encoded(photo(), "PNG"))
    (card,) = choose(chromium, tmp_path / "a.png")
    assert len(chromium.script("return [...document.images]")) == 1 and " %" in card
    assert "Grad-CAM" not in chromium.find("footer").text
    server.process.terminate()
    assert server.process.wait(30) == 0
    assert choose(chromium, tmp_path / "a.png")[1].endswith("no answer: does the server still run?")
    chromium.errors()


def app(root: Path, *arguments: str) -> Ran:
    command = [sys.executable, "-m", "pipeline.app", *arguments]
    return run(command, root, 60, PYTHONPATH=str(REPOSITORY))


def test_mistakes_in_the_command(server: Server, digits: Clone) -> None:
    ran = app(digits.root, "--model", "models/digits-cnn", "--port", str(server.port))
    failed_in_one_line(ran, f"can't listen at 127.0.0.1:{server.port}", "give another --port")
    ran = app(digits.root, "--model", "models/digits-cnn", "--host", "no such host")
    failed_in_one_line(ran, "can't listen at no such host:8000", "expected as --host an IPv4 address of this machine")
    failed_in_one_line(app(digits.root, "--model", "models/none", "--port", "0"), "models/none/model.json is not there")
    failed_in_one_line(app(digits.root, "--model", "models/digits-cnn", "--port", "99999"), "can't listen at")


def test_make_app_starts_it(digits: Clone) -> None:
    ran = run(["make", "--no-print-directory", "-n", "app", "MODEL=models/digits-mlp"], digits.root)
    assert ran.out.splitlines()[-1] == ".venv/bin/python -m pipeline.app --model 'models/digits-mlp'"
