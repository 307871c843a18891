"""Images that do not fit into memory: training reads them as it goes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ENVIRONMENT, REPOSITORY
from things import pack, splits_of

BUDGET = 98  # MB

# Prints the peak memory of a training, in MB, and a digest of the weights
TRAIN = """
import hashlib, sys
from pathlib import Path
from benchmarks.job import peak_bytes
from pipeline.config.experiments import Experiment
from pipeline.dataset.packed import PackedDataset
from pipeline.system.device import make_deterministic, select_device
from pipeline.training.data import TrainingData
from pipeline.training.distributed import ALONE
from pipeline.training.model import make_model
from pipeline.training.trainer import Trainer
config = Experiment.model_validate(
    dict(
        dataset="things", network=dict(name="mlp", hidden=[]), epochs=1, batch_size=50,
        optimizer=dict(name="sgd", lr=0.01), augment=dict(horizontal_flip=0.5),
        compute=dict(cache_mb=int(sys.argv[2])),
    )
)
folder = Path(sys.argv[1])
device, threads = select_device(config.compute)
make_deterministic(device, threads)
packed = PackedDataset(folder, folder.parents[1] / "splits" / f"{folder.name}.parquet")
data = TrainingData(packed, config, device, ALONE)
model = make_model(data, 1)
Trainer(model, config, data.train, data.val, 1, folder / "saved.pt").fit()
weights = b"".join(value.numpy().tobytes() for value in model.state_dict().values())
print(data.train.pixels.resident is None, peak_bytes() // 2**20)
print(hashlib.sha256(weights).hexdigest())
"""


def trained(folder: Path, cache_mb: int) -> tuple[bool, int, str]:
    (folder / "saved.pt").unlink(missing_ok=True)
    command = [sys.executable, "-c", TRAIN, str(folder), str(cache_mb)]
    done = subprocess.run(
        command, env={**ENVIRONMENT, "PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True, check=True
    )
    streams, peak, digest = done.stdout.split()[-3:]
    return streams == "True", int(peak), digest


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of a process from /proc")
def test_streaming_stays_within_the_budget(tmp_path: Path) -> None:
    side = 128  # 49 kB an image
    small = pack(tmp_path / "packed/small", count=120, height=side, width=side, val=50)
    repeat(small, 8)  # enough for whole batches, also of evaluation: what those take is not the images'
    large = pack(tmp_path / "packed/large", count=200, height=side, width=side, val=50)
    repeat(large, 40)  # 393 MB: four times the budget
    streams, base, _ = trained(small, 0)
    assert streams
    streams, peak, digest = trained(large, BUDGET)
    print(f"393 MB of images, {BUDGET} MB allowed: {peak} MB at most, against {base} MB for 960 images")
    assert streams
    assert peak - base < 1.5 * BUDGET  # where threads wait for each other, malloc takes another 64 MB at times
    streams, at_once, same = trained(large, 1000)
    assert not streams
    assert at_once - base > 2 * BUDGET
    assert same == digest  # streamed or resident: the same bytes


def repeat(folder: Path, times: int) -> None:
    """Write a packed data set's images so many times."""
    images = np.load(folder / "images.npy")
    shape = (times * len(images), *images.shape[1:])
    array = np.lib.format.open_memmap(folder / "images.npy.more", "w+", np.uint8, shape)
    for start in range(0, len(array), len(images)):
        array[start : start + len(images)] = images
    (folder / "images.npy.more").rename(folder / "images.npy")
    for file in (folder / "index.parquet", splits_of(folder)):
        table = pq.read_table(file)
        paths = [f"{number}-{path}" for number in range(times) for path in table["path"].to_pylist()]
        pq.write_table(pa.concat_tables([table] * times).set_column(0, "path", [paths]), file)
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps({**meta, "images": len(array)}))


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of a process from /proc")
def test_nothing_has_to_fit(tmp_path: Path) -> None:
    folder = pack(tmp_path / "packed/things", count=60, height=96, width=96)
    assert trained(folder, 0)[0]
