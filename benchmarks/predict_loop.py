"""Contenders of benchmarks.predict: each classifies all files of a folder, and prints its seconds as JSON.

usage: python -m benchmarks.predict_loop < JOB.json

Seconds are from after the imports to the last answer: building the network and starting workers count.
"""

from __future__ import annotations

import csv
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.job import Stopwatch


def usual(job: dict[str, Any]) -> int:
    """As people write it: ImageFolder, a DataLoader with a worker for each core, a network, softmax, a CSV."""
    from torch.utils.data import DataLoader
    from torchvision import models, transforms
    from torchvision.datasets import ImageFolder

    size, device = job["size"], torch.device(job["device"])
    transform = transforms.Compose(
        [
            transforms.Resize(size),
            transforms.CenterCrop(size),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    data = ImageFolder(job["photos"], transform)
    loader = DataLoader(data, 64, num_workers=job["workers"], pin_memory=device.type == "cuda")
    model = models.get_model(job["network"], num_classes=len(data.classes)).to(device).eval()
    answers = []
    with torch.no_grad():
        for images, _ in loader:
            probabilities, found = model(images.to(device)).softmax(1).max(1)
            answers += zip(found.tolist(), probabilities.tolist(), strict=True)
    with Path(job["out"]).open("w", newline="") as file:
        for (path, _), (found, probability) in zip(data.samples, answers, strict=True):
            csv.writer(file).writerow([path, data.classes[found], probability])
    return len(answers)


def predict(job: dict[str, Any]) -> int:
    """`python -m pipeline.predict`, in this process."""
    from pipeline import predict

    options = ["--model", job["model"], "--device", job["device"], "--output", job["out"]]
    sys.argv = ["predict", *options, job["photos"]]
    if predict.main():
        sys.exit("error: some of the files can't be read")
    return sum(1 for _ in Path(job["out"]).open()) - 1


def network(job: dict[str, Any]) -> int:
    """The network alone, on images already in place, in the layout that it is fastest in: no loop can be faster."""
    from pipeline.evaluation.model import Model

    model = Model(Path(job["model"]))
    model.to(torch.device(job["device"]))
    size, count = job["size"], job["images"]
    images = torch.zeros((64, size, size, 3), device=model.device).permute(0, 3, 1, 2)
    with torch.inference_mode():
        for start in range(0, count, 64):
            model.network(images[: count - start])
    return count


CONTENDERS = {"usual": usual, "predict": predict, "network": network}


def main() -> None:
    job = json.loads(sys.stdin.read())
    watch = Stopwatch(torch.device(job["device"]))
    with watch:
        count = CONTENDERS[job["contender"]](job)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": watch.seconds, "images": count, "peak_mb": round(peak), "ended": time.time()}))


if __name__ == "__main__":
    main()
