"""What check.json says of files and classes, in words, for the console and for the page of the images."""

from __future__ import annotations

from typing import Any

from pipeline.images.folders import split_of

NAMED = 20  # classes or folders named in a line, at most


def of_files(summary: dict[str, Any]) -> list[str]:
    """Which files are in use and which are left out, and what their folders were taken for."""
    used, left_out = summary["used"], summary["left_out"]
    in_use = f"{sum(used.values())} in use, {sum(left_out.values())} left out"
    lines = [f"{in_use}: {counted(left_out)}" if left_out else in_use]
    if without_class := summary["without_class"]:
        lines.append(f"without a class: {counted(without_class)}")
    if empty := summary["empty_folders"]:
        lines.append(f"empty folders, which are no classes: {shortened(list(empty))}")
        if drawn := [folder for folder in empty if split_of(folder.rpartition("/")[2])]:
            lines.append(f"of these named as splits: {shortened(drawn)}; the stage split draws what is empty")
    if splits := summary["official_splits"]:
        lines.append(f"official splits: {', '.join(f'{split} in {folder}/' for folder, split in splits.items())}")
    return lines


def of_classes(summary: dict[str, Any]) -> list[str]:
    """Which folders are no classes after all, and which classes lack images in an official split."""
    lines = []
    if undecoded := summary["classes_left_out"]:
        lines.append(f"not a class, because none of its images can be decoded: {shortened(list(undecoded))}")
    for split, missing in summary["classes_missing"].items():
        if len(missing) == len(summary["classes"]):
            lines.append(f"no class has a usable image in the official {split} split: the stage split draws one")
        else:
            lines.append(f"without a usable image in the official {split} split: {shortened(list(missing))}")
    if respelled := summary["classes_respelled"]:
        lines.append(f"one class, written in two ways: {counted(respelled)}")
    return lines


def counted(counts: dict[str, Any]) -> str:
    return shortened([f"{name} ({count})" for name, count in counts.items()])


def shortened(names: list[str]) -> str:
    """The names, separated by commas; of many only the first ones and the last."""
    return ", ".join(few(names))


def few(lines: list[str]) -> list[str]:
    return [*lines[: NAMED - 1], "…", lines[-1]] if len(lines) > NAMED else lines
