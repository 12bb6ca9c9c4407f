"""The space of a search: which settings of a method and a backend may take which values. Needs no torch.

Both declare their own in `space`; a TOML file with a table per method or backend replaces entries or adds others:

    [spdfq]
    alpha1 = { min = 10.0, max = 1e4, scaling = "log" }
    images = { choices = [8, 16] }

What `--set` or `--config` gives is fixed and not searched.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, get_type_hints

import numpy as np

from harness.plan.settings import Overrides, checked_value
from harness.record.files import read_toml
from methods.errors import UsageError, unknown_name

if TYPE_CHECKING:
    from methods.contracts import Backend, Method

Settings: TypeAlias = dict[str, Any]
GRID_POINTS = 3
_KEYS = ("min", "max", "scaling", "points", "choices")


@dataclass(frozen=True)
class Dimension:
    """What one setting may be: one of `choices`, else a number from low to high, both included.

    Drawn at random, on a grid, or told in words.

    log: spread evenly in the logarithm; whole: whole numbers only; points: how many a grid tries.
    """

    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    points: int = GRID_POINTS

    def __contains__(self, value: Any) -> bool:
        return value in self.choices if self.choices else bool(self.low <= value <= self.high)

    def nearest(self, value: Any) -> Any:
        """Return the value itself if it is inside, else the nearest end, or the nearest choice (the first if none is
        a number)."""
        if value in self:
            return value
        if not self.choices:
            return min(max(value, self.low), self.high)
        numbers = all(isinstance(choice, int | float) for choice in self.choices)
        return min(self.choices, key=lambda choice: abs(choice - value)) if numbers else self.choices[0]

    def at(self, share: float) -> Any:
        """Return the value a share (0 to 1) of the way through the range."""
        if self.choices:
            return self.choices[min(int(share * len(self.choices)), len(self.choices) - 1)]
        low, high = (math.log(end) if self.log else end for end in (self.low, self.high))
        value = low + share * (high - low)
        value = min(max(math.exp(value) if self.log else value, self.low), self.high)
        return round(value) if self.whole else value

    def draw(self, random: np.random.Generator) -> Any:
        """Draw a value, all being equally likely (in the logarithm where `log`)."""
        if self.whole and not self.log:
            return int(random.integers(int(self.low), int(self.high), endpoint=True))
        return self.at(random.random())

    def grid(self) -> list[Any]:
        """Return all choices, or `points` values evenly spread from end to end, without repeats."""
        if self.choices:
            return list(self.choices)
        shares = [place / (self.points - 1) for place in range(self.points)]
        return list(dict.fromkeys([self.low, *map(self.at, shares[1:-1]), self.high]))

    def text(self) -> str:
        """Return the range in words."""
        if self.choices:
            return ", ".join(map(str, self.choices))
        return f"{self.low:g} to {self.high:g}" + (", log" if self.log else "")


Space: TypeAlias = dict[str, Dimension]


def value_text(value: Any) -> str:
    """Return a setting's value as tables show it."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


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
