"""Python imports this first where PYTHONPATH names its folder: at its end, each stage notes what it has imported."""

from __future__ import annotations

import atexit
import os
import sys

HEAVY = ("torch", "torchvision", "torch._dynamo", "mlflow", "pandas")


def tell() -> None:
    """Write modules of the project, and which of the heavy packages, to a file of the folder that NOTES names."""
    import json
    from pathlib import Path

    stage, name = sys.orig_argv[2], sys.orig_argv[-1]
    files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    here = os.path.join(os.getcwd(), "pipeline", "")
    own = {os.path.relpath(file) for file in files if file and file.startswith(here)}
    told = {"modules": sorted(own), "heavy": [name for name in HEAVY if name in sys.modules]}
    folder = Path(os.environ["NOTES"])
    folder.mkdir(exist_ok=True)
    (folder / f"{stage} {name.rpartition('@')[2]}.json").write_text(json.dumps(told))


if sys.orig_argv[1:2] == ["-m"]:  # not a worker process of a stage
    end = os._exit

    def tell_and_end(status: int) -> None:
        tell()
        end(status)

    os._exit = tell_and_end  # type: ignore[assignment]
    atexit.register(tell)
