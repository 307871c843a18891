"""Where a network is trained and evaluated, and how that gives the same bytes every time."""

from __future__ import annotations

import os
from typing import Any

import torch

from pipeline.system import memory
from pipeline.system.console import UserError


def select_device(compute: Any, local_rank: int | None = None) -> tuple[torch.device, int]:
    """The device to train on and the number of CPU threads. Raises UserError for a device that is not there.

    `local_rank` is the number of this process among `compute.devices` that share the machine.
    """
    wanted = compute.device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if local_rank is not None and wanted == "cuda":
        wanted = f"cuda:{local_rank % max(1, torch.cuda.device_count())}"  # srun may show each process its own only
    try:
        device = torch.device(wanted)
        torch.zeros(1, device=device).item()  # `meta` would only fail here
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(
            f"params.yaml: compute.device = '{wanted}' can't be used here ({reason}); try auto or cpu"
        ) from None
    if device.index is not None and device.type == "cuda":
        torch.cuda.set_device(device)  # for streams and graphs, which belong to the current one
    if compute.threads != "auto":
        return device, compute.threads
    sharing = 1 if local_rank is None or "OMP_NUM_THREADS" in os.environ else compute.devices
    return device, max(1, torch.get_num_threads() // sharing)


def make_deterministic(device: torch.device, threads: int, precision: str = "fp32") -> None:
    """Same inputs, same bytes: fixed algorithms, a fixed number of threads, TF32 only where a config says so."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with this
    # as use_deterministic_algorithms(True, warn_only=True), which also imports the compiler, in 4 seconds
    torch.set_deterministic_debug_mode("warn")
    # nothing here reads what it has not written
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.set_num_threads(threads)
    memory.keep_freed(2**31 - 1)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = False
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision != "fp32"


def captures(config: Any, data: Any) -> bool:
    """Whether a step runs as a CUDA graph: all that it does stays on one device."""
    graphs = config.compute.cuda_graphs and config.compute.devices * config.compute.nodes == 1
    return data.device.type == "cuda" and graphs and not config.compile and config.optimizer.name != "muon"


def out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def free(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
