"""Whether what a record says agrees with itself; what type each field has is said, and checked, by its type.

A record counts only if its key follows from its cell, its accuracies are whole numbers of images, and its top-1 is
what its per-image correctness says, so that a damaged or edited file is named instead of shown.
"""

from __future__ import annotations

import binascii
import math
from datetime import datetime

from harness.record import correctness
from harness.record.record import Costs, Finished, Metrics, Provenance, Record

_PERCENTAGES = ("top1", "top5", "fp32_top1", "agreement", "knn", "fp32_knn")
_FLOAT = 32
_LEAST = 2


def problem(record: Record) -> str | None:
    """Say what in a record does not agree with the rest of it, or None."""
    if record.key != record.cell_key():
        return "has a key that does not follow from its cell, versions and weights"
    return _times_problem(record.provenance) or (_success_problem(record) if isinstance(record, Finished) else None)


def _times_problem(provenance: Provenance) -> str | None:
    try:
        for time in filter(None, (provenance.time, provenance.started)):
            datetime.fromisoformat(time)
    except ValueError:
        return "was made at no time that can be read"
    return None


def _success_problem(record: Finished) -> str | None:
    return (
        _metrics_problem(record.metrics)
        or _bits_problem(record)
        or _mixed_problem(record)
        or (_costs_problem(record, record.costs) if record.costs else None)
    )


def _metrics_problem(metrics: Metrics) -> str | None:
    for name in _PERCENTAGES:
        value = getattr(metrics, name)
        if value is not None and abs(value * metrics.n / 100 - round(value * metrics.n / 100)) > 1e-6:
            return f"has a {name} that is no whole number of {metrics.n} images"
    if (metrics.cosine is None) == (metrics.agreement is None):
        return "measures neither a classifier nor a backbone, or both"
    top1, top5, stderr = metrics.top1, metrics.top5, metrics.stderr
    if top1 is not None and top5 is not None and top5 < top1:
        return "has a top5 below its top1"
    if top1 is not None and (stderr is None or not math.isclose(stderr, _stderr(top1, metrics.n), abs_tol=1e-6)):
        return "has a stderr that does not follow from its top1"
    return None if metrics.kl is None or metrics.kl > -1e-3 else "has no sound kl"


def _stderr(top1: float, count: int) -> float:
    """Return the binomial standard error of an accuracy in percent, in points."""
    return math.sqrt(top1 * (100 - top1) / count)


def _bits_problem(record: Finished) -> str | None:
    """Say that the per-image correctness does not give the top-1, or None."""
    count, top1 = record.metrics.n, record.metrics.top1
    if record.cell.data["n"] != count:
        return "counts other images than its cell names"
    if record.correct_bits is None:
        return None
    try:
        hits = correctness.hits(record.correct_bits, count)
    except binascii.Error:
        return "has unreadable per-image correctness"
    except ValueError as error:
        return str(error)
    if top1 is None or round(top1 * count / 100) != hits:
        return "has a top1 that its per-image correctness does not give"
    return None


def _mixed_problem(record: Finished) -> str | None:
    """Say that the table of mixed bits is not the one the cell's bits name, or None."""
    bits, table = record.cell.bits, record.layer_bits
    if not bits.name:
        return None if table is None else "has bits per layer that its cell does not name"
    if table is None or table.default != bits.default:
        return "lacks the bits per layer that its cell names"
    if not bits.fits(table.default, table.patterns):
        return "has other bits per layer than its cell names"
    return None


def _costs_problem(record: Finished, costs: Costs) -> str | None:
    """Say that size or bit operations cannot be those of the cell's bits, or None."""
    parameters = record.weights.parameters
    least = _LEAST if record.layer_bits else min(record.cell.bits.weights, record.cell.bits.activations)
    if not least**2 * costs.macs <= costs.bitops <= _FLOAT**2 * costs.macs:
        return "has bit operations that its products cannot take"
    if parameters is not None and 8 * costs.size_bytes < least * parameters:
        return "has a size below that of its parameters at their bits"
    return None
