"""Shell completion of `spdfq-bench`, by argcomplete: commands, options, and the names that lists and --set take.

A shell asks after every TAB, so nothing heavy is imported: settings are read from the source of their config classes.
"""

from __future__ import annotations

import argparse
import ast
import os
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from harness.inputs import plugins
from harness.inputs.zoo import ENTRIES
from methods.registry import BACKENDS, METHODS

_BITS = ("w2a2", "w3a3", "w4a4", "w4a8", "w6a6", "w8a8", "w32a32")


def complete(commands: Mapping[str, str]) -> None:
    """Answer the shell, which asks through environment variables (argcomplete's protocol), and exit.

    commands: what each module that can be asked for is called, by its command.
    """
    import argcomplete

    plugins.load()
    line = os.environ["COMP_LINE"][: int(os.environ["COMP_POINT"])]
    command = [*line.split(), "", ""][1]
    if command in commands and not line.endswith(command):
        os.environ["_ARGCOMPLETE"] = "2"  # the line of that command begins at its second word
        parser = _of_command(commands[command])
    else:
        parser = argparse.ArgumentParser(add_help=False)
        parser.add_argument("command", choices=list(commands))
    argcomplete.autocomplete(parser)


def _of_command(module: str) -> argparse.ArgumentParser:
    """Return a command's parser, its options taught what they take."""
    parser: argparse.ArgumentParser = import_module(module).parser()
    known: dict[str, Callable[[], Iterable[str]]] = {
        "model": lambda: ENTRIES,
        "method": METHODS.names,
        "backend": BACKENDS.names,
        "bits": lambda: _BITS,
    }
    for action in parser._actions:  # argcomplete's own way to give an option a completer
        if action.dest == "set":
            vars(action)["completer"] = settings
        elif names := known.get(action.dest.removesuffix("s")) or known.get(action.dest):
            vars(action)["completer"] = partial(listed, names)
    return parser


def listed(names: Callable[[], Iterable[str]], prefix: str, **_asked: object) -> list[str]:
    """Return the ways to go on with a list parted by commas."""
    head, comma, _ = prefix.rpartition(",")
    return [f"{head}{comma}{name}" for name in names() if name not in head.split(",")]


def settings(prefix: str, **_asked: object) -> list[str]:
    """Return `name.` of every method and backend, or behind such a name its settings."""
    owner, dot, _ = prefix.partition(".")
    for registry in (METHODS, BACKENDS):
        if dot and owner in registry.names():
            return [f"{owner}.{name}=" for name in setting_names(registry.target(owner))]
    return [f"{name}." for name in (*METHODS.names(), *BACKENDS.names())]


def setting_names(target: str | type) -> list[str]:
    """Return the settings of what a registry leads to, "module:Class", read from its source; nothing for a class that
    is there already."""
    if not isinstance(target, str):
        return []
    module, _, name = target.partition(":")
    found = _config(module, name)
    return _fields(*found) if found else []


@lru_cache
def _tree(module: str) -> ast.Module:
    spec = find_spec(module)
    return ast.parse(Path(spec.origin).read_text() if spec and spec.origin else "")


def _class(module: str, name: str) -> tuple[str, ast.ClassDef] | None:
    """Return a class that a module defines or imports, and where it stands."""
    for node in _tree(module).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return module, node
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _class(node.module, alias.name)
    return None


def _config(module: str, name: str) -> tuple[str, str] | None:
    """Return module and name of the `config_class` of a class, its own or inherited."""
    found = _class(module, name)
    if found is None:
        return None
    place, owner = found
    for line in owner.body:
        if isinstance(line, ast.Assign | ast.AnnAssign) and isinstance(line.value, ast.Name):
            targets = line.targets if isinstance(line, ast.Assign) else [line.target]
            if any(isinstance(word, ast.Name) and word.id == "config_class" for word in targets):
                return place, line.value.id
    bases = (_config(place, base.id) for base in owner.bases if isinstance(base, ast.Name))
    return next(filter(None, bases), None)


def _fields(module: str, name: str) -> list[str]:
    """Return the fields of a dataclass, inherited ones first."""
    found = _class(module, name)
    if found is None:
        return []
    place, config = found
    inherited = [part for base in config.bases if isinstance(base, ast.Name) for part in _fields(place, base.id)]
    own = [
        line.target.id for line in config.body if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
    ]
    return list(dict.fromkeys([*inherited, *own]))
