"""Folders that would be taken for classes or splits and can hardly be any, and others that can't be understood."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise

from pipeline.images.folders import Folders, Parts, class_key, split_of

PART = re.compile(r"(fold|split|part|batch|cv)s?[ _-]?\d+", re.IGNORECASE)
# Folders in a class that are none: a session, a person or a camera (`session1`, `person_03`, `camera b`), or a date
RECORDING = re.compile(
    r"(?!class|label)[^\W\d_]+[ _-]?\d{1,4}|(session|cam|camera|scene|sequence|sample)[ _-][a-z]"
    r"|(19|20)\d\d([ _-]?\d\d){0,2}",
    re.IGNORECASE,
)
ANNEX_KEY = re.compile(r"[A-Z\d_]+-s\d+(-[mSC]\d+)*--.+")  # git-annex's name for a content: its size and its hash
NAMED = 3  # folders, in a message
EXPECTED = "expected one folder for each of train, val and test"
NO_TRAIN = "but there is no train/CLASS/FILE, and no list of labels in check.labels"


def first_problem(folders: Folders) -> str | None:
    """What can't be understood, and what to do, in a line; None where everything can."""
    return next(problems(folders), None)


def problems(folders: Folders) -> Iterator[str]:
    yield from caches_of_the_hub(folders)
    yield from stores_of_git_annex(folders)
    if folders.splits:
        yield from ambiguous_splits(folders)
        yield from classes_beside_splits(folders)
    else:
        yield from unnoticed_splits(folders)
    yield from classes_in_each(folders)
    yield from copies_among_classes(folders)
    yield from names_of_other_case(folders)


def caches_of_the_hub(folders: Folders) -> Iterator[str]:
    """Caches of the Hugging Face hub at any depth: every image in a snapshot lies among the blobs too."""
    for parent, names in folders.children.items():
        snapshots = (*parent, "snapshots")
        if {"blobs", "snapshots"} <= names and (revisions := sorted(folders.inside(snapshots))):
            yield (
                f"{told((*parent, 'blobs'))} and {told(snapshots)} are a cache of the Hugging Face hub; expected a"
                f" snapshot alone: set source to {told((*snapshots, revisions[0]))}, or take the cache out of it"
            )


def stores_of_git_annex(folders: Folders) -> Iterator[str]:
    """Bare repositories, and special remotes: a folder for each content, under others named by its hash."""
    for parent, names in folders.children.items():
        if keys := sorted(filter(ANNEX_KEY.fullmatch, names)):
            yield (
                f"{told((*parent, keys[0]))} is in a store of git-annex, in which no folder is a class; expected a"
                " clone of the repository in which git annex get has run"
            )


def ambiguous_splits(folders: Folders) -> Iterator[str]:
    labeled: dict[str, Parts] = {}
    for folder, split in folders.splits.items():
        if not folders.inside(folders.above_classes[folder]):
            continue  # not labeled, as a contest's test images
        if (other := labeled.setdefault(split, folder)) != folder:
            yield (
                f"{told(other)} and {told(folder)} are both named as a {split} split; {EXPECTED}:"
                " rename one, or take it out of the source"
            )
    if "train" not in labeled:
        yield f"{' and '.join(map(told, folders.splits))} are splits, {NO_TRAIN}"


def classes_beside_splits(folders: Folders) -> Iterator[str]:
    """Folders that are in no split, and are called or hold what is called as a class."""
    for parent, names in folders.children.items():
        for folder in ((*parent, name) for name in sorted(names)):
            in_split = folder[: len(folders.root) + 1] in folders.splits
            if not in_split and folder != folders.root[: len(folder)] and class_key(folder[-1]) in folders.labels:
                shared = next(n for n in range(len(folder)) if folder[n] not in folders.root[n : n + 1])
                outside = told(folder[: shared + 1])
                yield (
                    f"{outside} lies beside {' and '.join(map(told, folders.splits))}, and {told(folder)} is named as"
                    f" a class; {EXPECTED}: rename {outside}, or take it out of the source"
                )


def unnoticed_splits(folders: Folders) -> Iterator[str]:
    """Folders that would be taken for classes, and can hardly be any."""
    names = sorted(folders.inside(folders.root))
    said = {split for name in names if (split := split_of(name))}
    if "train" in said and len(said) > 1:
        splits = " and ".join(told((*folders.root, name)) for name in names if split_of(name))
        yield f"{splits} are named as splits, {NO_TRAIN}"
    tops = [(*folders.root, name) for name in names]
    for named in (folder for folder in tops if split_of(folder[-1])):
        for other in tops:
            shared = folders.class_keys(named) & folders.class_keys(other)
            alone = split_of(named[-1]) == "train" and len(tops) == 2 and len(folders.inside(named)) > 1
            if other != named and (alone or len(shared) > 1):
                yield (
                    f"{told(named)} holds folders as a {split_of(named[-1])} split, and {told(other)} lies beside"
                    f" it; {EXPECTED}: rename {told(other)}, or take it out of the source"
                )
            is_flat = not folders.inside(named) and len(tops) == 2
            if other != named and is_flat and len(folders.inside(other)) > 1:
                yield (
                    f"{told(named)} is named as a {split_of(named[-1])} split, and {told(other)} beside it holds"
                    f" folders; {EXPECTED}: rename {told(other)} to train, or {told(named)} if it is a class"
                )
    for first, second in pairwise(folder for folder in tops if PART.fullmatch(folder[-1])):
        if len(folders.class_keys(first) & folders.class_keys(second)) > 1:
            yield (
                f"{told(first)} and {told(second)} are named as parts, and hold folders of the same names; expected"
                " one folder for each class: put those of one name together (the stage split makes folds)"
            )
    inside = [folder for folder in tops if folders.splits_in(folders.unwrapped(folder))]
    if len(inside) > 1:
        yield f"there are splits in {told(inside[0])}, and in {told(inside[1])} too; expected train/CLASS/FILE"


def classes_in_each(folders: Folders) -> Iterator[str]:
    """Folders that would be classes, and hold mostly folders of the same names, as color/ and gray/ with all classes.

    Classes with the same folders in each can't be told from that, unless images lie beside these or they are numbered
    as recordings are.
    """
    choose = "set source to one of them, or rename them to train, val and test if they are splits"
    remedy = "take all but one out of the source" if folders.splits else choose
    for above in folders.above_classes.values():
        inside: dict[Parts, set[str]] = {}
        holders: defaultdict[str, list[Parts]] = defaultdict(list)
        for folder in ((*above, name) for name in sorted(folders.inside(above))):
            keys = folders.class_keys(folders.unwrapped(folder))
            inside[folder] = {key for key in keys if not RECORDING.fullmatch(key)}
            for key in inside[folder]:
                holders[key].append(folder)
        for keys in inside.values():
            shared = Counter(other for key in keys for other in holders[key])  # also with itself
            alike = [other for other, n in shared.items() if n > 1 and 2 * n > max(len(keys), len(inside[other]))]
            if len(alike) > 1 and not folders.with_images.issuperset(alike):
                yield (
                    f"{listed(sorted(alike))} hold folders of the same names; expected one folder for each class:"
                    f" {remedy}; if they are classes, put images directly in each, or a list of labels in check.labels"
                )


def copies_among_classes(folders: Folders) -> Iterator[str]:
    """Folders among the classes that hold what is called as the others, as where a set was unpacked into itself."""
    for above in folders.above_classes.values():
        for name in sorted(folders.inside(above)):
            folder = (*above, name)
            if len(folders.class_keys(folder) & (folders.class_keys(above) - {class_key(name)})) > 1:
                yield (
                    f"{told(folder)} holds folders of the same names as those beside it; expected one folder for"
                    f" each class: take {told(folder)} out of the source"
                )


def names_of_other_case(folders: Folders) -> Iterator[str]:
    for folder in folders.above_classes.values():
        seen: dict[str, str] = {}
        for name in sorted(folders.inside(folder)):
            composed = unicodedata.normalize("NFC", name)
            if (other := seen.setdefault(class_key(name), composed)) != composed:
                both = f"{told((*folder, other))} and {told((*folder, composed))}"
                yield f"{both} differ in case or blanks alone: rename one"


def listed(folders: list[Parts]) -> str:
    """Two or three folders, or the first three and how many more there are."""
    names = [told(folder) for folder in folders]
    if len(names) > NAMED:
        names[NAMED:] = [f"{len(names) - NAMED} more"]
    return f"{', '.join(names[:-1])} and {names[-1]}"


def told(folder: Parts) -> str:
    return f"'{'/'.join(folder)}'"
