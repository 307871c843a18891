"""What the folders of a source mean: [wrapping folders/][split/]class/[folders/]file.

Folders beside each other are the publisher's splits if their names say at least two of train, val and test (see
`split_of`), and either nothing else lies there, or the one named train has class folders. So a class may be called
train or test.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator

Parts = tuple[str, ...]

ORDER = ("train", "val", "test")  # of splits in messages; the first that has a class says how its name is written
EITHER = "evaluation"  # test, or val where there is a test split too
SPLIT_NAMES = {
    "train": "train", "training": "train", "trainval": "train",
    "val": "val", "valid": "val", "validate": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test", "holdout": "test",
}  # fmt: skip
WORDS = {**SPLIT_NAMES, "eval": EITHER, "evaluation": EITHER}
WRAPPING = ("set", "data", "dataset", "image", "img", "photo", "picture", "pic")  # and their plurals
WITH_SUFFIX = re.compile(f"({'|'.join(WORDS)})({'|'.join(WRAPPING)})s?")


def split_of(name: str) -> str | None:
    """The split that one of the words in a folder's name says: seg_train, TestSet, my-validation-data, train2017."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    words = re.findall("[a-z]+", re.sub(r"h[eo]ld[ _-]?out", "holdout", spaced.lower()))
    words = [match[1] if (match := WITH_SUFFIX.fullmatch(word)) else word for word in words]
    said = {WORDS[word] for word in words if word in WORDS}
    if said == {"train", "val"}:  # train_val: what is not test
        return "train"
    return said.pop() if len(said) == 1 else None


def in_plain_blanks(text: str) -> str:
    """Composed, without signs that show nothing, and with single spaces for blanks of any kind."""
    if not text.isascii():
        text = "".join(sign for sign in unicodedata.normalize("NFC", text) if unicodedata.category(sign) != "Cf")
    return " ".join(text.split())


def class_key(name: str) -> str:
    """Equal for names of one class: in any Unicode form and case, with any blanks. But `A` and `a` are two letters."""
    plain = in_plain_blanks(name)
    return plain.lower() if len(plain) > 1 else plain


class Folders:
    """Tells class and official split of the files in a folder.

    `holding` are the folders that hold visible files directly; `listed` are others that are there, maybe empty;
    `with_images` are those of `holding` in which a file is named as an image.
    """

    def __init__(
        self, holding: Iterable[str] = (), listed: Iterable[str] = (), with_images: Iterable[str] = ()
    ) -> None:
        self.with_images = {to_parts(folder) for folder in with_images}
        self.children: dict[Parts, set[str]] = {}
        for folder in holding:
            parts = to_parts(folder)
            for depth, name in enumerate(parts):
                self.children.setdefault(parts[:depth], set()).add(name)
        self.empty = self.find_empty(listed)
        self.known: dict[str, tuple[str | None, str | None]] = {}
        self.root = self.unwrapped(())
        named = self.splits_in(self.root) or self.enter_splits()
        in_order = sorted(named.items(), key=lambda item: ORDER.index(item[1]))
        self.splits = {(*self.root, name): split for name, split in in_order}
        # where class folders are, by the split; without splits by the root
        self.above_classes = self.unwrapped_splits() if self.splits else {self.root: self.root}
        self.labels = self.spell_classes()
        self.respelled = dict(sorted(self.find_respelled()))

    def label_and_split(self, folder: str) -> tuple[str | None, str | None]:
        """Class and official split of the visible files of a folder.

        The class is None for files above the class folders or beside the folders of splits.
        """
        if folder not in self.known:
            self.known[folder] = self.read(to_parts(folder))
        return self.known[folder]

    def read(self, parts: Parts) -> tuple[str | None, str | None]:
        top = parts[: len(self.root) + bool(self.splits)]
        above, split = self.above_classes.get(top), self.splits.get(top)
        if above is None or len(parts) == len(above) or parts[: len(above)] != above:
            return None, split
        return self.labels.get(class_key(parts[len(above)])), split

    def inside(self, folder: Parts) -> set[str]:
        """The names of the folders in a folder."""
        return self.children.get(folder, set())

    def class_keys(self, folder: Parts) -> set[str]:
        return {class_key(name) for name in self.inside(folder)}

    def find_empty(self, listed: Iterable[str]) -> list[str]:
        """The outermost folders in which there is no visible file."""
        found = set()
        for folder in listed:
            parts = to_parts(folder)
            if parts and parts[-1] in self.inside(parts[:-1]):
                continue  # as all around it, which would take long to see in a thousand folders
            for depth, name in enumerate(parts):
                if name not in self.inside(parts[:depth]):
                    found.add("/".join(parts[: depth + 1]))
                    break
        return sorted(found)

    def unwrapped(self, folder: Parts) -> Parts:
        """The folder, or the one to which a chain of single folders in it leads, as long as those hold folders."""
        while len(names := self.inside(folder)) == 1 and self.inside((*folder, *names)):
            folder = (*folder, *names)
        return folder

    # --- splits ---

    def named_splits(self) -> dict[Parts, str]:
        """Every folder whose name says a split, beside one that says another.

        This is what counts where a list has the labels: then no folder means a class.
        """
        found: dict[Parts, str] = {}
        for parent, names in self.children.items():
            said = {name: split for name in names if (split := split_of(name))}
            either = "val" if "test" in said.values() else "test"
            splits = {(*parent, name): either if split == EITHER else split for name, split in said.items()}
            if len(set(splits.values())) > 1:
                found |= splits
        return dict(sorted(found.items(), key=lambda item: (ORDER.index(item[1]), item[0])))

    def splits_in(self, folder: Parts) -> dict[str, str]:
        """The splits directly in a folder, by name; none where its folders mean something else."""
        names = self.inside(folder)
        said = {name: split for name in sorted(names) if (split := split_of(name))}
        labeled = {split for name, split in said.items() if self.inside((*folder, name))}
        either = "val" if "test" in labeled else "test"
        found = {name: either if split == EITHER else split for name, split in said.items()}
        are_splits = len(found) == len(names) or "train" in labeled
        return found if are_splits and len(set(found.values())) > 1 else {}

    def enter_splits(self) -> dict[str, str]:
        """The splits in the only folder of the root that holds some, which becomes the root."""
        holders = [self.unwrapped((*self.root, name)) for name in sorted(self.inside(self.root))]
        labeled = [folder for folder in holders if self.holds_labeled_splits(folder)]
        if len(labeled) != 1:
            return {}
        (self.root,) = labeled
        return self.splits_in(self.root)

    def holds_labeled_splits(self, folder: Parts) -> bool:
        return any(self.inside((*folder, name)) for name in self.splits_in(folder))

    def unwrapped_splits(self) -> dict[Parts, Parts]:
        """For each split the folder that holds its class folders: the split, or one in it.

        A folder that is alone in a split wraps the classes if it is named as the split or as `images`, as in
        training_set/training_set/cats, or if it holds classes of the other splits; where no split has several
        folders, any that holds folders does.
        """
        found = {split: split for split in self.splits}
        for by_name in (True, False):
            classes = set[str]().union(*(keys for f in found.values() if len(keys := self.class_keys(f)) > 1))
            for split, folder in found.items():
                while len(names := self.inside(folder)) == 1 and not self.class_keys(folder) & classes:
                    (name,) = names
                    inner = self.class_keys((*folder, name))
                    is_named = split_of(name) == split_of(split[-1]) or name.lower().removesuffix("s") in WRAPPING
                    if not (is_named if by_name else inner & (classes or inner)):
                        break
                    folder = (*folder, name)
                found[split] = folder
        return found

    def spell_classes(self) -> dict[str, str]:
        """How each class is written, by its key: composed, and as in the first split that has it."""
        labels: dict[str, str] = {}
        for above in self.above_classes.values():
            for name in sorted(self.inside(above)):
                labels.setdefault(class_key(name), unicodedata.normalize("NFC", name))
        return labels

    def find_respelled(self) -> Iterator[tuple[str, str]]:
        """Class folders that are written otherwise than their class, in more than the Unicode form."""
        for above in self.above_classes.values():
            for name in self.inside(above):
                if unicodedata.normalize("NFC", name) != (label := self.labels[class_key(name)]):
                    yield "/".join((*above, name)), label


def to_parts(folder: str) -> Parts:
    return tuple(folder.split("/")) if folder else ()
