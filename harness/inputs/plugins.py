"""Fill the registries: this project's own packages, installed entry points, and plugin files.

Harness code names no method. Third parties add theirs without a fork: an installed package through the entry
points `spdfq_bench.methods` and `spdfq_bench.backends` (name = "module:Class"), a single file through `--plugin`.
A plugin that does not import is named and skipped; the others go on.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable
from functools import lru_cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from methods.errors import UsageError
from methods.registry import BACKENDS, METHODS, Registry
from methods.text import printable

PACKAGES = ("methods", "spdfq")
_GROUPS: dict[str, Registry[Any]] = {"spdfq_bench.methods": METHODS, "spdfq_bench.backends": BACKENDS}


def load(plugins: Iterable[str] = ()) -> None:
    """Import what registers methods and backends, once each; cheap, no torch but for what plugin files import.

    Raises UsageError for a plugin file that does not exist; whatever else is wrong with one is printed on stderr.
    """
    _load_installed()
    for path in plugins:
        _load_file(path)


def plugin_modules(plugins: Iterable[str]) -> list[ModuleType]:
    """Return the modules of the plugin files that were loaded."""
    return [module for module in map(_load_file, plugins) if module is not None]


@lru_cache
def _load_installed() -> None:
    for package in PACKAGES:
        import_module(package)
    for group, registry in _GROUPS.items():
        for entry in entry_points(group=group):
            try:
                registry.register(entry.name, entry.value)
            except UsageError as error:
                _skip(f"{entry.name} = {entry.value}", error)


@lru_cache
def _load_file(path: str) -> ModuleType | None:
    """Run a plugin file, which registers what it brings, as the module `plugin_<stem>`."""
    if not Path(path).is_file():
        raise UsageError(f"--plugin {path}: there is no such file.")
    name = f"plugin_{Path(path).stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"--plugin {path} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with METHODS.unless_it_fails(), BACKENDS.unless_it_fails():
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a stranger's file may raise anything, and may try to end the program
        del sys.modules[name]
        _skip(path, error)
        return None
    return module


def _skip(what: str, error: BaseException) -> None:
    print(printable(f"The plugin {what} was skipped: {type(error).__name__}: {error}"), file=sys.stderr)
