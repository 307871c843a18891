"""Serve a model with MLflow's scoring server, on this machine only.

MODEL is a model in MLflow, digits@champion or digits/3, or a folder, models/digits-cnn. A client sends images to
/invocations as JSON, {"inputs": ["<an image file in base64>", …]}, and gets the class and probabilities of each.
"""

from __future__ import annotations

from pipeline.system.entry import command_line

import re
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.system.console import UserError, one_line, run, say
from pipeline.system.credentials import hide_in
from pipeline.tracking import database
from pipeline.tracking.complaint import reason
from pipeline.tracking.connection import connected
from pipeline.tracking.server import tracking_uri
from pipeline.web.listening import listen

if TYPE_CHECKING:
    from mlflow.pyfunc import PyFuncModel

HOST = "127.0.0.1"
PORT = 5001  # `make ui` has 5000


def main() -> None:
    parser = command_line("serve", __doc__)
    parser.add_argument("model", metavar="MODEL", help="digits@champion, digits/3 or models/digits-cnn")
    parser.add_argument("--port", type=int, default=PORT, help=f"default: {PORT}; 0: any that is free")
    arguments = parser.parse_args()
    name: str = arguments.model.removeprefix("models:/")
    with listen(HOST, arguments.port) as listening, tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "model")
        if name and Path(name).is_dir():
            package(Path(name), folder)
        else:
            download(name, folder)
        model = load(name, folder)

        import uvicorn

        from pipeline.registry.scoring import guarded

        say(f"{name} answers at http://{HOST}:{listening.getsockname()[1]}/invocations; Ctrl-C ends it")
        with suppress(KeyboardInterrupt):  # the usual way to end it
            uvicorn.Server(uvicorn.Config(guarded(model), log_level="warning")).run(sockets=[listening])


def package(model: Path, out: Path) -> None:
    """Write the model in models/EXPERIMENT as MLflow keeps it. Raises UserError where it is not whole."""
    from pipeline.evaluation.model import Model
    from pipeline.registry.logged import save
    from pipeline.registry.versions import quiet

    with quiet():
        save(model, Model(model).about, out)


def download(name: str, out: Path) -> None:
    """Fetch NAME@ALIAS or NAME/VERSION from MLflow. Raises UserError where there is no such model, or no MLflow."""
    if not re.fullmatch(r"[^@/]+(@[^@/]+|/[0-9]+)", name):
        raise UserError(f"{name}: no such folder; expected models/EXPERIMENT, NAME@ALIAS or NAME/VERSION")
    uri = tracking_uri()
    file = database.file_of(uri)
    if file is not None and not file.exists():
        raise UserError(f"{file} is not there: python -m pipeline.track makes it, of the results that are here")

    from mlflow.artifacts import download_artifacts

    from pipeline.registry.versions import quiet

    try:
        with connected(), quiet():
            download_artifacts(f"models:/{name}", dst_path=str(out), tracking_uri=uri)
    except Exception as raised:  # whatever a server, a network or a database does
        raise UserError(f"{name} can't be had from {hide_in(uri)}: {reason(raised)}") from None


def load(name: str, folder: Path) -> PyFuncModel:
    """Raises UserError for a model that can't be loaded: others may have registered any kind."""
    from mlflow import pyfunc

    try:
        return pyfunc.load_model(str(folder))
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{name} can't be loaded: {type(error).__name__}: {one_line(error)}") from None


if __name__ == "__main__":
    run(main)
