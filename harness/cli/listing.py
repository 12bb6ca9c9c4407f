"""What there is to choose from: the tables of `python -m harness.bench --list methods|backends|models|settings`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from harness.cli.settings_list import HEADER, setting_rows
from harness.inputs.zoo import ENTRIES
from harness.plan.settings import defaults
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
    return _grid("Settings", HEADER, setting_rows(owners), notes)


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
