"""Take the models of results into MLflow's registry, in the order of their training, and judge each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config import params
from pipeline.config.datasets import Gates
from pipeline.registry.champion import promote
from pipeline.registry.versions import version_of
from pipeline.system.console import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from pipeline.tracking.results import Result


def register(client: MlflowClient, results: list[tuple[Result, Run]]) -> Iterator[str]:
    """Yield a line for each model that is judged now, and for each that can't be taken."""
    absent = []
    for result, run in sorted(results, key=lambda pair: pair[1].info.start_time):
        name = result.experiment
        if not Path("models", name).exists():
            absent.append(name)
            continue
        try:
            version = version_of(client, run, result)
            reason = version and promote(client, version, name, gates_of(result.dataset))
        except UserError as error:
            yield f"warning: the model of {name} is not registered: {error}"
            continue
        if version and reason:
            yield f"{result.dataset} version {version.version} ({name}): {reason}"
    if absent:
        yield f"without a model, as models/ is not here (dvc pull brings it): {', '.join(absent)}"


def gates_of(dataset: str) -> Gates:
    known = params.load().datasets
    return known[dataset].gates if dataset in known else Gates()
