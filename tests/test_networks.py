"""Networks: the published studies' sizes, every family of backbones, weights from files that may lie."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from conftest import REPOSITORY, Project
from safetensors.torch import load_file, save_file
from things import Runs, pack, write_packed
from torch import nn
from torchvision import models

from pipeline import networks, train
from pipeline.config import params
from pipeline.config.experiments import Experiment
from pipeline.config.networks import Network
from pipeline.evaluation.model import Model
from pipeline.networks import Shape, build
from pipeline.networks.layers import load_weights
from pipeline.networks.resnet import Block
from pipeline.study import with_all_studies
from pipeline.system.console import UserError
from pipeline.training import live
from pipeline.training.optimizers import blocks

PHOTOS = Shape(channels=3, height=224, width=224, classes=2)
SQUEEZENET = "weights/squeezenet1_1-imagenet-features.pth"


def network(name: str, **more: Any) -> Any:
    optimizer = {"name": "adam", "lr": 0.001}
    entry = {"dataset": "any", "network": {"name": name, **more}, "optimizer": optimizer}
    return Experiment.model_validate({**entry, "epochs": 1, "batch_size": 1}).network


def transfer(model: str, **more: Any) -> Any:
    return network("torchvision", model=model, **more)


def study(monkeypatch: pytest.MonkeyPatch, name: str) -> tuple[Any, Shape]:
    """Network and input of a study."""
    monkeypatch.chdir(REPOSITORY)
    everything = with_all_studies(params.read())
    experiment = everything.experiment(name)
    dataset = everything.dataset(experiment.dataset)
    classes = 2 if experiment.dataset == "cats-dogs" else 10
    return experiment.network, Shape(dataset.pack.channels, *dataset.pack.height_width, classes)


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
    linear = [module for module in model.children() if isinstance(module, nn.Linear)]
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
    block = [nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.ReLU]
    assert kinds(model) == [*block, *block, nn.Flatten, nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    assert model[9].in_features == 6 * 3 * 2  # 40 → 38 → 12 → 10 → 3 and 31 → 29 → 9 → 7 → 2
    assert model(torch.zeros(2, 3, 40, 31)).shape == (2, 5)


@pytest.mark.parametrize("activation", ["relu", "sigmoid", "tanh", "gelu", "silu"])
def test_pooling_before_an_activation_changes_nothing(activation: str) -> None:
    torch.manual_seed(0)
    model = build(network("cnn", convolutions=[4], activation=activation), Shape(3, 12, 12, 2))
    convolution, *between, flatten, head = model
    (active,) = (layer for layer in between if not isinstance(layer, nn.MaxPool2d))
    in_order = nn.Sequential(convolution, active, nn.MaxPool2d(2), flatten, head)
    images, gradients = torch.randn(5, 3, 12, 12), []
    for each in (model, in_order):
        assert each(images).equal(model(images))
        gradients.append(torch.autograd.grad(each(images).square().sum(), convolution.weight)[0])
    assert torch.allclose(*gradients, rtol=1e-5)


def test_smallest_image_that_a_cnn_takes_is_as_its_message_says() -> None:
    described = network("cnn", convolutions=[2, 2, 2])
    problem = described.incompatible_size(21, 21)
    assert problem is not None
    assert "at least 22 pixels" in problem
    assert described.incompatible_size(22, 22) is None
    assert build(described, Shape(1, 22, 22, 2))(torch.zeros(1, 1, 22, 22)).shape == (1, 2)


def test_same_seed_same_weights() -> None:
    drawn = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        drawn.append(build(network("mlp", hidden=[3]), Shape(1, 2, 2, 2))[1].weight)
    assert drawn[0].equal(drawn[1])
    assert not drawn[0].equal(drawn[2])


# --- Networks for small images ---------------------------------------------------------------------------------------

SMALL = {
    "resnet": {"widths": [4, 6], "blocks": 2, "dropout": 0.1},
    "airbench": {"widths": [6, 8]},
}


def photos(channels: int, side: int, count: int = 64) -> torch.Tensor:
    """Images whose neighboring pixels and channels resemble each other, brighter in one channel than the next."""
    drawn = torch.randn(count, channels, side + 2, side + 2, generator=torch.Generator().manual_seed(2))
    smooth = F.avg_pool2d(drawn + drawn.mean(1, keepdim=True), 3, stride=1)
    return 3 * smooth + torch.arange(channels).view(-1, 1, 1)


def small(name: str, images: torch.Tensor, layout: torch.memory_format = torch.contiguous_format) -> nn.Module:
    """One of the SMALL networks for two classes, as `train` would start it."""
    torch.manual_seed(4)
    model = build(network(name, **SMALL[name]), Shape(*images.shape[1:], classes=2)).to(memory_format=layout)
    if hasattr(model, "initialize"):
        model.initialize(images)
    return model


def learn(model: nn.Module, images: torch.Tensor, steps: int, precision: torch.dtype | None = None) -> list[float]:
    """Losses of so many steps on two classes, one of which is brighter."""
    labels = torch.arange(len(images)) % 2
    images = images + 2 * labels.view(-1, 1, 1, 1)
    optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=0.2, momentum=0.9)
    losses = []
    model.train()
    for _ in range(steps):
        with torch.autocast("cpu", precision, enabled=precision is not None):
            logits = model(images)
        loss = F.cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_resnet_of_the_paper_has_its_number_of_parameters() -> None:
    """ResNet-20 of arXiv 1512.03385, table 6: 0.27 million; its shortcuts have no weights, ours have 2,752."""
    model = build(network("resnet", widths=[16, 32, 64], blocks=3), Shape(3, 32, 32, 10))
    layers = [
        each for each in model.modules() if isinstance(each, nn.Conv2d | nn.Linear) and each.weight.shape[-1] != 1
    ]
    assert len(layers) == 20
    assert parameters(model) == parameters(model, trained=True) == 269_722 + 2_752


def test_airbench_of_the_paper_has_its_number_of_parameters() -> None:
    """arXiv 2404.00498: biases of the whitening, six convolutions, biases of their norms, a linear layer."""
    model = build(network("airbench"), Shape(3, 32, 32, 10))
    convolutions = 9 * (24 * 64 + 64 * 64 + 64 * 256 + 3 * 256 * 256)
    learned = 24 + convolutions + 2 * (64 + 256 + 256) + 10 * 256
    assert parameters(model, trained=True) == learned
    assert parameters(model) - learned == 24 * 3 * 2 * 2 + 2 * (64 + 256 + 256)
    assert [each.kernel_size for each in model.modules() if isinstance(each, nn.Conv2d)] == [(2, 2)] + 6 * [(3, 3)]


@pytest.mark.parametrize("side", [5, 8, 11, 64])
def test_resnet_block_starts_as_its_shortcut_and_halves_like_a_strided_convolution(side: int) -> None:
    model = build(network("resnet", widths=[3, 4, 5]), Shape(1, side, side + 1, 2)).eval()
    blocks = [each for each in model.children() if isinstance(each, Block)]
    features = photos(3, side)[..., 1:].relu()
    assert blocks[0](features).equal(features)
    for block, channels in zip(blocks, (3, 4, 5), strict=True):
        assert block(features).equal(block.shortcut(features).relu())
        halved = [(size + 1) // 2 if channels > 3 else size for size in features.shape[2:]]
        features = block(features)
        assert list(features.shape[1:]) == [channels, *halved]


def test_resnet_shortcut_that_halves_looks_at_every_pixel() -> None:
    block = build(network("resnet", widths=[2, 3]), Shape(1, 7, 7, 2))[4]
    images = torch.zeros(1, 2, 7, 7, requires_grad=True)
    block.shortcut.eval()(images)[0, 0].sum().backward()
    assert images.grad is not None and bool(images.grad[0].ne(0).all())


def test_resnet_dropout_stands_inside_each_block_and_none_by_default() -> None:
    for chosen in (0.0, 0.3):
        model = build(network("resnet", dropout=chosen), Shape(1, 8, 8, 2))
        assert [each.p for each in model.modules() if isinstance(each, nn.Dropout)] == [chosen] * 3


@pytest.mark.parametrize(("channels", "side"), [(3, 32), (1, 28), (1, 9)])
def test_whitening_makes_patches_uncorrelated_with_variance_one(channels: int, side: int) -> None:
    model = build(network("airbench"), Shape(channels, side, side, 10))
    images = photos(channels, side)
    model.initialize(images)
    filters = model.whitening.weight
    size = 4 * channels
    assert filters.shape == (2 * size, channels, 2, 2)
    assert filters[size:].equal(-filters[:size]) and not filters.requires_grad
    responses = F.conv2d(images, filters[:size]).transpose(0, 1).flatten(1)
    moments = responses @ responses.T / responses.shape[1]
    assert torch.allclose(moments, torch.eye(size), atol=0.02)
    assert bool((filters[:size].flatten(1).abs().max(1).values == filters[:size].flatten(1).max(1).values).all())


def test_whitening_of_images_without_content() -> None:
    """A blank corner of all images, or one color all over, has no variance to divide by."""
    model = build(network("airbench"), Shape(3, 9, 9, 2))
    model.initialize(torch.zeros(4, 3, 9, 9))
    assert bool(model(torch.zeros(4, 3, 9, 9)).isfinite().all())


def test_convolutions_of_airbench_start_as_the_identity() -> None:
    model = build(network("airbench", widths=[10, 5]), Shape(1, 12, 12, 2))
    images = photos(8, 6)
    first, *_, second, _, _ = model.groups[:7]
    assert torch.allclose(first(images)[:, :8], images)
    narrowing = model.groups[7]
    wide = photos(10, 6)
    assert torch.allclose(narrowing(wide), wide[:, :5])
    wide = photos(10, 6)
    assert torch.allclose(second(wide), wide)


def test_logits_of_airbench_are_scaled() -> None:
    model = build(network("airbench", widths=[5]), Shape(1, 12, 12, 2)).eval()
    images = photos(1, 12)
    features = model.groups(F.gelu(model.whitening(images))).flatten(2).max(2).values
    assert torch.allclose(model(images), features @ model.head.weight.T / 9)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(("channels", "side"), [(3, 20), (1, 14), (1, 9)])
def test_small_networks_learn_in_either_layout_and_precision(name: str, channels: int, side: int) -> None:
    images = photos(channels, side)
    started = []
    for layout in (torch.contiguous_format, torch.channels_last):
        for precision in (None, torch.bfloat16):
            model = small(name, images, layout)
            losses = learn(model, images.to(memory_format=layout), 20, precision)
            started.append(losses[0])
            assert losses[-1] < 0.4, (layout, precision, losses)
            assert all(each.dtype == torch.float32 for each in model.parameters())
            convolutions = [each for each in model.modules() if isinstance(each, nn.Conv2d)]
            assert all(each.weight.is_contiguous(memory_format=layout) for each in convolutions)
    assert started == pytest.approx([started[0]] * 4, rel=0.03)


@pytest.mark.parametrize("name", SMALL)
def test_small_networks_repeat_to_the_bit(name: str) -> None:
    images = photos(3, 16).to(memory_format=torch.channels_last)
    losses, states = [], []
    for _ in range(2):
        model = small(name, images, torch.channels_last)
        losses.append(learn(model, images, 3, torch.bfloat16))
        states.append(model.state_dict())
    assert losses[0] == losses[1]
    assert all(value.equal(states[1][key]) for key, value in states[0].items())


@pytest.mark.parametrize(
    ("name", "widths", "least"),
    [("resnet", [2], 1), ("resnet", [2] * 4, 8), ("airbench", [2], 3), ("airbench", [2] * 3, 9)],
)
def test_smallest_image_that_a_small_network_takes_is_as_its_message_says(
    name: str, widths: list[int], least: int
) -> None:
    described = network(name, widths=widths)
    assert described.incompatible_size(least, least + 5) is None
    model = build(described, Shape(1, least, least, 2))
    assert model(torch.zeros(2, 1, least, least)).shape == (2, 2)
    for height, width in ((least - 1, 99), (99, least - 1)):
        assert f"at least {least} pixels" in (described.incompatible_size(height, width) or "")


def test_stage_train_whitens_training_images_of_all_classes(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Filters come from normalized images spread over the whole training set, and from no others."""
    monkeypatch.setattr(live, "SHORT", 1e9)
    monkeypatch.setattr("pipeline.training.model.INITIALIZATION_VALUES", 6 * 10 * 12)
    project.params["experiments"] = {}
    project.dataset("things", "data/raw/things", [10, 12], channels=1)
    normalize = {"mean": [0.4], "std": [0.3]}
    network_ = {"name": "airbench", "widths": [4]}
    project.experiment("things-fast", "things", network=network_, epochs=1, normalize=normalize)
    project.command("train")
    labels = ["train"] * 12 + ["val"] * 4 + ["test"] * 4
    pixels = np.random.default_rng(1).integers(0, 256, (20, 10, 12, 1)).astype(np.uint8)
    pixels[:6] //= 4  # the first class
    table = pd.DataFrame({"path": [str(n) for n in range(20)], "label": (["a"] * 6 + ["b"] * 6 + ["a", "b"] * 4)})
    table = table.assign(split=labels, train_order=0.0)
    write_packed(project.root / "data/packed/things", pixels, table, ["a", "b"])
    monkeypatch.chdir(project.root)
    monkeypatch.setattr(sys, "argv", ["train", "things-fast"])
    train.main()
    seen = (torch.from_numpy(pixels[:12:2]).permute(0, 3, 1, 2) / 255 - 0.4) / 0.3
    expected = build(network("airbench", widths=[4]), Shape(1, 10, 12, 2))
    expected.initialize(seen)
    trained = Model(Path("models/things-fast"))
    assert torch.allclose(trained.network.whitening.weight, expected.whitening.weight, atol=1e-4)
    assert trained.about["parameters"] - trained.about["trainable_parameters"] == 8 * 4 + 2 * 4
    assert trained.probabilities(pixels[:3]).shape == (3, 2)


# --- Backbones -------------------------------------------------------------------------------------------------------


# a model of each family: its features, and those without all of its classifier
FAMILIES = {
    "alexnet": (4096, 9216),
    "convnext_tiny": (768, 768),
    "densenet121": (1024, 1024),
    "efficientnet_b0": (1280, 1280),
    "googlenet": (1024, 1024),
    "inception_v3": (2048, 2048),
    "maxvit_t": (512, 512),
    "mnasnet0_5": (1280, 1280),
    "mobilenet_v2": (1280, 1280),
    "mobilenet_v3_small": (1024, 576),
    "regnet_x_400mf": (400, 400),
    "resnet18": (512, 512),
    "shufflenet_v2_x0_5": (1024, 1024),
    "squeezenet1_0": (512, 512),
    "swin_t": (768, 768),
    "vgg11": (4096, 25088),
    "vit_b_32": (768, 768),
}


def test_families_are_all_that_torchvision_has() -> None:
    def family(name: str) -> str:
        return models.get_model_builder(name).__module__

    assert {family(name) for name in FAMILIES} == {family(name) for name in models.list_models(models)}


@pytest.mark.parametrize("name", FAMILIES)
def test_features_are_what_torchvision_feeds_its_last_layer(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    options = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    own = models.get_model(name, weights=None, **options).eval()
    torch.save(own.state_dict(), tmp_path / "weights.pth")
    side = 96 if name in ("inception_v3", "alexnet") else 224 if name in ("vit_b_32", "maxvit_t") else 64
    model = build(transfer(name), Shape(3, side, side, 2), tmp_path / "weights.pth").eval()
    taken: list[torch.Tensor] = []
    for layer in own.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            layer.register_forward_hook(lambda layer, inputs, output: taken.append(inputs[0]))
    images = torch.randn(2, 3, side, side)
    with torch.no_grad():
        own(images)
        features = model.backbone(images).flatten(1)
    expected = taken[-1].mean((2, 3)) if taken[-1].ndim == 4 else taken[-1]  # SqueezeNet's last layer is a convolution
    assert features.shape == (2, FAMILIES[name][0]) and model.head[0].in_features == FAMILIES[name][0]
    assert torch.allclose(features, expected, rtol=1e-4, atol=1e-6)
    assert features[0].ne(features[1]).any()


@pytest.mark.parametrize("name", [name for name in FAMILIES if not name.startswith("regnet")])
def test_classifier_is_replaced_where_a_study_says_so(name: str) -> None:
    with torch.device("meta"):  # shapes without the work
        model = build(transfer(name, freeze=True, replace="classifier", head={"hidden": [7]}), PHOTOS).train()
        assert model(torch.zeros(2, 3, 224, 224)).shape == (2, 2)
    assert model.head[0].in_features == FAMILIES[name][1]
    assert {name.split(".")[0] for name, each in model.named_parameters() if each.requires_grad} == {"head"}


@pytest.mark.parametrize("name", [*FAMILIES, "convnext_base", "densenet201", "resnet101", "swin_b"])
def test_blocks_of_every_family_hold_at_most_half_of_the_weights(name: str) -> None:
    """But for single layers, such as the first linear ones of AlexNet and VGG, which can't be taken apart."""
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        model = build(transfer(name), Shape(3, 32, 32, 2) if name.startswith("regnet") else PHOTOS)
    found = blocks(model)
    assert 5 < len(found) < 40 and found[-1] is model.head
    assert not [block for block in found if list(block.children()) and parameters(block) > parameters(model) / 2]
    outside = parameters(model) - sum(parameters(block) for block in found)
    assert 0 <= outside < 0.01 * parameters(model)  # a vision transformer's class token and position embedding


@pytest.mark.parametrize("name", ["resnet", "airbench"])
def test_blocks_of_own_networks_hold_at_most_half_of_the_weights(name: str) -> None:
    model = build(network(name), Shape(3, 32, 32, 10))
    found = blocks(model)
    assert len(found) > 4
    assert not [block for block in found if list(block.children()) and parameters(block) > parameters(model) / 2]
    assert sum(parameters(block) for block in found) == parameters(model)


def test_every_network_is_a_module_and_a_config() -> None:
    members = get_args(get_args(Network)[0])
    names = {get_args(member.model_fields["name"].annotation)[0] for member in members}
    assert names == {path.stem for path in Path(networks.__file__).parent.glob("*.py")} - {"__init__", "layers"}


def model_folder(folder: Path, described: Any) -> Path:
    """What `train` says of a network for images of 64 × 64 pixels, without its weights."""
    folder.mkdir(parents=True)
    shape = {"channels": 3, "height": 64, "width": 64, "classes": 2}
    about = {"shape": shape, "classes": ["a", "b"], "parameters": 1, "trainable_parameters": 1}
    about |= {"dataset": "any", "experiment": "any-network"}
    preprocessing = {"mean": [0.5] * 3, "std": [0.5] * 3}
    whole = {**about, "preprocessing": preprocessing, "network": described.model_dump(mode="json")}
    (folder / "model.json").write_text(json.dumps(whole))
    return folder


def test_model_with_modules_of_a_version_is_read_again(tmp_path: Path) -> None:
    """MNASNet refuses weights without the version that safetensors do not keep."""
    described = transfer("mnasnet0_5")
    folder = model_folder(tmp_path / "model", described)
    state = build(described, Shape(3, 64, 64, 2)).state_dict()
    save_file(state, folder / "model.safetensors")
    read = Model(folder).network.state_dict()
    assert read.keys() == state.keys() and all(value.equal(state[key]) for key, value in read.items())


def test_backbone_learns_unless_it_is_frozen() -> None:
    model = build(transfer("squeezenet1_1"), Shape(3, 32, 32, 2)).train()
    assert model.backbone.training
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    assert all(each.grad is not None for each in model.parameters())


@pytest.mark.parametrize("backbone", ["googlenet", "inception_v3"])
def test_backbone_with_means_of_its_own_keeps_them_when_the_model_is_read_again(backbone: str) -> None:
    """A model is read without the file of weights: only the config tells that it started from them."""
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
        ("alexnett", PHOTOS, ["'alexnett'", "no such model (did you mean 'alexnet'?)", "https://"]),
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


def test_weights_in_a_file_of_safetensors(tmp_path: Path, squeezenet: Any) -> None:
    file = tmp_path / "weights.safetensors"
    save_file(squeezenet.state_dict(), file)
    model = build(transfer("squeezenet1_1"), Shape(3, 32, 32, 2), file)
    assert all(value.equal(squeezenet.state_dict()[key]) for key, value in model.backbone.state_dict().items())
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", pickle.dumps({})):
        file.write_bytes(damaged)
        assert "not a state dict" in refuse(file, squeezenet)
    save_file({"features.0.weight": torch.zeros(1)}, file)
    assert "not weights of squeezenet1_1" in refuse(file, squeezenet)


def test_published_features_load_whole(data_mirror: Path) -> None:
    published = torch.load(data_mirror / SQUEEZENET, weights_only=True)
    model = build(transfer("squeezenet1_1", freeze=True), Shape(3, 64, 64, 2), data_mirror / SQUEEZENET)
    state = model.backbone.state_dict()
    assert state.keys() == published.keys()
    assert all(value.equal(published[name]) for name, value in state.items())
    assert parameters(model, trained=True) == 2 * 512 + 2


@pytest.mark.parametrize(
    ("model", "weights", "expected"),
    [
        ("alexnet", "IMAGENET1K_V1", (224, 224, "bilinear")),
        ("swin_v2_t", "IMAGENET1K_V1", (256, 256, "bicubic")),
        ("alexnet", None, None),
        ("alexnet", {"file": "own.pth", "sha256": "0" * 64}, None),
    ],
)
def test_torchvision_tells_what_its_weights_learned_from(model: str, weights: Any, expected: Any) -> None:
    assert network("torchvision", model=model, weights=weights).pretrained_on() == expected


# --- timm ------------------------------------------------------------------------------------------------------------

LITE0 = "tf_efficientnet_lite0"
LITE0_WEIGHTS = "weights/tf_efficientnet_lite0-imagenet-features.safetensors"


@pytest.fixture
def timm() -> Any:
    return pytest.importorskip("timm", reason="timm is not installed: uv pip install 'timm>=1.0'")


def test_timm_that_is_not_installed_is_one_line(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a model is read again, which is not damaged."""
    monkeypatch.setitem(sys.modules, "timm", None)
    described = network("timm", model=LITE0)
    for needs in (described.normalization, lambda: build(described, Shape(3, 64, 64, 2))):
        with pytest.raises(UserError, match=r"^[^\n]*not installed: run `\.venv/bin/uv pip install timm`$"):
            needs()
    folder = model_folder(project.root / "models/a", described)
    with pytest.raises(UserError, match="not installed"):
        Model(folder)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("resnet500", ["'resnet500'", "did you mean 'resnet50'", "timm.list_models()"]),
        ("resnet50.a1_in1", ["did you mean 'resnet50.a1_in1k'"]),
        ("hf-hub:timm/resnet50.a1_in1k", ["no such model"]),  # which timm would fetch, unpinned
        ("vit_tiny_patch16_224", ["can't take images of 3×64×64"]),
    ],
)
def test_timm_model_that_does_not_exist_or_fit(timm: Any, model: str, words: list[str]) -> None:
    with pytest.raises(UserError) as raised:
        build(network("timm", model=model), Shape(3, 64, 64, 2))
    assert "\n" not in str(raised.value)
    for word in words:
        assert word in str(raised.value)


@pytest.mark.parametrize("model", ["resnet18", LITE0, "vit_tiny_patch16_224"])
def test_timm_features_are_those_before_its_classifier(timm: Any, model: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    own = timm.create_model(model).eval()
    save_file(own.state_dict(), tmp_path / "model.safetensors")
    ours = build(network("timm", model=model, freeze=True), PHOTOS, tmp_path / "model.safetensors").train()
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        expected = own.forward_head(own.forward_features(images), pre_logits=True)
        assert torch.allclose(ours.backbone(images), expected, rtol=1e-4, atol=1e-6)
    assert {name.split(".")[0] for name, each in ours.named_parameters() if each.requires_grad} == {"head"}
    assert max(parameters(block) for block in blocks(ours)) <= parameters(ours) / 2 and len(blocks(ours)) > 4


def test_timm_knows_its_images_unless_the_experiment_says_otherwise(
    timm: Any, project: Project, data_mirror: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(live, "SHORT", 1e9)
    monkeypatch.chdir(project.root)
    pack(project.root / "data/packed/things", height=32, width=32)
    project.dataset("things", "data/raw/things", 32)
    weights = {"file": "weights.safetensors", "sha256": "0" * 64}
    described = {"name": "timm", "model": LITE0, "weights": weights, "freeze": True}
    project.experiment("own", "things", network=described, epochs=1)
    project.experiment("given", "things", network=described, epochs=1, normalize="imagenet")
    for name, mean in (("own", [0.5] * 3), ("given", [0.485, 0.456, 0.406])):
        folder = project.root / "data/weights" / name
        folder.mkdir(parents=True)
        (folder / "weights.safetensors").symlink_to(data_mirror / LITE0_WEIGHTS)
        project.command("train")
        monkeypatch.setattr(sys, "argv", ["train", name])
        train.main()
        packed, trained = "things is packed as 32 × 32 bilinear images", "was trained on 224 × 224 bicubic ones"
        assert f"{name}: warning: {packed}, {LITE0} {trained}" in capsys.readouterr().out
        model = Model(project.root / "models" / name)
        assert model.mean == mean
        state = load_file(data_mirror / LITE0_WEIGHTS)
        assert all(value.equal(state[key]) for key, value in model.network.backbone.state_dict().items())
        assert model.about["trainable_parameters"] == 1280 * 3 + 3
