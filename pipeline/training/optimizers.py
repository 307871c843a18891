"""torch's own optimizers, one group of weights for each learning rate, without the compiler that they import."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

CONTAINERS = ("backbone", "features")  # children that hold a sequence of blocks themselves


def make_optimizers(model: nn.Module, recipe: Any, capturable: bool = False) -> list[Optimizer]:
    """The optimizers that `recipe` (see recipes.Optimizer) describes for the weights that are to be trained.

    Muon is for the matrices between the first and the last layer; AdamW, with the same learning rate, takes the rest:
    Muon's steps are scaled to AdamW's size (Liu et al. 2025, arXiv 2502.16982). `capturable` optimizers read their
    learning rate from a tensor, so that a CUDA graph sees it change.
    """
    without_compiler()
    groups = parameter_groups(model, recipe)
    if recipe.name == "muon":
        inner = {id(weight) for weight in matrices(model)[1:-1]}
        muon = torch.optim.Muon(
            only(groups, lambda weight: id(weight) in inner),
            lr=recipe.lr,
            momentum=recipe.momentum or 0.95,
            weight_decay=recipe.weight_decay,
            adjust_lr_fn="match_rms_adamw",
        )
        adamw = torch.optim.AdamW(
            only(groups, lambda weight: id(weight) not in inner),
            lr=recipe.lr,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        return [muon, adamw]
    options: dict[str, Any] = {"lr": recipe.lr, "weight_decay": recipe.weight_decay, "fused": True}
    if recipe.name == "sgd":
        made: Optimizer = torch.optim.SGD(groups, momentum=recipe.momentum, nesterov=recipe.nesterov, **options)
    else:
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.name]
        made = kind(groups, capturable=capturable, **options)
    if capturable:
        for group in made.param_groups:
            group["lr"] = torch.tensor(group["lr"], device=group["params"][0].device)
    return [made]


def parameter_groups(model: nn.Module, recipe: Any) -> list[dict[str, Any]]:
    """Weights by learning rate, `lr` × `layer_decay` to the power of the blocks behind them, and by weight decay.

    Only those that require a gradient. Without `decay_biases`, biases and the weights of norms do not decay.
    """
    depth = {
        id(weight): number for number, block in enumerate(reversed(blocks(model))) for weight in block.parameters()
    }
    groups: dict[tuple[float, bool], list[Tensor]] = {}
    for weight in model.parameters():
        if weight.requires_grad:
            factor = recipe.layer_decay ** depth.get(id(weight), len(depth))
            groups.setdefault((factor, recipe.decay_biases or weight.ndim > 1), []).append(weight)
    return [
        {"params": weights, "lr": recipe.lr * factor, "weight_decay": recipe.weight_decay if decays else 0.0}
        for (factor, decays), weights in groups.items()
    ]


def only(groups: list[dict[str, Any]], wanted: Any) -> list[dict[str, Any]]:
    chosen = ({**group, "params": [weight for weight in group["params"] if wanted(weight)]} for group in groups)
    return [group for group in chosen if group["params"]]


def matrices(model: nn.Module) -> list[Tensor]:
    return [weight for weight in model.parameters() if weight.requires_grad and weight.ndim == 2]


def blocks(model: nn.Module) -> list[nn.Module]:
    """The parts of a network that hold weights, from its input to its output."""
    found: list[nn.Module] = []
    for name, child in model.named_children():
        if name in CONTAINERS:
            found += blocks(child)
        elif next(child.parameters(), None) is not None:
            found.append(child)
    return found


def set_rate(optimizers: Sequence[Optimizer], factor: float) -> None:
    """Set every learning rate to `factor` times the one that it was made with."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            rate = group.setdefault("initial_lr", float(group["lr"])) * factor
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate


def step(optimizers: Sequence[Optimizer]) -> None:
    with torch.no_grad():
        for optimizer in optimizers:
            inspect.unwrap(type(optimizer).step)(optimizer)  # past the hook that imports the compiler


def without_compiler() -> None:
    """Keep torch.optim from importing torch._dynamo, which takes as long as torch itself, only to switch it off.

    Marks its functions as what `torch._disable_dynamo` makes of them at their first call.
    """
    for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
        function = inspect.unwrap(getattr(Optimizer, name))
        function.__dynamo_disable = function
