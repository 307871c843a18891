"""Two experiments, or one before and after, by what they say of the same validation images."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable

import pandas as pd
import pytest
from conftest import Clone, Project, failed_in_one_line, here
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.evaluation.paired import Paired

MLP, CNN = "digits-mlp", "digits-cnn"
COUNTED = {"parameters": 9, "trainable_parameters": 9}
COUNTS = st.integers(0, 300)


def test_published_numbers() -> None:
    """Approval of a prime minister in two surveys of the same people: Agresti, Categorical Data Analysis, table 10.1.

    There the difference is −0.04, its 95 % interval −0.06 to −0.02, and McNemar's z −4.17.
    """
    surveys = Paired(794, 150, 86, 570)
    assert surveys.difference == pytest.approx(-0.04)
    assert surveys.interval() == pytest.approx((-0.06, -0.02), abs=0.0015)
    assert surveys.p_value() == pytest.approx(math.erfc(4.17 / math.sqrt(2)), rel=0.3)  # z's is an approximation
    assert surveys.verdict() == "worse"


@given(COUNTS, COUNTS, COUNTS, COUNTS)
def test_verdicts(both: int, first: int, second: int, neither: int) -> None:
    paired = Paired(both, first, second, neither)
    if not paired.images:
        return
    # the binomial distribution, summed over all outcomes that are no more probable
    differing = first + second
    ways = [math.comb(differing, k) for k in range(differing + 1)]
    exact = sum(way for way in ways if way <= ways[second]) / 2**differing
    assert paired.p_value() == pytest.approx(exact, rel=1e-6)
    low, high = paired.interval()
    assert -1 <= low < high <= 1 and low <= paired.difference * paired.images / (paired.images + 2) <= high
    mirrored = Paired(both, second, first, neither)
    opposite = {"better": "worse", "worse": "better", "not distinguishable": "not distinguishable"}
    assert mirrored.verdict() == opposite[paired.verdict()]
    assert (paired.verdict() == "not distinguishable") == (exact >= 0.05)


def spoil(clone: Clone, name: str, images: int, split: str = "val") -> None:
    """Make the first predictions of an experiment wrong."""
    file = clone.root / f"reports/{name}/predictions.parquet"
    table = pd.read_parquet(file)
    of = table.index[(table.split == split) & (table.label == table.predicted)][:images]
    table.loc[of, "predicted"] = (table.label[of].astype(int) + 1).mod(10).astype(str)
    file.unlink()  # it may be a link into DVC's cache
    table.to_parquet(file, index=False)


def test_two_experiments(digits: Clone, copy_of: Callable[[Clone], Clone]) -> None:
    copy = copy_of(digits)
    same = copy.must_run("python", "-m", "pipeline.compare", MLP, CNN).out
    assert f"{CNN} is not distinguishable from {MLP} by these images." in same

    spoil(copy, MLP, 30)
    grid = copy.root / "changed.png"
    worse = here(copy.root, "compare", CNN, MLP, "--grid", str(grid)).out
    assert f"{MLP} is worse than {CNN} by these images." in worse
    assert int(re.search(rf"only {CNN} (\d+)", worse)[1]) >= 29
    assert Image.open(grid).height > 5 * Image.open(grid).width / 6  # 30 tiles in five rows
    better = here(copy.root, "compare", MLP, CNN).out
    assert f"{CNN} is better than {MLP} by these images." in better


def test_two_of_different_data_sets_get_no_verdict(project: Project) -> None:
    for name in ("letters", "photos"):
        project.dataset(name, f"data/raw/{name}")
        project.experiment(f"{name}-mlp", name)
        folder = project.root / f"reports/{name}-mlp"
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps({"val": {"accuracy": 0.5}, **COUNTED}))
    project.command("compare")
    ran = here(project.root, "compare", "letters-mlp", "photos-mlp")
    told = "No verdict: letters-mlp and photos-mlp are of different data sets, letters and photos."
    assert ran.status == 0 and ran.out.splitlines()[-1] == told
    assert "verdict" not in here(project.root, "compare", "*-mlp").out


def test_predictions_of_another_training(digits: Clone, copy_of: Callable[[Clone], Clone]) -> None:
    """As after `git pull` without `dvc pull`."""
    copy = copy_of(digits)
    file = copy.root / f"reports/{MLP}/provenance.json"
    known = json.loads(file.read_text())
    known["model"]["model.safetensors"] = "0" * 64
    file.write_text(json.dumps(known))
    told = f"reports/{MLP}/predictions.parquet is of another training than reports/{MLP}/provenance.json: run dvc"
    failed_in_one_line(here(copy.root, "compare", MLP, CNN), told)
    tracked = copy.must_run("python", "-m", "pipeline.track", MLP).out
    assert told in tracked and "nothing to log" in tracked
    assert told in copy.must_run("python", "-m", "pipeline.index").err


def test_before_and_after(digits: Clone, copy_of: Callable[[Clone], Clone]) -> None:
    copy = copy_of(digits)
    copy.must_run("git", "add", "-A")
    copy.must_run("git", "commit", "-qm", "Results")
    spoil(copy, MLP, 30)
    ran = here(copy.root, "compare", MLP, "--before", "HEAD")
    assert f"{MLP} is worse than {MLP} at HEAD by these images." in ran.out

    for arguments, message in (
        (
            [MLP, "digits-none"],
            "params.yaml has no experiment 'digits-none' (did you mean 'digits-cnn'?); it has: digits-mlp, digits-cnn",
        ),
        ([MLP, CNN, "--before", "HEAD"], f"--before compares one experiment with itself; found {MLP}, {CNN}"),
        ([MLP, "--before", "never"], f"reports/{MLP}/predictions.parquet can't be read at never"),
        ([MLP, CNN, "--before", ""], f"--before compares one experiment with itself; found {MLP}, {CNN}"),
        ([MLP, "--before", "HEAD^{tree}"], f"reports/{MLP}/predictions.parquet can't be read at HEAD^{{tree}}"),
        ([MLP, "--before", ""], "--before '': expected a commit of git"),
        ([MLP, "--grid", "README.md/x.png"], "--grid README.md/x.png: "),
        ([MLP, CNN, "--grid", "README.md"], "--grid 'README.md': expected a name that ends in .png"),
        ([MLP, CNN, "--grid", "docs/page.png"], "--grid docs/page.png: is there already"),
        ([MLP, "--grid", "x.png"], "--grid draws what two experiments of one data set differ in"),
    ):
        refused = here(copy.root, "compare", *arguments)
        assert refused.status == 1 and refused.err.startswith(f"error: {message}")
        assert len(refused.err.splitlines()) == 1


def test_experiments_without_results_or_with_damaged_ones(digits: Clone, copy_of: Callable[[Clone], Clone]) -> None:
    copy = copy_of(digits)
    file = copy.root / f"reports/{MLP}/metrics.json"
    for content, message in (
        ("{}", f"error: {file.relative_to(copy.root)} is damaged (it has no number of parameters)"),
        (
            '{"val": null, "parameters": 1}',
            f"error: {file.relative_to(copy.root)} is damaged (val holds something else",
        ),
        (None, f"error: no results of {MLP}: run dvc repro evaluate@"),
    ):
        file.unlink()
        if content is not None:
            file.write_text(content)
        refused = here(copy.root, "compare", MLP, CNN)
        assert refused.status == 1 and refused.out == "" and refused.err.startswith(message), refused.err
    assert here(copy.root, "compare", "digits-*").out.count("digits-") == 1


def test_other_images_are_not_compared(digits: Clone, copy_of: Callable[[Clone], Clone]) -> None:
    copy = copy_of(digits)
    file = copy.root / f"reports/{MLP}/predictions.parquet"
    table = pd.read_parquet(file)

    def write(changed: pd.DataFrame) -> str:
        file.unlink()
        changed.to_parquet(file, index=False)
        ran = here(copy.root, "compare", MLP, CNN)
        assert ran.status == 1 and len(ran.err.splitlines()) == 1, ran.err
        return ran.err

    assert "were not validated on the same images (178 and 179, 178 paths shared" in write(table.drop(table.index[0]))
    told = "(179 and 179, 179 paths shared, or other pixels or labels under them)"
    assert told in write(table.replace({"pixel_hash": {table.pixel_hash[0]: "of another photo"}}))
    assert told in write(table.replace({"label": {"3": "8"}}))
    one = table.index[table.split == "val"][0]
    for column, value, shared in (
        ("label", "another", 179),
        ("path", "another.png", 178),
        ("path", table.path[one + 1], 178),
    ):
        falsified = table.copy()
        falsified.loc[one, column] = value
        assert f"(179 and 179, {shared} paths shared, or other" in write(falsified), column
    assert f"{MLP} has no predictions of validation images" in write(table[table.split == "test"])
    (copy.root / "data/packed/digits/index.parquet").unlink()
    table.to_parquet(file, index=False)
    spoil(copy, MLP, 3)
    grid = copy.root / "grid.png"
    ran = here(copy.root, "compare", MLP, CNN, "--grid", str(grid))
    assert ran.status == 1 and "index.parquet is not there" in ran.err
    assert not grid.exists()
