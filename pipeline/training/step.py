"""One step: forward and backward through a batch, in parts where it is large, and an update of the weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pipeline.dataset.augmentation import mix
from pipeline.training import optimizers
from pipeline.training.losses import cross_entropy, regularization_loss

WARM_UP = 3  # steps before a graph is captured, so that all that is made once has been made


class Batch(NamedTuple):
    """Images as they are stored, their classes, and the randomness that each is augmented by, a row each."""

    pixels: Tensor  # (B, H, W, C) uint8, or features (B, F)
    labels: Tensor  # (B,) int64
    draws: Tensor  # (B, K) float32


class Step:
    """Calling it trains `model` on a batch and returns the sum of its cross-entropy and its correct, on the device.

    The batch is computed in `parts`, whose gradients add up. `others` are the images that MixUp or CutMix takes from.
    `whole` is the size of the batch over all processes: each gives its share of one mean.
    """

    def __init__(
        self,
        model: nn.Module,
        config: Any,
        images: Callable[..., Tensor],
        made: Sequence[torch.optim.Optimizer],
        weights: Tensor | None,
        parts: int = 1,
        world_size: int = 1,
    ) -> None:
        self.model, self.config, self.images, self.optimizers = model, config, images, made
        self.weights, self.parts, self.world_size = weights, parts, world_size
        self.forward: nn.Module = model
        if config.compile:
            self.forward = torch.compile(model)  # type: ignore[assignment]
        if world_size > 1:
            self.forward = nn.parallel.DistributedDataParallel(self.forward)
        self.trained = [weight for weight in model.parameters() if weight.requires_grad]

    def __call__(self, batch: Batch, others: Batch | None, whole: int) -> tuple[Tensor, Tensor]:
        pairs = zip(divided(batch, self.parts), divided(others, self.parts), strict=True)
        for weight in self.trained:
            weight.grad = None
        losses, correct = [], []
        for number, (part, other) in enumerate(pairs, start=1):
            last = number == self.parts
            with nullcontext() if last or self.world_size == 1 else self.forward.no_sync():  # type: ignore[operator]
                loss, hit = self.backward(part, other, whole, last)
            losses.append(loss)
            correct.append(hit)
        if self.config.grad_clip:
            nn.utils.clip_grad_norm_(self.trained, self.config.grad_clip)
        optimizers.step(self.optimizers)
        return reduce(torch.add, losses), reduce(torch.add, correct)

    def backward(self, batch: Batch, others: Batch | None, whole: int, last: bool) -> tuple[Tensor, Tensor]:
        config = self.config
        images, labels, share = self.images(batch.pixels, config.augment, batch.draws), batch.labels, None
        if others is not None:
            images = images.clone()  # they hold until the next are asked for
            partners = self.images(others.pixels, config.augment, others.draws)
            images, share = mix(images, partners, config.augment, batch.draws)
        with torch.autocast(labels.device.type, torch.bfloat16) if config.precision == "bf16" else nullcontext():
            logits = self.forward(images)
        logits = logits.float()
        loss = cross_entropy(logits, labels, config, self.weights, share, others.labels if others else None)
        objective = loss * (self.world_size / whole)  # gradients are averaged over processes
        extra = regularization_loss(self.model, config.regularization) if last else None
        (objective if extra is None else objective + extra).backward()
        return loss.detach(), (logits.detach().argmax(1) == labels).sum()


def divided(batch: Batch | None, parts: int) -> list[Any]:
    if batch is None or parts == 1:
        return [batch] * parts
    return [Batch(*tensors) for tensors in zip(*(tensor.tensor_split(parts) for tensor in batch), strict=True)]


class CudaGraphStep:
    """A step as one CUDA graph, launched at once instead of kernel by kernel; batches of other sizes run as they are.

    The first steps run on a stream of their own, as capturing wants it; they train as every step does.
    """

    def __init__(self, step: Step, size: int) -> None:
        self.step, self.size, self.calls = step, size, 0
        self.stream = torch.cuda.Stream()
        self.graph: torch.cuda.CUDAGraph | None = None
        self.inputs: tuple[Batch, Batch | None]
        self.result: tuple[Tensor, Tensor]

    def __call__(self, batch: Batch, others: Batch | None, whole: int) -> tuple[Tensor, Tensor]:
        if len(batch.labels) != self.size:
            return self.step(batch, others, whole)
        self.calls += 1
        if self.calls <= WARM_UP:
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                result = self.step(batch, others, whole)
            torch.cuda.current_stream().wait_stream(self.stream)
            return result
        if self.graph is None:
            clone = Batch(*(tensor.clone() for tensor in batch))
            self.inputs = clone, None if others is None else Batch(*(tensor.clone() for tensor in others))
            self.graph = torch.cuda.CUDAGraph()
            # images may be read ahead in another thread meanwhile, which asks CUDA for memory
            with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
                self.result = self.step(*self.inputs, whole)
        else:
            for held, given in zip(self.inputs, (batch, others), strict=True):
                if held is not None and given is not None:
                    torch._foreach_copy_(list(held), list(given))
        self.graph.replay()
        return self.result
