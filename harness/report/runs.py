"""Runs: measurements that differ in the seed alone, with all a page says of them, made from their records."""

from __future__ import annotations

import shlex
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from harness.inputs.zoo import ENTRIES, PARAMETERS
from harness.record.studies import KINDS, Study
from harness.report.comparisons import Budget, budget_of, named, settings_text
from harness.report.layout import natural
from harness.report.measurements import IDENTITY, Measurement, measurements
from methods.bits import Bits

_COMMAND = "python -m harness.bench"
# Digits shown of a checksum that each record has another of; the record has all.
_CHECKSUM = 16


@dataclass(frozen=True, eq=False)
class Run:
    """One row and column of a leaderboard."""

    # The kind of the study it is of.
    kind: str
    # A measurement per seed, at least one.
    lines: tuple[Measurement, ...]

    @property
    def first(self) -> Measurement:
        """The measurement of the first seed."""
        return self.lines[0]

    @property
    def name(self) -> str:
        """Method and backend."""
        return f"{self.first.method} + {self.first.backend}"

    @property
    def settings(self) -> str:
        """What is set of the method and the backend, floats with three significant digits."""
        return settings_text(self.first)

    @property
    def real(self) -> bool:
        """Whether it was calibrated with real images."""
        return self.first.record.cell.calibration is not None

    @property
    def budget(self) -> Budget:
        """The images it was calibrated with and the steps they took, as far as its record says."""
        return budget_of(self.first)

    @property
    def size(self) -> float | None:
        """The size of the quantized weights in MB."""
        line = self.first
        return line.size_bytes / 1e6 if line.size_bytes else megabytes(line.model, line.bits, line.parameters)

    @property
    def device(self) -> str:
        """What it ran on: "cpu" or "cuda"."""
        return self.first.record.provenance.device

    @property
    def core_seconds(self) -> float | None:
        """Seconds of synthesis and quantization of one seed, times the threads used where there is no GPU."""
        seconds = self.mean("seconds")
        threads = 1 if self.device != "cpu" else self.first.record.provenance.threads
        return None if seconds is None else seconds * threads

    @property
    def synthesis_seconds(self) -> float:
        """Of `core_seconds`, those of the synthesis of one seed: the mean over the seeds made where the first was."""
        known = [line.synthesize_seconds for line in self.lines if line.record.provenance.device == self.device]
        threads = 1 if self.device != "cpu" else self.first.record.provenance.threads
        return statistics.fmean(known) * threads

    @property
    def sd(self) -> float | None:
        """The standard deviation of top-1 over seeds, None for one seed."""
        known = [line.top1 for line in self.lines if line.top1 is not None]
        return statistics.stdev(known) if len(known) > 1 else None

    @property
    def error(self) -> float | None:
        """How far top-1 may be off, in points: sd over seeds where there are several, else the standard error."""
        return self.mean("stderr") if self.sd is None else max(self.sd, 0.0)

    def mean(self, field: str) -> float | None:
        """Return the mean of a field over the seeds that have it."""
        known = [float(found) for line in self.lines if (found := getattr(line, field)) is not None]
        return statistics.fmean(known) if known else None

    @property
    def command(self) -> str:
        """The command that measures it again, to paste; DIR stands for folders that the record does not name."""
        line = self.first
        words = ["--models", line.model, "--bits", line.bits, "--methods", line.method, "--backends", line.backend]
        words += ["--seeds", ",".join(str(each.seed) for each in self.lines)]
        for name, value in sorted(line.record.cell.overrides.items()):
            words += ["--set", f"{name}={value}"]
        entry = ENTRIES.get(line.model)
        tail = ""
        if entry is None or entry.task == "imagenet":
            tail = " --weights DIR --data DIR" + (" --calib-data DIR" if self.real else "")
        return f"{_COMMAND} {shlex.join(words)}{tail}"


def megabytes(model: str, bits: Bits, parameters: int | None = None) -> float | None:
    """Return the size of all parameters at the weights' bit-width, in MB of 10^6 bytes; None where unknown.

    Norms, biases and scales, which stay in floating point, are counted at the same width: less than a percent.
    """
    count = parameters or PARAMETERS.get(model)
    return None if count is None else count * bits.weights / 8e6


def runs(studies: Sequence[Study], kept: Iterable[str]) -> list[Run]:
    """Return the runs of studies whose records' keys are kept; what several have is of the first one's kind."""
    left, grouped = set(kept), defaultdict[tuple[Any, ...], list[Measurement]](list)
    kinds = {record.key: study.kind for study in reversed(studies) for record in study.records}
    records = {record.key: record for study in studies for record in study.records if record.key in left}
    for line in named(measurements(records.values())):
        key = (kinds[line.key], line.data, line.data_sha256, line.n, *(getattr(line, name) for name in IDENTITY))
        grouped[key].append(line)
    found = [Run(key[0], tuple(sorted(lines, key=lambda line: line.seed))) for key, lines in grouped.items()]
    return sorted(found, key=_order)


def _order(run: Run) -> tuple[Any, ...]:
    line, entry = run.first, ENTRIES.get(run.first.model)
    toy = entry is not None and entry.task != "imagenet"
    return KINDS.index(run.kind), toy, natural((line.model, line.data, line.bits)), -(run.mean("top1") or 0.0)


def facts(line: Measurement) -> list[tuple[str, str]]:
    """Return what a record says beside its figures, as terms and texts."""
    record = line.record
    found = [
        ("evaluated on", f"{line.data}, {line.n} images, {line.data_sha256}"),
        ("images left out", ", ".join(f"{n}: {why}" for why, n in sorted((record.left_out or {}).items()))),
        *(
            (part, _settings(values))
            for part, values in (("method", record.config.method), ("backend", record.config.backend))
        ),
        ("real images", line.calibration),
        ("weights", f"{record.weights.tag}, {line.weights_sha256}"),
        ("size and operations", _costs(line)),
        ("bits by layer", _layer_bits(line)),
        ("protocol", line.protocol),
        ("exported file", _deployed(line)),
        ("versions", f"method {line.method_version}, backend {line.backend_version}; {line.libraries}"),
        *((name, _stage(record.stages, name)) for name in ("synthesize", "quantize", "evaluate")),
        ("machine", _machine(line)),
        ("commit", line.commit or "unknown"),
        ("command", record.provenance.command),
        ("images made", (line.images_sha256 or "")[:_CHECKSUM]),
    ]
    return [(term, text) for term, text in found if text]


def _settings(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in values.items()) or "no settings"


def _costs(line: Measurement) -> str:
    if not line.size_bytes or not line.bitops:
        return ""
    return f"{line.size_bytes / 1e6:.3f} MB, {line.bitops / 1e9:.2f} G bit operations per image"


def _deployed(line: Measurement) -> str:
    if line.file_mb is None:
        return ""
    if line.latency_ms is None:
        return f"{line.file_mb:.2f} MB"
    return f"{line.file_mb:.2f} MB, {line.latency_ms:.1f} ms an image on one thread, {line.speed_up:.2f} times FP32"


def _layer_bits(line: Measurement) -> str:
    mixed = line.record.layer_bits
    return (
        "" if mixed is None else ", ".join((mixed.default, *(f"{pattern} {bits}" for pattern, bits in mixed.patterns)))
    )


def _stage(stages: Any, name: str) -> str:
    stage = getattr(stages, name)
    peak = "" if stage.peak_mb is None else f", peak {stage.peak_mb:.0f} MB"
    return f"{stage.seconds:.1f} s{peak}{', made for another cell' if stage.cached else ''}"


def _machine(line: Measurement) -> str:
    found = line.record.provenance
    return f"{found.processor}, {found.device}, {found.threads} threads; {found.time}"
