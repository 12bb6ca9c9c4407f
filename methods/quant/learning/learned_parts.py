"""What of a unit is learned, and how it is put in place for a while: weights, roundings, scales, and values dropped.

QDrop: while a unit learns, some activations are left in floating point at random (Wei et al., ICLR 2022). The paper
quantizes every value with probability one half, anew in each step, so that what is learned is flat in the direction of
the activations' errors and fits the images seen less closely.
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
from methods.quant.quantizers.learned_scale import LearnedScaleQuantizer, Stretching
from methods.quant.quantizers.learned_step import LearnedStepQuantizer
from methods.quant.quantizers.shifted_log import ShiftedLogQuantizer
from methods.quant.quantizers.tail_log import TailLogQuantizer
from methods.quant.quantizers.uniform import UniformQuantizer

Learned = LearnedStepQuantizer | LearnedScaleQuantizer


@contextmanager
def dropping(quantizers: Iterable[Quantizer], probability: float, generator: torch.Generator) -> Iterator[None]:
    """Let every value pass `quantizers` unquantized with `probability`, rounded to 1/256 (0: nothing changes).

    Only where gradients are recorded; those of values that pass are not clipped. The CPU `generator` draws, or what it
    seeds on a device, so that devices drop others.
    """
    threshold = round(256 * probability)
    leave = partial(_leave, threshold, _Draws(generator))
    hooks = [quantizer.register_forward_hook(leave) for quantizer in quantizers] if threshold else []
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _Draws:
    """Draws on the device of what is dropped: bytes that come from the CPU would keep a GPU waiting."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def on(self, device: torch.device) -> torch.Generator:
        """Return the generator to draw with on a device."""
        if self._generator.device.type != device.type:
            seed = int(torch.randint(2**62, (1,), generator=self._generator))
            self._generator = torch.Generator(device).manual_seed(seed)
        return self._generator


def _leave(threshold: int, draws: _Draws, _quantizer: nn.Module, arguments: tuple[Tensor], output: Tensor) -> Tensor:
    x = arguments[0]
    if not torch.is_grad_enabled():
        return output
    return torch.where(drawn(x.shape, threshold, draws.on(x.device)), x, output)


def drawn(shape: torch.Size, threshold: int, generator: torch.Generator) -> Tensor:
    """Return a boolean tensor, True with probability threshold/256 (1..256); a random byte decides each."""
    words = torch.empty(-(-shape.numel() // 8), dtype=torch.int64, device=generator.device)
    words.random_(-(2**63), None, generator=generator)
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
def learned_scales(unit: nn.Module) -> Iterator[list[Learned]]:
    """Give a unit's activation quantizers scales that can be learned; in the end they are plain again.

    Uniform ones, unless their range is known, and stretching logarithmic ones are; zero points, rates and tails in
    units of the scale stay.
    """
    weights = {id(layer.weights) for _, layer in quantized_layers(unit)}
    places = [
        (parent, name, _learnable(child))
        for parent in unit.modules()
        for name, child in parent.named_children()
        if isinstance(child, UniformQuantizer | ShiftedLogQuantizer | TailLogQuantizer)
        and id(child) not in weights
        and not (isinstance(child, UniformQuantizer) and child.search.known)
    ]
    for parent, name, quantizer in places:
        setattr(parent, name, quantizer)
    try:
        yield [quantizer for _, _, quantizer in places]
    finally:
        for parent, name, quantizer in places:
            setattr(parent, name, quantizer.freeze())


def _learnable(quantizer: UniformQuantizer | Stretching) -> Learned:
    if isinstance(quantizer, UniformQuantizer):
        return LearnedStepQuantizer(quantizer, learn_offset=False)
    return LearnedScaleQuantizer(quantizer)


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
