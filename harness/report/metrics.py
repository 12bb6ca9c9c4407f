"""The metrics a table can show: their titles, units, and which way is better."""

from __future__ import annotations

from dataclasses import dataclass

from methods.errors import unknown_name


@dataclass(frozen=True)
class Metric:
    """A field of measurements as a table shows it. `tested`: the paired test of correctness speaks of it; `fp32`: the
    field of the same figure of the floating-point model, empty where that has none."""

    field: str
    title: str
    digits: int = 2
    higher: bool = True
    tested: bool = False
    fp32: str = ""


METRICS = {
    metric.field: metric
    for metric in (
        Metric("top1", "Top-1, %", tested=True, fp32="fp32_top1"),
        Metric("top5", "Top-5, %"),
        Metric("retention", "Top-1 kept of FP32, %", tested=True),
        Metric("agreement", "Top-1 agreement with FP32, %"),
        Metric("kl", "KL divergence from FP32, nats", digits=4, higher=False),
        Metric("cosine", "Cosine of features with FP32", digits=4),
        Metric("knn", "Top-1 of the nearest neighbour, %", fp32="fp32_knn"),
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
