"""Any tree of folders, links and names: rows that add up to its files, torchvision's classes, or one clear line."""

from __future__ import annotations

import os
import tempfile
import unicodedata
from pathlib import Path

from conftest import picture
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.images.folder_problems import first_problem
from pipeline.images.sources import open_source
from pipeline.images.stored import Problem, read_all
from pipeline.system.console import UserError

FOLDERS = ["ape", "bee", "cat.png", "Dog é", "n01", ".git", ".hidden"]
FILES = ["1.png", "2.JPG", "3", "notes.txt", ".DS_Store", "thumbs.db"]
PLACES = st.lists(st.sampled_from(FOLDERS), max_size=3).map("/".join)
TARGETS = st.sampled_from(
    ["..", ".", "../..", "ape", "../ape", "../bee/1.png", "1.png", "2.JPG", "nowhere", "nowhere.png", "/dev/null"]
)
OUTSIDE = ("../../out", "../../../out/1.png", "../out", "../../out/1.png")
Tree = list[tuple[str, str, str | None]]  # folder, name and, of a link, the target
FILE = st.tuples(PLACES, st.sampled_from(FILES), st.none())
LINK = st.tuples(PLACES, st.sampled_from([*FILES, *FOLDERS]), TARGETS | st.sampled_from(OUTSIDE))
CLASSES: Tree = [("ape", "1.png", None), ("bee", "1.png", None)]
TREE = st.lists(FILE | LINK, min_size=1, max_size=8) | st.lists(FILE | FILE | LINK, max_size=8).map(
    lambda more: CLASSES + more
)


def plant(root: Path, tree: Tree) -> None:
    """Make files and links, where no other is in the way."""
    for number, (place, name, target) in enumerate(tree):
        folder = root / place
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if target is not None:
                (folder / name).symlink_to(target)
            elif not (folder / name).is_symlink():
                picture(number).save(folder / name, "PNG")
        except (FileExistsError, NotADirectoryError, IsADirectoryError, OSError):
            pass


def files_of(root: Path) -> set[str]:
    """All that is no folder, but what is in git's own."""
    found = set()
    for folder, folders, files in os.walk(root):
        links = [name for name in folders if Path(folder, name).is_symlink()]
        folders[:] = [name for name in folders if name != ".git"]
        found |= {Path(folder, name).relative_to(root).as_posix() for name in [*files, *links] if name != ".git"}
    return found


def torchvisions(root: Path) -> dict[str, str] | None:
    """The class of each image by torchvision; None where it reads nothing, or might go around in circles."""
    from torchvision.datasets import ImageFolder

    if any(path.is_symlink() and path.is_dir() for path in root.rglob("*")):
        return None
    try:
        folder = ImageFolder(str(root))
    except FileNotFoundError:
        return None
    return {Path(path).relative_to(root).as_posix(): folder.classes[label] for path, label in folder.samples}


@settings(max_examples=100, deadline=None)
@given(TREE)
@example([("ape", "1.png", None), ("", "bee", "ape")])
@example([("ape", "1.png", None), ("bee", "1.png", None), ("bee", "2.JPG", "1.png")])
@example([("ape", "1.png", None), ("bee", "1.png", "../../out/1.png")])
def test_any_tree_is_read_as_torchvision_reads_it_or_named(tree: Tree) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "in")
        root.mkdir()
        Path(folder, "out").mkdir()
        picture(99).save(Path(folder, "out/1.png"))
        plant(root, tree)
        files = files_of(root)
        shown = {path for path in files if not any(part.startswith(".") for part in path.split("/"))}
        try:
            source = open_source(root)
            items = list(source.read())
            contents = list(read_all(content for _, content in items))
        except UserError as error:
            message = str(error)
            assert len(message.splitlines()) == 1 and message.startswith(str(root))
            named = [path for path in shown if message.startswith(f"{root / path}")]
            assert not files or any((root / path).is_symlink() for path in named) or named == list(shown)
            return
        assert {item.path for item, _ in items} == files and len(items) == len(files) == source.count
        for (item, _), content in zip(items, contents, strict=True):
            assert isinstance(content, Problem) or content == (root / item.path).read_bytes()
            if item.path in shown and (root / item.path).is_file():
                assert isinstance(content, bytes)  # what can be read is
        tops = {path.split("/")[0] for path in shown if "/" in path}
        if len(tops) < 2 or tops != {path.name for path in root.iterdir()}:
            return  # torchvision knows no single folder around all classes, no hidden ones, no files above them
        if (expected := torchvisions(root)) is None:
            return
        found = {item.path: item.label for item, _ in items if item.label is not None}
        assert source.classes == sorted(set(expected.values()))
        assert {path: label for path, label in found.items() if path in expected} == {
            path: label for path, label in expected.items() if path in shown
        }


SPELLINGS = st.sampled_from(["cat", "CAT", "dog", "é", "e\u0301", "train"])
SPLIT_FOLDERS = st.sampled_from(["train", "test", "val", "eval", "Train_Set", "test/test", "extra"])
NAMES = st.sampled_from(
    ["train", "Train", "test", "val", "cat", "CAT", "dog", "images", "é", "e\u0301", ".hidden", "evaluation"]
)


@settings(deadline=None, max_examples=150)
@given(
    st.dictionaries(st.lists(NAMES, max_size=4).map("/".join), st.integers(0, 2), max_size=8)
    | st.dictionaries(st.tuples(SPLIT_FOLDERS, SPELLINGS).map("/".join), st.integers(0, 2), max_size=8)
)
def test_class_folders_of_each_split_are_read_as_torchvision_reads_them(
    tree: dict[str, int],
) -> None:
    with tempfile.TemporaryDirectory() as root:
        for folder, count in tree.items():
            Path(root, folder).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                Path(root, folder, f"{number}.png").write_bytes(b"x")
        if not any(tree.values()):
            return
        source = open_source(root)
        items = {item.path: item for item, _ in source.read()}
        assert len(items) == source.count == sum(tree.values()) == sum(source.per_class.values())
        if first_problem(source.folders):
            return
        for top, above in source.folders.above_classes.items():
            inside = "".join(f"{part}/" for part in above)
            if (classes := torchvisions(Path(root, *above))) is None:
                continue  # there is an empty folder, or none
            expected = {f"{inside}{path}": name for path, name in classes.items()}
            for path, name in expected.items():
                item = items[path]
                if any(part.startswith(".") for part in item.path.split("/")):
                    assert item.label is None
                else:
                    assert item.label is not None and item.split == source.folders.splits.get(top)
                    assert item.label.lower() == unicodedata.normalize("NFC", name).lower()
            labeled = [item for item in items.values() if item.label and item.path.startswith(inside)]
            assert {item.path for item in labeled} <= expected.keys()
