"""One setting of a search: the values it may take, drawn at random, on a grid, or in words. Needs no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

Settings: TypeAlias = dict[str, Any]
GRID_POINTS = 3


@dataclass(frozen=True)
class Dimension:
    """What one setting may be: one of `choices`, else a number from low to high, both included.

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
