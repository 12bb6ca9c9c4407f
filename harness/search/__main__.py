"""Hyper-parameter search: `python -m harness.search --model vit_digits --method spdfq --bits w4a4 --samples 40`.

Tries settings of a method and a backend, the defaults first, and leaves a table, a plot and `best.toml` for
`harness.bench --config` in `RESULTS/search/<label>/`. Every sample is a few ordinary cells with their own records, one
per seed; which records belong to a search follows from its description there (`harness.search.search`), so the same
command goes on where a killed one stopped. By default neither a label nor a real image is seen: samples are compared
by how often the quantized model agrees with its floating-point self on procedural images.
"""

from __future__ import annotations

import argparse
import sys
import time
from importlib import import_module
from typing import TYPE_CHECKING

from harness.cli.command import run_command
from harness.cli.config import parse
from harness.cli.options import (
    Inputs,
    Running,
    Single,
    add_data_options,
    add_run_options,
    command_parser,
    named,
    path,
    positive,
    taken,
)
from methods.text import printable

if TYPE_CHECKING:
    from rich.console import Console

    from harness.search.measure import Outcome, SearchRun, Told


_EXAMPLES = """a space file, which replaces ranges the method and the backend declare, or adds settings to them:
  [spdfq]
  alpha1 = { min = 10.0, max = 1e4, scaling = "log" }
  images = { choices = [8, 16] }

what was found, measured on the validation set:
  python -m harness.bench --models vit_digits --methods spdfq --bits w4a4 --config results/search/LABEL/best.toml

examples:
  python -m harness.search --model vit_digits --method spdfq --bits w4a4 --samples 40
  python -m harness.search --model vit_digits --samples 40 --seeds 0,1 --space space.toml --scheduler asha
  python -m harness.search --model vit_digits --samples 40 --metric top1,seconds
  python -m harness.search --model vit_digits --search grid --set blockwise.iterations=50 --samples 2000 --plan
  python -m harness.search --model deit_t --metric top1 --search-data imagenet/tune --data imagenet/val
  python -m harness.search --results results/search_vit_digits --table-only
"""


def parser() -> argparse.ArgumentParser:
    """Return the command's parser; building it imports nothing heavy."""
    result = command_parser(
        "search",
        "Search settings of a method and its backend. --data names the images that results are "
        "reported on, --search-data those the search looks at.",
        _EXAMPLES,
    )
    what = result.add_argument_group("what to search")
    what.add_argument("--model", default="vit_digits", help="one short name or full timm name")
    what.add_argument("--bits", default="w4a4", help="one bit-width, such as w4a4")
    what.add_argument("--method", default="spdfq", help="how calibration images are made")
    what.add_argument("--backend", default="blockwise", help="how models are quantized")
    what.add_argument("--seeds", default="0", help="such as 0,1; a sample's value is the mean")
    what.add_argument("--space", type=path, metavar="FILE", help="TOML file of ranges; what is --set is not searched")
    how = result.add_argument_group("how to search")
    how.add_argument("--samples", type=positive, default=40, help="how many settings to try in all (default: 40)")
    how.add_argument("--search", choices=("optuna", "random", "grid"), default="optuna")
    how.add_argument("--search-seed", type=int, default=0, help="of the searcher itself (default: 0)")
    how.add_argument("--scheduler", choices=("asha", "none"), default="none", help="asha stops bad samples early")
    how.add_argument(
        "--metric",
        help="agreement, kl, seconds, top1, ..., of backbones cosine or knn; two give the Pareto set (top1,seconds) "
        "(default: agreement, of backbones cosine)",
    )
    how.add_argument(
        "--search-data",
        type=named,
        help="'procedural', 'digits-train' or a folder (default: procedural images; for top1 digits-train)",
    )
    how.add_argument(
        "--allow-test-tuning", action="store_true", help="search even on images that results are reported on"
    )
    add_data_options(result)
    add_run_options(result, jobs=False)
    result.add_argument(
        "--table-only", action="store_true", help="run nothing: only the tables of the searches under --results"
    )
    return result


def main(words: list[str] | None = None) -> int:
    """Run the command; returns 0, 1 when samples failed, 2 for bad input, 130 when interrupted."""
    return run_command(lambda: _search(*parse(parser(), words)))


def _search(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from harness.search.report import report
    from harness.search.search import read_searches, write_search
    from methods.errors import UsageError

    console, running = Console(), taken(Running, arguments)
    if arguments.table_only:
        searches = read_searches(running.results)
        if not searches:
            raise UsageError(f"There is no search under {running.results}.")
        for folder, search in searches.items():
            report(search, folder, running.results, console)
        return 0
    from harness.search.arguments import SearchOptions, read_search_run

    options = taken(SearchOptions, arguments)
    run = read_search_run(taken(Single, arguments), options, taken(Inputs, arguments), running)
    if arguments.plan:
        _print_plan(run, console)
        return 0
    folder = write_search(run.settings.results, run.search)
    failed = _run(run, console, running.quiet)
    report(run.search, folder, run.settings.results, console)
    return 1 if failed else 0


def _run(run: SearchRun, console: Console, quiet: bool) -> int:
    """Measure the samples, a line for each unless told to be quiet; returns how many failed."""
    from harness.cli.run_files import Snapshot, told_to_others
    from harness.cli.view import times

    start, done, failed = time.monotonic(), 0, 0

    def snapshot() -> Snapshot:
        passed = time.monotonic() - start
        left = passed / max(done, 1) * (run.samples - done)
        return Snapshot(run.samples, done, failed, passed, left, [], [])

    def told(outcome: Outcome) -> None:
        nonlocal done, failed
        done, failed = done + 1, failed + (outcome.values is None)
        line = f"[{done}/{run.samples}] {times(snapshot())}: {outcome.text(run.search.metrics)}"
        if not quiet or outcome.values is None:
            console.print(printable(line), markup=False, highlight=False, soft_wrap=True)

    with told_to_others(run.settings, snapshot):
        run_search(run, told)
    return failed


def _print_plan(run: SearchRun, console: Console) -> None:
    """Print the space, how much is there already, and the cells of one sample."""
    from harness.cli.plan_view import print_plan
    from harness.report.formats.console import print_table
    from harness.search.measure import plan_of
    from harness.search.report import space_grid

    print_table(space_grid(run.search), console)
    console.print(f"{run.samples} samples, {len(run.known)} of them begun. The cells of the first:", highlight=False)
    plan = plan_of(run, run.search.start, run.search.images[-1]["n"])
    print_plan(plan, run.settings, run.resources, console, samples=max(0, run.samples - len(run.known)))


def run_search(run: SearchRun, told: Told) -> None:
    """Measure the samples; raises UsageError when a trial finds that the run must stop."""
    if run.settings.executor == "ray":
        import_module("harness.search.on_ray").execute(run, told)
    else:
        from harness.search.measure import run_here

        run_here(run, told)


if __name__ == "__main__":
    sys.exit(main())
