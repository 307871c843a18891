"""torch's optimizers, with one group of weights for each learning rate and weight decay."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pipeline.networks.layers import BackboneClassifier
from pipeline.system.console import UserError

if TYPE_CHECKING:
    from pipeline.config.experiments import OptimizerConfig

NORM_EPSILON = 1e-7  # smallest norm of a matrix that weights are divided by
CONTAINERS = ("backbone", "features", "groups")  # children that hold a sequence of blocks themselves


def make_optimizers(model: nn.Module, config: OptimizerConfig, capturable: bool = False) -> list[Optimizer]:
    """The optimizers for the weights of `model` that require a gradient.

    Muon trains the matrices and filters between the first and the last layer, and `config.rest` the rest, or AdamW
    with the same lr. `capturable` optimizers read their lr from a tensor, so that a CUDA graph sees it change. Raises
    UserError where Muon finds nothing to train.
    """
    without_compiler()
    if isinstance(model, BackboneClassifier) and model.frozen:
        model = model.head  # the optimizer is the same whether the backbone runs or its features are kept
    groups = parameter_groups(model, config)
    if config.name != "muon":
        return [elementwise(groups, config, capturable)]
    inner = {id(weight) for weight in layer_weights(model)[1:-1]}
    matrices = only(groups, lambda weight: id(weight) in inner)
    if not matrices:
        raise UserError(
            "params.yaml: optimizer.name = 'muon' trains what is between the first layer and the last, and here is"
            " nothing between them: expected a deeper network, or adamw"
        )
    rest = config.rest or config.model_copy(update={"name": "adamw"})
    others = only(parameter_groups(model, rest), lambda weight: id(weight) not in inner)
    return [Muon(matrices, config), elementwise(others, rest)]


def elementwise(groups: list[dict[str, Any]], config: OptimizerConfig, capturable: bool = False) -> Optimizer:
    """SGD, Adam or AdamW, which update every number by itself."""
    options: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay, "fused": True}
    if config.name == "sgd":
        made: Optimizer = torch.optim.SGD(groups, momentum=config.momentum, nesterov=config.nesterov, **options)
        if config.momentum:
            # for all weights at once: torch's fused step fails where only newly unfrozen weights lack it
            for group in made.param_groups:
                for weight in group["params"]:
                    made.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
    else:
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.name]
        made = kind(groups, capturable=capturable, **options)
    if capturable:
        for group in made.param_groups:
            group["lr"] = torch.tensor(group["lr"], device=group["params"][0].device)
    return made


class Muon(torch.optim.Muon):
    """torch's Muon takes matrices only: this one takes filters too, as matrices (outputs, inputs × height × width).

    Its steps are scaled to AdamW's size (Liu et al. 2025, arXiv 2502.16982), or, with `normalize_weights`, to that of
    the weights.
    """

    def __init__(self, groups: list[dict[str, Any]], config: OptimizerConfig) -> None:
        self.normalizes = config.normalize_weights
        self.weights: list[tuple[Tensor, Tensor]] = []  # each weight and the matrix that shares its memory
        for group in groups:
            matrices = [nn.Parameter(as_matrix(weight.detach())) for weight in group["params"]]
            self.weights += zip(group["params"], matrices, strict=True)
            group["params"] = matrices
        super().__init__(
            groups,
            lr=config.lr,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            ns_steps=config.ns_steps,
            adjust_lr_fn="original" if self.normalizes else "match_rms_adamw",
        )

    def before_step(self) -> None:
        """Give each matrix the gradient of its weight, and normalize those that have one.

        To a Frobenius norm of √outputs, which a step has before it is multiplied by lr (Jordan 2024, airbench94_muon).
        """
        for weight, matrix in self.weights:
            matrix.grad = None if weight.grad is None else as_matrix(weight.grad)
            if self.normalizes and weight.grad is not None:
                matrix.mul_(len(matrix) ** 0.5 / matrix.norm().clamp(min=NORM_EPSILON))


def as_matrix(values: Tensor) -> Tensor:
    """Filters as a matrix (outputs, inputs × height × width) on the same memory.

    Filters in channels_last order give another order of columns, which Muon's step does not depend on.
    """
    return (values if values.is_contiguous() else values.permute(0, 2, 3, 1)).flatten(1)


def parameter_groups(model: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Weights by learning rate, `lr` × `layer_decay` to the power of the blocks behind them, and by weight decay.

    Only those that require a gradient. Biases and the weights of norms train with `bias_lr`, if there is one, and lose
    the same fraction in a step as the others, lr × weight decay; without `decay_biases` they do not decay.
    """
    behind = blocks_behind(model)
    faster = config.bias_lr / config.lr if config.bias_lr else 1.0
    bias_decay = config.weight_decay / faster if config.decay_biases else 0.0
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for weight in model.parameters():
        if weight.requires_grad:
            lr, decay = (config.lr, config.weight_decay) if weight.ndim > 1 else (config.lr * faster, bias_decay)
            factor = config.layer_decay ** behind[id(weight)]
            groups.setdefault((lr * factor, decay), []).append(weight)
    return [{"params": weights, "lr": lr, "weight_decay": decay} for (lr, decay), weights in groups.items()]


def only(groups: list[dict[str, Any]], wanted: Callable[[Tensor], bool]) -> list[dict[str, Any]]:
    chosen = ({**group, "params": [weight for weight in group["params"] if wanted(weight)]} for group in groups)
    return [group for group in chosen if group["params"]]


def layer_weights(model: nn.Module) -> list[Tensor]:
    """The matrices and filters of all layers, from those that meet the images to those that give the logits.

    Not a vision transformer's class token and position embedding, nor ConvNeXt's scales of layers.
    """
    return [weight for name, weight in model.named_parameters() if weight.ndim > 1 and name.endswith("weight")]


def blocks(model: nn.Module) -> list[nn.Module]:
    """The parts of a network that hold weights, from its input to its output; a new head is one of them.

    A part with more than half of the weights of the network or of its backbone, such as the encoder of a vision
    transformer, is taken apart into its own parts, and those again, down to single layers.
    """
    return parts(model, count(getattr(model, "backbone", model)) // 2)


def parts(module: nn.Module, most: int) -> list[nn.Module]:
    """Children that hold weights; of CONTAINERS and of those with more than `most` weights, their own parts."""
    found: list[nn.Module] = []
    for name, child in module.named_children():
        weights = count(child)
        if not weights:
            continue
        taken_apart = name in CONTAINERS or (name != "head" and weights > most)
        found += (parts(child, most) if taken_apart else []) or [child]
    return found


def count(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def blocks_behind(model: nn.Module) -> dict[int, int]:
    """How many blocks follow the block of a weight, by the weight's id.

    Weights in no block, such as the position embedding of a vision transformer, count to the first block.
    """
    found = blocks(model)
    behind = {id(weight): max(0, len(found) - 1) for weight in model.parameters()}
    return behind | {
        id(weight): number for number, block in enumerate(reversed(found)) for weight in block.parameters()
    }


def set_lr(optimizers: Sequence[Optimizer], factor: float) -> None:
    """Set every learning rate to `factor` times its initial one."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            if "initial_lr" not in group:
                group["initial_lr"] = float(group["lr"])  # once only: on a GPU this waits for the device
            lr = group["initial_lr"] * factor
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr


def restore(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Load a state but keep the lr objects: a CUDA graph goes on reading the tensor that it has captured."""
    lrs = [group["lr"] for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, lr in zip(optimizer.param_groups, lrs, strict=True):
        group["lr"] = lr


def step(optimizers: Sequence[Optimizer]) -> None:
    """Update the weights by all optimizers."""
    with torch.no_grad():
        for optimizer in optimizers:
            if isinstance(optimizer, Muon):
                optimizer.before_step()
            inspect.unwrap(type(optimizer).step)(optimizer)  # the wrapped step would import the compiler


def without_compiler() -> None:
    """Keep torch.optim from importing torch._dynamo, which its methods do at their first call only to disable it.

    The import takes 1.4 seconds of CPU time, and the stage train of a small experiment 3.2 without it (AMD EPYC). This
    marks the methods as `torch._disable_dynamo` would after the import.
    """
    for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
        function = inspect.unwrap(getattr(Optimizer, name))
        function.__dynamo_disable = function
