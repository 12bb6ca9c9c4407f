"""The space of a search: which settings of a method and a backend may take which values.

Both declare their own in `space`; a TOML file with a table per method or backend replaces entries or adds others:

    [spdfq]
    alpha1 = { min = 10.0, max = 1e4, scaling = "log" }
    images = { choices = [8, 16] }

What `--set` or `--config` gives is fixed and not searched.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

from harness.plan.settings import Overrides, checked_value
from harness.record.files import read_toml
from harness.search.space import GRID_POINTS, Dimension, Settings, Space
from methods.contracts import Backend, Method
from methods.errors import UsageError, unknown_name

_KEYS = ("min", "max", "scaling", "points", "choices")


def read_space(owners: tuple[Method, Backend], fixed: Overrides, file: Path | None) -> Space:
    """Return {"name.key": dimension} of the settings to be searched, sorted by name.

    Raises UsageError for an unreadable file, an unknown name or key, an entry that is no range, and an empty space.
    """
    specs = {(owner.name, key): spec for owner in owners for key, spec in owner.space.items()}
    by_name = {owner.name: owner for owner in owners}
    for name, table in (read_toml(file, "space file") if file else {}).items():
        if not isinstance(table, dict):
            raise UsageError(f"{file} sets {name!r} outside a table; write it as [method] key = {{min = 1, max = 2}}.")
        if name not in by_name:
            raise unknown_name("method or backend of this search", name, by_name)
        specs |= {(name, key): spec for key, spec in table.items()}
    space = {
        f"{name}.{key}": _dimension(by_name[name], key, spec)
        for (name, key), spec in sorted(specs.items())
        if key not in fixed.get(name, {})
    }
    if not space:
        raise UsageError("There is nothing to search: every setting of the space is fixed by --set or --config.")
    return space


def _dimension(owner: Method | Backend, key: str, spec: Any) -> Dimension:
    """Read one entry of a space; raises UsageError when it is neither a range nor a list of choices."""
    where = f"The space of {owner.name}.{key}"
    hints = get_type_hints(owner.config_class)
    if key not in hints:
        raise unknown_name(f"setting of {owner.name}", key, hints)
    if not isinstance(spec, Mapping):
        raise UsageError(f"{where} is not of the form {{min = 1, max = 10}} or {{choices = [1, 2]}}.")
    for word in spec:
        if word not in _KEYS:
            raise unknown_name(f"word in the space of {owner.name}.{key}", word, _KEYS)
    if "choices" in spec:
        if len(spec) > 1 or not isinstance(spec["choices"], list) or not spec["choices"]:
            raise UsageError(f"{where} has choices, which are a list and stand alone.")
        return Dimension(tuple(dict.fromkeys(checked_value(owner.name, key, value) for value in spec["choices"])))
    return _range(owner, key, hints[key], spec)


def _range(owner: Method | Backend, key: str, kind: type, spec: Mapping[str, Any]) -> Dimension:
    where = f"The space of {owner.name}.{key}"
    if kind not in (int, float):
        raise UsageError(f"{where} needs choices: the setting is no number.")
    if not {"min", "max"} <= set(spec):
        raise UsageError(f"{where} lacks its min or its max.")
    low, high = (checked_value(owner.name, key, spec[end]) for end in ("min", "max"))
    scaling, points = spec.get("scaling", "linear"), spec.get("points", GRID_POINTS)
    if scaling not in ("linear", "log"):
        raise unknown_name(f"scaling of {owner.name}.{key}", str(scaling), ("linear", "log"))
    if not low < high or (scaling == "log" and low <= 0):
        raise UsageError(f"{where} needs min < max, and min > 0 on a log scale.")
    if type(points) is not int or points < 2:
        raise UsageError(f"{where} has points, which are a whole number of 2 or more.")
    return Dimension((), low, high, scaling == "log", kind is int, points)


def start_point(space: Space, configs: Mapping[str, Any]) -> Settings:
    """Return the defaults, the first point a search tries; one that the space leaves out moves to its nearest end.

    configs: {method or backend: its config}.
    """
    return {
        name: dimension.nearest(getattr(configs[name.partition(".")[0]], name.partition(".")[2]))
        for name, dimension in space.items()
    }
