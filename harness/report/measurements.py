"""Measurements: finished cells reduced to what tables are made of, and the fields they are grouped, shown and
chosen by.
"""

from __future__ import annotations

import base64
import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd

from harness.inputs.zoo import PARAMETERS
from harness.record.records import Record
from harness.report.statistics import Hits
from methods.bits import widths
from methods.errors import UsageError, unknown_name

STAGES = ("synthesize", "quantize", "evaluate")


@dataclass(frozen=True, slots=True)
class Measurement:
    """A finished cell: accuracies and retention in percent, times in seconds, memory in MB; None where unknown."""

    model: str
    method: str
    backend: str
    bits: str
    seed: int
    overrides: str
    data: str
    n: int
    data_sha256: str
    top1: float | None
    top5: float | None
    stderr: float | None
    fp32_top1: float | None
    agreement: float | None
    kl: float | None
    synthesize_seconds: float | None
    quantize_seconds: float | None
    evaluate_seconds: float | None
    weights_sha256: str
    meaningless: bool
    images_sha256: str | None
    commit: str | None
    key: str
    retention: float | None
    seconds: float | None
    peak_mb: float | None
    calibration: str
    method_version: str
    backend_version: str
    libraries: str
    parameters: int | None
    size_bytes: int | None
    bitops: int | None
    correct_bits: str | None
    record: Record

    def hits(self) -> Hits | None:
        """Return per-image correctness (0 or 1, [n]), None without labels."""
        if self.correct_bits is None:
            return None
        octets = np.frombuffer(base64.b64decode(self.correct_bits), dtype=np.uint8)
        return np.unpackbits(octets, count=self.n).view(np.int8)


COLUMNS = tuple(field.name for field in fields(Measurement) if field.name not in ("correct_bits", "record"))
# What makes two measurements different things; only the seed is left to average over.
IDENTITY = (
    "model", "bits", "weights_sha256", "method", "backend", "overrides", "calibration",
    "method_version", "backend_version",
)  # fmt: skip


def measurements(records: Iterable[Record]) -> list[Measurement]:
    """Return the measurements of the finished cells among records."""
    return [_measurement(record) for record in records if record["status"] == "ok"]


def _measurement(record: Record) -> Measurement:
    cell, found, weights = record["cell"], record["metrics"], record.get("weights", {})
    seconds = {name: record["stages"].get(name, {}).get("seconds") for name in STAGES}
    top1, fp32 = found.get("top1"), found.get("fp32_top1")
    return Measurement(
        **{name: cell[name] for name in ("model", "method", "backend", "bits", "seed")},
        overrides=", ".join(f"{key}={value}" for key, value in sorted(cell["overrides"].items())),
        data=cell["data"]["name"],
        data_sha256=cell["data"]["sha256"],
        **{name: found.get(name) for name in ("n", "top1", "top5", "stderr", "fp32_top1", "agreement", "kl")},
        **{f"{name}_seconds": value for name, value in seconds.items()},
        weights_sha256=weights.get("sha256", ""),
        meaningless=record.get("meaningless", False),
        images_sha256=record.get("images_sha256"),
        commit=record["provenance"].get("commit"),
        key=record["key"],
        retention=100 * top1 / fp32 if top1 is not None and fp32 else None,
        seconds=_made_in(seconds),
        peak_mb=_highest(record["stages"].get(name, {}).get("peak_mb") for name in STAGES),
        calibration=_image_set(cell.get("calibration")),
        method_version=str(record["versions"].get("method", "")),
        backend_version=str(record["versions"].get("backend", "")),
        libraries=_libraries(record["versions"].get("libraries")),
        parameters=weights.get("parameters"),
        **{name: record.get("costs", {}).get(name) for name in ("size_bytes", "bitops")},
        correct_bits=record.get("correct_bits"),
        record=record,
    )


def _made_in(seconds: dict[str, float | None]) -> float | None:
    """Return the seconds of synthesis and quantization together: what it takes to get the quantized model."""
    synthesis, quantization = seconds["synthesize"], seconds["quantize"]
    return None if synthesis is None or quantization is None else synthesis + quantization


def _highest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _image_set(data: dict[str, Any] | None) -> str:
    """Name an image set; the start of its checksum tells sets of one name apart."""
    return f"{data['name']} {data['sha256'][:8]}" if data else ""


def _libraries(versions: Any) -> str:
    if not isinstance(versions, dict):
        return ""
    return ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))


def chosen(lines: list[Measurement], conditions: Iterable[str]) -> list[Measurement]:
    """Return the measurements that meet every condition `field=value[,value]`, values may be globs.

    Raises UsageError for a condition of another form, an unknown field, and when nothing is left.
    """
    for condition in conditions:
        name, equals, text = condition.partition("=")
        if not equals or not text.strip():
            raise UsageError(f"--filter {condition!r} is not of the form field=value[,value].")
        wanted = [word.strip() for word in text.split(",")]
        field = known_field(name.strip())
        lines = [line for line in lines if any(_matches(getattr(line, field), pattern) for pattern in wanted)]
        if not lines:
            raise UsageError(f"No measurement is left by --filter {condition!r}.")
    return lines


def _matches(value: Any, pattern: str) -> bool:
    return fnmatch.fnmatchcase("" if value is None else str(value), pattern)


def known_field(name: str) -> str:
    """Return the name of a field; raises UsageError with the nearest known one."""
    if name not in COLUMNS:
        raise unknown_name("field", name, COLUMNS)
    return name


# Whole numbers, which older records lack.
_NULLABLE = dict.fromkeys(("parameters", "size_bytes", "bitops"), "Int64")


def frame(lines: Sequence[Measurement]) -> pd.DataFrame:
    """Return one row per measurement with the columns of `harness.report.measurements.COLUMNS`."""
    rows = [[getattr(line, name) for name in COLUMNS] for line in lines]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(_NULLABLE)


def megabytes(model: str, bits: str, parameters: int | None = None) -> float | None:
    """Return the size of all parameters at the weights' bit-width, in MB of 10^6 bytes; None where unknown.

    Norms, biases and scales, which stay in floating point, are counted at the same width: less than a percent.
    """
    count = parameters or PARAMETERS.get(model)
    stored = widths(bits)
    return None if count is None or not stored else count * stored[0] / 8e6
