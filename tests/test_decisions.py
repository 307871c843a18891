"""`data/decisions/DATASET.csv`: what a person says of single images counts, and a slip is told with its line."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import REPOSITORY, Project, failed_in_one_line, run
from hypothesis import given, settings
from hypothesis import strategies as st
from test_split import Rows, row, rows_of, splits, write

from pipeline.splitting.decisions import decide, read_decisions
from pipeline.system.console import UserError
from pipeline.system.csv_cells import escape_formula, unescape_formula

HEADER = "path,decision,label,note\n"
CLASSES = ["cat", "dog"]


def checked() -> Rows:
    """A few images, good ones and others, as `check` tells of them."""
    loose = dict(row("loose.png", None, "loose", status="quarantined"), issues=["no_label"])
    cut = dict(row("cat/cut.png", "cat", "-", status="quarantined"), issues=["truncated"], pixel_hash=None)
    dark = dict(row("dog/dark.png", "dog", "dark", status="warning"), issues=["dark"])
    return [
        row("cat/1.png", "cat", "1"),
        row("cat/a,b.png", "cat", "2"),
        row("dog/ñ.png", "dog", "3"),
        loose,
        cut,
        dark,
    ]


def read(tmp_path: Path, text: str | bytes) -> pd.DataFrame:
    file = tmp_path / "photos.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_decisions(file, pd.DataFrame(checked()), CLASSES)


def decided(tmp_path: Path, text: str) -> tuple[dict[str, str], dict[str, int]]:
    """The classes of the images that are used, by path, and the counts."""
    table, counts = decide(pd.DataFrame(checked()), read(tmp_path, HEADER + text))
    used = table[table.used]
    return dict(zip(used.path, used.label, strict=True)), counts


@pytest.mark.parametrize("name", ["nothere", "", "../escaped"])
def test_a_data_set_that_is_not_there_gets_no_file(project: Project, name: str) -> None:
    failed_in_one_line(project.run("decisions", name), "datasets has no entry")
    assert [file.name for file in project.root.iterdir()] == ["params.yaml"]


def test_without_a_file_all_is_as_check_says(tmp_path: Path) -> None:
    nothing = read_decisions(tmp_path / "none.csv", pd.DataFrame(checked()), CLASSES)
    assert list(nothing.columns) == ["path", "decision", "label", "note", "line"] and nothing.empty
    table, counts = decide(pd.DataFrame(checked()), nothing)
    assert list(table.path[table.used]) == ["cat/1.png", "cat/a,b.png", "dog/ñ.png", "dog/dark.png"]
    assert counts == {"kept": 0, "dropped": 0, "relabeled": 0}
    assert read(tmp_path, "\n").empty  # as the stage `decisions` writes it where there is none
    assert decided(tmp_path, "") == (dict(zip(table.path[table.used], table.label[table.used], strict=True)), counts)


def test_keep_drop_and_another_class(tmp_path: Path) -> None:
    labels, counts = decided(
        tmp_path,
        'loose.png,keep,dog,"mine, by the way"\ncat/1.png,drop,,a drawing\n"cat/a,b.png",,dog,\ndog/dark.png,keep,,\n',
    )
    assert labels == {"cat/a,b.png": "dog", "dog/ñ.png": "dog", "loose.png": "dog", "dog/dark.png": "dog"}
    assert counts == {"kept": 1, "dropped": 1, "relabeled": 2}


def test_what_changes_nothing_is_not_counted(tmp_path: Path) -> None:
    text = "cat/1.png,keep,cat,\ncat/cut.png,drop,,\ndog/dark.png,,,only a note\n"
    labels, counts = decided(tmp_path, text)
    assert labels == decided(tmp_path, "")[0] and set(counts.values()) == {0}


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbf" + HEADER.encode() + b"cat/1.png,drop,,\n",  # as spreadsheets save it
        HEADER.replace("\n", "\r\n").encode() + b"cat/1.png,drop,,\r\n",
        HEADER.encode() + b"\ncat/1.png,drop",  # fields that are empty may be left out, and so may the last line's end
        HEADER.encode() + b'"cat/1.png","drop","",""\n\n',
    ],
)
def test_forms_of_one_table(tmp_path: Path, text: bytes) -> None:
    (decision,) = read(tmp_path, text).itertuples(index=False)
    assert (decision.path, decision.decision, decision.label, decision.note) == ("cat/1.png", "drop", "", "")


def test_rows_carry_their_notes_and_lines(tmp_path: Path) -> None:
    table = read(tmp_path, HEADER + '\ncat/1.png,,dog,"two\nlines"\ndog/ñ.png,drop,,ça\n')
    assert list(table.line) == [3, 5]
    assert list(table.note) == ["two\nlines", "ça"]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("cat/1.jpg,drop,,\n", 2, ["no image 'cat/1.jpg'", "did you mean 'cat/1.png'?"]),
        ("cat/1.png,,,\ncats/1.png,drop,,\n", 3, ["'cats/1.png'", "did you mean 'cat/1.png'?"]),
        ("nowhere/x.gif,drop,,\n", 2, ["no image 'nowhere/x.gif'"]),
        (",drop,,\n", 2, ["no image ''"]),
        ("cat/1.png,Drop,,\n", 2, ["decision 'Drop'", "did you mean 'drop'?", "expected keep, drop or nothing"]),
        ("cat/1.png,remove,,\n", 2, ["decision 'remove'"]),
        ("cat/1.png,,dogs,\n", 2, ["no class 'dogs'", "did you mean 'dog'?", "cat, dog"]),
        ('"cat/a,b.png",drop,,\n\ncat/1.png,,,"a\nb"\ncat/1.png,drop,,\n', 6, ["'cat/1.png' is on line 4 already"]),
        ("cat/cut.png,keep,,\n", 2, ["'cat/cut.png' can't be kept", "can't be decoded (truncated)"]),
        ("loose.png,keep,,\n", 2, ["'loose.png' can't be kept without a class", "expected a label"]),
        (
            "loose.png,,dog,\n",
            2,
            ["'loose.png' is left out, because it has no class; expected keep, to use it as 'dog'"],
        ),
        ("cat/1.png,drop,,a,b\n", 2, ["5 fields; expected 4", "quotes"]),
        ('cat/1.png,drop,,"never closed\ndog/ñ.png,drop,,\n', 2, ["not CSV"]),
    ],
)
def test_slips_are_told_with_their_line(tmp_path: Path, text: str, line: int, words: list[str]) -> None:
    with pytest.raises(UserError) as refused:
        read(tmp_path, HEADER + text)
    message = str(refused.value)
    assert message.startswith(f"data/decisions/photos.csv, line {line}: ") and len(message.splitlines()) == 1
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("content", "line", "word"),
    [
        (b"\npath,decision,label,note\n", 1, "the header is ''; expected 'path,decision,label,note'"),
        (b"cat/1.png,drop,,\n", 1, "the header is 'cat/1.png,drop,,'"),
        (b"path;decision;label;note\n", 1, "the header is 'path;decision"),
        (b"path,label,decision,note\n", 1, "the header is 'path,label"),
        (HEADER.encode() + b"cat/1.png,,,\ndog/\xf1.png,drop,,\n", 3, "not UTF-8"),
        (HEADER.encode("utf-16"), 1, "not UTF-8"),
    ],
)
def test_what_is_no_such_table(tmp_path: Path, content: bytes, line: int, word: str) -> None:
    with pytest.raises(UserError, match=rf"photos\.csv, line {line}: ") as refused:
        read(tmp_path, content)
    assert word in str(refused.value)


def test_a_thousand_classes_are_not_listed_all(tmp_path: Path) -> None:
    file = tmp_path / "photos.csv"
    file.write_text(HEADER + "cat/1.png,,class 77x,\n")
    with pytest.raises(UserError, match=r"did you mean 'class 77.* and 970 more$") as refused:
        read_decisions(file, pd.DataFrame(checked()), [f"class {n}" for n in range(1000)])
    assert len(str(refused.value)) < 1000


CONTENTS = st.binary(max_size=80) | st.text('cat/1.png,dropkeep\n\r" ;ñ\0', max_size=80).map(str.encode)


@settings(deadline=None, max_examples=150)
@given(CONTENTS, st.booleans())
def test_any_content_is_read_or_refused_in_one_line(tmp_path_factory: Any, content: bytes, with_header: bool) -> None:
    folder = tmp_path_factory.getbasetemp()
    refusal = ""
    try:
        decisions = read(folder, HEADER.encode() + content if with_header else content)
        assert set(decisions.path) <= {image["path"] for image in checked()} and decisions.path.is_unique
    except UserError as error:
        refusal = str(error)
    assert "photos.csv, line " in refusal or not refusal
    assert len(refusal.splitlines()) <= 1


@given(st.text("'=+-@＝\t\r\nx", max_size=6) | st.text())
def test_a_cell_that_a_spreadsheet_leaves_alone_is_read_as_it_was(text: str) -> None:
    cell = escape_formula(text)
    assert unescape_formula(cell) == text and not cell.startswith(tuple("=+-@\t\r\n"))
    assert cell == text or cell.startswith("'")


def test_paths_and_classes_that_begin_like_a_formula(tmp_path: Path) -> None:
    paths = ["=cmd|'/c calc'!A1.png", "'=cmd.png", "-1/a.png", "@x.png", "'x.png", "+1/b.png"]
    file = tmp_path / "photos.csv"
    with file.open("w", newline="") as opened:
        csv.writer(opened).writerow(HEADER.strip().split(","))
        csv.writer(opened).writerows([escape_formula(path), "", "'-1", "'=1+1"] for path in paths)
    table = pd.DataFrame([row(path, "+1", str(number)) for number, path in enumerate(paths)])
    found = read_decisions(file, table, ["+1", "-1"])
    assert list(found.path) == paths and set(found.label) == {"-1"} and set(found.note) == {"=1+1"}
    file.write_text(HEADER + "-1/a.png,,-1,\n=cmd|'/c calc'!A1.png,drop,,\n")  # as people write it themselves
    assert list(read_decisions(file, table, ["+1", "-1"]).path) == ["-1/a.png", paths[0]]


# In the stage `split`


def decide_by(project: Project, text: str) -> None:
    file = project.root / "data/decisions/photos.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(HEADER + text)
    project.must_run("decisions", "photos")


def test_decisions_count_in_the_split(project: Project) -> None:
    rows = [*rows_of({"cat": 30, "dog": 30}), *checked()]
    write(project, rows)
    project.must_run("split", "photos")
    before = splits(project)
    decide_by(project, "loose.png,keep,dog,\ncat/0003.png,drop,,\ncat/0004.png,,dog,\n")
    ran = project.must_run("split", "photos")
    assert "photos: by data/decisions/photos.csv: 1 kept, 1 dropped, 2 relabeled" in ran.out
    table = pd.read_parquet(project.root / "data/splits/photos.parquet").set_index("path")
    assert set(table.index) == {*before, "loose.png"} - {"cat/0003.png"}
    assert table.label["loose.png"] == table.label["cat/0004.png"] == "dog" and table.label["cat/0005.png"] == "cat"
    assert {path: table.split[path] for path in before if path in table.index}.items() <= before.items()
    report = json.loads((project.root / "reports/photos/split.json").read_text())
    assert report["decisions"] == {"kept": 1, "dropped": 1, "relabeled": 2}
    assert report["left_out"] == {"quarantined": 1, "dropped": 1, "leaked": 0, "tested": 0}
    assert sum(report["total"].values()) + sum(report["left_out"].values()) == len(rows)

    decide_by(project, "cat/9999.png,drop,,\n")
    failed_in_one_line(project.run("split", "photos"), "data/decisions/photos.csv, line 2", "no image 'cat/9999.png'")


def test_a_leaked_copy_is_kept_only_when_its_counterpart_is_dropped(project: Project) -> None:
    rows = [*rows_of({"cat": 30, "dog": 30}, "train"), *rows_of({"cat": 5, "dog": 5}, "test")]
    copy = row("train/cat/copy.png", "cat", "test/cat3", "train", "quarantined", group=1)  # of equal pixels
    near = row("train/dog/near.png", "dog", "another", "train", "quarantined", group=7)
    (twin,) = (image for image in rows if image["path"] == "test/dog/0002.png")
    twin["group"] = 7
    write(project, [*rows, dict(copy, issues=["split_leak"]), dict(near, issues=["split_leak"])])
    for path, other in ((copy["path"], "test/cat/0003.png"), (near["path"], "test/dog/0002.png")):
        decide_by(project, f"train/cat/0001.png,drop,,\n{path},keep,,\n")
        words = ["photos.csv, line 3", f"'{path}' can't be kept", f"'{other}'", "official test image", "drop"]
        failed_in_one_line(project.run("split", "photos"), *words)
        decide_by(project, f"{other},drop,,\n{path},keep,,\n")
        project.must_run("split", "photos")
        split_of = splits(project)
        assert split_of[path] in ("train", "val") and other not in split_of


def test_images_of_a_patient_who_is_in_two_official_splits_are_left_out(project: Project) -> None:
    """`check` knows nothing of patients."""
    rows = [*rows_of({"cat": 30, "dog": 30}, "train"), *rows_of({"cat": 5, "dog": 5}, "test")]
    rows += [
        row(f"{split}/cat/patient1-{n}.png", "cat", f"{split}{n}", split) for split in ("train", "test") for n in "12"
    ]
    write(project, rows, group_by=r"patient\d+")
    assert "2 leaked" in project.must_run("split", "photos").out
    split_of = splits(project)
    assert {path for path in split_of if "patient" in path} == {"test/cat/patient1-1.png", "test/cat/patient1-2.png"}
    report = json.loads((project.root / "reports/photos/split.json").read_text())
    assert report["left_out"] == {"quarantined": 0, "dropped": 0, "leaked": 2, "tested": 0}


def test_git_keeps_decisions(tmp_path: Path) -> None:
    run(["git", "init", "-q"], tmp_path)
    (tmp_path / ".gitignore").write_bytes((REPOSITORY / ".gitignore").read_bytes())
    for name in ("data/decisions/photos.csv", "data/decisions/README.md", "data/checked/photos.parquet"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    listed = run(["git", "ls-files", "-o", "--exclude-standard", "data"], tmp_path).out.split()
    assert listed == ["data/decisions/README.md", "data/decisions/photos.csv"]


def test_the_readme_shows_a_table_that_is_one(tmp_path: Path) -> None:
    readme = (REPOSITORY / "data/decisions/README.md").read_text()
    text = "".join(f"{line.strip()}\n" for line in readme.splitlines() if line.startswith("    "))
    rows = [row(path, path.split("/")[0], path) for path in ("cats/0042.jpg", "cats/0077.jpg", "dogs/0008.jpg")]
    file = tmp_path / "photos.csv"
    file.write_text(text)
    decisions = read_decisions(file, pd.DataFrame(rows), ["cats", "dogs"])
    assert sorted(decisions.decision) == ["", "drop", "keep"]
