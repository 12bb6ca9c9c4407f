"""What the page's script reads: rows at once, records when one is opened; JSON, deflated, in base64."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from typing import Any

from harness.record.parse import Operations
from harness.report.runs import Run, facts
from methods.text import printable

_KEY = 12


def short_key(key: str) -> str:
    """Return the start of a record's key, which links name it by."""
    return key[:_KEY]


def rows(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Return what the table of all runs and the recommender show, in columns; all signs of text can be seen."""
    return columns(
        [
            {name: printable(value) if isinstance(value, str) else value for name, value in _row(run).items()}
            for run in runs
        ]
    )


def columns(found: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return rows as a list per name, None where a row has none: like beside like deflates to two thirds."""
    names = dict.fromkeys(name for row in found for name in row)
    return {name: [row.get(name) for row in found] for name in names}


def _row(run: Run) -> dict[str, Any]:
    line = run.first
    return {
        "kind": run.kind,
        "data": f"{line.data}, n = {line.n}",
        "model": line.model,
        "bits": line.bits,
        "method": line.method,
        "backend": line.backend,
        "settings": run.settings,
        "top1": rounded(run.mean("top1"), 3),
        "sd": rounded(run.sd, 3),
        "se": rounded(run.mean("stderr"), 3),
        "kept": rounded(run.mean("retention"), 2),
        "agreement": rounded(run.mean("agreement"), 2),
        "seeds": len(run.lines),
        "cost": rounded(run.core_seconds, 1),
        "device": run.device,
        "size": rounded(run.size, 3),
        "images": run.budget.images,
        "steps": run.budget.steps,
        "real_images": run.real,
        "version": f"{line.method_version}.{line.backend_version}",
        "meaningless": line.meaningless,
        "keys": [short_key(line.key) for line in run.lines],
    }


def records(runs: Sequence[Run]) -> dict[str, Any]:
    """Return what is shown of every record that is opened, and its per-image correctness, in columns."""
    lists: list[Operations] = []
    found: dict[str, Any] = {}
    told: dict[str, dict[str, str]] = {}
    for run in runs:
        for line in run.lines:
            if line.record.quantized_ops not in lists:
                lists.append(line.record.quantized_ops)
            found[short_key(line.key)] = {
                "seed": line.seed,
                "n": line.n,
                "hits": line.correct_bits,
                "command": printable(run.command),
                "operations": lists.index(line.record.quantized_ops),
            }
            told[short_key(line.key)] = {term: printable(text) for term, text in facts(line)}
    operations = [[f"{each.operation}: {each.quantizer}, {each.bits} bits" for each in every] for every in lists]
    return {
        "keys": list(found),
        "columns": columns(list(found.values())),
        "facts": columns(list(told.values())),
        "operations": [[printable(text) for text in every] for every in operations],
    }


def rounded(value: float | None, digits: int) -> float | None:
    """Return a figure with no more digits than are shown; None stays None."""
    return None if value is None else round(value, digits)


def deflated(value: object) -> str:
    """Return JSON as the script reads it: zlib's format in base64."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode()
