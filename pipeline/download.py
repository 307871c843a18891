"""Stage `download`: published files of a data set, or an experiment's pretrained weights, byte for byte and verified.

The environment variable DATA_MIRROR names a folder or URL to look in first: it holds DATASET/FILE and weights/FILE,
and of the Hugging Face hub weights/OWNER/REPOSITORY/FILE.
"""

from __future__ import annotations

from pipeline.system.entry import command_line, name_in

import hashlib
import re
import shutil
from pathlib import Path, PurePosixPath

from pipeline.config import params
from pipeline.config.fields import hint
from pipeline.config.networks import BackboneConfig, HubWeights, Network, TorchvisionConfig, WeightsFile
from pipeline.fetching.aside import set_aside
from pipeline.fetching.checksums import Wanted
from pipeline.fetching.mirrors import clear, fetch_all, user_mirror
from pipeline.system.console import UserError, run, say
from pipeline.system.lock import alone
from pipeline.system.outputs import atomic_write, remove

RAW = Path("data/raw")
WEIGHTS = Path("data/weights")
WAITING = Path("data/.downloads")  # outside the outputs, which DVC deletes when a stage starts again
RANDOM = "Random weights to start from.\n"
NONE = Wanted("none.txt", sha256=hashlib.sha256(RANDOM.encode()).hexdigest())
CHECKSUM_IN_NAME = re.compile(r"-([0-9a-f]{8,64})$")  # of the stem: torchvision's rule


def main() -> None:
    parser = command_line("download", __doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("dataset", nargs="?", type=name_in, metavar="DATASET")
    what.add_argument("--weights", type=name_in, metavar="EXPERIMENT")
    arguments = parser.parse_args()
    if arguments.weights:
        download_weights(arguments.weights)
    else:
        download_dataset(arguments.dataset)


def download_dataset(name: str) -> None:
    """Fetch the files of `downloads.NAME` into data/raw/NAME, once all of them are verified.

    Raises UserError when every place fails, OSError when the disk does.
    """
    entry = params.load().download(name)
    files = [Wanted(plain(file), **published.model_dump()) for file, published in entry.files.items()]
    with alone(f"download@{name}"):
        fetch_dataset(name, files, entry.mirrors)


def fetch_dataset(name: str, files: list[Wanted], mirrors: list[str]) -> None:
    if fetch_into(RAW / name, files, user_mirror(name) + mirrors, WAITING / name, name) == 0:
        say(f"{RAW / name} is complete")


def fetch_into(folder: Path, files: list[Wanted], mirrors: list[str], waiting: Path, held_as: str) -> int:
    """Make `folder` hold these files, verified, and nothing else. Returns how many were not there yet.

    Nothing there changes until all of them are in `waiting`. What else it holds is set aside, not removed.
    """
    present = [wanted.name for wanted in files if wanted.is_at(folder / wanted.name)]
    missing = [wanted for wanted in files if wanted.name not in present]
    if missing:
        complete = fetch_all(files, mirrors, waiting, held_as, present)
    set_aside(folder, missing, waiting, present)
    folder.mkdir(parents=True, exist_ok=True)
    for wanted in missing:
        shutil.move(complete / wanted.name, folder / wanted.name)
    if waiting.exists():
        clear(waiting, files)
    return len(missing)


def download_weights(experiment: str) -> None:
    """Fetch the pretrained weights of an experiment's network into data/weights/EXPERIMENT.

    A network that starts from random weights gets a file none.txt there.
    Raises UserError when every place fails or torchvision has no such weights, OSError when the disk does.
    """
    network = params.load().experiment(experiment).network
    with alone(f"weights@{experiment}"):
        fetch_weights(experiment, network)


def fetch_weights(experiment: str, network: Network) -> None:
    folder = WEIGHTS / experiment
    waiting = WAITING / f"weights@{experiment}"  # no data set's name has an @
    if not isinstance(network, BackboneConfig) or network.weights is None:
        set_aside(folder, [NONE], waiting)
        with atomic_write(folder) as partial:
            partial.mkdir()
            (partial / NONE.name).write_text(RANDOM)  # DVC warns of an empty folder
        return
    wanted, mirrors = weights_file(network, waiting)
    elsewhere = [str(path.parent) for path in sorted(WEIGHTS.glob(f"*/{wanted.name}")) if path.parent != folder]
    held_as = f"weights/{network.weights.repo_id}" if isinstance(network.weights, HubWeights) else "weights"
    if NONE.is_at(folder / NONE.name):
        remove(folder / NONE.name)
    fetch_into(folder, [wanted], elsewhere + user_mirror(held_as) + mirrors, waiting, held_as)


def weights_file(network: BackboneConfig, waiting: Path) -> tuple[Wanted, list[str]]:
    """What identifies the file of pretrained weights, and the mirrors that the config or its publisher names."""
    weights = network.weights
    if isinstance(weights, WeightsFile):
        return Wanted(plain(weights.file), sha256=weights.sha256), weights.mirrors
    if isinstance(weights, HubWeights):
        from pipeline.fetching.hub import hub_file

        return hub_file(weights, waiting)
    assert isinstance(network, TorchvisionConfig) and weights is not None, "others name a file or a hub"
    return torchvision_file(network, weights)


def torchvision_file(network: TorchvisionConfig, weights: str) -> tuple[Wanted, list[str]]:
    """What torchvision publishes under that name, and the URL of the folder that holds it.

    Raises UserError, with what there is, if torchvision knows no such model or weights.
    """
    builder = network.builder()

    from torchvision import models

    published = models.get_model_weights(builder).__members__
    if weights not in published:
        raise UserError(
            f"{params.FILE}: network.weights = '{weights}': torchvision has no such weights of {network.model}"
            f"{hint(weights, published)}; it has: {', '.join(published)}"
        )
    mirror, _, name = published[weights].value.url.rpartition("/")
    return Wanted(name, sha256_prefix=checksum_in(name)), [mirror]


def checksum_in(name: str) -> str:
    """The first digits of a file's sha256, as `alexnet-owt-7be5be79.pth` carries them.

    Raises UserError for a name without.
    """
    found = CHECKSUM_IN_NAME.search(PurePosixPath(name).stem)
    if not found:
        raise UserError(
            f"{name}: expected a name that ends with -XXXXXXXX, the first digits of its sha256; "
            f"name the file in {params.FILE} instead: weights: {{file, sha256, mirrors}}"
        )
    return found[1]


def plain(name: str) -> str:
    """The name of a file, which can't lead out of its folder.

    Raises UserError for a path.
    """
    if name in ("", ".", "..") or "/" in name or "\\" in name:
        raise UserError(
            f"{params.FILE}: file '{name}': expected a file's name, not a path; the mirror names the folder"
        )
    return name


if __name__ == "__main__":
    run(main)
