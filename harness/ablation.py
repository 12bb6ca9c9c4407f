"""A method's own ablation as ordinary cells: `python -m harness.ablation --model deit_t --bits w4a4`.

The rows, and what the paper reports for them, are declared by the method. They run through the same plan,
executor and records as everything else, and print beside the paper's column, each compared with the full method
image by image.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli.command import run_command
from harness.cli.config import parse
from harness.cli.options import Inputs, Running, Single, add_data_options, add_run_options, command_parser, path, taken

if TYPE_CHECKING:
    from rich.console import Console

    from harness.plan.jobs import Request
    from harness.record.record import Record
    from methods.contracts import AblationRow, Method

_EXAMPLES = """examples:
  python -m harness.ablation --model vit_digits --bits w4a4 --seeds 0,1,2,3,4
  python -m harness.ablation --model deit_t --bits w4a4 --weights checkpoints --data imagenet/val \\
      --set spdfq.images=16 --set spdfq.iterations=200 --out ablation.md
  python -m harness.ablation --results results/deit_t_8x100 --table-only
"""


def parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    result = command_parser(
        "ablation", "Run the ablation a method's paper reports, beside the paper's figures.", _EXAMPLES
    )
    what = result.add_argument_group("what to measure")
    what.add_argument("--model", default="vit_digits", help="one short name or full timm name")
    what.add_argument("--bits", default="w4a4", help="one bit-width, such as w4a4")
    what.add_argument("--method", default="spdfq", help="a method that declares an ablation")
    what.add_argument("--backend", default="blockwise", help="how models are quantized")
    what.add_argument("--seeds", default="0", help="such as 0,1,2")
    add_data_options(result)
    add_run_options(result)
    result.add_argument(
        "--table-only", action="store_true", help="run nothing: only the tables of the records under --results"
    )
    result.add_argument("--out", type=path, help="file to write the table to, as Markdown")
    return result


def main(words: list[str] | None = None) -> int:
    """Run the command; returns 0, 1 when cells failed, 2 for bad input, 130 when interrupted."""
    return run_command(lambda: _ablate(*parse(parser(), words)))


def _ablate(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from harness.inputs import plugins as catalog
    from harness.record.records import load_records
    from methods.registry import METHODS

    inputs, running, out = taken(Inputs, arguments), taken(Running, arguments), arguments.out
    console = Console()
    if arguments.table_only:
        catalog.load(inputs.plugin, inputs.timeout)
        _show(METHODS.get(arguments.method), load_records([running.results]).sound, out, console)
        return 0
    return _run(taken(Single, arguments), inputs, running, arguments.plan, out, console)


def _run(
    single: Single, inputs: Inputs, running: Running, plan_alone: bool, out: Path | None, console: Console
) -> int:
    """Run the rows' cells that are missing and show the table of all."""
    from harness.cli.arguments import read_requests, run_settings
    from harness.cli.plan_view import print_plan
    from harness.cli.run import run_plan
    from harness.plan.plan import make_plan
    from harness.record.records import find_records
    from methods.errors import UsageError
    from methods.registry import METHODS

    [request] = read_requests([(single.matrix("An ablation"), inputs)])
    method = METHODS.get(request.methods[0])
    if not method.ablation:
        raise UsageError(f"The method {method.name!r} declares no ablation rows.")
    settings, resources = run_settings(running, inputs.plugin, [request])
    plan = make_plan([_with_row(request, row) for row in method.ablation], settings.results)
    if plan_alone:
        print_plan(plan, settings, resources, console)
        return 0
    failures = run_plan(plan, settings, resources, running, console)
    _show(method, find_records(settings.results, [job.key for job in plan.cells]), out, console)
    return 1 if failures else 0


def _show(method: Method, records: list[Record], out: Path | None, console: Console) -> None:
    """Print the ablations that records hold, and write them; raises UsageError when there is none."""
    from harness.record.files import write_atomically
    from harness.report.ablations import ablation_grid, ablations
    from harness.report.formats.console import print_table
    from harness.report.formats.markdown import markdown
    from methods.errors import UsageError

    grids = [ablation_grid(one) for one in ablations(method, records)]
    if not grids:
        raise UsageError(f"The records hold no two rows of the ablation of {method.name}.")
    for grid in grids:
        print_table(grid, console)
    if out:
        write_atomically(out, markdown(grids).encode())


def _with_row(request: Request, row: AblationRow) -> Request:
    """Return the request with a row's settings on top of those given."""
    method = request.methods[0]
    merged = {**request.overrides, method: {**request.overrides.get(method, {}), **row.settings}}
    return dataclasses.replace(request, overrides=merged)


if __name__ == "__main__":
    sys.exit(main())
