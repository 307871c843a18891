"""`params.yaml` as typed objects, validated whole before any work starts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, ValidationError

from pipeline.config.datasets import Dataset, Download
from pipeline.config.errors import in_one_line
from pipeline.config.experiments import Experiment
from pipeline.config.features import FeaturesConfig
from pipeline.config.fields import Seed, Strict, hint
from pipeline.system.console import UserError, one_line

if TYPE_CHECKING:
    from ruamel.yaml.nodes import Node

FILE = Path("params.yaml")
T = TypeVar("T")
MOST_VALUES = 100_000  # keys, values, lists and sections, with every alias written out


def a_text(name: object) -> str:
    if not isinstance(name, str):
        raise ValueError("YAML reads this name as something else than text; expected it in quotes, as in '2024'")
    return name


def a_name(name: str) -> str:
    if not name or not name[0].isalnum() or not all(c.isalnum() or c in "-_" for c in name) or not name.isascii():
        why = "; DVC takes a '.' for nesting" if "." in name else ""
        raise ValueError(f"a name is letters, digits, '-' and '_', and starts with a letter or digit{why}")
    return name


Name = Annotated[str, BeforeValidator(a_text), AfterValidator(a_name)]


class Params(Strict):
    """Everything that can be tuned."""

    seed: Seed
    downloads: dict[Name, Download] = {}
    datasets: dict[Name, Dataset] = {}
    features: dict[Name, FeaturesConfig] = {}
    experiments: dict[Name, Experiment] = {}

    def dataset(self, name: str) -> Dataset:
        return pick(self.datasets, "datasets", name)

    def experiment(self, name: str) -> Experiment:
        return pick(self.experiments, "experiments", name)

    def features_of(self, dataset: str) -> FeaturesConfig:
        return pick(self.features, "features", dataset)

    def download(self, name: str) -> Download:
        return pick(self.downloads, "downloads", name)

    def seed_of(self, experiment: str) -> int:
        own = self.experiment(experiment).seed
        return self.seed if own is None else own


def pick(entries: dict[str, T], section: str, name: str) -> T:
    """The entry of that name. Raises UserError if there is none."""
    if name not in entries:
        raise UserError(
            f"{FILE}: {section} has no entry {name!r}{hint(name, entries)}; it has: {', '.join(entries) or 'none'}"
        )
    return entries[name]


def load() -> Params:
    """Read `params.yaml` of the current folder.

    Raises UserError, in one line that names the key, its value and what is allowed.
    """
    return validated(read())


def read() -> dict[str, Any]:
    """The content of `params.yaml`. Raises UserError where it is missing or not YAML."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        yaml = YAML(typ="safe", pure=True)
        document = yaml.compose(FILE.read_text(encoding="utf-8"))
        if document is not None and values_of(document, {}) > MOST_VALUES:
            raise UserError(
                f"{FILE}: with every alias (*name) written out, it has more than {MOST_VALUES} values;"
                " expected fewer: DVC writes them out whenever it reads the file"
            )
        raw = document and yaml.constructor.construct_document(document)
    except FileNotFoundError:
        raise UserError(f"{FILE} is not in {Path.cwd()}: run this in the project's root folder") from None
    except MarkedYAMLError as error:
        where = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{FILE}{where}: {one_line(error.problem or 'not valid YAML')}") from None
    except (YAMLError, ValueError, LookupError, RecursionError) as error:  # no UTF-8, 2020-13-45, !!int x, !!bool x, …
        raise UserError(f"{FILE}: not valid YAML: {one_line(error)}") from None
    if not isinstance(raw, dict | None):
        raise UserError(f"{FILE}: found a {type(raw).__name__}; expected the keys {', '.join(Params.model_fields)}")
    return raw or {}


def validated(raw: dict[str, Any]) -> Params:
    """The content of a `params.yaml` as typed objects. Raises UserError for the first faulty key."""
    try:
        params = Params.model_validate(raw)
    except ValidationError as error:
        try:
            fault = in_one_line(error, raw)
        except ValueError:  # Python writes out no number of more than 4300 digits
            fault = "a number of thousands of digits; expected none so long"
        raise UserError(f"{FILE}: {fault}") from None
    for name in params.features:
        if name not in params.datasets:
            raise UserError(f"{FILE}: features.{name}: {no_dataset(name, params)}")
    for name, experiment in params.experiments.items():
        check_experiment(name, experiment, params)
    return params


def values_of(node: Node, known: dict[int, int]) -> int:
    """How many values a node of YAML has with its aliases written out; `known` are the answers so far, by id."""
    if id(node) not in known:
        known[id(node)] = 0  # for a node that contains itself
        children = node.value if isinstance(node.value, list) else []
        pairs = (child if isinstance(child, tuple) else (child,) for child in children)
        known[id(node)] = 1 + sum(values_of(child, known) for pair in pairs for child in pair)
    return known[id(node)]


def no_dataset(name: str, params: Params) -> str:
    return f"no such data set{hint(name, params.datasets)}; datasets has: {', '.join(params.datasets)}"


def check_experiment(name: str, experiment: Experiment, params: Params) -> None:
    """What can only be known from two entries: the data set exists, has the folds, and its images fit the network."""
    where = f"{FILE}: experiments.{name}"
    if experiment.dataset not in params.datasets:
        raise UserError(f"{where}.dataset = {experiment.dataset!r}: {no_dataset(experiment.dataset, params)}")
    dataset = params.datasets[experiment.dataset]
    if experiment.folds and dataset.split.folds is None:
        raise UserError(
            f"{where}.folds = 'all': datasets.{experiment.dataset}.split has no folds; expected their number there,"
            " e.g. split: {folds: 5}"
        )
    problem = experiment.network.incompatible_size(*dataset.pack.height_width)
    if problem:
        size = "×".join(map(str, dataset.pack.height_width))
        raise UserError(f"{where}.network can't take datasets.{experiment.dataset}.pack.size = {size}: {problem}")
