"""Reported against measured: what papers report, from `results/reported/`, beside our figures.

Every `source` of a file has a `title`, `url`, `protocol`, `flag` (how sure the figures are), `images` evaluated, and
where known their `backend` and `fp32` accuracies; its `rows` hold `top1` per model. Reported figures never enter our
ranking.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.record.files import read_toml
from harness.report.tables import Table, Value
from harness.report.text_table import Grid, Word
from methods.errors import UsageError

FOLDER = Path(__file__).parents[2] / "results" / "reported"
_HEADER = ["measured", "reported as", "ours", "theirs", "diff.", "kept", "theirs"]
_NEAR = 0.1


@dataclass(frozen=True, eq=False)
class Source:
    """A paper or README: how its figures were made, and how sure they are."""

    title: str
    url: str
    protocol: str
    images: int
    flag: str
    backend: str | None = None
    fp32: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Figure:
    """One reported top-1, in percent, and the names under which this project would measure it."""

    source: Source
    name: str
    method: str
    model: str
    bits: str
    top1: float
    backend: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    same_backend_only: bool = False
    flag: str = ""
    sd: float | None = None


def load_reported(folder: Path) -> list[Figure]:
    """Return the figures of all TOML files of a folder; raises UsageError for a file that is not of their form."""
    return [figure for path in sorted(folder.glob("*.toml")) for figure in _figures(path)]


def _figures(path: Path) -> list[Figure]:
    found = read_toml(path, "file of reported figures")
    try:
        return [figure for told in found["source"] for figure in _of_source(**told)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} does not hold reported figures: {error}.") from error


def _of_source(rows: list[dict[str, Any]], **told: Any) -> list[Figure]:
    source = Source(**told)
    return [figure for row in rows for figure in _row(source, row)]


def _row(source: Source, row: dict[str, Any]) -> list[Figure]:
    top1, spread = row.pop("top1"), row.pop("sd", {})
    return [
        Figure(source, model=model, top1=float(value), sd=spread.get(model), **({"backend": source.backend} | row))
        for model, value in top1.items()
    ]


def reported_grid(table: Table, figures: Sequence[Figure]) -> Grid | None:
    """Return a leaderboard's rows that somebody else has reported too, with the difference; None if there are none."""
    found = _matches(table, figures)
    sources = list(dict.fromkeys(figure.source for *_, figure in found))
    protocols = list(dict.fromkeys("; ".join(_differences(value, figure)) for *_, value, figure in found))
    body = [_words(f"{column}, {label}", value, figure, sources, protocols) for column, label, value, figure in found]
    notes = [
        "Top-1 in percent: ours, theirs, and ours - theirs; then the share of FP32 accuracy kept, ours and theirs. "
        "Reported figures are no part of the ranking."
    ]
    notes += [f"({place}) Other protocol than theirs: {text}." for place, text in enumerate(protocols, 1) if text]
    notes += [
        f"[{place}] {source.title}, {source.url}: {source.protocol}; {source.images} images ({source.flag})."
        for place, source in enumerate(sources, 1)
    ]
    return Grid(f"Reported against measured: {table.title}", _HEADER, body, notes, labels=2) if body else None


@dataclass(frozen=True)
class Beside:
    """A share of FP32 accuracy kept, in percent, beside the one that a paper reports, and why they may differ."""

    label: str
    ours: float
    theirs: float
    why: str


def beside(tables: Sequence[Table], figures: Sequence[Figure]) -> list[Beside]:
    """Return every reported share that was measured with the same quantizer: its first row in the tables."""
    found: dict[int, Beside] = {}
    for _, label, value, figure in (match for table in tables for match in _matches(table, figures)):
        fp32, reference = value.lines[0].fp32_top1, figure.source.fp32.get(figure.model)
        if fp32 and reference and figure.backend in (None, value.lines[0].backend):
            name = f"{figure.model} {figure.bits}, {label}; theirs: {figure.name} ({figure.source.title})"
            shares = (100 * value.mean / fp32, 100 * figure.top1 / reference)
            found.setdefault(id(figure), Beside(name, *shares, "; ".join(_differences(value, figure))))
    return list(found.values())


def _matches(table: Table, figures: Sequence[Figure]) -> list[tuple[str, str, Value, Figure]]:
    """Return column, row and value of what was reported too, each with the figure reported."""
    if table.metric.field != "top1":
        return []
    named: dict[tuple[str, ...], list[Figure]] = {}
    for figure in figures:
        named.setdefault((figure.model, figure.bits, figure.method), []).append(figure)
    return [
        (column, label, value, figure)
        for place, column in enumerate(table.columns)
        for label, values in table.rows
        for value in [values[place]]
        if value is not None and value.lines
        for figure in _matching(value, named)
    ]


def _matching(value: Value, named: dict[tuple[str, ...], list[Figure]]) -> list[Figure]:
    """Return the figures reported for what was measured; of one source those whose settings come nearest."""
    cell = value.lines[0].record.cell
    found = [
        figure
        for figure in named.get((cell.model, cell.bits, cell.method), [])
        if figure.settings.items() <= cell.overrides.items()
        and not (figure.same_backend_only and figure.backend != cell.backend)
    ]
    return [
        figure
        for figure in found
        if all(len(f.settings) <= len(figure.settings) for f in found if f.source.url == figure.source.url)
    ]


def _words(
    label: str, value: Value, figure: Figure, sources: Sequence[Source], protocols: Sequence[str]
) -> list[Word]:
    fp32, reference = value.lines[0].fp32_top1, figure.source.fp32.get(figure.model)
    protocol = "; ".join(_differences(value, figure))
    texts = [
        f"{figure.name} [{sources.index(figure.source) + 1}]" + (f" ({figure.flag})" if figure.flag else ""),
        value.text(),
        f"{figure.top1:.2f}" + ("" if figure.sd is None else f" ± {figure.sd:.2f}"),
        f"{value.mean - figure.top1:+.2f}",
        f"{100 * value.mean / fp32:.1f}" if fp32 else "-",
        f"{100 * figure.top1 / reference:.1f}" if reference else "-",
    ]
    return [Word(label, mark=f" ({protocols.index(protocol) + 1})" if protocol else ""), *map(Word, texts)]


def _differences(measured: Value, figure: Figure) -> list[str]:
    """Say where our protocol is another than theirs."""
    line, found = measured.lines[0], []
    if line.n != figure.source.images:
        found.append(f"{line.n} of {figure.source.images} images")
    reference = figure.source.fp32.get(figure.model)
    if line.fp32_top1 is not None and reference is not None and abs(line.fp32_top1 - reference) > _NEAR:
        found.append(f"FP32 {line.fp32_top1:.2f}, theirs {reference:.2f}")
    if figure.backend and figure.backend != line.backend:
        found.append(f"backend {line.backend}, theirs {figure.backend}")
    others = [(name, value) for name, value in line.record.cell.overrides.items() if name not in figure.settings]
    if others:
        found.append("our " + ", ".join(f"{name}={value}" for name, value in sorted(others)))
    return found
