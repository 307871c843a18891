"""The training loop: one network, one recipe, from a checkpoint or from the start."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from pipeline.console import UserError, progress
from pipeline.training import checkpoint
from pipeline.training.augment import augment, draw
from pipeline.training.checkpoint import Row
from pipeline.training.data import Batches

EVALUATION_BATCH = 1000  # images, if they are small:
EVALUATION_VALUES = 2**24  # pixels × channels in a batch; what a network makes of them takes many times their memory


def train(
    model: nn.Module,
    recipe: Any,
    data: Batches,
    validation: Batches | None,
    seed: int,
    saved: Path,
    on_epoch: Callable[[list[Row]], None] = lambda history: None,
) -> list[Row]:
    """Train `model` in place as `recipe` says (see recipes.Experiment) and return the history, one row per epoch.

    After every epoch the state goes to `saved` and `on_epoch` gets the history so far; if `saved` exists, training
    goes on from there. Every random draw comes from the seed and the number of the epoch, so a resumed run gives the
    same bytes as an uninterrupted one. Raises UserError when the loss is no longer a finite number.
    """
    optimizer = make_optimizer(model, recipe.optimizer)
    history = checkpoint.load(saved, model, optimizer)
    if history:
        print(f"resuming after epoch {len(history)} of {recipe.epochs}")
    for epoch in range(len(history) + 1, recipe.epochs + 1):
        torch.manual_seed(seed * 1_000_003 + epoch)  # dropout
        draws = Generator().manual_seed(seed * 1_000_003 + epoch)  # order and augmentation
        loss, accuracy = train_epoch(model, recipe, data, optimizer, draws, epoch)
        check_finite(loss, model, epoch, saved)
        row: Row = {"epoch": epoch, "train_loss": loss, "train_accuracy": accuracy}
        if validation is not None:
            loss, accuracy = evaluate(model, validation)
            check_finite(loss, model, epoch, saved)
            row |= {"val_loss": loss, "val_accuracy": accuracy}
        history.append(row)
        checkpoint.save(saved, model, optimizer, history)
        on_epoch(history)
    return history


def check_finite(loss: float, model: nn.Module, epoch: int, saved: Path) -> None:
    """Raise UserError for a loss that is no finite number, or weights that the last step made so."""
    if not math.isfinite(loss):
        broken = f"the loss became {loss}"
    elif not all(parameter.isfinite().all() for parameter in model.parameters() if parameter.requires_grad):
        broken = "weights became infinite"
    else:
        return
    kept = f" (the last good state, of epoch {epoch - 1}, is in {saved})" if epoch > 1 else ""
    raise UserError(f"{broken} in epoch {epoch}{kept}: try a lower optimizer.lr")


def train_epoch(
    model: nn.Module, recipe: Any, data: Batches, optimizer: torch.optim.Optimizer, draws: Generator, epoch: int
) -> tuple[float, float]:
    """One pass over the data. Returns the mean loss and accuracy of its batches as they were trained on."""
    model.train()
    count = len(data)
    size = count if recipe.batch_size == "full" else recipe.batch_size
    order = torch.randperm(count, generator=draws).to(data.device) if recipe.shuffle else None
    changes = draw(recipe.augment, count, draws).to(data.device)
    penalised = penalised_weights(model, recipe.regularization)
    sums = torch.zeros(2, dtype=torch.float64, device=data.device)  # loss and hits: read once, at the end

    starts = list(range(0, count, size))
    if count % size == 1 and len(starts) > 1 and has_batch_norm(model):
        starts.pop()  # one image has no variance: it joins the batch before
    if size == 1 and any(module.training for module in model.modules() if isinstance(module, nn.BatchNorm1d)):
        raise UserError("params.yaml: batch_size = 1: batch norm has no variance of one image; expected 2 or more")
    bar = progress(total=len(starts), desc=f"epoch {epoch}/{recipe.epochs}", unit=" batches")
    for start, stop in zip(starts, [*starts[1:], count], strict=True):
        indices = slice(start, stop) if order is None else order[start:stop]
        images, labels = data.batch(indices, partial(augment, recipe=recipe.augment, draws=changes[start:stop]))
        scores = model(images)
        loss = objective = F.cross_entropy(scores, labels)
        if penalised:
            objective = loss + recipe.regularization.l1 * sum(weight.abs().sum() for weight in penalised)
        optimizer.zero_grad(set_to_none=True)
        objective.backward()
        optimizer.step()
        with torch.no_grad():
            sums += torch.stack([loss * len(labels), (scores.argmax(1) == labels).sum()])
        if not bar.disable and bar.update():  # reading the loss waits for the device: only when it is shown
            bar.set_postfix(loss=f"{sums[0].item() / stop:.4f}", refresh=False)
    bar.close()
    loss_sum, hits = sums.tolist()
    return loss_sum / count, hits / count


def has_batch_norm(model: nn.Module) -> bool:
    """Whether statistics of a batch count: a frozen backbone uses its own."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training for module in model.modules())


def penalised_weights(model: nn.Module, regularization: Any) -> list[Tensor]:
    """The trained tensors whose absolute values the loss counts."""
    if not regularization.l1:
        return []
    return [
        parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and (regularization.biases or not name.endswith("bias"))
    ]


def make_optimizer(model: nn.Module, recipe: Any) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if recipe.name == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=recipe.lr,
            momentum=recipe.momentum,
            nesterov=recipe.nesterov,
            weight_decay=recipe.weight_decay,
        )
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.name]
    return kind(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)


def log_probabilities(model: nn.Module, data: Batches) -> Tensor:
    """(N, classes) float32 on the CPU, in the order of `data`."""
    model.eval()
    size = max(1, min(EVALUATION_BATCH, EVALUATION_VALUES // math.prod(data.mapped.shape[1:])))
    with torch.inference_mode():
        parts = [
            F.log_softmax(model(data.batch(slice(start, start + size))[0]), dim=1)
            for start in range(0, len(data), size)
        ]
        return torch.cat(parts).cpu()


def evaluate(model: nn.Module, data: Batches) -> tuple[float, float]:
    """Mean cross-entropy and accuracy."""
    scores, labels = log_probabilities(model, data), data.labels.cpu()
    return F.nll_loss(scores, labels).item(), (scores.argmax(1) == labels).double().mean().item()
