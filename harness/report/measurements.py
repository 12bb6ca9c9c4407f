"""Measurements: finished cells reduced to what tables are made of, and the fields they are grouped, shown and
chosen by.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from harness.record import correctness
from harness.record.cells import ImageIdentity
from harness.record.record import Finished, Operation, Record, Stages
from harness.record.schema import meanings
from harness.report.statistics import Hits
from methods.bits import Bits

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Measurement:
    """A finished cell; None where unknown. The comments are what `frame(...).attrs["columns"]` says."""

    # The model's short name, or timm's.
    model: str
    # How its images were made.
    method: str
    # How it was quantized with them.
    backend: str
    # Of weights and activations, as w4a8, or a number format.
    bits: Bits
    # Of synthesis and quantization.
    seed: int
    # Settings that differ from the defaults, as name=value.
    overrides: str
    # The image set it was evaluated on.
    data: str
    # How many images those are.
    n: int
    # Their checksum.
    data_sha256: str
    # Top-1 accuracy in percent.
    top1: float | None
    # Top-5 accuracy in percent.
    top5: float | None
    # Binomial standard error of top1, in points.
    stderr: float | None
    # Top-1 accuracy in percent of the FP32 model on the same images.
    fp32_top1: float | None
    # Share in percent of images on which it names the FP32 model's class.
    agreement: float | None
    # Mean KL divergence from the FP32 model, in nats.
    kl: float | None
    # Backbones alone: mean cosine of a pooled feature with the FP32 model's.
    cosine: float | None
    # Backbones alone: share in percent of images whose nearest other is of their class.
    knn: float | None
    # The same share of the FP32 model.
    fp32_knn: float | None
    # Wall-clock seconds of making the images.
    synthesize_seconds: float
    # Wall-clock seconds of quantizing with them.
    quantize_seconds: float
    # Wall-clock seconds of the evaluation.
    evaluate_seconds: float
    # Checksum of the model's weights.
    weights_sha256: str
    # Random weights: accuracies say nothing.
    meaningless: bool
    # Checksum of the images quantized with.
    images_sha256: str | None
    # This project's commit.
    commit: str | None
    # The record's key.
    key: str
    # Share in percent of FP32 top-1 kept.
    retention: float | None
    # Seconds of synthesis and quantization.
    seconds: float
    # Peak memory of all stages, in MiB.
    peak_mb: float | None
    # Real images it was calibrated with; empty where there are none.
    calibration: str
    # Changes whenever the method's results do.
    method_version: str
    # Alike.
    backend_version: str
    # Versions of Python and of every library.
    libraries: str
    # How activations are quantized, per tensor or finer, and the first layer's bits.
    protocol: str
    # How many the model has.
    parameters: int | None
    # Parameters at their bits with the quantizers' own numbers, computed.
    size_bytes: int | None
    # Multiply-accumulates of one image, each times the bits of both operands, computed.
    bitops: int | None
    # Size of the exported file in MB of 10^6 bytes, measured.
    file_mb: float | None
    # Milliseconds of one image on one thread, measured.
    latency_ms: float | None
    # Times the FP32 file of the same runtime, measured.
    speed_up: float | None
    # Per-image correctness, packed.
    correct_bits: str | None
    # Where all of it comes from.
    record: Finished

    def hits(self) -> Hits | None:
        """Return per-image correctness (0 or 1, [n]), None without labels."""
        if self.correct_bits is None:
            return None
        return correctness.unpack(self.correct_bits, self.n)


COLUMNS = tuple(field.name for field in fields(Measurement) if field.name not in ("correct_bits", "record"))
_GRAIN = re.compile(r"per \w+|blocks of \d+")
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
        protocol=protocol(record.quantized_ops),
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


def protocol(operations: Sequence[Operation]) -> str:
    """Return what tells protocols apart: how finely activations are quantized, and the bits of the first layer."""
    layer = operations[0].operation.rpartition(" ")[0] if operations else ""
    bits: dict[str, int] = {}
    grains = set()
    for each in operations:
        owner, _, tensor = each.operation.rpartition(" ")
        if owner == layer:
            bits[tensor] = each.bits
        elif tensor != "weight" and (grain := _GRAIN.search(each.quantizer)):
            grains.add(grain[0])
    first = [f"first layer w{bits['weight']}a{bits['input']}"] if {"weight", "input"} <= bits.keys() else []
    return ", ".join([*filter(None, [" and ".join(sorted(grains))]), *first])


def _peak(stages: Stages) -> float | None:
    known = [stage.peak_mb for stage in (stages.synthesize, stages.quantize, stages.evaluate)]
    return max((peak for peak in known if peak is not None), default=None)


def _image_set(data: ImageIdentity | None) -> str:
    """Name an image set; the start of its checksum tells sets of one name apart."""
    return f"{data['name']} {data['sha256'][:8]}" if data else ""


# Whole numbers, which older records lack.
_NULLABLE = dict.fromkeys(("parameters", "size_bytes", "bitops"), "Int64")


def frame(lines: Sequence[Measurement]) -> pd.DataFrame:
    """Return one row per measurement with the columns of `COLUMNS`, their meanings under `attrs["columns"]`."""
    import pandas as pd  # half a second that a console table does not need

    rows = [[getattr(line, name) for name in COLUMNS] for line in lines]
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype(_NULLABLE)
    told = meanings(sys.modules[__name__])
    table.attrs["columns"] = {name: told[Measurement.__name__, name] for name in COLUMNS}
    return table
