"""The device that a network is trained and evaluated on, set up so that it gives the same bytes every time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from pipeline.system import memory
from pipeline.system.console import UserError
from pipeline.system.portable import pin_products

if TYPE_CHECKING:
    from pipeline.config.experiments import Compute


def select_device(
    compute: Compute, local_rank: int | None = None, small_steps: bool = False
) -> tuple[torch.device, int]:
    """The device to train on and the number of CPU threads. Raises UserError for a device that is not there.

    `local_rank` is the number of this process among `compute.devices` that share the machine. `small_steps` says that a
    step is too little work for a second thread.
    """
    wanted = "cpu" if compute.portable else compute.device
    if wanted == "auto":
        wanted = default_device()
    if local_rank is not None and wanted == "cuda":
        wanted = f"cuda:{local_rank % max(1, torch.cuda.device_count())}"  # srun may show each process only its own GPU
    device = open_device(wanted, "params.yaml: compute.device =")
    if device.index is not None and device.type == "cuda":
        torch.cuda.set_device(device)  # streams and CUDA graphs belong to the current device
    if compute.threads != "auto":
        return device, compute.threads
    if compute.portable or (small_steps and device.type == "cpu"):
        return device, 1
    sharing = 1 if local_rank is None or "OMP_NUM_THREADS" in os.environ else compute.devices
    return device, max(1, torch.get_num_threads() // sharing)


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def open_device(wanted: str, key: str) -> torch.device:
    """The device with this name, or any for `auto`. Raises UserError, which names `key`, where it can't be used."""
    try:
        device = torch.device(default_device() if wanted == "auto" else wanted)
        torch.zeros(1, device=device).item()  # the device `meta` fails only when a value is read
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(f"{key} '{wanted}' can't be used here ({reason}); try auto or cpu") from None
    return device


def make_deterministic(device: torch.device, threads: int, precision: str = "fp32", portable: bool = False) -> None:
    """Make torch give the same bytes for the same inputs: deterministic algorithms and a fixed number of `threads`.

    With `precision` fp32, GPUs compute in full float32; else in TF32. A `portable` result is the same on other
    processors if `portable.pin_torch` was called before torch was imported.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with this
    # the same as use_deterministic_algorithms(True, warn_only=True), which also imports the compiler: 4 seconds
    torch.set_deterministic_debug_mode("warn")
    # filling new tensors with NaN takes time, and nothing here reads memory that it has not written
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.set_num_threads(threads)
    memory.keep_freed(2**31 - 1)
    if portable:
        pin_products()
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = False
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision != "fp32"


@contextmanager
def enough_memory(what: str, advice: str) -> Iterator[None]:
    """Raise UserError where there is not enough memory for `what`."""
    try:
        yield
    except RuntimeError as error:
        if out_of_memory(error):
            raise UserError(f"not enough memory for {what}: {advice}") from None
        raise


def out_of_memory(error: RuntimeError) -> bool:
    """Whether torch raised this error because the device, GPU or CPU, has no memory left, or could never have it."""
    too_much = ("can't allocate memory", "Storage size calculation overflowed")
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in too_much)
