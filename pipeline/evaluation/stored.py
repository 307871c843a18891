"""What a model said of images, as `evaluate` keeps it, and whether that and the model's files belong together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.system import readers
from pipeline.system.checksummed import checksum
from pipeline.system.console import UserError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

FILE = "predictions.parquet"
WEIGHTS = "weights"  # in its metadata: the SHA-256 of the weights that the predictions are by
IMAGE = ("path", "pixel_hash", "label")  # columns that are equal where two predictions are of the same image and label
COLUMNS: dict[str, type] = {**dict.fromkeys(IMAGE, str), "split": str, "predicted": str, "probability": float}


def read_val(file: Path, stage: str) -> pa.Table:
    """The predictions of validation images: columns IMAGE, `predicted` and `probability`; no rows if there are none.

    Raises UserError, which names the stage, for a file that is missing or damaged.
    """
    import pyarrow.compute as pc

    table = readers.read_table(file, COLUMNS, stage)
    return table.filter(pc.equal(table["split"], "val")).drop_columns("split")


def write_predictions(file: Path, predictions: pd.DataFrame, folder: Path) -> None:
    """Write what the model in a folder says of images, with the SHA-256 of its weights in the metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pandas(predictions, preserve_index=False)
    weights = checksum(folder / "model.safetensors").hex()
    pq.write_table(table.replace_schema_metadata({**(table.schema.metadata or {}), WEIGHTS: weights}), file)


def weights_of(predictions: Path) -> str | None:
    """The SHA-256 of the weights that predictions are by; None where the file doesn't tell, or can't be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        weights = (pq.read_schema(predictions).metadata or {}).get(WEIGHTS.encode())
    except (OSError, pa.ArrowException):
        return None  # who reads it says what is wrong with it
    return weights.decode(errors="replace") if weights else None


def check_evaluated(folder: Path, name: str) -> None:
    """Raises UserError where the predictions of an experiment are by other weights than those in a folder."""
    weights = weights_of(Path("reports", name, FILE))
    if weights is not None and weights != checksum(folder / "model.safetensors").hex():
        raise UserError(f"reports/{name} is of other weights than {folder}: run dvc repro evaluate@{name}")


def check_predictions(name: str) -> None:
    """Raises UserError where predictions and the reports in git are of two trainings, as after git pull alone."""
    folder = Path("reports", name)
    file, provenance = folder / FILE, folder / "provenance.json"
    weights = weights_of(file)
    if weights is None or not provenance.exists():
        return
    known = readers.read_json(provenance, f"train@{name}").get("model")
    if isinstance(known, dict) and known.get("model.safetensors") != weights:
        raise UserError(
            f"{file} is of another training than {provenance}: run dvc checkout, dvc pull or dvc repro evaluate@{name}"
        )


def check_files(folder: Path, provenance: Path, stage: str) -> None:
    """Raises UserError unless the files of a model are those that its training's provenance.json tells of."""
    known = readers.read_json(provenance, stage).get("model")
    if not isinstance(known, dict):
        raise readers.damaged(provenance, "it has no model", stage)
    for file in sorted(folder.glob("[!.]*")):
        if known.get(file.name) != checksum(file).hex():
            raise UserError(
                f"{file} is not the file that {provenance} tells of: run dvc checkout {folder}, or dvc repro {stage}"
            )
