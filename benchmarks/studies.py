"""From an experiment of `params.yaml`, or a study, to a job for the contenders.

A job is an experiment, and its data as the stages pack them. The data are looked for where their entry says, then in
DATA_MIRROR. They are checked, split and packed by the project's own stages, in a small project of their own under
.checkpoints/benchmarks, once: the job that is kept beside them, <experiment>.json, also runs on a machine that has none
of the packages that this takes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.side_by_side import REPOSITORY
from pipeline.config import params
from pipeline.study import with_all_studies
from pipeline.system.console import UserError
from pipeline.system.outputs import atomic_write, write_json

CACHE = Path(".checkpoints/benchmarks")
STAND_INS = {"cifar10": "cifar10-jpeg"}  # in DATA_MIRROR, for what may not be there
SMALL = 64  # pixels a side: such images are published, and read, as arrays
STAGES = ("check", "split", "pack")
CODE = (*(f"{stage}.py" for stage in STAGES), "images/**/*.py", "checking/*.py", "splitting/*.py")


def job_file(experiment: str) -> Path:
    """The job of an experiment, after making what it needs. Raises UserError where there are no data."""
    everything = with_all_studies(params.read())
    config = everything.experiment(experiment)
    dataset = everything.dataset(config.dataset).model_dump(mode="json", exclude_unset=True)
    source = find(config.dataset, Path(dataset["source"]))
    described = {**dataset, "source": str(source)}
    project = CACHE / f"{config.dataset}-{key(described, source)}"
    if not project.exists():
        large = max(everything.dataset(config.dataset).pack.height_width) > SMALL
        prepare(project, config.dataset, described, large)
    published = everything.downloads.get(config.dataset)
    files = files_of(source)
    job = {
        "experiment": experiment,
        "source": files[0].name if len(files) == 1 else source.name,
        "stands_in": published is not None and {file.name for file in files} != set(published.files),
        "config": config.model_dump(mode="json"),
        "seed": everything.seed_of(experiment),
        "packed": f"data/packed/{config.dataset}",
        "files": "files" if (project / "files").exists() else None,
        "weights": None,
    }
    if getattr(config.network, "weights", None):
        job["weights"], job["random_weights"] = weights(experiment, config.network, project)
    write_json(project / f"{experiment}.json", job)
    return project / f"{experiment}.json"


def find(dataset: str, source: Path) -> Path:
    mirror = Path(os.environ.get("DATA_MIRROR", "."))
    places = [source, mirror / dataset, *([mirror / STAND_INS[dataset]] if dataset in STAND_INS else [])]
    for place in places:
        if place.exists():
            return place.resolve()
    raise UserError(f"{dataset}: no data in {', '.join(map(str, places))}: run dvc repro download@{dataset}")


def key(described: dict[str, Any], source: Path) -> str:
    """Of what decides the packed images: their description, the files they come from, the code that packs them."""
    sizes = [(file.name, file.stat().st_size) for file in files_of(source)]
    code = [file.read_text() for pattern in CODE for file in sorted((REPOSITORY / "pipeline").glob(pattern))]
    return hashlib.sha256(json.dumps([described, sizes, code]).encode()).hexdigest()[:12]


def files_of(source: Path) -> list[Path]:
    return sorted(source.iterdir()) if source.is_dir() else [source]


def prepare(project: Path, name: str, dataset: dict[str, Any], large: bool) -> None:
    """A project with packed images and, where they are large, the files that the usual loop opens."""
    with atomic_write(project) as folder:
        (folder / "data/decisions").mkdir(parents=True)
        write_json(folder / "params.yaml", {"seed": params.load().seed, "datasets": {name: dataset}})
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "DVC_ROOT": str(folder.resolve())}
        for stage in STAGES:
            print(f"{stage} {name} …", file=sys.stderr, flush=True)
            command = [sys.executable, "-m", f"pipeline.{stage}", name]
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                raise UserError(f"{stage} of {name} failed: {done.stderr.strip().splitlines()[-1]}")
        if large:
            (archive,) = files_of(Path(dataset["source"]))
            shutil.unpack_archive(archive, folder / "files")


def weights(experiment: str, network: Any, project: Path) -> tuple[str, bool]:
    """The file of pretrained weights, and whether it holds random ones because the published can't be had."""
    fetched = next(Path("data/weights", experiment).glob("[!.]*"), None)
    if fetched:
        return str(fetched.resolve()), False
    import torch
    import torchvision

    file = project / f"{network.model}-random.pth"
    if not file.exists():
        torch.manual_seed(0)
        with atomic_write(file) as partial:
            torch.save(torchvision.models.get_model(network.model, weights=None).state_dict(), partial)
    return file.name, True
