"""A method's own ablation as ordinary cells: `python -m harness.ablation --model deit_t --bits w4a4`.

The rows, and what the paper reports for them, are declared by the method. They run through the same plan,
executor and records as everything else, and print beside the paper's column.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
from typing import TYPE_CHECKING

from harness.command import run_command
from harness.options import add_data_options, add_run_options

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from harness.plan import Plan, Request
    from methods.contracts import AblationRow, Method

_EXAMPLES = """examples:
  python -m harness.ablation --model vit_digits --bits w4a4 --seeds 0,1,2,3,4
  python -m harness.ablation --model deit_t --bits w4a4 --weights checkpoints --data imagenet/val \\
      --set spdfq.images=16 --set spdfq.iterations=200
"""


def parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    result = argparse.ArgumentParser(
        prog="python -m harness.ablation",
        description="Run the ablation a method's paper reports, beside the paper's figures.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = result.add_argument_group("what to measure")
    what.add_argument("--model", default="vit_digits", dest="models", help="one short name or full timm name")
    what.add_argument("--bits", default="w4a4", help="one bit-width, such as w4a4")
    what.add_argument("--method", default="spdfq", dest="methods", help="a method that declares an ablation")
    what.add_argument("--backend", default="blockwise", dest="backends", help="how models are quantized")
    what.add_argument("--seeds", default="0", help="such as 0,1,2")
    add_data_options(result)
    add_run_options(result)
    return result


def main(words: list[str] | None = None) -> int:
    """Run the command; returns 0, 1 when cells failed, 2 for bad input, 130 when interrupted."""
    arguments = parser().parse_args(words)
    return run_command(lambda: _ablate(arguments))


def _ablate(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from harness.plan import make_plan
    from harness.request import read_request, run_settings
    from harness.run import run_plan
    from methods.errors import UsageError
    from methods.registry import METHODS

    console = Console()
    request = read_request(arguments)
    maker = METHODS.get(request.methods[0])
    rows = maker.ablation
    if not rows or len(request.methods) > 1 or len(request.subjects) > 1 or len(request.bits) > 1:
        raise UsageError("An ablation takes one model, one bit-width and one method that declares ablation rows.")
    settings, resources = run_settings(arguments, request)
    requests = [_with_row(request, row) for row in rows]
    if arguments.plan:
        from harness.planview import print_plan

        print_plan(make_plan(requests, settings.results), settings, console)
        return 0
    failures = run_plan(make_plan(requests, settings.results), settings, resources, console)
    plans = [make_plan([one], settings.results) for one in requests]
    _print(maker, plans, settings.results, console)
    return 1 if failures else 0


def _with_row(request: Request, row: AblationRow) -> Request:
    """Return the request with a row's settings on top of those given."""
    method = request.methods[0]
    merged = {**request.overrides, method: {**request.overrides.get(method, {}), **row.settings}}
    return dataclasses.replace(request, overrides=merged)


def _print(maker: Method, plans: list[Plan], results: Path, console: Console) -> None:
    """Print every row's mean over seeds and the paper's figure, each with its distance from the full method."""
    from rich.table import Table

    rows = maker.ablation
    means = [_accuracies(plan, results) for plan in plans]
    full = next(index for index, row in enumerate(rows) if row.full)
    first = plans[0].cells[0].cell
    table = Table(title=f"{first.method} on {first.model} {first.bits}, {first.backend}; n = {first.data['n']}")
    for column in ("row", "measured top-1", "from full", f"paper ({maker.ablation_setting})", "from full"):
        table.add_column(column, justify="left" if column == "row" else "right")
    for row, values in zip(rows, means, strict=True):
        spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        known = bool(values) and bool(means[full])
        table.add_row(
            row.name,
            f"{statistics.fmean(values):.2f}{spread}" if values else "-",
            f"{statistics.fmean(values) - statistics.fmean(means[full]):+.2f}" if known else "-",
            f"{row.reported:.2f}",
            f"{row.reported - rows[full].reported:+.2f}",
        )
    console.print(table)


def _accuracies(plan: Plan, results: Path) -> list[float]:
    """Return top-1, or agreement without labels, of every finished cell of a plan."""
    from harness.records import read_record, record_path

    read = [read_record(record_path(results, job.key)) for job in plan.cells]
    metrics = [record["metrics"] for record, problem in read if problem is None and record["status"] == "ok"]
    return [m["top1"] if m["top1"] is not None else m["agreement"] for m in metrics]


if __name__ == "__main__":
    sys.exit(main())
