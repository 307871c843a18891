"""A version for each result, of the registered model that is named as the data set. Logging it twice adds nothing."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.evaluation.stored import check_files
from pipeline.registry import logged
from pipeline.system import readers
from pipeline.system.console import UserError
from pipeline.tracking.uploads import upload

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.logged_model import LoggedModel
    from mlflow.entities.model_registry import ModelVersion

    from pipeline.tracking.results import Result

VERSION = "model.version"  # tag of a run that has had one: where it is gone, a person has deleted it


def version_of(client: MlflowClient, run: Run, result: Result) -> ModelVersion | None:
    """The version of a result, which is created if it is missing; None where a person has deleted it.

    Any number of processes may call this at once, and be killed at any point: the first version of a run stays. Raises
    UserError where the files of the model are missing, damaged or of another training.
    """
    found = versions_of(client, run, result.dataset)
    if not found:
        if VERSION in run.data.tags:
            return None
        model = logged_model(client, run, result)
        name_model(client, result.dataset)
        with tracking_to(client.tracking_uri):
            new = client.create_model_version(
                result.dataset,
                f"models:/{model.model_id}",
                run.info.run_id,
                tags={"experiment": result.experiment, "result": result.hash},
                await_creation_for=0,
                model_id=model.model_id,
            )
        found = versions_of(client, run, result.dataset)
        if new.version != found[0].version:
            client.delete_model_version(result.dataset, str(new.version))
    if run.data.tags.get(VERSION) != str(found[0].version):
        client.set_tag(run.info.run_id, VERSION, str(found[0].version))
    return found[0]


def versions_of(client: MlflowClient, run: Run, dataset: str) -> list[ModelVersion]:
    """The versions of a run's model, the first one first; more than one only while several processes log it.

    Those that a person has made of it under other names are left alone.
    """
    found = client.search_model_versions(f"run_id = '{run.info.run_id}'")
    return sorted((each for each in found if each.name == dataset), key=lambda version: int(version.version))


def name_model(client: MlflowClient, dataset: str) -> None:
    from mlflow import MlflowException

    try:
        client.create_registered_model(dataset, description=f"Classifies images of {dataset}")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def logged_model(client: MlflowClient, run: Run, result: Result) -> LoggedModel:
    """The model of a run with its files, which are uploaded if they are missing."""
    about = description_of(result)
    with tempfile.TemporaryDirectory() as folder, quiet():
        logged.save(Path("models", result.experiment), about, Path(folder, "model"))
        experiment, run_id = run.info.experiment_id, run.info.run_id
        found = first_model(client, run)
        if found is None:
            client.create_logged_model(
                experiment, result.experiment, run_id, tags={"result": result.hash}, model_type="classifier"
            )
            found = first_model(client, run)
            assert found is not None
        if found.status != "READY":
            files = [file for file in Path(folder, "model").rglob("*") if file.is_file()]
            upload(partial(client.log_model_artifact, found.model_id), Path(folder, "model"), files)
            link(client, run_id, found, len(result.history))
            client.finalize_logged_model(found.model_id, "READY")
    return found


def link(client: MlflowClient, run_id: str, model: LoggedModel, epochs: int) -> None:
    """Name the model as an output of its run, unless another process has done so."""
    from mlflow import MlflowException
    from mlflow.entities import LoggedModelOutput

    try:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=epochs)])
    except MlflowException as error:
        if error.error_code != "BAD_REQUEST":
            raise


def first_model(client: MlflowClient, run: Run) -> LoggedModel | None:
    """The model that was created first for a run: others come of processes that log it at the same time."""
    found = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run.info.run_id}'")
    return min(found, key=lambda model: (model.creation_timestamp, model.model_id), default=None)


def description_of(result: Result) -> dict[str, Any]:
    """The content of model.json. Raises UserError where it, or the weights, are not those of the result's training."""
    folder, stage = Path("models", result.experiment), f"train@{result.experiment}"
    about = readers.read_json(folder / "model.json", stage)
    if about.get("dataset") != result.dataset:
        raise UserError(
            f"{folder} is a model of the data set {about.get('dataset')}, not {result.dataset}: run dvc repro {stage}"
        )
    check_files(folder, Path("reports", result.experiment, "provenance.json"), stage)
    if not (folder / "model.safetensors").exists():
        raise readers.missing(folder / "model.safetensors", stage)
    return about


@contextmanager
def tracking_to(uri: str) -> Iterator[None]:
    """MLflow's registry looks for a model where tracking goes by default, not where its client's goes."""
    name = "MLFLOW_TRACKING_URI"
    before = os.environ.get(name)
    os.environ[name] = uri
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextmanager
def quiet() -> Iterator[None]:
    """Without MLflow's notes on its own steps."""
    import mlflow  # it sets the level of its logger

    logger = logging.getLogger(mlflow.__name__)
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
