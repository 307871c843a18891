"""The training loop: one network, one config, from a checkpoint or from the start."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from pipeline.evaluation.inference import evaluate
from pipeline.system import device
from pipeline.system.console import UserError, progress, say
from pipeline.training import checkpoint, optimizers, perceptron
from pipeline.training.distributed import ALONE, Group
from pipeline.training.losses import class_weights
from pipeline.training.perceptron import Perceptron
from pipeline.training.schedule import factor
from pipeline.training.step import Batch, CudaGraphStep, Step

Row = dict[str, float | int | None]  # of history.csv: epoch, losses and accuracies


def train(
    model: nn.Module,
    config: Any,
    data: Any,
    validation: Any | None,
    seed: int,
    saved: Path,
    on_epoch: Callable[[list[Row]], None] = lambda history: None,
    group: Group = ALONE,
) -> list[Row]:
    """Train `model` in place as `config` says (see experiments.Experiment) and return the history, one row per epoch.

    `data` and `validation` are data.Batches or alike. After every epoch the state goes to `saved` and `on_epoch` gets
    the history so far; if `saved` exists, training goes on from there. Every random draw comes from the seed and the
    number of the epoch, so a resumed run gives the same bytes as an uninterrupted one. Where memory runs out, it goes
    on from the last epoch with batches in twice as many parts. Raises UserError when the loss is no longer a finite
    number. In a `group` of processes every one calls this; the first one alone validates, saves and calls `on_epoch`.
    """
    start, trained = copy.deepcopy(model.state_dict()), [each for each in model.parameters() if each.requires_grad]
    parts = 1 if config.grad_accum_steps == "auto" else config.grad_accum_steps
    while True:
        try:
            return Training(model, config, data, validation, seed, saved, parts, group).run(on_epoch)
        except RuntimeError as error:
            if not device.out_of_memory(error):
                raise
            size = batch_size(config, data)
            if (
                group.world_size > 1 or config.grad_accum_steps != "auto" or parts >= size
            ):  # others have memory, and wait
                said = f"not enough memory for a batch of {size} in {parts} parts"
                wanted = f"grad_accum_steps above {parts}, or a smaller batch" if parts < size else "a smaller network"
                raise UserError(f"{said}: expected {wanted}") from None
        parts *= 2
        device.free(data.device)
        model.load_state_dict(start)
        for weight in trained:  # also those that were still to unfreeze
            weight.requires_grad_(True)
        say(f"not enough memory for a batch of {size}: going on in {parts} parts of it")


def batch_size(config: Any, data: Any) -> int:
    return len(data) if config.batch_size == "full" else min(config.batch_size, len(data))


class Training:
    """A run: the model, its optimizers, the average and the best of its weights, and the history so far."""

    def __init__(
        self,
        model: nn.Module,
        config: Any,
        data: Any,
        validation: Any | None,
        seed: int,
        saved: Path,
        parts: int,
        group: Group,
    ) -> None:
        self.model, self.config, self.data, self.validation = model, config, data, validation
        self.seed, self.saved, self.parts, self.group = seed, saved, parts, group
        self.captures = device.captures(config, data)
        self.trained = [weight for weight in model.parameters() if weight.requires_grad]
        self.optimizers = optimizers.make_optimizers(model, config.optimizer, self.captures)
        self.weights = class_weights(config, data.labels, data.classes)
        self.average = copy.deepcopy(model) if config.ema else None
        self.best: dict[str, Tensor] | None = None
        self.history: list[Row] = []
        self.steps = batch_starts(model, config, data, parts * group.world_size)
        self.shuffled = config.shuffle and len(self.steps) > 1
        self.step: Step | CudaGraphStep | None = None
        checkpoint.load(saved, self.restore, group.on_first)

    def run(self, on_epoch: Callable[[list[Row]], None]) -> list[Row]:
        if self.history:
            say(f"resuming after epoch {len(self.history)} of {self.config.epochs}")
        while len(self.history) < self.config.epochs and not self.is_over():
            self.epoch(len(self.history) + 1)
            if self.group.rank == 0:
                checkpoint.save(self.saved, self.state())
                on_epoch(self.history)
        self.model.load_state_dict(self.best or self.result.state_dict())
        return self.history

    @property
    def result(self) -> nn.Module:
        """The weights that the run would end with now."""
        return self.average if self.average is not None else self.model

    def epoch(self, number: int) -> None:
        torch.manual_seed(self.seed * 1_000_003 + number + self.group.rank * 7_368_787)  # dropout
        loss, accuracy = self.pass_over(self.data.view(number), number)
        row: Row = {"epoch": number, "train_loss": loss, "train_accuracy": accuracy}
        if self.validation is not None:
            flip = self.validation.flips(self.config)
            loss, accuracy = self.group.on_first(lambda: evaluate(self.result, self.validation, flip))
            self.check_finite(torch.tensor([loss]), number, "the loss on validation images")
            row |= {"val_loss": loss, "val_accuracy": accuracy}
        self.history.append(row)
        if self.config.checkpoint == "best" and self.best_epoch() == number:
            self.best = copy.deepcopy(self.result.state_dict())

    def prepare(self, data: Any, number: int) -> Step | CudaGraphStep:
        """Make the model ready for an epoch. Returns the fastest way to make a step, anew only as other weights train.

        What a graph, a compiler or a group of processes keeps of a step would otherwise be lost with every epoch.
        """
        model, config, alone = self.model, self.config, self.group.world_size == self.parts == 1
        model.train()
        if config.unfreeze_every:
            unfreeze(model, self.trained, 1 + (number - 1) // config.unfreeze_every)
        if self.step is None or (config.unfreeze_every and (number - 1) % config.unfreeze_every == 0):
            written_out = alone and perceptron.suits(model, config, data.device) and not data.mixes(config.augment)
            kind = Perceptron if written_out else Step
            step = kind(model, config, data.images, self.optimizers, self.weights, self.parts, self.group.world_size)
            self.step = CudaGraphStep(step, batch_size(config, data)) if self.captures else step
        return self.step

    def pass_over(self, data: Any, number: int) -> tuple[float, float]:
        """Train on every image once. Returns the mean loss and accuracy of its batches as they were trained on."""
        config, starts, step = self.config, self.steps, self.prepare(data, number)
        averaged = tensors(self.average), tensors(self.model)

        # read once, at the end: reading waits for the device
        losses = torch.zeros(len(starts), device=data.device)
        correct = torch.zeros(len(starts), dtype=torch.int64, device=data.device)
        bar = progress(total=len(starts), desc=f"epoch {number}/{config.epochs}", unit=" batches")
        for index, (batch, others, whole) in enumerate(self.batches(data, number)):
            optimizers.set_lr(
                self.optimizers, factor(config.schedule, (number - 1 + index / len(starts)) / config.epochs)
            )
            losses[index], correct[index] = step(batch, others, whole)
            if config.ema:
                get_ema_multi_avg_fn(decay(config.ema, (number - 1) * len(starts) + index))(*averaged, None)
            if not bar.disable and bar.update():
                bar.set_postfix(loss=f"{losses[index].item() / len(batch.labels):.4f}", refresh=False)
        bar.close()
        self.group.add(losses)
        self.group.add(correct)
        self.check_finite(losses.cpu(), number, "the loss")
        return losses.cpu().double().sum().item() / len(data), correct.sum().item() / len(data)

    def batches(self, data: Any, number: int) -> Iterator[tuple[Batch, Batch | None, int]]:
        """This process's shares of the batches of an epoch, and the size of each whole batch.

        For MixUp or CutMix also what each is mixed with: the whole batch in reverse order, or its share of that.
        """
        count, config = len(data), self.config
        draws = Generator().manual_seed(self.seed * 1_000_003 + number)
        order = (torch.randperm(count, generator=draws) if self.shuffled else torch.arange(count)).to(data.device)
        random = data.draw(config.augment, self.seed, number).to(data.device)
        sizes = [stop - start for start, stop in zip(self.steps, [*self.steps[1:], count], strict=True)]
        mixes, share = data.mixes(config.augment), self.group.shard
        # the whole epoch's labels and draws in their order at once: a step of a small network is as short as a gather
        columns = [column.split(sizes) for column in (order, data.labels[order], random[order])]
        if not mixes:
            columns = [[share(part) for part in column] for column in columns]
        chosen, labels, rows = columns
        for *batch, whole in zip(data.batches(chosen), labels, rows, sizes, strict=True):
            if mixes:
                yield Batch(*map(share, batch)), Batch(*(share(tensor.flip(0)) for tensor in batch)), whole
            else:
                yield Batch(*batch), None, whole

    def check_finite(self, losses: Tensor, epoch: int, what: str) -> None:
        """Raise UserError for a loss that is no finite number, or weights that the last step made so."""
        kept = f" (the last good state, of epoch {epoch - 1}, is in {self.saved})" if epoch > 1 else ""
        wrong = (~losses.isfinite()).nonzero().flatten().tolist()
        if wrong:
            at = f", step {wrong[0] + 1} of {len(losses)}" if len(losses) > 1 else ""
            broken = f"{what} became {losses[wrong[0]].item()} in epoch {epoch}{at}"
        elif not all(parameter.isfinite().all() for parameter in self.model.parameters() if parameter.requires_grad):
            broken = f"weights became infinite in epoch {epoch}"
        else:
            return
        raise UserError(f"{broken}{kept}: try a lower optimizer.lr")

    def best_epoch(self) -> int:
        """The first one with the lowest loss on validation images."""
        losses = [row["val_loss"] for row in self.history]
        return 1 + min(range(len(losses)), key=lambda number: losses[number] or 0.0)

    def is_over(self) -> bool:
        """Whether the last `patience` epochs brought nothing better."""
        patience = self.config.patience
        return bool(patience and self.history) and len(self.history) - self.best_epoch() >= patience

    def state(self) -> dict[str, Any]:
        return {
            "model": trained_state(self.model),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "average": trained_state(self.average) if self.average is not None else None,
            "best": self.best,
            "history": self.history,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"], strict=False)
        for optimizer, held in zip(self.optimizers, state["optimizers"], strict=True):
            optimizers.restore(optimizer, held)
        if self.average is not None:
            self.average.load_state_dict(state["average"], strict=False)
        self.best, self.history = state["best"], state["history"]


def decay(ema: float, step: int) -> float:
    """Of the average of the weights: less in the first steps (from 0), or their random start would stay in it for long.

    As TensorFlow's ExponentialMovingAverage has it.
    """
    return min(ema, (1 + step) / (10 + step))


def batch_starts(model: nn.Module, config: Any, data: Any, parts: int) -> list[int]:
    """Where the batches of an epoch start."""
    count, size = len(data), batch_size(config, data)
    starts = list(range(0, count, size))
    model.train()
    if has_batch_norm(model):  # one image has no variance: too few join the batch before
        if size < 2 * parts:
            raise UserError(
                f"params.yaml: batch_size = {size}: batch norm has no variance of one image;"
                f" expected {2 * parts} or more"
            )
        if count - starts[-1] < 2 * parts and len(starts) > 1:
            starts.pop()
    return starts


def has_batch_norm(model: nn.Module) -> bool:
    """Whether statistics of a batch count: a frozen backbone uses its own."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training for module in model.modules())


def unfreeze(model: nn.Module, weights: Sequence[Tensor], count: int) -> None:
    """Train, of these weights, those in the last `count` blocks only; norms of the others keep their statistics."""
    behind = optimizers.blocks_behind(model)
    for weight in weights:
        weight.requires_grad_(behind[id(weight)] < count)
    for number, block in enumerate(reversed(optimizers.blocks(model))):
        block.train(number < count)


def tensors(model: nn.Module | None) -> list[Tensor]:
    """Weights and statistics, as far as they can be averaged."""
    return [] if model is None else [value for value in model.state_dict().values() if value.is_floating_point()]


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """Without what is frozen for good: a pretrained backbone is in its own file already."""
    frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    return {name: value for name, value in model.state_dict().items() if name not in frozen}
