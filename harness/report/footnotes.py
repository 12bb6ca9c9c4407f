"""What a reader must know to read a table's figures rightly: its footnotes."""

from __future__ import annotations

from harness.report.measurements import Measurement
from harness.report.metrics import Metric
from harness.report.statistics import LEVEL

SEVERAL_LIBRARIES, UNTESTED = "†", "‡"


def notes(lines: list[Measurement], metric: Metric, marks: set[str]) -> list[str]:
    """Return the footnotes of a table of these measurements, whose values bear these marks."""
    found = [_seeds(lines), _bold(metric, lines)]
    if metric.field == "top1":
        largest = max(line.stderr or 0.0 for line in lines)
        found.append(
            f"Binomial standard error of one figure: at most {largest:.2f} points (n = {lines[0].n}). "
            "Kept: share of FP32 accuracy, mean over the columns."
        )
    elif metric.field == "agreement" and all(line.top1 is None for line in lines):
        found.append("No labels: accuracy needs --data; agreement with FP32 on images no method has seen.")
    if UNTESTED in marks:
        found.append(f"{UNTESTED} not tested: no seed, or no per-image correctness, in common with the leader.")
    return found + _mixtures(lines, marks)


def _seeds(lines: list[Measurement]) -> str:
    seeds = sorted({line.seed for line in lines})
    spread = "one seed, so no sd" if len(seeds) == 1 else "mean ± sd over seeds where there are several"
    return f"Simulated quantization. Seeds {', '.join(map(str, seeds))}; {spread}."


def _bold(metric: Metric, lines: list[Measurement]) -> str:
    if not (metric.tested and any(line.correct_bits for line in lines)):
        return "Bold: the best mean of a column; nothing was tested."
    return (
        "Bold: the best mean of a column and every row not significantly worse (McNemar's exact test on the same "
        f"images, the seeds of an image taken together; two-sided, level {100 * LEVEL:g} %, Holm's correction over "
        "all pairs of rows of the column). It compares the models measured; other seeds may differ, as the sd says."
    )


def _mixtures(lines: list[Measurement], marks: set[str]) -> list[str]:
    """Name what is not the same in all measurements."""
    found = []
    libraries = {line.libraries for line in lines if line.libraries}
    if len(libraries) > 1:
        sign = f"{SEVERAL_LIBRARIES} averages over several of them. " if SEVERAL_LIBRARIES in marks else ""
        found.append(f"Made with {len(libraries)} sets of library versions: {_differing(libraries)}. {sign}".strip())
    references: dict[tuple[str, str], set[float | None]] = {}
    for line in lines:
        references.setdefault((line.model, line.weights_sha256), set()).add(line.fp32_top1)
    torn = sorted(model for (model, _), values in references.items() if len(values) > 1)
    if torn:
        found.append(f"FP32 accuracy differs between records of {', '.join(torn)}; the mean is shown.")
    if any(line.meaningless for line in lines):
        found.append("Random weights: these figures say nothing about accuracy.")
    return found


def _differing(libraries: set[str]) -> str:
    """Name the libraries whose versions differ, with the versions."""
    versions: dict[str, set[str]] = {}
    for text in libraries:
        for name, _, version in (part.partition(" ") for part in text.split(", ")):
            versions.setdefault(name, set()).add(version)
    told = [f"{name} {' / '.join(sorted(found))}" for name, found in sorted(versions.items()) if len(found) > 1]
    return ", ".join(told) or "some were not installed everywhere"
