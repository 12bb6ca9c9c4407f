"""Whether a record can be counted: its shape, its seal, and that its figures agree with one another.

A record counts only if its key follows from its cell, its accuracies are whole numbers of images, and its top-1 is
what its per-image correctness says, so that a damaged or edited file is named instead of shown.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import re
from typing import Any, TypeGuard

from harness.record.cells import recorded_key
from methods.bits import FORMATS, digest, widths

SCHEMA = 1
_FIELDS = {"schema", "key", "status", "cell", "metrics", "stages", "versions", "provenance", "error"}
_CELL_FIELDS = {"model", "method", "backend", "bits", "seed", "data", "overrides"}
_PERCENTAGES = ("top1", "top5", "fp32_top1", "agreement")
_BITS = re.compile(rf"(w\d{{1,3}}a\d{{1,3}}|{'|'.join(FORMATS)})(\+\w{{1,40}}-[0-9a-f]{{8}})?", re.ASCII)
_SEAL = re.compile(rb',\n "sha256": "([0-9a-f]{64})"\n}\n\Z')
_SEAL_LENGTH = 80


def sealed(record: dict[str, Any]) -> bytes:
    """Return a record's file: JSON whose last field is the sha256 of the text before it. NaN raises ValueError."""
    text = json.dumps({name: value for name, value in record.items() if name != "sha256"}, indent=1, allow_nan=False)
    head = text.removesuffix("\n}").encode()
    return head + f',\n "sha256": "{hashlib.sha256(head).hexdigest()}"\n}}\n'.encode()


def seal_problem(content: bytes, record: Any) -> str | None:
    """Say that a sealed record was changed since it was written, or None; records without a seal are older."""
    if not isinstance(record, dict) or "sha256" not in record:
        return None
    seal = _SEAL.search(content, max(0, len(content) - 2 * _SEAL_LENGTH))
    if seal and hashlib.sha256(content[: seal.start()]).hexdigest().encode() == seal[1]:
        return None
    return "was changed since it was written: its sha256 does not fit"


def record_problem(record: Any, stem: str) -> str | None:
    """Say what is wrong with the record of the file `<stem>.json`, or None."""
    if not isinstance(record, dict) or _FIELDS - set(record):
        return "lacks fields of a record"
    if record["schema"] != SCHEMA:
        return f"is of schema {record['schema']!r}, not {SCHEMA}"
    if record["key"] != stem:
        return "does not hold the key it is named by"
    if record["status"] not in ("ok", "failed"):
        return f"has the unknown status {record['status']!r}"
    if not all(isinstance(record.get(name, {}), dict) for name in ("stages", "provenance", "versions", "weights")):
        return "has text where its parts should be"
    if not _sound_cell(record["cell"]):
        return "holds no sound cell"
    if recorded_key(record) != stem:
        return "has a key that does not follow from its cell, versions and weights"
    return _success_problem(record) if record["status"] == "ok" else None


def _sound_cell(cell: Any) -> bool:
    """Whether a cell has all its fields, each of its type."""
    if not isinstance(cell, dict) or _CELL_FIELDS - set(cell):
        return False
    words = all(isinstance(cell[name], str) for name in ("model", "method", "backend", "bits"))
    data, calibration = cell["data"], cell.get("calibration")
    return (
        words
        and _BITS.fullmatch(cell["bits"]) is not None
        and type(cell["seed"]) is int
        and isinstance(cell["overrides"], dict)
        and _image_set(data)
        and (calibration is None or _image_set(calibration))
    )


def _image_set(data: Any) -> bool:
    return isinstance(data, dict) and isinstance(data.get("name"), str) and isinstance(data.get("sha256"), str)


def _success_problem(record: dict[str, Any]) -> str | None:
    return (
        _metrics_problem(record["metrics"])
        or _stages_problem(record["stages"])
        or _bits_problem(record)
        or mixed_problem(record)
        or costs_problem(record)
    )


def _metrics_problem(metrics: Any) -> str | None:
    """Say what is wrong with the metrics of a success, or None."""
    if not isinstance(metrics, dict) or type(metrics.get("n")) is not int or metrics["n"] < 1:
        return "counts no images"
    for name in _PERCENTAGES:
        value = metrics.get(name)
        if value is None and name != "agreement":
            continue
        if not _number(value) or not 0 <= value <= 100:
            return f"has no sound {name}"
        if abs(value * metrics["n"] / 100 - round(value * metrics["n"] / 100)) > 1e-6:
            return f"has a {name} that is no whole number of {metrics['n']} images"
    top1, top5, stderr, kl = (metrics.get(name) for name in ("top1", "top5", "stderr", "kl"))
    if top1 is not None and top5 is not None and top5 < top1:
        return "has a top5 below its top1"
    if top1 is not None and not (_number(stderr) and math.isclose(stderr, _stderr(top1, metrics["n"]), abs_tol=1e-6)):
        return "has a stderr that does not follow from its top1"
    return None if kl is None or (_number(kl) and kl > -1e-3) else "has no sound kl"


def _number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _stderr(top1: float, count: int) -> float:
    """Return the binomial standard error of an accuracy in percent, in points."""
    return math.sqrt(top1 * (100 - top1) / count)


def _stages_problem(stages: dict[str, Any]) -> str | None:
    for name, stage in stages.items():
        costs = [stage.get("seconds"), stage.get("peak_mb")] if isinstance(stage, dict) else [math.nan]
        if not all(cost is None or (_number(cost) and cost >= 0) for cost in costs):
            return f"has no sound cost of the stage {name!r}"
    return None


def _bits_problem(record: dict[str, Any]) -> str | None:
    """Say that the per-image correctness does not give the top-1, or None."""
    text, count, top1 = record.get("correct_bits"), record["metrics"]["n"], record["metrics"].get("top1")
    if record["cell"]["data"].get("n", count) != count:
        return "counts other images than its cell names"
    if text is None:
        return None
    try:
        octets = base64.b64decode(text, validate=True)
    except (binascii.Error, TypeError, ValueError):
        return "has unreadable per-image correctness"
    hits = int.from_bytes(octets)
    if len(octets) != -(-count // 8) or hits & ((1 << (-count % 8)) - 1):
        return f"holds the correctness of another number of images than {count}"
    if top1 is None or round(top1 * count / 100) != hits.bit_count():
        return "has a top1 that its per-image correctness does not give"
    return None


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
    parameters = record.get("weights", {}).get("parameters")
    least = _LEAST if "layer_bits" in record else min(widths(record["cell"]["bits"]))
    if not least**2 * costs["macs"] <= costs["bitops"] <= _FLOAT**2 * costs["macs"]:
        return "has bit operations that its products cannot take"
    if type(parameters) is int and 8 * costs["size_bytes"] < least * parameters:
        return "has a size below that of its parameters at their bits"
    return None
