"""Which layers mind being quantized: `python -m harness.sensitivity --model vit_digits --images digits-train`.

Every layer's weight and input, and every attention's operands, are quantized alone by a backend that is calibrated on
some images; the table tells the error of the layer's output and the KL divergence of the model's, on the same images.
With `--results` the figures are kept beside a study's records, where the page draws them. With `--suggest 4.5` the
bits of that mean width that lose least by these figures are written as a file for `--bits`.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli.command import run_command
from harness.cli.options import command_parser, listed, named, path, positive, taken

if TYPE_CHECKING:
    from torch import Tensor

    from harness.inputs.zoo import ModelEntry
    from harness.report.syntheses import LayerReport
    from harness.sensitivity.measure import Sensitivity

_EXAMPLES = """examples:
  python -m harness.sensitivity --model vit_digits --images digits-train
  python -m harness.sensitivity --model deit_t --images DIR --suggest 4.5 --bits-out mixed.toml
"""


@dataclass(frozen=True)
class Asked:
    """What to measure, as typed."""

    model: str
    """A short name or a full timm name."""
    images: str
    """A folder of images, a .safetensors of them, or the name of a set."""
    count: int
    """How many of them."""
    backend: str
    """What quantizes."""
    widths: list[str]
    """Bits that are tried, 2 to 8 each."""
    suggest: float | None
    """The mean width that bits are chosen for; None: none are."""
    bits_out: Path
    """The file of these bits."""
    out: Path | None
    """A Markdown file of the table."""
    results: Path | None
    """A results folder whose page draws them."""
    weights: str | None
    """Folder of weights, or `random`; None: DFQ_WEIGHTS, else timm's hub."""
    device: str
    """`cpu` or `cuda`."""


def main(words: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    asked = taken(Asked, parser().parse_args(words))
    return run_command(lambda: _measure(asked))


def parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    result = command_parser("sensitivity", "Quantize every layer alone and tell what it costs.", _EXAMPLES)
    result.add_argument("--model", required=True, help="short name or full timm name")
    result.add_argument(
        "--images", required=True, help="a folder of images, a .safetensors of them, 'digits-train' or 'dead-leaves'"
    )
    result.add_argument("--count", type=positive, default=32, help="how many of them (default: 32)")
    result.add_argument("--backend", default="repq", help="what quantizes (default: repq)")
    result.add_argument("--widths", type=listed, default="3,4,5,6,8", help="bits that are tried, 2 to 8 each")
    result.add_argument("--suggest", type=float, metavar="MEAN", help="choose bits of this mean width")
    result.add_argument("--bits-out", type=path, default=Path("mixed.toml"), help="where --suggest writes them")
    result.add_argument("--out", type=path, help="write the table to this file as Markdown as well")
    result.add_argument("--results", type=path, metavar="FOLDER", help="keep the figures there, for the page to draw")
    result.add_argument(
        "--weights", type=named, help="folder of weights, or 'random' (default: DFQ_WEIGHTS, then timm's hub)"
    )
    result.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    return result


def _measure(asked: Asked) -> int:
    from rich.console import Console

    from harness.inputs import plugins as catalog
    from harness.inputs.named_models import select_models
    from harness.record.files import write_atomically
    from harness.report.formats.charts import layers_grid
    from harness.report.formats.console import print_table
    from harness.report.formats.markdown import markdown

    catalog.load()
    [entry] = select_models([asked.model], asked.weights)
    found = _sensitivities(entry, asked)
    report = layer_report(entry.name, asked, found)
    grid = layers_grid(report)
    print_table(grid, Console())
    if asked.results:
        write_atomically(asked.results / report.name, encoded(report))
    if asked.out:
        write_atomically(asked.out, markdown([grid]).encode())
    if asked.suggest is not None:
        _suggest(found, asked, asked.suggest)
    return 0


def _sensitivities(entry: ModelEntry, asked: Asked) -> list[Sensitivity]:
    from harness.inputs.weights import find_weights, image_space, load_model
    from harness.plan.settings import defaults
    from harness.sensitivity.measure import quantizer, sensitivities
    from methods.contracts import silent
    from methods.registry import BACKENDS

    widths = _widths(asked.widths)
    backend = BACKENDS.get(asked.backend)
    model = load_model(entry, find_weights(entry, asked.weights)).to(asked.device)
    images = _images(entry, asked.images, asked.count).to(asked.device)
    quantize = quantizer(backend, model, images, defaults(backend, entry.name), image_space(entry))
    return sensitivities(model, images, widths, quantize, silent)


def _widths(given: list[str]) -> list[int]:
    from methods.bits import Bits

    return sorted({Bits.parse(f"w{word}a{word}").weights for word in given})


def _images(entry: ModelEntry, where: str, count: int) -> Tensor:
    """Return normalized images [n, C, H, W]; synthetic ones are kept normalized in a synthesis' file."""
    from harness.inputs.image_sets import DataSource, checked, folder_of, load_pixels, open_images
    from harness.inputs.weights import image_space

    if where.endswith(".safetensors"):
        return _kept(Path(where))[:count]
    source = checked(folder_of(entry, where, count) if Path(where).is_dir() else DataSource(where, count), False)
    pixels = load_pixels(source, entry, range(len(open_images(source))))
    return image_space(entry).normalize(pixels)


def _kept(path: Path) -> Tensor:
    """Read the images of a synthesis, as `results/cache/synthesis` keeps them."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from methods.errors import UsageError

    try:
        return load_file(path)["images"]
    except (OSError, SafetensorError, KeyError) as error:
        raise UsageError(f"{path} holds no images: {error}.") from error


def layer_report(model: str, asked: Asked, found: list[Sensitivity]) -> LayerReport:
    """Return what was found as a results folder keeps it: figures to four digits, by part and width."""
    from harness.report.syntheses import LayerPart, LayerReport

    widths = sorted({row.width for row in found})
    cells = {(row.part, row.width): row for row in found}
    parts = []
    for part in dict.fromkeys(row.part for row in found):
        rows = [cells[part, width] for width in widths]
        figures = ([_digits(row.error) for row in rows], [_digits(row.kl) for row in rows])
        parts.append(LayerPart(part.layer, part.side, part.values, *figures))
    return LayerReport(model, asked.backend, Path(asked.images).name, asked.count, widths, parts)


def _digits(value: float) -> float | None:
    """Return a figure with four digits; None for one that is not finite, as of a layer whose output is all zeros."""
    return float(f"{value:.4g}") if math.isfinite(value) else None


def encoded(report: LayerReport) -> bytes:
    """Return a layer report as its file's content, a line per part."""
    import msgspec

    return msgspec.json.encode(report).replace(b'{"layer"', b'\n{"layer"') + b"\n"


def _suggest(found: list[Sensitivity], asked: Asked, mean: float) -> None:
    from harness.record.files import write_atomically
    from harness.sensitivity.measure import as_toml, mean_width, suggested

    widths = suggested(found, mean)
    means = [mean_width(widths, weights) for weights in (True, False)]
    comment = f"mean width {means[0]:.3f} of weights, {means[1]:.3f} of activations; {asked.model}, {asked.backend}"
    write_atomically(asked.bits_out, as_toml(widths, comment).encode())
    print(f"{asked.bits_out}: {comment}")


if __name__ == "__main__":
    sys.exit(main())
