"""The training loop of one network, from a checkpoint or from the start."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pipeline.dataset.augmentation import mix
from pipeline.evaluation.inference import evaluate
from pipeline.system.console import UserError, progress, say
from pipeline.system.device import enough_memory
from pipeline.training import checkpoint, losses, optimizers
from pipeline.training.batching import Batch, batch_size, batch_starts, epoch_batches, split_batch
from pipeline.training.cuda_graph import CudaGraph, Step, can_capture
from pipeline.training.distributed import ALONE, Group
from pipeline.training.ema import EMA
from pipeline.training.schedule import lr_factor
from pipeline.training.times import Stopwatch

if TYPE_CHECKING:
    from pipeline.config.experiments import Experiment
    from pipeline.dataset.batches import Batches
    from pipeline.training.features import Features
    from pipeline.training.first_batch import FirstBatch

# Advice where features and validation run out of memory: their batches do not depend on batch_size
SMALLER = "free some, or take a smaller network or smaller images"
Row = dict[str, float | int | None]  # of history.csv: epoch, losses and accuracies


class Trainer:
    """Trains `model` in place as `config` says.

    After every epoch the state goes to `checkpoint_file`; where that exists, training goes on from it. All randomness
    comes from the seed and the number of the epoch, so a resumed training gives the same bytes as an uninterrupted one.
    In a `group` of processes each has a Trainer; the first one alone validates, saves and prints. `first_batch` takes
    the images of the first step.
    """

    def __init__(
        self,
        model: nn.Module,
        config: Experiment,
        train_data: Batches | Features,
        val_data: Batches | Features | None,
        seed: int,
        checkpoint_file: Path,
        group: Group = ALONE,
        stopwatch: Stopwatch | None = None,
        first_batch: FirstBatch | None = None,
    ) -> None:
        self.model, self.config, self.train_data, self.val_data = model, config, train_data, val_data
        self.seed, self.checkpoint_file, self.group = seed, checkpoint_file, group
        self.stopwatch, self.first_batch = stopwatch or Stopwatch(), first_batch
        self.batch_size = batch_size(config, len(train_data))
        self.batch_starts = batch_starts(model, config, len(train_data), config.grad_accum_steps * group.world_size)
        self.trainable = [weight for weight in model.parameters() if weight.requires_grad]
        self.captures = can_capture(config, train_data.device)
        self.optimizers = optimizers.make_optimizers(model, config.optimizer, capturable=self.captures)
        self.class_weights = losses.class_weights(config, train_data.labels, train_data.classes)
        self.ema = EMA(model, config.ema) if config.ema else None
        self.best: dict[str, Tensor] | None = None  # the weights of the best epoch
        self.history: list[Row] = []
        self.forward: nn.Module = model  # compiled or distributed, see `prepare_step`
        self.step: Step | None = None
        checkpoint.load(checkpoint_file, self.load_state_dict, group.on_first)

    def fit(self, on_epoch: Callable[[list[Row]], None] = lambda history: None) -> list[Row]:
        """Train to the last epoch and return the history, one row per epoch; `on_epoch` gets it after each.

        Raises UserError where the loss is no longer a finite number, and where memory runs out.
        """
        if self.history:
            say(f"resuming after epoch {len(self.history)} of {self.config.epochs}")
        for epoch in range(len(self.history) + 1, self.config.epochs + 1):
            if self.is_out_of_patience():
                break
            start = time.monotonic()
            self.history.append(self.run_epoch(epoch))
            self.stopwatch.end_epoch()
            if self.config.checkpoint == "best" and best_epoch(self.history) == epoch:
                self.best = copy.deepcopy(self.result.state_dict())
            if self.group.rank == 0:
                checkpoint.save(self.checkpoint_file, self.state_dict())
                on_epoch(self.history)
                print_row(self.history[-1], self.config.epochs, time.monotonic() - start)
        self.step = None  # it refers to this Trainer, whose memory would not be freed as soon as it is done
        self.model.load_state_dict(self.best or self.result.state_dict())
        return self.history

    def run_epoch(self, epoch: int) -> Row:
        """Train on all images once, then validate. Returns the epoch's row of the history."""
        torch.manual_seed(self.seed * 1_000_003 + epoch + self.group.rank * 7_368_787)  # for dropout
        with enough_memory("the features of the backbone", SMALLER):
            data = self.train_data.view(epoch)
        with enough_memory(*self.batch_memory()):
            loss, accuracy = self.train_epoch(epoch, data)
        row: Row = {"epoch": epoch, "train_loss": loss, "train_accuracy": accuracy}
        if (val_data := self.val_data) is not None:
            tta = val_data.tta(self.config)
            with enough_memory("the validation images", SMALLER):
                loss, accuracy = self.group.on_first(lambda: evaluate(self.result, val_data, tta))
            self.check_finite(torch.tensor([loss]), epoch, "the loss on validation images")
            row |= {"val_loss": loss, "val_accuracy": accuracy}
        return row

    def train_epoch(self, epoch: int, data: Batches | Features) -> tuple[float, float]:
        """Train on all of `data` once. Returns the mean loss and accuracy, each batch's before its own update."""
        config, steps = self.config, len(self.batch_starts)
        step = self.prepare_step(epoch)
        # these stay on the device until the epoch is over: reading them waits for it
        batch_losses = torch.zeros(steps, device=data.device)
        correct = torch.zeros(steps, dtype=torch.int64, device=data.device)
        bar = progress(total=steps, desc=f"epoch {epoch}/{config.epochs}", unit=" batches")
        batches = epoch_batches(data, config, self.batch_starts, self.seed, epoch, self.group)
        for index, (batch, partners, global_batch_size) in enumerate(batches):
            optimizers.set_lr(self.optimizers, lr_factor(config.schedule, (epoch - 1 + index / steps) / config.epochs))
            batch_losses[index], correct[index] = step(batch, partners, global_batch_size)
            if self.first_batch is not None and not self.first_batch.is_complete:
                self.first_batch.complete()
            if self.ema is not None:
                self.ema.update((epoch - 1) * steps + index)
            if not bar.disable and bar.update():
                bar.set_postfix(loss=f"{batch_losses[index].item() / len(batch.labels):.4f}", refresh=False)
        bar.close()
        self.group.all_reduce(batch_losses)
        self.group.all_reduce(correct)
        self.check_finite(batch_losses.cpu(), epoch, "the loss")
        return batch_losses.cpu().double().sum().item() / len(data), correct.sum().item() / len(data)

    def prepare_step(self, epoch: int) -> Step:
        """Unfreeze the blocks whose turn it is. Compile, distribute and capture again only when other weights train."""
        config, model = self.config, self.model
        model.train()
        if config.unfreeze_every:
            unfreeze(model, self.trainable, 1 + (epoch - 1) // config.unfreeze_every)
        if self.step is None or (config.unfreeze_every and (epoch - 1) % config.unfreeze_every == 0):
            self.forward = torch.compile(model) if config.compile else model  # type: ignore[assignment]
            if self.group.world_size > 1:
                self.forward = nn.parallel.DistributedDataParallel(self.forward)
            self.step = CudaGraph(self.train_step, self.batch_size) if self.captures else self.train_step
        return self.step

    def train_step(self, batch: Batch, partners: Batch | None, global_batch_size: int) -> tuple[Tensor, Tensor]:
        """Forward, backward and update for this process's shard of one batch; `partners` are mixed into its images.

        Returns the sum of its cross-entropy and the number of images predicted correctly, both on the device.
        """
        config, steps = self.config, self.config.grad_accum_steps
        loss_sums, correct = [], []
        for weight in self.trainable:
            weight.grad = None
        micro_batches = zip(split_batch(batch, steps), split_batch(partners, steps), strict=True)
        for number, (micro_batch, micro_partners) in enumerate(micro_batches, start=1):
            is_last = number == steps
            images, labels, mix_ratio, partner_labels = self.train_data.images, micro_batch.labels, None, None
            inputs = images(micro_batch.pixels, config.augment, micro_batch.augmentation)
            if micro_partners is not None:
                inputs = inputs.clone()  # `images` reuses its memory
                partner_inputs = images(micro_partners.pixels, config.augment, micro_partners.augmentation)
                inputs, mix_ratio = mix(inputs, partner_inputs, config.augment, micro_batch.augmentation)
                partner_labels = micro_partners.labels
            if self.first_batch is not None and not self.first_batch.is_complete:
                self.first_batch.take(
                    self.train_data, inputs, micro_batch, global_batch_size, mix_ratio, partner_labels
                )
            bf16 = torch.autocast(labels.device.type, torch.bfloat16) if config.precision == "bf16" else nullcontext()
            # processes exchange their gradients once per step
            with nullcontext() if is_last or self.group.world_size == 1 else self.forward.no_sync():  # type: ignore[operator]
                with bf16:
                    logits = self.forward(inputs)
                logits = logits.float()
                loss_sum = losses.cross_entropy(logits, labels, config, self.class_weights, mix_ratio, partner_labels)
                # DistributedDataParallel averages gradients over processes: times world_size makes that their sum
                loss = loss_sum * (self.group.world_size / global_batch_size)
                if is_last and (extra := losses.regularization_loss(self.model, config.regularization)) is not None:
                    loss = loss + extra
                loss.backward()
            loss_sums.append(loss_sum.detach())
            correct.append((logits.detach().argmax(1) == labels).sum())
        if config.grad_clip:
            nn.utils.clip_grad_norm_(self.trainable, config.grad_clip)
        optimizers.step(self.optimizers)
        return reduce(torch.add, loss_sums), reduce(torch.add, correct)

    @property
    def result(self) -> nn.Module:
        """The model with the weights that training would end with now."""
        return self.model if self.ema is None else self.ema.model

    def is_out_of_patience(self) -> bool:
        """Whether the last `patience` epochs did not lower the loss on validation images."""
        patience = self.config.patience
        if patience is None or not self.history:
            return False
        return len(self.history) - best_epoch(self.history) >= patience

    def check_finite(self, values: Tensor, epoch: int, what: str) -> None:
        """Raise UserError where one of the losses `values`, or a weight after the last step, is not finite."""
        kept = f" (the last good state, of epoch {epoch - 1}, is in {self.checkpoint_file})" if epoch > 1 else ""
        wrong = (~values.isfinite()).nonzero().flatten().tolist()
        if wrong:
            at = f", step {wrong[0] + 1} of {len(values)}" if len(values) > 1 else ""
            broken = f"{what} became {values[wrong[0]].item()} in epoch {epoch}{at}"
        elif not all(weight.isfinite().all() for weight in self.trainable if weight.requires_grad):
            broken = f"weights became infinite in epoch {epoch}"
        else:
            return
        raise UserError(f"{broken}{kept}: try a lower optimizer.lr")

    def batch_memory(self) -> tuple[str, str]:
        """What needs memory to train, and what to do where there is not enough."""
        steps, size = self.config.grad_accum_steps, self.batch_size
        wanted = f"grad_accum_steps above {steps} or a smaller batch_size" if steps < size else "a smaller network"
        return f"a batch of {size} with grad_accum_steps = {steps}", f"set {wanted}"

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": without_frozen(self.model),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "ema": None if self.ema is None else without_frozen(self.ema.model),
            "best": self.best,
            "history": self.history,
            "time": self.stopwatch.state_dict(),
            "first_batch": None if self.first_batch is None else self.first_batch.tiles,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"], strict=False)
        for optimizer, held in zip(self.optimizers, state["optimizers"], strict=True):
            optimizers.restore(optimizer, held)
        if self.ema is not None:
            self.ema.model.load_state_dict(state["ema"], strict=False)
        self.best, self.history = state["best"], state["history"]
        self.stopwatch.load_state_dict(state["time"])
        if self.first_batch is not None:
            self.first_batch.restore(state["first_batch"])


def best_epoch(history: Sequence[Row]) -> int:
    """The number of the first epoch with the lowest loss on validation images."""
    val_losses = [row["val_loss"] for row in history]
    return 1 + min(range(len(val_losses)), key=lambda index: val_losses[index] or 0.0)


def print_row(row: Row, epochs: int, seconds: float) -> None:
    shown = {key.replace("_", " "): value for key, value in row.items() if key != "epoch" and value is not None}
    figures = ", ".join(f"{key} {value:.4f}" for key, value in shown.items())
    say(f"epoch {row['epoch']}/{epochs}: {figures}, {seconds:.1f} s")


def unfreeze(model: nn.Module, weights: Sequence[Tensor], count: int) -> None:
    """Of `weights`, train those in the last `count` blocks only. Norms of the other blocks keep their statistics."""
    behind = optimizers.blocks_behind(model)
    for weight in weights:
        weight.requires_grad_(behind[id(weight)] < count)
    for number, block in enumerate(reversed(optimizers.blocks(model))):
        block.train(number < count)


def without_frozen(model: nn.Module) -> dict[str, Tensor]:
    """The state of a model without the weights that don't train, which are in a file of their own already."""
    frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    return {name: value for name, value in model.state_dict().items() if name not in frozen}
