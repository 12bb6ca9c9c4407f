"""What there is to choose from: the tables of `python -m harness.bench --list methods|backends|models|settings`."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any, get_type_hints

from harness.inputs.zoo import ENTRIES
from harness.plan.jobs import setting_text
from harness.plan.settings import TYPE_NAMES, defaults
from harness.report.text_table import Grid, Word
from methods.contracts import Backend, Method
from methods.errors import UsageError
from methods.registry import BACKENDS, METHODS, Registry

_MODEL, _IMAGES = "deit_t", 32


def list_methods() -> Grid:
    """Return every method with its paper, what it needs and costs, and what of it is inferred."""
    rows = [[name, *_described(METHODS, name, _method)] for name in METHODS.names()]
    notes = [
        f"Passes: forward+backward passes of one image that a synthesis takes by default, for {_MODEL}. "
        "Inferred: what the paper leaves untold and this project had to choose.",
    ]
    return _grid("Methods", ["method", "paper", "needs", "passes", "inferred"], rows, notes)


def list_backends() -> Grid:
    """Return every backend with its paper, its cost, and what of it is inferred."""
    rows = [[name, *_described(BACKENDS, name, _backend)] for name in BACKENDS.names()]
    notes = [f"Passes: forward+backward passes of one image that {_IMAGES} images take by default, for {_MODEL}."]
    return _grid("Backends", ["backend", "paper", "passes", "inferred"], rows, notes)


def list_models() -> Grid:
    """Return the short names with the checkpoint, the transform and the FP32 accuracy they stand for."""
    rows = [
        [
            entry.name,
            entry.tag,
            f"{entry.size} px, crop {entry.crop:g}",
            "-" if entry.expected_top1 is None else f"{entry.expected_top1:.2f}",
        ]
        for entry in ENTRIES.values()
    ]
    notes = [
        "Many other ImageNet-1k classifiers of timm go by their full timm name: docs/models.md names them, and "
        "--list models --all GLOB says whether one is accepted."
    ]
    return _grid("Models", ["model", "checkpoint", "transform", "FP32 top-1"], rows, notes)


def list_settings(*registries: Registry[Any]) -> Grid:
    """Return every setting of every method and backend of some registries, of both for none, that can be loaded."""
    owners: list[Method | Backend] = []
    for registry in registries or (METHODS, BACKENDS):
        for name in registry.names():
            with suppress(UsageError):  # the lists of methods and backends say why
                owners.append(registry.get(name))
    notes = ["Change one by --set NAME=VALUE, or in a file by --config FILE (a table per method or backend)."]
    header = ["setting", "default", "takes", "meaning and source"]
    return _grid("Settings", header, [row for owner in owners for row in _settings(owner)], notes)


LISTS: dict[str, Callable[[], Grid]] = {
    "methods": list_methods,
    "backends": list_backends,
    "models": list_models,
    "settings": list_settings,
    "settings of methods": partial(list_settings, METHODS),
    "settings of backends": partial(list_settings, BACKENDS),
}


def _described(registry: Registry[Any], name: str, describe: Callable[[Any], list[str]]) -> list[str]:
    """Return an entry's words, or why it cannot be loaded."""
    try:
        return describe(registry.get(name))
    except UsageError as error:
        return [str(error)]


def _method(method: Method) -> list[str]:
    config = defaults(method, _MODEL)
    needs = "real images" if method.needs_real_images(config) else "the model alone"
    return [method.paper, needs, f"{method.image_passes(config):,.0f}", method.inferred or "-"]


def _backend(backend: Backend) -> list[str]:
    passes = backend.image_passes(defaults(backend, _MODEL), _IMAGES)
    return [backend.paper, f"{passes:,.0f}", backend.inferred or "-"]


def _grid(title: str, header: list[str], rows: list[list[str]], notes: list[str]) -> Grid:
    """Return a grid of words; a row that is too short is filled up."""
    body = [[Word(word) for word in [*row, *[""] * (len(header) - len(row))]] for row in rows]
    return Grid(title, header, body, notes, labels=len(header))


def _settings(owner: Method | Backend) -> list[list[str]]:
    """Return a row of words per setting: name, default and for which models it is another, kind, meaning."""
    kinds, meanings = get_type_hints(owner.config_class), meanings_of(owner.config_class)
    configs = {model: defaults(owner, model) for model in ENTRIES}
    return [
        [
            f"{owner.name}.{part.name}",
            _defaults({model: getattr(config, part.name) for model, config in configs.items()}),
            TYPE_NAMES.get(kinds[part.name], "a value"),
            meanings.get(part.name, "-"),
        ]
        for part in fields(owner.config_class)
    ]


def _defaults(values: dict[str, Any]) -> str:
    """Return the value most models share, then each other one with its models."""
    texts = {model: setting_text(value) for model, value in values.items()}
    common = max(dict.fromkeys(texts.values()), key=list(texts.values()).count)
    others: dict[str, list[str]] = {}
    for model, text in texts.items():
        if text != common:
            others.setdefault(text, []).append(model)
    return "; ".join([common, *(f"{text} for {', '.join(models)}" for text, models in others.items())])


@lru_cache
def meanings_of(config: type) -> dict[str, str]:
    """Return what each field of a config class means: the text below it, in the class or one it inherits from."""
    found: dict[str, str] = {}
    for kind in filter(is_dataclass, reversed(config.__mro__)):
        found |= _texts_below(kind)
    return found


def _texts_below(kind: type) -> dict[str, str]:
    """Return the texts that stand below the fields of a class; none where its source is not there."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    except (OSError, TypeError):
        return {}
    [body] = [node.body for node in tree.body if isinstance(node, ast.ClassDef)]
    return {
        before.target.id: " ".join(after.value.value.split())
        for before, after in pairwise(body)
        if isinstance(before, ast.AnnAssign)
        and isinstance(before.target, ast.Name)
        and isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant)
        and isinstance(after.value.value, str)
    }
