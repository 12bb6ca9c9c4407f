"""A search as a picture: what its samples gave, one after the other, and which settings mattered. Needs matplotlib."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from harness.report.metrics import METRICS
from harness.search.importance import Importance
from harness.search.samples import Sample, figures
from harness.search.search import Search

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INCHES = (9.0, 3.4)


def draw_search(search: Search, samples: list[Sample], found: dict[str, Importance]) -> bytes:
    """Return the SVG, the same for the same records."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "spdfq-bench", "svg.fonttype": "none", "font.size": 8}):
        figure = Figure(_INCHES, layout="constrained")
        path, bars = figure.subplots(1, 2)
        _draw_path(path, search, samples)
        _draw_importances(bars, search, found)
        content = io.BytesIO()
        figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    return content.getvalue()


def _draw_path(axes: Axes, search: Search, samples: list[Sample]) -> None:
    """Draw every finished sample's first metric, hollow where it was stopped early, and the best of those so far."""
    metric, full = METRICS[search.metrics[0]], search.images[-1]["n"]
    whole = [(s.number, figures(search, s)[0]) for s in samples if s.values and s.n == full]
    early = [(s.number, figures(search, s)[0]) for s in samples if s.values and s.n < full]
    axes.plot(*_columns(whole), "o", color="C0", markersize=4, label=f"n = {full}")
    if early:
        axes.plot(*_columns(early), "o", color="C0", markersize=4, fillstyle="none", label="stopped early")
    better = np.maximum if metric.higher else np.minimum
    numbers, values = _columns(whole)
    axes.step(numbers, better.accumulate(values), where="post", color="C1", label="best so far")
    axes.set(xlabel="sample", ylabel=metric.title)
    axes.legend()


def _columns(points: list[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [number for number, _ in points], [value for _, value in points]


def _draw_importances(axes: Axes, search: Search, found: dict[str, Importance]) -> None:
    shares = sorted((share or 0.0, name) for name, (share, _) in found.items())
    axes.barh([name for _, name in shares], [share for share, _ in shares], color="C0")
    axes.set(xlabel=f"importance for {search.metrics[0]}")
