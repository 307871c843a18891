"""Read the result of an experiment from `dvc.lock`, `reports/<experiment>/` and `models/<experiment>/`."""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.evaluation.stored import check_predictions
from pipeline.system import readers
from pipeline.system.console import UserError, say
from pipeline.tracking.origin import Origin, of_result

LOCK = Path("dvc.lock")
# Two results are the same if these files are; dvc.lock has the md5 of each
IDENTIFYING = (
    "history.csv",
    "metrics.json",
    "confusion_matrix.csv",
    "classification_report.json",
    "predictions.parquet",
)


@dataclass
class Result:
    """What a trained and evaluated experiment has given."""

    experiment: str
    dataset: str
    params: dict[str, Any]  # the experiment's section of params.yaml, and the seed
    history: list[dict[str, float]]  # a row for each epoch
    metrics: dict[str, Any]  # the content of metrics.json
    digest: str | None  # DVC's hash of the packed data set
    fingerprint: str | None  # of the training, by which its live run is found
    hash: str  # see `result_hash`
    folder: Path  # of the report
    is_whole: bool  # whether the files that DVC keeps of it are here, too
    files: list[Path]
    origin: Origin


def locked_experiments(stages: dict[str, Any]) -> list[str]:
    """The experiments that have been trained and evaluated, according to the stages of `dvc.lock`."""
    names = [stage.removeprefix("evaluate@") for stage in stages if stage.startswith("evaluate@")]
    return [name for name in names if f"train@{name}" in stages]


def locked_stages() -> dict[str, Any]:
    """The stages in `dvc.lock`. Raises UserError where there is none, and ValueError for half a file."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    if not LOCK.exists():
        raise UserError(f"{LOCK} is not here: run this in the project's root folder, after dvc repro")
    stages: dict[str, Any]
    try:
        stages = YAML(typ="safe").load(LOCK.read_text(encoding="utf-8"))["stages"]
        entries = [entry for stage in stages.values() for kind in ("deps", "outs") for entry in stage.get(kind, [])]
        is_whole = all(entry["path"] for entry in entries)
    except (YAMLError, AttributeError, TypeError, KeyError):
        is_whole = False
    if not is_whole:  # DVC writes it in place, at this moment or until it was killed
        raise ValueError(f"{LOCK} is cut off: `git checkout {LOCK}`, then dvc repro")
    return stages


def read_result(name: str, stages: dict[str, Any]) -> Result | None:
    """The result of an experiment, of which dvc.lock has `stages`.

    None, with a printed note, if its report is missing or of another model. Raises UserError for an experiment that was
    never trained here.
    """
    if f"train@{name}" not in stages:
        raise UserError(f"{LOCK} has no train@{name}: run dvc repro evaluate@{name}")
    evaluated = stages.get(f"evaluate@{name}", {})
    model = Path("models", name)
    # while evaluate itself runs, the lock is still that of the evaluation before
    if not os.environ.get("DVC_STAGE", "").endswith(f"evaluate@{name}") and (
        locked_md5s(evaluated, "deps").get(model.as_posix()) != locked_md5s(stages[f"train@{name}"])[model.as_posix()]
    ):
        say(f"{name}: trained but not evaluated since; run dvc repro evaluate@{name}")
        return None
    folder = Path("reports", name)
    if not ((folder / "metrics.json").exists() and (folder / "history.csv").exists()):
        say(f"{name}: {folder} is not here; git checkout brings it, or dvc repro while params.yaml has {name}")
        return None
    try:
        check_predictions(name)
    except UserError as error:
        say(f"{name}: {error}")
        return None
    locked_params = stages[f"train@{name}"]["params"]["params.yaml"]
    config = locked_params[f"experiments.{name}"]
    dataset = config["dataset"]
    outs = [*locked_md5s(stages[f"train@{name}"]), *locked_md5s(evaluated)]
    fingerprint, key = provenance_of(name).get("fingerprint"), result_hash(folder, locked_md5s(evaluated))
    return Result(
        experiment=name,
        dataset=dataset,
        params={"seed": locked_params["seed"], **config},
        history=read_history(folder / "history.csv", f"train@{name}"),
        metrics=readers.read_metrics(name),
        digest=locked_md5s(stages.get(f"pack@{dataset}", {})).get(f"data/packed/{dataset}"),
        fingerprint=fingerprint,
        hash=key,
        folder=folder,
        is_whole=all(Path(out).exists() for out in outs if Path(out).is_relative_to(folder)),
        files=sorted(file for file in folder.rglob("*") if file.is_file() and is_result(file.relative_to(folder))),
        origin=of_result(key, folder, fingerprint),
    )


def provenance_of(name: str) -> dict[str, Any]:
    """What an experiment was made of, as its provenance.json tells; empty where there is none."""
    file = Path("reports", name, "provenance.json")
    return readers.read_json(file, f"train@{name}") if file.exists() else {}


def is_result(file: Path) -> bool:
    """Whether a file of a report, at this path in it, is written by a stage; pages are views of such files."""
    return file.suffix != ".html" and not any(part.startswith(".") for part in file.parts)


def read_history(file: Path, stage: str) -> list[dict[str, float]]:
    """A row for each epoch of a history.csv. Raises UserError, which names the stage, where it is damaged."""
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            rows = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(lines)]
            if not all("epoch" in row for row in rows):
                raise ValueError("it has no column epoch")
            return rows
    except (ValueError, TypeError, AttributeError, csv.Error) as error:  # of a row with more or fewer fields, too
        raise readers.damaged(file, error, stage) from None


def locked_md5s(stage: dict[str, Any], kind: Literal["deps", "outs"] = "outs") -> dict[str, str]:
    """The md5 of each dependency or output of a stage, by its path."""
    return {entry["path"]: entry["md5"] for entry in stage.get(kind, [])}


def result_hash(folder: Path, locked: dict[str, str]) -> str:
    """One hash of the IDENTIFYING files of a report. `locked` has the md5 of those that were not pulled from DVC."""
    md5s = []
    for name in IDENTIFYING:
        file = folder / name
        if file.exists():
            md5s.append(hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest())
        else:
            md5s.append(locked.get(file.as_posix(), ""))
    return hashlib.sha256("\n".join((folder.name, *md5s)).encode()).hexdigest()[:32]


def flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested dictionaries, with their keys joined by dots."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
