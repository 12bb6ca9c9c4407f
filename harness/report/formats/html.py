"""The leaderboard as one HTML page that needs nothing else: `python -m harness.leaderboard --format html --out DIR`.

Answers first, then a section per model and image set, what papers report, images, all runs, and the studies that are
no ranking. Whatever stands in a record is escaped; the page's content security policy lets nothing but its own script
run, and that writes text alone.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.record.studies import KINDS, Study
from harness.report.answers import Answer, answers
from harness.report.comparisons import Comparison, named, places, settings_text
from harness.report.exports import exports_grid
from harness.report.formats import Format, payload, plots
from harness.report.formats.charts import CELL, SHADES, Strip, charts, headline, layers_grid, strips
from harness.report.formats.plots import Plot
from harness.report.layout import Layout
from harness.report.measurements import measurements
from harness.report.report import Report
from harness.report.reported import Beside, beside
from harness.report.runs import Run, runs
from harness.report.syntheses import LayerReport, Picture, Synthesis, find_synthesis, layer_reports, pictures
from harness.report.tables import tables
from harness.report.text_table import Grid
from methods.errors import UsageError
from methods.text import printable

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = Path(__file__).parent / "templates"
_SCRIPTS = ("recommend.js", "page.js")
_KIND_TITLES = {"study": "Studies of a parameter", "ablation": "Ablations", "search": "Searches"}
_KIND_WORDS = {
    "study": "What one parameter does.",
    "ablation": "A method with and without its parts.",
    "search": "Trials that settings were chosen from, on images that nothing is reported on.",
}
_COLUMNS = (
    ("kind", "kind", True), ("data", "data", True), ("model", "model", True), ("bits", "bits", False),
    ("method", "method", True), ("backend", "backend", True), ("settings", "settings", True),
    ("top1", "top-1, %", False), ("se", "std. error", False), ("kept", "kept, %", False),
    ("agreement", "agreement, %", False), ("seeds", "seeds", False), ("cost", "cost", False), ("size", "MB", False),
)  # fmt: skip


class HtmlFormat(Format):
    """One page that needs nothing else."""

    def files(self, report: Report) -> dict[str, str | bytes]:
        """Return the page; raises UsageError when jinja2 is missing."""
        if report.pairs:
            raise UsageError("--pairs has no page of its own; the recommender of --format html compares rows.")
        return {"index.html": Page(report).text()}


@dataclass(frozen=True)
class PlaceView:
    """One model on one image set, as the page shows it."""

    id: str
    title: str
    # The title in few words, for links.
    short: str
    first: Comparison
    # The table of the first comparison, its best rows alone.
    grid: Grid
    others: Sequence[Comparison]
    answers: Sequence[Answer]
    plots: Sequence[Plot]
    # How many runs there are in all.
    runs: int


class Page:
    """All that the page, and the pages of a site, show of a report."""

    def __init__(self, report: Report) -> None:
        self.report = report

    @cached_property
    def runs(self) -> list[Run]:
        """All runs, in the order the script knows them by."""
        return runs(self.report.studies, [line.key for line in self.report.lines])

    @cached_property
    def places(self) -> list[PlaceView]:
        """The sections of models and image sets, ImageNet first."""
        return [
            self._place(f"place-{number}", found) for number, found in enumerate(places(self.report.comparisons), 1)
        ]

    def _place(self, id: str, found: Sequence[Comparison]) -> PlaceView:
        first, mine = found[0], [run for run in self.runs if _of(run, found[0])]
        fp32 = next((run.first.fp32_top1 for run in mine if run.first.fp32_top1), None)
        known = "" if fp32 is None else f", FP32 {fp32:.2f}"
        title = f"{first.model} on {first.data} (n = {mine[0].first.n}{known})"
        short = f"{first.model} ({first.data})"
        return PlaceView(
            id=id,
            title=title,
            short=short,
            first=first,
            grid=Report.short(first).grid(),
            others=found[1:],
            answers=answers(found),
            plots=list(charts(found, self.runs)),
            runs=len(mine),
        )

    @cached_property
    def sections(self) -> list[tuple[str, list[tuple[Study, list[Grid]]]]]:
        """The studies that are no comparisons, by kind, with all their rows."""
        kept = {line.key for line in self.report.lines}
        found = []
        for kind in KINDS[1:]:
            studies = [(study, _grids(study, kept)) for study in self.report.studies if study.kind == kind]
            if shown := [(study, grids) for study, grids in studies if grids]:
                found.append((kind, shown))
        return found

    @property
    def beside(self) -> list[Beside]:
        """What papers report, beside the rows of comparisons."""
        return beside([comparison.table for comparison in self.report.comparisons], self.report.figures)

    @cached_property
    def pictures(self) -> list[Picture]:
        """The pictures committed with studies, in the order of the models' sections."""
        order = [place.first.model for place in self.places]
        return sorted(pictures(self.report.folders), key=lambda each: [each.model != name for name in order])

    @cached_property
    def layers(self) -> list[tuple[LayerReport, list[Strip], Grid]]:
        """What quantizing each layer alone does: as heat strips, and as a table."""
        return [(each, strips(each), layers_grid(each)) for each in layer_reports(self.report.folders)]

    @cached_property
    def syntheses(self) -> list[tuple[Run, Synthesis]]:
        """What caches still hold, each once, with the first run that used it."""
        found: dict[str, tuple[Run, Synthesis]] = {}
        for run in self.runs:
            synthesis = find_synthesis(run.first.record, self.report.folders)
            if synthesis is not None:
                found.setdefault(synthesis.key, (run, synthesis))
        return list(found.values())

    def text(self, **more: Any) -> str:
        """Return the page."""
        script = "\n".join((_TEMPLATES / name).read_text() for name in _SCRIPTS)
        first = self.places[0] if self.places else None
        return self.rendered(
            "page.html.j2",
            script,
            places=self.places,
            advice=any(run.kind == KINDS[0] and run.mean("top1") is not None for run in self.runs),
            headline=headline(first.answers) if first and first.answers else None,
            beside=self.beside,
            reported=self.report.reported,
            exports=exports_grid(self.report.lines),
            pictures=self.pictures,
            layers=self.layers,
            syntheses=self.syntheses,
            sections=self.sections,
            kind_titles=_KIND_TITLES,
            kind_words=_KIND_WORDS,
            columns=_COLUMNS,
            rows=payload.deflated(payload.rows(self.runs)),
            records=payload.deflated(payload.records(self.runs)),
            **{"models": [], "methods": []} | more,
        )

    def rendered(self, template: str, script: str = "", **values: Any) -> str:
        """Return a template's page, allowed to run this script alone."""
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        style = (_TEMPLATES / "page.css").read_text()
        page = self._environment.get_template(template)
        return page.render(
            script=script, script_sha256=digest, style=style, frame=plots, cell=CELL, shades=SHADES, **values
        )

    @cached_property
    def _environment(self) -> Environment:
        try:
            from jinja2 import Environment, FileSystemLoader, StrictUndefined
        except ImportError as error:
            raise UsageError("The HTML page needs jinja2: pip install -e '.[report]'.") from error
        return Environment(
            loader=FileSystemLoader(_TEMPLATES),
            autoescape=True,
            finalize=_shown,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )


def _shown(value: object) -> object:
    """Return what the page shows of a value: of text, signs that can be seen, but for the lines of its own files."""
    return printable(value) if type(value) is str else value


def _of(run: Run, comparison: Comparison) -> bool:
    return run.kind == KINDS[0] and (run.first.data_sha256, run.first.model) == comparison.place


def _grids(study: Study, kept: set[str]) -> list[Grid]:
    """Return the tables of a study, settings with three significant digits."""
    lines = [line for line in named(measurements(study.records)) if line.key in kept]
    shown = [replace(line, overrides=settings_text(line)) for line in lines]
    return [table.grid() for table in tables(shown, Layout())]
