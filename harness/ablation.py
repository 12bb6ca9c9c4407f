"""A method's own ablation as ordinary cells: `python -m harness.ablation --model deit_t --bits w4a4`.

The rows, and what the paper reports for them, are declared by the method. They run through the same plan,
executor and records as everything else, and print beside the paper's column, each compared with the full method
image by image.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.command import run_command
from harness.options import add_data_options, add_run_options

if TYPE_CHECKING:
    from harness.grid import Grid, Word
    from harness.measurements import Measurement
    from harness.plan import Plan, Request
    from methods.contracts import AblationRow, Method

_EXAMPLES = """examples:
  python -m harness.ablation --model vit_digits --bits w4a4 --seeds 0,1,2,3,4
  python -m harness.ablation --model deit_t --bits w4a4 --weights checkpoints --data imagenet/val \\
      --set spdfq.images=16 --set spdfq.iterations=200 --out ablation.md
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
    result.add_argument("--out", type=Path, help="file to write the table to, as Markdown")
    return result


def main(words: list[str] | None = None) -> int:
    """Run the command; returns 0, 1 when cells failed, 2 for bad input, 130 when interrupted."""
    arguments = parser().parse_args(words)
    return run_command(lambda: _ablate(arguments))


def _ablate(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from harness.files import write_atomically
    from harness.plan import make_plan
    from harness.render import markdown, print_table
    from harness.request import read_request, run_settings
    from harness.run import run_plan
    from methods.errors import UsageError
    from methods.registry import METHODS

    console = Console()
    request = read_request(arguments)
    maker = METHODS.get(request.methods[0])
    if not maker.ablation or len(request.methods) > 1 or len(request.subjects) > 1 or len(request.bits) > 1:
        raise UsageError("An ablation takes one model, one bit-width and one method that declares ablation rows.")
    settings, resources = run_settings(arguments, request)
    requests = [_with_row(request, row) for row in maker.ablation]
    if arguments.plan:
        from harness.planview import print_plan

        print_plan(make_plan(requests, settings.results), settings, console)
        return 0
    failures = run_plan(make_plan(requests, settings.results), settings, resources, console)
    grid = ablation_grid(maker, [make_plan([one], settings.results) for one in requests], settings.results)
    print_table(grid, console)
    if arguments.out:
        write_atomically(arguments.out, markdown([grid]).encode())
    return 1 if failures else 0


def _with_row(request: Request, row: AblationRow) -> Request:
    """Return the request with a row's settings on top of those given."""
    method = request.methods[0]
    merged = {**request.overrides, method: {**request.overrides.get(method, {}), **row.settings}}
    return dataclasses.replace(request, overrides=merged)


def ablation_grid(maker: Method, plans: list[Plan], results: Path) -> Grid:
    """Return the table of the rows' finished cells, one plan per row.

    Every row has its mean and sd over seeds, its distance from the full method (both over the common seeds, with an
    exact paired test corrected by Holm's rule for all rows), and the paper's figure and distance.
    """
    from harness.grid import Grid
    from harness.statistics import LEVEL

    cells = [_finished(plan, results) for plan in plans]
    full = next(index for index, row in enumerate(maker.ablation) if row.full)
    first = plans[0].cells[0].cell
    distances = _distances(cells, cells[full])
    header = ["row", "seeds", "measured, %", "from full", "p (Holm)"]
    header += [f"paper ({maker.ablation_setting}), %", "from full"]
    body = [
        _words(row, found, distance, row.reported - maker.ablation[full].reported)
        for row, found, distance in zip(maker.ablation, cells, distances, strict=True)
    ]
    notes = [
        "Top-1 (agreement with FP32 where there are no labels), mean ± sd over seeds. Simulated quantization.",
        f"From full: points against the full method on the same images and seeds; bold where p, exact, paired and "
        f"corrected for all rows by Holm's rule, is at most {LEVEL:g}.",
    ]
    fixed = {name: value for name, value in first.overrides.items() if name.partition(".")[2] not in _varied(maker)}
    if fixed:
        notes.append("Settings: " + ", ".join(f"{name}={value}" for name, value in sorted(fixed.items())) + ".")
    title = (
        f"{first.method} on {first.model} {first.bits}, {first.backend}; {first.data['name']}, n = {first.data['n']}"
    )
    return Grid(title, header, body, notes)


def _varied(maker: Method) -> set[str]:
    """Return the settings that the rows differ in."""
    return {name for row in maker.ablation for name in row.settings}


def _finished(plan: Plan, results: Path) -> list[Measurement]:
    """Return the finished cells of a plan."""
    from harness.measurements import measurements
    from harness.records import read_record, record_path

    read = [read_record(record_path(results, job.key)) for job in plan.cells]
    return measurements(record for record, problem in read if problem is None)


def _distances(cells: list[list[Measurement]], full: list[Measurement]) -> list[tuple[float, float] | None]:
    """Return (difference in points, corrected p) of every row against the full method; None where untested."""
    from harness.statistics import holm, paired

    def hits(found: list[Measurement]) -> dict[int, Any]:
        return {one.seed: correct for one in found if (correct := one.hits()) is not None}

    tested = [None if found is full else paired(hits(found), hits(full)) for found in cells]
    adjusted = iter(holm([result.p for result in tested if result is not None]))
    return [None if result is None else (result.difference, next(adjusted)) for result in tested]


def _words(
    row: AblationRow, found: list[Measurement], distance: tuple[float, float] | None, reported: float
) -> list[Word]:
    """Return one row of the table; `reported`: the paper's distance from the full method."""
    from harness.grid import Word
    from harness.pairs import p_text
    from harness.statistics import LEVEL

    values = [one.top1 if one.top1 is not None else one.agreement or 0.0 for one in found]
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return [
        Word(row.name),
        Word(str(len(values))),
        Word(f"{statistics.fmean(values):.2f}{spread}" if values else "-"),
        Word(f"{distance[0]:+.2f}", strong=distance[1] <= LEVEL) if distance else Word("-"),
        Word(p_text(distance[1]) if distance else "-"),
        Word(f"{row.reported:.2f}"),
        Word("-" if row.full else f"{reported:+.2f}"),
    ]


if __name__ == "__main__":
    sys.exit(main())
