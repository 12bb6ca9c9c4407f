"""Bits for every layer from what layers mind: a knapsack, written as a TOML file for `--bits`.

For weights and for activations alike: of every part exactly one width, so that the sum of the KL divergences each
part causes alone is least and the mean width over all numbers is at most what is asked for. That divergences add up is
an assumption; solved exactly as a mixed-integer linear program.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.sensitivity.measure import INPUT, OPERANDS, WEIGHT, Part, Sensitivity
from methods.errors import UsageError


def suggested(found: Sequence[Sensitivity], mean: float) -> dict[Part, int]:
    """Return a width for every part, of those measured; the mean holds for weights and for activations.

    Raises UsageError where the smallest widths measured are more than the mean.
    """
    weights = [row for row in found if row.part.side == WEIGHT]
    activations = [row for row in found if row.part.side != WEIGHT]
    return _chosen(weights, mean) | _chosen(activations, mean)


def _chosen(rows: Sequence[Sensitivity], mean: float) -> dict[Part, int]:
    """Solve one knapsack: one variable per row, 1 where the part has this width."""
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp

    parts = list(dict.fromkeys(row.part for row in rows))
    values = sum(part.values for part in parts)
    one_each = np.array([[float(row.part == part) for row in rows] for part in parts])
    share = np.array([[row.part.values * row.width / values for row in rows]])
    limits = [LinearConstraint(one_each, 1, 1), LinearConstraint(share, -np.inf, mean)]
    cost = np.array([row.kl for row in rows])
    solution = milp(cost, integrality=np.ones(len(rows)), bounds=Bounds(0, 1), constraints=limits)
    if not solution.success:
        raise UsageError(f"No choice of the widths measured has a mean of {mean:g} bits or less.")
    return {row.part: row.width for row, taken in zip(rows, solution.x, strict=True) if taken > 0.5}


def mean_width(widths: dict[Part, int], weights: bool) -> float:
    """Return the mean over all numbers of weights, or of activations."""
    chosen = {part: width for part, width in widths.items() if (part.side == WEIGHT) == weights}
    return sum(part.values * width for part, width in chosen.items()) / sum(part.values for part in chosen)


def as_toml(widths: dict[Part, int], comment: str) -> str:
    """Return the file that `--bits` takes; comment: its first line."""
    layers: dict[str, dict[str, int]] = {}
    for part, width in widths.items():
        layers.setdefault(part.layer, {})[part.side] = width
    lines = []
    for layer, sides in layers.items():
        activations = sides.get(INPUT, sides.get(OPERANDS))
        lines.append(f'"{layer}" = "w{sides.get(WEIGHT, activations)}a{activations}"')
    return "\n".join([f"# {comment}", 'default = "w8a8"', "[layers]", *lines]) + "\n"
