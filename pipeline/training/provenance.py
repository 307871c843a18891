"""What a model was made of, and which files it is: `reports/<experiment>/provenance.json`, which git keeps."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.system.checksummed import checksum
from pipeline.system.outputs import write_json
from pipeline.system.version import PIPELINE, code_sha256

if TYPE_CHECKING:
    from pipeline.config.experiments import Experiment
    from pipeline.config.networks import Network
    from pipeline.dataset.packed import PackedDataset

ROOT = PIPELINE.parent


def inputs(name: str, config: Experiment, seed: int, packed: PackedDataset, weights: Path | None) -> dict[str, Any]:
    """What an experiment trains on and how: its config, and the SHA-256 of its data."""
    folder = packed.file.parent
    return {
        "experiment": name,
        "seed": seed,
        "params": config.model_dump(mode="json"),
        "data": {
            "pixels": packed.meta["sha256"],
            "meta": sha256(folder / "meta.json"),
            "index": sha256(folder / "index.parquet"),
            "splits": sha256(packed.splits_file),
            "weights": sha256(weights) if weights else None,
        },
    }


def write(name: str, network: Network, **known: Any) -> None:
    """Write what is `known` of a training, such as its inputs, with code, packages and the files of its model."""
    description = {
        **known,
        "code": {part: code_sha256(ROOT / part) for part in code_of(network)},
        "requirements.lock": sha256(ROOT / "requirements.lock"),
        "libraries": library_versions(network),
        "model": {file.name: sha256(file) for file in sorted(Path("models", name).iterdir())},
    }
    write_json(Path("reports", name, "provenance.json"), description)


def library_versions(network: Network) -> dict[str, str]:
    packages = ["numpy", "torch", *({"torchvision", "timm"} & {network.name})]
    return {package: metadata.version(package) for package in packages}


def code_of(network: Network) -> list[str]:
    """The rooms and modules that dvc.yaml names as dependencies of `train`: other code changes no model."""
    from ruamel.yaml import YAML

    stage = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]["train"]["do"]
    dependencies = [path.replace("${item.network.name}", network.name) for path in stage["deps"]]
    return [path for path in dependencies if path.startswith("pipeline/")]


def sha256(file: Path) -> str:
    return checksum(file).hex()
