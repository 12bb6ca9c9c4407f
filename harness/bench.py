"""The main job: `python -m harness.bench` measures methods x backends x models x bits x seeds.

Lays out a plan, runs what is not recorded yet, and prints the leaderboard of the cells asked for. Without
arguments it runs the embedded demo, which needs neither network nor data.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from harness.command import run_command

if TYPE_CHECKING:
    from rich.console import Console

    from harness.executors import Resources
    from harness.jobs import RunSettings
    from harness.plan import Plan

_EXECUTORS = {"ray": "ray_tune", "local": "local"}

_EXAMPLES = """examples:
  python -m harness.bench
  python -m harness.bench --plan
  python -m harness.bench --models vit_digits --bits w3a3,w4a4 --methods real,spdfq --seeds 0,1,2
  python -m harness.bench --models deit_t,vit_b --bits w4a4,w8a8 --methods noise,spdfq --data imagenet/val
  python -m harness.bench --models 'deit_*' --weights checkpoints --data imagenet/val --gpus-per-trial 0.5
  python -m harness.bench --set spdfq.iterations=500 --set blockwise.iterations=200
"""


def parser() -> argparse.ArgumentParser:
    """Return the command's parser; building it imports nothing heavy."""
    result = argparse.ArgumentParser(
        prog="python -m harness.bench",
        description="Measure data-free quantization of vision transformers.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = result.add_argument_group("what to measure (comma-separated lists; every combination is a cell)")
    what.add_argument("--models", default="vit_digits,swin_digits", help="short names, globs, full timm names")
    what.add_argument("--bits", default="w4a4,w8a8", help="such as w4a4; 2 to 8, or 32 for floating point")
    what.add_argument("--methods", default="noise,real,spdfq", help="how calibration images are made")
    what.add_argument("--backends", default="blockwise", help="how models are quantized")
    what.add_argument("--seeds", default="0", help="such as 0,1,2")
    what.add_argument(
        "--set", action="append", default=[], metavar="NAME.KEY=VALUE", help="a setting of a method or backend"
    )
    what.add_argument("--config", type=Path, help="TOML file with such settings, a table per method or backend")
    with_data = result.add_argument_group("images and weights")
    with_data.add_argument(
        "--data", help="'digits', or a folder of ImageNet validation images (default: DFQ_DATA; none: agreement only)"
    )
    with_data.add_argument("--calib-data", help="folder of real images for methods that use them")
    with_data.add_argument(
        "--weights",
        help="folder of <arch.tag>.safetensors or .pth, or 'random' (default: DFQ_WEIGHTS, then timm's hub)",
    )
    with_data.add_argument("--limit", type=_positive, help="evaluate on a fixed class-balanced subset of this size")
    with_data.add_argument("--skip-bad-images", action="store_true", help="leave out images that cannot be read")
    with_data.add_argument(
        "--no-fp32-gate", action="store_true", help="go on when FP32 accuracy is far below what it should be"
    )
    how = result.add_argument_group("how to run")
    how.add_argument("--results", type=Path, default=Path("results"), help="folder for records and cache")
    how.add_argument("--executor", choices=("ray", "local"), default="ray")
    how.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    how.add_argument(
        "--cpus-per-trial",
        type=_positive,
        help="CPU threads of a trial (default: 1 for small models, else all, 8 at most)",
    )
    how.add_argument(
        "--gpus-per-trial", type=float, help="GPUs of a trial, may be a fraction (default: 1 on CUDA, else 0)"
    )
    how.add_argument("--address", help="Ray cluster to join (default: start Ray here)")
    how.add_argument("--plan", action="store_true", help="print what would run, and run nothing")
    return result


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number


def main(words: list[str] | None = None) -> int:
    """Run the command; returns 0, 1 when cells failed, 2 for bad input, 130 when interrupted."""
    arguments = parser().parse_args(words)
    return run_command(lambda: _bench(arguments))


def _execute(plan: Plan, settings: RunSettings, resources: Resources, console: Console) -> dict[str, str]:
    """Run the plan's jobs and return the errors of those that failed, by label."""
    from importlib import import_module

    from harness.progress import ProgressTable

    executor = import_module(f"harness.executors.{_EXECUTORS[settings.executor]}")
    with ProgressTable(plan.jobs, console) as table:
        executor.execute(plan.jobs, settings, table, resources)
    return table.failures


def _print_leaderboard(plan: Plan, results: Path, console: Console) -> None:
    """Print the tables of the cells asked for, from their records."""
    from harness.records import read_record, record_path
    from harness.render import print_table
    from harness.tables import leaderboards

    read = [read_record(record_path(results, job.key)) for job in plan.cells]
    for table in leaderboards([record for record, problem in read if problem is None]):
        print_table(table, console)
    console.print(f"Records: {results / 'records'}", highlight=False, soft_wrap=True)


def _bench(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from harness.plan import make_plan
    from harness.request import read_request, run_settings

    console = Console()
    request = read_request(arguments)
    settings, resources = run_settings(arguments, request)
    plan = make_plan(request, settings.results)
    if arguments.plan:
        from harness.planview import print_plan

        print_plan(plan, settings, console)
        return 0
    if len(plan.recorded) < len(plan.cells):
        failures = _execute(plan, settings, resources, console)
    else:
        failures = {}
    _print_leaderboard(plan, settings.results, console)
    for label, error in failures.items():
        console.print(f"Failed: {label}: {error}", markup=False, style="red")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
