"""A config trained with several seeds: never one lucky run."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import Project
from test_training import stage
from things import one_thread as one_thread
from things import pack

from pipeline import evaluate

pytestmark = pytest.mark.usefixtures("one_thread")


def test_several_seeds_have_a_mean_and_a_deviation(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pack(project.root / "data/packed/things", count=200)
    project.dataset("things", "data/raw/things", [6, 5])
    stage(project, monkeypatch, "things-mlp", seeds=3, seed=4)
    names = sorted(path.name for path in (project.root / "models/things-mlp").glob("*.safetensors"))
    assert names == ["model.safetensors", "seed-5.safetensors", "seed-6.safetensors"]
    alone = {}
    for seed in (4, 5, 6):
        stage(project, monkeypatch, f"things-{seed}", seed=seed)
        alone[seed] = (project.root / f"models/things-{seed}/model.safetensors").read_bytes()
    written = [(project.root / "models/things-mlp" / name).read_bytes() for name in names]
    assert written == list(alone.values())  # each as if it had been trained alone

    accuracies, losses = [], {}
    for name in ("things-4", "things-5", "things-6", "things-mlp"):
        project.experiment(name, "things", **({"seeds": 3, "seed": 4} if name == "things-mlp" else {}))
        project.command("evaluate")
        evaluate.main(name)
        metrics = json.loads((project.root / "reports" / name / "metrics.json").read_text())
        losses[name] = metrics["test"]["loss"]
        accuracies.append([metrics[split]["accuracy"] for split in ("val", "test")])
    assert metrics["seeds"] == 3
    for number, split in enumerate(("val", "test")):
        of_split = [pair[number] for pair in accuracies]
        assert metrics[split]["accuracy_mean"] == pytest.approx(np.mean(of_split[:3]))
        assert metrics[split]["accuracy_sd"] == pytest.approx(np.std(of_split[:3], ddof=1))
    assert accuracies[3] == accuracies[0]
    assert metrics["test"]["loss_mean"] == pytest.approx(np.mean(list(losses.values())[:3]))
    assert {f"{key}_sd" for key in metrics["test"] if f"{key}_mean" in metrics["test"]} == {
        *("accuracy_sd", "loss_sd", "macro_f1_sd", "macro_auc_sd", "ece_uncalibrated_sd", "ece_sd")
    }
    summary = json.loads((project.root / "reports/things-mlp/summary.json").read_text())
    assert summary["things-mlp"] == {"val": {key: metrics["val"][key] for key in ("accuracy_mean", "accuracy_sd")}}
    assert "over 3 trainings" in capsys.readouterr().out


def test_each_seed_starts_from_the_same_images(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the first has normalized all of them already."""
    monkeypatch.setattr("pipeline.training.model.INITIALIZATION_VALUES", 6 * 5 * 3 * 10)
    pack(project.root / "data/packed/things")
    project.dataset("things", "data/raw/things", [6, 5])
    described = {"network": {"name": "airbench", "widths": [4]}, "batch_size": "full"}
    both = stage(project, monkeypatch, "things-both", seeds=2, **described)
    alone = stage(project, monkeypatch, "things-alone", seed=2, **described)
    assert (both / "seed-2.safetensors").read_bytes() == (alone / "model.safetensors").read_bytes()
