"""The benchmarks run in their smallest form and print what they promise; nothing here looks at a time."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import struct
import sys
import zipfile
from importlib import import_module, metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, Project, Ran, call, class_folders, failed_in_one_line, run
from packaging.requirements import Requirement
from pydantic import TypeAdapter
from torch import nn

from benchmarks import document, side_by_side, startup, studies
from benchmarks import train as train_benchmark
from benchmarks.job import Job, named
from pipeline.config.networks import Network
from pipeline.networks import Shape, build

BARE = ("torch", "torchvision", "numpy", "pandas", "pyarrow", "tqdm", "xxhash")  # and what they require
KEYS = {"usual_seconds", "seconds", "ratio", "limit_seconds", "accuracy", "usual_accuracy", "peak_mb"}


def benchmark(root: Path, module: str, *arguments: str, **environment: str) -> Ran:
    """Run a benchmark in this process; what it measures are processes of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [module, *arguments])
        for key, value in environment.items():
            patch.setenv(key, value)
        ran = call(root, import_module(f"benchmarks.{module}").main)
    status: Any = ran.status
    return Ran(1, ran.out, f"{status}\n") if isinstance(status, str) else ran  # what `sys.exit` was told


def told(ran: Ran) -> dict[str, Any]:
    assert ran.status == 0, ran.out + ran.err
    figures: dict[str, Any] = json.loads(ran.out)
    return figures


def write_idx(folder: Path, name: str, values: np.ndarray) -> None:
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    (folder / name).write_bytes(gzip.compress(header + values.tobytes()))


@pytest.fixture(scope="module")
def mnist(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A data set in MNIST's format, in a mirror: one half of each image is bright, and which one is its class."""
    project = Project(tmp_path_factory.mktemp("mnist"))
    random, folder = np.random.default_rng(0), project.root / "mirror/tiny"
    folder.mkdir(parents=True)
    for side, count in (("train", 60), ("t10k", 20)):
        labels = np.arange(count, dtype=np.uint8) % 2
        images = random.integers(0, 60, (count, 8, 8), dtype=np.uint8)
        images[labels == 0, :4] += 190
        images[labels == 1, 4:] += 190
        write_idx(folder, f"{side}-images-idx3-ubyte.gz", images)
        write_idx(folder, f"{side}-labels-idx1-ubyte.gz", labels)
    project.dataset("tiny", "data/raw/tiny", channels=1, near_duplicates=False, outliers={"brightness": None})
    return project


def train(project: Project, *arguments: str) -> Ran:
    project.command("train")  # writes params.yaml
    mirror = {"DATA_MIRROR": str(project.root / "mirror")}
    return benchmark(project.root, "train", *arguments, "--rounds", "1", "--json", **mirror)


def test_training_is_compared_with_the_usual_loop_and_the_limit(mnist: Project) -> None:
    mnist.experiment("tiny-mlp", "tiny", train_on_val=True, normalize="none", epochs=30, batch_size=16)
    figures = told(train(mnist, "--config", "tiny-mlp", "--epochs", "20"))
    assert set(figures) >= KEYS
    assert (figures["images"], figures["test_images"], figures["epochs"]) == (60, 20, 20)
    assert figures["steps"] == 20 * 4
    assert figures["accuracy"] == figures["usual_accuracy"] == 1
    assert all(len(seconds) == 1 and seconds[0] > 0 for seconds in figures["each_round"].values())
    assert {"processor", "cores", "threads", "torch"} <= set(figures["machine"])


def made_job(project: Project, name: str = "tiny-job", **more: Any) -> Path:
    """The file of a job, and beside it packed images."""
    project.experiment(name, "tiny", train_on_val=True, normalize="none", **more)
    project.command("train")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project.root)
        patch.setenv("DATA_MIRROR", str(project.root / "mirror"))
        return studies.job_file(name).resolve()


@pytest.fixture(scope="module")
def job(mnist: Project) -> Path:
    return made_job(mnist)


def test_data_are_packed_once(mnist: Project, job: Path) -> None:
    images = job.parent / "data/packed/tiny/images.npy"
    made = images.stat().st_mtime_ns
    assert made_job(mnist) == job
    assert images.stat().st_mtime_ns == made


def test_thinned_images_are_spread_evenly(job: Path) -> None:
    described = {**json.loads(job.read_text()), "device": "cpu", "workers": 0}
    described["packed"] = str(job.parent / described["packed"])
    few, many = (Job({**described, "images": images}).train_rows for images in (25, 120))
    assert len(set(few)) == 25 and max(np.diff(few)) <= 3
    assert list(many) == sorted(2 * list(range(60)))


def test_a_job_builds_a_network_of_torchvision(job: Path) -> None:
    described = {**json.loads(job.read_text()), "images": None, "device": "cpu", "workers": 0}
    network = TypeAdapter(Network).validate_python({"name": "torchvision", "model": "squeezenet1_1"})
    described["config"]["network"] = network.model_dump(mode="json")
    model = build(Job(described).config.network, Shape(3, 32, 32, 2))
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 2)


def needed_by(*packages: str) -> set[str]:
    """The modules of these packages, and of those that they require."""
    seen: set[str] = set()
    found: set[str] = set()
    left = list(packages)
    while left:
        if (name := left.pop()) not in seen:
            seen.add(name)
            distribution = metadata.distribution(name)
            found |= modules_of(distribution)
            required = map(Requirement, distribution.requires or [])
            left += [each.name for each in required if not each.marker or each.marker.evaluate({"extra": ""})]
    return found


def modules_of(distribution: metadata.Distribution) -> set[str]:
    files = [file for file in distribution.files or [] if file.suffix in (".py", ".so")]
    return {file.parts[0].partition(".")[0] for file in files}


def installed() -> set[str]:
    return {module for each in metadata.distributions() for module in modules_of(each) if module.isidentifier()}


def test_a_job_runs_on_a_bare_machine(mnist: Project, tmp_path: Path) -> None:
    """Here gradient descent, on all images at once."""
    job = made_job(mnist, "tiny-gd", optimizer={"name": "sgd", "lr": 0.5}, batch_size="full")
    (tmp_path / "sitecustomize.py").write_text(
        f"import sys; sys.modules.update(dict.fromkeys({sorted(installed() - needed_by(*BARE))}))"
    )
    arguments = ["--config", str(job), "--epochs", "60", "--rounds", "1", "--images", "120", "--json"]
    command = [sys.executable, "-m", "benchmarks.train", *arguments]
    figures = told(run(command, tmp_path, PYTHONPATH=f"{tmp_path}:{REPOSITORY}"))
    assert set(figures) >= KEYS and (figures["images"], figures["steps"]) == (120, 60)
    assert figures["accuracy"] == figures["usual_accuracy"] == 1


def test_a_profile_has_shares_of_the_time(job: Path) -> None:
    described = train_benchmark.changed(train_benchmark.read_job(str(job)), 2, None, "cpu", 0, None)
    shares = side_by_side.run("benchmarks.profile", described)["shares"]
    assert len(shares) == 7 and "Python" in shares and "addmm" in shares
    assert all(0 < share < 1 for share in shares.values()) and sum(shares.values()) < 1


def test_convolutions_and_files_that_are_decoded_each_time(project: Project) -> None:
    class_folders(project.root / "photos", {"cat": 20, "dog": 20}, height=80, width=90)
    (project.root / "mirror/photos").mkdir(parents=True)
    run(["tar", "-cf", "../mirror/photos/photos.tar", "cat", "dog"], project.root / "photos")
    project.dataset("photos", "data/raw/photos", 68)
    project.experiment(
        "photos-cnn",
        "photos",
        network={"name": "cnn", "convolutions": [2, 3], "hidden": [4]},
        augment={"rotation": 10, "horizontal_flip": 0.5},
        normalize="imagenet",
        shuffle=True,
    )
    figures = told(train(project, "--config", "photos-cnn", "--epochs", "1", "--workers", "1"))
    assert set(figures) >= KEYS
    (job,) = project.root.glob(".checkpoints/benchmarks/*/photos-cnn.json")
    assert len(list((job.parent / "files").rglob("*.png"))) == 40


def test_a_mistake_is_told_in_one_line(mnist: Project) -> None:
    mnist.experiment("tiny-mlp", "tiny")
    failed_in_one_line(train(mnist, "--config", "tiny-mpl"), "tiny-mpl", "tiny-mlp")
    failed_in_one_line(train(mnist, "--config", "absent.json"), "absent.json")
    mnist.dataset("absent", "data/raw/absent")
    mnist.experiment("absent-mlp", "absent")
    failed_in_one_line(train(mnist, "--config", "absent-mlp"), "absent", "dvc repro download@absent")


def test_start_up_of_stages(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Up to train; test_pipeline.py looks at what each imports."""
    needed = ("download", "check", "split", "pack")
    monkeypatch.setattr(startup, "ON_DATA", needed)
    monkeypatch.setattr(startup, "ON_EXPERIMENT", ("train",))
    monkeypatch.setattr(sys, "argv", ["startup", "--rounds", "1", "--json"])
    startup.main()
    figures = json.loads(capsys.readouterr().out)
    stages = figures["stages"]
    assert list(stages) == ["python -c pass", "python -c 'import torch'", *needed, "train"]
    assert stages["check"]["imports"] == ["pandas", "pyarrow", "pydantic"] and "torch" in stages["train"]["imports"]
    assert all(stage["seconds"] > 0 for stage in stages.values())
    assert 0 < figures["training"][0] < stages["train"]["seconds"] and figures["train_beside_training"] > 0


def test_predictions_beside_the_usual_loop(tmp_path: Path) -> None:
    """On 2,000 real photos where they are at hand."""
    source = Path(os.environ.get("DATA_MIRROR", ""), "cats-dogs/cats-dogs-sample.zip")
    if not source.is_file():
        class_folders(tmp_path / "photos", {"cat": 5, "dog": 4}, ".jpg", height=40, width=50)
        source = Path(shutil.make_archive(str(tmp_path / "photos"), "zip", tmp_path, "photos"))
    figures = told(benchmark(tmp_path, "predict", "--source", str(source), "--size", "64", "--rounds", "1", "--json"))
    with zipfile.ZipFile(source) as archive:
        photos = [each for each in archive.infolist() if each.filename.endswith(".jpg") and each.file_size]
    assert figures["images"] == len(photos)
    assert set(figures["each_round"]) == {"usual", "predict", "network"}
    assert figures["ratio"] > 0 and figures["images_per_second"] > 0


def test_products_element_by_element(tmp_path: Path) -> None:
    figures = told(benchmark(tmp_path, "elementwise", "--size", "50", "--rounds", "2", "--json"))
    assert figures["published_seconds"] is None  # of another size
    assert {"a * b", "torch.mul(a, b, out=c)"} < set(figures["each_round"])
    assert all(len(seconds) == 2 for seconds in figures["each_round"].values())
    assert {"seconds", "limit_seconds"} <= set(figures)


def test_tables_go_between_their_markers() -> None:
    text = "".join(f"<!-- {name} -->\nold\n<!-- end of {name} -->\n" for name in ("growth cpu", "growth cuda"))
    new = document.replaced(text, "growth cpu", r"| \1 |")
    assert new == text.replace("old", r"| \1 |", 1)
    with pytest.raises(SystemExit, match="no section 'growth tpu'"):
        document.replaced(text, "growth tpu", "")


def test_the_page_has_a_section_for_every_table() -> None:
    page = (REPOSITORY / "docs/benchmarks.md").read_text()
    for name in document.TABLES:
        for section in [name] if name in document.ONLY_CPU else [f"{name} cpu", f"{name} cuda"]:
            document.replaced(page, section, "")


def test_every_measured_study_is_an_experiment() -> None:
    from pipeline.config import params
    from pipeline.study import with_all_studies

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        known = with_all_studies(params.read()).experiments
    for device in document.STUDIES:
        assert set(document.experiments([*document.TABLES], device)) <= set(known)


def test_missing_data_are_told_before_anything_is_measured(tmp_path: Path) -> None:
    shutil.copy(REPOSITORY / "params.yaml", tmp_path)
    shutil.copytree(REPOSITORY / "studies", tmp_path / "studies")
    ran = benchmark(tmp_path, "document", "startup", "conditions", DATA_MIRROR="nowhere")
    assert ran.status == 1 and "run dvc repro download@digits" in ran.err and "startup" not in ran.err


def test_the_usual_loop_trains_the_networks_of_the_studies() -> None:
    from benchmarks import usual_loops
    from pipeline.config import params
    from pipeline.study import with_all_studies

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        known = with_all_studies(params.read())

    def described(model: nn.Module) -> list[str]:
        """Its layers and weights; which comes first of pooling and activation is the same to both."""
        layers = [layer for layer in model.modules() if not list(layer.children())]
        kept = (nn.Linear, nn.Conv2d, nn.BatchNorm1d, nn.Dropout, nn.Sigmoid, nn.LogSoftmax)
        return [str(layer) for layer in layers if isinstance(layer, kept)]

    for name in ("mnist-mlp", "cifar10-sigmoid", "cifar10-dropout", "cifar10-batchnorm", "cats-dogs-cnn"):
        config = known.experiment(name)
        dataset = known.dataset(config.dataset)
        shape = (dataset.pack.channels, *dataset.pack.height_width)
        job: Any = SimpleNamespace(
            config=named(config.model_dump(mode="json")), shape=shape, meta={"classes": list(range(10))}
        )
        assert described(usual_loops.network(job)) == described(build(config.network, Shape(*shape, 10)))
    for name, said in (("digits-cnn", "no study has such a network"), ("mnist-cnn", "no study has a loop with .*ema")):
        job = SimpleNamespace(config=named(known.experiment(name).model_dump(mode="json")), meta={"classes": [0]})
        with pytest.raises(SystemExit, match=said):
            usual_loops.network(job) if name == "digits-cnn" else usual_loops.mini_batches(job)
