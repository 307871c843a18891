"""What a config says of optimization is what is done: each key against torch's own, or against the definition."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter, ValidationError
from things import ADAM, CLASSES, DROPOUT, batches, config, digest, everything, fit, fresh
from things import one_thread as one_thread
from things import packed as packed
from torch import Tensor, nn
from torch.optim import lr_scheduler

from pipeline.config.experiments import Experiment, OptimizerConfig, Schedule
from pipeline.config.networks import Network
from pipeline.dataset.augmentation import mix
from pipeline.dataset.packed import PackedDataset
from pipeline.evaluation import inference
from pipeline.networks import Shape, build
from pipeline.networks.layers import BackboneClassifier
from pipeline.system.console import UserError
from pipeline.training import losses, optimizers
from pipeline.training.batching import epoch_batches
from pipeline.training.distributed import ALONE
from pipeline.training.features import Features
from pipeline.training.optimizers import Muon, blocks, blocks_behind, make_optimizers, restore, set_lr
from pipeline.training.schedule import lr_factor
from pipeline.training.trainer import Row, Trainer

STEPS = 50
pytestmark = pytest.mark.usefixtures("one_thread")


# --- Optimizers ------------------------------------------------------------------------------------------------------


def three_layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))


def rates(model: nn.Module, described: Any) -> dict[str, float]:
    """Learning rate of every weight, by its name."""
    names = {id(weight): name for name, weight in model.named_parameters()}
    made = make_optimizers(model, described)
    return {
        names[id(weight)]: group["lr"] for each in made for group in each.param_groups for weight in group["params"]
    }


def test_layer_decay_lowers_the_lr_from_block_to_block() -> None:
    found = rates(three_layers(), OptimizerConfig(name="sgd", lr=0.8, layer_decay=0.5))
    assert found["4.weight"] == found["4.bias"] == 0.8
    assert found["3.weight"] == 0.4
    assert found["2.weight"] == 0.2
    assert found["0.weight"] == found["0.bias"] == 0.1


def test_biases_and_norms_decay_only_where_they_are_told_to() -> None:
    model = three_layers()
    names = {id(weight): name for name, weight in model.named_parameters()}
    for decays in (True, False):
        (made,) = make_optimizers(model, OptimizerConfig(name="adamw", lr=0.1, weight_decay=0.3, decay_biases=decays))
        decay = {names[id(each)]: group["weight_decay"] for group in made.param_groups for each in group["params"]}
        small = {name for name in decay if name.endswith("bias") or name.startswith("3.")}
        assert {name for name, value in decay.items() if value == 0.3} == set(decay) - (set() if decays else small)
        assert {name for name, value in decay.items() if value == 0} == (set() if decays else small)


def test_biases_have_an_lr_of_their_own_and_decay_no_faster() -> None:
    model = three_layers()
    names = {id(weight): name for name, weight in model.named_parameters()}
    (made,) = make_optimizers(
        model, OptimizerConfig(name="sgd", lr=0.1, bias_lr=0.8, weight_decay=0.4, layer_decay=0.5)
    )
    found = {names[id(each)]: group for group in made.param_groups for each in group["params"]}
    assert (found["4.weight"]["lr"], found["4.bias"]["lr"], found["3.weight"]["lr"]) == (0.1, 0.8, 0.4)
    assert {
        group["lr"] * group["weight_decay"] * 2 ** {"0": 3, "2": 2, "3": 1, "4": 0}[name[0]]
        for name, group in found.items()
    } == {0.1 * 0.4}
    spared = OptimizerConfig(name="sgd", lr=0.1, bias_lr=0.8, weight_decay=0.4, decay_biases=False)
    assert {group["lr"]: group["weight_decay"] for group in make_optimizers(model, spared)[0].param_groups} == {
        0.1: 0.4,
        0.8: 0.0,
    }


def test_muon_takes_the_matrices_between_the_first_and_the_last() -> None:
    model = three_layers()
    muon, adamw = make_optimizers(model, OptimizerConfig(name="muon", lr=0.02, weight_decay=0.1, momentum=0.9))
    assert isinstance(muon, torch.optim.Muon) and isinstance(adamw, torch.optim.AdamW)
    assert [weight.shape for group in muon.param_groups for weight in group["params"]] == [(6, 5)]
    assert sum(len(group["params"]) for group in adamw.param_groups) == 7


def test_muon_leaves_tokens_and_embeddings_to_the_rest() -> None:
    network = {"name": "timm", "model": "vit_tiny_patch16_224"}
    model = build(TypeAdapter(Network).validate_python(network), Shape(3, 224, 224, 2))
    found = make_optimizers(model, OptimizerConfig(name="muon", lr=0.02))
    assert isinstance(found[0], Muon)
    taken = {id(weight) for weight, _ in found[0].weights}
    names = {name for name, weight in model.named_parameters() if id(weight) in taken}
    others = {name for name, weight in model.named_parameters() if weight.ndim > 1} - names
    assert {name.rpartition(".")[2] for name in others} == {"cls_token", "pos_embed", "weight"}
    assert len(names) == 12 * 4 and len(others) == 4  # attention and perceptron of twelve blocks


def test_the_head_of_a_frozen_backbone_trains_alike_with_and_without_kept_features() -> None:
    network = {"name": "torchvision", "model": "squeezenet1_1", "freeze": True, "head": {"hidden": [9, 7]}}
    model = build(TypeAdapter(Network).validate_python(network), Shape(3, 64, 64, 2))
    assert isinstance(model, BackboneClassifier)
    described = OptimizerConfig(name="adamw", lr=0.8, layer_decay=0.5)
    whole, head = rates(model, described), rates(model.head, described)
    assert whole == {f"head.{name}": lr for name, lr in head.items()} and set(head.values()) == {0.2, 0.4, 0.8}


@pytest.mark.parametrize(
    ("more", "shuffled"),
    [({}, False), ({"grad_accum_steps": 2}, True), ({"augment": {"mixup": 0.2}}, True)],
)
def test_the_order_within_one_batch_is_drawn_where_it_matters(
    packed: PackedDataset, more: dict[str, Any], shuffled: bool
) -> None:
    data = batches(packed, "train")
    ((batch, _, size),) = epoch_batches(data, config(batch_size="full", **more), [0], 1, 1, ALONE)
    assert size == len(data) and batch.labels.equal(data.labels) != shuffled
    assert batch.labels.sort().values.equal(data.labels.sort().values)


def test_rest_trains_what_muon_does_not() -> None:
    model = three_layers()
    sgd = {"name": "sgd", "lr": 1.5, "bias_lr": 3.0, "momentum": 0.85, "nesterov": True}
    described = OptimizerConfig.model_validate({"name": "muon", "lr": 0.2, "ns_steps": 3, "rest": sgd})
    muon, rest = make_optimizers(model, described)
    assert isinstance(rest, torch.optim.SGD) and rest.defaults["nesterov"] and rest.defaults["momentum"] == 0.85
    assert muon.param_groups[0]["ns_steps"] == 3
    of_lr = {group["lr"]: {id(weight) for weight in group["params"]} for group in rest.param_groups}
    assert of_lr[1.5] == {id(model[0].weight), id(model[4].weight)}
    assert of_lr[3.0] == {id(weight) for weight in model.parameters() if weight.ndim == 1}
    set_lr([muon, rest], 0.5)
    assert [group["lr"] for group in muon.param_groups] == [0.1] and rest.param_groups[0]["lr"] == 0.75


def test_normalized_weights_make_the_lr_of_muon_the_relative_size_of_a_step(packed: PackedDataset) -> None:
    """Whatever the scale of the weights, which batch norm cancels."""
    network = {"name": "cnn", "convolutions": [6, 6, 6], "padding": 1, "pool": 1, "batch_norm": True}
    described = OptimizerConfig(name="muon", lr=0.1, momentum=0.6, normalize_weights=True)
    images, labels = everything(batches(packed, "train"))
    stepped = []
    for scale in (1, 100):
        model = fresh(packed, config(network=network))
        convolution = [each for each in model.modules() if isinstance(each, nn.Conv2d)][1]
        with torch.no_grad():
            convolution.weight.mul_(scale)
        start = convolution.weight.detach() / convolution.weight.norm() * 6**0.5
        F.cross_entropy(model(images), labels).backward()
        optimizers.step(make_optimizers(model, described))
        weight = convolution.weight.detach()
        assert ((weight - start).norm() / start.norm()).item() == pytest.approx(0.1, rel=0.2)  # Muon's step is inexact
        stepped.append(weight)
    assert (stepped[0] - stepped[1]).norm() < 0.01 * stepped[0].norm()


def test_muon_wants_layers_between_the_first_and_the_last(packed: PackedDataset, tmp_path: Path) -> None:
    for hidden in ([], [12]):
        described = {"network": {"name": "mlp", "hidden": hidden}, "optimizer": {"name": "muon", "lr": 0.02}}
        with pytest.raises(UserError, match=r"optimizer\.name = 'muon' .* a deeper network, or adamw"):
            fit(packed, tmp_path / "a.pt", **described)


def test_muon_takes_filters_as_matrices(packed: PackedDataset, tmp_path: Path) -> None:
    network = {"name": "cnn", "convolutions": [3, 4], "padding": 1, "hidden": []}
    described = {"name": "muon", "lr": 0.02, "momentum": 0.9}
    model, _ = fit(packed, tmp_path / "a.pt", optimizer=described, network=network, epochs=1, batch_size="full")
    usual = fresh(packed, config(network=network))
    images, labels = everything(batches(packed, "train"))
    F.cross_entropy(usual(images), labels).backward()
    before = usual[3].weight.detach().clone()
    matrix = nn.Parameter(before.clone().flatten(1))
    matrix.grad = usual[3].weight.grad.flatten(1)
    torch.optim.Muon([matrix], lr=0.02, momentum=0.9, weight_decay=0, adjust_lr_fn="match_rms_adamw").step()
    moved = (matrix.view_as(before) - before).norm()
    assert (model[3].weight - matrix.view_as(before)).norm() < 0.05 * moved  # Muon computes in bfloat16


@pytest.mark.parametrize(("momentum", "used"), [({}, 0.95), ({"momentum": 0.0}, 0.0), ({"momentum": 0.6}, 0.6)])
def test_muon_steps_as_torchs_own(
    packed: PackedDataset, tmp_path: Path, momentum: dict[str, float], used: float
) -> None:
    described = {"name": "muon", "lr": 0.02, "weight_decay": 0.1, **momentum}
    network = {"name": "mlp", "hidden": [12, 10]}
    model, _ = fit(packed, tmp_path / "a.pt", optimizer=described, network=network, epochs=3, batch_size="full")
    usual = fresh(packed, config(network=network))
    options = {"lr": 0.02, "weight_decay": 0.1}
    muon = torch.optim.Muon([usual[3].weight], momentum=used, adjust_lr_fn="match_rms_adamw", **options)
    rest = [weight for weight in usual.parameters() if weight is not usual[3].weight]
    adamw = torch.optim.AdamW(rest, **options)
    images, labels = everything(batches(packed, "train"))
    for _ in range(3):
        usual.zero_grad()
        F.cross_entropy(usual(images), labels).backward()
        muon.step()
        adamw.step()
    for ours, theirs in zip(model.parameters(), usual.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)


def test_muon_does_not_depend_on_the_order_in_memory(packed: PackedDataset) -> None:
    """On a GPU, filters are in channels_last order."""
    described = OptimizerConfig(name="muon", lr=0.02)
    network = {"name": "cnn", "convolutions": [3, 4, 5], "padding": 1, "pool": 1}
    images, labels = everything(batches(packed, "train"))
    trained = []
    for order in (torch.contiguous_format, torch.channels_last):
        model = fresh(packed, config(network=network)).to(memory_format=order)
        assert model[2].weight.is_contiguous(memory_format=order)
        made = make_optimizers(model, described)
        for _ in range(3):
            model.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizers.step(made)
        trained.append(model)
    start = fresh(packed, config(network=network))
    for first, second, before in zip(*(model.parameters() for model in (*trained, start)), strict=True):
        assert (first - second).norm() < 0.02 * (first - before).norm()  # Muon computes in bfloat16


def test_rates_that_a_graph_reads_outlive_a_resumption() -> None:
    """It would go on reading the tensor that it has captured."""
    model, described = three_layers(), OptimizerConfig(name="adam", lr=0.5)
    (held,) = make_optimizers(model, described)
    set_lr([held], 0.1)
    (resumed,) = make_optimizers(model, described, capturable=True)
    rates_before = [group["lr"] for group in resumed.param_groups]
    restore(resumed, held.state_dict())
    assert all(group["lr"] is rate for group, rate in zip(resumed.param_groups, rates_before, strict=True))
    set_lr([resumed], 0.2)
    assert [rate.item() for rate in rates_before] == [pytest.approx(0.1)] * len(rates_before)


def test_what_is_in_no_block_counts_to_the_first() -> None:
    model = three_layers()
    model.token = nn.Parameter(torch.zeros(1))
    behind = blocks_behind(model)
    assert behind[id(model.token)] == behind[id(model[0].weight)] == 3
    assert rates(model, OptimizerConfig(name="sgd", lr=0.8, layer_decay=0.5))["token"] == 0.1


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "adam", "lr": 0.1, "momentum": 0.5},
        {"name": "muon", "lr": 0.1, "nesterov": True, "momentum": 0.5},
        {"name": "muon", "lr": 0.1, "rest": {"name": "muon", "lr": 0.1}},
        {"name": "adamw", "lr": 0.1, "normalize_weights": True},
        {"name": "sgd", "lr": 0.1, "rest": {"name": "adamw", "lr": 0.1}},
        {"name": "sgd", "lr": 0.1, "bias_lr": 0},
        {"name": "sgd", "lr": 0.1, "layer_decay": 0},
        {"name": "sgd", "lr": 0.1, "layer_decay": 1.5},
    ],
)
def test_optimizers_refuse_what_is_not_theirs(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        OptimizerConfig.model_validate(wrong)


# --- Schedules -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "usual"),
    [
        (Schedule(), lambda made: lr_scheduler.ConstantLR(made, factor=1)),
        (Schedule(name="cosine"), lambda made: lr_scheduler.CosineAnnealingLR(made, STEPS)),
        (Schedule(name="linear"), lambda made: lr_scheduler.LinearLR(made, 1, 1e-9, STEPS)),
    ],
)
def test_schedules_are_torchs(schedule: Any, usual: Callable[[Any], Any]) -> None:
    model = three_layers()
    theirs = torch.optim.SGD(model.parameters(), lr=0.3)
    ours = make_optimizers(model, OptimizerConfig(name="sgd", lr=0.3))
    scheduler = usual(theirs)
    for step in range(STEPS):
        set_lr(ours, lr_factor(schedule, step / STEPS))
        assert ours[0].param_groups[0]["lr"] == pytest.approx(theirs.param_groups[0]["lr"], abs=1e-6)
        theirs.step()
        scheduler.step()


def test_one_cycle_is_torchs_up_to_where_it_counts_its_steps_from() -> None:
    schedule = Schedule.model_validate({"name": "one_cycle"})
    assert schedule.warmup == 0.3
    model, count = three_layers(), 20_000
    theirs = torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler = lr_scheduler.OneCycleLR(theirs, max_lr=1.0, total_steps=count, cycle_momentum=False)
    for step in range(count):
        if step % 500 == 0:
            assert lr_factor(schedule, step / count) == pytest.approx(theirs.param_groups[0]["lr"], abs=1e-3)
        theirs.step()
        scheduler.step()


@pytest.mark.parametrize("name", ["constant", "linear", "cosine", "one_cycle"])
def test_warm_up_rises_to_the_whole_lr_and_every_step_has_one(name: Any) -> None:
    schedule = Schedule(name=name, warmup=0.25)
    rates = [lr_factor(schedule, step / STEPS) for step in range(STEPS)]
    top = math.ceil(0.25 * STEPS)
    assert all(earlier < later for earlier, later in itertools.pairwise(rates[:top]))
    assert all(earlier >= later for earlier, later in itertools.pairwise(rates[top:]))
    assert max(rates) <= 1 and rates[top] > 0.95 and min(rates) >= 0


def test_lr_follows_the_schedule_in_every_step(packed: PackedDataset, tmp_path: Path) -> None:
    """Gradient 1 everywhere: what a weight moves by is its learning rate."""

    class Slope(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))
            self.seen: list[float] = []

        def forward(self, images: Tensor) -> Tensor:
            if self.training:
                self.seen.append(self.weight.item())
            logits = torch.zeros(len(images), 3)
            return logits + (self.weight - self.weight.detach()) * 0 + Steep.apply(self.weight)

    class Steep(torch.autograd.Function):
        """Nothing, with a gradient of one."""

        @staticmethod
        def forward(ctx: Any, weight: Tensor) -> Tensor:
            return weight * 0

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return torch.ones(1)

    model = Slope()
    described = config(epochs=2, optimizer={"name": "sgd", "lr": 0.4}, schedule={"name": "linear"})
    Trainer(model, described, batches(packed, "train"), None, 1, tmp_path / "saved.pt").fit()
    moved = -np.diff([*model.seen, model.weight.item()])
    assert moved == pytest.approx([0.4 * (1 - step / 8) for step in range(8)], rel=1e-5)


# --- The loss --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("l1", "l2", "biases"), [(0.3, 0, True), (0, 0.2, True), (0.3, 0.2, False)])
def test_gradient_of_the_regularization_against_finite_differences(l1: float, l2: float, biases: bool) -> None:
    model = three_layers().double()
    described = config(regularization={"l1": l1, "l2": l2, "biases": biases}).regularization
    value = losses.regularization_loss(model, described)
    assert value is not None
    value.backward()
    for name, weight in model.named_parameters():
        found = torch.zeros_like(weight) if weight.grad is None else weight.grad
        for index in range(min(3, weight.numel())):
            if not weight.view(-1)[index]:
                continue  # |w| has no derivative at 0
            expected = 0.0
            for sign in (1, -1):
                with torch.no_grad():
                    weight.view(-1)[index] += sign * 1e-6
                    expected += sign * losses.regularization_loss(model, described).item() / 2e-6
                    weight.view(-1)[index] -= sign * 1e-6
            assert found.view(-1)[index].item() == pytest.approx(expected, abs=1e-6), name
            assert bool(expected) == (biases or not name.endswith("bias"))


def test_label_smoothing_and_class_weights(packed: PackedDataset, tmp_path: Path) -> None:
    labels = torch.tensor([CLASSES.index(label) for label in packed.table.label[:31]])
    counts = torch.bincount(labels)
    for more, weights in (
        ({"label_smoothing": 0.2}, None),
        ({"class_weights": "balanced"}, 31 / (3 * counts)),
        ({"class_weights": "balanced", "label_smoothing": 0.1}, 31 / (3 * counts)),
    ):
        _, history = fit(packed, tmp_path / f"{sorted(more)}.pt", batch_size="full", epochs=1, **more)
        images, _ = everything(batches(packed, "train"))
        logits = fresh(packed, config())(images)
        smoothing = more.get("label_smoothing", 0.0)
        expected = F.cross_entropy(logits, labels, weights, label_smoothing=smoothing, reduction="sum") / 31
        assert history[0]["train_loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_balanced_weights_do_not_depend_on_classes_without_images() -> None:
    weights = losses.class_weights(config(class_weights="balanced"), torch.tensor([0, 0, 0, 2]), 3)
    assert weights is not None
    assert weights.tolist() == pytest.approx([4 / 6, 0, 2])


@pytest.mark.parametrize("how", ["mixup", "cutmix"])
def test_loss_of_mixed_images_counts_both_labels(packed: PackedDataset, tmp_path: Path, how: str) -> None:
    described = config(augment={how: 1.0}, batch_size="full", epochs=1, shuffle=False)
    model, data = fresh(packed, described), batches(packed, "train")
    images, labels = everything(data)
    mixed, share = mix(images, images.flip(0), described.augment, data.draw(described.augment, seed=1, epoch=1))
    assert share.min() < 0.5 < share.max()
    logits = model(mixed)
    own, other = (F.cross_entropy(logits, of, reduction="none") for of in (labels, labels.flip(0)))
    expected = (share * own + (1 - share) * other).mean().item()
    history = Trainer(model, described, data, None, 1, tmp_path / "saved.pt").fit()
    assert history[0]["train_loss"] == pytest.approx(expected, rel=1e-5)


def test_clipped_gradients(packed: PackedDataset, tmp_path: Path) -> None:
    norms = []
    for clip in (None, 0.01):
        described = {"name": "sgd", "lr": 1.0}
        model, _ = fit(
            packed, tmp_path / f"{clip}.pt", grad_clip=clip, epochs=1, batch_size="full", optimizer=described
        )
        before = fresh(packed, config())
        moved = [(new - old).flatten() for new, old in zip(model.parameters(), before.parameters(), strict=True)]
        norms.append(torch.cat(moved).norm().item())
    assert norms[0] > 0.1
    assert norms[1] == pytest.approx(0.01, rel=1e-3)


# --- Parts of batches ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [{}, {"regularization": {"l1": 0.01}}, {"grad_clip": 0.1}, {"label_smoothing": 0.1}])
def test_parts_of_a_batch_add_up(packed: PackedDataset, tmp_path: Path, more: dict[str, Any]) -> None:
    at_once, history = fit(packed, tmp_path / "a.pt", grad_accum_steps=1, **more)
    for parts in (2, 3, 8):
        model, same = fit(packed, tmp_path / f"{parts}.pt", grad_accum_steps=parts, **more)
        for ours, theirs in zip(model.parameters(), at_once.parameters(), strict=True):
            assert torch.allclose(ours, theirs, atol=1e-5)
        assert [row["val_loss"] for row in same] == pytest.approx([row["val_loss"] for row in history], rel=1e-4)


class Hungry(nn.Module):
    """Needs more memory than there is for more than `most` images, after `spared` forward passes."""

    def __init__(self, most: int, spared: int) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.last = nn.Linear(90, 5), nn.Linear(5, 3)
        self.most, self.spared = most, spared

    def forward(self, images: Tensor) -> Tensor:
        self.spared -= 1
        if len(images) > self.most and self.spared < 0:
            torch.empty(2**60)
        return self.last(self.first(images.flatten(1)).relu())


@pytest.mark.parametrize(
    ("steps", "spared", "said"),
    [
        (1, 6, "a batch of 8 with grad_accum_steps = 1: set grad_accum_steps above 1 or a smaller batch_size"),
        (2, 0, "a batch of 8 with grad_accum_steps = 2: set grad_accum_steps above 2 or a smaller batch_size"),
        (8, 0, "a batch of 8 with grad_accum_steps = 8: set a smaller network"),
    ],
)
def test_memory_that_runs_out_is_an_error_that_says_what_to_set(
    packed: PackedDataset, tmp_path: Path, steps: int, spared: int, said: str
) -> None:
    """Weights never depend on how much memory there was."""
    described = config(epochs=3, grad_accum_steps=steps)
    with pytest.raises(UserError, match=f"not enough memory for {said}"):
        Trainer(Hungry(0, spared), described, batches(packed, "train"), None, 1, tmp_path / "saved.pt").fit()
    assert (tmp_path / "saved.pt").exists() == bool(spared)  # the epochs before that can be gone on from


def test_memory_that_runs_out_without_gradients_asks_for_no_smaller_batch(
    packed: PackedDataset, tmp_path: Path
) -> None:
    train, val = batches(packed, "train"), batches(packed, "val")
    advice = "free some, or take a smaller network or smaller images"
    in_training = math.ceil(len(train) / 8)
    with pytest.raises(UserError, match=f"not enough memory for the validation images: {advice}"):
        Trainer(Hungry(0, in_training), config(), train, val, 1, tmp_path / "a.pt").fit()
    head, frozen = nn.Linear(3, 3), config()
    features = Features(Hungry(0, 0), train, frozen, 1, tmp_path / "features")
    with pytest.raises(UserError, match=f"not enough memory for the features of the backbone: {advice}"):
        Trainer(head, frozen, features, None, 1, tmp_path / "b.pt").fit()


def test_a_number_of_parts_is_asked_for() -> None:
    with pytest.raises(ValidationError, match="grad_accum_steps"):
        config(grad_accum_steps="auto")
    assert config().grad_accum_steps == 1


def test_more_parts_than_images() -> None:
    with pytest.raises(ValidationError, match="grad_accum_steps = 9 parts of batch_size = 8"):
        config(grad_accum_steps=9)


# --- What is kept ----------------------------------------------------------------------------------------------------


def test_ema_of_the_weights(packed: PackedDataset, tmp_path: Path) -> None:
    averaged, history = fit(packed, tmp_path / "a.pt", ema=0.2, network=DROPOUT, batch_size="full", epochs=3)
    expected = copy.deepcopy(fresh(packed, config(network=DROPOUT)))
    for epochs, decay in enumerate((1 / 10, 2 / 11, 0.2), start=1):
        model, _ = fit(packed, tmp_path / f"{epochs}.pt", network=DROPOUT, batch_size="full", epochs=epochs)
        for average, value in zip(expected.state_dict().values(), model.state_dict().values(), strict=True):
            if average.is_floating_point():
                average.mul_(decay).add_((1 - decay) * value)
    for name, value in averaged.state_dict().items():
        if value.is_floating_point():
            assert torch.allclose(value, expected.state_dict()[name], atol=1e-6), name
    loss, _ = inference.evaluate(averaged, batches(packed, "val"))
    assert history[-1]["val_loss"] == pytest.approx(loss)  # it is the average that is validated


def test_best_epoch_is_kept_and_training_ends_when_nothing_gets_better(packed: PackedDataset, tmp_path: Path) -> None:
    steep = {"name": "sgd", "lr": 0.9, "momentum": 0.9}  # wild enough to get worse
    _, all_of_it = fit(packed, tmp_path / "a.pt", optimizer=steep, epochs=12)
    losses = [row["val_loss"] for row in all_of_it]
    best = int(np.argmin(losses))
    assert 0 < best < 11
    model, history = fit(packed, tmp_path / "b.pt", optimizer=steep, epochs=12, checkpoint="best")
    assert history == all_of_it
    assert inference.evaluate(model, batches(packed, "val"))[0] == losses[best]
    ends = next(number for number in range(12) if number - int(np.argmin(losses[: number + 1])) >= 2)
    _, shorter = fit(packed, tmp_path / "c.pt", optimizer=steep, epochs=12, patience=2)
    assert shorter == all_of_it[: ends + 1]


@pytest.mark.parametrize("chooses", [{"checkpoint": "best"}, {"patience": 3}])
def test_choosing_needs_validation_images(chooses: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="picks on validation images"):
        config(train_on_val=True, **chooses)


def test_everything_survives_an_interruption(packed: PackedDataset, tmp_path: Path) -> None:
    described = {
        "network": DROPOUT, "optimizer": {**ADAM, "layer_decay": 0.5}, "epochs": 5, "ema": 0.9, "checkpoint": "best",
        "schedule": {"name": "one_cycle"}, "patience": 4, "unfreeze_every": 1, "grad_clip": 1.0,
    }  # fmt: skip
    expected, history = fit(packed, tmp_path / "a.pt", **described)
    experiment = config(**described)

    def stop(rows: list[Row]) -> None:
        if len(rows) == 3:
            raise KeyboardInterrupt

    trained, validation = batches(packed, "train"), batches(packed, "val")
    with pytest.raises(KeyboardInterrupt):
        Trainer(fresh(packed, experiment), experiment, trained, validation, 1, tmp_path / "b.pt").fit(stop)
    model = fresh(packed, experiment)
    assert Trainer(model, experiment, trained, validation, 1, tmp_path / "b.pt").fit() == history
    assert digest(model) == digest(expected)


# --- Some of the network ---------------------------------------------------------------------------------------------


def test_blocks_unfreeze_from_the_head_on(packed: PackedDataset, tmp_path: Path) -> None:
    described = {"network": {"name": "mlp", "hidden": [8, 7]}, "unfreeze_every": 2, "optimizer": ADAM}
    start = fresh(packed, config(**described))
    assert len(blocks(start)) == 3
    for epochs, moved in ((1, [2]), (2, [2]), (3, [1, 2]), (5, [0, 1, 2])):
        model, _ = fit(packed, tmp_path / f"{epochs}.pt", epochs=epochs, **described)
        changed = [
            number
            for number, (old, new) in enumerate(zip(blocks(start), blocks(model), strict=True))
            if not all(one.equal(other) for one, other in zip(old.parameters(), new.parameters(), strict=True))
        ]
        assert changed == moved


def test_what_never_trains_does_not_unfreeze(packed: PackedDataset, tmp_path: Path) -> None:
    described = {"network": {"name": "mlp", "hidden": [8, 7]}, "unfreeze_every": 1}
    model = fresh(packed, config(**described))
    still = blocks(model)[1].weight.requires_grad_(False)
    before = still.clone()
    Trainer(model, config(**described, epochs=3), batches(packed, "train"), None, 1, tmp_path / "a.pt").fit()
    assert still.equal(before) and not still.requires_grad
    assert blocks(model)[0].weight.grad is not None


def test_statistics_of_frozen_norms_stay(packed: PackedDataset, tmp_path: Path) -> None:
    model, _ = fit(packed, tmp_path / "a.pt", network=DROPOUT, unfreeze_every=2, epochs=2)
    norm = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    assert norm.num_batches_tracked.item() == 0
    assert norm.running_mean.abs().max().item() == 0


def test_blocks_of_a_pretrained_network() -> None:
    from pipeline.networks import Shape, build

    described = config(network={"name": "torchvision", "model": "resnet18", "head": {"hidden": [4]}})
    model = build(described.network, Shape(3, 32, 32, 2))
    names = {id(module): name for name, module in model.named_modules()}
    assert [names[id(block)] for block in blocks(model)] == [
        "backbone.conv1", "backbone.bn1", *(f"backbone.layer{number}" for number in (1, 2, 3, "4.0", "4.1")), "head",
    ]  # fmt: skip


# --- Precision, views ----------------------------------------------------------------------------------------------


def test_half_precision_is_near_and_keeps_whole_weights(packed: PackedDataset, tmp_path: Path) -> None:
    exact, history = fit(packed, tmp_path / "a.pt", network=DROPOUT)
    model, near = fit(packed, tmp_path / "b.pt", network=DROPOUT, precision="bf16")
    assert digest(model) != digest(exact)
    assert all(weight.dtype == torch.float32 for weight in model.parameters())
    assert near[-1]["train_loss"] == pytest.approx(history[-1]["train_loss"], abs=0.05)


@pytest.mark.parametrize("tta", [True, "flip_and_shift"])
def test_every_view_has_its_say(packed: PackedDataset, tmp_path: Path, tta: Any) -> None:
    model, history = fit(packed, tmp_path / "a.pt", tta=tta)
    images, labels = everything(batches(packed, "val"))
    padded = F.pad(images, [1] * 4, mode="reflect")
    upper_left, lower_right = padded[:, :, :-2, :-2], padded[:, :, 2:, 2:]
    views = [images, upper_left, lower_right] if tta == "flip_and_shift" else [images]
    with torch.no_grad():
        plain, *moved = ((model(view) + model(view.flip(-1))) / 2 for view in views)
    logits = (2 * plain + sum(moved)) / (2 + len(moved))
    assert history[-1]["val_loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    expected = logits.log_softmax(1)
    given = inference.answers(model, batches(packed, "val"), tta)
    assert torch.allclose(given.log_truth, expected.gather(1, labels[:, None]).squeeze(1), atol=1e-5)
    assert given.predicted.equal(expected.argmax(1))


def test_compiled_network_trains_alike(packed: PackedDataset, tmp_path: Path) -> None:
    expected, history = fit(packed, tmp_path / "a.pt", epochs=1)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    model, near = fit(packed, tmp_path / "b.pt", epochs=1, compile=True)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > graphs
    assert near[-1]["train_loss"] == pytest.approx(history[-1]["train_loss"], abs=1e-5)
    assert list(model.state_dict()) == list(expected.state_dict())  # no `_orig_mod.`


@pytest.mark.parametrize(
    "wrong",
    [
        {"views": 2},
        {
            "views": 2,
            "augment": {"mixup": 0.2},
            "network": {"name": "torchvision", "model": "alexnet", "freeze": True},
        },
        {"optimizer": {"name": "muon", "lr": 0.02, "bias_lr": 0.1, "rest": {"name": "adamw", "lr": 0.001}}},
        {"unfreeze_every": 1, "network": {"name": "torchvision", "model": "alexnet", "freeze": True}},
    ],
)
def test_keys_that_do_not_go_with_the_network(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Experiment.model_validate({**config().model_dump(), **wrong})
