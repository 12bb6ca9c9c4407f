"""Settings of methods and backends: dataclass defaults < TOML tables (`--config`) < `--set name.key=value`.

Unknown names and keys, and values of another type, are errors that name the nearest known one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, get_type_hints

from harness.inputs.zoo import ENTRIES
from harness.record.files import Table, parse_toml
from methods.errors import UsageError, unknown_name
from methods.registry import BACKENDS, METHODS
from methods.text import shortened

if TYPE_CHECKING:
    from methods.contracts import Backend, Method

TYPE_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}
Overrides = dict[str, dict[str, Any]]


def read_overrides(tables: Mapping[str, Table], assignments: Iterable[str]) -> Overrides:
    """Return {method or backend: {key: value}} from such tables and `name.key=value` words over them, checked.

    Raises UsageError for an unknown name or key, or a value of another type.
    """
    overrides: Overrides = {}
    for name, table in tables.items():
        for key, value in table.items():
            overrides.setdefault(name, {})[key] = checked_value(name, key, value)
    for assignment in assignments:
        name, key, text = _split(assignment)
        overrides.setdefault(name, {})[key] = checked_value(name, key, _parsed(text))
    return overrides


def _split(assignment: str) -> tuple[str, str, str]:
    target, equals, text = assignment.partition("=")
    name, dot, key = target.strip().partition(".")
    if not (equals and dot and key):
        raise UsageError(f"--set {shortened(assignment)!r} is not of the form method.key=value.")
    if len(assignment.splitlines()) > 1:
        raise UsageError(
            f"--set {shortened(assignment)!r} has more than one line; each setting has a --set of its own."
        )
    return name, key, text.strip()


def _parsed(text: str) -> Any:
    """Read a value as TOML does; anything else is a word."""
    try:
        return parse_toml(f"value = {text}")["value"]
    except ValueError:
        return text


def _owner(name: str) -> Method | Backend:
    if name in METHODS.names():
        return METHODS.get(name)
    if name in BACKENDS.names():
        return BACKENDS.get(name)
    raise unknown_name("method or backend", name, [*METHODS.names(), *BACKENDS.names()])


def checked_value(name: str, key: str, value: Any) -> Any:
    """Return a value in the type of the setting `name.key`; raises UsageError when it has another."""
    hints = get_type_hints(_owner(name).config_class)
    if key not in hints:
        raise unknown_name(f"setting of {name}", key, hints)
    wanted = hints[key]
    if isinstance(value, int) and abs(value) >= 2**63:  # records could not hold it
        raise UsageError(f"{name}.{key} must be smaller than 2^63.")
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{name}.{key} must be a finite number, not {value!r}.")
    if type(value) is not wanted:
        raise UsageError(f"{name}.{key} must be {TYPE_NAMES[wanted]}, not {shortened(repr(value))}.")
    return value


def with_precision(overrides: Overrides, methods: Iterable[str], precision: str | None) -> Overrides:
    """Return the overrides with `precision` set for every method that has this setting; None leaves them as they are.

    Raises UsageError when no method has it: the option would do nothing.
    """
    if precision is None:
        return overrides
    able = [name for name in methods if "precision" in get_type_hints(METHODS.get(name).config_class)]
    if not able:
        raise UsageError(
            f"--precision {precision} has no effect: no method of this run passes images through a model."
        )
    return overrides | {name: {**overrides.get(name, {}), "precision": precision} for name in able}


def defaults(owner: Method | Backend, model: str) -> Any:
    """Return the default config of a method or backend for a model: of a short run where the model's entry asks for
    one."""
    config, entry = owner.default_config(model), ENTRIES.get(model)
    return dataclasses.replace(config, **owner.short) if entry and entry.short else config


def effective_config(owner: Method | Backend, model: str, overrides: Overrides) -> Any:
    """Return the frozen config of a method or backend for a model, overrides applied and validated."""
    return dataclasses.replace(defaults(owner, model), **overrides.get(owner.name, {}))


def changed_settings(owner: Method | Backend, model: str, overrides: Overrides) -> dict[str, Any]:
    """Return {"name.key": value} of the overrides that differ from the model's defaults."""
    default = defaults(owner, model)
    given = overrides.get(owner.name, {})
    return {f"{owner.name}.{key}": value for key, value in given.items() if getattr(default, key) != value}
