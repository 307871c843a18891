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
from pipeline.system import portable
from pipeline.system.console import UserError, run, say
from pipeline.system.lock import alone
from pipeline.system.outputs import atomic_write, remove, write_json
from pipeline.system.project import CHECKPOINTS
from pipeline.system.version import version
from pipeline.training import live

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pipeline.config.experiments import Experiment
    from pipeline.dataset.packed import PackedDataset
    from pipeline.training.data import TrainingData
    from pipeline.training.distributed import Group
    from pipeline.training.trainer import Row


def main() -> None:
    name = parse_name("train", "EXPERIMENT", __doc__)
    everything = params.load()
    config, seed = everything.experiment(name), everything.seed_of(name)
    if config.compute.portable:
        portable.pin_torch(name)

    from pipeline.training import distributed

    with alone(f"train@{name}") if distributed.writes(config.compute) else nullcontext():
        distributed.run(config.compute, train, name, config, seed)


def train(name: str, config: Experiment, seed: int, group: Group) -> None:
    """Train as one of a group of processes, the first of which writes the outputs."""
    import torch

    from pipeline.dataset.packed import PackedDataset
    from pipeline.evaluation.temperature import calibrate
    from pipeline.system.device import make_deterministic, select_device
    from pipeline.training import provenance, times
    from pipeline.training.data import TrainingData
    from pipeline.training.features import features_folder, remove_stale
    from pipeline.training.first_batch import FirstBatch
    from pipeline.training.model import has_small_steps, make_model
    from pipeline.training.trainer import Trainer
    from pipeline.training.trainings import trainings

    stopwatch = times.Stopwatch()
    packed = PackedDataset.of(config.dataset)
    weights = pretrained(name, config)
    if not group.local_rank:  # one process on each machine
        packed.verify()
    device, threads = select_device(config.compute, group.local_rank, has_small_steps(config, packed))
    make_deterministic(device, threads, config.precision, config.compute.portable)
    group.connect(device)

    inputs = provenance.inputs(name, config, seed, packed, weights)
    identity = fingerprint(inputs)
    environment = [device.type, threads, config.compute.portable]
    libraries = provenance.library_versions(config.network)
    code = fingerprint(version("dataset", "networks", "training", "evaluation"), libraries)
    group.check_all_equal(fingerprint(identity, environment, code))
    made_of = [backbone_settings(config), inputs["data"], environment]  # what features depend on

    first_batch = FirstBatch(packed.classes, group)
    histories, states, temperatures, normalizations = [], {}, {}, {}
    with live.Logger(name, identity, stopwatch) as logger:
        plan = trainings(config, seed, packed)
        for number, (file, own_seed, fold) in enumerate(plan):
            if fold is not None:
                data = TrainingData(packed.with_fold(fold), config, device, group)
            elif not number:
                data = TrainingData(packed, config, device, group)
            model = make_model(data, own_seed, weights)
            if number:
                which = f"seed {own_seed}" if fold is None else f"fold {fold}"
                say(f"{name}: {which}, training {number + 1} of {len(plan)}")
            else:
                about = describe(model, data)
                announce(name, model, data, threads)
            folder = CHECKPOINTS if config.views else CHECKPOINTS / name
            # a pretrained backbone gives the same features for every seed, unless the images are augmented
            random = weights is None or bool(data.train.draw(config.augment, seed, 1).numel())
            features = features_folder(folder, fingerprint(made_of, own_seed if random else None, fold), code)
            if not group.rank:
                remove_stale(features, shared=bool(config.views))
            checkpoint = CHECKPOINTS / name / f"{fingerprint(identity, environment, code, number)}.pt"
            trained, train_data, val_data = data.for_model(model, own_seed, features)
            shown = None if number else first_batch
            trainer = Trainer(trained, config, train_data, val_data, own_seed, checkpoint, group, stopwatch, shown)
            histories.append(trainer.fit(logger.log if not number else lambda history: None))
            # features of a frozen backbone know no other views of an image
            fitted, fitted_to = (model, data.val) if config.tta else (trained, val_data)
            if fitted_to is not None and not group.rank:
                temperatures[file] = calibrate(fitted, fitted_to, config.tta)
            normalizations[file] = {"mean": data.mean, "std": data.std}
            states[file] = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
            del trainer, train_data, val_data, fitted_to  # before the images of the next fold come into memory
        seconds = stopwatch.seconds()
    if group.rank:
        return

    about |= calibration(temperatures) | of_others(normalizations)
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    epochs = stopwatch.epochs[: len(histories[0])]
    train_time = times.TrainTime(stopwatch.start, seconds, gpu, threads, group.world_size, epochs)
    write_model(Path("models", name), {"experiment": name, **about}, states)
    write_history(Path("reports", name, "history.csv"), histories[0])
    first_batch.draw(Path("reports", name, "train_batch.png"))
    provenance.write(name, config.network, **inputs, fingerprint=identity)
    times.write(identity, train_time)
    remove(CHECKPOINTS / name)
    say(f"{name}: trained in {seconds:.1f} s")


def backbone_settings(config: Experiment) -> dict[str, Any]:
    """What the features of a frozen backbone depend on: every head on the same ones finds them."""
    keys = dict.fromkeys(("normalize", "augment", "precision", "train_on_val", "train_fraction"), True)
    return config.model_dump(mode="json", include={"network": {"name", "model", "replace"}, **keys})


def announce(name: str, model: nn.Module, data: TrainingData, threads: int) -> None:
    """Print the layers of the network, and what is trained on what."""
    from pipeline.training.model import parameter_counts, summary

    all_, trainable = parameter_counts(model)
    processes = data.group.world_size
    where = data.device if processes == 1 else f"{processes} × {data.device.type}"
    images = f"{len(data.train):,} images, on {where} ({threads} thread{'s' * (threads > 1)})"
    warn_of_other_images(name, data.config, data.packed)
    say(*summary(model), f"{name}: {trainable:,} of {all_:,} parameters, {images}")


def describe(model: nn.Module, data: TrainingData) -> dict[str, Any]:
    """What prediction needs to know of a model beside its weights."""
    from pipeline.training.model import parameter_counts

    config, packed = data.config, data.packed
    preprocessing = {"mean": data.mean, "std": data.std, "tta": config.tta}
    parameters, trainable = parameter_counts(model)
    return {
        "dataset": config.dataset,
        "network": config.network.model_dump(mode="json"),
        "shape": data.shape._asdict(),
        "classes": packed.classes,
        "preprocessing": {**packed.meta["preprocessing"], **preprocessing},
        "parameters": parameters,
        "trainable_parameters": trainable,
    }


def calibration(temperatures: dict[str, float]) -> dict[str, Any]:
    """What model.json says of the temperatures of its files of weights; nothing without validation images."""
    if not temperatures:
        return {}
    first, *others = temperatures.items()
    return {"temperature": first[1], **({"other_temperatures": dict(others)} if others else {})}


def of_others(normalizations: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    """What model.json says of the files of weights whose images are normalized in another way than those of the first:
    the training images of another fold have other statistics.
    """
    first = normalizations["model.safetensors"]
    others = {file: values for file, values in normalizations.items() if values != first}
    return {"other_normalizations": others} if others else {}


def warn_of_other_images(name: str, config: Experiment, packed: PackedDataset) -> None:
    """Say so where the data set is packed in another way than the images that the backbone learned from."""
    from pipeline.config.networks import BackboneConfig

    if not isinstance(config.network, BackboneConfig) or (expected := config.network.pretrained_on()) is None:
        return
    meta = packed.meta
    found = (meta["height"], meta["width"], meta["preprocessing"].get("interpolation", "bilinear"))
    if found != expected:
        described = ["{} × {} {}".format(*images) for images in (found, expected)]
        say(
            f"{name}: warning: {config.dataset} is packed as {described[0]} images, {config.network.model} was trained"
            f" on {described[1]} ones: see datasets.{config.dataset}.pack in params.yaml"
        )


def pretrained(name: str, config: Experiment) -> Path | None:
    """The file that the stage `weights` fetched, if the network starts from one."""
    if not getattr(config.network, "weights", None):
        return None
    file = next(Path("data/weights", name).glob("[!.]*"), None)
    if file is None:
        raise UserError(f"data/weights/{name} holds no weights: run dvc repro weights@{name}")
    return file


def write_model(folder: Path, about: dict[str, Any], states: dict[str, dict[str, Tensor]]) -> None:
    """Write model.json and a file of weights for each of `states`."""
    from safetensors.torch import save

    with atomic_write(folder) as partial:
        partial.mkdir()
        for file, state in states.items():
            # `save_file` makes a file that only its owner may read, whatever the umask
            (partial / file).write_bytes(save(state))
        write_json(partial / "model.json", about)


def write_history(path: Path, history: list[Row]) -> None:
    with atomic_write(path) as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(history[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)


def fingerprint(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


if __name__ == "__main__":
    run(main)
