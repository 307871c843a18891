"""The published studies' training loops as people write them: what a user has today.

usage: python -m benchmarks.usual_loops < JOB.json

Every image is a PIL image that goes through torchvision's transforms and a DataLoader each time that it is seen, and
the whole test set is evaluated after each epoch. Nothing in the loop waits for the device but one `.item()` an epoch.
`mnist-gd` is what its study has: tensors, written-out gradient descent on all images at once. Prints one JSON line:
seconds of loading (what is done once), of training and of evaluation, and the accuracy on the test set.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import models, transforms
from torchvision.datasets.folder import default_loader

from benchmarks.job import Job, Stopwatch, read, tell

STATISTICS = {"symmetric": ((0.5,) * 3, (0.5,) * 3), "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))}
OPTIMIZERS = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
ACTIVATIONS = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "gelu": nn.GELU, "silu": nn.SiLU}
PLAIN = {"ema": None, "grad_clip": None, "label_smoothing": 0, "class_weights": "none", "unfreeze_every": None}


def main() -> None:
    job = read()
    (gradient_descent if job.config.batch_size == "full" else mini_batches)(job)


class InMemory(Dataset[tuple[Any, int]]):
    """As torchvision's MNIST and CIFAR10: one array, of which an item becomes a PIL image when it is asked for."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, transform: Callable[[Image.Image], Any]) -> None:
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, position: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self.images[position])), int(self.labels[position])


class InFiles(Dataset[tuple[Any, int]]):
    """As torchvision's ImageFolder: files that are opened and decoded when asked for."""

    def __init__(self, files: list[Path], labels: np.ndarray, transform: Callable[[Image.Image], Any]) -> None:
        self.files, self.labels, self.transform = files, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, position: int) -> tuple[Any, int]:
        return self.transform(default_loader(self.files[position])), int(self.labels[position])


def dataset(job: Job, rows: np.ndarray, augmented: bool) -> Dataset[tuple[Any, int]]:
    steps: list[Any] = []
    if augmented and job.config.augment.rotation:
        steps.append(transforms.RandomRotation(job.config.augment.rotation))
    if augmented and job.config.augment.horizontal_flip:
        steps.append(transforms.RandomHorizontalFlip(job.config.augment.horizontal_flip))
    if job.files:
        steps += [transforms.Resize(job.shape[1]), transforms.CenterCrop(job.shape[1:])]
    steps.append(transforms.ToTensor())
    if job.config.normalize == "dataset":
        steps.append(transforms.Normalize(*job.data.normalization("dataset")))
    elif job.config.normalize != "none":
        steps.append(transforms.Normalize(*STATISTICS[job.config.normalize]))
    transform, labels = transforms.Compose(steps), job.labels[rows]
    if job.files:
        return InFiles([job.files / path for path in job.index["path"].loc[rows]], labels, transform)
    images = np.load(job.packed / "images.npy", mmap_mode="r")[rows]
    return InMemory(images.squeeze(-1) if job.shape[0] == 1 else images, labels, transform)


def network(job: Job) -> nn.Module:
    described, classes = job.config.network, len(job.meta["classes"])
    if described.name == "mlp":
        sizes = [int(np.prod(job.shape)), *described.hidden]
        last = [nn.LogSoftmax(dim=1)] if described.log_softmax else []
        return nn.Sequential(nn.Flatten(), *fully_connected(sizes, classes, described), *last)
    if described.name == "cnn" and described.activation == "relu" and not described.batch_norm:
        return CNN(described, job.shape, classes)
    if described.name == "torchvision" and described.model == "alexnet":
        model = models.alexnet()
        if job.weights:
            model.load_state_dict(torch.load(job.weights, weights_only=True))
        for parameter in model.parameters():
            parameter.requires_grad = False
        head = described.head
        model.classifier = nn.Sequential(*fully_connected([256 * 6 * 6, *head.hidden], classes, head))
        return model
    raise SystemExit(f"error: no study has such a network: {vars(described)}")


def fully_connected(sizes: list[int], classes: int, described: Any) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        norm = [nn.BatchNorm1d(outputs)] if described.batch_norm else []
        dropout = [nn.Dropout(described.dropout)] if described.dropout else []
        layers += [nn.Linear(inputs, outputs), *norm, ACTIVATIONS[described.activation](), *dropout]
    return [*layers, nn.Linear(sizes[-1], classes)]


class CNN(nn.Module):
    """Convolutions, each followed by ReLU and max pooling, then fully connected layers."""

    def __init__(self, described: Any, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        channels = [shape[0], *described.convolutions]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(inputs, outputs, described.kernel, padding=described.padding)
            for inputs, outputs in pairwise(channels)
        )
        self.pool = described.pool
        with torch.no_grad():
            values = self.features(torch.zeros(1, *shape)).shape[1]
        self.classifier = nn.Sequential(*fully_connected([values, *described.hidden], classes, described))

    def features(self, images: Tensor) -> Tensor:
        for convolution in self.convolutions:
            images = nn.functional.max_pool2d(nn.functional.relu(convolution(images)), self.pool)
        return images.flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images))


def mini_batches(job: Job) -> None:
    beyond = [key for key, plain in PLAIN.items() if getattr(job.config, key) != plain]
    beyond += ["schedule"] if job.config.schedule.name != "constant" else []
    if beyond:
        raise SystemExit(f"error: no study has a loop with {', '.join(beyond)}")
    load, train, evaluation = (Stopwatch(job.device) for _ in range(3))
    with load:
        options = {"num_workers": job.workers, "pin_memory": job.device.type == "cuda"}
        train_data = dataset(job, job.train_rows, augmented=True)
        train_loader = DataLoader(train_data, job.batch_size, shuffle=job.config.shuffle, **options)
        test_data = dataset(job, job.test_rows, augmented=False)
        test_loader = DataLoader(test_data, min(job.batch_size, len(test_data)), **options)
        torch.manual_seed(job.seed)
        model = network(job).to(job.device)
        chosen = job.config.optimizer
        more = {"momentum": chosen.momentum} if chosen.name == "sgd" else {}
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = OPTIMIZERS[chosen.name](trained, lr=chosen.lr, weight_decay=chosen.weight_decay, **more)
        criterion, l1 = nn.CrossEntropyLoss(), job.config.regularization.l1
    for _ in range(job.config.epochs):
        with train:
            model.train()
            correct = torch.zeros((), dtype=torch.int64, device=job.device)
            for images, labels in train_loader:
                images, labels = images.to(job.device), labels.to(job.device)
                logits = model(images)
                loss = criterion(logits, labels)
                if l1:
                    loss = loss + l1 * sum(weight.abs().sum() for weight in trained if weight.ndim > 1)
                correct += (logits.argmax(1) == labels).sum()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            correct.item()
        with evaluation, torch.no_grad():
            model.eval()
            correct = torch.zeros((), dtype=torch.int64, device=job.device)
            for images, labels in test_loader:
                correct += (model(images.to(job.device)).argmax(1) == labels.to(job.device)).sum()
            accuracy = correct.item() / len(test_data)
    tell(
        job, seconds=train.seconds, load_seconds=load.seconds, evaluation_seconds=evaluation.seconds, accuracy=accuracy
    )


def gradient_descent(job: Job) -> None:
    """Two layers, ReLU between them, and the negative log-likelihood, with autograd and nothing of torch.nn."""
    load, train, evaluation = (Stopwatch(job.device) for _ in range(3))
    with load:
        images, labels, test_images, test_labels = (
            values.to(job.device) for rows in (job.train_rows, job.test_rows) for values in tensors(job, rows)
        )
        generator = torch.Generator().manual_seed(job.seed)
        (hidden,) = job.config.network.hidden
        sizes = [images.shape[1], hidden, len(job.meta["classes"])]
        parameters = []
        for inputs, outputs in pairwise(sizes):
            weight = torch.randn(inputs, outputs, generator=generator) * (2 / (inputs + outputs)) ** 0.5
            parameters += [weight.to(job.device).requires_grad_()]
            parameters += [torch.zeros(outputs, device=job.device, requires_grad=True)]

    def forward(values: Tensor) -> Tensor:
        first_weight, first_bias, second_weight, second_bias = parameters
        return (values.mm(first_weight) + first_bias).clamp(min=0).mm(second_weight) + second_bias

    with train:
        for _ in range(job.config.epochs):
            logits = forward(images)
            own = logits[torch.arange(len(logits), device=job.device), labels]
            loss = (logits.exp().sum(-1).log() - own).mean()
            loss.backward()
            with torch.no_grad():
                for parameter in parameters:
                    parameter -= job.config.optimizer.lr * parameter.grad
                    parameter.grad.zero_()
        loss.item()
    with evaluation, torch.no_grad():
        accuracy = (forward(test_images).argmax(1) == test_labels).double().mean().item()
    tell(
        job, seconds=train.seconds, load_seconds=load.seconds, evaluation_seconds=evaluation.seconds, accuracy=accuracy
    )


def tensors(job: Job, rows: np.ndarray) -> tuple[Tensor, Tensor]:
    """Images (N, values) float32 in [0, 1] and labels (N,) int64."""
    images = torch.from_numpy(np.load(job.packed / "images.npy", mmap_mode="r")[rows])
    return images.flatten(1).float().div(255), torch.from_numpy(job.labels[rows])


if __name__ == "__main__":
    main()
