"""Take the models of results into MLflow's registry, in the order of their training, and judge each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config import params
from pipeline.config.datasets import Gates
from pipeline.registry.champion import judged, promote
from pipeline.registry.versions import version_of
from pipeline.system.console import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from pipeline.config.params import Params
    from pipeline.tracking.results import Result


def register(client: MlflowClient, results: list[tuple[Result, Run]]) -> Iterator[str]:
    """Yield a line for each model that is judged now, and for each that can't be taken."""
    absent = [result.experiment for result, _ in results if not Path("models", result.experiment).exists()]
    if absent:
        yield f"without a model, as models/ is not here (dvc pull brings it): {', '.join(absent)}"
    present = [(result, run) for result, run in results if result.experiment not in absent]
    if not present:
        return
    known = params.load()
    gates = {result.dataset: gates_of(known, result.dataset) for result, _ in present}
    done = {run_id for dataset in gates for run_id in judged(client, dataset, gates[dataset])}
    for result, run in in_order(present, list(known.experiments)):
        if run.info.run_id in done:
            continue
        try:
            version = version_of(client, run, result)
            reason = version and promote(client, version, result.experiment, gates[result.dataset])
        except UserError as error:
            yield f"warning: the model of {result.experiment} is not registered: {error}"
            continue
        if version and reason:
            yield f"{result.dataset} version {version.version} ({result.experiment}): {reason}"


def gates_of(known: Params, dataset: str) -> Gates:
    return known.datasets[dataset].gates if dataset in known.datasets else Gates()


def in_order(results: list[tuple[Result, Run]], experiments: list[str]) -> list[tuple[Result, Run]]:
    """As they were trained; those that came together, as with a clone, as `dvc repro` trains `experiments`."""
    place = {name: number for number, name in enumerate(experiments)}
    return sorted(results, key=lambda pair: (pair[1].info.start_time, place.get(pair[0].experiment, len(place))))
