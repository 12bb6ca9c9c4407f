"""`python -m harness.export`: one cell's quantized model as a file, run and measured where it was written.

The cell is run first if it is not recorded; `--key` takes one from the records of a results folder, whose images are
made again where its cache no longer has them. What the file does (size, accuracy and agreement with the simulated
model, and of ONNX files the speed beside FP32 in every runtime installed) goes into the cell's record, `deployed`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.json import encode
from msgspec.json import format as format_json
from msgspec.structs import replace

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
    taken,
)
from harness.deploy.formats import FORMATS
from harness.record.record import Deployed, Finished

if TYPE_CHECKING:
    from torch import Tensor

    from harness.plan.jobs import CellJob, Request, RunSettings
    from methods.bits import Bits

_OF_A_RECORD = ("model", "method", "backend", "bits", "seeds", "set", "config", "precision")
"""Options that say what a record says."""
_EXAMPLES = """examples:
  python -m harness.export --model vit_digits --method noise --backend minmax --bits w8a8 --format onnx --out exported
  python -m harness.export --model deit_t --backend best --bits w4a4 --format safetensors --out exported
  python -m harness.export --model deit_t --backend repq --bits w8a8 --format onnx --uniform --out exported
  python -m harness.export --results results/digits --key 03fa5c --format torch --out exported
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
    what.add_argument(
        "--key", type=named, help="a record's key under --results, or its start, in place of all these and --set"
    )
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

    from harness.cli.arguments import run_settings
    from harness.cli.plan_view import print_plan
    from harness.cli.run import run_plan
    from harness.images import made
    from harness.plan.plan import make_plan
    from harness.record.cache import checksum
    from methods.errors import UsageError

    console, running = Console(), taken(Running, arguments)
    record = _named(running.results, arguments) if arguments.key else None
    request = _request(arguments, record)
    settings, resources = run_settings(running, arguments.plugin, [request])
    plan = make_plan([request], settings.results)
    if len(plan.cells) != 1:
        raise UsageError("An export is of one seed.")
    job = plan.cells[0]
    if record is not None and record.key != job.key:
        raise UsageError(f"{record.key[:12]} was measured with {_differences(job, record)} than there is now.")
    if arguments.plan:
        print_plan(plan, settings, resources, console)
        return 0
    if run_plan(plan, settings, resources, running, console):
        return 1
    images = made(plan.images[job.synthesis], settings)["images"]
    if record is not None and record.images_sha256 != checksum({"images": images}):
        raise UsageError(
            f"The images made again are not those of {record.key[:12]}: another processor or library rounds otherwise."
        )
    path, found = exported(job, settings, images, arguments.format, arguments.uniform, arguments.out)
    console.print(f"{path}: {format_json(encode(found)).decode()}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _named(results: Path, arguments: argparse.Namespace) -> Finished:
    """Return the record of --key; raises UsageError where it names none, several or a failure, or where what it says
    was typed as well."""
    from harness.record.records import load_records
    from methods.errors import UsageError

    typed = [name for name in _OF_A_RECORD if vars(arguments)[name] != parser().get_default(name)]
    if typed:
        raise UsageError(f"--{typed[0]} has no effect: --key names a whole cell.")
    found = [record for record in load_records([results]).sound if record.key.startswith(arguments.key)]
    if len(found) != 1:
        raise UsageError(f"{len(found) or 'No'} records of {results} have a key that starts with {arguments.key!r}.")
    if not isinstance(found[0], Finished):
        raise UsageError(f"The cell {found[0].key[:12]} failed; there is no model to export.")
    return found[0]


def _request(arguments: argparse.Namespace, record: Finished | None) -> Request:
    """Return what is asked for: the cell of a record, or the one typed."""
    from harness.cli.arguments import read_requests

    if record is not None:
        cell = record.cell
        vars(arguments).update(model=cell.model, method=cell.method, backend=cell.backend, bits=str(cell.bits))
        vars(arguments).update(seeds=str(cell.seed), set=[f"{name}={value}" for name, value in cell.overrides.items()])
        arguments.limit = arguments.limit or cell.data["n"]
    matrix, inputs = taken(Single, arguments).matrix("An export"), taken(Inputs, arguments)
    [request] = read_requests([(matrix, inputs)])
    return request if record is None else dataclasses.replace(request, bits=[_bits(record)])


def _bits(record: Finished) -> Bits:
    """Return the bits of a record, mixed ones with what they give each layer."""
    from methods.bits import Bits

    bits, layers = record.cell.bits, record.layer_bits
    if layers is None:
        return bits
    own = tuple((pattern, Bits.parse(word)) for pattern, word in layers.patterns)
    return Bits(bits.weights, bits.activations, own, bits.name, bits.number_format)


def _differences(job: CellJob, record: Finished) -> str:
    """Say in which of what a cell's key stands for a planned cell differs from a record."""
    pairs = {
        "images to evaluate on": (job.cell.data, record.cell.data),
        "real images": (job.cell.calibration, record.cell.calibration),
        "weights": (job.identity.weights_sha256, record.weights.sha256),
        "a version of its method": (job.identity.method_version, record.versions.method),
        "a version of its backend": (job.identity.backend_version, record.versions.backend),
        "default settings": (job.cell.overrides, record.cell.overrides),
    }
    return "other " + ", ".join(name.removeprefix("a ") for name, (now, then) in pairs.items() if now != then)


def exported(
    job: CellJob, settings: RunSettings, images: Tensor, name: str, uniform: bool, folder: Path
) -> tuple[Path, Deployed]:
    """Write the file of a recorded cell, quantized on its images [n, C, H, W], under a name no other cell's has, and
    return where it is and what it does, which the record keeps as well.

    Raises UsageError for quantizers the format cannot say.
    """
    from harness.deploy.measure import checked
    from harness.record.cache import telling_name
    from harness.record.files import write_atomically
    from harness.trial.cell import quantized_model
    from methods.contracts import silent
    from methods.quant.lower import with_uniform_grids

    model = quantized_model(job, settings, images, silent).cpu()
    if uniform:
        model = with_uniform_grids(model, images)
    content = FORMATS[name].encode(model, images[:1], about(job))
    cell = job.cell
    said = telling_name(cell.model, cell.method, cell.backend, str(cell.bits), f"seed{cell.seed}", job.key)
    path = folder / f"{said}.{FORMATS[name].suffix}"
    write_atomically(path, content)
    found = replace(checked(job, FORMATS[name], content, model, images[:1]), uniform=uniform)
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
    return {"cell": json.dumps(dataclasses.asdict(job.cell)), "preprocessing": json.dumps(preprocessing)}


def _keep(job: CellJob, settings: RunSettings, name: str, found: Deployed) -> None:
    """Put what a file does into the cell's record."""
    from harness.record.records import find_record, write_record

    record = find_record(settings.results, job.key)
    if isinstance(record, Finished):
        write_record(settings.results, replace(record, deployed={**(record.deployed or {}), name: found}))


if __name__ == "__main__":
    sys.exit(main())
