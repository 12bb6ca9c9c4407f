"""Exported files beside the simulated models they were made of: what each did on every runtime it was run on."""

from __future__ import annotations

from collections.abc import Sequence

from harness.record.record import Deployed, Latency, Ran
from harness.report.layout import labels, natural
from harness.report.measurements import Measurement
from harness.report.text_table import Grid, Word

_NAMES = ("model", "bits", "method", "backend", "overrides", "calibration", "data", "n", "data_sha256", "seed")
_SHOWN = ("model", "bits", "method", "backend")
_NOTES = [
    "Top-1 in percent, of the file and of the simulated model; the share of images both answer alike, in percent.",
    "Latencies: median milliseconds of a batch, in brackets how many times faster than the FP32 file of the same "
    "runtime, which took turns with it on the machine the record names.",
]


def exports_grid(lines: Sequence[Measurement]) -> Grid | None:
    """Return the table of the files that were made of measurements' models, None where there are none."""
    made = [line for line in lines if line.record.deployed]
    keys = [tuple(getattr(line, name) for name in _NAMES) for line in made]
    named = sorted(zip(labels(keys, _NAMES, _SHOWN), made, strict=True), key=lambda pair: natural((pair[0],)))
    rows = [
        (label, kind, file, runtime, ran)
        for label, line in named
        for kind, file in sorted((line.record.deployed or {}).items())
        for runtime, ran in sorted(file.runtimes.items())
    ]
    if not rows:
        return None
    timed = sorted({(each.batch, each.threads) for *_, ran in rows for each in ran.latencies})
    header = ["model", "runtime", "top-1", "simulated", "alike", "MB", "MB, FP32", *map(_header, timed)]
    body = [
        [
            Word(label),
            Word(" ".join(filter(None, (kind, runtime, ran.version)))),
            *_figures(file, ran),
            *_times(ran, timed),
        ]
        for label, kind, file, runtime, ran in rows
    ]
    return Grid("Exported files, as they run", header, body, _NOTES, labels=2)


def _header(timed: tuple[int, int]) -> str:
    batch, threads = timed
    return f"{batch} image{'s'[: batch > 1]}, {threads} thread{'s'[: threads > 1]}"


def _figures(file: Deployed, ran: Ran) -> list[Word]:
    sizes = (None if size is None else size / 1e6 for size in (file.bytes, file.fp32_bytes))
    return [_word(value) for value in (ran.top1, file.simulated_top1, ran.agreement, *sizes)]


def _word(value: float | None) -> Word:
    return Word("-" if value is None else f"{value:.2f}")


def _times(ran: Ran, timed: Sequence[tuple[int, int]]) -> list[Word]:
    found = {(each.batch, each.threads): each for each in ran.latencies}
    return [_time(found.get(key)) for key in timed]


def _time(latency: Latency | None) -> Word:
    if latency is None:
        return Word("-")
    return Word(f"{latency.ms:.1f} ({latency.fp32_ms / latency.ms:.2f}x)" if latency.ms else "0.0")
