"""What the documents list is all there is: dependencies, and the tests of the catalog of hostile input."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions

from conftest import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
DEPENDENCIES = (REPOSITORY / "docs/dependencies.md").read_text()
SECURITY = (REPOSITORY / "docs/security.md").read_text()
RUN_AS_PROGRAMS = {"dvc"}


def names(requirements: list[str]) -> set[str]:
    """The packages, without extras and versions."""
    found = [re.match(r"[\w.-]+", requirement) for requirement in requirements]
    return {name[0].lower().replace("_", "-") for name in found if name}


def test_every_dependency_has_its_reason() -> None:
    extras = PROJECT["optional-dependencies"]
    for name in names(PROJECT["dependencies"]) | names([each for extra in extras.values() for each in extra]):
        assert re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", DEPENDENCIES), name
    rows = re.findall(r"^\| ([^|]+) \|", DEPENDENCIES, re.MULTILINE)[2:]
    assert names(", ".join(rows).split(", ")) == names(PROJECT["dependencies"])


def test_what_is_imported_is_a_dependency_and_what_is_none_is_not() -> None:
    trees = [ast.parse(path.read_text()) for path in (REPOSITORY / "pipeline").rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    others = {module.partition(".")[0] for module in modules} - sys.stdlib_module_names - {"pipeline"}
    known = packages_distributions()
    imported = {module: names(known[module]) for module in others - {"ruamel"}}
    imported["ruamel"] = {"ruamel.yaml"}  # a namespace of several packages
    extras = PROJECT["optional-dependencies"]
    optional = names([each for extra in ("app", "dask", "explain", "export", "heif", "timm") for each in extras[extra]])
    needed = names(PROJECT["dependencies"])
    assert not [module for module, packages in imported.items() if not packages & (needed | optional)]
    assert needed - RUN_AS_PROGRAMS <= set().union(*imported.values())


def test_every_case_of_the_catalog_names_tests_that_exist() -> None:
    rows = [line for line in SECURITY.splitlines() if line.startswith("| ")]
    cases = [row for row in rows if not row.startswith(("| case", "| ---"))]
    assert len(cases) > 30
    for case in cases:
        named = re.findall(r"`(test_\w+)::(test_\w+)`", case.split("|")[3])
        assert named, case
        for file, test in named:
            assert f"\ndef {test}(" in (REPOSITORY / f"tests/{file}.py").read_text(), case
