"""What a table shows: which fields make its rows and columns, which of the metrics, which measurements."""

from __future__ import annotations

import fnmatch
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from harness.report.measurements import COLUMNS, IDENTITY, Measurement
from methods.errors import UsageError, unknown_name

CLASSIFIER, BACKBONE = "classifier", "backbone"


@dataclass(frozen=True)
class Metric:
    """A field of measurements as a table shows it. `tested`: the paired test of correctness speaks of it; `fp32`: the
    field of the same figure of the floating-point model, empty where that has none; `of`: the kind of model that alone
    has it, a `classifier` or a `backbone`; `labels`: whether images need them for it."""

    field: str
    title: str
    digits: int = 2
    higher: bool = True
    tested: bool = False
    fp32: str = ""
    of: str = ""
    labels: bool = False


METRICS = {
    metric.field: metric
    for metric in (
        Metric("top1", "Top-1, %", tested=True, fp32="fp32_top1", of=CLASSIFIER, labels=True),
        Metric("top5", "Top-5, %", of=CLASSIFIER, labels=True),
        Metric("retention", "Top-1 kept of FP32, %", tested=True, of=CLASSIFIER, labels=True),
        Metric("agreement", "Top-1 agreement with FP32, %", of=CLASSIFIER),
        Metric("kl", "KL divergence from FP32, nats", digits=4, higher=False, of=CLASSIFIER),
        Metric("cosine", "Cosine of features with FP32", digits=4, of=BACKBONE),
        Metric("knn", "Top-1 of the nearest neighbour, %", fp32="fp32_knn", of=BACKBONE, labels=True),
        Metric("seconds", "Synthesis + quantization, s", digits=1, higher=False),
        Metric("synthesize_seconds", "Synthesis, s", digits=1, higher=False),
        Metric("quantize_seconds", "Quantization, s", digits=1, higher=False),
        Metric("evaluate_seconds", "Evaluation, s", digits=1, higher=False),
        Metric("peak_mb", "Peak memory, MB", digits=0, higher=False),
        Metric("file_mb", "Exported file, MB", higher=False),
        Metric("latency_ms", "Measured latency of one image on one thread, ms", digits=1, higher=False),
        Metric("speed_up", "Measured speed-up over FP32 of the same runtime, one image on one thread"),
    )
}


def find_metric(name: str) -> Metric:
    """Return a metric by its field's name; raises UsageError with the nearest known one."""
    if name not in METRICS:
        raise unknown_name("metric", name, METRICS)
    return METRICS[name]


@dataclass(frozen=True)
class Layout:
    """What a table shows: fields of rows and columns, the metric (None: accuracy where known), conditions."""

    rows: tuple[str, ...] = ("method", "backend", "overrides")
    columns: tuple[str, ...] = ("model", "bits")
    metric: str | None = None
    filters: tuple[str, ...] = ()

    def column_key(self) -> tuple[str, ...]:
        """Return the fields that tell columns apart: those asked for, and a model's weights with the model."""
        return (*self.columns, *(("weights_sha256",) if "model" in self.columns else ()))

    def row_key(self) -> tuple[str, ...]:
        """Return the fields that tell rows apart: those asked for, then everything columns do not tell apart."""
        columns = self.column_key()
        return (*self.rows, *(name for name in IDENTITY if name not in (*columns, *self.rows)))

    def one_model(self, lines: Sequence[Measurement]) -> bool:
        """Whether a table shows one model and need not say so in its rows."""
        return "model" not in self.rows and len({(line.model, line.weights_sha256) for line in lines}) == 1

    def chosen(self, lines: list[Measurement]) -> list[Measurement]:
        """Return the measurements that meet the conditions and have the metric.

        Raises UsageError for unknown fields or metrics and for what leaves nothing to show.
        """
        self.check()
        found = chosen(lines, self.filters)
        if self.metric:
            found = [line for line in found if getattr(line, self.metric) is not None]
            if not found:
                raise UsageError(f"No measurement has a value of {self.metric}.")
        return found

    def check(self) -> None:
        """Raise UsageError for fields and metrics that are not there or cannot be used so."""
        for name in (*self.rows, *self.columns):
            if known_field(name) not in IDENTITY:
                raise UsageError(f"Rows and columns are made of {', '.join(IDENTITY)}; {name} is none of them.")
        both = set(self.rows) & set(self.columns)
        if both:
            raise UsageError(f"{both.pop()} cannot make both rows and columns.")
        if self.metric:
            find_metric(self.metric)


_SPACED, _JOINED = ("model", "bits"), ("method", "backend")
_EXTRA = {
    "weights_sha256": lambda value: str(value)[:6],
    "method_version": lambda value: f"method v{value}",
    "backend_version": lambda value: f"backend v{value}",
    "calibration": lambda value: f"calibrated on {value or 'nothing'}",
    "overrides": lambda value: str(value) or "default settings",
}


def labels(keys: Sequence[tuple[Any, ...]], names: Sequence[str], shown: Sequence[str]) -> list[str]:
    """Return a label for every key; `names` are the keys' fields, `shown` those that labels always give."""
    plain = [_label(dict(zip(names, key, strict=True)), shown, ()) for key in keys]
    alike = defaultdict(list)
    for label, key in zip(plain, keys, strict=True):
        alike[label].append(key)
    found = []
    for label, key in zip(plain, keys, strict=True):
        varied = [name for place, name in enumerate(names) if len({other[place] for other in alike[label]}) > 1]
        found.append(_label(dict(zip(names, key, strict=True)), shown, varied) if varied else label)
    return found


def _label(values: dict[str, Any], shown: Sequence[str], varied: Sequence[str]) -> str:
    told = [name for name in values if name in shown or name in varied]
    spaced = " ".join(str(values[name]) for name in _SPACED if name in told)
    joined = " + ".join(str(values[name]) for name in _JOINED if name in told)
    # Settings asked for by the layout are silent where they are the defaults; where they tell apart they speak.
    extra = [_EXTRA[name](values[name]) for name in told if name in _EXTRA and (values[name] or name in varied)]
    if values.get("overrides") == "" and "overrides" in shown:
        extra = [text for text in extra if text != "default settings"]
    return " ".join(part for part in (spaced, joined, f"({'; '.join(extra)})" if extra else "") if part)


def header(shown: Sequence[str]) -> str:
    """Return the title of the column of row labels."""
    return " + ".join(name for name in shown if name != "overrides") or "row"


def natural(key: tuple[Any, ...]) -> list[tuple[int, str]]:
    """Sort numbers inside words as numbers: w4a4, w4a8, w32a32."""
    parts = [part for word in key for part in (*re.split(r"(\d+)", str(word)), "")]
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


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
