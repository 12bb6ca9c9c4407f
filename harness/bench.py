"""The main job: `python -m harness.bench` measures methods x backends x models x bits x seeds.

Lays out a plan, runs what is not recorded yet, and prints the leaderboard of the cells asked for. Without
arguments it runs the embedded demo, which needs neither network nor data.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING

from harness.cli.command import run_command
from harness.cli.config import parse
from harness.cli.options import (
    Default,
    Inputs,
    Matrix,
    Running,
    add_data_options,
    add_run_options,
    command_parser,
    taken,
)
from methods.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from harness.plan.plan import Plan

_EXAMPLES = """examples:
  python -m harness.bench
  python -m harness.bench --plan
  python -m harness.bench --list methods
  python -m harness.bench --models vit_digits --bits w3a3,w4a4 --methods real,spdfq --seeds 0,1,2
  python -m harness.bench --models deit_t,vit_b --bits w4a4,w8a8 --methods noise,spdfq --data imagenet/val
  python -m harness.bench --models 'deit_*' --weights checkpoints --data imagenet/val --gpus-per-trial 0.5
  python -m harness.bench --methods spdfq,mine --plugin mine.py
  python -m harness.bench --models deit_t --preset quick --weights checkpoints --data imagenet/val
  python -m harness.bench --config study.toml --plan
  python -m harness.bench --set spdfq.iterations=500 --set blockwise.iterations=200
"""
_PRESETS = "Other lengths: --preset quick (a first look), paper (as its paper has it), best (what reached most here)."


def parser() -> argparse.ArgumentParser:
    """Return the command's parser; building it imports nothing heavy."""
    result = command_parser("bench", "Measure data-free quantization of vision transformers.", _EXAMPLES)
    what = result.add_argument_group("what to measure (comma-separated lists; every combination is a cell)")
    what.add_argument(
        "--models",
        default=Default("vit_digits,swin_digits"),
        help="short names, globs, full timm names (default: %(default)s)",
    )
    what.add_argument(
        "--bits",
        default=Default("w4a4,w8a8"),
        help="such as w4a4; 2 to 8, or 32 for floating point; or a TOML file of bits per layer (default: %(default)s)",
    )
    what.add_argument(
        "--methods",
        default=Default("noise,real,spdfq"),
        help="how calibration images are made (default: %(default)s; of these, what needs images not given is left "
        "out)",
    )
    what.add_argument(
        "--backends", default=Default("blockwise"), help="how models are quantized (default: %(default)s)"
    )
    what.add_argument("--seeds", default=Default("0"), help="such as 0,1,2 (default: %(default)s)")
    what.add_argument(
        "--preset",
        choices=("demo", "quick", "paper", "best"),
        help="options and settings known to work: the demo; a first look in few steps; the paper's own; "
        "what reached most here without data (default: demo where nothing to measure is named, else every method and "
        "backend as its paper has it)",
    )
    what.add_argument(
        "--list",
        choices=("methods", "backends", "models", "settings"),
        help="show what there is, and run nothing; --verbose: methods or backends with their settings",
    )
    what.add_argument(
        "--all",
        nargs="?",
        const="*",
        metavar="GLOB",
        help="with --list models: every checkpoint of timm, or those of a pattern, and whether a dry run accepts it: "
        "about a second a model, 7 minutes in all (docs/models.md)",
    )
    add_data_options(result)
    add_run_options(result)
    return result


def main(words: list[str] | None = None) -> int:
    """Run the command; returns 0, 1 when cells failed, 2 for bad input, 130 when interrupted."""
    return run_command(lambda: _bench(parse(parser(), words, study=True)))


def _bench(runs: list[argparse.Namespace]) -> int:
    from rich.console import Console

    from harness.cli.arguments import read_requests, run_settings
    from harness.cli.plan_view import print_plan
    from harness.cli.run import run_plan
    from harness.plan.plan import make_plan

    console, first = Console(), runs[0]
    if first.all and first.list != "models":
        raise UsageError("--all goes with --list models.")
    if first.list:
        names = [first.list, *([f"settings of {first.list}"] if first.verbose else [])]
        _list(names, first.all, taken(Inputs, first), console)
        return 0
    asked = [(Matrix.of(vars(run)), taken(Inputs, run)) for run in runs]
    running = taken(Running, first)
    with console.status("Reading models, weights and images") if not running.quiet else nullcontext():
        requests = read_requests(asked)
        settings, resources = run_settings(running, asked[0][1].plugin, requests)
        plan = make_plan(requests, settings.results)
    if first.plan:
        print_plan(plan, settings, resources, console)
        if plan.jobs and not first.preset:
            console.print(_PRESETS, highlight=False, soft_wrap=not console.is_terminal)
        return 0
    failures = run_plan(plan, settings, resources, running, console)
    _print_leaderboard(plan, settings.results, console)
    if not running.quiet:
        _print_places(plan, settings.results, bool(running.log), console)
    return 1 if failures else 0


def _list(names: list[str], pattern: str | None, inputs: Inputs, console: Console) -> None:
    from harness.cli.listing import LISTS
    from harness.cli.model_list import list_all_models
    from harness.inputs import plugins as catalog
    from harness.report.formats.console import print_table

    catalog.load(inputs.plugin, inputs.timeout)
    if pattern:
        print_table(list_all_models(pattern), console)
        return
    for name in names:
        if name in LISTS:  # models have no settings
            print_table(LISTS[name](), console)


def _print_leaderboard(plan: Plan, results: Path, console: Console) -> None:
    """Print the tables of the cells asked for, from their records."""
    from harness.record.records import find_records
    from harness.report.formats.console import print_table
    from harness.report.tables import leaderboards

    for table in leaderboards(find_records(results, [job.key for job in plan.cells])):
        print_table(table, console)


def _print_places(plan: Plan, results: Path, logged: bool, console: Console) -> None:
    """Say where records and images are, and how a table and a page are made of them."""
    from harness.record.cache import sheet_path

    made = ((job.subject.entry.name, job.method, job.seed, job.key) for job in plan.images.values())
    sheets = [path for words in made if (path := sheet_path(results, *words)).is_file()]
    lines = [
        f"Records: {results / 'records'}",
        f"Table: python -m harness.leaderboard {results}",
        f"Page: python -m harness.leaderboard {results} --format html --out {results}",
        *([f"Images: {results / 'images'} (a sheet per synthesis, {len(sheets)} of this table)"] if sheets else []),
        *([f"Log: {results / 'logs'}"] if logged else []),
    ]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
