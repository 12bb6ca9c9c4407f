"""Cells, the unit of measurement, and the keys that name cells, syntheses and FP32 references.

A key is the sha256 of canonical JSON of all that a result depends on. A synthesis' key has neither bits nor
backend in it, so every bit-width and backend of a row shares one synthesis.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from harness.record.files import hash_key


@dataclass(frozen=True)
class Cell:
    """One measurement.

    data: identity (name, n, sha256) of the images evaluated on; calibration: that of the real images a
    method draws from, None for data-free methods; overrides: {"name.key": value} of settings of this
    cell's method and backend that differ from the model's defaults.
    """

    model: str
    method: str
    backend: str
    bits: str
    seed: int
    data: dict[str, Any]
    overrides: dict[str, Any] = field(default_factory=dict)
    calibration: dict[str, Any] | None = None

    def label(self) -> str:
        """Return a short name for progress lines."""
        return f"{self.model} {self.bits} {self.method} {self.backend} seed {self.seed}"


@dataclass(frozen=True)
class Identity:
    """What a cell's result depends on beside the cell: the versions of method and backend (which stand for
    their code and their defaults) and the weights."""

    method_version: int
    backend_version: int
    weights_sha256: str


def cell_key(cell: Cell, identity: Identity) -> str:
    """Return the key of a cell."""
    return hash_key({"cell": asdict(cell), "identity": asdict(identity)})


def recorded_key(record: dict[str, Any]) -> str | None:
    """Return the key that follows from what a record holds, None when it lacks a part of it."""
    versions, weights = record["versions"], record.get("weights", {})
    try:
        identity = Identity(versions["method"], versions["backend"], weights["sha256"])
        return hash_key({"cell": record["cell"], "identity": vars(identity)})
    except (KeyError, ValueError):
        return None


def synthesis_key(cell: Cell, identity: Identity) -> str:
    """Return the key of the images a cell is quantized with."""
    return hash_key(
        {
            "model": cell.model,
            "method": cell.method,
            "seed": cell.seed,
            "calibration": cell.calibration,
            "overrides": {k: v for k, v in cell.overrides.items() if k.partition(".")[0] == cell.method},
            "version": identity.method_version,
            "weights_sha256": identity.weights_sha256,
        }
    )


def recorded_synthesis(record: dict[str, Any]) -> str | None:
    """Return the key of the images a recorded cell was quantized with, None when the record lacks a part of it."""
    versions, weights = record["versions"], record.get("weights", {})
    try:
        identity = Identity(versions["method"], versions["backend"], weights["sha256"])
        return synthesis_key(Cell(**record["cell"]), identity)
    except (KeyError, TypeError, ValueError):
        return None


def reference_key(model: str, weights_sha256: str, data: dict[str, Any]) -> str:
    """Return the key of a model's FP32 logits on an image set."""
    return hash_key({"model": model, "weights_sha256": weights_sha256, "data": data})
