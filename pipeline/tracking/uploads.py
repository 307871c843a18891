"""Send files to MLflow side by side: a server far away takes its time for each."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

AT_ONCE = 8  # MLflow's client keeps ten connections


def upload(log: Callable[[str, str | None], None], folder: Path, files: list[Path]) -> None:
    """Call `log(file, place)` for files below a folder: `place` is the folder of a file in it, None for `folder`."""

    def send(file: Path) -> None:
        place = file.parent.relative_to(folder).as_posix()
        log(str(file), None if place == "." else place)

    for file in files[:1]:
        send(file)  # with it MLflow learns where all of them go, and asks the server no more
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for _ in pool.map(send, files[1:]):
            pass
