"""Serve a page on which photos are dropped and classified by a trained model, on this machine only."""

from __future__ import annotations

from pipeline.system.entry import command_line

from contextlib import suppress
from pathlib import Path

from pipeline.system import workers
from pipeline.system.console import require, run, say
from pipeline.web.listening import listen

HOST, PORT = "127.0.0.1", 8000


def main() -> None:
    parser = command_line("app", __doc__)
    parser.add_argument("--model", type=Path, required=True, metavar="models/EXPERIMENT")
    parser.add_argument("--host", default=HOST, help=f"the address to listen at ({HOST}); it has no password")
    parser.add_argument("--port", type=int, default=PORT, help=f"{PORT}; 0: any that is free")
    arguments = parser.parse_args()
    require("the app", "fastapi", "uvicorn")
    listener = listen(arguments.host, arguments.port)
    workers.warm_up("pipeline.prediction.pixels")

    import uvicorn
    from torch import get_num_threads

    from pipeline.evaluation.model import Model
    from pipeline.system.device import make_deterministic, open_device
    from pipeline.web.answers import Answers
    from pipeline.web.server import make_app

    model = Model(arguments.model)
    model.to(open_device("auto", "device"))
    make_deterministic(model.device, get_num_threads())
    answers = Answers(model)
    if answers.unexplained:
        say(f"without explanations: {answers.unexplained}")
    config = uvicorn.Config(
        make_app(model, answers, arguments.host), log_level="warning", access_log=False, server_header=False
    )
    say(f"http://{arguments.host}:{listener.getsockname()[1]} classifies photos by {arguments.model}; Ctrl-C ends it")
    try:
        with suppress(KeyboardInterrupt):  # the usual way to end it
            uvicorn.Server(config).run(sockets=[listener])
    finally:
        answers.close()


if __name__ == "__main__":
    run(main)
