"""params.yaml: what is accepted, and the one line that a mistake is answered with."""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, Project, failed_in_one_line
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.config import params
from pipeline.config.networks import CNNConfig, convolved
from pipeline.study import with_all_studies
from pipeline.system.console import UserError

MINIMAL: dict[str, Any] = {
    "seed": 101,
    "datasets": {
        "mnist": {
            "source": "data/raw/mnist",
            "check": {"max_quarantined": 0.01},
            "split": {"val": 0.1},
            "pack": {"size": 28, "channels": 1},
        }
    },
    "experiments": {
        "mnist-mlp": {
            "dataset": "mnist",
            "network": {"name": "mlp", "hidden": [120, 84]},
            "optimizer": {"name": "adam", "lr": 0.001},
            "epochs": 10,
            "batch_size": 100,
        }
    },
}
FULL: dict[str, Any] = {
    **MINIMAL,
    "downloads": {"mnist": {"mirrors": ["https://example.com/"], "files": {"a.gz": {"bytes": 3, "md5": "ab" * 16}}}},
    "features": {
        "mnist": {
            "network": {"name": "torchvision", "model": "alexnet", "replace": "classifier"},
            "weights": "data/raw/alexnet.pth",
            "size": 64,
            "precision": "bf16",
        }
    },
    "experiments": {
        **MINIMAL["experiments"],
        "mnist-cnn": {
            "dataset": "mnist",
            "network": {"name": "cnn", "convolutions": [6, 16], "kernel": 3, "dropout": 0.1},
            "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9},
            "epochs": 1,
            "batch_size": "full",
            "normalize": {"mean": [0.5], "std": [0.5]},
            "augment": {"rotation": 10},
            "compute": {"threads": 2},
        },
        "mnist-transfer": {
            "dataset": "mnist",
            "network": {"name": "torchvision", "model": "alexnet", "weights": {"file": "w.pth", "sha256": "0" * 64}},
            "optimizer": {"name": "adamw", "lr": 1},
            "epochs": 1,
            "batch_size": 1,
            "seed": 3,
        },
    },
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal() -> str:
    with pytest.raises(UserError) as caught:
        params.load()
    message = str(caught.value)
    assert message.startswith("params.yaml") and len(message.splitlines()) == 1, message
    return message


def changed(path: str, value: Any) -> dict[str, Any]:
    """A valid file with another value at `path`; `...` removes the key."""
    whole = copy.deepcopy(FULL)
    *parents, last = path.split(" ")
    place = whole
    for part in parents:
        place = place[part]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return whole


def test_the_repositorys_own_file_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    assert list(params.load().experiments) == ["digits-mlp", "digits-cnn"]
    loaded = with_all_studies(params.read())
    assert len(loaded.experiments) == 21
    assert loaded.seed_of("mnist-mlp") == loaded.seed and loaded.seed_of("mnist-gd") == 0
    assert loaded.dataset("mnist").pack.height_width == (28, 28)


@pytest.mark.parametrize("content", [MINIMAL, FULL, {"seed": 1}])
def test_the_documented_keys_are_valid(here: Path, content: dict[str, Any]) -> None:
    Path("params.yaml").write_text(json.dumps(content))
    loaded = params.load()
    assert loaded.seed == content["seed"] and set(loaded.experiments) == set(content.get("experiments", {}))


def test_values_arrive_as_written(here: Path) -> None:
    Path("params.yaml").write_text(
        "seed: 7\n"
        "datasets: {d: {source: x, check: {}, split: {}, pack: {size: [20, 30]}}}\n"
        "experiments:\n"
        "  d-a: {dataset: d, network: {name: mlp, hidden: [3]}, optimizer: {name: adam, lr: 1e-3}, epochs: 1,\n"
        "        batch_size: full, seed: 0}\n"
    )
    loaded = params.load()
    dataset, experiment = loaded.dataset("d"), loaded.experiment("d-a")
    assert (dataset.pack.height_width, dataset.pack.channels, dataset.check.max_quarantined) == ((20, 30), 3, 0.01)
    assert (dataset.split.val, dataset.split.test) == (0.1, 0.2)
    assert (experiment.optimizer.lr, experiment.batch_size, loaded.seed_of("d-a")) == (0.001, "full", 0)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        # unknown keys, at every depth
        ("sed", 1, ["unknown key 'sed'", "did you mean 'seed'", "datasets, features, experiments"]),
        (
            "datasets mnist pack chanels",
            1,
            ["datasets.mnist.pack:", "'chanels'", "did you mean 'channels'", "size, channels"],
        ),
        # keys that stood in another place
        ("datasets mnist image_size", 28, ["datasets.mnist: unknown key 'image_size' (did you mean 'pack.size'?)"]),
        ("datasets mnist channels", 1, ["datasets.mnist: unknown key 'channels' (did you mean 'pack.channels'?)"]),
        (
            "datasets mnist max_quarantined",
            0,
            ["did you mean 'check.max_quarantined'?", "license, check, split, pack, gates"],
        ),
        ("datasets mnist outliers", {}, ["unknown key 'outliers' (did you mean 'check.outliers'?)"]),
        ("datasets mnist near_duplicates", False, ["'near_duplicates' (did you mean 'check.near_duplicates'?)"]),
        ("datasets mnist classes", ["a"], ["unknown key 'classes' (did you mean 'check.classes'?)"]),
        ("datasets mnist", {"source": "x", "image_size": 8}, ["'image_size' (did you mean 'pack.size'?)"]),
        ("datasets mnist split vall", 0.1, ["datasets.mnist.split:", "'vall'", "did you mean 'val'", "val, test"]),
        ("experiments mnist-mlp epoch", 3, ["experiments.mnist-mlp:", "'epoch'", "did you mean 'epochs'"]),
        ("experiments mnist-mlp network hiden", [3], ["mnist-mlp.network:", "'hiden'", "did you mean 'hidden'"]),
        ("experiments mnist-mlp network kernel", 3, ["mnist-mlp.network:", "'kernel'", "allowed: hidden"]),
        ("experiments mnist-mlp optimizer LR", 3, ["mnist-mlp.optimizer:", "'LR'", "did you mean 'lr'"]),
        ("experiments mnist-cnn augment rotate", 3, ["augment:", "'rotate'", "allowed: rotation, interpolation"]),
        ("experiments mnist-mlp ep\nochs", 3, [r"'ep\nochs'", "did you mean 'epochs'"]),
        # wrong types
        (
            "datasets mnist pack fit",
            "letterbox",
            ["datasets.mnist.pack.fit = 'letterbox'", "'crop', 'pad' or 'stretch'"],
        ),
        ("datasets mnist source", {"images": "x", "labels": "y"}, ["mnist.source: ", "one path", "check.labels"]),
        ("datasets mnist source", ["x", "y"], ["datasets.mnist.source: ", "expected one path"]),
        ("datasets mnist check labels", "", ["datasets.mnist.check.labels = ''", "at least 1 character"]),
        ("datasets mnist labels", "x.csv", ["unknown key 'labels' (did you mean 'check.labels'?)"]),
        ("seed", "x", ["seed = 'x'", "integer"]),
        ("datasets mnist source", 7, ["datasets.mnist.source = 7", "string"]),
        ("datasets mnist pack size", 28.0, ["datasets.mnist.pack.size = 28.0", "integer", "list"]),
        ("datasets mnist pack size", [28, "a"], ["datasets.mnist.pack.size.1 = 'a'", "integer"]),
        ("datasets mnist", None, ["datasets.mnist = None", "dictionary"]),
        ("datasets", [1], ["datasets = [1]", "dictionary"]),
        ("experiments mnist-mlp epochs", "ten", ["experiments.mnist-mlp.epochs = 'ten'", "integer"]),
        ("experiments mnist-mlp epochs", True, ["mnist-mlp.epochs = True", "integer"]),
        ("experiments mnist-mlp network", "mlp", ["mnist-mlp.network = 'mlp'", "dictionary"]),
        ("experiments mnist-mlp network hidden", [120, "84"], ["network.hidden.1 = '84'", "integer"]),
        ("experiments mnist-mlp optimizer lr", "0.1", ["optimizer.lr = '0.1'", "number"]),
        ("experiments mnist-mlp shuffle", "no", ["shuffle = 'no'", "boolean"]),
        # out of range
        ("seed", -1, ["seed = -1", "greater than or equal to 0"]),
        ("datasets mnist source", "", ["source = ''", "at least 1 character"]),
        ("datasets mnist pack size", 0, ["size = 0", "greater than 0"]),
        ("datasets mnist pack size", [28, 0], ["size.1 = 0", "greater than 0"]),
        ("datasets mnist pack size", [28], ["size = [28]", "[height, width]"]),
        ("datasets mnist pack size", 10**12, ["size = 1000000000000", "less than or equal to"]),
        ("datasets mnist pack channels", 2, ["datasets.mnist.pack.channels = 2", "1 or 3"]),
        ("datasets mnist check max_quarantined", 1.5, ["max_quarantined = 1.5", "less than or equal to 1"]),
        ("datasets mnist split val", 1, ["split.val = 1", "less than 1"]),
        ("datasets mnist split", {"val": 0.5, "test": 0.5}, ["datasets.mnist.split", "val + test = 1", "below 1"]),
        ("datasets mnist split", {"val": 0.1, "folds": 5}, ["mnist.split: val and folds exclude each other"]),
        ("datasets mnist split", {"folds": 5, "fold": 5}, ["mnist.split: fold = 5; expected 0 to 4, of folds = 5"]),
        ("datasets mnist split", {"fold": 0}, ["mnist.split: fold = 0 without folds"]),
        ("datasets mnist split", {"folds": 1}, ["split.folds = 1", "greater than or equal to 2"]),
        (
            "experiments mnist-mlp folds",
            "all",
            ["mnist-mlp.folds = 'all': datasets.mnist.split has no folds; expected"],
        ),
        ("experiments mnist-mlp folds", 5, ["experiments.mnist-mlp.folds = 5", "'all'"]),
        ("datasets mnist split group_by", "a(", ["split.group_by: 'a(' is no regular expression", "unterminated"]),
        ("datasets mnist source", "file:///etc", ["mnist.source: 'file:///etc': expected an address", "or a path"]),
        ("datasets mnist source", "simplecache::file:///etc", ["'simplecache::file:///etc': expected an address"]),
        ("datasets mnist source", "s3://x/a.zip::file:///etc", ["mnist.source: ", "expected an address"]),
        ("datasets mnist source", "zip://*::s3://x/a.zip", ["mnist.source: ", "expected an address"]),
        ("datasets mnist source", "LOCAL:///etc", ["'LOCAL:///etc': expected an address"]),
        ("datasets mnist source", "memory://x", ["'memory://x': expected an address"]),
        ("datasets mnist split group_by", "", ["split.group_by = ''", "at least 1 character"]),
        ("experiments mnist-mlp train_fraction", 0, ["train_fraction = 0", "greater than 0"]),
        ("experiments mnist-mlp train_fraction", 1.5, ["train_fraction = 1.5", "less than or equal to 1"]),
        ("experiments mnist-mlp epochs", 0, ["epochs = 0", "greater than 0"]),
        ("experiments mnist-mlp epochs", 2**31, ["epochs = 2147483648", "less than 2147483648"]),
        (
            "downloads x",
            {"mirrors": [], "files": {"a": {"bytes": -5, "md5": "ab" * 16}}},
            ["bytes = -5", "or equal to 0"],
        ),
        ("experiments mnist-mlp batch_size", "half", ["batch_size = 'half'", "'full'"]),
        ("experiments mnist-mlp optimizer lr", 0, ["lr = 0", "greater than 0"]),
        ("experiments mnist-mlp network dropout", 1, ["network.dropout = 1", "less than 1"]),
        ("experiments mnist-cnn normalize", {"mean": [0], "std": [0]}, ["normalize.std.0 = 0", "greater than 0"]),
        ("experiments mnist-mlp optimizer momentum", 0.9, ["mnist-mlp.optimizer", "for sgd", "adam"]),
        ("experiments mnist-cnn augment scale", [1.2, 0.8], ["augment.scale: [1.2, 0.8]", "[smallest, largest]"]),
        ("experiments mnist-cnn augment scale", [1.2], ["augment.scale: [1.2]", "[smallest, largest]"]),
        ("experiments mnist-cnn augment scale", [0.8, "1"], ["augment.scale.1 = '1'", "number"]),
        (
            "experiments mnist-cnn augment random_erasing",
            {"probability": 2},
            ["erasing.probability = 2", "less than or equal to 1"],
        ),
        ("experiments mnist-cnn augment random_erasing", {"area": [0, 1]}, ["erasing.area.0 = 0", "greater than 0"]),
        (
            "experiments mnist-cnn augment randaugment",
            {"magnitude": 31},
            ["magnitude = 31", "less than or equal to 30"],
        ),
        ("experiments mnist-cnn augment mixup", -1, ["augment.mixup = -1", "greater than or equal to 0"]),
        # choices
        ("experiments mnist-mlp network name", "mpl", ["network.name = 'mpl'", "'cnn'", "did you mean 'mlp'"]),
        ("experiments mnist-mlp optimizer name", "adamW", ["name = 'adamW'", "'sgd'", "did you mean 'adamw'"]),
        ("experiments mnist-mlp network activation", "rleu", ["activation = 'rleu'", "did you mean 'relu'"]),
        # missing keys
        ("seed", ..., ["seed: Field required"]),
        ("datasets mnist pack size", ..., ["datasets.mnist.pack.size: Field required"]),
        ("datasets mnist pack", ..., ["datasets.mnist.pack: Field required"]),
        ("datasets mnist check", ..., ["datasets.mnist: no section check; expected check: {}"]),
        ("datasets mnist split", ..., ["datasets.mnist: no section split; expected split: {}"]),
        ("experiments mnist-mlp network name", ..., ["mnist-mlp.network.name: Field required"]),
        ("experiments mnist-mlp normalize", "pretrained", ["mnist-mlp: normalize = 'pretrained' is for", "'timm'"]),
        ("experiments mnist-transfer network replace", "head", ["network.replace = 'head'", "'last_layer'"]),
        (
            "experiments mnist-transfer network",
            {"name": "timm", "model": "resnet50", "weights": "IMAGENET1K_V1"},
            ["network.weights = 'IMAGENET1K_V1'", "expected {file, sha256, mirrors} or {repo_id, revision}"],
        ),
        (
            "experiments mnist-transfer network",
            {"name": "timm", "model": "resnet50", "weights": {"repo_id": "timm/resnet50", "revision": "main"}},
            ["network.weights.revision: 'main': expected a commit, of 40 hexadecimal digits"],
        ),
        ("experiments mnist-mlp optimizer lr", ..., ["mnist-mlp.optimizer.lr: Field required"]),
        # names
        ("datasets a/b", {}, ["datasets.a/b", "letters, digits"]),
        ("datasets ../up", {}, ["datasets.../up", "letters, digits"]),
        ("experiments a\nb", {}, [r"experiments.'a\nb'", "letters, digits"]),
        ("experiments -x", {}, ["experiments.-x", "starts with a letter or digit"]),
        ("datasets mnist.v2", {}, ["datasets.mnist.v2: a name is letters, digits, '-' and '_'", "'.' for nesting"]),
        ("experiments mnist-0.1", {}, ["experiments.mnist-0.1", "'.' for nesting"]),
        ("downloads mnist.v2", {}, ["downloads.mnist.v2", "'.' for nesting"]),
        # what only two entries together tell
        (
            "experiments mnist-mlp dataset",
            "mnits",
            ["mnist-mlp.dataset = 'mnits'", "did you mean 'mnist'", "has: mnist"],
        ),
        ("experiments mnist-mlp dataset", "a\nb", [r"dataset = 'a\nb'", "no such data set"]),
        (
            "datasets mnist pack size",
            9,
            ["mnist-cnn.network", "datasets.mnist.pack.size = 9×9", "at least 10 pixels"],
        ),
        ("datasets mnist pack size", [9, 60], ["mnist-cnn.network", "size = 9×60", "at least 10 pixels"]),
        # downloads
        ("downloads mnist files a.gz", {}, ["downloads.mnist.files.a.gz", "md5 or sha256"]),
        ("downloads mnist mirrors", "x", ["downloads.mnist.mirrors = 'x'", "list"]),
    ],
)
def test_a_mistake_is_named_with_its_value_and_what_is_allowed(
    here: Path, path: str, value: Any, words: list[str]
) -> None:
    Path("params.yaml").write_text(json.dumps(changed(path, value)))
    message = refusal()
    for word in words:
        assert word in message, message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"seed: [1\n", ["line 2"]),
        (b"seed: 1\ndatasets: {a: b: c}\n", ["line 2"]),
        (b"seed: 1\nseed: 2\n", ["line 2", "duplicate", '"seed"', '"1"', '"2"']),
        (b"\tseed: 1\n", ["line 1", r"'\t'"]),
        (b"seed: *anchor\n", ["line 1", "anchor"]),
        (b"seed: !!python/object/apply:os.system [x]\n", ["line 1", "python/object"]),
        (b"seed: 1\n---\nseed: 2\n", ["another document"]),
        (b"seed: 2020-13-45\n", ["not valid YAML", "month"]),
        (b"seed: !!int x\n", ["not valid YAML", "'x'"]),
        (b"seed: " + b"[" * 1000, ["not valid YAML"]),
        (b"seed: &a [*a]\n", ["seed = ", "integer"]),
        (b"\xff\xfe\x00", ["not valid YAML", "utf-8"]),
        (b"seed: 1\0\n", ["not valid YAML"]),
        (b"seed: .nan\n", ["seed = nan"]),
        (b"seed: 0x" + b"f" * 9000, ["thousands of digits"]),
        (b"seed: 1\n? 0x" + b"f" * 9000 + b"\n: 1", ["4300 digits"]),
        (b"", ["seed: Field required"]),
        (b"- 1\n", ["list", "expected the keys seed"]),
        (b"seed: 1\nexperiments: {2024: {}}\n", ["experiments.2024", "in quotes, as in '2024'"]),
        (b"seed: 1\ndatasets: {1.5: {}}\n", ["datasets.1.5", "in quotes"]),
        (b"seed: 1\nexperiments: {null: {}}\n", ["experiments.None", "in quotes"]),
    ],
)
def test_what_is_no_params_file_at_all(here: Path, content: bytes, words: list[str]) -> None:
    Path("params.yaml").write_bytes(content)
    message = refusal()
    for word in words:
        assert word in message, message


@pytest.mark.parametrize("lr", [".inf", "-.inf", ".nan"])
def test_a_learning_rate_that_is_no_number(here: Path, lr: str) -> None:
    Path("params.yaml").write_text(json.dumps(FULL).replace('"lr": 0.001', f'"lr": {lr}'))
    assert "mnist-mlp.optimizer.lr" in refusal()


def test_a_missing_file_and_a_missing_entry(here: Path) -> None:
    assert "run this in the project's root folder" in refusal()
    Path("params.yaml").write_text(json.dumps(FULL))
    loaded = params.load()
    with pytest.raises(UserError, match=r"datasets has no entry 'mnits' .did you mean 'mnist'.*it has: mnist"):
        loaded.dataset("mnits")
    with pytest.raises(UserError, match=r"experiments has no entry 'mnist-mpl' .did you mean 'mnist-mlp'"):
        loaded.experiment("mnist-mpl")


@pytest.mark.parametrize(
    "source", ["../photos", "/mnt/a b", "a::b", "C:/photos", "s3://b/a.zip", "S3://b", "ssh://me@h:22/p"]
)
def test_sources_that_are_paths_or_addresses(here: Path, source: str) -> None:
    Path("params.yaml").write_text(json.dumps(changed("datasets mnist source", source)))
    assert params.load().dataset("mnist").source == source


def laughing(first: str, more: str, depth: int) -> str:
    """YAML of few lines whose aliases stand for 10 ** depth values."""
    lines = [f"l{n}: &l{n} {more.format(','.join([f'*l{n - 1}'] * 10))}" for n in range(1, depth)]
    return "\n".join([f"l0: &l0 {first}", *lines, f"seed: *l{depth - 1}"])


@pytest.mark.parametrize(
    ("first", "more"),
    [
        ("[x,x,x,x,x,x,x,x,x,x]", "[{}]"),
        ("{a: 1,b: 2,c: 3,d: 4,e: 5,f: 6,g: 7,h: 8,i: 9,j: 0}", "{{<<: [{}]}}"),
        ("[x,x,x,x,x,x,x,x,x,x]", "{{? [{}] : x}}"),
    ],
)
def test_aliases_of_aliases_are_counted_before_they_are_written_out(here: Path, first: str, more: str) -> None:
    Path("params.yaml").write_text(laughing(first, more, 20))
    assert "more than 100000 values" in refusal()


def test_few_aliases_are_welcome(here: Path) -> None:
    entry = "{source: x, check: {}, split: {}, pack: {size: 8}}"
    lines = f"seed: &s 1\ndatasets: {{a: &a {entry}, b: *a, c: {{<<: *a, source: y}}}}\n"
    Path("params.yaml").write_text(lines)
    loaded = params.load()
    assert loaded.dataset("a") == loaded.dataset("b") and loaded.dataset("c").source == "y"


@pytest.mark.parametrize(
    "path",
    ["seed", "datasets mnist source", "datasets mnist pack size", "datasets mnist pack channels", "datasets mnist x",
     "experiments mnist-mlp network name", "experiments mnist-cnn augment scale", "experiments mnist-mlp epochs"],
)  # fmt: skip
def test_a_long_value_is_cut_in_the_message(here: Path, path: str) -> None:
    for value in ("x" * 5000, ["x" * 50] * 50, [[[["x"] * 9] * 9] * 9], {"(" * 5000: 1}, "(" * 5000, "a://" * 999):
        is_right = isinstance(value, str) and "://" not in value  # for a path
        if not (path.endswith("source") and is_right):
            Path("params.yaml").write_text(json.dumps(changed(path, value)))
            assert len(refusal()) < 1000


def test_a_stage_says_it_in_one_line(project: Project) -> None:
    project.dataset("photos", "photos")
    project.params["datasets"]["photos"]["image_size"] = 8
    failed_in_one_line(project.run("check", "photos"), "datasets.photos", "'image_size'", "did you mean 'pack.size'?")
    del project.params["datasets"]["photos"]["image_size"]
    failed_in_one_line(project.run("check", "photo"), "no entry 'photo'", "did you mean 'photos'?")


@given(convolutions=st.integers(1, 4), kernel=st.integers(1, 7), padding=st.integers(0, 2), pool=st.integers(1, 3))
def test_the_least_image_size_that_is_told_is_the_least(
    convolutions: int, kernel: int, padding: int, pool: int
) -> None:
    network = CNNConfig(name="cnn", convolutions=[4] * convolutions, kernel=kernel, padding=padding, pool=pool)
    fits = next(side for side in range(1, 1000) if min(convolved(network, side, side)) >= 1)
    assert network.incompatible_size(fits, fits) is None
    if fits > 1:
        assert f"at least {fits} pixels" in (network.incompatible_size(fits - 1, 1000) or "")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["mlp", "mnist"]),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children, max_size=3),
    max_leaves=5,
)


@st.composite
def mutated(draw: st.DrawFn) -> Any:
    """FULL with a few random changes at random places: another value, a key more, a key less."""
    whole: Any = {"whole": copy.deepcopy(FULL)}
    for _ in range(draw(st.integers(1, 4))):
        place, key = whole, "whole"
        while isinstance(place[key], dict | list) and place[key] and draw(st.integers(0, 5)):
            place = place[key]
            key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        what = draw(st.sampled_from(["replace", "remove", "add"]))
        if what == "add" and isinstance(place[key], dict):
            place[key][draw(st.text(max_size=8))] = draw(VALUES)
        elif what == "remove" and key != "whole":
            del place[key]
        else:
            place[key] = draw(VALUES)
    return whole["whole"]


def load_or_refuse(content: str) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        file = Path(folder, "params.yaml")
        file.write_text(content, encoding="utf-8", newline="")
        patch.setattr(params, "FILE", file)
        message = ""
        try:
            params.load()
        except UserError as error:
            message = str(error)
        assert len(message.splitlines()) <= 1, message


@settings(deadline=None, max_examples=150)
@given(mutated())
@example({"seed": 1, "experiments": {"a": {"network": {"name": ["mlp"]}}}})
@example({"seed": 1, "datasets": {"\x85\u2028": 3}})
def test_any_change_is_accepted_or_refused_in_one_line(content: Any) -> None:
    load_or_refuse(json.dumps(content, ensure_ascii=False))


@settings(deadline=None, max_examples=150)
@given(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("seed: \n-[]{}&*!|>'\"%@`,?0_"), max_size=30))
def test_any_text_is_accepted_or_refused_in_one_line(content: str) -> None:
    load_or_refuse(content)
