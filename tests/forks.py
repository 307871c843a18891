"""Start programs as forks of a process that has imported what they need, which takes longer than most of them do.

Each is a process of its own, with its own folder, environment and output.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import NoReturn

REPOSITORY = Path(__file__).parents[1]
PRELOADED = {
    "dvc": (
        *("dvc.cli.parser", "dvc.repo", "dvc.repo.index", "dvc.repo.reproduce", "dvc.repo.status", "dvc.stage.run"),
        *("dvc.dvcfile", "dvc.parsing", "dvc.cachemgr", "dvc.data_cloud", "dvc.rwlock", "dvc_data.index"),
        *("scmrepo.git.backend.dulwich", "scmrepo.git.backend.pygit2", "networkx"),
    ),
    # not the module itself, which is run as __main__
    "pipeline.track": (
        *("mlflow", "mlflow.store.tracking.sqlalchemy_store", "mlflow.store.tracking.rest_store", "pandas"),
        *("mlflow.store.model_registry.sqlalchemy_store", "pipeline.tracking.tracker", "pipeline.tracking.content"),
        *("pipeline.registry.register",),
    ),
}


class Forks:
    """The process that forks, for one program. It ends with the one that has started it."""

    def __init__(self, module: str) -> None:
        self.module = module
        self.asked, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            subprocess.Popen(
                [sys.executable, "-P", __file__, module, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
            )

    def run(self, arguments: list[str], cwd: Path, timeout: float, environment: dict[str, str]) -> tuple[int, str, str]:
        """Run the program. Returns its exit status and what it printed. Raises TimeoutError."""
        job = {"argv": [self.module, *arguments], "cwd": str(cwd), "environment": environment}
        reply, theirs = socket.socketpair()
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err, reply:
            with theirs:
                files = [out.fileno(), err.fileno(), theirs.fileno()]
                socket.send_fds(self.asked, [json.dumps(job).encode()], files)
            reply.settimeout(timeout)
            status = int(reply.recv(16))
            out.seek(0)
            err.seek(0)
            return status, out.read(), err.read()


forks = cache(Forks)


def serve(module: str, asked: socket.socket) -> None:
    """Fork for each job that comes, until nobody asks any more."""
    if module != "dvc":
        sys.path.insert(0, str(REPOSITORY))
    for name in PRELOADED[module]:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who wait
    while (received := socket.recv_fds(asked, 1 << 20, 3))[0]:
        text, (out, err, reply), *_ = received
        if not os.fork():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            asked.close()
            if not (child := os.fork()):
                os.close(reply)
                os.dup2(out, 1)
                os.dup2(err, 2)
                become(**json.loads(text))
            _, status = os.waitpid(child, 0)
            os.write(reply, b"%d" % os.waitstatus_to_exitcode(status))
            os._exit(0)
        for file in (out, err, reply):
            os.close(file)


def become(argv: list[str], cwd: str, environment: dict[str, str]) -> NoReturn:
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[:] = argv
    if argv[0] == "dvc":
        from dvc.cli import main

        sys.exit(main(argv[1:]))
    try:
        runpy.run_module(argv[0], run_name="__main__", alter_sys=True)
    finally:
        sys.stdout.flush()
    sys.exit(0)


if __name__ == "__main__":
    serve(sys.argv[1], socket.socket(fileno=int(sys.argv[2])))
