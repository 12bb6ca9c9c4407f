"""What a reader must know to read a table's figures rightly: its footnotes."""

from __future__ import annotations

from collections import Counter
from operator import attrgetter

from harness.report.layout import Metric, natural
from harness.report.measurements import IDENTITY, Measurement
from harness.report.statistics import LEVEL

SEVERAL_LIBRARIES, UNTESTED = "†", "‡"

_FEATURES = {
    "cosine": "No classifier: the mean cosine of a pooled feature with that of the FP32 model for the same image.",
    "knn": "No classifier: an image counts as right if the nearest of all others of the set, by the cosine of pooled "
    "features, is of its class.",
}


def notes(lines: list[Measurement], metric: Metric, marks: set[str]) -> list[str]:
    """Return the footnotes of a table of these measurements, whose values bear these marks: two, and warnings."""
    found = [_seeds(lines, metric), _bold(metric, lines)]
    if metric.field == "agreement" and all(line.top1 is None for line in lines):
        found.append("No labels: accuracy needs --data; agreement with FP32 on images no method has seen.")
    if metric.field in _FEATURES:
        found.append(_FEATURES[metric.field])
    if UNTESTED in marks:
        found.append(f"{UNTESTED} not tested: no seed, or no per-image correctness, in common with the leader.")
    if SEVERAL_LIBRARIES in marks:
        found.append(f"{SEVERAL_LIBRARIES} averages over several sets of library versions.")
    found += _left_out(lines) + _torn(lines) + _grains(lines)
    if any(line.meaningless for line in lines):
        found.append("Random weights: these figures say nothing about accuracy.")
    return found


def _left_out(lines: list[Measurement]) -> list[str]:
    """Say how many images were left out of the set and why; nothing where none was."""
    counts = next((line.record.left_out for line in lines if line.record.left_out), {})
    reasons = "; ".join(f"{reason}: {count}" for reason, count in sorted(counts.items()))
    return [f"Images of {lines[0].data} left out: {sum(counts.values())} ({reasons})."] if counts else []


def details(lines: list[Measurement], metric: Metric) -> list[str]:
    """Return what more there is to say of such a table, for --verbose and the page."""
    found = ["Quantization is simulated: values are rounded to the grid, the arithmetic stays in floating point."]
    if _tested(metric, lines):
        found.append(
            "The test: McNemar's exact test on the same images, the seeds of an image taken together; two-sided, "
            f"level {100 * LEVEL:g} %, Holm's correction over all pairs of rows of the column. It compares the models "
            "measured; other seeds may differ, as the sd says."
        )
    if metric.field == "top1":
        found.append("Kept: share of FP32 accuracy, mean over the columns.")
    found += _protocols(lines)
    libraries = {line.libraries for line in lines if line.libraries}
    if len(libraries) > 1:
        found.append(f"Made with {len(libraries)} sets of library versions: {_differing(libraries)}.")
    return found


def _seeds(lines: list[Measurement], metric: Metric) -> str:
    seeds = sorted({line.seed for line in lines})
    told = f"seed {seeds[0]}" if len(seeds) == 1 else f"mean ± sd over seeds {', '.join(map(str, seeds))}"
    fewest = min(Counter(map(attrgetter(*IDENTITY), lines)).values())
    told += f" (of some figures fewer, at least {fewest})" if fewest < len(seeds) else ""
    if metric.field != "top1":
        return f"Simulated quantization; {told}."
    largest = max(line.stderr or 0.0 for line in lines)
    return f"Simulated quantization; {told}; standard error of one figure at most {largest:.2f} points."


def _bold(metric: Metric, lines: list[Measurement]) -> str:
    if not _tested(metric, lines):
        return "Bold: the best mean of a column; nothing was tested."
    return "Bold: the best mean of a column, and every row not significantly worse on the same images."


def _tested(metric: Metric, lines: list[Measurement]) -> bool:
    return metric.tested and any(line.correct_bits for line in lines)


def _torn(lines: list[Measurement]) -> list[str]:
    """Name the models whose records do not agree on the FP32 accuracy."""
    references: dict[tuple[str, str], set[float | None]] = {}
    for line in lines:
        references.setdefault((line.model, line.weights_sha256), set()).add(line.fp32_top1)
    torn = sorted(model for (model, _), values in references.items() if len(values) > 1)
    return [f"FP32 accuracy differs between records of {', '.join(torn)}; the mean is shown."] if torn else []


def _grains(lines: list[Measurement]) -> list[str]:
    """Warn where activations of some rows are quantized more finely than those of others of the same width."""
    found: dict[str, set[str]] = {}
    for line in lines:
        found.setdefault(line.bits, set()).add(line.protocol.partition(", first")[0])
    mixed = sorted(set().union(*(grains for grains in found.values() if len(grains - {""}) > 1)) - {""})
    return [f"Protocols differ, as --verbose says by backend: activations {' or '.join(mixed)}."] if mixed else []


def _protocols(lines: list[Measurement]) -> list[str]:
    """Say which backends followed which protocol, width by width where there are several."""
    found: dict[str, dict[str, set[str]]] = {}
    for line in lines:
        found.setdefault(line.bits, {}).setdefault(line.protocol, set()).add(line.backend)
    return [
        f"Protocols at {bits}: "
        + "; ".join(f"{told or 'unknown'} ({', '.join(sorted(names))})" for told, names in sorted(protocols.items()))
        + "."
        for bits, protocols in sorted(found.items(), key=lambda pair: natural((pair[0],)))
        if len(protocols) > 1
    ]


def _differing(libraries: set[str]) -> str:
    """Name the libraries whose versions differ, with the versions."""
    versions: dict[str, set[str]] = {}
    for text in libraries:
        for name, _, version in (part.partition(" ") for part in text.split(", ")):
            versions.setdefault(name, set()).add(version)
    told = [f"{name} {' / '.join(sorted(found))}" for name, found in sorted(versions.items()) if len(found) > 1]
    return ", ".join(told) or "some were not installed everywhere"
