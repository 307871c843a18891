"""Which model of a data set is its champion: the first that passes the gates, until another is better on val.

A version is judged once for the gates of its time, and the reason is written on it. So an alias that a person moves or
deletes stays as it is, until a new model is better.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pipeline.evaluation.calibration import binned
from pipeline.evaluation.paired import pair
from pipeline.evaluation.stored import FILE, IMAGE, read_val
from pipeline.system import readers
from pipeline.system.console import first_few, printable

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

    from pipeline.config.datasets import Gates

ALIAS = "champion"
NAMED = 3  # gates that a model does not pass
GATES = "gates"  # tag of a version: those by which it was judged
CHAMPION, NOT = "Champion: ", "Not champion: "  # how a reason begins


class Verdict(NamedTuple):
    champion: bool
    reason: str


def judged(client: MlflowClient, name: str, gates: Gates) -> set[str | None]:
    """The runs whose models were judged by these gates."""
    found = client.search_model_versions(f"name = '{name}'")
    return {version.run_id for version in found if version.tags.get(GATES) == in_json(gates)}


def in_json(gates: Gates) -> str:
    return gates.model_dump_json(exclude_unset=True)


def promote(client: MlflowClient, version: ModelVersion, experiment: str, gates: Gates) -> str | None:
    """Judge a version, and give it the alias if it deserves it. Returns the reason; None without its predictions."""
    file = Path("reports", experiment, FILE)
    if not file.exists():
        return None
    name, number = version.name, str(version.version)
    own = val_of(file, experiment)
    verdict = passes(own, classes_of(experiment), gates, name)
    standing = champion_of(client, name)
    if standing is not None and str(standing.version) == number:  # as after a kill, or where the gates have changed
        if not verdict.champion:  # its tag and its reason stay those of the gates that it passed
            return f"Champion until another is better, but {verdict.reason.removeprefix(NOT)}"
        reason = version.description
    else:
        reason = contest(client, version, own, verdict).reason if verdict.champion else verdict.reason
        client.update_model_version(name, number, reason)
    client.set_model_version_tag(name, number, GATES, in_json(gates))
    return reason


def contest(client: MlflowClient, version: ModelVersion, own: pd.DataFrame, first: Verdict) -> Verdict:
    """Give the alias to a version that passes the gates, if it is better than who has it; `first`, if nobody has.

    MLflow has no locks, and another process may promote at the same time. So a version claims the alias, by the reason
    on it, before it gets it; and yields to a better one whose claim turns up.
    """
    name, number = version.name, str(version.version)
    known = {number, *(key for key, each in claims(client, name).items() if GATES in each.tags)}
    standing = champion_of(client, name)
    while True:
        verdict = first if standing is None else compare(own, standing, predictions_of(client, standing))
        if not verdict.champion:
            return verdict
        client.update_model_version(name, number, verdict.reason)
        now = champion_of(client, name)
        if (now and now.version) == (standing and standing.version):
            break
        standing = now
    holder, theirs = version, own
    while True:
        client.set_registered_model_alias(name, ALIAS, str(holder.version))
        new = {key: each for key, each in claims(client, name).items() if key not in known}
        if not new:
            return verdict if holder is version else compare(own, holder, theirs)
        known |= new.keys()
        for rival in new.values():
            predictions = predictions_of(client, rival)
            if predictions is not None and compare(predictions, holder, theirs).champion:
                holder, theirs = rival, predictions


def claims(client: MlflowClient, name: str) -> dict[str, ModelVersion]:
    """The versions that are, were or are about to be champion, by number; one without gates is still being judged."""
    found = client.search_model_versions(f"name = '{name}'")
    return {str(each.version): each for each in found if (each.description or "").startswith(CHAMPION)}


def champion_of(client: MlflowClient, name: str) -> ModelVersion | None:
    from mlflow import MlflowException

    try:
        return client.get_model_version_by_alias(name, ALIAS)
    except MlflowException as error:
        if error.error_code not in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"):
            raise
        return None


def val_of(file: Path, experiment: str) -> pd.DataFrame:
    """What the first training of an experiment says of validation images; no rows where there are none."""
    predictions: pd.DataFrame = read_val(file, f"evaluate@{experiment}").to_pandas()
    return predictions


def classes_of(experiment: str) -> list[str]:
    """The classes of a model. Raises UserError where its model.json is missing or damaged."""
    file, stage = Path("models", experiment, "model.json"), f"train@{experiment}"
    classes: list[str] = readers.read_json(file, stage).get("classes", [])
    if fault := readers.class_fault(classes):
        raise readers.damaged(file, fault, stage)
    return classes


def predictions_of(client: MlflowClient, version: ModelVersion) -> pd.DataFrame | None:
    """The same of the result of a version, which may be no more in the project; None where MLflow has it no more."""
    from mlflow import MlflowException

    try:
        kept = any(file.path == FILE for file in client.list_artifacts(version.run_id or ""))
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        kept = False
    if not kept:
        return None
    with tempfile.TemporaryDirectory() as folder:
        return val_of(
            Path(client.download_artifacts(version.run_id or "", FILE, folder)), version.tags.get("experiment", "")
        )


def passes(own: pd.DataFrame, classes: list[str], gates: Gates, dataset: str) -> Verdict:
    """Whether what a model says of validation images passes the gates of its data set.

    The recall of a class without such images is unknown, and what is unknown passes no gate.
    """
    if own.empty:
        return Verdict(False, f"{NOT}no validation images were kept apart, so nothing says how good it is.")
    right = own.label == own.predicted
    recalls = right.groupby(own.label).mean()
    found = [("accuracy", "accuracy", float(right.mean()))]
    found += [("recall", f"recall of {printable(str(name))}", float(share)) for name, share in recalls.items()]
    unknown = [printable(name) for name in classes if name not in recalls.index] if gates.recall is not None else []
    failed = [f"no images of {first_few(unknown, NAMED)} (recall unknown)"] if unknown else []
    failed += [
        f"{words} {value:.4f} is below {least:g}"
        for key, words, value in found
        if (least := getattr(gates, key)) is not None and value < least
    ]
    error = binned(own.probability.to_numpy(), right.to_numpy()).error()
    if gates.ece is not None and error > gates.ece:
        failed.append(f"calibration error {error:.4f} is above {gates.ece:g}")
    if failed:
        advice = " Add such images to val, or remove gates.recall." if unknown else ""
        told = f"on val, {first_few(failed, NAMED)} (datasets.{dataset}.gates)"
        return Verdict(False, f"{NOT}{told}.{advice}")
    passed = "passes the gates" if gates.model_fields_set else "was validated"
    return Verdict(True, f"{CHAMPION}the first model that {passed}.")


def compare(own: pd.DataFrame, standing: ModelVersion, theirs: pd.DataFrame | None) -> Verdict:
    """Whether a model is better than the champion, by the paired test on the images that validated both."""
    name = f"version {standing.version}"
    if experiment := standing.tags.get("experiment"):
        name += f" ({experiment})"
    if theirs is None or theirs.empty:
        return Verdict(
            False, f"{NOT}{name} is, and its predictions of validation images are not there to compare with."
        )
    both = own.merge(theirs, on=[*IMAGE], suffixes=("", "_theirs"))
    if both.empty:
        return Verdict(False, f"{NOT}{name} is, and was validated on other images. Move the alias yourself.")
    first = both[["label", "predicted_theirs"]].set_axis(["label", "predicted"], axis=1)
    counts, _ = pair(first, both)
    low, high = (100 * bound for bound in counts.interval())
    changed = "" if len(both) == len(own) == len(theirs) else ", those that both were validated on"
    measured = (
        f"{100 * counts.difference:+.2f} points (95 % interval {low:+.2f} to {high:+.2f}; McNemar's exact test,"
        f" p = {counts.p_value():.2g}) on {len(both):,} validation images{changed}"
    )
    verdict = counts.verdict()
    if verdict == "better":
        return Verdict(True, f"{CHAMPION}better than {name}, by {measured}.")
    words = "worse than" if verdict == "worse" else f"{verdict} from"
    return Verdict(False, f"{NOT}{words} {name}: {measured}.")
