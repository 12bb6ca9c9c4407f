"""Who may import whom, and that the harness names no method and no backend."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness_kit import ROOT, python

from harness.inputs import plugins as catalog
from methods.registry import BACKENDS, METHODS

catalog.load()
NAMES = {*METHODS.names(), *BACKENDS.names()}
PACKAGES = {"harness", "methods", "spdfq"}
ALLOWED = {"harness": {"harness", "methods", "spdfq"}, "spdfq": {"spdfq", "methods"}, "methods": {"methods"}}
# What a user reads and types, and the packages that fill the registries, may name methods.
EXEMPT = {"harness/inputs/plugins.py": {"PACKAGES"}, "harness/api.py": {"METHOD", "BACKEND"}}


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{path.relative_to(ROOT).parts[0]}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_packages_import_only_what_they_may(package: str) -> None:
    found = {
        (path.name, name)
        for path in files(package)
        for name in imported(path)
        if name.partition(".")[0] in PACKAGES - ALLOWED[package]
    }
    assert found == set()
    assert len(files(package)) > 5


def test_the_harness_imports_no_method_and_no_backend_by_name() -> None:
    closed = re.compile(rf"(methods\.({'|'.join(NAMES)})|methods\.backends|spdfq)(\.|$)")
    found = {(path.name, name) for path in files("harness") for name in imported(path) if closed.match(name)}
    assert found == set()


def _exempt(path: Path, tree: ast.Module) -> Iterator[ast.AST]:
    """Yield docstrings, argparse calls, example texts, and the exemptions above."""
    exempt = EXEMPT.get(path.relative_to(ROOT).as_posix(), set()) | {"_EXAMPLES"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            yield node.body[0]
        elif (
            (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
            or (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "add_argument"
            )
            or (isinstance(node, ast.Assign) and {getattr(target, "id", "") for target in node.targets} & exempt)
        ):
            yield node


def literals(path: Path) -> list[str]:
    tree = ast.parse(path.read_text())
    passed = {id(inner) for outer in _exempt(path, tree) for inner in ast.walk(outer)}
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in passed
    ]


def names_in(text: str) -> set[str]:
    """Return the methods and backends a literal names; `best` in a sentence or a file's name is a word."""
    found = NAMES & set(re.split(r"[,.=:/ ]" if "." in text else r"[,=:/]", text))
    return found - {"best"} if " " in text or text.endswith(".toml") else found


@pytest.mark.parametrize("path", files("harness"), ids=lambda path: path.stem)
def test_the_harness_names_no_method_and_no_backend(path: Path) -> None:
    assert [text for text in literals(path) if names_in(text)] == []


def test_the_check_sees_names_where_they_are(tmp_path: Path) -> None:
    assert {"noise", "real", "spdfq", "minmax", "blockwise"} <= NAMES
    defaults = [
        node.value
        for node in ast.walk(ast.parse((ROOT / "harness" / "bench.py").read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    assert "noise,real,spdfq" in defaults
    assert "noise,real,spdfq" not in literals(ROOT / "harness" / "bench.py")


def test_only_the_ray_executors_import_ray() -> None:
    users = {path.name for path in files("harness") for name in imported(path) if name.partition(".")[0] == "ray"}
    assert users == {"ray_session.py", "ray_tune.py", "on_ray.py"}


def test_the_registries_fill_without_torch() -> None:
    script = "import sys; from harness.inputs import plugins; plugins.load(); print('torch' in sys.modules)"
    assert python("-c", script).out.strip() == "False"


# One way: what stands on a later floor may import what stands on earlier ones, lazily or not, and never the other way.
FLOORS = [
    {"methods.text", "harness.__version__"},
    {"methods.errors"},
    {"methods.bits"},
    {"methods.contracts"},
    {"methods.registry"},
    {"methods.models"},
    {"methods.quant", "methods.optimisation"},
    {"methods.synthesis", "methods.backends"},
    {"methods", "spdfq"},
    {"harness.record"},
    {"harness.inputs"},
    {"harness.plan", "harness.report"},
    {"harness.trial"},
    {"harness.deploy"},
    {"harness.execute"},
    {"harness.cli"},
    {"harness"},
    {"harness.search", "harness.perf"},
]


def room(module: str) -> tuple[int, str]:
    """Return the floor of a module and its room there: the longest name of a floor that it begins with."""
    return max(
        (
            (number, name)
            for number, floor in enumerate(FLOORS)
            for name in floor
            if f"{module}.".startswith(f"{name}.")
        ),
        key=lambda found: len(found[1]),
    )


def modules() -> Iterator[tuple[str, Path]]:
    for package in sorted(PACKAGES):
        for path in files(package):
            words = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(words[:-1] if words[-1] == "__init__" else words), path


def test_imports_go_one_way() -> None:
    upwards = [
        f"{module} imports {name}"
        for module, path in modules()
        for name in imported(path)
        if name.partition(".")[0] in PACKAGES and room(name) != room(module) and room(name)[0] >= room(module)[0]
    ]
    assert upwards == []


def test_there_is_no_circle_even_of_lazy_imports() -> None:
    known = {module for module, _ in modules()}
    graph = {
        module: {name if name in known else name.rpartition(".")[0] for name in imported(path)} & known - {module}
        for module, path in modules()
    }
    while free := {module for module, needed in graph.items() if not needed & graph.keys()}:
        graph = {module: needed for module, needed in graph.items() if module not in free}
    assert sorted(graph) == []
