"""Measurements: finished cells reduced to what tables are made of, and the fields they are grouped, shown and
chosen by.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from harness.inputs.zoo import PARAMETERS
from harness.record import correctness
from harness.record.cells import ImageIdentity
from harness.record.record import Finished, Record, Stages
from harness.report.statistics import Hits
from methods.bits import Bits
from methods.errors import UsageError, unknown_name

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Measurement:
    """A finished cell: accuracies and retention in percent, cosine in [-1, 1], times in seconds, memory in MB; None
    where unknown."""

    model: str
    method: str
    backend: str
    bits: Bits
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
    cosine: float | None
    knn: float | None
    fp32_knn: float | None
    synthesize_seconds: float
    quantize_seconds: float
    evaluate_seconds: float
    weights_sha256: str
    meaningless: bool
    images_sha256: str | None
    commit: str | None
    key: str
    retention: float | None
    seconds: float
    peak_mb: float | None
    calibration: str
    method_version: str
    backend_version: str
    libraries: str
    parameters: int | None
    size_bytes: int | None
    bitops: int | None
    file_mb: float | None
    latency_ms: float | None
    speed_up: float | None
    correct_bits: str | None
    record: Finished

    def hits(self) -> Hits | None:
        """Return per-image correctness (0 or 1, [n]), None without labels."""
        if self.correct_bits is None:
            return None
        return correctness.unpack(self.correct_bits, self.n)


COLUMNS = tuple(field.name for field in fields(Measurement) if field.name not in ("correct_bits", "record"))
# What makes two measurements different things; only the seed is left to average over.
IDENTITY = (
    "model", "bits", "weights_sha256", "method", "backend", "overrides", "calibration",
    "method_version", "backend_version",
)  # fmt: skip


def measurements(records: Iterable[Record]) -> list[Measurement]:
    """Return the measurements of the finished cells among records."""
    return [_measurement(record) for record in records if isinstance(record, Finished)]


def _measurement(record: Finished) -> Measurement:
    cell, found, stages = record.cell, record.metrics, record.stages
    file_mb, latency_ms, speed_up = _deployed(record)
    return Measurement(
        model=cell.model,
        method=cell.method,
        backend=cell.backend,
        bits=cell.bits,
        seed=cell.seed,
        overrides=", ".join(f"{key}={value}" for key, value in sorted(cell.overrides.items())),
        data=cell.data["name"],
        n=found.n,
        data_sha256=cell.data["sha256"],
        top1=found.top1,
        top5=found.top5,
        stderr=found.stderr,
        fp32_top1=found.fp32_top1,
        agreement=found.agreement,
        kl=found.kl,
        cosine=found.cosine,
        knn=found.knn,
        fp32_knn=found.fp32_knn,
        synthesize_seconds=stages.synthesize.seconds,
        quantize_seconds=stages.quantize.seconds,
        evaluate_seconds=stages.evaluate.seconds,
        weights_sha256=record.weights.sha256,
        meaningless=record.meaningless,
        images_sha256=record.images_sha256,
        commit=record.provenance.commit,
        key=record.key,
        retention=100 * found.top1 / found.fp32_top1 if found.top1 is not None and found.fp32_top1 else None,
        seconds=stages.synthesize.seconds + stages.quantize.seconds,
        peak_mb=_peak(stages),
        calibration=_image_set(cell.calibration),
        method_version=str(record.versions.method),
        backend_version=str(record.versions.backend),
        libraries=", ".join(f"{name} {version}" for name, version in sorted(record.versions.libraries.items())),
        parameters=record.weights.parameters,
        size_bytes=record.costs.size_bytes if record.costs else None,
        bitops=record.costs.bitops if record.costs else None,
        file_mb=file_mb,
        latency_ms=latency_ms,
        speed_up=speed_up,
        correct_bits=record.correct_bits,
        record=record,
    )


def _deployed(record: Finished) -> tuple[float | None, float | None, float | None]:
    """Return size and speed of a cell's exported file, in MB, milliseconds and times FP32, None where not measured.

    Of several files the smallest counts, of runtimes the one that is fastest for one image on one thread; its FP32
    file took turns with it there.
    """
    made = (record.deployed or {}).values()
    times = [
        (latency.ms, latency.fp32_ms / latency.ms)
        for file in made
        for ran in file.runtimes.values()
        for latency in ran.latencies
        if (latency.batch, latency.threads) == (1, 1) and latency.ms > 0
    ]
    smallest = min((file.bytes / 1e6 for file in made), default=None)
    return (smallest, *min(times)) if times else (smallest, None, None)


def _peak(stages: Stages) -> float | None:
    known = [stage.peak_mb for stage in (stages.synthesize, stages.quantize, stages.evaluate)]
    return max((peak for peak in known if peak is not None), default=None)


def _image_set(data: ImageIdentity | None) -> str:
    """Name an image set; the start of its checksum tells sets of one name apart."""
    return f"{data['name']} {data['sha256'][:8]}" if data else ""


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
    import pandas as pd  # half a second that a console table does not need

    rows = [[getattr(line, name) for name in COLUMNS] for line in lines]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(_NULLABLE)


def megabytes(model: str, bits: Bits, parameters: int | None = None) -> float | None:
    """Return the size of all parameters at the weights' bit-width, in MB of 10^6 bytes; None where unknown.

    Norms, biases and scales, which stay in floating point, are counted at the same width: less than a percent.
    """
    count = parameters or PARAMETERS.get(model)
    return None if count is None else count * bits.weights / 8e6
