"""What every layer does to the model when it alone is quantized, at several widths, and the bits this speaks for.

Bits are chosen by a knapsack, for weights and for activations alike: of every part exactly one width, so that the sum
of the KL divergences each part causes alone is least and the mean width over all numbers is at most what is asked for.
That divergences add up is an assumption; solved exactly as a mixed-integer linear program.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from methods.bits import FLOAT, Bits
from methods.errors import UsageError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from methods.contracts import Backend, ImageSpace

WEIGHT, INPUT, OPERANDS = "weight", "input", "operands"
"""What of a layer is quantized: its weight, its input, or the operands of an attention module's two products."""


@dataclass(frozen=True)
class Part:
    """One side of one layer."""

    layer: str
    """The layer's or attention module's name in the model."""
    side: str
    """`weight`, `input` or `operands`."""
    values: int
    """How many numbers are stored or, of activations, made for one image."""

    def alone(self, width: int) -> Bits:
        """Return bits that quantize this part alone."""
        own = Bits(width, FLOAT) if self.side == WEIGHT else Bits(FLOAT, width)
        return Bits(FLOAT, FLOAT, ((self.layer, own),), "alone")


@dataclass(frozen=True)
class Sensitivity:
    """What one part at one width does."""

    part: Part
    width: int
    error: float
    """|y^ - y|^2 / |y|^2 of the layer's output, for what comes in from the model otherwise in floating point."""
    kl: float
    """Mean KL divergence of the model's distribution from the quantized one, in nats."""


def parts(model: nn.Module, image: Tensor) -> list[Part]:
    """Return the parts of a model in the order of its layers; image: [1, C, H, W]."""
    from methods.models.architecture import named_attentions, product_layers

    attentions, layers = dict(named_attentions(model)), dict(product_layers(model))
    sizes: dict[str, int] = {}
    hooks = [layer.register_forward_hook(_sizes_of(sizes, name)) for name, layer in layers.items()]
    _run(model, image)
    for hook in hooks:
        hook.remove()
    found = []
    for name, layer in layers.items():
        found += [Part(name, WEIGHT, layer.weight.numel()), Part(name, INPUT, sizes[f"{name} input"])]
    for name, attention in attentions.items():
        tokens = sizes[f"{name}.qkv output"] // attention.qkv.out_features
        maps = attention.num_heads * tokens * _keys(attention, tokens)
        found.append(Part(name, OPERANDS, sizes[f"{name}.qkv output"] + maps))
    order = {name: place for place, (name, _) in enumerate(model.named_modules())}
    return sorted(found, key=lambda part: order[part.layer])


def _keys(attention: Any, tokens: int) -> int:
    """Return how many keys a query meets: all tokens, or those of its window."""
    window = getattr(attention, "window_area", tokens)
    return int(window)


def _sizes_of(sizes: dict[str, int], name: str) -> Callable[..., None]:
    def keep(_layer: nn.Module, arguments: tuple[Tensor], output: Tensor) -> None:
        sizes[f"{name} input"], sizes[f"{name} output"] = arguments[0].numel(), output.numel()

    return keep


def sensitivities(
    model: nn.Module,
    images: Tensor,
    widths: list[int],
    quantize: Callable[[Bits], nn.Module],
    report: Callable[[int, int], None],
) -> list[Sensitivity]:
    """Quantize part after part alone, at every width, and compare with the model on images [n, C, H, W]."""
    every, found = parts(model, images[:1]), []
    logits = _run(model, images)
    for part in every:
        with output_of(model, part.layer) as exact:
            _run(model, images)
        for width in widths:
            quantized = quantize(part.alone(width))
            with output_of(quantized, part.layer) as rounded:
                kl = divergence(logits, _run(quantized, images))
            found.append(Sensitivity(part, width, relative_error(rounded[0], exact[0]), kl))
            report(len(found), len(every) * len(widths))
    return found


@contextmanager
def output_of(model: nn.Module, layer: str) -> Iterator[list[Tensor]]:
    """Keep what a layer puts out inside the `with`."""
    found: list[Tensor] = []
    hook = model.get_submodule(layer).register_forward_hook(lambda _module, _arguments, output: found.append(output))
    yield found
    hook.remove()


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """Return |y^ - y|^2 / |y|^2."""
    return float((found - wanted).double().square().sum() / wanted.double().square().sum())


def divergence(reference: Tensor, logits: Tensor) -> float:
    """Return the mean KL divergence of the reference's distribution from the other."""
    from torch.nn import functional

    found = functional.kl_div(
        logits.double().log_softmax(1), reference.double().log_softmax(1), reduction="batchmean", log_target=True
    )
    return float(found)


def _run(model: nn.Module, images: Tensor) -> torch.Tensor:
    import torch

    with torch.no_grad():
        logits: Tensor = model(images)
    return logits


def quantizer(
    backend: Backend, model: nn.Module, images: Tensor, config: Any, space: ImageSpace
) -> Callable[[Bits], nn.Module]:
    """Return what quantizes the model at given bits, calibrated on the images, always with the same draws."""
    from harness.inputs.seeds import generator
    from methods.contracts import QuantizationContext

    def quantize(bits: Bits) -> nn.Module:
        return backend.quantize(model, images, bits, config, QuantizationContext(generator(0, "sensitivity"), space))

    return quantize


def suggested(found: Sequence[Sensitivity], mean: float) -> dict[Part, int]:
    """Return a width for every part, of those measured; the mean holds for weights and for activations.

    Raises UsageError where the smallest widths measured are more than the mean.
    """
    weights = [row for row in found if row.part.side == WEIGHT]
    activations = [row for row in found if row.part.side != WEIGHT]
    return _chosen(weights, mean) | _chosen(activations, mean)


def _chosen(rows: Sequence[Sensitivity], mean: float) -> dict[Part, int]:
    """Solve one knapsack: one variable per row, 1 where the part has this width."""
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp

    parts = list(dict.fromkeys(row.part for row in rows))
    values = sum(part.values for part in parts)
    one_each = np.array([[float(row.part == part) for row in rows] for part in parts])
    share = np.array([[row.part.values * row.width / values for row in rows]])
    limits = [LinearConstraint(one_each, 1, 1), LinearConstraint(share, -np.inf, mean)]
    cost = np.array([row.kl for row in rows])
    solution = milp(cost, integrality=np.ones(len(rows)), bounds=Bounds(0, 1), constraints=limits)
    if not solution.success:
        raise UsageError(f"No choice of the widths measured has a mean of {mean:g} bits or less.")
    return {row.part: row.width for row, taken in zip(rows, solution.x, strict=True) if taken > 0.5}


def mean_width(widths: dict[Part, int], weights: bool) -> float:
    """Return the mean over all numbers of weights, or of activations."""
    chosen = {part: width for part, width in widths.items() if (part.side == WEIGHT) == weights}
    return sum(part.values * width for part, width in chosen.items()) / sum(part.values for part in chosen)


def as_toml(widths: dict[Part, int], comment: str) -> str:
    """Return the file that `--bits` takes; comment: its first line."""
    layers: dict[str, dict[str, int]] = {}
    for part, width in widths.items():
        layers.setdefault(part.layer, {})[part.side] = width
    lines = []
    for layer, sides in layers.items():
        activations = sides.get(INPUT, sides.get(OPERANDS))
        lines.append(f'"{layer}" = "w{sides.get(WEIGHT, activations)}a{activations}"')
    return "\n".join([f"# {comment}", 'default = "w8a8"', "[layers]", *lines]) + "\n"
