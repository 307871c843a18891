"""How fast `python -m pipeline.predict` is, side by side with the loop that people write.

usage: python -m benchmarks.predict [--source ZIP] [--network NAME] [--size N] [--rounds N] [--device NAME] [--json]

In turns, each in a process of its own, on the same photos: torchvision's ImageFolder, a DataLoader with a worker for
each core and the network; this project's command, which writes a CSV file as that does; and the network alone, on
images already in place. All have the same torchvision network, with random weights.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from benchmarks.check import PHOTOS
from benchmarks.predict_loop import CONTENDERS
from benchmarks.side_by_side import caption, machine, median, run, short, spread, table
from pipeline.system.workers.pool import cores

HEADS = (
    "photos, network",
    "usual loop, s",
    "predict, s",
    "network alone, s",
    "usual ÷ predict",
    "predict ÷ network",
    "images/s",
)
NETWORK, SIZE = "squeezenet1_1", 160


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.predict", description=__doc__)
    parser.add_argument("--source", type=Path, default=PHOTOS, help="a zip of photos (default: in DATA_MIRROR)")
    parser.add_argument("--network", default=NETWORK, help="of torchvision")
    parser.add_argument("--size", type=int, default=SIZE, help="pixels that the network takes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu", help="cpu, cuda")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if not arguments.source.is_file():
        sys.exit(f"error: {arguments.source} is not there: name a zip of photos with --source, or set DATA_MIRROR")
    change = {key: getattr(arguments, key) for key in ("source", "network", "size", "device")}
    figures = measure(arguments.rounds, **change)
    print(json.dumps(figures, indent=2, ensure_ascii=False) if arguments.json else as_table(figures))


def measure(
    rounds: int, source: Path = PHOTOS, network: str = NETWORK, size: int = SIZE, device: str = "cpu"
) -> dict[str, Any]:
    """Seconds of each contender in each round, and the medians of their ratios."""
    with tempfile.TemporaryDirectory(prefix="predict-") as folder:
        root = Path(folder)
        with zipfile.ZipFile(source) as archive:
            archive.extractall(root)
        (photos,) = {path.parent.parent for path in root.rglob("*.jpg")}
        for file in [path for path in photos.rglob("*") if path.is_file() and not is_photo(path)]:
            file.unlink()  # the usual loop stops at the first broken file
        job = {
            "photos": str(photos),
            "images": sum(1 for _ in photos.rglob("*.jpg")),
            "model": str(write_model(root / "models/random", network, size, sorted(p.name for p in photos.iterdir()))),
            "network": network,
            "size": size,
            "device": device,
            "workers": cores(),
            "out": str(root / "answers.csv"),
        }
        told: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}
        for _ in range(rounds):
            for name in CONTENDERS:
                told[name].append(run("benchmarks.predict_loop", {**job, "contender": name}))
    seconds = {name: [row["seconds"] for row in rows] for name, rows in told.items()}
    return {
        "images": job["images"],
        "network": network,
        "size": size,
        "device": device,
        "rounds": rounds,
        "ratio": ratio(seconds["usual"], seconds["predict"]),
        "of_network": ratio(seconds["predict"], seconds["network"]),
        "images_per_second": median(job["images"] / value for value in seconds["predict"]),
        "each_round": {name: [round(value, 3) for value in values] for name, values in seconds.items()},
        "machine": machine(device),
    }


def is_photo(file: Path) -> bool:
    return file.suffix == ".jpg" and file.stat().st_size > 0


def write_model(folder: Path, network: str, size: int, classes: list[str]) -> Path:
    """A model with random weights, in the files of a trained one."""
    from pydantic import TypeAdapter
    from safetensors.torch import save_file

    from pipeline.config.networks import Network
    from pipeline.networks import Shape, build

    described = {"name": "torchvision", "model": network}
    config: Network = TypeAdapter(dict[str, Network]).validate_python({"network": described})["network"]
    shape = Shape(3, size, size, len(classes))
    model = build(config, shape)
    count = sum(weight.numel() for weight in model.parameters())
    about = {
        "experiment": folder.name,
        "dataset": "photos",
        "network": described,
        "shape": shape._asdict(),
        "classes": classes,
        "preprocessing": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "tta": False},
        "parameters": count,
        "trainable_parameters": count,
    }
    folder.mkdir(parents=True)
    (folder / "model.json").write_text(json.dumps(about))
    save_file({name: values.contiguous() for name, values in model.state_dict().items()}, folder / "model.safetensors")
    return folder


def ratio(ours: list[float], theirs: list[float]) -> float:
    """The median over rounds: those who ran one after the other had the same machine."""
    return round(median(one / other for one, other in zip(ours, theirs, strict=True)), 2)


def as_table(figures: dict[str, Any]) -> str:
    row = (
        f"{figures['images']:,} photos, `{figures['network']}` at {figures['size']} pixels",
        *(spread(figures["each_round"][name]) for name in CONTENDERS),
        f"{figures['ratio']:.2f} ×",
        f"{figures['of_network']:.2f} ×",
        short(figures["images_per_second"]),
    )
    return f"{caption(figures)}\n\n{table(HEADS, [row])}"


if __name__ == "__main__":
    main()
