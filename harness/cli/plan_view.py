"""`--plan`: the cells a command asks for, what running them costs, and which setting halves it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.execute.forecast import START_SECONDS, Expected, expectations, is_cached, makespan
from harness.plan.estimate import halving, peak_mb
from harness.plan.jobs import SynthesisJob, differing, setting_text
from harness.report.formats.console import print_table
from harness.report.text_table import Grid, Word

if TYPE_CHECKING:
    from rich.console import Console

    from harness.execute.resources import Resources
    from harness.plan.jobs import RunSettings
    from harness.plan.plan import Plan

_LEAST_SHARE = 0.01
_MOST_ROWS = 1000  # a terminal's table takes milliseconds a row, and nobody reads so many


def print_plan(
    plan: Plan, settings: RunSettings, resources: Resources, console: Console, samples: int | None = None
) -> None:
    """Print the cells and the estimate; runs nothing and writes nothing.

    samples: how many times the plan stands for, where it is that of a search's first sample.
    """
    print_table(_cells(plan), console)
    syntheses = sum(isinstance(job, SynthesisJob) and not is_cached(job, settings.results) for job in plan.jobs)
    left = len(plan.cells) - len(plan.recorded)
    _say(
        f"{len(plan.cells)} cells, {len(plan.recorded)} recorded; {syntheses} syntheses and {left} cells to run.",
        console,
    )
    if not plan.jobs:
        return
    expected = expectations(plan.jobs, settings, resources)
    print_table(_dear(plan, expected), console)
    _say(_estimate(plan, settings, expected, 1 if samples is None else samples), console)


def _say(text: str, console: Console) -> None:
    console.print(text, soft_wrap=not console.is_terminal)


def _estimate(plan: Plan, settings: RunSettings, expected: dict[str, Expected], samples: int) -> str:
    """Return how long the run takes, how many jobs at a time, by what, and how much memory a job takes."""
    minutes = makespan([], [(expected[job.key].seconds, job) for job in plan.jobs], expected) / 60
    start = START_SECONDS[settings.executor] / 60
    many = f" for {samples} samples like this one ({minutes:.1f} each)" if samples > 1 else ""
    side_by_side = int(1 / max(one.share for one in expected.values()) + 1e-9)
    at_once = "one job after the other" if side_by_side == 1 else f"{side_by_side} jobs at a time"
    known = [one.measured for one in expected.values()]
    source = "speeds recorded on this machine" if all(known) else "a rough formula"
    if any(known) and not all(known):
        source += f", and speeds recorded on this machine for {sum(known)} of {len(known)} jobs"
    memory = max(peak_mb(job) for job in plan.jobs) / 1024
    whole = start + minutes * samples
    return f"Roughly {whole:.1f} minutes{many}, {at_once}, by {source}; {memory:.1f} GiB of memory per job."


def _cells(plan: Plan) -> Grid:
    """Return a row per cell, of the first thousand; where rows differ in settings, these stand there."""
    settings = differing(job.cell.overrides for job in plan.cells)
    header = ["model", "method", "backend", "bits", "seed", *(["settings"] if any(settings) else []), "images", "cell"]
    rows = []
    for job, own in zip(plan.cells[:_MOST_ROWS], settings, strict=False):
        cell, recorded = job.cell, job.key in plan.recorded
        images = "cached" if job.cached else "-" if recorded else "to make"
        words = [cell.model, cell.method, cell.backend, cell.bits, str(cell.seed)]
        rows.append([*words, *([own or "-"] if any(settings) else []), images, "recorded" if recorded else "to run"])
    more = len(plan.cells) - len(rows)
    return _grid("Plan", header, rows, [f"and {more:,} cells more"] if more else [])


def _dear(plan: Plan, expected: dict[str, Expected]) -> Grid:
    """Return what the minutes are made of, dearest first: a row per model and stage of a method or backend."""
    minutes: dict[tuple[str, str], float] = defaultdict(float)
    halved: dict[tuple[str, str], str] = {}
    for job in plan.jobs:
        for stage, seconds in expected[job.key].stages.items():
            row = (job.subject.entry.name, stage)
            minutes[row] += seconds / 60
            halved[row] = ", or ".join(f"{name}={setting_text(value)}" for name, value in halving(job, stage).items())
    whole = sum(minutes.values())
    rows = [
        [*row, f"{spent:.1f}", f"{100 * spent / whole:.0f} %", halved[row] or "-"]
        for row, spent in sorted(minutes.items(), key=lambda item: -item[1])
        if whole and spent >= _LEAST_SHARE * whole
    ]
    return _grid("What it costs", ["model", "stage", "minutes", "share", "halved by"], rows)


def _grid(title: str, header: list[str], rows: list[list[str]], notes: Sequence[str] = ()) -> Grid:
    return Grid(title, header, [[Word(text) for text in row] for row in rows], [*notes], labels=len(header))
