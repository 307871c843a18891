"""The page of all experiments and the page of each: what they say, and how they behave in a browser."""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import Clone, Project, run
from selenium.webdriver.common.keys import Keys
from statsmodels.stats.contingency_tables import mcnemar
from test_report import HOSTILE, RUN, Browser
from test_report import chromium as chromium
from things import write_packed

from pipeline import index
from pipeline.config.experiments import Experiment
from pipeline.splitting.decisions import read_rows

CLASSES = ["cat", f"<script>{RUN}</script>", "=1+1", "W" * 120]
VAL, TEST, TRAIN = 200, 100, 40
WRONG = f"{HOSTILE}/wrong.png"  # an image that two experiments are sure is of another class


def table_of_images() -> pd.DataFrame:
    splits = ["val"] * VAL + ["test"] * TEST + ["train"] * TRAIN
    paths = [f"{number:03d}.png" for number in range(len(splits))]
    paths[7] = WRONG
    labels = [CLASSES[number % 4] for number in range(len(splits))]
    return pd.DataFrame(
        {"path": paths, "label": labels, "split": splits, "train_order": np.linspace(0, 1, len(splits))}
    )


def write_result(
    project: Project, name: str, wrong: list[int], epochs: int = 4, seconds: float | None = None, **metrics: Any
) -> None:
    """What `train` and `evaluate` leave of an experiment that is wrong about these rows of `table_of_images`."""
    folder = project.root / "reports" / name
    folder.mkdir(parents=True)
    table = table_of_images().query("split != 'train'").drop(columns="train_order")
    table["pixel_hash"] = table.path
    table["predicted"] = [CLASSES[(row + (row in wrong)) % 4] for row in table.index]
    table["probability"] = np.where(table.index == 7, 0.97, 0.8).astype(np.float32)
    table.to_parquet(folder / "predictions.parquet", index=False)
    right = table.label == table.predicted
    splits = {}
    for split in ("val", "test"):
        accuracy = float(right[table.split == split].mean())
        around = {"accuracy_low": accuracy - 0.02, "accuracy_high": min(1.0, accuracy + 0.01)}
        splits[split] = {"accuracy": accuracy, **around, "loss": 1 - accuracy, "macro_f1": accuracy, **metrics}
    (folder / "metrics.json").write_text(json.dumps({**splits, "parameters": 1000 * len(name)}))
    rows = [f"{epoch},{1 / epoch},{1 - 0.5 / epoch},{2 / epoch},{1 - 0.6 / epoch}" for epoch in range(1, epochs + 1)]
    head = "epoch,train_loss,train_accuracy,val_loss,val_accuracy"
    (folder / "history.csv").write_text("\n".join([head, *rows]) + "\n")
    config = Experiment.model_validate(project.params["experiments"][name]).model_dump(mode="json")
    provenance = {"experiment": name, "seed": 1, "params": config, "fingerprint": f"of-{name}"}
    (folder / "provenance.json").write_text(json.dumps(provenance))
    if seconds is not None:
        times = project.root / ".train_times"
        times.mkdir(exist_ok=True)
        known = {"start": 1.0, "train_seconds": seconds, "device": "cpu", "threads": 1, "devices": 1}
        (times / f"of-{name}.json").write_text(json.dumps(known))


def make_project(root: Path) -> Project:
    """Four experiments: the best, one that can't be told from it, one that can, and one with several seeds."""
    project = Project(root)
    project.dataset("things", "things")
    for name in ("things-bad", "things-best", "things-close", "things-seeds", "things-later"):
        project.experiment(name, "things")
    write_result(project, "things-bad", list(range(7, 60)), epochs=200, seconds=75)
    write_result(project, "things-best", [7], seconds=3725)
    write_result(project, "things-close", [7, 8, 9, 201], seconds=2.5)
    write_result(project, "things-seeds", [7, *range(10, 24)], epochs=1, accuracy_mean=0.91, accuracy_sd=0.0125)
    images = table_of_images()
    pixels = np.random.default_rng(0).integers(0, 256, (len(images), 8, 8, 3), dtype=np.uint8)
    write_packed(root / "data/packed/things", pixels, images, CLASSES)
    folder = root / "reports/things-best"
    cells = [f"val,'=1+1,{VAL},0.5", f'val,"{CLASSES[1]}",{VAL},0.123456', "test,'=1+1,3,1"]
    (folder / "per_class.csv").write_text("split,class,images,precision\n" + "\n".join(cells) + "\n")
    shutil.copy(Path(__file__).parents[1] / "docs/report.png", folder / "train_batch.png")
    report = root / "reports/things"
    report.mkdir()
    check = {"status": {"ok": 330, "warning": 9, "quarantined": 1}, "issues": {"odd_size": 9}}
    (report / "check.json").write_text(json.dumps({**check, "classes": dict.fromkeys(CLASSES, 85)}))
    (report / "split.json").write_text(json.dumps({"total": {"train": TRAIN, "val": VAL, "test": TEST}}))
    (report / "index.html").write_text("what check found")
    return project


def write(project: Project) -> list[str]:
    """Write all pages, and return the lines of what can't be read."""
    project.command("index")
    with chdir(project.root):
        return index.write()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = make_project(tmp_path_factory.mktemp("index"))
    assert write(project) == []
    return project


def page_of(project: Project) -> Path:
    return project.root / "reports/index.html"


@pytest.fixture
def browser(chromium: Browser, project: Project) -> Browser:
    chromium.open(page_of(project))
    return chromium


def column(browser: Browser, number: int) -> list[str]:
    """The first line of a cell of each row that is shown."""
    return [text.split("\n")[0] for text in browser.texts(f".leaders tbody tr > :nth-child({number})")]


# what the page says


def test_opens_from_disk_and_asks_for_nothing_else(browser: Browser, project: Project) -> None:
    assert browser.errors() == []
    requested = browser.script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert [name for name in requested if not name.startswith("data:")] == []
    assert browser.script("return window.hacked ?? null") is None
    links = browser.script("return [...document.querySelectorAll('a')].map(a => a.getAttribute('href'))")
    there = [link for link in links if not link.startswith("#")]
    assert len(there) == 6 and all((project.root / "reports" / link).exists() for link in there)
    assert len(browser.texts(".samples figure")) == 4
    assert browser.texts(".board .meaning")[0].startswith("340 files, 9 warning, 1 quarantined, 4 classes.")


def test_the_best_on_val_comes_first_with_what_chance_makes_of_it(browser: Browser) -> None:
    names = ["things-best", "things-close", "things-seeds", "things-bad"]
    assert column(browser, 1) == names
    assert column(browser, 2) == ["0.9950", "0.9850", "0.9100 ± 0.0125", "0.7350"]
    assert browser.texts(".leaders tbody .interval")[:2] == ["0.9750–1.0000", "0.9800–1.0000"]
    assert column(browser, 7) == ["1.0000", "0.9900", "0.9100 ± 0.0125", "1.0000"]
    assert column(browser, 4) == ["the best", "not distinguishable", "worse", "worse"]
    for name, only_best in zip(names[1:], (2, 14, 52), strict=True):
        p = mcnemar([[0, only_best], [0, 0]], exact=True).pvalue
        found = browser.find(f"tr[data-name={name}] td:nth-child(4) .below").text
        assert found == f"p = {p:.2g}"
    assert "things-best is not distinguishable from things-close" in browser.texts(".board .meaning")[1]
    assert column(browser, 9) == ["1 h 2 min", "2.5 s", "–", "1 min 15 s"]
    assert browser.texts(".waiting li") == ["things-later: not run yet. .venv/bin/dvc repro evaluate@things-latercopy"]


def test_columns_sort_by_click_and_by_keyboard(browser: Browser) -> None:
    def headings() -> list[str | None]:
        return browser.script("return [...document.querySelectorAll('thead [aria-sort]')].map(h => h.ariaSort)")

    assert headings() == ["descending"]
    for number, expected in ((6, "ascending"), (1, "ascending"), (9, "ascending")):
        browser.find(f".leaders thead tr:last-child th:nth-child({number}) button").click()
        assert headings() == [expected]
    assert column(browser, 1) == ["things-close", "things-bad", "things-best", "things-seeds"]  # unknown at the end
    browser.find("thead [aria-sort] button").send_keys(Keys.ENTER)
    assert headings() == ["descending"]
    assert column(browser, 1) == ["things-best", "things-bad", "things-close", "things-seeds"]


def test_curves_are_shown_by_ticks_and_come_to_the_front(browser: Browser) -> None:
    drawn = "g => getComputedStyle(g).display !== 'none'"  # Chromium calls each part of a drawing visible
    shown = f"return [...document.querySelectorAll('.plot g')].filter({drawn}).map(g => g.dataset.name)"
    assert sorted(set(browser.script(shown))) == ["things-bad", "things-best", "things-close", "things-seeds"]
    browser.find(".keys [data-name=things-bad] input").send_keys(Keys.SPACE)
    assert "things-bad" not in browser.script(shown) and "things-best" in browser.script(shown)
    browser.find("[data-show=none]").click()
    assert browser.script(shown) == []
    browser.find("[data-show=all]").click()
    browser.find(".keys [data-name=things-close] input").send_keys(Keys.NULL)
    browser.script("document.querySelector('.keys [data-name=things-close] input').focus()")
    assert set(browser.script("return [...document.querySelectorAll('g.front')].map(g => g.dataset.name)")) == {
        "things-close"
    }
    points = "return [...document.querySelectorAll('g[data-name={}] polyline')].map(line => line.points.length)"
    assert browser.script(points.format("things-bad")) == [80] * 4  # of 200 epochs
    assert browser.script(points.format("things-seeds")) == [2] * 4  # a dot, of one epoch
    dashes = "return [...document.querySelectorAll('g[data-name=things-bad] polyline')].map({})"
    assert [value == "none" for value in browser.script(dashes.format("l => getComputedStyle(l).strokeDasharray"))] == [
        *(False, True, False, True),  # train and val
    ]


def test_the_command_of_a_row_is_copied(browser: Browser) -> None:
    browser.find("tr[data-name=things-close] [data-copy]").click()
    browser.script("document.body.append(Object.assign(document.createElement('textarea'), {id: 'pasted'}))")
    browser.find("#pasted").send_keys(Keys.CONTROL, "v")
    assert browser.find("#pasted").get_property("value") == ".venv/bin/dvc repro evaluate@things-close"


# what changed


def git(project: Project, *arguments: str) -> None:
    ran = run(["git", *arguments], project.root)
    assert ran.status == 0, ran.err


def test_what_changed_since_the_last_commit(chromium: Browser, tmp_path: Path) -> None:
    project = make_project(tmp_path)
    write(project)
    assert "Changed since the last commit" not in page_of(project).read_text()  # there is none
    git(project, "init", "-q")
    git(project, "add", "params.yaml", "reports")
    shutil.rmtree(project.root / "reports/things-seeds")
    git(project, "commit", "-q", "-m", "Train <b>four</b>")
    write(project)
    chromium.open(page_of(project))
    assert chromium.texts("#changes tbody tr") == ["things-seeds\tno longer here"]

    project.params["experiments"]["things-close"]["optimizer"]["lr"] = 0.5
    shutil.rmtree(project.root / "reports/things-close")
    write_result(project, "things-close", list(range(8, 20)))
    write_result(project, "things-later", [])
    assert write(project) == []
    chromium.open(page_of(project))
    assert "“Train <b>four</b>”" in chromium.texts("#changes .meaning")[0]
    rows = [re.split(r"\t", text) for text in chromium.texts("#changes tbody tr")]
    assert rows == [
        ["things-close", "val accuracy", "0.9850", "0.9400", "−0.0450", "worse"],
        ["", "val macro f1", "0.9850", "0.9400", "−0.0450", "worse"],
        ["", "val loss", "0.0150", "0.0600", "+0.0450", "worse"],
        ["", "test accuracy", "0.9900", "1.0000", "+0.0100", "better"],
        ["", "optimizer.lr 0.01 → 0.5"],
        ["things-later", "new: not in the last commit"],
        ["things-seeds", "no longer here"],
    ]


# likely wrong labels


def test_ticks_on_doubted_labels_become_lines_of_the_decision_file(
    browser: Browser, project: Project, tmp_path: Path
) -> None:
    browser.find("a[href='things/labels.html']").click()
    assert browser.errors() == [] and browser.script("return window.hacked ?? null") is None
    links = browser.script("return [...document.querySelectorAll('header a[href]')].map((a) => a.getAttribute('href'))")
    assert links and all((project.root / "reports/things" / link.partition("#")[0]).exists() for link in links)
    assert browser.listed() == {"wrong_label": [WRONG]}  # the others are wrong in one model of four
    assert browser.texts(".measure") == ["probability 0.97"]
    assert browser.script("return document.querySelector('.card img').naturalWidth") == 8
    browser.find(".card input").send_keys(Keys.SPACE)
    file = tmp_path / "things.csv"
    file.write_text(browser.find("#decisions textarea").get_property("value"))
    assert [(row["path"], row["decision"], row["label"]) for row in read_rows(file)] == [(WRONG, "", CLASSES[0])]


def test_who_was_validated_on_the_most_images_doubts_labels(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    file = tmp_path / "reports/things-bad/predictions.parquet"  # as with `folds: all`, on what the others train on
    more = table_of_images().query("split == 'train'").assign(split="val", predicted=CLASSES[0], probability=0.99)
    more["pixel_hash"] = more.path
    pd.concat([pd.read_parquet(file), more]).astype({"probability": np.float32}).to_parquet(file, index=False)
    assert write(project) == []
    page = (tmp_path / "reports/things/labels.html").read_text()
    assert "301.png" in page and "300.png" not in page  # of its label, and of another
    assert "things-bad" in page and "things-best" not in page


def test_the_audit_knows_more_of_labels(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    (tmp_path / "reports/things/audit.html").write_text("audit")
    assert write(project) == []
    assert not (tmp_path / "reports/things/labels.html").exists()
    assert 'href="things/audit.html"' in page_of(project).read_text()


# the page of an experiment


def test_the_page_of_an_experiment(browser: Browser, project: Project) -> None:
    browser.find("a[href='things-best/index.html']").click()
    assert browser.errors() == [] and browser.script("return window.hacked ?? null") is None
    assert browser.texts("h2") == [
        "Learning curves",
        "Config",
        "Metrics",
        "What the network sees",
        "By class",
        "By epoch",
        "Provenance",
        "Files",
    ]
    assert browser.texts(".counts dt")[0] == "val accuracy 0.9750–1.0000"
    assert browser.texts("header code")[0] == ".venv/bin/dvc repro evaluate@things-best"
    assert browser.texts("pre")[0].startswith(
        "things-best:\n  dataset: things\n  network:\n    name: mlp\n    hidden: [16]\n"
    )
    assert browser.cells("main section:nth-child(2) tbody tr")[:2] == [
        ["accuracy", "0.9950\n0.9750–1.0000", "1.0000\n0.9800–1.0000"],
        ["loss", "0.0050", "0.0000"],
    ]
    by_class = browser.cells("main section:nth-child(4) tbody tr")
    assert by_class == [["=1+1", "200", "0.5000"], [CLASSES[1], "200", "0.1235"], ["=1+1", "3", "1.0000"]]
    assert browser.texts("main section:nth-child(4) h3") == ["val", "test: for the end"]
    image = "const image = document.querySelector('.drawing img'); image.loading = 'eager'; "
    assert browser.script(image + "return image.decode().then(() => image.naturalWidth)") > 100
    links = browser.script("return [...document.querySelectorAll('a')].map(a => a.getAttribute('href'))")
    folder = project.root / "reports/things-best"
    assert {"provenance.json", "predictions.parquet", "train_batch.png"} <= set(links)
    assert all((folder / link.partition("#")[0]).exists() for link in links)


def test_config_that_has_changed_since_training_is_named(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    project.params["experiments"]["things-best"]["epochs"] = 3
    write(project)
    page = page_of(project).read_text()
    assert page.count("not as in params.yaml now") == 1
    assert "repeats things-best" not in page and "that repeats things-" in page  # it would train another one
    assert "It has changed since" in (tmp_path / "reports/things-best/index.html").read_text()


# bad input


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff\xfe\x00", b"", b'{"val": 3, "test": {"accuracy": "x"}}'])
def test_a_damaged_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    project = make_project(tmp_path)
    for file in ("metrics.json", "history.csv", "predictions.parquet", "provenance.json", "per_class.csv"):
        (tmp_path / "reports/things-best" / file).write_bytes(content)
    (tmp_path / "reports/things/check.json").write_bytes(content)
    notes = write(project)
    assert len(notes) == len(set(notes)) and all(len(note.splitlines()) == 1 for note in notes)
    damaged = "reports/things-best/metrics.json is damaged"
    assert next(note for note in notes if note.startswith(damaged)).endswith("dvc repro -f -s evaluate@things-best")
    page = page_of(project).read_text()
    assert damaged in page and "things-close" in page


def test_reports_that_can_not_be_opened_are_named_and_the_rest_is_shown(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    for name in ("things-best/metrics.json", "things-seeds/history.csv"):
        (tmp_path / "reports" / name).unlink()
        (tmp_path / "reports" / name).mkdir()
    notes = write(project)
    for name in ("things-best/metrics.json", "things-seeds/history.csv"):
        assert f"reports/{name}: Is a directory" in notes
    assert "things-close" in page_of(project).read_text()


def test_half_results_and_those_of_others(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    (tmp_path / "reports/things-seeds/metrics.json").unlink()
    file = tmp_path / "reports/things-bad/provenance.json"
    file.write_text(file.read_text().replace('"dataset": "things"', '"dataset": "others"'))
    shutil.copytree(tmp_path / "reports/things-best", tmp_path / "reports/gone")
    project.experiment("things", "things")
    notes = write(project)
    assert notes == [
        "reports/things-bad is of others, but params.yaml trains things-bad on things:"
        " run dvc repro evaluate@things-bad",
        "reports/gone is of no experiment in params.yaml: left out",
    ]
    page = page_of(project).read_text()
    assert "things-seeds: trained, but without metrics that can be read" in page and "things-bad: not run yet" in page


def test_photos_that_were_replaced_under_their_names_are_other_images(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    file = tmp_path / "reports/things-close/predictions.parquet"
    pd.read_parquet(file).assign(pixel_hash="of another photo").to_parquet(file)
    assert write(project) == []
    page = (tmp_path / "reports/index.html").read_text()
    assert page.count("validated on other images") == 1 and "things-best is not distinguishable" not in page


def test_an_experiment_named_like_a_data_set_keeps_its_hands_off_that_page(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    project.experiment("things", "things")
    for file in (tmp_path / "reports/things-best").iterdir():
        shutil.copy(file, tmp_path / "reports/things" / file.name)
    (note,) = write(project)
    assert note.startswith("things is a data set too")
    assert (tmp_path / "reports/things/index.html").read_text() == "what check found"


def test_no_results_at_all(chromium: Browser, tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.dataset("things", "things")
    project.experiment("things-mlp", "things")
    assert write(project) == []
    chromium.open(page_of(project))
    assert chromium.errors() == []
    assert chromium.texts(".waiting li")[0].startswith("things-mlp: not run yet")
    assert chromium.texts(".leaders, .plot, #filters") == []


def test_a_view_that_can_not_be_written_fails_no_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project = make_project(tmp_path)
    project.command("index")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["index"])
    monkeypatch.setenv("DVC_STAGE", "evaluate@things-best")
    page_of(project).mkdir()
    (page_of(project) / "file").touch()
    index.main()
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith("warning: reports/index.html is not written: ")
    shutil.rmtree(page_of(project))
    index.main()
    assert capsys.readouterr() == ("", "")
    monkeypatch.delenv("DVC_STAGE")
    index.main()
    assert capsys.readouterr() == ("open reports/index.html in a browser\n", "")


def test_the_same_files_give_the_same_page(tmp_path: Path, project: Project) -> None:
    """Elsewhere too, but for the times that only the machine knows on which it was trained."""
    copied = Project(tmp_path / "elsewhere")
    copied.params = project.params
    shutil.copytree(project.root, copied.root, ignore=shutil.ignore_patterns("*.html"))
    (copied.root / "reports/things/index.html").write_text("what check found")
    write(copied)
    for page in ("index.html", "things-best/index.html", "things/labels.html"):
        assert (copied.root / "reports" / page).read_bytes() == (project.root / "reports" / page).read_bytes()
    shutil.rmtree(copied.root / ".train_times")
    write(copied)
    differing = set(page_of(project).read_text().splitlines()) ^ set(page_of(copied).read_text().splitlines())
    assert differing and not [line for line in differing if not re.search(r'<td data-value="[\d.]*">', line)]


def test_repro_writes_the_page_and_git_does_not_see_it(digits: Clone) -> None:
    page = (digits.root / "reports/index.html").read_text()
    assert "digits-cnn" in page and "digits-mlp" in page
    assert (digits.root / "reports/digits-mlp/index.html").exists()
    assert "html" not in digits.must_run("git", "status", "--porcelain", "-uall").out


# many


def test_a_hundred_experiments_are_fast(chromium: Browser, tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.dataset("things", "things")
    draw = np.random.default_rng(0)
    for number in range(100):
        project.experiment(f"things-{number:03d}", "things")
        write_result(
            project, f"things-{number:03d}", draw.choice(VAL, number // 2).tolist(), epochs=100, seconds=number
        )
    project.command("index")
    with chdir(tmp_path):
        began = time.process_time()
        index.write()
        spent = time.process_time() - began
    assert spent < 2
    assert page_of(project).stat().st_size < 1.5e6
    chromium.open(page_of(project))
    assert chromium.errors() == []
    sort = "const began = performance.now(); arguments[0].click(); return performance.now() - began"
    assert chromium.script(sort, chromium.find(".leaders thead tr:last-child th:nth-child(8) button")) < 500
    chromium.find("#filters input").send_keys("things-09 adam")
    assert sorted(column(chromium, 1)) == [f"things-09{number}" for number in range(10)]
    assert chromium.texts("#filters [role=status]") == ["10 of 100 experiments"]
    assert len(chromium.texts(".keys label")) == 10


# layout


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_fits_the_screen(chromium: Browser, project: Project, width: int, scheme: str) -> None:
    wider = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    for page in ("index.html", "things-best/index.html", "things/labels.html"):
        chromium.open(project.root / "reports" / page, width, scheme)
        assert chromium.errors() == [] and chromium.script(wider) == 0
        assert chromium.script(CONTRAST) == []
    chromium.open(page_of(project), width, scheme)
    scrolls = chromium.script(
        "const box = document.querySelector('.leaders'); return box.scrollWidth > box.clientWidth"
    )
    assert scrolls or width == 1280


# WCAG 2.1, contrast of at least 4.5 between a text and what is behind it
CONTRAST = """
const rgb = (color) => color.match(/[\\d.]+/g).map(Number);
const luminance = (color) => {
  const [r, g, b] = rgb(color).map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ground = (element) => {
  for (; element; element = element.parentElement) {
    const color = getComputedStyle(element).backgroundColor;
    if (rgb(color)[3] !== 0) return color;
  }
  return "rgb(255, 255, 255)";
};
const faint = [];
for (const element of document.querySelectorAll("body *")) {
  const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
  if (!own || element.matches("script, style, title, option") || !element.checkVisibility()) continue;
  const [one, other] = [luminance(getComputedStyle(element).color), luminance(ground(element))].sort((a, b) => b - a);
  if ((one + 0.05) / (other + 0.05) < 4.5) faint.push(element.outerHTML.slice(0, 120));
}
return faint;
"""
