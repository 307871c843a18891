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
    absent = [result.experiment for result, _ in results if not Path("models", result.experiment).exists()]
    if absent:
        yield f"without a model, as models/ is not here (dvc pull brings it): {', '.join(absent)}"
    for result, run in in_order([pair for pair in results if pair[0].experiment not in absent]):
        name = result.experiment
        try:
            version = version_of(client, run, result)
            reason = version and promote(client, version, name, gates_of(result.dataset))
        except UserError as error:
            yield f"warning: the model of {name} is not registered: {error}"
            continue
        if version and reason:
            yield f"{result.dataset} version {version.version} ({name}): {reason}"


def in_order(results: list[tuple[Result, Run]]) -> list[tuple[Result, Run]]:
    """As they were trained; those that came together, as with a clone, as `dvc repro` trains them."""
    listed = list(params.load().experiments) if len(results) > 1 else []
    place = {name: number for number, name in enumerate(listed)}
    return sorted(results, key=lambda pair: (pair[1].info.start_time, place.get(pair[0].experiment, len(listed))))


def gates_of(dataset: str) -> Gates:
    known = params.load().datasets
    return known[dataset].gates if dataset in known else Gates()
