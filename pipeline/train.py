"""Stage `train`: train the network of one experiment and save it as safetensors.

usage: python -m pipeline.train EXPERIMENT
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import live, params
from pipeline.console import UserError, only_argument, run
from pipeline.outputs import remove, whole, write_json

if TYPE_CHECKING:
    from pipeline.recipes import Experiment
    from pipeline.training.distributed import Group

CHECKPOINTS = Path(".checkpoints")
CODE = ("train.py", "networks/*.py", "training/**/*.py")  # what decides the result, beside data and params


def main() -> None:
    name = only_argument("EXPERIMENT")
    everything = params.load()
    recipe, seed = everything.experiment(name), everything.seed_of(name)

    from pipeline.training import distributed

    distributed.run(recipe.compute, train, name, recipe, seed)


def train(name: str, recipe: Experiment, seed: int, group: Group) -> None:
    """Train as one of a group of processes, the first of which writes the outputs."""
    import torch
    from safetensors.torch import save

    from pipeline.networks import Shape, build
    from pipeline.training import loop
    from pipeline.training.data import RESIDENT_SHARE, Batches, Packed, free_memory
    from pipeline.training.device import make_deterministic, place
    from pipeline.training.features import Features

    device, threads = place(recipe.compute, group.local_rank)
    make_deterministic(device, threads, recipe.precision)
    group.connect(device)
    folder = Path("data/packed", recipe.dataset)
    packed = Packed(folder)
    mean, std = packed.normalization(recipe.normalize)
    rows = packed.rows("train", *(["val"] if recipe.whole_train else []), fraction=recipe.train_fraction)
    validation_rows = packed.rows() if recipe.whole_train else packed.rows("val")
    budget = None if recipe.compute.resident_mb == "auto" else recipe.compute.resident_mb * 1_000_000
    alone = group.world == 1
    if budget is None and not alone and device.type == "cpu":  # every process holds all images, of both sides
        budget = int(RESIDENT_SHARE * free_memory(device)) // (2 * recipe.compute.devices)
    data: Any = Batches(packed, rows, mean, std, device, budget)
    validation: Any = Batches(packed, validation_rows, mean, std, device, budget) if len(validation_rows) else None
    if validation is None and (recipe.keep == "best" or recipe.patience):
        raise UserError(f"{recipe.dataset} has no validation images to pick an epoch by: raise its split.val")

    torch.manual_seed(seed)
    shape = Shape(packed.meta["channels"], packed.meta["height"], packed.meta["width"], len(packed.classes))
    weights = pretrained(name, recipe)
    model: Any = build(recipe.network, shape, weights).to(device)
    if not alone and device.type == "cuda":  # statistics of the whole batch; on the CPU each process has its own
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    where = f"{device}" if alone else f"{group.world} × {device.type}"
    print(f"{name}: {trainable:,} of {parameters:,} parameters, {len(data):,} images, on {where} ({threads} threads)")

    description = {
        "experiment": name,
        "dataset": recipe.dataset,
        "network": recipe.network.model_dump(mode="json"),
        "shape": shape._asdict(),
        "classes": packed.classes,
        "preprocessing": {**packed.meta["preprocessing"], "mean": mean, "std": std, "test_flip": recipe.test_flip},
        "parameters": parameters,
        "trainable_parameters": trainable,
    }
    files = [folder / "meta.json", folder / "index.parquet", *([weights] if weights else [])]
    inputs = [recipe.model_dump(mode="json"), seed, [sha256(file) for file in files], code()]
    environment = [device.type, threads, torch.__version__]
    identity = fingerprint(name, inputs)
    saved = CHECKPOINTS / name / f"{fingerprint(identity, environment)}.pt"
    trained: Any = model
    if alone and getattr(recipe.network, "freeze", False) and not data.mixes(recipe.augment):
        # what the features are made of, so that every head on the same ones finds them
        parts = dict.fromkeys(("normalize", "augment", "precision", "whole_train", "train_fraction"), True)
        made_of = recipe.model_dump(mode="json", include={"network": {"backbone"}, **parts})
        cache = CHECKPOINTS / f"features@{fingerprint(made_of, inputs[1:], environment)}"
        trained, data = model.head, Features(model.backbone, data, recipe, seed, cache)
        if validation is not None:
            validation = Features(model.backbone, validation, recipe, seed, cache / "val").unchanged()
    elif alone and recipe.batch_size == "full" and not data.draw(recipe.augment, seed, epoch=1).numel():
        data.normalize_once()
    group.agree(saved.name)
    with live.Logger(name, identity) as logger:
        history = loop.train(trained, recipe, data, validation, seed, saved, logger.log, group)
    if group.rank:
        return

    with whole(Path("models", name)) as folder:
        folder.mkdir()
        state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
        # `save_file` makes a file that only its owner may read, whatever the umask
        (folder / "model.safetensors").write_bytes(save(state))
        write_json(folder / "model.json", {**description, "fingerprint": identity})
    write_history(Path("reports", name, "history.csv"), history)
    remove(CHECKPOINTS / name)
    if trained is not model and not recipe.views:
        remove(cache)
    last = history[-1]
    print(
        ", ".join(
            f"{key.replace('_', ' ')} {value:.4f}"
            for key, value in last.items()
            if key != "epoch" and value is not None
        )
    )


def pretrained(name: str, recipe: Experiment) -> Path | None:
    """The file that the stage `weights` fetched, if the network starts from one."""
    if not getattr(recipe.network, "weights", None):
        return None
    file = next(Path("data/weights", name).glob("[!.]*"), None)
    if file is None:
        raise UserError(f"data/weights/{name} holds no weights: run dvc repro weights@{name}")
    return file


def write_history(path: Path, history: list[Any]) -> None:
    import pandas as pd

    columns = ["epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy"]
    with whole(path) as partial:
        pd.DataFrame(history).reindex(columns=columns).dropna(axis=1, how="all").to_csv(partial, index=False)


def fingerprint(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def code() -> list[str]:
    folder = Path(__file__).parent
    return [sha256(file) for pattern in CODE for file in sorted(folder.glob(pattern))]


if __name__ == "__main__":
    run(main)
