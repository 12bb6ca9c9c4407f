"""What a search leaves in its folder: `search.md` (samples, best first, and what mattered), `search.svg`, `best.toml`.

All of it is made from the search's description and from records.
"""

from __future__ import annotations

import io
import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.record.files import write_atomically
from harness.record.records import load_records
from harness.report.formats.console import print_table
from harness.report.formats.markdown import markdown
from harness.report.layout import METRICS
from harness.report.text_table import Grid, Word
from harness.search.importance import Importance, importances
from harness.search.search import Sample, Search, figures, find_samples, pareto, ranked
from harness.search.space import value_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.console import Console


def report(search: Search, folder: Path, results: Path, console: Console) -> None:
    """Print a search's tables and write its files, or say that no sample has finished."""
    samples = find_samples(search, load_records([results]).sound)
    best = ranked(search, samples)
    if not best:
        console.print(f"No sample of {search.label()} has finished.", highlight=False, soft_wrap=True)
        return
    found = importances(search, best)
    grids = [samples_grid(search, samples), space_grid(search, best[0], found)]
    for grid in grids:
        print_table(grid, console)
    write_atomically(folder / "search.md", markdown(grids).encode())
    write_atomically(folder / "best.toml", best_toml(search, best).encode())
    if find_spec("matplotlib"):
        write_atomically(folder / "search.svg", draw_search(search, samples, found))
    else:
        console.print("No plot: that needs matplotlib, pip install -e '.[search]'.", markup=False, highlight=False)
    console.print(f"Best settings, table and plot: {folder}", highlight=False, soft_wrap=True)


def samples_grid(search: Search, samples: list[Sample]) -> Grid:
    """Return the table of samples, best first, failed ones last; bold is the best, or the Pareto set."""
    best = ranked(search, samples)
    strong = {sample.number for sample in (best[:1] if len(search.metrics) == 1 else pareto(search, best))}
    failed = [sample for sample in samples if sample.error]
    header = ["sample", *(METRICS[name].title for name in search.metrics), "images", *search.space]
    body = [_row(search, sample, sample.number in strong) for sample in (*best, *failed)]
    title = f"Search of {search.method} + {search.backend} on {search.model} {search.bits}, {len(best)} samples"
    return Grid(title, header, body, _notes(search, failed))


def _row(search: Search, sample: Sample, strong: bool) -> list[Word]:
    name = f"{sample.number}" + (" (defaults)" if sample.settings == search.start else "")
    found = [Word(_figure(sample, metric), strong) for metric in search.metrics]
    return [
        Word(name, strong),
        *found,
        Word(str(sample.n or "-")),
        *(Word(value_text(sample.settings[n])) for n in search.space),
    ]


def _figure(sample: Sample, metric: str) -> str:
    if sample.values is None:
        return "failed"
    digits, sd = METRICS[metric].digits, (sample.sds or {}).get(metric)
    return f"{sample.values[metric]:.{digits}f}" + ("" if sd is None else f" ± {sd:.{digits}f}")


def _notes(search: Search, failed: list[Sample]) -> list[str]:
    data = search.images[-1]
    notes = [
        f"Measured on {data['name']}, n = {data['n']}, seeds {', '.join(map(str, search.seeds))}"
        + ("; mean ± sd over seeds." if len(search.seeds) > 1 else "."),
        f"{_honesty(search)}.",
        "Samples are numbered in the order they were begun. The best of many noisy figures looks better than it is: "
        "compare it with the defaults on other images and seeds.",
    ]
    if len(search.metrics) > 1:
        notes.append(
            "Bold: the Pareto set, which no other sample beats in one figure without losing in the other; best.toml "
            "is its first."
        )
    if search.base:
        notes.append("Settings of all samples: " + ", ".join(f"{k}={v}" for k, v in sorted(search.base.items())) + ".")
    return notes + [f"Sample {sample.number} failed: {sample.error}." for sample in failed]


def _honesty(search: Search) -> str:
    """Say what the search has seen, and what that makes of its result."""
    if search.tuned_on_test:
        return "Searched on images that results are reported on: not data-free, and figures on them are too good"
    if search.data_free:
        return "No label and no real image was seen: the tuned method is still data-free"
    return "Searched on real images, other ones than results are reported on: the tuned method is not data-free"


def space_grid(search: Search, best: Sample | None = None, found: dict[str, Importance] | None = None) -> Grid:
    """Return the table of what is searched; with finished samples, what was best and what mattered."""
    header, notes = ["setting", "range", "first"], []
    body = [
        [Word(name), Word(dimension.text()), Word(value_text(search.start[name]))]
        for name, dimension in search.space.items()
    ]
    if best and found:
        header += ["best value", "importance", "rank corr."]
        for row, (name, (share, correlation)) in zip(body, found.items(), strict=True):
            row += [
                Word(value_text(best.settings[name])),
                Word(_optional(share)),
                Word(_optional(correlation, "+")),
            ]
        notes = [
            f"Importance for {search.metrics[0]}: how much worse a random forest predicts it with the setting "
            "shuffled, as shares of 1; rank correlation is Spearman's. Few samples make both rough."
        ]
    return Grid("What was searched", header, body, notes)


def _optional(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.2f}"


def best_toml(search: Search, best: list[Sample]) -> str:
    """Return the settings of the best sample, and those of all samples, as a file for --config."""
    first = best[0]
    tables: dict[str, dict[str, Any]] = {}
    for name, value in sorted({**search.base, **first.settings}.items()):
        owner, _, key = name.partition(".")
        tables.setdefault(owner, {})[key] = value
    found = ", ".join(f"{n} {v:.4g}" for n, v in zip(search.metrics, figures(search, first), strict=True))
    lines = [
        f"# Best of {len(best)} samples for {search.model} {search.bits}, {search.method} + {search.backend}: {found}",
        f"# on {search.images[-1]['name']}, n = {first.n}. {_honesty(search)}.",
    ]
    for owner, table in tables.items():
        lines += ["", f"[{owner}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


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
