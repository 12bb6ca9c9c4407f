"""Whether what a record says of its bits and costs agrees: with its cell's name of the bits, and with itself."""

from __future__ import annotations

import re
from typing import Any

from methods.quant.bits import digest

_COSTS = ("size_bytes", "macs", "bitops")
_FLOAT = 32
_LEAST = 2


def mixed_problem(record: dict[str, Any]) -> str | None:
    """Say that the table of mixed bits is not the one the cell's bits name, or None."""
    default, plus, label = record["cell"]["bits"].partition("+")
    table = record.get("layer_bits")
    if not plus:
        return None if table is None else "has bits per layer that its cell does not name"
    if not isinstance(table, dict) or table.get("default") != default or not _pairs(table.get("patterns")):
        return "lacks the bits per layer that its cell names"
    if digest(default, table["patterns"]) != label.rpartition("-")[2]:
        return "has other bits per layer than its cell names"
    return None


def _pairs(patterns: Any) -> bool:
    return isinstance(patterns, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in patterns)


def costs_problem(record: dict[str, Any]) -> str | None:
    """Say that size or bit operations cannot be those of the cell's bits, or None; older records have none."""
    costs = record.get("costs")
    if costs is None:
        return None
    if not isinstance(costs, dict) or not all(type(costs.get(name)) is int and costs[name] > 0 for name in _COSTS):
        return "has no sound costs"
    widths = [int(width) for width in re.findall(r"[wa](\d+)", record["cell"]["bits"].partition("+")[0])]
    parameters = record.get("weights", {}).get("parameters")
    least = _LEAST if "layer_bits" in record else min(widths)
    if not least**2 * costs["macs"] <= costs["bitops"] <= _FLOAT**2 * costs["macs"]:
        return "has bit operations that its products cannot take"
    if type(parameters) is int and 8 * costs["size_bytes"] < least * parameters:
        return "has a size below that of its parameters at their bits"
    return None
