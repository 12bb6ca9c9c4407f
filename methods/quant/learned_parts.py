"""QDrop: while a unit learns, some activations are left in floating point at random (Wei et al., ICLR 2022).

The paper quantizes every value with probability one half, anew in each step, so that what is learned is flat
in the direction of the activations' errors and fits the images seen less closely.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from methods.quant.insert import quantized_layers
from methods.quant.layers import QuantizedLayer
from methods.quant.quantizers.adaround import AdaRoundQuantizer
from methods.quant.quantizers.base import Quantizer
from methods.quant.quantizers.learned_step import LearnedStepQuantizer
from methods.quant.quantizers.uniform import UniformQuantizer


@contextmanager
def dropping(quantizers: Iterable[Quantizer], probability: float, generator: torch.Generator) -> Iterator[None]:
    """Let every value pass `quantizers` unquantized with `probability`, rounded to 1/256 (0: nothing changes).

    Gradients of values that pass are not clipped. The CPU `generator` draws, so that all devices drop the same.
    """
    threshold = round(256 * probability)
    leave = partial(_leave, threshold, generator)
    hooks = [quantizer.register_forward_hook(leave) for quantizer in quantizers] if threshold else []
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _leave(
    threshold: int, generator: torch.Generator, _quantizer: nn.Module, arguments: tuple[Tensor], output: Tensor
) -> Tensor:
    x = arguments[0]
    return torch.where(drawn(x.shape, threshold, generator).to(x.device), x, output)


def drawn(shape: torch.Size, threshold: int, generator: torch.Generator) -> Tensor:
    """Return a boolean tensor, True with probability threshold/256 (1..256); a random byte decides each."""
    words = torch.empty(-(-shape.numel() // 8), dtype=torch.int64).random_(-(2**63), None, generator=generator)
    return (words.view(torch.uint8)[: shape.numel()] <= threshold - 1).view(shape)


@contextmanager
def learnable(parameters: list[Tensor]) -> Iterator[list[Tensor]]:
    """Let gradients reach the parameters for a while."""
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        yield parameters
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)
            parameter.grad = None


@contextmanager
def learned_scales(unit: nn.Module) -> Iterator[list[LearnedStepQuantizer]]:
    """Give a unit's uniform activation quantizers steps that can be learned; in the end they are plain again."""
    weights = {id(layer.weights) for _, layer in quantized_layers(unit)}
    places = [
        (parent, name, child)
        for parent in unit.modules()
        for name, child in parent.named_children()
        if isinstance(child, UniformQuantizer) and id(child) not in weights
    ]
    learned = [LearnedStepQuantizer(child, learn_offset=False) for _, _, child in places]
    for (parent, name, _), quantizer in zip(places, learned, strict=True):
        setattr(parent, name, quantizer)
    try:
        yield learned
    finally:
        for (parent, name, _), quantizer in zip(places, learned, strict=True):
            setattr(parent, name, quantizer.freeze())


@contextmanager
def learned_rounding(layers: Iterable[QuantizedLayer]) -> Iterator[list[AdaRoundQuantizer]]:
    """Give layers quantizers that learn how to round; in the end their weights lie on the grid, rounded so."""
    kept = []
    for layer in layers:
        if isinstance(layer.weights, UniformQuantizer) and not layer.folded:
            kept.append((layer, layer.weights))
            layer.weights = AdaRoundQuantizer(layer.weights, layer.layer.weight)
    learned = [layer.weights for layer, _ in kept if isinstance(layer.weights, AdaRoundQuantizer)]
    try:
        yield learned
    finally:
        with torch.no_grad():
            for (layer, plain), quantizer in zip(kept, learned, strict=True):
                layer.layer.weight.copy_(quantizer.hardened())
                layer.weights = plain
