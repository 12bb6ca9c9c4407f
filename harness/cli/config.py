"""`--config FILE`: a whole run, or a study of several runs, as one TOML file.

    models = ["deit_t"]          # any option of the command by its name, - or _ between its words
    seeds = [0, 1, 2]
    limit = 500
    [spdfq]                      # settings, a table per method or backend
    images = 8
    [[run]]                      # each run of a study: what it adds to the above, or has in its place
    methods = ["spdfq"]
    [[run]]
    methods = ["real"]
    [run.real]
    images = 8

What is typed goes before what stands in the file.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Container, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from harness.cli.options import Inputs, Matrix
from harness.record.toml import Table, read_toml
from methods.errors import UsageError, unknown_name

RUNS = "run"
_TYPED_ALONE = {"config", "set", "plan", "list", "table_only"}


def parse(parser: argparse.ArgumentParser, typed: list[str] | None, study: bool = False) -> list[argparse.Namespace]:
    """Return the arguments of every run a command line asks for: those of a file named by --config under those typed.

    study: whether a file may hold several runs. Every namespace has the settings of its run in `tables`. Raises
    UsageError for a file that cannot be read or sets what the command does not know.
    """
    typed = sys.argv[1:] if typed is None else typed
    given = parser.parse_args(typed)
    given.tables = {}
    if given.config is None:
        return [given]
    table = read_toml(given.config, "config file")
    runs = table.pop(RUNS, [{}])
    if not isinstance(runs, list) or not runs or not all(isinstance(run, dict) for run in runs):
        raise UsageError(f"{given.config}: the runs of a study are tables [[{RUNS}]].")
    if not study and len(runs) > 1:
        raise UsageError(f"{given.config} holds {len(runs)} runs; this command takes one.")
    reader = _Reader(given.config, parser)
    return [reader.arguments(table, run, typed) for run in runs]


class _Reader:
    """Reads tables of a file as if their options were typed, so that argparse checks what it always checks."""

    def __init__(self, path: Path, parser: argparse.ArgumentParser) -> None:
        self.path, self.parser = path, parser
        self.known = {name: value for name, value in vars(parser.parse_args([])).items() if name not in _TYPED_ALONE}

    def arguments(self, common: Table, run: Table, typed: list[str]) -> argparse.Namespace:
        """Return the arguments of a run: what is common, under what is its own, under what is typed."""
        of_runs = {part.name for kind in (Matrix, Inputs) for part in fields(kind)}
        own = [word for name, value in self._options(run) for word in self._written(name, value, of_runs)]
        shared = [word for name, value in self._options(common) for word in self._written(name, value, self.known)]
        found = self.parser.parse_args([*shared, *own, *typed])
        found.tables = {
            name: _table(common, name) | _table(run, name)
            for name in dict.fromkeys([*common, *run])
            if isinstance(run.get(name, common.get(name)), dict)
        }
        return found

    def _options(self, table: Table) -> Iterator[tuple[str, Any]]:
        """Yield the options of a table, which is all that is no table of settings."""
        yield from ((name, value) for name, value in table.items() if not isinstance(value, dict))

    def _written(self, name: str, value: Any, allowed: Container[str]) -> list[str]:
        """Return an option as words of a command line; raises UsageError for unknown names and values of no use."""
        key = name.replace("-", "_")
        if key not in self.known:
            raise unknown_name(f"key in {self.path}", name, self.known)
        if key not in allowed:
            raise UsageError(f"{self.path}: {name} stands above the runs, as it holds for all of them.")
        option, default = "--" + key.replace("_", "-"), self.known[key]
        if isinstance(default, bool) or isinstance(value, bool):
            if not (isinstance(default, bool) and isinstance(value, bool)):
                raise UsageError(f"{self.path}: {name} = {value!r} is of no use; true and false are for switches.")
            return [option] if value else []
        parts = value if isinstance(value, list) else [value]
        if not all(isinstance(part, str | int | float) and not isinstance(part, bool) for part in parts):
            raise UsageError(f"{self.path}: {name} takes words or numbers, or a list of them, not {value!r}.")
        if isinstance(default, list):
            return [f"{option}={part}" for part in parts]
        return [f"{option}={','.join(map(str, parts))}"]


def _table(where: Table, name: str) -> Table:
    found = where.get(name, {})
    return found if isinstance(found, dict) else {}
