"""What no training can be faster than: the matrix products and convolutions of its steps, and nothing else.

usage: python -m benchmarks.limit < JOB.json

Each linear layer and convolution is counted as often as the experiment's steps need it, with operands that already lie
in place in its precision and results in memory that is there: forward, the gradient of its weights if they are
trained, and that of its input if anything trained lies below it. Not counted: loading, augmenting and normalizing,
biases, activations, pooling, dropout, the loss, the optimizer, autograd. Convolutions are counted in the memory layout
that is faster, matrix products on a CPU by the library that is, MKL or oneDNN; on CUDA a step is replayed as one graph,
so no launches are counted.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.job import PRECISIONS, Job, Stopwatch, read, tell
from benchmarks.usual_loops import network

Step = Callable[[], object]
ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
TRIALS = 5  # of each library
WARM_UP = 2  # runs of a step before the clock: kernels choose their ways then


def main() -> None:
    job = read()
    whole, rest = divmod(len(job.train_rows), job.batch_size)
    counts = {job.batch_size: whole * job.config.epochs, rest: job.config.epochs}
    seconds = sum(fastest(job, size, count) for size, count in counts.items() if size and count)
    tell(job, seconds=seconds)


def fastest(job: Job, size: int, count: int) -> float:
    """Seconds of `count` steps of `size` images."""
    layouts = [torch.contiguous_format]
    if any(isinstance(layer, nn.Conv2d) for layer, _ in layers(job)):
        layouts.append(torch.channels_last)
    steps = [step(job, size, layout) for layout in layouts]
    best = min(steps, key=lambda each: timed(job.device, each, 1))
    return timed(job.device, best, count)


def timed(device: torch.device, step: Step, count: int) -> float:
    with Stopwatch(device) as watch:
        for _ in range(count):
            step()
    return watch.seconds


def layers(job: Job) -> list[tuple[nn.Linear | nn.Conv2d, tuple[int, ...]]]:
    """Linear layers and convolutions in the order of the forward pass, with the shape of one image's input to each."""
    found: list[tuple[nn.Linear | nn.Conv2d, tuple[int, ...]]] = []
    model = network(job).eval()
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.register_forward_hook(lambda layer, inputs, _: found.append((layer, tuple(inputs[0].shape[1:]))))
    with torch.no_grad():
        model(torch.zeros(1, *job.shape))
    return found


def step(job: Job, size: int, layout: torch.memory_format) -> Step:
    """All products of one step, already run a few times."""
    dtype = PRECISIONS[getattr(job.config, "precision", "fp32")]
    products: list[Step] = []
    below = False  # whether something is trained below this layer
    for layer, shape in layers(job):
        weight = layer.weight.detach().to(job.device, dtype)
        inputs = torch.randn(size, *shape, device=job.device).to(dtype)
        trained = layer.weight.requires_grad
        if isinstance(layer, nn.Conv2d):
            inputs, weight = inputs.to(memory_format=layout), weight.to(memory_format=layout)
            products += convolutions(layer, inputs, weight, trained, below)
        else:
            products += matrix_products(inputs, weight, trained, below)
        below = below or trained

    def run() -> None:
        for product in products:
            product()

    for _ in range(WARM_UP):
        run()
    return captured(run) if job.device.type == "cuda" else run


def matrix_products(inputs: Tensor, weight: Tensor, trained: bool, below: bool) -> list[Step]:
    outputs = inputs @ weight.T
    gradient, of_weight, of_inputs = torch.randn_like(outputs), torch.empty_like(weight), torch.empty_like(inputs)
    products = [product(inputs, weight, outputs)]
    if trained:
        products.append(product(gradient.T, inputs.T, of_weight))
    if below:
        products.append(product(gradient, weight.T, of_inputs))
    return products


def product(left: Tensor, right: Tensor, outputs: Tensor) -> Step:
    """`left` times `right` transposed, by the library that is faster for these shapes."""
    ways: list[Step] = [lambda: torch.mm(left, right.T, out=outputs)]
    if ONEDNN is not None and left.device.type == "cpu":
        ways.append(lambda: ONEDNN(left, right, None, "none", [], ""))
    return min(ways, key=lambda way: min(timed(left.device, way, 1) for _ in range(TRIALS)))


def convolutions(layer: nn.Conv2d, inputs: Tensor, weight: Tensor, trained: bool, below: bool) -> list[Step]:
    how = (layer.stride, layer.padding, layer.dilation)
    gradient = torch.randn_like(torch.conv2d(inputs, weight, None, *how, layer.groups))
    products: list[Step] = [lambda: torch.conv2d(inputs, weight, None, *how, layer.groups)]
    if trained or below:
        wanted = [below, trained, False]
        products.append(
            lambda: torch.ops.aten.convolution_backward(
                gradient, inputs, weight, None, *how, False, (0, 0), layer.groups, wanted
            )
        )
    return products


def captured(run: Step) -> Step:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


if __name__ == "__main__":
    with torch.inference_mode():
        main()
