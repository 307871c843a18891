"""How fast the stage `check` is, side by side with what else people run over a folder of photos.

usage: python -m benchmarks.check [--source ZIP] [--copies N] [--rounds N] [--growth COUNT…] [--json]

In turns, on the same photos and the same cores: the header loop of the published study (sizes only, nothing decoded),
a bare Pillow decode of every image, the stage `check` with every property and hash, and cleanvision's own full check,
which is installed into an environment of its own, .venv/cleanvision (nothing here depends on it). Seconds are counted
from after the imports to the end. So that throughput is measured and not the start, every contender gets
several copies of each photo; `--copies 1` shows what the start costs a small folder.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import psutil

from pipeline.system.workers.pool import cores

REPOSITORY = Path(__file__).parents[1]
CLEANVISION = REPOSITORY / ".venv/cleanvision"
PHOTOS = Path(os.environ.get("DATA_MIRROR", "."), "cats-dogs/cats-dogs-sample.zip")
SMALL = Path(os.environ.get("DATA_MIRROR", "."), "cifar10-jpeg/cifar10-jpeg.zip")

# The published study's loop: what a file's header says
HEADERS = """
import sys, time
from pathlib import Path
import pandas as pd
from PIL import Image
start = time.perf_counter()
sizes = []
for path in Path(sys.argv[1]).rglob("*.jpg"):
    try:
        with Image.open(path) as image:
            sizes.append(image.size)
    except OSError:
        pass
pd.DataFrame(sizes, columns=["width", "height"]).describe()
print(time.perf_counter() - start)
"""

# Nothing but Pillow, in as many processes as `check` uses
DECODE = """
import multiprocessing, sys, time
from pathlib import Path
from PIL import Image
def load(path):
    try:
        with Image.open(path) as image:
            image.load()
    except OSError:
        pass
if __name__ == "__main__":
    start = time.perf_counter()
    paths = sorted(Path(sys.argv[1]).rglob("*.jpg"))
    with multiprocessing.Pool(int(sys.argv[2])) as pool:
        for _ in pool.imap_unordered(load, paths, 32):
            pass
    print(time.perf_counter() - start)
"""

CHECK = """
import contextlib, io, time
from pipeline import check
start = time.perf_counter()
with contextlib.redirect_stdout(io.StringIO()):
    check.main("photos")
print(time.perf_counter() - start)
"""

FULL_CLEANVISION = """
import contextlib, io, sys, time
from cleanvision import Imagelab
if __name__ == "__main__":
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        Imagelab(data_path=sys.argv[1]).find_issues(n_jobs=int(sys.argv[2]), verbose=False)
    print(time.perf_counter() - start)
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.check", description=__doc__)
    parser.add_argument("--source", type=Path, default=PHOTOS, help="a zip of photos (default: in DATA_MIRROR)")
    parser.add_argument("--copies", type=int, default=5, help="of each photo")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--growth", type=int, nargs="*", default=[], help="numbers of small images to check")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if not arguments.source.is_file():
        sys.exit(f"error: {arguments.source} is not there: name a zip of photos with --source, or set DATA_MIRROR")
    with tempfile.TemporaryDirectory(prefix="check-") as folder:
        figures = compare(arguments.source, Path(folder), arguments.copies, arguments.rounds)
        growth = [grown(count, Path(folder)) for count in arguments.growth]
    if arguments.json:
        print(json.dumps({**figures, "growth": growth} if growth else figures, indent=2))
        return
    print(in_words(figures))
    if growth:
        print("\n| images | seconds | images/s | peak MB |\n| --- | --- | --- | --- |")
    for row in growth:
        print(f"| {row['images']:,} | {row['seconds']:.1f} | {row['images_per_second']:,.0f} | {row['peak_mb']:.0f} |")


def compare(source: Path, folder: Path, copies: int, rounds: int) -> dict[str, Any]:
    """Median seconds of each contender over rounds that take turns, and their ratios."""
    with zipfile.ZipFile(source) as archive:
        archive.extractall(folder / "photos")
    for file in [path for path in (folder / "photos").rglob("*.jpg") if not path.stat().st_size]:
        file.unlink()  # cleanvision stops at the first broken file
    for file in list((folder / "photos").rglob("*.jpg")):
        for copy in range(1, copies):
            shutil.copy(file, file.with_stem(f"{file.stem}-{copy}"))
    images = len(list((folder / "photos").rglob("*.jpg")))
    write_params(folder, folder / "photos")
    install_cleanvision()
    python, processes = sys.executable, str(cores())
    photos = str(folder / "photos")
    commands = {
        "headers": [python, "-c", HEADERS, photos],
        "decode": [python, script(folder, "decode", DECODE), photos, processes],
        "check": [python, "-c", CHECK],
        "cleanvision": [str(CLEANVISION / "bin/python"), script(folder, "full", FULL_CLEANVISION), photos, processes],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for round_ in range(rounds):
        for name, command in commands.items():
            if name == "cleanvision" and round_:  # minutes a round: once is enough
                continue
            seconds[name].append(run(command, folder))
    _, peak = run_watched(commands["check"], folder)  # apart: adding up the pages of processes takes time from them
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "vs_decode": round(median["decode"] / median["check"], 3),
        "vs_cleanvision": round(median["cleanvision"] / median["check"], 1),
        "vs_header_loop": round(median["headers"] / median["check"], 3),
        "images_per_second": round(images / median["check"], 1),
        "peak_mb": round(peak),
        "images": images,
        "processes": cores(),
        "seconds": {name: [round(value, 3) for value in values] for name, values in seconds.items()},
    }


def grown(count: int, folder: Path) -> dict[str, Any]:
    """Check `count` small images: real ones, repeated in a zip."""
    source = folder / f"{count}.zip"
    with zipfile.ZipFile(SMALL) as archive:
        real = [(name, archive.read(name)) for name in archive.namelist() if name.endswith(".jpg")]
    with zipfile.ZipFile(source, "w") as archive:
        for number in range(count):
            name, content = real[number % len(real)]
            archive.writestr(f"{name.split('/')[1]}/{number:07d}.jpg", content)
    write_params(folder, source)
    seconds, peak = run_watched([sys.executable, "-c", CHECK], folder)
    source.unlink()
    return {"images": count, "seconds": round(seconds, 2), "images_per_second": count / seconds, "peak_mb": round(peak)}


def write_params(folder: Path, source: Path) -> None:
    dataset = {"source": str(source), "check": {"max_quarantined": 0.1}, "split": {}, "pack": {"size": 64}}
    (folder / "params.yaml").write_text(json.dumps({"seed": 1, "datasets": {"photos": dataset}}))


def script(folder: Path, name: str, text: str) -> str:
    """A file, because processes that are spawned import it again."""
    (folder / f"{name}.py").write_text(text)
    return str(folder / f"{name}.py")


def install_cleanvision() -> None:
    if not (CLEANVISION / "bin/python").exists():
        uv = str(Path(sys.executable).with_name("uv"))
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(CLEANVISION)], check=True)
        subprocess.run(
            [uv, "pip", "install", "--quiet", "--python", str(CLEANVISION / "bin/python"), "cleanvision"], check=True
        )


def run(command: list[str], folder: Path) -> float:
    """The seconds that a command prints."""
    return seconds_of(start(command, folder))


def run_watched(command: list[str], folder: Path) -> tuple[float, float]:
    """Also the most memory, in MB, that it and all below it took at one time."""
    process = start(command, folder)
    peak: list[float] = [0.0]
    watcher = threading.Thread(target=watch, args=(process.pid, peak))
    watcher.start()
    seconds = seconds_of(process)
    watcher.join()
    return seconds, peak[0]


def start(command: list[str], folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)


def seconds_of(process: subprocess.Popen[str]) -> float:
    out, _ = process.communicate()
    if process.returncode:
        sys.exit(f"{process.args!s:.80} … ended with status {process.returncode}")
    return float(out.split()[-1])


def watch(pid: int, peak: list[float]) -> None:
    while psutil.pid_exists(pid):
        try:
            family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
            peak[0] = max(peak[0], sum(process.memory_full_info().pss for process in family) / 1e6)
        except psutil.Error:
            pass
        time.sleep(0.2)


def in_words(figures: dict[str, Any]) -> str:
    lines = [
        f"{figures['images']:,} photos, {figures['processes']} processes, {platform.processor() or platform.machine()},"
        f" Python {platform.python_version()}",
        "",
        "| | seconds (each round) | check against it |",
        "| --- | --- | --- |",
    ]
    ratios = {"decode": "vs_decode", "cleanvision": "vs_cleanvision", "headers": "vs_header_loop"}
    for name, seconds in figures["seconds"].items():
        against = f"{figures[ratios[name]]:g} ×" if name in ratios else ""
        lines.append(f"| {name} | {', '.join(f'{value:.2f}' for value in seconds)} | {against} |")
    lines.append(f"\n{figures['images_per_second']:,.0f} images/s, {figures['peak_mb']} MB at most")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
