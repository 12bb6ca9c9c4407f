"""What a quantized model would cost as real integers: bytes to store it, and bit operations for one image.

Read off the list of quantized operations, so that what counts is what a backend says it quantizes, at those bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from methods.bits import FLOAT
from methods.models.architecture import named_attentions
from methods.models.calls import CallSite
from methods.models.functions import Product
from methods.models.trace import trace
from methods.quant.insert import quantized_layers
from methods.quant.quantizers.base import Quantizer
from methods.quant.recipe import HeadwiseQuantizer
from methods.quant.runtimes import OnnxModel


@dataclass(frozen=True)
class Costs:
    """size_bytes: parameters at their bits, each tensor filled up to whole bytes, and the quantizers' scales, zero
    points and offsets at 32 bits; macs: multiply-accumulates of all matrix products of one image; bitops: their
    sum, each times the bits of both operands, 32 for one in floating point."""

    size_bytes: int
    macs: int
    bitops: int


class _Product(NamedTuple):
    """Multiply-accumulates, and for each operand the operations by which it may be quantized."""

    macs: int
    left: tuple[str, ...]
    right: tuple[str, ...]


def costs(model: nn.Module, quantized: nn.Module, image: Tensor) -> Costs:
    """Return the costs of `quantized`, made from `model`, at the size of image [1, C, H, W].

    BitOps: sum over products of MACs x bits of the one operand x bits of the other, as mixed-precision work
    counts them; a product of two activations takes both operands' activation bits.
    """
    bits = {str(row["operation"]): int(row["bits"]) for row in describe(quantized)}
    products = _products(model, image)
    return Costs(
        size_bytes=_size(quantized, bits),
        macs=sum(product.macs for product in products),
        bitops=sum(macs * _width(bits, left) * _width(bits, right) for macs, left, right in products),
    )


def _width(bits: dict[str, int], operations: tuple[str, ...]) -> int:
    return next((bits[operation] for operation in operations if operation in bits), FLOAT)


def _size(quantized: nn.Module, bits: dict[str, int]) -> int:
    """Return the bytes of parameters and of the numbers of quantizers; what is not quantized takes 32 bits."""
    quantizers = [module for module in quantized.modules() if isinstance(module, Quantizer)]
    inside = {id(parameter) for quantizer in quantizers for parameter in quantizer.parameters()}
    total = 4 * sum(quantizer.constants for quantizer in quantizers)
    for name, parameter in quantized.named_parameters():
        owner, _, kind = name.rpartition(".")
        if id(parameter) not in inside:
            width = bits.get(f"{owner.removesuffix('.layer')} {kind}".strip(), FLOAT)
            total += -(-parameter.numel() * width // 8)
    return total


def _products(model: nn.Module, image: Tensor) -> list[_Product]:
    """Return the matrix products of one forward pass of `image`, with what their operands are called."""
    projected = {name for name, _ in named_attentions(model)}
    _, channels, height, width = image.shape
    seen = trace(model, (channels, height, width))
    return [part for product in seen.products for part in _named(product, projected)]


def _named(seen: Product, projected: set[str]) -> Iterator[_Product]:
    """Yield a product, or the two of attention, by the names its operands have in `describe`.

    Where operands of attention are quantized beside it, as slices of a projection's output, they have its module's
    name; the projection's output may also be quantized as a whole.
    """
    names = [f"{seen.name} {operand}" for operand in seen.operands]
    chosen: list[tuple[tuple[str, ...], tuple[str, ...]]]
    if seen.owner in projected and seen.layer is None:
        whole = f"{seen.owner}.qkv output"
        query, key, value = (f"{seen.owner} {operand}" for operand in ("query", "key", "value"))
        both: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
            ((query, whole), (key, whole)),
            ((f"{seen.owner} softmax",), (value, whole)),
        ]
        chosen = both if len(seen.macs) == 2 else [both[min(seen.index, 1)]]
    else:
        chosen = [((left,), (right,)) for left, right in zip(names[::2], names[1::2], strict=True)]
    for macs, (left, right) in zip(seen.macs, chosen, strict=True):
        yield _Product(macs, left, right)


_PLACED = {
    "attn_drop": "softmax",
    "logit_quantizer": "logits",
    "biased_logit_quantizer": "biased logits",
    "output_quantizer": "output",
    "sum_quantizer": "residual sum",
    "pos_embed_quantizer": "pos_embed",
    "relative_position_bias_table_quantizer": "relative_position_bias_table",
}
"""What a quantizer of this name quantizes in the module that holds it."""
_NORMED = {"q_norm": "query", "k_norm": "key"}


def describe(model: nn.Module) -> list[dict[str, str | int]]:
    """List what is quantized, with which quantizer and how many bits, for the record."""
    if isinstance(model, OnnxModel):
        return model.describe()
    rows: list[dict[str, str | int]] = []

    def add(operation: str, quantizer: nn.Module | None) -> None:
        if isinstance(quantizer, Quantizer | HeadwiseQuantizer):
            rows.append({"operation": operation, "quantizer": quantizer.describe(), "bits": quantizer.bits})

    for name, layer in quantized_layers(model):
        add(f"{name} weight", layer.weights)
        add(f"{name} input", layer.inputs)
        parent = name.rpartition(".")[0]
        operands = [f"{parent} {operand}" for operand in ("query", "key", "value")]
        for operation, quantizer in zip(
            [f"{name} output"] if len(layer.outputs) == 1 else operands, layer.outputs, strict=False
        ):
            add(operation, quantizer)
    for name, module in model.named_modules():
        parent, _, child = name.rpartition(".")
        if child in _PLACED:
            add(f"{parent} {_PLACED[child]}".strip(), module)
        elif child in _NORMED:
            add(f"{parent} {_NORMED[child]}", module[1] if isinstance(module, nn.Sequential) else None)
        elif isinstance(module, CallSite):
            for operand, quantizer in module.parts.items():
                add(f"{name.rpartition('.products.')[0]} {module.index} {operand}", quantizer)
    left: dict[str, str] = getattr(model, "left_in_float", {})
    return rows + [{"operation": name, "quantizer": f"none, {why}", "bits": FLOAT} for name, why in left.items()]
