"""Features of a frozen backbone: computed once for each view, they train a head as the whole network would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import Project
from safetensors.torch import load, save
from samples import bit_flipped
from test_training import files, stage
from things import batches, config, fresh, opened, pack
from things import one_thread as one_thread
from torchvision import models

from pipeline.dataset.batches import Batches
from pipeline.training import setup
from pipeline.training.features import Features
from pipeline.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

FROZEN = {"name": "torchvision", "model": "squeezenet1_1", "freeze": True}
PLAIN = {"network": FROZEN, "augment": {"rotation": 20, "horizontal_flip": 0.5}, "epochs": 3, "batch_size": 8}


@pytest.fixture
def photos(project: Project) -> Project:
    pack(project.root / "data/packed/things", height=40, width=40)
    project.dataset("things", "data/raw/things", 40)
    return project


def cached(project: Project) -> dict[str, int]:
    """The files of features that are kept, and when each was written."""
    folders = (project.root / ".checkpoints").glob("features@*")
    return {path.name: path.stat().st_mtime_ns for folder in folders for path in folder.rglob("*.npy")}


def test_head_trains_on_features_as_in_the_whole_network(photos: Project, tmp_path: Path) -> None:
    packed = opened(photos.root / "data/packed/things")
    described = config(**PLAIN)
    whole, train, val = fresh(packed, described), batches(packed, "train"), batches(packed, "val")
    expected = Trainer(whole, described, train, val, 1, tmp_path / "whole.pt").fit()

    model: Any = fresh(packed, described)
    data = Features(model.backbone, train, described, 1, tmp_path / "features")
    validation = Features(model.backbone, val, described, 1, tmp_path / "features/val").unchanged()
    history = Trainer(model.head, described, data, validation, 1, tmp_path / "head.pt").fit()
    for ours, theirs in zip(history, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    assert torch.allclose(model.head[0].weight, whole.head[0].weight, atol=1e-5)


def test_views_are_shared_by_every_head(photos: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    stage(photos, monkeypatch, "things-a", **{**PLAIN, "views": 2})
    kept = cached(photos)
    assert set(kept) == {"view-0.npy", "view-1.npy", "view-2.npy"}
    deeper = {**PLAIN, "views": 2, "network": {**FROZEN, "head": {"hidden": [5]}}, "batch_size": 16}
    reused = files(stage(photos, monkeypatch, "things-b", **deeper))
    assert cached(photos) == kept
    for folder in (photos.root / ".checkpoints").iterdir():
        folder.rename(folder.with_name("elsewhere"))
    assert files(stage(photos, monkeypatch, "things-b", **deeper)) == reused
    assert set(cached(photos)) == set(kept)
    others: tuple[dict[str, Any], ...] = ({"normalize": "imagenet"}, {"augment": {}}, {"seed": 5})
    for other in others:  # other features: of their own
        stage(photos, monkeypatch, "things-c", **{**deeper, **other, "epochs": 1})
    assert len(list((photos.root / ".checkpoints").glob("features@*"))) == 4


def test_features_that_are_damaged_are_computed_again(
    photos: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    everything = {**PLAIN, "views": 2}
    whole = files(stage(photos, monkeypatch, "things-a", **everything))
    (folder,) = (photos.root / ".checkpoints").glob("features@*")
    views = files(folder)
    capsys.readouterr()
    for name, damage in (
        ("view-1.npy", lambda data: bit_flipped(data, len(data) // 2)),
        ("view-2.npy", lambda data: data[:-4]),
        ("val/view-0.npy", lambda data: b""),
        ("view-2.npy.sha256", lambda data: bit_flipped(data, 3)),
    ):
        (folder / name).write_bytes(damage(views[name]))
        assert files(stage(photos, monkeypatch, "things-a", **everything)) == whole
        lines = [line for line in capsys.readouterr().out.splitlines() if "damaged" in line]
        assert len(lines) == 1 and name.removesuffix(".sha256") in lines[0]
        assert files(folder) == views
    (folder / "view-1.npy").unlink()
    assert files(stage(photos, monkeypatch, "things-a", **everything)) == whole
    assert files(folder) == views


@pytest.mark.parametrize("views", [None, 2])
def test_features_of_other_code_do_not_stay(
    photos: Project, monkeypatch: pytest.MonkeyPatch, views: int | None
) -> None:
    described = {**PLAIN, "views": views}

    def kept() -> list[str]:
        return sorted(path.parent.as_posix() for path in photos.root.glob(".checkpoints/**/view-1.npy"))

    def killed(self: Trainer, *_: object) -> None:
        self.train_data.view(1)
        raise KeyboardInterrupt

    versions = []
    for version in ("before", "after"):
        with monkeypatch.context() as patched:
            patched.setattr(setup, "version", lambda *rooms, version=version: version)
            patched.setattr(Trainer, "fit", killed)
            with pytest.raises(KeyboardInterrupt):
                stage(photos, patched, "things-a", **described)
        versions.append(kept())
    assert [len(folders) for folders in versions] == [1, 1] and versions[0] != versions[1]
    if views is None:  # nobody else reads them: they go as soon as anything of the experiment has changed
        stage(photos, monkeypatch, "things-a", **described, normalize="imagenet")
        assert kept() == []


def test_as_many_views_as_epochs_is_the_published_study(photos: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    histories = []
    for number, views in enumerate((None, 3, 1)):
        more = {} if views is None else {"views": views}
        stage(photos, monkeypatch, f"things-{number}", **{**PLAIN, **more})
        histories.append(pd.read_csv(photos.root / f"reports/things-{number}/history.csv"))
        if views is None:
            assert cached(photos) == {}  # nobody asked for them again
    assert histories[0].equals(histories[1])
    assert not histories[0].equals(histories[2])


def test_images_that_never_change_go_through_the_backbone_once(
    photos: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[Path] = []
    compute = Features.compute
    monkeypatch.setattr(
        Features, "compute", lambda self, file, view: computed.append(file) or compute(self, file, view)
    )
    stage(photos, monkeypatch, "things-a", **{**PLAIN, "augment": {}})
    assert len(computed) == 2  # train and val
    assert cached(photos) == {}


@pytest.mark.parametrize(("augment", "views"), [({}, 2), ({"horizontal_flip": 0.5}, 4)])
def test_seeds_share_the_features_of_pretrained_weights_where_nothing_is_random(
    photos: Project, monkeypatch: pytest.MonkeyPatch, augment: dict[str, Any], views: int
) -> None:
    weights = photos.root / "data/weights/things-a/squeezenet.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(save(models.squeezenet1_1().state_dict()))
    network = {**FROZEN, "weights": {"file": weights.name, "sha256": "0" * 64}}
    computed: list[Path] = []
    compute = Features.compute
    monkeypatch.setattr(
        Features, "compute", lambda self, file, view: computed.append(file) or compute(self, file, view)
    )
    folder = stage(photos, monkeypatch, "things-a", network=network, augment=augment, epochs=1, batch_size=8, seeds=2)
    assert len(computed) == views  # train and val, of one seed or of each
    heads = [
        load((folder / file).read_bytes())["head.0.weight"] for file in ("model.safetensors", "seed-2.safetensors")
    ]
    assert not heads[0].equal(heads[1])


def test_a_head_is_not_judged_by_mirrored_features(photos: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    histories = []
    for flip in (False, True):
        stage(photos, monkeypatch, "things-a", **PLAIN, tta=flip)
        histories.append(pd.read_csv(photos.root / "reports/things-a/history.csv"))
    assert histories[0].equals(histories[1])


def test_features_of_a_view_do_not_depend_on_what_was_asked_before(photos: Project, tmp_path: Path) -> None:
    packed = opened(photos.root / "data/packed/things")
    model: Any = fresh(packed, config(**PLAIN))

    def features(folder: str, *epochs: int) -> torch.Tensor:
        data = Features(model.backbone, batches(packed, "train"), config(**PLAIN), 1, tmp_path / folder)
        for epoch in epochs:
            data.view(epoch)
        (found,) = data.batches([torch.arange(len(data))])
        return found

    assert features("a", 2).equal(features("b", 1, 2))
    assert not features("c", 1).equal(features("d", 2))


def test_images_that_are_mixed_go_through_the_backbone(photos: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Features of a mixture are no mixture of features."""
    shown: list[int] = []
    original = Batches.batches
    monkeypatch.setattr(Batches, "batches", lambda self, chosen: shown.append(1) or original(self, chosen))
    stage(photos, monkeypatch, "things-a", **{**PLAIN, "augment": {"mixup": 0.2}})
    assert len(shown) == 7  # train and val, in every epoch, and val for the temperature
    assert cached(photos) == {}
