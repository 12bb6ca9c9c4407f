"""Run a plan: hand its jobs to the executor and show how it goes."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from harness.progress import ProgressTable

if TYPE_CHECKING:
    from rich.console import Console

    from harness.execute.resources import Resources
    from harness.plan.jobs import RunSettings
    from harness.plan.plan import Plan

_EXECUTORS = {"ray": "ray_tune", "local": "local"}


def run_plan(plan: Plan, settings: RunSettings, resources: Resources, console: Console) -> dict[str, str]:
    """Run the plan's jobs and return the errors of those that failed, by label; nothing left to do starts nothing.

    Only the executor asked for is imported, so that `local` works where Ray is not installed.
    """
    for problem in plan.damaged:
        console.print(f"Not counted, measured again: {problem}.", markup=False, highlight=False, soft_wrap=True)
    if not plan.jobs:
        return {}
    executor = import_module(f"harness.execute.{_EXECUTORS[settings.executor]}")
    with ProgressTable(plan.jobs, console) as table:
        executor.execute(plan.jobs, settings, table, resources)
    for label, error in table.failures.items():
        console.print(f"Failed: {label}: {error}", markup=False, style="red")
    return table.failures
