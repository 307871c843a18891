"""Names of files and classes are any text: terminals get nothing of it that steers them, and tables keep it exact."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Project, Ran, picture
from scipy.sparse import csr_array

from pipeline.evaluation import figures, grid
from pipeline.system.csv_cells import escape_formula

DOG = "\x1b[2Jdog\r"  # clears the screen
CAT = "=cat 猫é"
HIDDEN = ["\u202egnp.exe.png", "\x9b2J\n.png", "zero\u200bwidth.png", "'=.png"]


def photos(root: Path) -> Path:
    for label in (DOG, CAT):
        (root / label).mkdir(parents=True)
        for number in range(12):
            picture(len(label) * 100 + number).save(root / label / f"{number}.png")
    for number, name in enumerate(HIDDEN):
        picture(number).save(root / CAT / name)
        (root / DOG / name).write_bytes(b"")
    return root


def lines(ran: Ran) -> list[str]:
    """What was printed, every line of which is fit for a terminal."""
    found = (ran.out + ran.err).split("\n")
    assert all(line.isprintable() for line in found), found
    return found


def test_stages_print_names_that_steer_no_terminal(project: Project) -> None:
    source = photos(project.root / "photos")
    project.dataset("photos", "photos")
    ran = project.run("check", "photos")
    assert ran.status == 1 and r"\x1b[2Jdog\r/\x9b2J\n.png: empty_file: 0 bytes" in lines(ran)
    assert r"\x1b[2Jdog\r/\u202egnp.exe.png: empty_file: 0 bytes" in lines(ran)

    project.dataset("photos", "photos", max_quarantined=0.5, split={"val": 0.2, "test": 0.3})
    for stage in ("check", "split", "pack"):
        lines(project.must_run(stage, "photos"))
    exact = pd.read_parquet(project.root / "data/splits/photos.parquet")
    assert {f"{CAT}/{name}" for name in HIDDEN} <= set(exact.path) and set(exact.label) == {CAT, DOG}
    for text in ("check.json", "split.json"):
        content = (project.root / "reports/photos" / text).read_text()
        assert content.replace("\n", "").isprintable() and DOG in json.loads(content)["classes"]

    (project.root / "data/decisions").mkdir()
    decisions = project.root / "data/decisions/photos.csv"
    cells = [f"{CAT}/0.png", f"{DOG}/0.png"]
    decisions.write_text(
        "path,decision,label,note\n" + f"{escape_formula(cells[0])},drop,,'=1+1\n{cells[1]!r},drop,,\n"
    )
    project.must_run("decisions", "photos")
    ran = project.run("split", "photos")
    assert ran.status == 1 and "photos.csv, line 3: no image" in lines(ran)[-2]
    decisions.write_text(
        "path,decision,label,note\n" + f'{escape_formula(cells[0])},drop,{escape_formula(CAT)},\n"{cells[1]}",drop,,\n'
    )
    project.must_run("decisions", "photos")
    assert "2 dropped" in "".join(lines(project.must_run("split", "photos")))

    shutil.rmtree(source / DOG)
    ran = project.run("pack", "photos")
    assert ran.status == 1 and "source has changed" in lines(ran)[-2]


def test_an_encoding_that_has_no_such_signs(project: Project) -> None:
    photos(project.root / "photos")
    project.dataset("photos", "photos", max_quarantined=0)
    ran = project.run("check", "photos", PYTHONIOENCODING="ascii")
    assert ran.status == 1 and "Traceback" not in ran.err and r"\x1b[2Jdog\r/'=.png: empty_file" in ran.err


@pytest.mark.parametrize("name", [DOG, "\0", "\udcff", "a\n\nb", "\u202e$x"])
def test_figures_of_any_name(tmp_path: Path, name: str) -> None:
    grid.draw_grid(tmp_path / "grid.png", [grid.Tile(np.asarray(picture(1)), name, "red")])
    figures.draw_confusion_matrix(tmp_path / "matrix.png", csr_array(np.eye(2, dtype=int)), [name, CAT], "val")
