"""`python -m harness.export`: one cell's quantized model as a file, run and measured where it was written.

The cell is run first if it is not recorded. What the file does (size, accuracy and agreement with the simulated model,
and of ONNX files the speed beside FP32 in every runtime installed) goes into the cell's record under `deployed`.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.json import encode
from msgspec.json import format as format_json
from msgspec.structs import replace

from harness.cli.command import run_command
from harness.cli.config import parse
from harness.cli.options import Inputs, Running, Single, add_data_options, add_run_options, command_parser, taken
from harness.deploy.formats import FORMATS, Format
from harness.record.record import Deployed, Finished

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness.plan.jobs import CellJob, RunSettings
    from methods.quant.runtimes import Run

_EXAMPLES = """examples:
  python -m harness.export --model vit_digits --method noise --backend minmax --bits w8a8 --format onnx --out exported
  python -m harness.export --model deit_t --backend best --bits w4a4 --format safetensors --out exported
  python -m harness.export --model deit_t --backend repq --bits w8a8 --format onnx --uniform --out exported
"""


def parser() -> argparse.ArgumentParser:
    """Return the command's parser; building it imports nothing heavy."""
    result = command_parser("export", "Write a quantized model as a file that others run.", _EXAMPLES)
    what = result.add_argument_group("which model")
    what.add_argument("--model", default="vit_digits", help="short name or full timm name (default: %(default)s)")
    what.add_argument("--method", default="spdfq", help="how calibration images are made (default: %(default)s)")
    what.add_argument("--backend", default="minmax", help="how it is quantized (default: %(default)s)")
    what.add_argument("--bits", default="w8a8", help="such as w8a8 (default: %(default)s)")
    what.add_argument("--seeds", default="0", help="one seed (default: %(default)s)")
    file = result.add_argument_group("which file")
    file.add_argument("--format", choices=tuple(FORMATS), default="onnx", help="(default: %(default)s)")
    file.add_argument("--out", type=Path, default=Path("exported"), help="folder (default: %(default)s)")
    file.add_argument(
        "--uniform", action="store_true", help="put uniform quantizers where others are, on the same images"
    )
    add_data_options(result)
    add_run_options(result)
    return result


def main(words: list[str] | None = None) -> int:
    """Run the command; returns 0, 1 when the cell failed, 2 for bad input, 130 when interrupted."""
    return run_command(lambda: _export(parse(parser(), words)[0]))


def _export(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from harness.cli.arguments import read_requests, run_settings
    from harness.cli.plan_view import print_plan
    from harness.cli.run import run_plan
    from harness.plan.plan import make_plan
    from methods.errors import UsageError

    console, inputs = Console(), taken(Inputs, arguments)
    requests = read_requests([(taken(Single, arguments).matrix("An export"), inputs)])
    running = taken(Running, arguments)
    settings, resources = run_settings(running, inputs.plugin, requests)
    plan = make_plan(requests, settings.results)
    if len(plan.cells) != 1:
        raise UsageError("An export is of one seed.")
    if arguments.plan:
        print_plan(plan, settings, resources, console)
        return 0
    if run_plan(plan, settings, resources, running, console):
        return 1
    path, found = exported(plan.cells[0], settings, arguments.format, arguments.uniform, arguments.out)
    console.print(f"{path}: {format_json(encode(found)).decode()}", markup=False, highlight=False, soft_wrap=True)
    return 0


def exported(job: CellJob, settings: RunSettings, name: str, uniform: bool, folder: Path) -> tuple[Path, Deployed]:
    """Write the file of a recorded cell and return where it is and what it does, which the record keeps as well.

    Raises UsageError for quantizers the format cannot say.
    """
    from harness.record.files import write_atomically
    from harness.trial.cell import quantized_model, synthesis_of
    from methods.contracts import silent
    from methods.quant.lower import with_uniform_grids

    images = synthesis_of(job, settings).tensors["images"]
    model = quantized_model(job, settings, images, silent).cpu()
    if uniform:
        model = with_uniform_grids(model, images)
    content = FORMATS[name].encode(model, images[:1], about(job))
    path = folder / f"{job.cell.model}-{job.cell.backend}-{job.cell.bits}.{FORMATS[name].suffix}"
    write_atomically(path, content)
    found = replace(_checked(job, FORMATS[name], content, model, images[:1]), uniform=uniform)
    _keep(job, settings, name, found)
    return path, found


def about(job: CellJob) -> dict[str, str]:
    """Return what a file says of itself: the cell, and how pictures become the model's input."""
    entry = job.subject.entry
    preprocessing = {
        "size": entry.size,
        "crop_pct": entry.crop,
        "interpolation": entry.interpolation,
        "mean": entry.mean,
        "std": entry.std,
        "channels": "RGB",
    }
    return {"cell": json.dumps(asdict(job.cell)), "preprocessing": json.dumps(preprocessing)}


def _checked(job: CellJob, kind: Format, content: bytes, model: nn.Module, image: Tensor) -> Deployed:
    """Run what was written, on the cell's evaluation images, beside the simulated model."""
    import torch

    from harness.deploy.measure import compared, measured
    from harness.deploy.onnx_file import encoded
    from harness.deploy.program import traced
    from harness.inputs.image_sets import open_images
    from harness.inputs.weights import shared_model
    from harness.trial.evaluate import logits_of

    labels = open_images(job.data).labels

    def logits(run: nn.Module) -> Tensor:
        return logits_of(run, job.data, job.subject.entry, torch.device("cpu"), lambda *_: None)

    def evaluated(run: Run) -> Tensor:
        return logits(_Module(run))

    class _Module(torch.nn.Module):
        def __init__(self, run: Run) -> None:
            super().__init__()
            self.run = run

        def forward(self, x: Tensor) -> Tensor:
            return torch.from_numpy(self.run(x.numpy()))

    simulated = logits(model)
    own = compared(simulated, simulated, labels).top1
    if kind.decode is not None:
        runs = {"torch": compared(logits(kind.decode(content)), simulated, labels)}
        return Deployed(bytes=len(content), uniform=False, simulated_top1=own, runtimes=runs)
    plain = encoded(traced(shared_model(job.subject.entry, job.subject.weights), image.repeat(2, 1, 1, 1)), {})
    runtimes = measured(content, plain, evaluated, simulated, labels, image.numpy())
    return Deployed(bytes=len(content), uniform=False, simulated_top1=own, runtimes=runtimes, fp32_bytes=len(plain))


def _keep(job: CellJob, settings: RunSettings, name: str, found: Deployed) -> None:
    """Put what a file does into the cell's record."""
    from harness.record.records import find_record, write_record

    record = find_record(settings.results, job.key)
    if isinstance(record, Finished):
        write_record(settings.results, replace(record, deployed={**(record.deployed or {}), name: found}))


if __name__ == "__main__":
    sys.exit(main())
