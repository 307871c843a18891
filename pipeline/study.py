"""Published studies, and strong experiments for the same data: list them, or add some to params.yaml.

An experiment may be a pattern: 'cifar10-*'. Its data set and the addresses of its files are added with it.
"""

from __future__ import annotations

from pipeline.system.entry import command_line

import re
import shutil
from pathlib import Path
from typing import Any

from pipeline.config import params
from pipeline.config.patterns import matching
from pipeline.system.console import run, say
from pipeline.system.outputs import atomic_write

FILES = Path(__file__).parents[1] / "studies"
# Comments at the margin, the entries that were added behind them, and the section that the comments are about
ADDED_BELOW = re.compile(r"^((?:\n|#.*\n)*#.*\n)((?: .*\n|\n)+)(?=(\S.*\n))", re.MULTILINE)


def main() -> None:
    parser = command_line("study", __doc__)
    parser.add_argument("experiments", nargs="*", metavar="EXPERIMENT", help="a name or a pattern; none: list all")
    wanted = parser.parse_args().experiments
    studies = read_studies()
    if not wanted:
        for dataset in studies["datasets"]:
            say(f"{dataset}: {', '.join(experiments_on(dataset, studies))}")
        return

    params.load()  # refuses what is wrong with it before it is changed
    from dvc.utils.serialize import dumps_yaml, parse_yaml_for_update  # the form that `dvc exp run -S` writes

    names = [name for one in wanted for name in matching([one], studies["experiments"], "studies/ has no study")]
    before = params.FILE.read_text(encoding="utf-8")
    document = parse_yaml_for_update(before, params.FILE)
    added = [key for name in names for key in add(document, name, studies)]
    if added:
        with atomic_write(params.FILE.resolve()) as partial:  # it may be a link
            partial.write_text(comments_with_sections(dumps_yaml(document), before), encoding="utf-8")
            shutil.copymode(params.FILE, partial)
    say(f"added to {params.FILE}: {', '.join(added)}" if added else f"{params.FILE} has them already")
    say(f"run: dvc repro {' '.join(f'evaluate@{name}' for name in names)}")


def comments_with_sections(text: str, before: str) -> str:
    """A params.yaml in which the comments above a section are above it again, as they were in the text `before`.

    To ruamel.yaml they belong to the entry that they follow, so that it writes what is added below them.
    """

    def swapped(found: re.Match[str]) -> str:
        comments, entries, section = found.groups()
        return f"{entries.rstrip()}\n{comments}" if comments + section in before else found[0]

    return ADDED_BELOW.sub(swapped, text)


def read_studies() -> dict[str, dict[str, Any]]:
    """The sections downloads, datasets and experiments of all studies, with the comments that ruamel.yaml keeps."""
    from ruamel.yaml import YAML

    sections: dict[str, dict[str, Any]] = {"downloads": {}, "datasets": {}, "experiments": {}}
    for file in sorted(FILES.glob("*.yaml")):
        for section, entries in YAML().load(file).items():
            sections[section].update(entries)
    return sections


def with_all_studies(raw: dict[str, Any]) -> params.Params:
    """The content of a params.yaml with every study added to it."""
    studies = read_studies()
    for name in studies["experiments"]:
        add(raw, name, studies)
    return params.validated(raw)


def experiments_on(dataset: str, studies: dict[str, dict[str, Any]]) -> list[str]:
    return [name for name, experiment in studies["experiments"].items() if experiment["dataset"] == dataset]


def add(document: dict[str, Any], name: str, studies: dict[str, dict[str, Any]]) -> list[str]:
    """Add an experiment with its data set to the content of a params.yaml, where what is there stays as it is.

    Returns the keys of what was added.
    """
    dataset = studies["experiments"][name]["dataset"]
    added = []
    for section, entry in (("downloads", dataset), ("datasets", dataset), ("experiments", name)):
        if not document.get(section):
            document[section] = {}
        if entry not in document[section]:
            document[section][entry] = studies[section][entry]
            added.append(f"{section}.{entry}")
    return added


if __name__ == "__main__":
    run(main)
