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
from pipeline.training.objective import cross_entropy, penalty

WARM_UP = 3  # steps before a graph is captured, so that all that is made once has been made


class Batch(NamedTuple):
    """Images as they are stored, their classes, and the randomness that each is augmented by, a row each."""

    pixels: Tensor  # (B, H, W, C) uint8, or features (B, F)
    labels: Tensor  # (B,) int64
    draws: Tensor  # (B, K) float32


class Step:
    """Calling it trains `model` on a batch and returns the sum of its cross-entropy and its hits, on the device.

    The batch is computed in `parts`, whose gradients add up. `others` are the images that MixUp or CutMix takes from.
    `whole` is the size of the batch over all processes: each gives its share of one mean.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Any,
        images: Callable[..., Tensor],
        made: Sequence[torch.optim.Optimizer],
        weights: Tensor | None,
        parts: int = 1,
        world: int = 1,
    ) -> None:
        self.model, self.recipe, self.images, self.optimizers = model, recipe, images, made
        self.weights, self.parts, self.world = weights, parts, world
        self.forward: nn.Module = model
        if recipe.compile:
            self.forward = torch.compile(model)  # type: ignore[assignment]
        if world > 1:
            self.forward = nn.parallel.DistributedDataParallel(self.forward)
        self.trained = [weight for weight in model.parameters() if weight.requires_grad]

    def __call__(self, batch: Batch, others: Batch | None, whole: int) -> tuple[Tensor, Tensor]:
        pairs = zip(divided(batch, self.parts), divided(others, self.parts), strict=True)
        for weight in self.trained:
            weight.grad = None
        losses, hits = [], []
        for number, (part, other) in enumerate(pairs, start=1):
            last = number == self.parts
            with nullcontext() if last or self.world == 1 else self.forward.no_sync():  # type: ignore[operator]
                loss, hit = self.backward(part, other, whole, last)
            losses.append(loss)
            hits.append(hit)
        if self.recipe.clip_norm:
            nn.utils.clip_grad_norm_(self.trained, self.recipe.clip_norm)
        optimizers.step(self.optimizers)
        return reduce(torch.add, losses), reduce(torch.add, hits)

    def backward(self, batch: Batch, others: Batch | None, whole: int, last: bool) -> tuple[Tensor, Tensor]:
        recipe = self.recipe
        images, labels, share = self.images(batch.pixels, recipe.augment, batch.draws), batch.labels, None
        if others is not None:
            images = images.clone()  # they hold until the next are asked for
            partners = self.images(others.pixels, recipe.augment, others.draws)
            images, share = mix(images, partners, recipe.augment, batch.draws)
        with torch.autocast(labels.device.type, torch.bfloat16) if recipe.precision == "bf16" else nullcontext():
            scores = self.forward(images)
        scores = scores.float()
        loss = cross_entropy(scores, labels, recipe, self.weights, share, others.labels if others else None)
        objective = loss * (self.world / whole)  # gradients are averaged over processes
        extra = penalty(self.model, recipe.regularization) if last else None
        (objective if extra is None else objective + extra).backward()
        return loss.detach(), (scores.detach().argmax(1) == labels).sum()


def divided(batch: Batch | None, parts: int) -> list[Any]:
    if batch is None or parts == 1:
        return [batch] * parts
    return [Batch(*tensors) for tensors in zip(*(tensor.tensor_split(parts) for tensor in batch), strict=True)]


class Captured:
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
