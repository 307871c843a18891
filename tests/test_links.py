"""Links: read where DVC tracks what is behind them, or named in one line."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from conftest import Project, class_folders, picture, refusal

from pipeline import check
from pipeline.images import tar_links
from pipeline.images.items import Item
from pipeline.images.sources import open_source
from pipeline.images.stored import Problem, Read, read_all
from pipeline.system.console import UserError

Checked = Callable[[str], dict[str, dict[str, Any]]]


def png(seed: int = 0) -> bytes:
    stream = io.BytesIO()
    picture(seed).save(stream, "PNG")
    return stream.getvalue()


def read(place: Path) -> tuple[list[Item], dict[str, Read]]:
    source = open_source(place)
    items = list(source.read())
    assert len(items) == source.count
    contents = read_all(content for _, content in items)
    return [item for item, _ in items], dict(zip((item.path for item, _ in items), contents, strict=True))


@pytest.fixture
def checked(project: Project, monkeypatch: pytest.MonkeyPatch) -> Checked:
    """Run the stage `check` on a folder or archive of the project, and return its rows."""

    def run(source: str) -> dict[str, dict[str, Any]]:
        project.dataset("photos", source, max_quarantined=0.5)
        project.command("check")
        monkeypatch.chdir(project.root)
        check.main("photos")
        rows = pq.read_table("data/checked/photos.parquet").to_pylist()
        return {row["path"]: row for row in rows}

    return run


# In a folder


def test_links_to_folders_are_named(checked: Checked, project: Project) -> None:
    class_folders(project.root / "pets", {"cat": 2, "dog": 2})
    class_folders(project.root / "elsewhere", {"horse": 2})
    (project.root / "pets/horse").symlink_to(project.root / "elsewhere/horse")
    with pytest.raises(UserError, match=r"^pets/horse is a link to a folder \(/.*/horse\), behind which DVC tracks"):
        checked("pets")
    class_folders(project.root / "sides", {"train/cat": 2, "train/dog": 2, "valid/cat": 2, "valid/dog": 2})
    (project.root / "sides/test").symlink_to("valid")
    with pytest.raises(UserError, match=r"^sides/test is a link to a folder \(valid\), .*: put what it leads to"):
        checked("sides")


@pytest.mark.parametrize(
    ("link", "target", "words"),
    [
        ("cat/more", "..", "a link to a folder"),  # a folder around it
        ("cat/more", ".", "a link to a folder"),
        ("cat/more", "../dog", "a link to a folder"),
        ("more", "/", "a link to a folder"),
        ("cat/1.png", "../../secret.png", "a link out of the data set (../../secret.png)"),
        ("cat/1.png", "/etc/passwd", "a link out of the data set (/etc/passwd)"),
        ("cat/1.png", "/dev/zero", "a link out of the data set"),
        ("notes.txt", "/etc/passwd", "a link out of the data set"),
        ("horse", "../unmounted/horse", "a link that leads nowhere (../unmounted/horse)"),  # maybe a class
        ("horse", "horse", "a link that leads nowhere"),
    ],
)
def test_links_that_are_not_read_are_named(tmp_path: Path, link: str, target: str, words: str) -> None:
    folder = class_folders(tmp_path / "in", {"cat": 1, "dog": 1})
    (tmp_path / "secret.png").write_bytes(png(9))
    (folder / link).symlink_to(target)
    message = refusal(folder)
    assert message.startswith(f"{folder}/{link} is {words}")
    (folder / link).unlink()
    hidden = (folder / link).with_name(f".{Path(link).name}")
    hidden.symlink_to(target)  # no part of the data set, and not opened
    _, found = read(folder)
    assert isinstance(found[hidden.relative_to(folder).as_posix()], Problem) and len(found) == 3


def test_links_to_files_of_the_data_set_are_files(checked: Checked, project: Project) -> None:
    folder = class_folders(project.root / "in", {"cat": 3, "dog": 2})
    (folder / "cat/inside.png").symlink_to("000.png")
    (folder / "cat/twice.png").symlink_to("inside.png")
    (folder / "dog/lost.png").symlink_to("nowhere.png")  # as an image that can't be read
    os.link(folder / "cat/001.png", folder / "cat/hard.png")
    rows = checked("in")
    assert len(rows) == 9
    for name in ("000", "001", "inside", "twice", "hard"):
        assert rows[f"cat/{name}.png"]["issues"] == ["exact_duplicate"]
    assert rows["cat/twice.png"]["sha256"] == rows["cat/000.png"]["sha256"]
    assert rows["dog/lost.png"]["issues"] == ["unreadable"]
    assert rows["dog/lost.png"]["reason"] == "a link that leads nowhere"


def hub_cache(root: Path) -> Path:
    """As the Hugging Face hub keeps a data set: files are links to blobs beside the snapshots."""
    for number in range(6):
        content = png(number)
        blob = root / "blobs" / hashlib.sha1(content).hexdigest()
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        link = root / "snapshots/abc/data" / ("cat" if number % 2 else "dog") / f"{number}.png"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(f"../../../../blobs/{blob.name}")
    return root


def git_annex(root: Path, git: str) -> Path:
    """As git-annex keeps files: links into its store, which lies in the repository's folder."""
    for number in range(6):
        stored = root / git / f"annex/objects/k{number}/q/SHA256E-s9--{number}.png/SHA256E-s9--{number}.png"
        stored.parent.mkdir(parents=True)
        stored.write_bytes(png(number))
        link = root / "data" / ("cat" if number % 2 else "dog") / f"{number}.png"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(stored, link.parent))
    return root


def dvc_cache(root: Path, cache: str) -> Path:
    """As DVC links files where `cache.type` is symlink."""
    for number in range(6):
        content = png(number)
        md5 = hashlib.md5(content).hexdigest()
        stored = root / cache / md5[:2] / md5[2:]
        stored.parent.mkdir(parents=True, exist_ok=True)
        stored.write_bytes(content)
        link = root / "work/data" / ("cat" if number % 2 else "dog") / f"{number}.png"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(stored)
    return root


STORES: dict[str, tuple[Callable[[Path], Path], list[str]]] = {
    "hub": (hub_cache, ["snapshots/abc", "snapshots/abc/data"]),
    "git-annex": (lambda root: git_annex(root, ".git"), ["", "data"]),
    "submodule": (lambda root: git_annex(root, ".git/modules/photos"), ["", "data"]),
    "DVC 3": (lambda root: dvc_cache(root, ".dvc/cache/files/md5"), ["work", "work/data"]),
    "DVC 2": (lambda root: dvc_cache(root, "shared"), ["work", "work/data"]),
}


@pytest.mark.parametrize("store", STORES)
def test_links_into_a_store_of_contents_are_files(tmp_path: Path, store: str) -> None:
    make, places = STORES[store]
    root = make(tmp_path / "store")
    for place in places:
        items, found = read(root / place)
        assert {item.path.removeprefix("data/"): item.label for item in items} == {
            f"{'cat' if number % 2 else 'dog'}/{number}.png": "cat" if number % 2 else "dog" for number in range(6)
        }
        assert sorted(map(str, found.values())) == sorted(str(png(number)) for number in range(6))
    (tmp_path / "elsewhere").symlink_to(root / places[-1])  # the whole source may be a link
    assert len(read(tmp_path / "elsewhere")[0]) == 6


def test_hub_cache_through_check(checked: Checked, project: Project) -> None:
    hub_cache(project.root / "hub")
    rows = checked("hub/snapshots/abc")
    assert [row["status"] for row in rows.values()] == ["ok"] * 6
    for place in ("hub", "hub/snapshots"):
        with pytest.raises(UserError, match=f"^{place} is a cache of the Hugging Face hub.*: hub/snapshots/abc$"):
            checked(place)


@pytest.mark.parametrize("place", ["hub", "deep/hub", "train/hub"])
def test_a_hub_cache_inside_the_source_is_named(checked: Checked, project: Project, place: str) -> None:
    hub_cache(project.root / "in" / place)
    class_folders(project.root / "in", {"train/cat": 2, "train/dog": 2, "test/cat": 2, "test/dog": 2})
    found = f"'{place}/blobs' and '{place}/snapshots' are a cache of the Hugging Face hub; .*'{place}/snapshots/abc'"
    with pytest.raises(UserError, match=f"^in: {found}"):
        checked("in")
    with tarfile.open(project.root / "in.tar", "w") as archive:
        archive.add(project.root / "in", "")
    with pytest.raises(UserError, match=f"^in.tar: {found}"):
        checked("in.tar")


def test_the_store_of_a_bare_annex_is_named(checked: Checked, project: Project) -> None:
    for number in range(4):
        key = f"SHA256E-s{number}--{number:064x}.png"
        class_folders(project.root / f"in/annex/objects/{number:03x}/e{number:02x}", {key: 1})
    with pytest.raises(UserError, match=r"^in: 'annex/objects/000/e00/SHA256E-s0--.*git annex get has run$"):
        checked("in")


def test_classes_may_be_called_blobs_and_snapshots(checked: Checked, project: Project) -> None:
    class_folders(project.root / "in", {"in/blobs": 2, "in/snapshots": 2})
    assert {row["label"] for row in checked("in").values()} == {"blobs", "snapshots"}


@pytest.mark.parametrize(
    "stored",
    ["md5/ab/0123", "md5/abc/012345678901234567890123456789", f"md5/zz/{'0' * 30}", "blobs/0123", "annex/objects/0/1"],
)
def test_only_a_store_may_lie_outside(tmp_path: Path, stored: str) -> None:
    folder = class_folders(tmp_path / "in", {"cat": 1})
    target = tmp_path / stored
    target.parent.mkdir(parents=True)
    target.write_bytes(png())
    (folder / "cat/x.png").symlink_to(target)
    assert "a link out of the data set" in refusal(folder)


def test_what_git_annex_has_not_fetched(tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "in", {"cat": 1})
    (folder / "cat/x.png").symlink_to("../.git/annex/objects/Jx/9K/SHA256E-s1--1.png/SHA256E-s1--1.png")
    problem = read(folder)[1]["cat/x.png"]
    assert isinstance(problem, Problem) and problem.reason.endswith("not fetched: run git annex get")


def test_what_is_read_is_what_dvc_tracks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC sees what is behind a link to a file, and nothing behind one to a folder; nothing at all in a project."""
    from dvc.repo import Repo

    monkeypatch.chdir(tmp_path)
    folder = class_folders(tmp_path / "in", {"cat": 1, "dog": 1})
    other = class_folders(tmp_path / "other", {"horse": 2})
    (folder / "dog/linked.png").symlink_to(other / "horse/000.png")
    (folder / "horse").symlink_to(other / "horse")
    (folder / "cat/.git").mkdir()
    (tmp_path / "dvc.yaml").write_text("stages: {check: {cmd: 'true', deps: [in]}}")
    repo = Repo.init(no_scm=True)
    repo.reproduce()

    def is_seen() -> bool:
        repo._reset()
        return bool(repo.status())

    (other / "horse/001.png").write_bytes(png(99))
    assert not is_seen() and "in/horse is a link to a folder" in refusal(Path("in"))
    (folder / "horse").unlink()
    (folder / "cat/.git/config").write_text("x")
    assert not is_seen()
    (other / "horse/000.png").write_bytes(png(98))
    assert is_seen() and "a link out of the data set" in refusal(Path("in"))
    (folder / "dog/linked.png").unlink()
    assert set(read(folder)[1]) == {"cat/000.png", "dog/000.png"}
    repo.reproduce()
    (folder / "cat/.dvc").mkdir()
    repo.reproduce()
    (folder / "cat/000.png").write_bytes(png(97))
    assert not is_seen() and "in/cat is a project of DVC by itself" in refusal(Path("in"))
    repo.close()


# In a tar


def tar_of(path: Path, members: list[tuple[str, bytes | tuple[bytes, str]]], mode: str = "w", **options: int) -> Path:
    """A tar of files, and of links: a type and where they lead."""
    with tarfile.open(path, mode, **options) as archive:  # type: ignore[call-overload]
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, tuple):
                info.type, info.linkname = content
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


HARD, SOFT = tarfile.LNKTYPE, tarfile.SYMTYPE


def test_hard_links_of_a_tar_through_check(checked: Checked, project: Project) -> None:
    pics = class_folders(project.root / "pics", {"cat": 5, "dog": 5})
    for number in range(3):
        os.link(pics / f"cat/{number:03d}.png", pics / f"cat/copy-{number}.png")
    with tarfile.open(project.root / "pics.tar", "w") as archive:
        archive.add(pics, "pics")
    rows = checked("pics.tar")
    assert len(rows) == 13
    copies = [row["path"] for row in rows.values() if row["issues"] == ["exact_duplicate"]]
    assert len(copies) == 6 and sum(row["status"] == "ok" for row in rows.values()) == 7
    for number in range(3):
        assert rows[f"pics/cat/copy-{number}.png"]["sha256"] == rows[f"pics/cat/{number:03d}.png"]["sha256"]


LONG = "x" * 120


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_links_of_a_tar_are_what_unpacking_makes_of_them(tmp_path: Path, mode: str, form: int) -> None:
    members: list[tuple[str, bytes | tuple[bytes, str]]] = [
        ("cat/soft.png", (SOFT, "later.png")),  # to a member that comes later
        ("cat/across.png", (SOFT, "../dog/./1.png")),
        ("cat/chain.png", (SOFT, "soft.png")),
        ("cat/1.png", png(1)),
        ("./cat/2.png", png(2)),
        ("cat/hard.png", (HARD, "cat/1.png")),
        ("cat/hard2.png", (HARD, "cat/hard.png")),
        ("cat/hard3.png", (HARD, "cat/2.png")),
        ("dog/hard.png", (HARD, "/cat//1.png")),  # tar takes the slash off names, and off these
        (f"dog/{LONG}.png", png(3)),
        ("dog/long.png", (HARD, f"dog/{LONG}.png")),
        ("dog/löng.png", (SOFT, f"{LONG}.png")),
        ("cat/later.png", png(4)),
        ("dog/1.png", png(5)),
        ("dog/1.png", png(6)),  # a name that comes again replaces the first
        ("dog/1-again.png", (HARD, "dog/1.png")),
        *((f"dog/row{number}.png", (SOFT, f"row{number + 1}.png")) for number in range(45)),  # too many for Linux
        ("dog/row45.png", png(7)),
        ("dog/lost.png", (SOFT, "nowhere.png")),
        ("dog/loop.png", (SOFT, "loop.png")),
        ("dog/.hidden", (SOFT, "/etc/passwd")),
    ]
    expected = {
        "cat/soft.png": 4, "cat/across.png": 6, "cat/chain.png": 4, "cat/1.png": 1, "cat/2.png": 2, "cat/hard.png": 1,
        "cat/hard2.png": 1, "cat/hard3.png": 2, "dog/hard.png": 1, f"dog/{LONG}.png": 3, "dog/long.png": 3,
        "dog/löng.png": 3, "cat/later.png": 4, "dog/1.png": 5, "dog/1.png#2": 6, "dog/1-again.png": 6,
    }  # fmt: skip
    path = tar_of(tmp_path / "a.tar", members, mode, format=form)
    items, found = read(path)
    expected |= {f"dog/row{number}.png": 7 for number in range(5, 46)}
    for name in ("dog/lost.png", "dog/loop.png", "dog/.hidden", *(f"dog/row{number}.png" for number in range(5))):
        assert isinstance(problem := found.pop(name), Problem) and problem.code == "unreadable"
    assert found == {name: png(number) for name, number in expected.items()}
    assert {item.label for item in items} == {"cat", "dog", None}
    only = [(item.path, content) for item, content in open_source(path).read(lambda name: name == "cat/hard2.png")]
    assert [(name, *read_all([content])) for name, content in only] == [("cat/hard2.png", png(1))]

    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "-xf", path, "-C", tmp_path / "out"], check=True, capture_output=True)
    for name, number in expected.items():
        if name != "dog/1.png" and "#" not in name:
            assert (tmp_path / "out" / name).read_bytes() == png(number), name


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize(
    ("name", "link", "words"),
    [
        ("cat/x.png", (HARD, "dog/1.png"), "a hard link to a file that does not come before it (dog/1.png)"),
        ("cat/x.png", (HARD, "../etc/passwd"), "a hard link to a file that does not come before it (../etc/passwd)"),
        ("cat/x.png", (HARD, "/etc/passwd"), "a hard link to a file that does not come before it (/etc/passwd)"),
        ("cat/x.png", (HARD, "cat/x.png"), "a hard link to a file that does not come before it (cat/x.png)"),
        ("cat/x.png", (HARD, "cat"), "a hard link to a file that does not come before it (cat)"),
        ("cat/x.png", (SOFT, "/etc/passwd"), "a link out of the archive (/etc/passwd)"),
        ("cat/x.png", (SOFT, "../../etc/passwd"), "a link out of the archive (../../etc/passwd)"),
        ("cat/x.png", (SOFT, "y" * 5000), "a link out of the archive (yyyyy"),
        ("horse", (SOFT, "../elsewhere/horse"), "a link out of the archive"),
        ("horse", (SOFT, "elsewhere"), "a link that leads nowhere (elsewhere)"),  # maybe a class
        ("horse", (SOFT, "horse"), "a link that leads nowhere"),
        ("test", (SOFT, "cat"), "a link to a folder (cat)"),
        ("test.png", (SOFT, "./cat/"), "a link to a folder"),
        ("cat/all", (SOFT, ".."), "a link to a folder"),
    ],
)
def test_links_of_a_tar_that_are_not_read_are_named(
    tmp_path: Path, mode: str, name: str, link: tuple[bytes, str], words: str
) -> None:
    path = tar_of(tmp_path / "a.tar", [("cat/1.png", png(1)), (name, link), ("dog/1.png", png(2))], mode)
    assert refusal(path).startswith(f"{path}: {name} is {words}")


def test_more_links_than_memory_has_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_links, "MOST_LINKS", 2)
    links = [(f"cat/{number}.png", (HARD, "cat/0.png")) for number in (1, 2, 3)]
    path = tar_of(tmp_path / "a.tar", [("cat/0.png", png()), *links])
    assert "more than 2 links" in refusal(path)


# In a zip


def test_symbolic_links_of_a_zip_are_named(tmp_path: Path) -> None:
    """They are small files whose text says where they lead: no image, and nobody would miss a class."""
    for name, shown in (("test", True), ("cat/x.png", True), (".cache", False)):
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr("cat/1.png", png(1))
            archive.writestr("dog/1.png", png(2))
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr = 3, 0o120777 << 16
            archive.writestr(info, "valid")
        if shown:
            assert refusal(tmp_path / "a.zip").startswith(f"{tmp_path}/a.zip: {name} is a symbolic link")
        else:
            assert isinstance(read(tmp_path / "a.zip")[1][name], Problem)
