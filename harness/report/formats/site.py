"""A site of static files: `python -m harness.leaderboard --format site --out DIR`, for any host or for `file://`.

The page of `--format html` is its index; beside it stands a page per model and one per method, from the same
templates. A record's permalink is the index with the start of its key: `index.html#r=KEY`.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from harness.record.studies import KINDS
from harness.report.formats import Format
from harness.report.formats.html import Page, PlaceView
from harness.report.formats.payload import short_key
from harness.report.report import Report
from harness.report.runs import Run
from methods.errors import UsageError
from methods.text import file_stem

# An image set's checksum, a model, bits: where methods compete.
_Contest: TypeAlias = tuple[str, str, str]


@dataclass(frozen=True)
class Standing:
    """A method's best run on one model, image set and width, among the best runs of all methods there."""

    run: Run
    # 1 for the highest mean.
    rank: int
    # How many methods there are.
    among: int

    @property
    def link(self) -> str:
        """Where its record is, from a page in a folder."""
        return f"../index.html#r={short_key(self.run.first.key)}"


@dataclass(frozen=True)
class Leaf:
    """A page of the site beside its index."""

    name: str
    path: str


class SiteFormat(Format):
    """A page of everything, one per model, one per method."""

    in_all = False

    def files(self, report: Report) -> dict[str, str | bytes]:
        """Return the pages by path; raises UsageError for pairs and when jinja2 is missing."""
        if report.pairs:
            raise UsageError("--pairs has no site; the recommender of its index compares rows.")
        page = Page(report)
        found = standings(page.runs)
        models = _leaves("models", [view.first.model for view in page.places])
        methods = _leaves("methods", sorted(found))
        files: dict[str, str | bytes] = {"index.html": page.text(models=models, methods=methods)}
        files |= {leaf.path: _page(page, leaf, places=_of_model(page, leaf.name)) for leaf in models}
        paths = {leaf.name: leaf.path for leaf in models}
        for leaf in methods:
            files[leaf.path] = _page(page, leaf, about=described(leaf.name), standings=found[leaf.name], models=paths)
        return files


def _page(page: Page, leaf: Leaf, **values: Any) -> str:
    """Return the page of a model or a method, with the pictures that show it."""
    pictures = [each for each in page.pictures if leaf.name in (each.model, *each.methods)]
    layers = [each for each in page.layers if each[0].model == leaf.name]
    nothing: dict[str, Any] = {"about": [], "standings": [], "models": {}, "places": []}
    return page.rendered("leaf.html.j2", leaf=leaf, pictures=pictures, layers=layers, **nothing | values)


def _of_model(page: Page, name: str) -> list[PlaceView]:
    return [view for view in page.places if view.first.model == name]


def _leaves(folder: str, names: Sequence[str]) -> list[Leaf]:
    return [Leaf(name, f"{folder}/{file_stem(name)}.html") for name in dict.fromkeys(names)]


def standings(runs: Sequence[Run]) -> dict[str, list[Standing]]:
    """Return of every method where it stands, from the runs of comparisons with known accuracy, in their order."""
    known = [run for run in runs if run.kind == KINDS[0] and run.mean("top1") is not None]
    contests: dict[_Contest, list[Run]] = defaultdict(list)
    for run in known:
        contests[run.first.data_sha256, run.first.model, run.first.bits].append(run)
    found: dict[str, list[Standing]] = defaultdict(list)
    for mine in contests.values():
        best: dict[str, Run] = {}
        for run in sorted(mine, key=lambda run: -(run.mean("top1") or 0.0)):
            best.setdefault(run.first.method, run)
        for rank, (method, run) in enumerate(best.items(), 1):
            found[method].append(Standing(run, rank, len(best)))
    return dict(found)


def described(name: str) -> list[tuple[str, str]]:
    """Return what a method's own file says of it, as terms and texts; nothing where no such method is installed."""
    from harness.inputs import plugins
    from methods.registry import METHODS

    plugins.load()
    try:
        method = METHODS.get(name)
    except UsageError:
        return []
    words = sys.modules[type(method).__module__].__doc__ or ""
    found = (("in words", words.strip()), ("paper", method.paper), ("inferred", method.inferred))
    return [(term, text) for term, text in found if text]
