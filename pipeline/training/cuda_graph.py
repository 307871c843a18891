"""A training step as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.training.batching import Batch

if TYPE_CHECKING:
    from pipeline.config.experiments import Experiment

WARM_UP = 3  # steps before the capture, in which torch and cuDNN allocate what they keep

Step = Callable[[Batch, Batch | None, int], tuple[Tensor, Tensor]]


def can_capture(config: Experiment, device: torch.device) -> bool:
    """Whether a step can be captured: everything that it does has to stay on one device."""
    one_process = config.compute.devices * config.compute.nodes == 1
    wanted = config.compute.cuda_graphs and one_process and not config.compile and config.optimizer.name != "muon"
    return device.type == "cuda" and wanted


class CudaGraph:
    """Captures a step once and replays it: one launch for the whole step instead of one for every kernel.

    The first WARM_UP steps, and batches of another size than `batch_size`, run as they are. The warm-up runs on a
    stream of its own, as torch requires before a capture; it trains as every step does.
    """

    def __init__(self, step: Step, batch_size: int) -> None:
        self.step, self.batch_size, self.calls = step, batch_size, 0
        self.stream = torch.cuda.Stream()
        self.graph: torch.cuda.CUDAGraph | None = None
        self.inputs: tuple[Batch, Batch | None]
        self.result: tuple[Tensor, Tensor]

    def __call__(self, batch: Batch, partners: Batch | None, global_batch_size: int) -> tuple[Tensor, Tensor]:
        if len(batch.labels) != self.batch_size:
            return self.step(batch, partners, global_batch_size)
        self.calls += 1
        if self.calls <= WARM_UP:
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                result = self.step(batch, partners, global_batch_size)
            torch.cuda.current_stream().wait_stream(self.stream)
            return result
        if self.graph is None:
            copied = None if partners is None else Batch(*(tensor.clone() for tensor in partners))
            self.inputs = Batch(*(tensor.clone() for tensor in batch)), copied
            self.graph = torch.cuda.CUDAGraph()
            # "thread_local": another thread may read images ahead meanwhile and ask CUDA for memory
            with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
                self.result = self.step(*self.inputs, global_batch_size)
        else:
            for held, given in zip(self.inputs, (batch, partners), strict=True):
                if held is not None and given is not None:
                    torch._foreach_copy_(list(held), list(given))
        self.graph.replay()
        return self.result
