"""A step of a plain multilayer perceptron on a CPU, written out: its matrix products, and little else.

Plain gradient descent adds the product that is the gradient straight to the weights, and large batches go block by
block.
"""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.training import optimizers
from pipeline.training.step import Batch, Step

BLOCK_VALUES = 2**22  # that the first layer takes at a time: 16 MB stay in a cache between forward and backward
ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None)  # what torch.compile makes of a linear layer
ONEDNN_PRODUCTS = 2**24  # from so many on, it multiplies matrices 1.1 to 1.8 times as fast as MKL does on AMD's CPUs


def suits(model: nn.Module, config: Any, device: torch.device) -> bool:
    """Whether `Perceptron` trains this network as the config wants it."""
    if not isinstance(model, nn.Sequential) or device.type != "cpu":
        return False
    layers = [type(layer) for layer in model if not isinstance(layer, nn.Flatten | nn.LogSoftmax)]
    hidden, last = layers[:-1], layers[-1:]
    plain = {"grad_clip": None, "label_smoothing": 0, "class_weights": "none", "precision": "fp32", "compile": False}
    return (
        hidden == [nn.Linear, nn.ReLU] * (len(hidden) // 2)
        and last == [nn.Linear]
        and all(getattr(config, key) == value for key, value in plain.items())
        and not (config.regularization.l1 or config.regularization.l2 or config.unfreeze_every)
        and config.optimizer.name in ("sgd", "adam", "adamw")
    )


class Perceptron(Step):
    """A step of one part and one process, for linear layers with ReLU between them and cross-entropy."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.layers = [layer for layer in self.model.modules() if isinstance(layer, nn.Linear)]
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        self.groups = {id(weight): group for group in groups for weight in group["params"]}
        chosen = self.config.optimizer
        self.descends = chosen.name == "sgd" and not (chosen.momentum or chosen.weight_decay)

    @torch.inference_mode()
    def __call__(self, batch: Batch, others: Batch | None, whole: int) -> tuple[Tensor, Tensor]:
        inputs = self.images(batch.pixels, self.config.augment, batch.draws).flatten(1)
        size = max(1, BLOCK_VALUES // inputs.shape[1])
        blocks = list(zip(inputs.split(size), batch.labels.split(size), strict=True))
        at_once = self.descends and len(blocks) == 1
        results = [self.block(*block, whole, at_once, number == 0) for number, block in enumerate(blocks)]
        if not at_once:
            self.update()
        losses, correct = zip(*results, strict=True)
        return reduce(torch.add, losses), reduce(torch.add, correct)

    def update(self) -> None:
        """By torch's kernels; in small networks, what torch does around that of Adam(W) takes as long as it does."""
        (optimizer,) = self.optimizers
        if not isinstance(optimizer, torch.optim.Adam) or not optimizer.state:  # made in its first step
            optimizers.step(self.optimizers)
            return
        kernel = torch._fused_adamw_ if isinstance(optimizer, torch.optim.AdamW) else torch._fused_adam_
        for group in optimizer.param_groups:
            weights = group["params"]
            states = [optimizer.state[weight] for weight in weights]
            averages, squares, steps = ([state[key] for state in states] for key in ("exp_avg", "exp_avg_sq", "step"))
            torch._foreach_add_(steps, 1)
            options = {key: group[key] for key in ("lr", "weight_decay", "eps", "amsgrad", "maximize")}
            options |= {"beta1": group["betas"][0], "beta2": group["betas"][1]}
            kernel(weights, [weight.grad for weight in weights], averages, squares, [], steps, **options)

    def block(self, inputs: Tensor, labels: Tensor, whole: int, at_once: bool, first: bool) -> tuple[Tensor, Tensor]:
        """Forward and backward through some images (B, inputs) of a batch."""
        activations = [inputs]
        for number, layer in enumerate(self.layers, start=1):
            active = "relu" if number < len(self.layers) else "none"
            activations.append(product(activations[-1], layer.weight, layer.bias, active))

        log_probabilities = F.log_softmax(activations[-1], dim=1)
        loss = F.nll_loss(log_probabilities, labels, reduction="sum")
        correct = (log_probabilities.argmax(1) == labels).sum()

        # the gradient of the mean loss: of the logits, (probability - (1 for the label)) / images
        gradient = log_probabilities.exp_()
        gradient.scatter_add_(1, labels[:, None], gradient.new_full((len(labels), 1), -1.0)).div_(whole)
        for number in reversed(range(len(self.layers))):
            layer, of_outputs = self.layers[number], gradient
            if number:
                gradient = product(of_outputs, layer.weight.T)
                torch.ops.aten.threshold_backward.grad_input(gradient, activations[number], 0, grad_input=gradient)
            if at_once:
                layer.weight.addmm_(of_outputs.T, activations[number], alpha=-self.groups[id(layer.weight)]["lr"])
                layer.bias.sub_(of_outputs.sum(0), alpha=self.groups[id(layer.bias)]["lr"])
                continue
            of_weight, of_bias = product(of_outputs.T, activations[number].T), of_outputs.sum(0)
            if first:
                layer.weight.grad, layer.bias.grad = of_weight, of_bias
            else:
                layer.weight.grad.add_(of_weight)  # type: ignore[union-attr]
                layer.bias.grad.add_(of_bias)  # type: ignore[union-attr]
        return loss, correct


def product(inputs: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "none") -> Tensor:
    """(B, I) and (O, I), transposed: (B, O) float32, plus `bias` (O,) and through an `activation`, relu or none."""
    if ONEDNN is not None and len(inputs) * weight.numel() >= ONEDNN_PRODUCTS:
        return ONEDNN(inputs, weight, bias, activation, [], "")
    outputs = F.linear(inputs, weight, bias)
    return outputs.relu_() if activation == "relu" else outputs
