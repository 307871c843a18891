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
from pipeline.tracking.complaint import reason

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from pipeline.config.params import Params
    from pipeline.tracking.results import Result


def register(client: MlflowClient, results: list[tuple[Result, Run]]) -> Iterator[str]:
    """Yield a line for each model that is judged now, and for each that can't be taken, or that MLflow refuses."""
    from mlflow import MlflowException

    absent = [result.experiment for result, _ in results if not Path("models", result.experiment).exists()]
    if absent:
        yield f"without a model, as models/ is not here (dvc pull brings it): {', '.join(absent)}"
    present = [(result, run) for result, run in results if result.experiment not in absent]
    if not present:
        return
    known = params.load()
    done: dict[str, set[str | None]] = {}
    for result, run in in_order(present, list(known.experiments)):
        gates = gates_of(known, result.dataset)
        try:
            if result.dataset not in done:
                done[result.dataset] = judged(client, result.dataset, gates)
            if run.info.run_id in done[result.dataset]:
                continue
            version = version_of(client, run, result)
            told = version and promote(client, version, result.experiment, gates)
        except (UserError, MlflowException) as error:  # as where a user may log runs, but not register models
            why = error if isinstance(error, UserError) else reason(error)
            yield f"warning: the model of {result.experiment} is not registered: {why}"
            continue
        if version and told:
            yield f"{result.dataset} version {version.version} ({result.experiment}): {told}"


def gates_of(known: Params, dataset: str) -> Gates:
    return known.datasets[dataset].gates if dataset in known.datasets else Gates()


def in_order(results: list[tuple[Result, Run]], experiments: list[str]) -> list[tuple[Result, Run]]:
    """As they were trained; those that came together, as with a clone, as `dvc repro` trains `experiments`."""
    place = {name: number for number, name in enumerate(experiments)}
    return sorted(results, key=lambda pair: (pair[1].info.start_time, place.get(pair[0].experiment, len(place))))
