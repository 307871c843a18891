"""Training by several processes, one for each device: how they start, and what they tell each other.

Every process holds the whole model and trains on its shard of each batch; DistributedDataParallel averages the
gradients, so that all take the same step. The first process (rank 0) alone validates, writes and prints.
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
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.system.console import Terminated, UserError
from pipeline.system.device import enough_memory

if TYPE_CHECKING:
    from pipeline.config.experiments import Compute

T = TypeVar("T")
RESTARTS = 3  # how often all processes are started again after one was lost
PORT = 29500  # torchrun's default, used where MASTER_PORT is not set
ERROR = "error"  # the store's key for an error that only a person can mend


@dataclass(frozen=True)
class Group:
    """One of the processes that train a model. Where there is only one, nothing of torch.distributed is started."""

    rank: int = 0
    world_size: int = 1
    local_rank: int | None = None  # the rank among the processes of this machine

    def connect(self, device: torch.device) -> None:
        """Wait until all processes have joined. Raises UserError where the address to meet at is not set."""
        if self.world_size == 1:
            return
        if "MASTER_ADDR" not in os.environ:
            raise UserError("MASTER_ADDR is not set: expected the address of the first machine, see docs/scaling.md")
        os.environ.setdefault("MASTER_PORT", str(PORT))
        # NCCL moves tensors between GPUs only: gloo takes Python objects and tensors on the CPU
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        store = None
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            # the store outlives a restart: without a prefix, addresses of lost processes would pass for new ones
            store = dist.PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], launcher_store())
        dist.init_process_group(backend, rank=self.rank, world_size=self.world_size, store=store)

    def shard(self, batch: Tensor) -> Tensor:
        """This process's rows of a batch (B, …); shards differ by one row at most, and may be empty."""
        return batch.tensor_split(self.world_size)[self.rank]

    def all_reduce(self, values: Tensor) -> None:
        """Replace `values`, in place, by their sum over all processes."""
        if self.world_size > 1:
            dist.all_reduce(values)

    def on_first(self, do: Callable[[], T]) -> T:
        """Call `do` in the first process only and return its result in all of them."""
        if self.world_size == 1:
            return do()
        answer = [do() if self.rank == 0 else None]
        dist.broadcast_object_list(answer)
        return answer[0]  # type: ignore[return-value]

    def all_gather(self, value: T) -> list[T]:
        """The `value` that each process has, in all of them."""
        given = [value] * self.world_size
        if self.world_size > 1:
            dist.all_gather_object(given, value)
        return given

    def check_all_equal(self, value: str) -> None:
        """Raise UserError in all processes unless all have the same `value`."""
        given = self.all_gather(value)
        for rank, other in enumerate(given):
            if other != given[0]:
                raise UserError(
                    f"process {rank} of {self.world_size} has other data, code, params.yaml, packages or threads than"
                    " the first: bring its clone to the same commit, and dvc pull the same data"
                )


ALONE = Group()


def run(compute: Compute, train: Callable[..., None], *arguments: object) -> None:
    """Call `train(*arguments, group)` in as many processes as `compute` asks for.

    One process, or one of several that torchrun or srun has started, is this process; else new ones are started.
    Raises UserError for an error of any of them, and where another number was started than `compute` asks for.
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
    train_in_group(group, train, *arguments)


def started() -> Group:
    """This process among those that torchrun or srun has started, or ALONE where neither has.

    Only srun sets SLURM_STEP_NUM_TASKS; SLURM_NTASKS is set in a batch script too, which is one process.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    if "LOCAL_RANK" not in os.environ:
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
    return Group(*(int(os.environ[name]) for name in names)) if names[1] in os.environ else ALONE


def writes(compute: Compute) -> bool:
    """Whether this process, or the first of those that it starts, writes the outputs."""
    return started().rank == 0 and (compute.nodes == 1 or os.environ.get("NODE_RANK", "0") == "0")


def train_in_group(group: Group, train: Callable[..., None], *arguments: object) -> None:
    """Train as one of a group. All but the first process print nothing."""
    with enough_memory("this network", "make it smaller, or its images"), contextlib.ExitStack() as stack:
        if group.rank:
            nowhere = stack.enter_context(open(os.devnull, "w"))  # noqa: PTH123
            stack.enter_context(contextlib.redirect_stdout(nowhere))
            stack.enter_context(contextlib.redirect_stderr(nowhere))
        try:
            train(*arguments, group)
        except BaseException:
            # gloo's threads would abort the process at its exit; with NCCL this would wait for the others for ever
            if dist.is_initialized() and dist.get_backend() == dist.Backend.GLOO:
                dist.destroy_process_group()
            raise
    if group.world_size > 1:
        dist.destroy_process_group()


def launch(compute: Compute, train: Callable[..., None], *arguments: object) -> None:
    """Start the processes of this machine as torchrun does, and start all again when one is lost.

    Training then goes on from the last checkpoint. An error that a person has to mend is raised as a UserError at once.
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
            run_id="none",  # torchrun's default: it may start the processes of the other machines
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
    """Switch logging off for a block whose errors come back as exceptions."""
    before = logging.root.manager.disable
    logging.disable()
    try:
        yield
    finally:
        logging.disable(before)


def worker(train: Callable[..., None], *arguments: object) -> str | None:
    """Run `train` in a process that `launch` has started. Returns the error that one of the processes has left, if any.

    A process that returned early would leave the others waiting. So it writes its error to the launcher's store, which
    outlives it, and fails; all processes are started again, find the error there, and return it.
    """
    from tqdm import tqdm

    # torch sends SIGINT to the children of a killed launcher: end at once, also while waiting for another process
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    tqdm.set_lock(threading.RLock())  # Python would report tqdm's default, a multiprocessing lock, as leaked
    store = launcher_store()
    if store.check([ERROR]):
        return store.get(ERROR).decode()
    try:
        train_in_group(started(), train, *arguments)
    except UserError as error:
        store.set(ERROR, str(error))
        raise
    except OSError as error:
        store.set(ERROR, f"{error.filename or 'writing'}: {error.strerror}")
        raise
    return None


def launcher_store() -> dist.TCPStore:
    """The key-value store that torchrun, or `launch`, serves to all processes."""
    return dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)


def meeting_point(nodes: int) -> dict[str, Any]:
    """The address at which the machines meet, and the number of this one.

    The c10d rendezvous would number machines by their names, but the first has to be the one where DVC waits for the
    results: several machines use the static rendezvous.
    """
    if nodes == 1:
        from pipeline.training import loopback

        return loopback.meeting_point()
    address, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT", PORT)
    number = os.environ.get("NODE_RANK", "")
    if not address or not number.isdecimal() or int(number) >= nodes:
        raise UserError(
            f"compute.nodes = {nodes} machines must find each other: on each, set MASTER_ADDR to the first one's"
            f" address and NODE_RANK to its number, 0 to {nodes - 1}; see docs/scaling.md"
        )
    endpoint = f"{address}:{port}"
    return {"rdzv_backend": "static", "rdzv_endpoint": endpoint, "rdzv_configs": {"rank": int(number)}}


def check_devices(compute: Compute) -> None:
    """Raise UserError if this machine has fewer devices than `compute` asks for."""
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
