"""Training by several processes, one for each device: how they start, and what they tell each other.

Every process holds the whole model and trains on its share of each batch; DistributedDataParallel averages the
gradients, so that all take the same step. The first process alone validates, writes and talks to the person.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.system.console import Terminated, UserError

T = TypeVar("T")
RESTARTS = 3  # of all processes, after one of them was lost
PORT = 29500  # torchrun's own, where MASTER_PORT names no other
ERROR = "error"  # the key under which a process leaves what only a person can mend


@dataclass(frozen=True)
class Group:
    """The processes that train one model, as one of them sees them. Alone, it imports and starts nothing of theirs."""

    rank: int = 0
    world_size: int = 1
    local_rank: int | None = None  # among those of this machine

    def connect(self, device: torch.device) -> None:
        """Wait for the others. Raises UserError if nobody says where to meet them."""
        if self.world_size == 1:
            return
        if "MASTER_ADDR" not in os.environ:
            raise UserError("MASTER_ADDR is not set: expected the address of the first machine, see docs/scaling.md")
        os.environ.setdefault("MASTER_PORT", str(PORT))
        # objects and numbers on the CPU travel by gloo everywhere
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        store = None
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            # it outlives a restart: the addresses of lost processes must not be taken for those of the new ones
            store = dist.PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], launcher_store())
        dist.init_process_group(backend, rank=self.rank, world_size=self.world_size, store=store)

    def shard(self, batch: Tensor) -> Tensor:
        """This process's rows of a batch; shares differ by one row at most, and may be empty."""
        return batch.tensor_split(self.world_size)[self.rank]

    def add(self, values: Tensor) -> None:
        """Make `values` their sum over all processes."""
        if self.world_size > 1:
            dist.all_reduce(values)

    def on_first(self, do: Callable[[], T]) -> T:
        """What `do` returns in the first process, in all of them."""
        if self.world_size == 1:
            return do()
        answer = [do() if self.rank == 0 else None]
        dist.broadcast_object_list(answer)
        return answer[0]  # type: ignore[return-value]

    def check_all_equal(self, on: str) -> None:
        """Raises UserError in all processes unless they gave the same."""
        if self.world_size == 1:
            return
        given: list[Any] = [None] * self.world_size
        dist.all_gather_object(given, on)
        for rank, other in enumerate(given):
            if other != given[0]:
                raise UserError(
                    f"process {rank} of {self.world_size} has other data, code, params.yaml, packages or threads than"
                    " the first: bring its clone to the same commit, and dvc pull the same data"
                )


ALONE = Group()


def run(compute: Any, train: Callable[..., None], *arguments: Any) -> None:
    """Call `train(*arguments, group)` in as many processes as `compute` wants (see experiments.Compute).

    That is this process, if one is enough or if torchrun or srun have started it as one of several; else new ones.
    Raises UserError for what any of them could not do, and where they are more or less than wanted.
    """
    group = started()
    if group.world_size == 1 < compute.world_size:
        launch(compute, train, *arguments)
        return
    if group.world_size != compute.world_size:
        raise UserError(
            f"started as {group.world_size} processes, but params.yaml has"
            f" compute.devices = {compute.devices} × compute.nodes = {compute.nodes}; expected as many"
        )
    join(group, train, *arguments)


def started() -> Group:
    """This process's place among those that torchrun or srun have started; alone, if they have not.

    srun alone sets SLURM_STEP_NUM_TASKS; the script of a batch job has SLURM_NTASKS too, but is one process.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    if "LOCAL_RANK" not in os.environ:
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
    return Group(*(int(os.environ[name]) for name in names)) if names[1] in os.environ else ALONE


def writes(compute: Any) -> bool:
    """Whether this process, or the first of those that it launches, is the one that writes."""
    return started().rank == 0 and (compute.nodes == 1 or os.environ.get("NODE_RANK", "0") == "0")


def join(group: Group, train: Callable[..., None], *arguments: Any) -> None:
    """Train as one of a group, in silence but for the first."""
    with contextlib.ExitStack() as stack:
        if group.rank:
            nowhere = stack.enter_context(open(os.devnull, "w"))  # noqa: PTH123
            stack.enter_context(contextlib.redirect_stdout(nowhere))
            stack.enter_context(contextlib.redirect_stderr(nowhere))
        try:
            train(*arguments, group)
        except BaseException:
            # its threads would abort the process at its exit; NCCL would wait for processes that no longer come
            if dist.is_initialized() and dist.get_backend() == dist.Backend.GLOO:
                dist.destroy_process_group()
            raise
    if group.world_size > 1:
        dist.destroy_process_group()


def launch(compute: Any, train: Callable[..., None], *arguments: Any) -> None:
    """Start the processes of this machine as torchrun does, and start all again when one is lost.

    Training then goes on from the last checkpoint. What a person has to mend is not tried again: it is a UserError.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    check_devices(compute)
    with silence(), TemporaryDirectory() as logs:
        config = LaunchConfig(
            min_nodes=compute.nodes,
            max_nodes=compute.nodes,
            nproc_per_node=compute.devices,
            run_id="none",  # as torchrun has it, which may start the other machines' processes
            max_restarts=RESTARTS,
            logs_specs=DefaultLogsSpecs(logs),
            **meeting_point(compute.nodes),
        )
        try:
            errors = elastic_launch(config, worker)(train, *arguments)
        except SignalException as stop:
            if stop.sigval == signal.SIGINT:
                raise KeyboardInterrupt from None
            if stop.sigval == signal.SIGTERM:
                raise Terminated from None
            sys.exit(128 + stop.sigval)
        except ChildFailedError as lost:
            failure = lost.get_first_failure()[1]
            if failure.exitcode >= 0:
                raise
            killed_by = signal.Signals(-failure.exitcode).name
            raise UserError(
                f"a process was killed by {killed_by}, and again after {RESTARTS} restarts: is memory short?"
                " The next run goes on from the last checkpoint"
            ) from None
        except dist.DistError as error:
            reason = str(error).splitlines()[0][:200]
            raise UserError(f"the other machines can't be reached ({reason}): see docs/scaling.md") from None
    for message in filter(None, errors.values()):
        raise UserError(message)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Nothing is logged inside: what matters comes back as an exception."""
    before = logging.root.manager.disable
    logging.disable()
    try:
        yield
    finally:
        logging.disable(before)


def worker(train: Callable[..., None], *arguments: Any) -> str | None:
    """What each process does that `launch` starts. Returns the error that one of them has left, if any.

    A process can't return while others wait for it: it leaves its error in the store, which all can reach and which
    outlives them, and fails. Started again, all find it there.
    """
    from tqdm import tqdm

    # at once, also while waiting for another process: torch sends it to what a killed parent leaves behind
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    tqdm.set_lock(threading.RLock())  # its own is one between processes, which Python reports as leaked by a killed one
    store = launcher_store()
    if store.check([ERROR]):
        return store.get(ERROR).decode()
    try:
        join(started(), train, *arguments)
    except UserError as error:
        store.set(ERROR, str(error))
        raise
    except OSError as error:
        store.set(ERROR, f"{error.filename or 'writing'}: {error.strerror}")
        raise
    return None


def launcher_store() -> dist.TCPStore:
    """Where torchrun, or `launch`, lets processes tell each other of themselves."""
    return dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)


def meeting_point(nodes: int) -> dict[str, Any]:
    """Where the machines meet, and which of them this one is.

    c10d's own rendezvous numbers machines by their names; the first must be the one where DVC waits for the results.
    """
    if nodes == 1:
        return {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0"}
    address, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT", PORT)
    number = os.environ.get("NODE_RANK", "")
    if not address or not number.isdecimal() or int(number) >= nodes:
        raise UserError(
            f"compute.nodes = {nodes} machines must find each other: on each, set MASTER_ADDR to the first one's"
            f" address and NODE_RANK to its number, 0 to {nodes - 1}; see docs/scaling.md"
        )
    endpoint = f"{address}:{port}"
    return {"rdzv_backend": "static", "rdzv_endpoint": endpoint, "rdzv_configs": {"rank": int(number)}}


def check_devices(compute: Any) -> None:
    """Raises UserError if this machine has fewer devices than wanted."""
    cuda = torch.cuda.is_available()
    if compute.device == "cuda" or (compute.device == "auto" and cuda):
        count = torch.cuda.device_count() if cuda else 0
        if count < compute.devices:
            raise UserError(
                f"params.yaml: compute.devices = {compute.devices}: CUDA has {count} here; expected as many at most"
            )
    elif compute.device == "auto" and torch.backends.mps.is_available():
        raise UserError(
            f"params.yaml: compute.devices = {compute.devices}: MPS is one device; expected 1, or device: cpu"
        )
