"""`--plan`: the cells a command asks for, what running them costs, and which setting halves it."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from harness.plan.estimate import cost, halving, stages
from harness.plan.jobs import SynthesisJob
from harness.plan.labels import differing, setting_text
from harness.report.formats.console import print_table
from harness.report.text_table import Grid, Word

if TYPE_CHECKING:
    from rich.console import Console

    from harness.plan.jobs import RunSettings
    from harness.plan.plan import Plan

_LEAST_SHARE = 0.01


def print_plan(plan: Plan, settings: RunSettings, console: Console, samples: int | None = None) -> None:
    """Print the cells and the estimate; runs nothing and writes nothing.

    samples: how many times the plan stands for, where it is that of a search's first sample.
    """
    print_table(_cells(plan), console)
    syntheses = sum(isinstance(job, SynthesisJob) for job in plan.jobs)
    left = len(plan.cells) - len(plan.recorded)
    console.print(
        f"{len(plan.cells)} cells, {len(plan.recorded)} recorded; {syntheses} syntheses and {left} cells to run."
    )
    gpu = settings.device == "cuda"
    costs = [cost(job, settings.threads, gpu) for job in plan.jobs]
    if not costs:
        return
    minutes = sum(one.seconds for one in costs) / 60
    many = f" for {samples} samples like this one ({minutes:.1f} each)" if samples is not None else ""
    print_table(_dear(plan, settings), console)
    console.print(
        f"Roughly {minutes * (1 if samples is None else samples):.1f} minutes{many} of one trial after the other on "
        f"{settings.threads} CPU threads{' and a GPU' if gpu else ''}, "
        f"{max(one.peak_mb for one in costs) / 1024:.1f} GiB of memory per trial.",
        soft_wrap=not console.is_terminal,
    )


def _cells(plan: Plan) -> Grid:
    """Return a row per cell; where rows differ in settings, these stand there."""
    settings = differing(job.cell.overrides for job in plan.cells)
    header = ["model", "method", "backend", "bits", "seed", *(["settings"] if any(settings) else []), "images", "cell"]
    rows = []
    for job, own in zip(plan.cells, settings, strict=True):
        cell, recorded = job.cell, job.key in plan.recorded
        images = "cached" if job.cached else "-" if recorded else "to make"
        words = [cell.model, cell.method, cell.backend, cell.bits, str(cell.seed)]
        rows.append([*words, *([own or "-"] if any(settings) else []), images, "recorded" if recorded else "to run"])
    return _grid("Plan", header, rows)


def _dear(plan: Plan, settings: RunSettings) -> Grid:
    """Return what the minutes are made of, dearest first: a row per model and stage of a method or backend."""
    minutes: dict[tuple[str, str], float] = defaultdict(float)
    halved: dict[tuple[str, str], str] = {}
    for job in plan.jobs:
        for stage, share in stages(job).items():
            row = (job.subject.entry.name, stage)
            minutes[row] += share * cost(job, settings.threads, settings.device == "cuda").seconds / 60
            halved[row] = ", or ".join(f"{name}={setting_text(value)}" for name, value in halving(job, stage).items())
    whole = sum(minutes.values())
    rows = [
        [*row, f"{spent:.1f}", f"{100 * spent / whole:.0f} %", halved[row] or "-"]
        for row, spent in sorted(minutes.items(), key=lambda item: -item[1])
        if whole and spent >= _LEAST_SHARE * whole
    ]
    return _grid("What it costs", ["model", "stage", "minutes", "share", "halved by"], rows)


def _grid(title: str, header: list[str], rows: list[list[str]]) -> Grid:
    return Grid(title, header, [[Word(text) for text in row] for row in rows], [], labels=len(header))
