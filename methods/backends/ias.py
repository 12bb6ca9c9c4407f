"""`ias`: I&S-ViT, block-wise learning in three stages around RepQ-ViT's scale reparameterization.

First the network learns to live with quantized activations, weights in floating point, channel by channel behind
LayerNorm, where errors are small and the loss is smooth; then the channels' scales move into LayerNorm and
the next layer (`methods.quant.reparameterize`), which changes nothing; then weights are quantized and learned
again. The softmax output is quantized by the shift-uniform-log2 quantizer. Targets of both are outputs of the
floating-point model's units. The image has eight bits (the published code leaves it in floating
point), and ranges are found one after another (inferred).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor, nn

from methods.backends import repq
from methods.bits import FLOAT, Bits
from methods.contracts import Backend, QuantizationContext, Report
from methods.errors import UsageError
from methods.quant.calibrate import calibrate
from methods.quant.insert import fold_weights, insert_quantizers, quantized_layers
from methods.quant.learning.reconstruct import reconstruct
from methods.quant.learning.settings import Learning
from methods.quant.quantizers.ranges import WEIGHT_PERCENTILES, PercentileRange
from methods.quant.quantizers.shift_uniform_log2 import ShiftUniformLog2Quantizer
from methods.quant.quantizers.uniform import UniformQuantizer
from methods.quant.reparameterize import reparameterize

RECIPE = replace(
    repq.RECIPE,
    weights=lambda bits: UniformQuantizer(bits, PercentileRange(WEIGHT_PERCENTILES), axis=0),
    attention=lambda bits: ShiftUniformLog2Quantizer(bits, repq.SEARCH),
)
_LOW_BITS, _SHARE = 4, 5


@dataclass(frozen=True)
class IasConfig:
    """Settings of both learning stages; defaults are those of the published code."""

    iterations: int = 1000
    """Adam steps per unit and stage where weights or activations have at most 4 bits, a fifth of them where both have
    more (published: 1000 and 200; 0 learns nothing)."""
    learning_rate: float = 4e-5
    """Learning rate at the first step, decayed to zero by a half cosine."""
    batch: int = 64
    """Images in a step, drawn anew for each (0: all)."""

    def __post_init__(self) -> None:
        if self.iterations < 0 or self.learning_rate <= 0 or self.batch < 0:
            raise UsageError("ias needs iterations >= 0, learning_rate > 0 and batch >= 0.")

    def learning(self, bits: Bits) -> Learning:
        """Return how units are learned at a bit-width."""
        share = 1 if min(bits.weights, bits.activations) <= _LOW_BITS else _SHARE
        return Learning(-(-self.iterations // share), self.learning_rate, self.batch)


class Ias(Backend):
    """Channel-wise calibration behind LayerNorm, shift-uniform-log2 attention, three stages."""

    name = "ias"
    version = 2
    paper = "I&S-ViT (arXiv 2311.10126)"
    config_class = IasConfig
    inferred = "the image at eight bits; ranges one after another"
    short: ClassVar = {"iterations": 50}
    space: ClassVar = {
        "iterations": {"min": 0, "max": 1000},
        "learning_rate": {"min": 1e-6, "max": 1e-3, "scaling": "log"},
    }

    def image_passes(self, config: Any, images: int) -> float:
        """Count every step of both stages at low bits as one forward+backward pass of its images."""
        return float(images + 2 * config.iterations * min(config.batch or images, images))

    def quantize(
        self, model: nn.Module, images: Tensor, bits: Bits, config: Any, context: QuantizationContext
    ) -> nn.Module:
        """Learn with quantized activations, reparameterize, learn with quantized weights, fold them."""
        quantized, learning = insert_quantizers(model, bits, RECIPE, context.space), config.learning(bits)
        stages = [width != FLOAT and learning.iterations > 0 for width in (bits.activations, bits.weights)]
        with exact_weights(quantized):
            calibrate(quantized, images, sequential=True)
            if stages[0]:
                report = _stage(context.report, 0, sum(stages))
                reconstruct(model, quantized, images, learning, context.generator, report)
            reparameterize(quantized)
        if stages[1]:
            report = _stage(context.report, sum(stages) - 1, sum(stages))
            reconstruct(model, quantized, images, learning, context.generator, report)
        fold_weights(quantized)
        return quantized


def _stage(report: Report, before: int, stages: int) -> Report:
    """Return a report for one of several stages of equal length."""
    return lambda done, total: report(before * total + done, stages * total)


@contextmanager
def exact_weights(model: nn.Module) -> Iterator[None]:
    """Leave the weights in floating point for a while, then fit their quantizers to what they have become."""
    layers = [layer for _, layer in quantized_layers(model) if layer.weights is not None]
    for layer in layers:
        layer.folded = True
    try:
        yield
    finally:
        for layer in layers:
            assert layer.weights is not None
            layer.weights.fit(layer.layer.weight)
            layer.folded = False
