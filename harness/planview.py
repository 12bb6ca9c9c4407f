"""What `--plan` prints: every cell with what is there already, and an estimate of time and memory."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from harness.plan.estimate import cost
from harness.plan.jobs import RunSettings, SynthesisJob
from harness.plan.plan import Plan


def print_plan(plan: Plan, settings: RunSettings, console: Console) -> None:
    """Print the cells and the estimate; runs nothing and writes nothing."""
    table = Table(title="Plan", title_justify="left")
    for column in ("model", "method", "backend", "bits", "seed", "synthesis", "cell"):
        table.add_column(column)
    for job in plan.cells:
        cell = job.cell
        state = "recorded" if job.key in plan.recorded else "to run"
        images = "cached" if job.cached else "-" if state == "recorded" else "to make"
        table.add_row(cell.model, cell.method, cell.backend, cell.bits, str(cell.seed), images, state)
    console.print(table)
    syntheses = sum(isinstance(job, SynthesisJob) for job in plan.jobs)
    costs = [cost(job, settings.threads, settings.device == "cuda") for job in plan.jobs]
    console.print(
        f"{len(plan.cells)} cells, {len(plan.recorded)} recorded; {syntheses} syntheses and "
        f"{len(plan.cells) - len(plan.recorded)} cells to run."
    )
    if costs:
        console.print(
            f"Roughly {sum(c.seconds for c in costs) / 60:.1f} minutes of one trial after the other on "
            f"{settings.threads} CPU threads{' and a GPU' if settings.device == 'cuda' else ''}, "
            f"{max(c.peak_mb for c in costs) / 1024:.1f} GiB of memory per trial."
        )
