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
from argparse import Namespace
from dataclasses import fields
from pathlib import Path
from typing import Any

from harness.cli.options import Default, Inputs, Matrix
from harness.record.files import ABOUT, Table, read_toml
from methods.errors import UsageError, unknown_name

RUNS = "run"
_PRESETS = Path(__file__).with_name("presets.toml")
_DEMO = "demo"
_TYPED_ALONE = {"config", "preset", "set", "plan", "list", "table_only"}


def parse(parser: argparse.ArgumentParser, typed: list[str] | None, study: bool = False) -> list[Namespace]:
    """Return the arguments of every run a command line asks for: those typed over those of
    --config over those of --preset, which is that of the demo where nothing is named.

    study: whether a file may hold several runs. Every namespace has the settings of its run in `tables`. Raises
    UsageError for a file that cannot be read or sets what the command does not know.
    """
    typed = sys.argv[1:] if typed is None else typed
    given = parser.parse_args(typed)
    given.tables = {}
    preset = vars(given).get("preset", "") or (_DEMO if _nothing_named(given) else "")
    layers = [(_PRESETS, read_toml(_PRESETS, "file of presets")[preset])] if preset else []
    layers += [(given.config, read_toml(given.config, "config file"))] if given.config else []
    if not layers:
        return [given]
    path, table = layers[-1]
    runs = table.pop(RUNS, [{}])
    for told in ABOUT:  # what a study says of itself is for those who read its results
        table.pop(told, None)
    if not isinstance(runs, list) or not runs or not all(isinstance(run, dict) for run in runs):
        raise UsageError(f"{path}: the runs of a study are tables [[{RUNS}]].")
    if not study and len(runs) > 1:
        raise UsageError(f"{path} holds {len(runs)} runs; this command takes one.")
    return [_arguments(parser, [*layers, (path, run)], typed) for run in runs]


def _nothing_named(given: Namespace) -> bool:
    """Whether a command that has presets was told nothing of what to measure."""
    named = [vars(given).get(name) for name in ("models", "methods", "backends", "bits")]
    return "preset" in vars(given) and given.config is None and all(isinstance(text, Default) for text in named)


def _arguments(parser: argparse.ArgumentParser, layers: list[tuple[Path, Table]], typed: list[str]) -> Namespace:
    """Return the arguments of a run: those of each layer over the one before it, the last being the run's own, and
    what is typed over all, as if everything were typed, so that argparse checks what it always checks."""
    known = {name: value for name, value in vars(parser.parse_args([])).items() if name not in _TYPED_ALONE}
    of_runs = {part.name for kind in (Matrix, Inputs) for part in fields(kind)}
    options = [
        word
        for place, (path, table) in enumerate(layers, 1)
        for name, value in table.items()
        if not isinstance(value, dict)
        for word in _written(path, name, value, known, set(known) if place < len(layers) else of_runs)
    ]
    found = parser.parse_args([*options, *typed])
    found.tables = {}
    for _, table in layers:
        for name, value in table.items():
            if isinstance(value, dict):
                found.tables[name] = found.tables.get(name, {}) | value
    return found


def _written(path: Path, name: str, value: Any, known: dict[str, Any], allowed: set[str]) -> list[str]:
    """Return an option as words of a command line; raises UsageError for unknown names and values of no use."""
    key = name.replace("-", "_")
    if key not in known:
        raise unknown_name(f"key in {path}", name, known)
    if key not in allowed:
        raise UsageError(f"{path}: {name} stands above the runs, as it holds for all of them.")
    option, default = "--" + key.replace("_", "-"), known[key]
    if isinstance(default, bool) or isinstance(value, bool):
        if not (isinstance(default, bool) and isinstance(value, bool)):
            raise UsageError(f"{path}: {name} = {value!r} is of no use; true and false are for switches.")
        return [option] if value else []
    parts = value if isinstance(value, list) else [value]
    if not all(isinstance(part, str | int | float) and not isinstance(part, bool) for part in parts):
        raise UsageError(f"{path}: {name} takes words or numbers, or a list of them, not {value!r}.")
    if isinstance(default, list):
        return [f"{option}={part}" for part in parts]
    return [f"{option}={','.join(map(str, parts))}"]
