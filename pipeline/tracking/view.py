"""How MLflow's page shows the runs of a data set: val first, the best run on top.

By itself the page opens on its part for generative AI, and its table shows no metrics. An address can ask for the runs
of model training and for a shared view. The page keeps such views as tags of the experiment, in this form.
"""

from __future__ import annotations

import json

KEY = "training"
TAG = f"mlflow.sharedViewState.{KEY}"
COLUMNS = ("val_accuracy", "val_macro_f1", "val_loss", "test_accuracy")
CHARTS = ("val_accuracy", "val_loss", "val_macro_f1", "train_accuracy", "train_loss")  # MLflow puts others after these
IMAGES = ("train_batch", "confusion_matrix")  # of each run, side by side
SECTION = "metrics"


def state() -> str:
    """The view, as the value of TAG."""
    columns = [f"metrics.`{key}`" for key in COLUMNS]
    about = ["attributes.`User`", "attributes.`Version`"]
    of_all = {"metricSectionId": SECTION, "isGenerated": True, "deleted": False}
    # MLflow itself makes bars of metrics with steps into lines
    metrics = [{"type": "BAR", "uuid": key, "metricKey": key, "displayName": key, **of_all} for key in CHARTS]
    images = [{"type": "IMAGE", "uuid": key, "imageKeys": [key], **of_all} for key in IMAGES]
    section = {"uuid": SECTION, "name": "Model metrics", "display": True, "isReordered": True, "deleted": False}
    return json.dumps(
        {
            "orderByKey": columns[0],
            "orderByAsc": False,
            "selectedColumns": [*columns, *about],
            "columnOrder": ["attributes.`Run Name`", "runDateAndNestInfo", *columns, "duration", *about],
            "columnWidths": dict.fromkeys(columns, 125),
            "compareRunCharts": [*metrics[:2], *images, *metrics[2:]],
            "compareRunSections": [section],
        }
    )


def page(server: str, experiment: str) -> str:
    """The address of the page that shows the runs of an MLflow experiment."""
    return f"{server}/#/experiments/{experiment}/runs?workflowType=machine_learning&viewStateShareKey={KEY}"
