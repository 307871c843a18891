"""Networks: the published studies' sizes, every family of backbones, weights from files that may lie."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import REPOSITORY
from torch import nn
from torchvision import models

from pipeline import params
from pipeline.console import UserError
from pipeline.networks import Shape, build
from pipeline.networks.transfer import load_weights
from pipeline.recipes import Experiment

PHOTOS = Shape(channels=3, height=224, width=224, classes=2)
SQUEEZENET = "weights/squeezenet1_1-imagenet-features.pth"


def network(name: str, **more: Any) -> Any:
    optimizer = {"name": "adam", "lr": 0.001}
    entry = {"dataset": "any", "network": {"name": name, **more}, "optimizer": optimizer}
    return Experiment.model_validate({**entry, "epochs": 1, "batch_size": 1}).network


def transfer(backbone: str, **more: Any) -> Any:
    return network("transfer", backbone=backbone, **more)


def study(monkeypatch: pytest.MonkeyPatch, name: str) -> tuple[Any, Shape]:
    """Network and input of an experiment as the repository's params.yaml has them."""
    monkeypatch.chdir(REPOSITORY)
    everything = params.load()
    experiment = everything.experiment(name)
    dataset = everything.dataset(experiment.dataset)
    classes = 2 if experiment.dataset == "cats-dogs" else 10
    return experiment.network, Shape(dataset.channels, *dataset.height_width, classes)


def parameters(model: nn.Module, trained: bool = False) -> int:
    return sum(each.numel() for each in model.parameters() if each.requires_grad or not trained)


def kinds(model: nn.Module) -> list[type[nn.Module]]:
    return [type(module) for module in model.children()]


# --- The published studies -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("mnist-mlp", 105_214),
        ("mnist-gd", 79_510),
        ("fashion-mnist-mlp", 669_706),
        ("cifar10-sequential", 1_578_506),
        ("cifar10-mlp", 1_707_274),
        ("cifar10-sigmoid", 1_578_506),
        ("cifar10-weight-decay", 1_707_274),
        ("cifar10-l1", 1_707_274),
        ("cifar10-elastic-net", 1_707_274),
        ("cifar10-dropout", 1_578_506),
        ("cifar10-batchnorm", 1_578_506 + 2 * 512),
        ("cats-dogs-cnn", 5_610_222),
    ],
)
def test_studies_have_their_published_number_of_parameters(
    monkeypatch: pytest.MonkeyPatch, name: str, count: int
) -> None:
    described, shape = study(monkeypatch, name)
    model = build(described, shape).eval()
    assert parameters(model) == parameters(model, trained=True) == count
    assert model(torch.zeros(2, *shape[:3])).shape == (2, shape.classes)


def test_alexnet_study_loads_a_published_file_and_trains_its_head_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    torch.manual_seed(3)
    published = {name: torch.randn(value.shape) * 0.01 for name, value in models.alexnet().state_dict().items()}
    torch.save(published, tmp_path / "alexnet.pth")
    described, shape = study(monkeypatch, "cats-dogs-alexnet")
    model = build(described, shape, tmp_path / "alexnet.pth")
    assert parameters(model, trained=True) == 9_440_258
    assert parameters(model) - 9_440_258 == 2_469_696  # AlexNet's convolutions, without its classifier
    for name, value in model.backbone.state_dict().items():
        assert value.equal(published[name])
    assert kinds(model.head) == [nn.Linear, nn.ReLU, nn.Dropout, nn.Linear]
    assert model.head[2].p == 0.4


def test_mnist_mlp_ends_in_log_softmax(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(*study(monkeypatch, "mnist-mlp"))
    assert kinds(model) == [nn.Flatten, nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear, nn.LogSoftmax]
    assert torch.allclose(model(torch.randn(5, 1, 28, 28)).exp().sum(1), torch.ones(5))


def test_gradient_descent_study_starts_from_its_own_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = build(*study(monkeypatch, "mnist-gd"))
    linear = [module for module in model if isinstance(module, nn.Linear)]
    for layer, (inputs, outputs) in zip(linear, [(784, 100), (100, 10)], strict=True):
        assert not layer.bias.any()
        assert abs(layer.weight.mean()) < 0.02
        assert layer.weight.std().item() == pytest.approx((2 / (inputs + outputs)) ** 0.5, rel=0.05)
        assert (layer.weight.abs() > 2 * layer.weight.std()).float().mean() > 0.03  # normal, not uniform


def test_batch_norm_study_has_its_layers_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(*study(monkeypatch, "cifar10-batchnorm"))
    assert kinds(model) == [nn.Flatten, nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Dropout, nn.Linear]
    assert model[2].momentum == 0.1
    assert model[4].p == 0.3


@pytest.mark.parametrize(
    ("activation", "module"),
    [("relu", nn.ReLU), ("sigmoid", nn.Sigmoid), ("tanh", nn.Tanh), ("gelu", nn.GELU), ("silu", nn.SiLU)],
)
def test_every_activation_stands_after_every_hidden_layer_only(activation: str, module: type[nn.Module]) -> None:
    model = build(network("mlp", hidden=[5, 4], activation=activation), Shape(1, 3, 3, 2))
    assert kinds(model) == [nn.Flatten, nn.Linear, module, nn.Linear, module, nn.Linear]


def test_cnn_blocks() -> None:
    described = network("cnn", convolutions=[4, 6], kernel=5, padding=1, pool=3, batch_norm=True, hidden=[7])
    model = build(described, Shape(3, 40, 31, 5))
    block = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d]
    assert kinds(model) == [*block, *block, nn.Flatten, nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    assert model[9].in_features == 6 * 3 * 2  # 40 → 38 → 12 → 10 → 3 and 31 → 29 → 9 → 7 → 2
    assert model(torch.zeros(2, 3, 40, 31)).shape == (2, 5)


def test_smallest_image_that_a_cnn_takes_is_as_its_message_says() -> None:
    described = network("cnn", convolutions=[2, 2, 2])
    problem = described.misfit(21, 21)
    assert problem is not None
    assert "at least 22 pixels" in problem
    assert described.misfit(22, 22) is None
    assert build(described, Shape(1, 22, 22, 2))(torch.zeros(1, 1, 22, 22)).shape == (1, 2)


def test_same_seed_same_weights() -> None:
    drawn = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        drawn.append(build(network("mlp", hidden=[3]), Shape(1, 2, 2, 2))[1].weight)
    assert drawn[0].equal(drawn[1])
    assert not drawn[0].equal(drawn[2])


# --- Backbones -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backbone", "features"),
    [
        ("alexnet", 9216),
        ("convnext_tiny", 768),
        ("densenet121", 1024),
        ("efficientnet_b0", 1280),
        ("googlenet", 1024),
        ("inception_v3", 2048),
        ("maxvit_t", 512),
        ("mnasnet0_5", 1280),
        ("mobilenet_v3_small", 576),
        ("resnet18", 512),
        ("shufflenet_v2_x0_5", 1024),
        ("squeezenet1_0", 512),
        ("swin_t", 768),
        ("vgg11", 25088),
        ("vit_b_32", 768),
    ],
)
def test_one_backbone_of_every_family_gets_a_new_head(backbone: str, features: int) -> None:
    with torch.device("meta"):  # shapes without the work
        model = build(transfer(backbone, freeze=True, head={"hidden": [7]}), PHOTOS).train()
        assert model(torch.zeros(2, 3, 224, 224)).shape == (2, 2)
    assert model.head[0].in_features == features
    assert {name.split(".")[0] for name, each in model.named_parameters() if each.requires_grad} == {"head"}


def test_backbone_that_computes_with_its_own_numbers() -> None:
    """RegNet can't be built on torch's meta device."""
    model = build(transfer("regnet_x_400mf"), Shape(3, 32, 32, 4))
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 4)
    assert all(each.requires_grad for each in model.parameters())


def test_backbone_learns_unless_it_is_frozen() -> None:
    model = build(transfer("squeezenet1_1"), Shape(3, 32, 32, 2)).train()
    assert model.backbone.training
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    assert all(each.grad is not None for each in model.parameters())


@pytest.mark.parametrize("backbone", ["googlenet", "inception_v3"])
def test_backbone_with_means_of_its_own_keeps_them_when_the_model_is_read_again(backbone: str) -> None:
    """A model is read without the file of weights: only the recipe tells that it started from them."""
    with torch.device("meta"):
        pretrained = build(transfer(backbone, weights="IMAGENET1K_V1"), Shape(3, 96, 96, 2))
        assert pretrained.backbone.transform_input
        assert not build(transfer(backbone), Shape(3, 96, 96, 2)).backbone.transform_input


def test_frozen_batch_norm_keeps_its_statistics() -> None:
    torch.manual_seed(1)
    model = build(transfer("resnet18", freeze=True, head={"hidden": [4], "batch_norm": True}), Shape(3, 32, 32, 2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=0.1)
    model.train()
    model(torch.randn(6, 3, 32, 32) + 3).sum().backward()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not value.equal(before[name])}
    assert changed
    assert {name.split(".")[0] for name in changed} == {"head"}
    assert "head.1.running_mean" in changed  # the new head's own batch norm does learn


@pytest.mark.parametrize(
    ("backbone", "shape", "words"),
    [
        ("alexnett", PHOTOS, ["'alexnett'", "no such model", "alexnet"]),
        ("deeplabv3_resnet50", PHOTOS, ["no such model"]),  # torchvision has it, but it classifies no images
        ("", PHOTOS, ["no such model"]),
        ("alexnet", Shape(3, 28, 28, 2), ["'alexnet'", "3×28×28"]),
        ("vit_b_32", Shape(3, 64, 64, 2), ["'vit_b_32'", "3×64×64", "224"]),
        ("squeezenet1_1", Shape(1, 64, 64, 2), ["'squeezenet1_1'", "1×64×64"]),
    ],
)
def test_backbone_that_does_not_exist_or_fit(backbone: str, shape: Shape, words: list[str]) -> None:
    with pytest.raises(UserError) as raised:
        build(transfer(backbone), shape)
    message = str(raised.value)
    assert "\n" not in message and len(message) < 400
    for word in words:
        assert word in message


# --- Weights from files ----------------------------------------------------------------------------------------------


class Runs:
    """Pickles into a call that leaves a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


@pytest.fixture(scope="module")
def squeezenet() -> Any:
    return build(transfer("squeezenet1_1"), Shape(3, 32, 32, 2)).backbone


def refuse(file: Path, squeezenet: Any) -> str:
    before = {name: value.clone() for name, value in squeezenet.state_dict().items()}
    with pytest.raises(UserError) as raised:
        load_weights(squeezenet, file, "squeezenet1_1")
    assert all(value.equal(before[name]) for name, value in squeezenet.state_dict().items())
    message = str(raised.value)
    assert "\n" not in message and len(message) < 500
    assert message.startswith(f"{file}: not ")
    return message


def test_no_code_in_a_weights_file_is_run(tmp_path: Path, squeezenet: Any) -> None:
    trace = tmp_path / "ran"
    plain, zipped = tmp_path / "plain.pth", tmp_path / "zipped.pth"
    plain.write_bytes(pickle.dumps({"features.0.weight": Runs(trace)}, protocol=2))
    torch.save({"features.0.weight": Runs(trace)}, zipped)
    for file in (plain, zipped):
        assert "weights_only" in refuse(file, squeezenet)
        assert not trace.exists()
    torch.load(zipped, weights_only=False)
    assert trace.exists()  # the trap does work


@pytest.mark.parametrize(
    "state",
    [
        {"features.0.weight": "a string"},
        {"state_dict": {"features.0.weight": torch.zeros(1)}},
        ["features.0.weight"],
        torch.zeros(3),
        None,
        {},
    ],
    ids=["strings", "nested", "list", "tensor", "none", "empty"],
)
def test_file_that_is_no_state_dict(tmp_path: Path, squeezenet: Any, state: Any) -> None:
    torch.save(state, tmp_path / "state.pth")
    refuse(tmp_path / "state.pth", squeezenet)


def test_weights_that_are_damaged_or_another_models(tmp_path: Path, squeezenet: Any) -> None:
    file = tmp_path / "weights.pth"
    torch.save(squeezenet.state_dict(), file)
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:100], b"", b"<!DOCTYPE html><html>Not found</html>"):
        file.write_bytes(damaged)
        assert "not a state dict" in refuse(file, squeezenet)
    torch.save(models.alexnet(num_classes=2).features.state_dict(), file)
    assert f"{len(squeezenet.state_dict())} tensors are missing" in refuse(file, squeezenet)
    other = models.squeezenet1_0(num_classes=2).state_dict()  # same names, other shapes
    torch.save(other, file)
    assert "not weights of squeezenet1_1" in refuse(file, squeezenet)
    assert "not a state dict" in refuse(tmp_path / "missing.pth", squeezenet)


def test_published_features_load_whole(data_mirror: Path) -> None:
    published = torch.load(data_mirror / SQUEEZENET, weights_only=True)
    model = build(transfer("squeezenet1_1", freeze=True), Shape(3, 64, 64, 2), data_mirror / SQUEEZENET)
    state = model.backbone.state_dict()
    assert state.keys() == published.keys()
    assert all(value.equal(published[name]) for name, value in state.items())
    assert parameters(model, trained=True) == 2 * 512 + 2
