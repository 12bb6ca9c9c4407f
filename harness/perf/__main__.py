"""How fast synthesis runs against the floor: `python -m harness.perf --models deit_t,swin_t`.

The floor of a step is the bare forward and backward pass to the pixels of the same batches of images through
the same model in the same precision, with no loss but a sum. After every step of a method the same batches are
run bare, so both are timed side by side on the same machine in the same state; the ratio printed is the median
over steps. The last column extrapolates: minutes of a synthesis with all the method's settings, at the seconds
per view seen. Random weights by default: they take the same time.

With `--backends repq,erq --bits w8a8,w4a4` it times instead the evaluation of quantized models against that of the
FP32 model with the same attention implementation, and the quantization itself on `--images` images of noise.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from harness.cli.command import run_command
from harness.cli.options import command_parser, listed, named, path, positive, taken
from harness.perf.steps import Timing

_EXAMPLES = """examples:
  python -m harness.perf
  python -m harness.perf --models deit_t,swin_t --images 16 --steps 5
  python -m harness.perf --models deit_t --precision fp32,bf16
  python -m harness.perf --models deit_t --set spdfq.region_schedule=one
  python -m harness.perf --models vit_b --images 32 --steps 2 --micro-batch 16
  python -m harness.perf --models deit_t --backends minmax,repq,erq --bits w8a8,w4a4 --images 32 --weights DIR
  python -m harness.perf --scheduling
  python -m harness.perf --schedule-of results/digits --workers 2
"""


@dataclass(frozen=True)
class Asked:
    """What to time, as typed."""

    methods: list[str]
    """Synthesis methods that optimise pixels."""
    precision: list[str]
    """Of their forward passes."""
    backends: list[str] | None
    """Quantization and evaluation with these are timed instead."""
    bits: list[str]
    """Their bit-widths."""
    threads: int | None
    """CPU threads; None: torch's choice."""
    out: Path | None
    """A Markdown file of the table."""


def parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    result = command_parser("perf", "Time synthesis steps against the bare forward and backward pass.", _EXAMPLES)
    result.add_argument("--models", type=listed, default="deit_t,swin_t", help="short names, globs, full timm names")
    result.add_argument("--methods", type=listed, default="spdfq", help="synthesis methods that optimise pixels")
    result.add_argument("--backends", type=listed, help="time quantization and evaluation with these instead")
    result.add_argument("--bits", type=listed, default="w8a8,w4a4", help="bit-widths for --backends")
    result.add_argument("--images", type=positive, default=16)
    result.add_argument("--steps", type=positive, default=5, help="steps or passes timed, after one to warm up")
    result.add_argument("--set", action="append", default=[], metavar="NAME.KEY=VALUE", help="a setting of a method")
    result.add_argument(
        "--precision", type=listed, default="fp32", help="of the forward passes: fp32, bf16, or both as a list"
    )
    result.add_argument("--micro-batch", type=positive, default=32, help="most views at once")
    result.add_argument("--weights", type=named, default="random", help="folder of weights, or 'random'")
    result.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    result.add_argument("--threads", type=positive, help="CPU threads (default: torch's choice)")
    result.add_argument("--out", type=path, help="file to write the table to, as Markdown")
    result.add_argument(
        "--scheduling", action="store_true", help="time Ray's scheduling of jobs that only sleep instead"
    )
    result.add_argument(
        "--schedule-of",
        type=path,
        metavar="RESULTS",
        help="hold a recorded run against the ideal list schedule instead",
    )
    result.add_argument("--workers", type=positive, default=2, help="how many jobs that run had at once")
    return result


def main(words: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parser().parse_args(words)
    if arguments.scheduling or arguments.schedule_of:
        return run_command(lambda: _scheduling(arguments.schedule_of, arguments.workers))
    return run_command(lambda: _perf(taken(Asked, arguments), taken(Timing, arguments)))


def _scheduling(results: Path | None, workers: int) -> int:
    from harness.perf.scheduling import schedule_of, scheduling
    from harness.record.records import load_records
    from methods.errors import UsageError

    if results:
        records = load_records([results]).sound
        if not records:
            raise UsageError(f"There are no records in {results}.")
        sentences = schedule_of(records, workers)
    else:
        sentences = scheduling()
    for sentence in sentences:
        print(sentence, flush=True)
    return 0


def _perf(asked: Asked, timing: Timing) -> int:
    import torch
    from rich.console import Console

    from harness.inputs import plugins as catalog
    from harness.perf import evaluation, steps
    from harness.record.files import write_atomically
    from harness.report.formats.console import print_table
    from harness.report.formats.markdown import markdown
    from harness.report.text_table import Grid, Word
    from harness.trial.provenance import library_versions, processor

    catalog.load()
    if asked.threads:
        torch.set_num_threads(asked.threads)
    where = f"{processor()}, {torch.get_num_threads()} threads, torch {library_versions()['torch']}"
    if timing.device == "cuda":
        where = f"{torch.cuda.get_device_name()}, torch {library_versions()['torch']}"
    title = f"Synthesis step against the bare forward + backward pass, {timing.images} images"
    columns, notes = steps.COLUMNS, steps.NOTES
    if asked.backends:
        title = f"Quantization on {timing.images} images, evaluation against FP32"
        columns, notes = evaluation.COLUMNS, evaluation.NOTES
        lines = evaluation.evaluation_lines(timing, asked.backends, asked.bits)
    else:
        lines = steps.step_lines(timing, asked.methods, asked.precision)
    rows = [[Word(word) for word in line] for line in lines]
    settings = "".join(f", {assignment}" for assignment in timing.set)
    grid = Grid(title + settings, columns, rows, [*notes, where])
    print_table(grid, Console())
    if asked.out:
        write_atomically(asked.out, markdown([grid]).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
