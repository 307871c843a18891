"""Stage `train`: train the network of one experiment and save it as safetensors."""

from __future__ import annotations

from pipeline.system.entry import parse_name

import csv
import hashlib
import json
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import params
from pipeline.system.console import UserError, run, say
from pipeline.system.lock import alone
from pipeline.system.outputs import atomic_write, remove, write_json
from pipeline.training import live

if TYPE_CHECKING:
    from torch import nn

    from pipeline.config.experiments import Experiment
    from pipeline.training.distributed import Group
    from pipeline.training.trainer import Trainer

CHECKPOINTS = Path(".checkpoints")
# what decides the result, beside data and params
CODE = ("train.py", "dataset/**/*.py", "evaluation/inference.py", "networks/*.py", "training/*.py")


def main() -> None:
    name = parse_name("train", "EXPERIMENT", __doc__)
    everything = params.load()
    config, seed = everything.experiment(name), everything.seed_of(name)

    from pipeline.training import distributed

    with alone(f"train@{name}") if distributed.writes(config.compute) else nullcontext():
        distributed.run(config.compute, train, name, config, seed)


def train(name: str, config: Experiment, seed: int, group: Group) -> None:
    """Train as one of a group of processes, the first of which writes the outputs."""
    import torch
    from safetensors.torch import save

    from pipeline.dataset.packed import PackedDataset
    from pipeline.training.trainer import Trainer

    packed_folder, weights = Path("data/packed", config.dataset), pretrained(name, config)
    packed = PackedDataset(packed_folder)
    if not group.local_rank:  # one process on each machine
        packed.verify()
    engine = Trainer(packed, config, weights, group)
    files = [packed_folder / "meta.json", packed_folder / "index.parquet", *([weights] if weights else [])]
    inputs = [config.model_dump(mode="json"), seed, [sha256(file) for file in files], code()]
    environment = [engine.device.type, engine.threads, torch.__version__]
    identity = fingerprint(name, inputs)
    group.check_all_equal(fingerprint(identity, environment))
    # what features are made of, so that every head on the same ones finds them
    parts = dict.fromkeys(("normalize", "augment", "precision", "train_on_val", "train_fraction"), True)
    made_of = config.model_dump(mode="json", include={"network": {"backbone"}, **parts})

    histories, states = [], {}
    with live.Logger(name, identity) as logger:
        for number in range(config.seeds):
            model = engine.network(seed + number)
            if not number:
                about = describe(model, engine)
                trainable, all_ = about["trainable_parameters"], about["parameters"]
                say(f"{name}: {trainable:,} of {all_:,} parameters, {engine}")
            saved = CHECKPOINTS / name / f"{fingerprint(identity, environment, number)}.pt"
            owner = None if config.views else name
            features = CHECKPOINTS / f"features@{fingerprint(made_of, seed + number, inputs[2:], environment, owner)}"
            watch = {} if number else {"on_epoch": logger.log}
            histories.append(engine.fit(model, seed + number, saved, features, **watch))
            if not config.views and not group.rank:
                remove(features)
            file = f"seed-{seed + number}.safetensors" if number else "model.safetensors"
            states[file] = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
            print_row(histories[-1][-1])
    if group.rank:
        return

    with atomic_write(Path("models", name)) as folder:
        folder.mkdir()
        for file, state in states.items():
            # `save_file` makes a file that only its owner may read, whatever the umask
            (folder / file).write_bytes(save(state))
        write_json(folder / "model.json", {"experiment": name, **about, "fingerprint": identity})
    write_history(Path("reports", name, "history.csv"), histories[0])
    remove(CHECKPOINTS / name)


def describe(model: nn.Module, engine: Trainer) -> dict[str, Any]:
    """What prediction needs to know of a model beside its weights."""
    config, packed = engine.config, engine.packed
    preprocessing = {"mean": engine.mean, "std": engine.std, "tta": config.tta}
    return {
        "dataset": config.dataset,
        "network": config.network.model_dump(mode="json"),
        "shape": engine.shape._asdict(),
        "classes": packed.classes,
        "preprocessing": {**packed.meta["preprocessing"], **preprocessing},
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "trainable_parameters": sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
    }


def print_row(row: dict[str, Any]) -> None:
    shown = {key.replace("_", " "): value for key, value in row.items() if key != "epoch" and value is not None}
    say(", ".join(f"{key} {value:.4f}" for key, value in shown.items()))


def pretrained(name: str, config: Experiment) -> Path | None:
    """The file that the stage `weights` fetched, if the network starts from one."""
    if not getattr(config.network, "weights", None):
        return None
    file = next(Path("data/weights", name).glob("[!.]*"), None)
    if file is None:
        raise UserError(f"data/weights/{name} holds no weights: run dvc repro weights@{name}")
    return file


def write_history(path: Path, history: list[Any]) -> None:
    with atomic_write(path) as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(history[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)


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
