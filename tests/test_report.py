"""The report page: what it says of a data set, and how it behaves in a browser."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, Project, failed_in_one_line, picture, write_manifest, write_summary
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from pipeline.images.tables import CHECKED
from pipeline.page.issues import GROUPS, ISSUES
from pipeline.splitting.decisions import read_rows
from pipeline.system.csv_cells import escape_formula

CHROMIUM, CHROMEDRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = [
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
RUN = "window.hacked = 1"
HOSTILE = f"a<b>'\"&{{{{ 7*7 }}}}/<img src=x onerror={RUN}>/<script>{RUN}<"  # with /script> as the next folder
CLASSES = ["cat", f"<script>{RUN}</script>", "W" * 200, "été \u202e猫, 🐈"]


def row(path: str, label: str | None = "cat", **facts: Any) -> dict[str, Any]:
    """One file as `check` describes it; a good image unless `facts` say otherwise."""
    issues = facts.get("issues", [])
    good: dict[str, Any] = {
        **dict.fromkeys(CHECKED.names),
        **{"path": path, "label": label, "width": 10, "height": 12, "mode": "RGB", "format": "PNG", "bytes": 400},
        **{"brightness": 0.5, "contrast": 0.25, "sharpness": 0.125, "color": True, "pixel_hash": path},
        **{"status": "warning" if issues else "ok", "issues": []},
    }
    return {**good, **facts}


def broken(path: str, label: str | None, code: str, reason: str, **facts: Any) -> dict[str, Any]:
    nothing = dict.fromkeys(("width", "height", "mode", "format", "pixel_hash", "brightness", "contrast", "sharpness"))
    return row(path, label, **nothing, status="quarantined", issues=[code], reason=reason, **facts)


def group(number: int, code: str, *paths: str, **facts: Any) -> list[dict[str, Any]]:
    """Copies: equal to the pixel but for near duplicates."""
    same = {"pixel_hash": f"{number:032x}"} if code != "near_duplicate" else {}
    return [row(path, group=number, issues=[code], **same, **facts) for path in paths]


def every_kind() -> list[dict[str, Any]]:
    rows = [row(f"cat/ok{number}.png") for number in range(20)]
    rows += [
        row(f"cat/blurry{number:02d}.png", sharpness=0.001 * (70 - number), issues=["blurry"]) for number in range(70)
    ]
    rows += [row(f"dog/dark{number}.png", CLASSES[2], brightness=0.1 * number, issues=["dark"]) for number in (3, 1, 2)]
    rows += [row("both.png", CLASSES[3], brightness=0.05, sharpness=0.5, issues=["dark", "blurry"])]
    rows += [broken("cat/Empty.png", "cat", "empty_file", "0 bytes", bytes=0)]
    rows += [broken(f"{HOSTILE}/script>.png", None, "not_an_image", f"<img src=x onerror='{RUN}'>")]
    rows += [row("a, \"b\"\n'c'.png", CLASSES[1], issues=["exif_rotated"])]
    rows += [row("x" * 240 + "/" + "long name " * 20 + ".png", None, status="quarantined", issues=["no_label"])]
    rows += group(0, "exact_duplicate", "cat/same1.png", "cat/same2.png", "cat/same3.png")
    rows += group(1, "near_duplicate", "cat/near1.png", "cat/near2.png")
    contradicting = group(2, "label_conflict", "cat/what.png", "dog/what.png")
    contradicting[1]["label"] = CLASSES[2]
    leak = group(3, "split_leak", "train/leak.png", "test/leak.png")
    leak[0].update(official_split="train", status="quarantined")
    leak[1].update(official_split="test")
    return rows + contradicting + leak


def prepare(root: Path, rows: list[dict[str, Any]], classes: list[str] = CLASSES) -> Project:
    """What stages before `report` leave, and the images as far as they are small enough to be files."""
    project = Project(root)
    project.dataset("photos", "photos")
    write_manifest(root / "data/checked/photos.parquet", rows, classes)
    write_summary(root, "photos")
    for number, row in enumerate(rows[:120]):
        file = root / "photos" / row["path"]
        file.parent.mkdir(parents=True, exist_ok=True)
        if row["width"]:
            picture(number).save(file, "PNG")
        else:
            file.write_bytes(b"no image" * bool(row["bytes"]))
    return project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = prepare(tmp_path_factory.mktemp("report"), every_kind())
    project.must_run("report", "photos")
    return project


def page_of(project: Project) -> Path:
    return project.root / "reports/photos/index.html"


class Browser:
    """A page in headless Chromium."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, page: Path, width: int = 1280, scheme: str = "light") -> None:
        self.size(width)
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        self.errors()
        self.driver.get(page.as_uri())

    def size(self, width: int) -> None:
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def errors(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]

    def script(self, text: str, *arguments: Any) -> Any:
        return self.driver.execute_script(text, *arguments)

    def find(self, selector: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        """What a person reads in each element that is visible."""
        return self.script(
            """
            const found = [...document.querySelectorAll(arguments[0])];
            return found.filter(element => element.checkVisibility()).map(element => element.innerText);
            """,
            selector,
        )

    def cells(self, rows: str) -> list[list[str]]:
        """What is in each cell of the table rows that a selector names."""
        return self.script(
            """
            const found = [...document.querySelectorAll(arguments[0])];
            return found.map(row => [...row.children].map(cell => cell.innerText.trim()));
            """,
            rows,
        )

    def listed(self) -> dict[str, list[str]]:
        """The paths on the cards of every section that is visible, after all of them have been asked for."""
        found = self.script(
            """
            for (let more; more = document.querySelector("section:not([hidden]) > .more:not([hidden])");) more.click();
            return [...document.querySelectorAll(".finding:not([hidden])")].map(section =>
                [section.id, [...section.querySelectorAll(".card")].map(card => card.title)]);
            """
        )
        return dict(found)

    def choose(self, name: str, text: str) -> None:
        """By the keyboard, as the driver's own way is not that of a person: it lacks the event `input`."""
        field = self.find(f"select[name={name}]")
        field.send_keys(Keys.DOWN * [option.text for option in Select(field).options].index(text))
        assert Select(field).first_selected_option.text == text

    def lines(self) -> list[list[str]]:
        return list(csv.reader(io.StringIO(self.find("#decisions textarea").get_property("value"))))

    def card(self, path: str) -> Any:
        return self.find(f".card[title={json.dumps(path)}]")


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if not (CHROMIUM and CHROMEDRIVER):
        pytest.skip("Chromium and its driver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, Service(CHROMEDRIVER))
    yield Browser(driver)
    driver.quit()


@pytest.fixture
def browser(chromium: Browser, project: Project) -> Browser:
    chromium.open(page_of(project))
    return chromium


# what the page says


def test_opens_from_disk_and_asks_for_nothing_else(browser: Browser, project: Project) -> None:
    assert browser.errors() == []
    requested = browser.script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert [name for name in requested if not name.startswith("data:")] == []
    linked = "return [...document.querySelectorAll('[src], link[href]')].map(e => e.getAttribute('src') ?? e.href)"
    assert {address.partition(",")[0] for address in browser.script(linked)} == {"data:", "data:image/jpeg;base64"}
    assert "http:" not in (page := page_of(project).read_text()) and "https:" not in page


def test_names_never_run_as_script(browser: Browser) -> None:
    assert browser.script("return window.hacked ?? null") is None
    assert browser.script("return document.querySelectorAll('img[onerror], #hacked').length") == 0
    hostile = browser.card(f"{HOSTILE}/script>.png")
    assert hostile.find_element(By.CSS_SELECTOR, ".picture").text == f"<img src=x onerror='{RUN}'>"
    assert hostile.find_element(By.CSS_SELECTOR, ".name").text == "script>.png"
    assert [option.text for option in Select(browser.find("select[name=label]")).options][1:-1] == CLASSES


def test_counts_and_order_of_findings(browser: Browser) -> None:
    rows = every_kind()
    counts = dict(zip(browser.texts(".counts dt"), browser.texts(".counts dd"), strict=True))
    status = [row["status"] for row in rows]
    assert counts == {
        **{"files": str(len(rows)), "classes": str(len(CLASSES))},
        **{name: str(status.count(name)) for name in ("ok", "warning", "quarantined")},
    }
    assert list(browser.listed()) == [
        *("label_conflict", "split_leak", "not_an_image", "empty_file", "no_label", "dark", "blurry", "exif_rotated"),
        *("near_duplicate", "exact_duplicate"),
    ]


def test_worst_come_first_with_their_number(browser: Browser) -> None:
    expected = ["both.png", "dog/dark1.png", "dog/dark2.png", "dog/dark3.png"]
    assert browser.listed()["dark"] == expected
    assert browser.texts("#dark .measure") == ["brightness 0.05", *(f"brightness 0.{n}" for n in (1, 2, 3))]
    assert browser.listed()["blurry"][:2] == ["cat/blurry69.png", "cat/blurry68.png"]


def test_thumbnails_are_small_and_the_rest_says_why_not(browser: Browser) -> None:
    browser.listed()
    sizes = browser.script(
        """return Promise.all([...document.querySelectorAll("#blurry img")].map(async image => {
            image.loading = "eager"; await image.decode(); return [image.naturalWidth, image.naturalHeight] }))"""
    )
    assert sizes == [[10, 12]] * 61  # 60, and one that another section shows
    assert browser.texts("#blurry .picture.none") == ["no preview in this page"] * 10
    assert browser.texts("#empty_file .picture.none") == ["0 bytes"]


def test_lists_say_that_they_are_cut(browser: Browser) -> None:
    assert browser.texts("#blurry .shown span") == ["28 of 71 images"]
    browser.find("#blurry .more").click()
    assert browser.texts("#blurry .shown span") == ["56 of 71 images"]
    assert browser.texts("#blurry .more") == ["Show 15 more"]
    browser.find("#blurry .more").click()
    assert browser.texts("#blurry .shown span") == ["71 images"]
    assert len(browser.listed()["blurry"]) == 71


def test_groups_stand_side_by_side(browser: Browser) -> None:
    listed = browser.listed()
    assert listed["label_conflict"] == ["dog/what.png", "cat/what.png"]
    assert browser.texts("#label_conflict .label") == [CLASSES[2], "cat"]
    assert listed["split_leak"] == ["test/leak.png", "train/leak.png"]
    assert "quarantined · official train · 10 × 12" in browser.texts("#split_leak .metadata")
    assert browser.texts("#near_duplicate .kind") == ["2 images, nearly the same"]
    assert browser.texts("#exact_duplicate .kind") == ["3 images, same pixels"]


def test_the_table_of_classes_counts_files(browser: Browser) -> None:
    rows = every_kind()
    by_class = {row[0]: row[2:] for row in browser.cells("#classes tbody tr")}
    assert list(by_class) == CLASSES
    cats = [row["status"] for row in rows if row["label"] == "cat"]
    assert by_class["cat"] == [
        *(str(len(cats)), *(str(cats.count(status)) for status in ("ok", "warning", "quarantined"))), "10 × 12",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Project:
    root = tmp_path_factory.mktemp("split")
    project = prepare(root, [row(f"{n}.png", CLASSES[n % 4], phash=f"{n:016x}") for n in range(2400)])
    project.dataset("photos", "photos", split={"val": 0.1, "test": 0.2})
    for stage in ("split", "report"):
        project.must_run(stage, "photos")
    return project


def test_a_link_leads_to_the_page_of_the_split(chromium: Browser, split: Project) -> None:
    chromium.open(page_of(split))
    chromium.find("nav a[href='split.html']").click()
    assert chromium.errors() == []
    assert chromium.script("return window.hacked ?? null") is None
    counts = json.loads((split.root / "reports/photos/split.json").read_text())
    for found, (label, splits) in zip(
        chromium.cells("tbody tr"), [("All classes", counts["total"]), *counts["classes"].items()], strict=True
    ):
        total = sum(splits.values())
        assert found[0] == label and found[2] == f"{total:,}"
        assert found[3:] == [f"{count:,} {100 * count / total:.1f} %" for count in splits.values()]
    assert chromium.texts("thead th")[-3:] == ["train", "val", "test"]
    bars = chromium.script(
        "return [...document.querySelectorAll('tbody tr:first-child .bar i')].map(i => [i.className, i.style.flexGrow])"
    )
    assert {split: int(count) for split, count in bars} == counts["total"]


def test_size_table_is_that_of_pandas(project: Project, browser: Browser, tmp_path: Path) -> None:
    import pandas as pd

    rows = [row(f"cat/{number}.png", width=100 + number**2, height=7 * number + 1) for number in range(40)]
    rows += [broken("cat/x.png", "cat", "truncated", "ends early")]
    other = prepare(tmp_path, rows)
    other.must_run("report", "photos")
    browser.open(page_of(other))
    found = browser.script(
        "return [...document.querySelectorAll('#sizes tr')].map(r => [...r.children].map(c => c.innerText))"
    )
    expected = pd.DataFrame(rows)[["width", "height"]].astype(float).describe()
    assert [[float(cell.replace(",", "")) for cell in line[1:]] for line in found[1:]] == [
        pytest.approx(values.tolist(), abs=0.005) for _, values in expected.iterrows()
    ]
    bars = browser.script("return [...document.querySelectorAll('svg')].map(s => s.querySelectorAll('rect').length)")
    assert bars[0] > 5 and bars[3:] == [1, 1, 1]


def test_bars_stand_at_their_values(browser: Browser, tmp_path: Path) -> None:
    widths = [100] * 10 + [200] * 20 + [410] * 5  # 32 bars of 9.6875 pixels
    project = prepare(tmp_path, [row(f"{number}.png", width=width) for number, width in enumerate(widths)])
    project.must_run("report", "photos")
    browser.open(page_of(project))
    found = browser.script(
        """return [...document.querySelector("svg").children].map(bar => [
            +bar.getAttribute("x") / 320, +bar.getAttribute("height") / 96, bar.textContent])"""
    )
    assert [title for _, _, title in found] == [
        *("100 to 110: 10 images", "197 to 207: 20 images", "400 to 410: 5 images"),
    ]
    assert [height for _, height, _ in found] == pytest.approx([0.5, 1, 0.25])
    assert [start for start, _, _ in found] == pytest.approx([0, 10 / 32, 31 / 32])
    assert browser.texts("figure:first-of-type .axis span") == ["100", "median 200", "410"]
    assert browser.texts("figure:last-of-type .axis span") == ["", "all 0.125", ""]


# the data set as a whole


def with_faults() -> list[dict[str, Any]]:
    """Two classes that differ in size, in two splits that differ in brightness, of patients with five images."""
    return [
        row(
            f"{split}/{label}/patient{2 * (number // 5) + cat}_{number % 5}.png",
            label,
            width=(side_length := (30 if cat else 60) + number % 7),
            height=side_length,
            brightness=(0.2 if split == "test" else 0.7) + number % 9 / 100,
            official_split=split,
            phash=f"{number:016x}",
        )
        for split in ("train", "test")
        for cat, label in enumerate(("dog", "cat"))
        for number in range(60)
    ]


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = prepare(tmp_path_factory.mktemp("faulty"), with_faults(), ["cat", "dog"])
    project.must_run("report", "photos")
    return project


@pytest.mark.parametrize("width", [1280, 390])
def test_findings_about_the_whole_come_first(chromium: Browser, faulty: Project, width: int) -> None:
    chromium.open(page_of(faulty), width)
    assert chromium.errors() == []
    assert chromium.texts("main > :first-child h2") == ["The data set as a whole"]
    assert chromium.texts("nav a")[0] == "The data set as a whole 3"
    size, splits, groups = chromium.texts(".overall")
    assert size.startswith("Size predicts the class\n\n") and "100 ± 0\u00a0% balanced accuracy" in size
    assert "What it costs." in size and "blurred" in size and "What to do." in size
    assert splits.startswith("Train and test differ in brightness")
    assert groups.startswith("File names show groups\n\n24 groups") and "24 of them have images in several" in groups
    assert chromium.texts(".overall code") == [r"group_by: '(patient\d+)_'"]
    assert chromium.texts(".overall:first-of-type .row .group") == ["cat", "dog"]
    # only the first 120 images are there to make thumbnails of
    for part, least in ((".picture", [10, 10, 10]), ("img", [1, 5, 10]), ("rect", [10, 10, 0])):
        count = f"return [...document.querySelectorAll('.overall')].map(e => e.querySelectorAll('{part}').length)"
        assert all(found >= wanted for found, wanted in zip(chromium.script(count), least, strict=True))
    assert chromium.script("return document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0


def test_how_well_each_attribute_predicts_the_class(chromium: Browser, faulty: Project) -> None:
    chromium.open(page_of(faulty))
    rows = {cells[0]: cells[1] for cells in chromium.cells("#predictors tbody tr")}
    assert rows["size"] == "100.0 ± 0.0 %" and rows["brightness"] == "as guessing"
    assert chromium.texts("#predictors .all th") == ["size", "bytes per pixel"]


# filters


FILTERS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "issue: Blurry": lambda row: "blurry" in row["issues"],
    "issue: Near duplicates": lambda row: "near_duplicate" in row["issues"],
    "issue: Leaks across official splits": lambda row: "split_leak" in row["issues"],
    "label: cat": lambda row: row["label"] == "cat",
    f"label: {CLASSES[1]}": lambda row: row["label"] == CLASSES[1],
    "label: without a class": lambda row: row["label"] is None,
    "official_split: test": lambda row: row["official_split"] == "test",
    "official_split: in none": lambda row: row["official_split"] is None,
    "status: quarantined": lambda row: row["status"] == "quarantined",
    "status: warning": lambda row: row["status"] == "warning",
    "text: WHAT": lambda row: "what" in row["path"],
    "text: <img": lambda row: "<img" in row["path"],
    "label: cat; status: warning; text: blurry1": lambda row: (
        row["label"] == "cat" and row["status"] == "warning" and "blurry1" in row["path"]
    ),
}


@pytest.mark.parametrize("filters", FILTERS)
def test_filters_leave_what_matches(browser: Browser, filters: str) -> None:
    everything = browser.listed()
    rows = {row["path"]: row for row in every_kind()}

    def expected(section: str, path: str) -> bool:
        """A group is kept whole if one of its images matches; of the sections of single images only the one chosen."""
        if section in ("blurry", "dark") and "issue" in filters:
            return section == "blurry" and "Blurry" in filters
        number = rows[path]["group"]
        return any(
            FILTERS[filters](row)
            for row in rows.values()
            if row["path"] == path or (number is not None and number == row["group"])
        )

    for name, value in (part.split(": ", 1) for part in filters.split("; ")):
        if name == "text":
            browser.find("input[name=text]").send_keys(value)
        else:
            browser.choose(name, value)
    wanted = {code: [path for path in found if expected(code, path)] for code, found in everything.items()}
    wanted = {code: found for code, found in wanted.items() if found}
    assert 0 < sum(map(len, wanted.values())) < sum(map(len, everything.values()))
    assert browser.listed() == wanted
    if "blurry" in wanted:
        assert browser.texts("#blurry .shown span") == [f"{len(wanted['blurry'])} of 71 images match"]

    browser.find("#filters button").click()
    assert browser.listed() == everything


def test_nothing_matches(browser: Browser) -> None:
    browser.find("input[name=text]").send_keys("no such path")
    assert browser.listed() == {}
    assert browser.find("#nothing").is_displayed()
    assert browser.find("#classes").is_displayed()  # what describes the data set as a whole stays


# decisions


def test_ticks_become_lines_of_the_decision_file(browser: Browser) -> None:
    panel = browser.find("#decisions")
    assert not panel.is_displayed()
    hostile = ["a, \"b\"\n'c'.png", f"{HOSTILE}/script>.png"]
    for path in hostile:
        browser.script("document.querySelectorAll('.card').forEach(c => c.title === arguments[0] && c.click())", path)
    browser.find("#decisions input").send_keys('seen, "twice"')
    assert browser.lines() == [["path", "decision", "label", "note"]] + [
        [path, "drop", "", 'seen, "twice"'] for path in hostile
    ]
    assert panel.is_displayed() and panel.find_element(By.CSS_SELECTOR, "b").text == "2 images to drop."
    browser.find("#decisions .clear").click()
    assert not panel.is_displayed()
    assert browser.texts(".marked") == []


def test_lines_that_no_spreadsheet_runs(chromium: Browser, tmp_path: Path) -> None:
    paths = ["=1+1, 'a'.png", "'=b.png", "-1/c.png", "@d.png", "'e.png", "+1\t.png"]
    project = prepare(tmp_path, [row(path, issues=["dark"], brightness=0.0) for path in paths])
    project.must_run("report", "photos")
    chromium.open(page_of(project))
    chromium.find("#dark .tick").click()
    chromium.find("#decisions input").send_keys("=1+1")
    text = chromium.find("#decisions textarea").get_property("value")
    assert sorted(line[0] for line in chromium.lines()[1:]) == sorted(map(escape_formula, paths))
    assert {line[3] for line in chromium.lines()[1:]} == {"'=1+1"}
    file = tmp_path / "photos.csv"
    file.write_text(text)
    assert sorted((line["path"], line["note"]) for line in read_rows(file)) == sorted((path, "=1+1") for path in paths)


def test_one_image_has_one_tick(browser: Browser) -> None:
    browser.listed()
    ticks = [f"#{section} .card[title='both.png'] input" for section in ("dark", "blurry")]
    browser.find(ticks[0]).click()
    assert [browser.find(tick).is_selected() for tick in ticks] == [True, True]
    browser.script("arguments[0].scrollIntoView({block: 'center'})", browser.find(ticks[1]))
    browser.find(ticks[1]).click()
    assert [browser.find(tick).is_selected() for tick in ticks] == [False, False]
    assert not browser.find("#decisions").is_displayed()


def test_tick_by_keyboard(browser: Browser) -> None:
    browser.find("#filters button").send_keys(Keys.TAB)
    focused = browser.driver.switch_to.active_element
    focused.send_keys(Keys.SPACE)
    assert focused.accessible_name.startswith("W") and "what.png" in focused.accessible_name
    assert [line[0] for line in browser.lines()[1:]] == ["dog/what.png"]


def test_tick_many(browser: Browser) -> None:
    browser.find("input[name=text]").send_keys("blurry1")
    browser.find("#blurry .tick").click()
    assert [line[0] for line in browser.lines()[1:]] == browser.listed()["blurry"]
    browser.find("#filters button").click()
    browser.find("#decisions .clear").click()
    browser.find("#exact_duplicate .tick").click()
    assert [line[0] for line in browser.lines()[1:]] == ["cat/same2.png", "cat/same3.png"]
    browser.find("#decisions .clear").click()
    # one of them stays also where the first is dropped
    browser.script("document.querySelector('[title=\"cat/same1.png\"] input').click()")
    browser.script("document.querySelector('#exact_duplicate .tick').click()")
    assert sorted(line[0] for line in browser.lines()[1:]) == ["cat/same1.png", "cat/same3.png"]
    assert browser.texts("#label_conflict .tick") == []  # which label is wrong is for a person to say


def test_tick_all_of_a_kind_by_keyboard(browser: Browser) -> None:
    """Also those that are not shown yet, or have no thumbnail."""
    button = browser.find("#blurry .tick")
    assert button.text == "tick all 71" and len(browser.texts("#blurry .card")) == 28
    button.send_keys(Keys.ENTER)
    ticked = [line[0] for line in browser.lines()[1:]]
    assert len(ticked) == 71 and browser.find("#decisions b").text == "71 images to drop."
    assert ticked == browser.listed()["blurry"]
    assert browser.script("return document.querySelectorAll('#blurry .drop input:checked').length") == 71


def test_copy(browser: Browser) -> None:
    browser.find("#near_duplicate .card").click()
    browser.find("#decisions .copy").click()
    browser.find("input[name=text]").send_keys(Keys.CONTROL, "v")
    pasted = browser.find("input[name=text]").get_property("value")  # of one line
    assert pasted.replace(" ", "") == "path,decision,label,notecat/near1.png,drop,,"


def test_lines_are_copied_once_and_the_header_with_the_first(browser: Browser, tmp_path: Path) -> None:
    def click(button: str) -> None:  # wherever it is on the page
        browser.script("document.querySelector(arguments[0]).click()", button)

    file = tmp_path / "photos.csv"
    for section in ("near_duplicate", "dark"):
        click(f"#{section} .tick")
        click("#decisions .copy")
        with file.open("a") as decisions:  # as the person pastes them
            decisions.write(browser.find("#decisions textarea").get_property("value"))
    click("#decisions .clear")
    click("#exact_duplicate .tick")
    with file.open("a") as decisions:
        decisions.write(browser.find("#decisions textarea").get_property("value"))
    paths = [row["path"] for row in read_rows(file)]
    assert len(set(paths)) == len(paths) and {"dog/dark1.png", "cat/same2.png", "cat/same3.png"} <= set(paths)


def test_the_advice_names_the_stages_of_this_data_set(browser: Browser) -> None:
    browser.find("#near_duplicate .card").click()
    commands = browser.texts("#decisions code")
    assert commands[1:] == ["dvc repro split@photos report@photos", "dvc repro --glob 'evaluate@photos-*'"]


def test_earlier_decisions_are_shown(chromium: Browser, tmp_path: Path) -> None:
    project = prepare(tmp_path, every_kind())
    decisions = tmp_path / "data/decisions/photos.csv"
    decisions.parent.mkdir()
    decisions.write_text(
        "path,decision,label,note\ndog/dark1.png,drop,,too dark\ndog/what.png,,cat,\ncat/ok1.png,drop,,\n"
    )
    project.must_run("decisions", "photos")
    project.must_run("report", "photos")
    chromium.open(page_of(project))
    assert chromium.texts(".decided") == ["decided: class cat", "decided: drop (too dark)"]
    assert not chromium.card("dog/what.png").find_element(By.CSS_SELECTOR, "input").is_enabled()
    chromium.find("#dark .tick").click()
    assert [line[0] for line in chromium.lines()] == ["both.png", "dog/dark2.png", "dog/dark3.png"]  # and no header


def test_a_damaged_decision_file_stops_it(tmp_path: Path) -> None:
    project = prepare(tmp_path, every_kind())
    (tmp_path / "data/decisions").mkdir()
    (tmp_path / "data/decisions/photos.csv").write_text("file,verdict\n")
    project.must_run("decisions", "photos")
    failed_in_one_line(project.run("report", "photos"), "data/decisions/photos.csv, line 1", "path,decision,label,note")
    assert not page_of(project).exists()


# layout


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_fits_the_screen(chromium: Browser, project: Project, width: int, scheme: str) -> None:
    chromium.open(page_of(project), width, scheme)
    chromium.listed()
    chromium.find("#near_duplicate .card").click()
    assert chromium.script("return document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    color = "return getComputedStyle(document.body).{}.match(/[0-9]+/g).map(Number)"
    text, ground = (sum(chromium.script(color.format(name))) for name in ("color", "backgroundColor"))
    assert (text < ground) == (scheme == "light") and abs(text - ground) > 500


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_of_the_split_fits_the_screen(chromium: Browser, split: Project, width: int) -> None:
    chromium.open(split.root / "reports/photos/split.html", width)
    wider = "return {0}.scrollWidth - {0}.clientWidth"
    assert chromium.script(wider.format("document.documentElement")) == 0
    assert chromium.script(wider.format("document.querySelector('.scroll')")) == 0
    assert chromium.find(".bar").is_displayed() == (width == 1280)


# the file


def test_a_set_without_findings(chromium: Browser, tmp_path: Path) -> None:
    project = prepare(tmp_path, [row(f"cat/{number}.png") for number in range(4)])
    project.must_run("report", "photos")
    chromium.open(page_of(project))
    assert chromium.errors() == []
    assert chromium.texts("header .lead") == ["No findings: every file is a whole image, and no two are alike."]
    assert chromium.texts("section h2") == ["Classes", "Sizes and light"]
    assert chromium.texts("nav a") == ["Classes", "Sizes and light", "How the images are split"]
    assert chromium.texts("#filters, #decisions") == []


def test_a_set_with_nothing_but_findings(chromium: Browser, tmp_path: Path) -> None:
    """Far more than a page can hold: it stays small, lists the worst, and says how many there are."""
    rows = [
        row(f"cat/{number:05d} {'a long name ' * 5}.jpg", width=600 + number, height=400, issues=["odd_size"])
        for number in range(20_000)
    ]
    rows += [row(f"x/{number}.jpg", f"class {number % 150}", issues=["animated", "bright"]) for number in range(9_000)]
    for number in range(3_000):
        rows += group(number, "near_duplicate", f"near/{number}a.jpg", f"near/{number}b.jpg")
    rows += group(9_999, "exact_duplicate", *(f"same/{number}.jpg" for number in range(40)))
    classes = ["cat", *(f"class {number}" for number in range(150))]
    project = prepare(tmp_path, rows, classes)
    project.must_run("report", "photos")
    assert page_of(project).stat().st_size < 4e6
    chromium.open(page_of(project))
    assert chromium.errors() == []
    assert chromium.texts(".finding .shown span") == [
        "28 of 9,000 images (2,500 of all 9,000 are in this page)",
        "28 of 20,000 images (2,500 of all 20,000 are in this page)",
        "28 of 9,000 images (2,500 of all 9,000 are in this page)",
        "30 of 3,000 groups (499 of all 3,000 are in this page)",
        "1 group",
    ]
    assert chromium.texts("#exact_duplicate .kind") == ["6 of 40 images, same pixels"]
    assert chromium.script("return document.querySelectorAll('#classes tbody tr').length") == 151
    chromium.find("#exact_duplicate .tick").click()
    assert [line[0] for line in chromium.lines()[1:]] == [f"same/{number}.jpg" for number in range(1, 40)]
    chromium.find("#decisions .clear").click()
    assert chromium.texts("#odd_size .tick") == ["tick all 2,500"]
    worst = chromium.texts("#odd_size .name")[0]
    assert worst.startswith("19999 ")


def test_same_inputs_same_bytes(project: Project, tmp_path: Path) -> None:
    other = prepare(tmp_path / "elsewhere", every_kind())
    other.must_run("report", "photos", PYTHONHASHSEED="7", TZ="Asia/Tokyo")
    assert page_of(other).read_bytes() == page_of(project).read_bytes()


def test_an_image_that_has_gone_loses_only_its_thumbnail(chromium: Browser, tmp_path: Path) -> None:
    project = prepare(tmp_path, every_kind())
    (tmp_path / "photos/dog/dark1.png").unlink()
    (tmp_path / "photos/dog/dark2.png").write_bytes(b"damaged")
    project.must_run("report", "photos")
    chromium.open(page_of(project))
    assert chromium.texts("#dark .picture.none") == ["no preview in this page"] * 2
    assert chromium.script("return document.querySelectorAll('#dark img').length") == 2


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("data/checked/photos.parquet", ["data/checked/photos.parquet is not there", "dvc repro"]),
        ("photos", ["photos is not there"]),
        ("reports/photos/check.json", ["reports/photos/check.json is not there", "check@photos"]),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, missing: str, words: list[str]) -> None:
    project = prepare(tmp_path, every_kind())
    shutil.move(tmp_path / missing, tmp_path / "away")
    failed_in_one_line(project.run("report", "photos"), *words)


def test_a_damaged_summary(tmp_path: Path) -> None:
    project = prepare(tmp_path, every_kind())
    for content in ("{", "{}", '{"used": 1, "left_out": 2}'):
        (tmp_path / "reports/photos/check.json").write_text(content)
        failed_in_one_line(project.run("report", "photos"), "reports/photos/check.json is damaged", "check@photos")


def test_a_damaged_manifest(tmp_path: Path) -> None:
    project = prepare(tmp_path, every_kind())
    file = tmp_path / "data/checked/photos.parquet"
    file.write_bytes(file.read_bytes()[:-100])
    failed_in_one_line(project.run("report", "photos"), "data/checked/photos.parquet is damaged", "dvc repro")


def test_all_issues_of_the_pipeline_are_explained(project: Project) -> None:
    documented = re.findall(
        r"^\| `(\w+)` \| (?:quarantined|warning)", (REPOSITORY / "docs/pipeline.md").read_text(), re.M
    )
    assert len(documented) > 10
    assert set(documented) <= {*GROUPS, *ISSUES}
