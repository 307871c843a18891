"""Stage `train`: train the network of one experiment and save it as safetensors."""

from __future__ import annotations

from pipeline.system.entry import parse_name

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config import params
from pipeline.system import portable
from pipeline.system.console import first_few, run, say
from pipeline.system.lock import alone
from pipeline.system.outputs import remove
from pipeline.system.project import CHECKPOINTS
from pipeline.training import live

if TYPE_CHECKING:
    from torch import nn

    from pipeline.config.experiments import Experiment
    from pipeline.dataset.packed import PackedDataset
    from pipeline.training.data import TrainingData
    from pipeline.training.distributed import Group
    from pipeline.training.first_batch import FirstBatch
    from pipeline.training.outputs import Trained
    from pipeline.training.setup import Setup
    from pipeline.training.trainings import Training

NAMED = 5  # classes, in a message


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
    from pipeline.training import outputs, provenance, times
    from pipeline.training.data import TrainingData
    from pipeline.training.first_batch import FirstBatch
    from pipeline.training.model import make_model
    from pipeline.training.setup import prepare
    from pipeline.training.trainings import trainings

    setup = prepare(name, config, seed, group)
    packed = setup.packed
    first_batch = FirstBatch(packed.classes, group)
    plan = trainings(config, seed, packed)
    models: dict[str, Trained] = {}
    with live.Logger(name, setup.identity, setup.stopwatch) as logger:
        for number, training in enumerate(plan):
            if training.fold is not None:
                data = TrainingData(packed.with_fold(training.fold), config, setup.device, group)
            elif not number:
                data = TrainingData(packed, config, setup.device, group)
            model = make_model(data, training.seed, setup.weights)
            if number:
                say(f"{name}: {training.told}, training {number + 1} of {len(plan)}")
                models[training.file] = fit(setup, number, training, model, data)
            else:
                about = outputs.describe(model, data)
                announce(name, model, data, setup.threads)
                models[training.file] = fit(setup, number, training, model, data, first_batch, logger)
        history = models["model.safetensors"].history
        train_time = setup.train_time(len(history))
    if group.rank:
        return

    outputs.write_model(Path("models", name), {"experiment": name, **about}, models)
    outputs.write_history(Path("reports", name, "history.csv"), history)
    first_batch.draw(Path("reports", name, "train_batch.png"))
    provenance.write(name, config.network, **setup.inputs, fingerprint=setup.identity)
    times.write(setup.identity, train_time)
    remove(CHECKPOINTS / name)
    say(f"{name}: trained in {train_time.train_seconds:.1f} s")


def fit(
    setup: Setup,
    number: int,
    training: Training,
    model: nn.Module,
    data: TrainingData,
    first_batch: FirstBatch | None = None,
    logger: live.Logger | None = None,
) -> Trained:
    """Train one model, number `number` of its experiment, and calibrate it on its validation images."""
    from pipeline.evaluation.temperature import calibrate
    from pipeline.training.features import remove_stale
    from pipeline.training.outputs import Trained
    from pipeline.training.trainer import Trainer

    config, group = setup.config, setup.group
    features = setup.features(training, bool(data.train.draw(config.augment, setup.seed, 1).numel()))
    if not group.rank:
        remove_stale(features, shared=bool(config.views))
    trained, train_data, val_data = data.for_model(model, training.seed, features)
    checkpoint = setup.checkpoint(number)
    trainer = Trainer(
        trained, config, train_data, val_data, training.seed, checkpoint, group, setup.stopwatch, first_batch
    )
    history = trainer.fit(logger.log) if logger else trainer.fit()
    # features of a frozen backbone know no other views of an image
    fitted, fitted_to = (model, data.val) if config.tta else (trained, val_data)
    temperature = None if fitted_to is None or group.rank else calibrate(fitted, fitted_to, config.tta)
    weights = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    return Trained(history, weights, temperature, {"mean": data.mean, "std": data.std})


def announce(name: str, model: nn.Module, data: TrainingData, threads: int) -> None:
    """Print the layers of the network, and what is trained on what."""
    from pipeline.training.model import parameter_counts, summary

    all_, trainable = parameter_counts(model)
    processes = data.group.world_size
    where = data.device if processes == 1 else f"{processes} × {data.device.type}"
    classes = data.packed.classes
    images = f"{len(data.train):,} images of {len(classes)} classes ({first_few(classes, NAMED)})"
    on = f"on {where} ({threads} thread{'s' * (threads > 1)})"
    warn_of_other_images(name, data.config, data.packed)
    say(*summary(model), f"{name}: {trainable:,} of {all_:,} parameters, {images}, {on}")


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


if __name__ == "__main__":
    run(main)
