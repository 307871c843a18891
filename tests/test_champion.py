"""Models in MLflow: one version a result, and a champion that only a better one replaces."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import sys
import zipfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
import pytest
from conftest import Clone, Project, Ran, failed_in_one_line, here, run
from ruamel.yaml import YAML
from servers import ask_admin, guarded_server, mlflow_server

from pipeline import track
from pipeline.registry.champion import ALIAS
from pipeline.registry.versions import VERSION

IMAGES = 100  # in val


class Trained(Project):
    """A folder with results and models as the pipeline leaves them, but for the weights, which nobody loads here."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.dataset("letters", "data/raw/letters")
        self.home = root / "home"  # as of a queued experiment, which runs in a temporary copy of the project
        self.home.mkdir()
        self.uri = f"sqlite:///{self.home}/mlflow.db"
        self.stages: dict[str, Any] = {"pack@letters": {"outs": [{"path": "data/packed/letters", "md5": "abc.dir"}]}}

    def add(
        self, name: str, right: int, val: range = range(IMAGES), wrong_of: str = "ab", sure: float = 0.9,
        classes: str = "ab", photos: str = "",
    ) -> None:  # fmt: skip
        """A result that gets the first `right` of the images in val right; of classes a and b in turn."""
        label = np.array(["a", "b"])[np.array(val, dtype=int) % 2]
        wrong = (np.arange(len(val)) >= right) & np.isin(label, list(wrong_of))
        paths = [f"{number}.png" for number in val]
        hashes = [photos + path for path in paths]
        table = pd.DataFrame({"path": paths, "pixel_hash": hashes, "split": "val", "label": label})
        table["predicted"] = np.where(wrong, np.where(label == "a", "b", "a"), label)
        table["probability"] = np.full(len(val), sure, np.float32)
        test = pd.DataFrame([["t.png", "t.png", "test", "a", "a", 1]], columns=table.columns)
        reports, models = self.root / "reports" / name, self.root / "models" / name
        for folder in (reports, models):
            folder.mkdir(parents=True, exist_ok=True)
        pd.concat([table, test]).astype({"probability": np.float32}).to_parquet(reports / "predictions.parquet")
        (reports / "history.csv").write_text("epoch,train_loss\n1,0.5\n")
        score = {"accuracy": float(1 - wrong.mean()) if len(val) else 0.0, "loss": 0.1, "macro_f1": 0.5}
        splits = {"val": score, "test": score} if len(val) else {"test": score}
        (reports / "metrics.json").write_text(json.dumps({**splits, "parameters": 9, "trainable_parameters": 9}))
        about = {
            "experiment": name, "dataset": "letters", "classes": [*classes], "network": {"name": "mlp"},
            "shape": {"channels": 1, "height": 4, "width": 4, "classes": len(classes)},
        }  # fmt: skip
        (models / "model.json").write_text(json.dumps(about))
        (models / "model.safetensors").write_bytes(name.encode())
        self.vouch(name)
        model = {"path": f"models/{name}", "md5": name}
        trained = {"params.yaml": {f"experiments.{name}": {"dataset": "letters"}, "seed": 1}}
        self.stages[f"train@{name}"] = {"params": trained, "outs": [model]}
        self.stages[f"evaluate@{name}"] = {"deps": [model], "outs": []}

    def vouch(self, name: str) -> None:
        """Write the provenance of the files that the model has now."""
        files = (self.root / "models" / name).iterdir()
        known = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
        (self.root / "reports" / name / "provenance.json").write_text(json.dumps({"model": known}))

    def gates(self, **gates: float) -> None:
        self.params["datasets"]["letters"]["gates"] = gates

    def prepare(self, *names: str) -> list[str]:
        (self.root / "dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": self.stages}))
        return self.command("track", *names)

    def track(self, *names: str) -> Ran:
        """Run `track` in this process, which has imported MLflow already."""
        self.prepare(*names)
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.chdir(self.root)
            patch.setattr(sys, "argv", ["track", *names])
            patch.setenv("DVC_ROOT", str(self.home))
            if not self.uri.startswith("sqlite"):
                patch.setenv("MLFLOW_TRACKING_URI", self.uri)
            status = track.main()
        return Ran(status, out.getvalue(), err.getvalue())

    @property
    def client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(self.uri)

    def versions(self) -> dict[str, str]:
        """What is written on each version, by its experiment, in the order of their numbers."""
        found = self.client.search_model_versions("name = 'letters'")
        ordered = sorted(found, key=lambda version: int(version.version))
        return {version.tags["experiment"]: version.description for version in ordered}

    def champion(self) -> str | None:
        aliases = self.client.get_registered_model("letters").aliases
        if ALIAS not in aliases:
            return None
        experiment: str = self.client.get_model_version("letters", aliases[ALIAS]).tags["experiment"]
        return experiment


@pytest.fixture
def trained(tmp_path: Path, tables: Path) -> Trained:
    trained = Trained(tmp_path)
    shutil.copy(tables, trained.home)
    return trained


def test_the_first_through_the_gates_and_then_only_a_better_one(trained: Trained, tables: Path) -> None:
    trained.gates(accuracy=0.6, recall=0.5, ece=0.35)
    trained.add("poor", 50)
    trained.add("one-sided", 0, wrong_of="b")
    trained.add("unsure", 80, sure=0.4)
    trained.add("whole", IMAGES, val=range(0))
    trained.add("first", 80)
    trained.add("alike", 82)
    assert trained.track().status == 0
    assert trained.champion() == "first"
    trained.add("better", 95)
    ran = trained.track()
    assert trained.champion() == "better"
    written = trained.versions()
    gates = "(datasets.letters.gates)."
    assert written == {
        "poor": f"Not champion: on val, accuracy 0.5000 is below 0.6, calibration error 0.4000 is above 0.35 {gates}",
        "one-sided": f"Not champion: on val, accuracy 0.5000 is below 0.6, recall of b 0.0000 is below 0.5,"
        f" calibration error 0.4000 is above 0.35 {gates}",
        "unsure": f"Not champion: on val, calibration error 0.4000 is above 0.35 {gates}",
        "whole": "Not champion: no validation images were kept apart, so nothing says how good it is.",
        "first": "Champion: the first model that passes the gates.",
        "alike": "Not champion: not distinguishable from version 5 (first): +2.00 points (95 % interval -1.35 to +5.27;"
        " McNemar's exact test, p = 0.5) on 100 validation images.",
        "better": "Champion: better than version 5 (first), by +15.00 points (95 % interval +7.57 to +21.84;"
        " McNemar's exact test, p = 6.1e-05) on 100 validation images.",
    }
    assert f"letters version 7 (better): {written['better']}" in ran.out and "alike" not in ran.out
    again = trained.track()
    assert again.out == f"{trained.uri} has every result already\n"
    assert trained.versions() == written

    # all of it is a view of files: another database gets the same
    shutil.copy(tables, trained.home)
    trained.track()
    assert (trained.champion(), trained.versions()) == ("better", written)


def test_a_recall_that_nobody_knows_passes_no_gate(trained: Trained) -> None:
    trained.gates(recall=0.5)
    trained.add("a", 80, classes="abc")
    trained.add("b", 0, classes="abcdefg", wrong_of="b")
    ran = trained.track()
    end = "(datasets.letters.gates). Add such images to val, or remove gates.recall."
    assert trained.champion() is None and trained.versions() == {
        "a": f"Not champion: on val, no images of c (recall unknown) {end}",
        "b": "Not champion: on val, no images of c, d, e and 2 more (recall unknown),"
        f" recall of b 0.0000 is below 0.5 {end}",
    }
    assert f"letters version 1 (a): {trained.versions()['a']}\n" in ran.out
    trained.gates(accuracy=0.5)
    trained.track()
    assert trained.champion() == "a"


def test_what_a_person_does_to_a_model_stays_done(trained: Trained) -> None:
    trained.gates(accuracy=0.7)
    trained.add("a", 80)
    trained.add("b", 60)
    trained.track()
    trained.client.delete_registered_model_alias("letters", ALIAS)
    assert not trained.track().err and trained.champion() is None
    trained.client.set_registered_model_alias("letters", ALIAS, "2")  # although it fails a gate
    trained.client.delete_model_version("letters", "1")
    trained.track()
    assert trained.champion() == "b" and list(trained.versions()) == ["b"]

    trained.add("c", 62)  # the choice of a person is what the next is compared with
    trained.gates()
    trained.track()
    assert trained.champion() == "b" and "not distinguishable from version 2 (b)" in trained.versions()["c"]

    trained.client.delete_registered_model("letters")
    trained.track()
    assert not trained.client.search_registered_models()
    trained.add("d", 70)
    trained.track()
    assert list(trained.versions()) == ["d"]


def test_other_gates_judge_again(trained: Trained) -> None:
    trained.gates(accuracy=0.99)
    trained.add("a", 80)
    trained.track()
    assert trained.champion() is None
    trained.gates(accuracy=0.8)
    trained.track()
    assert trained.champion() == "a"
    trained.gates(accuracy=0.9)  # a champion stays until another is better
    ran = trained.track()
    assert trained.champion() == "a" and "Champion: the first" in trained.versions()["a"]
    told = "letters version 1 (a): Champion until another is better, but on val, accuracy 0.8000 is below 0.9"
    assert told in ran.out
    assert json.loads(trained.client.get_model_version("letters", "1").tags["gates"]) == {"accuracy": 0.8}


def test_of_two_that_are_promoted_at_once_the_better_one_stays(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    def promote_at_once(step: str, good: int, better: int) -> None:
        """The first of two clones takes this step only when the second is at its end."""
        real = getattr(MlflowClient, step)

        def late(*arguments: Any) -> None:
            monkeypatch.setattr(MlflowClient, step, real)
            trained.home = tmp_path / f"clone-{better}"  # of which each has a lock of its own
            trained.home.mkdir()
            trained.track(f"better-{better}")
            real(*arguments)

        trained.add(f"good-{good}", good)
        trained.add(f"better-{better}", better)
        monkeypatch.setattr(MlflowClient, step, late)
        trained.track(f"good-{good}")

    home = tmp_path / "server"
    home.mkdir()
    with mlflow_server(home) as trained.uri:
        promote_at_once("set_registered_model_alias", 60, 80)
        assert trained.champion() == "better-80"
        assert "Not champion: worse than version 2 (better-80): -20.00 points" in trained.versions()["good-60"]
        promote_at_once("update_model_version", 92, 100)
        assert trained.champion() == "better-100"
        promoted = trained.versions()
    assert "Not champion: worse than version 4 (better-100): -8.00 points" in promoted["good-92"]
    assert promoted["better-100"].startswith("Champion: better than version 2 (better-80)")


def test_a_changed_split_compares_what_both_were_validated_on(trained: Trained) -> None:
    trained.add("a", 50)
    trained.add("moved", 60, val=range(20, 120))
    trained.add("elsewhere", IMAGES, val=range(500, 600))
    trained.add("replaced", IMAGES, photos="others under the name ")
    trained.track()
    assert trained.champion() == "moved"  # right on 20 to 79, of 20 to 99, where a is right on 20 to 49
    written = trained.versions()
    assert "on 80 validation images, those that both were validated on" in written["moved"]
    for name in ("elsewhere", "replaced"):
        assert "was validated on other images. Move the alias yourself" in written[name]

    run_id = trained.client.get_model_version_by_alias("letters", ALIAS).run_id
    for file in Path(trained.home / "mlartifacts").glob(f"letters/{run_id}/artifacts/predictions.parquet"):
        file.unlink()
    trained.add("late", 90)
    trained.track()
    assert "its predictions of validation images are not there" in trained.versions()["late"]


def test_a_model_that_is_not_whole_is_named_and_its_run_is_logged(trained: Trained) -> None:
    names = ["stranger", "cut", "bare", "other", "whole"]
    for name in names:
        trained.add(name, 80)
    stranger, cut, bare, other, _ = (trained.root / "models" / name for name in names)
    about = json.loads((stranger / "model.json").read_text())
    (stranger / "model.json").write_text(json.dumps({**about, "dataset": "photos"}))
    trained.vouch("stranger")
    (cut / "model.json").write_text("{")
    (bare / "model.safetensors").unlink()
    (other / "model.safetensors").write_bytes(b"of another training")
    ran = trained.track()
    assert ran.status == 0 and "Traceback" not in ran.err
    warnings = [line for line in ran.out.splitlines() if line.startswith("warning: ")]
    words = [
        "models/stranger is a model of the data set photos, not letters: run dvc repro train@stranger",
        "models/cut/model.json is damaged (no JSON",
        "models/bare/model.safetensors is not there: run dvc repro train@bare",
        "models/other/model.safetensors is not the file that reports/other/provenance.json tells of: run dvc checkout",
    ]
    for name, line, why in zip(names, warnings, words, strict=False):
        assert line.startswith(f"warning: the model of {name} is not registered: {why}")
    assert len(warnings) == 4
    assert trained.champion() == "whole" and list(trained.versions()) == ["whole"]
    found = trained.client.get_experiment_by_name("letters")
    assert len(trained.client.search_runs([found.experiment_id], "attributes.status = 'FINISHED'")) == 5

    trained.add("cut", 80)  # trained again
    trained.track()
    assert list(trained.versions()) == ["whole", "cut"]


def test_models_that_were_not_pulled_come_later(trained: Trained) -> None:
    trained.add("a", 80)
    (trained.root / "models").rename(trained.root / "later")
    assert "without a model, as models/ is not here (dvc pull brings it): a\n" in trained.track().out
    (trained.root / "later").rename(trained.root / "models")
    trained.track()
    assert trained.champion() == "a"


def test_predictions_that_were_not_pulled_come_later(trained: Trained, tmp_path: Path) -> None:
    trained.add("a", 60)
    file = trained.root / "reports/a/predictions.parquet"
    md5 = hashlib.md5(file.read_bytes()).hexdigest()
    trained.stages["evaluate@a"]["outs"] = [{"path": "reports/a/predictions.parquet", "md5": md5}]
    file.rename(tmp_path / "later")
    trained.track()
    (run,) = trained.client.search_runs([trained.client.get_experiment_by_name("letters").experiment_id])
    assert run.info.status == "FINISHED" and not trained.client.list_artifacts(run.info.run_id, file.name)
    (tmp_path / "later").rename(file)
    assert trained.track().out.startswith("logged to")
    assert file.name in [each.path for each in trained.client.list_artifacts(run.info.run_id)]
    assert "has every result already" in trained.track().out

    trained.add("b", 90)  # compared with what came later
    trained.track()
    assert trained.champion() == "b" and "better than version 1 (a)" in trained.versions()["b"]


def test_what_a_person_makes_of_a_version_is_theirs(trained: Trained) -> None:
    trained.add("a", 80)
    trained.track()
    trained.client.create_registered_model("another")
    trained.client.copy_model_version("models:/letters/1", "another")
    trained.client.delete_model_version("letters", "1")
    trained.gates(accuracy=0.9)
    trained.track()
    assert not trained.versions()
    (copied,) = trained.client.search_model_versions("name = 'another'")
    assert "Champion" in copied.description and not trained.client.get_registered_model("another").aliases


STEPS = (
    *("create_logged_model", "log_model_artifact", "finalize_logged_model", "log_outputs", "create_registered_model"),
    *("create_model_version", "set_tag", "update_model_version", "set_registered_model_alias", "set_model_version_tag"),
)


def test_a_process_that_was_killed_at_any_step_leaves_what_the_next_completes(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    trained.add("a", 80)
    for step in STEPS:
        for before in (True, False):
            real = getattr(MlflowClient, step)

            def dies(*arguments: Any, before: bool = before, real: Any = real, **more: Any) -> None:
                if not before:
                    real(*arguments, **more)
                raise KeyboardInterrupt

            monkeypatch.setattr(MlflowClient, step, dies)
            with pytest.raises(KeyboardInterrupt):
                trained.track()
            monkeypatch.setattr(MlflowClient, step, real)
        trained.track()
        assert trained.champion() == "a" and trained.versions() == {
            "a": "Champion: the first model that was validated."
        }
        forget(trained)


def forget(trained: Trained) -> None:
    """Take the model out of the registry, and its traces, so that the run is registered anew."""
    client = trained.client
    client.delete_registered_model("letters")
    found = client.get_experiment_by_name("letters")
    (run,) = client.search_runs([found.experiment_id])
    client.delete_tag(run.info.run_id, VERSION)
    for model in client.search_logged_models([found.experiment_id]):
        client.delete_logged_model(model.model_id)


def test_gates_are_validated(trained: Trained) -> None:
    for gates, words in (
        ({"accuracy": 90}, ["datasets.letters.gates.accuracy = 90", "less than or equal to 1"]),
        ({"f1": 0.9}, ["datasets.letters.gates", "unknown key 'f1'", "allowed: accuracy, recall, ece"]),
    ):
        trained.params["datasets"]["letters"]["gates"] = gates
        failed_in_one_line(trained.run("split", "letters"), *words)


def test_a_user_who_may_log_runs_and_register_no_model(trained: Trained, tables: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        trained.add(name, 80)
    home = tmp_path / "server"
    home.mkdir()
    shutil.copy(tables, home)
    with guarded_server(home, "maria", "bob") as uri:

        def as_user(user: str) -> str:
            return uri.replace("//", f"//{user}:{quote(f'Hunter2 of {user}')}@")

        trained.uri = as_user("maria")
        assert trained.track("a").status == 0
        experiment = trained.client.get_experiment_by_name("letters").experiment_id
        may_edit = {"resource_type": "experiment", "resource_id": experiment, "permission": "EDIT"}
        ask_admin(uri, "3.0/mlflow/users/permissions/grant", username="bob", **may_edit)
        trained.uri = as_user("bob")
        ran = trained.track("b", "--pages", uri)
        runs = trained.client.search_runs([experiment], "attributes.status = 'FINISHED'")

        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_URI", uri.replace("//", "//bob:Hunter1@"))
            wrong = here(trained.root, "serve", "letters@champion", "--port", "0")
    assert ran.status == 0 and ran.err == "" and {run.info.run_name for run in runs} == {"a", "b"}
    logged, refused, page = ran.out.splitlines()
    assert logged.startswith("logged to ") and ": b (" in logged
    reason = "this user may not do that on the server: its administrator grants permissions"
    assert refused == f"warning: the model of b is not registered: {reason}"
    assert page.startswith("letters: http://")
    failed_in_one_line(wrong, "letters@champion can't be had from http://***@", "the server wants another user")
    assert "Hunter" not in wrong.err + ran.out


# --- digits: what a colleague gets ---


COLLEAGUE = """
import base64, json, sys
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from packaging.requirements import Requirement

uri, folder = sys.argv[1:]
mlflow.set_tracking_uri(uri)

def plain(name):
    return name.lower().replace("_", "-")

listed = Path(mlflow.pyfunc.get_model_dependencies("models:/digits@champion")).read_text().split()
installed, new = set(), {plain(line.partition("==")[0]) for line in listed}
while new:
    installed |= new
    named = [Requirement(text) for name in new for text in requires(name) or []]
    new = {plain(each.name) for each in named if not each.marker or each.marker.evaluate({"extra": ""})} - installed
owners = packages_distributions()

class Absent:
    # what is on this machine, but would not be on that of somebody who installs what the model lists
    def find_spec(name, path=None, target=None):
        if (known := owners.get(name)) and not {plain(owner) for owner in known} & installed:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent)
model = mlflow.pyfunc.load_model("models:/digits@champion")
from PIL import Image

files = sorted(Path(folder).iterdir())
forms = {
    "path": files,
    "bytes": [file.read_bytes() for file in files],
    "base64": [base64.b64encode(file.read_bytes()).decode() for file in files],
    "array": pd.DataFrame({"image": [np.asarray(Image.open(file)) for file in files]}),
}
answers = {form: model.predict(images) for form, images in forms.items()}
import pipeline
print(json.dumps([answers, model.predict(model.input_example), list(pipeline.__path__)]))
"""


def test_a_colleague_without_this_project_predicts(digits: Clone, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{digits.root}/mlflow.db"
    champion = MlflowClient(uri).get_model_version_by_alias("digits", ALIAS).tags["experiment"]
    predictions = pd.read_parquet(digits.root / f"reports/{champion}/predictions.parquet")
    chosen = predictions[predictions.split == "test"].head(20).sort_values("path")
    (tmp_path / "images").mkdir()
    with zipfile.ZipFile(digits.root / "data/raw/digits/digits.zip") as archive:
        for number, path in enumerate(chosen.path):
            (tmp_path / f"images/{number:02}.png").write_bytes(archive.read(path))
    ran = run([sys.executable, "-c", COLLEAGUE, uri, "images"], tmp_path)
    assert ran.status == 0, ran.err
    answered, (example,), code = json.loads(ran.out.splitlines()[-1])
    for form, answers in answered.items():
        assert [answer["class"] for answer in answers] == chosen.predicted.tolist(), form
        assert np.allclose([answer["probability"] for answer in answers], chosen.probability, atol=1e-5), form
        assert [sum(answer["probabilities"].values()) for answer in answers] == pytest.approx([1] * 20, abs=1e-5)
    assert example["class"] in "0123456789"
    assert str(digits.root / "pipeline") not in code


def test_the_model_of_digits(digits: Clone, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{digits.root}/mlflow.db")
    versions = client.search_model_versions("name = 'digits'")
    assert {version.tags["experiment"] for version in versions} == {"digits-mlp", "digits-cnn"}
    champion = client.get_model_version_by_alias("digits", ALIAS)
    artifacts = YAML(typ="safe").load(digits.root / "dvc.yaml")["artifacts"]
    assert artifacts[champion.name]["path"] == f"models/{champion.tags['experiment']}"
    described = Path(client.download_artifacts(champion.run_id, "metrics.json", str(tmp_path)))  # the run is there too
    assert described.exists()
    (model,) = client.search_logged_models(
        [client.get_run(champion.run_id).info.experiment_id], f"source_run_id = '{champion.run_id}'"
    )
    assert model.status == "READY" and champion.source == f"models:/{model.model_id}"
    for file in Path(model.artifact_location.removeprefix("file://")).rglob("*"):
        assert file.suffix not in (".pkl", ".pickle")
        if file.name == "MLmodel":
            assert str(digits.root) not in file.read_text()
