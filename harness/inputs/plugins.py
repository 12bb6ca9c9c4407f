"""Fill the registries: this project's own packages, installed entry points, and plugin files.

Harness code names no method. Third parties add theirs without a fork: an installed package through the entry
points `spdfq_bench.methods` and `spdfq_bench.backends` (name = "module:Class"), a single file through `--plugin`.
A plugin that does not import, or not in time, is named and skipped; the others go on.
"""

from __future__ import annotations

import importlib.util
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, NoReturn

from methods.errors import UsageError
from methods.registry import BACKENDS, METHODS, Registry
from methods.text import printable

PACKAGES = ("methods", "spdfq")
_GROUPS: dict[str, Registry[Any]] = {"spdfq_bench.methods": METHODS, "spdfq_bench.backends": BACKENDS}


class PluginTimeout(BaseException):
    """An import takes too long; no Exception, which a plugin may catch."""


def load(plugins: Iterable[str] = (), timeout: float | None = None) -> None:
    """Import what registers methods and backends, once each; cheap, no torch but for what plugin files import.

    timeout: most seconds each plugin file may take, in a main thread; None: as long as it will. Raises UsageError for
    a plugin file that does not exist; whatever else is wrong with one is printed on stderr.
    """
    _load_installed()
    for path in plugins:
        with _ringing_after(timeout):
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
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a stranger's file may raise anything, and may try to end the program
        del sys.modules[name]
        _skip(path, error)
        return None
    return module


@contextmanager
def _ringing_after(seconds: float | None) -> Iterator[None]:
    """Raise PluginTimeout inside when it takes longer."""
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(_number: int, _frame: FrameType | None) -> NoReturn:
        raise PluginTimeout(f"its import was stopped after {seconds:g} s (--timeout)")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, min(seconds, threading.TIMEOUT_MAX))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _skip(what: str, error: BaseException) -> None:
    print(printable(f"The plugin {what} was skipped: {type(error).__name__}: {error}"), file=sys.stderr)
