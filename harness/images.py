"""`python -m harness.images`: the images alone, for any toolkit to calibrate with.

A folder of PNGs in the model's own colours, each named by its class; `images.safetensors` with the exact normalized
tensor, the targets and whatever else the method keeps; `labels.csv`, one row per PNG; a contact sheet. Images that a
results folder has from another run are taken from there, and a later run takes these.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import re
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli.command import run_command
from harness.cli.config import parse
from harness.cli.options import Inputs, Matrix, Running, command_parser, path, positive, taken

if TYPE_CHECKING:
    from torch import Tensor

    from harness.inputs.zoo import ModelEntry
    from harness.plan.jobs import RunSettings, SynthesisJob
    from harness.report.text_table import Grid
    from harness.trial.diagnosis import Diagnosis

_EXAMPLES = """examples:
  python -m harness.images --model vit_digits --method spdfq --images 8 --out images
  python -m harness.images --model deit_t --method psaq_vit --images 32 --set psaq_vit.iterations=100 --out images
  python -m harness.images --model deit_t --method real --images 32 --calib-data DIR --out images --diagnose
"""
_TENSORS, _LABELS, _SHEET = "images.safetensors", "labels.csv", "contact_sheet.png"


def parser() -> argparse.ArgumentParser:
    """Return the command's parser; building it imports nothing heavy."""
    result = command_parser("images", "Make a method's images and write them as files.", _EXAMPLES)
    what = result.add_argument_group("which images")
    what.add_argument("--model", default="vit_digits", help="short name or full timm name (default: %(default)s)")
    what.add_argument("--method", default="spdfq", help="how images are made (default: %(default)s)")
    what.add_argument("--images", type=positive, help="how many (default: the method's own)")
    what.add_argument("--seeds", default="0", help="one seed (default: %(default)s)")
    what.add_argument("--out", type=path, default=Path("images"), help="folder (default: %(default)s)")
    what.add_argument("--diagnose", action="store_true", help="print what the model and a spectrum say of each image")
    how = result.add_argument_group("how")
    how.add_argument("--set", action="append", default=[], metavar="NAME.KEY=VALUE", help="a setting of the method")
    how.add_argument(
        "--plugin", action="append", default=[], metavar="FILE", help="Python file that registers methods"
    )
    how.add_argument("--config", type=path, help="TOML file of options and settings; what is typed goes before it")
    how.add_argument("--precision", choices=("fp32", "bf16"), help="of the forward passes (default: fp32)")
    how.add_argument("--calib-data", help="folder of real images for methods that use them")
    how.add_argument("--skip-bad-images", action="store_true", help="leave out images that cannot be read")
    how.add_argument(
        "--weights",
        metavar="DIR|FILE|random",
        help="a folder of <arch.tag>.safetensors or .pth, one's own checkpoint, or none (default: DFQ_WEIGHTS, then "
        "timm's hub)",
    )
    how.add_argument("--results", type=path, default=Path("results"), help="folder whose cache keeps the images")
    how.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    how.add_argument("--cpus-per-trial", type=positive, help="CPU threads (default: 1 for small models, else all)")
    result.set_defaults(data=None, limit=None, executor="local", gpus_per_trial=None, timeout=None, address=None)
    result.set_defaults(no_fp32_gate=True)
    return result


def main(words: list[str] | None = None) -> int:
    """Run the command; returns 0, 2 for bad input, 130 when interrupted."""
    return run_command(lambda: _images(parse(parser(), words)[0]))


def _images(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from harness.cli.arguments import read_request, refuse_unused, run_settings
    from harness.inputs.image_sets import DEAD_LEAVES, DIGITS, DataSource
    from harness.plan.plan import make_plan
    from harness.record.files import write_atomically
    from harness.report.formats.console import print_table
    from methods.errors import UsageError
    from methods.registry import BACKENDS

    inputs, method = taken(Inputs, arguments), arguments.method
    if arguments.images:
        inputs = replace(inputs, set=[*inputs.set, f"{method}.images={arguments.images}"])
    any_backend = BACKENDS.names()[:1]  # images depend neither on it nor on bits
    matrix = Matrix([arguments.model], [method], any_backend, ["w8a8"], arguments.seeds.split(","))
    nothing = {DIGITS: DataSource(DIGITS, 1), "imagenet": DataSource(DEAD_LEAVES, 1)}  # is evaluated
    request = read_request(matrix, inputs, nothing)
    refuse_unused(inputs.set, [method])
    settings, _ = run_settings(taken(Running, arguments), inputs.plugin, [request])
    syntheses = list(make_plan([request], settings.results).images.values())
    if len(syntheses) != 1:
        raise UsageError("The images of one model, one method and one seed make a folder.")
    tensors = made(syntheses[0], settings)
    console = Console()
    if arguments.diagnose:
        print_table(_diagnosis(syntheses[0], tensors, settings), console)
    for name, content in files(syntheses[0], tensors).items():
        write_atomically(arguments.out / name, content)
    console.print(f"{arguments.out}: {len(tensors['images'])} images", markup=False, highlight=False, soft_wrap=True)
    return 0


def made(job: SynthesisJob, settings: RunSettings) -> dict[str, Tensor]:
    """Return all tensors of a synthesis, making it unless it is there."""
    from harness.cli.view import progress_bar
    from harness.record.cache import Cache
    from harness.trial.synthesis import run_synthesis

    cache = Cache.of(settings.results, "synthesis")
    entry = cache.load(job.key)
    if entry is None:
        with progress_bar(job.label()) as report:
            run_synthesis(job, settings, lambda stage, done, total, seen="": report(done, total))
        entry = cache.load(job.key)
    assert entry is not None, "it was stored a moment ago"
    return entry.tensors


def files(job: SynthesisJob, tensors: dict[str, Tensor]) -> dict[str, bytes]:
    """Return the files of a synthesis by their names in the folder."""
    from safetensors.torch import save

    from harness.trial.contact_sheet import contact_sheet

    entry = job.subject.entry
    about = {
        "model": entry.tag,
        "method": job.method,
        "seed": str(job.seed),
        "settings": json.dumps(asdict(job.config)),
        "mean": json.dumps(entry.mean),
        "std": json.dumps(entry.std),
    }
    rows = _rows(entry, tensors)
    pictures = {str(row["file"]): _png(entry, image) for row, image in zip(rows, tensors["images"], strict=True)}
    kept = {name: tensor.contiguous() for name, tensor in tensors.items()}
    return {
        **pictures,
        _TENSORS: save(kept, about),
        _LABELS: _csv(rows),
        _SHEET: contact_sheet(entry, tensors, job.label()),
    }


def _rows(entry: ModelEntry, tensors: dict[str, Tensor]) -> list[dict[str, str | int | float]]:
    """Return file, class, its name and its probability in the target of every image; empty where it has none."""
    from harness.trial.contact_sheet import class_names

    names, width = class_names(entry), len(str(len(tensors["images"]) - 1))
    rows: list[dict[str, str | int | float]] = []
    for index in range(len(tensors["images"])):
        label = int(tensors["labels"][index]) if "labels" in tensors else None
        name = "" if label is None else names[label]
        share = float(tensors["targets"][index, label]) if label is not None and "targets" in tensors else ""
        stem = "-".join(filter(None, [f"{index:0{width}}", _slug(name)]))
        rows.append({"file": f"{stem}.png", "label": "" if label is None else label, "name": name, "share": share})
    return rows


def _slug(name: str) -> str:
    """Return the first of a class's names as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "_", name.partition(",")[0].lower()).strip("_")


def _csv(rows: list[dict[str, str | int | float]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, ["file", "label", "name", "share"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _png(entry: ModelEntry, image: Tensor) -> bytes:
    from PIL import Image

    from harness.trial.contact_sheet import denormalized

    stream = io.BytesIO()
    Image.fromarray(denormalized(entry, image)).save(stream, format="PNG")
    return stream.getvalue()


def _diagnosis(job: SynthesisJob, tensors: dict[str, Tensor], settings: RunSettings) -> Grid:
    """Return the table of what there is to say of every image."""
    from harness.trial.diagnosis import diagnosed
    from harness.trial.reference import model_of
    from methods.errors import UsageError

    if "labels" not in tensors:
        raise UsageError(f"Images of {job.method} have no class of their own to be recognized by.")
    images = tensors["images"]
    labels = tensors["labels"][: len(images)]  # those of an image's regions may follow
    found = diagnosed(model_of(job.subject, settings), images, labels)
    return table(job.label(), [str(row["file"]) for row in _rows(job.subject.entry, tensors)], found)


def table(title: str, names: list[str], found: Diagnosis) -> Grid:
    """Return a diagnosis as a table, the mean of all images last."""
    import torch

    from harness.report.text_table import Grid, Word

    figures = torch.stack([found.own, found.under_crops, found.low, found.contrast], dim=1)
    rows = [*zip(names, figures, strict=True), ("mean", figures.mean(0))]
    body = [[Word(name), *(Word(f"{value:.3f}") for value in values.tolist())] for name, values in rows]
    header = ["image", "own class", "own class, crops", "low frequencies", "contrast"]
    return Grid(title, header, body, [])


if __name__ == "__main__":
    sys.exit(main())
