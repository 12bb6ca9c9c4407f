"""`repq`: RepQ-ViT (ICCV 2023), quantizers for calibration that scale reparameterization makes plain for inference.

What leaves a LayerNorm is calibrated channel by channel, the softmax output gets a logarithm to the base of
root two; then the channels' scales move into LayerNorm and the next layer (`methods.quant.reparameterize`),
and that layer's weight is calibrated again. All else is uniform, weights per output channel, activations
per tensor. No learning. Every quantizer is calibrated on what the quantizers before
it leave, as in the published code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from methods.bits import Bits
from methods.contracts import Backend, ImageSpace, QuantizationContext
from methods.quant.calibrate import calibrate
from methods.quant.insert import fold_weights, insert_quantizers
from methods.quant.quantizers.logarithmic import LogSqrt2Quantizer
from methods.quant.quantizers.ranges import ACTIVATION_PERCENTILES, PercentileRange
from methods.quant.quantizers.uniform import OffsetQuantizer, UniformQuantizer
from methods.quant.recipe import Recipe
from methods.quant.reparameterize import reparameterize

SEARCH = PercentileRange(ACTIVATION_PERCENTILES)
RECIPE = Recipe(
    weights=lambda bits: UniformQuantizer(bits, SEARCH, axis=0),
    activations=lambda bits: UniformQuantizer(bits, SEARCH),
    attention=lambda bits: LogSqrt2Quantizer(bits, SEARCH),
    normed=lambda bits: OffsetQuantizer(bits, SEARCH, axis=-1),
)


@dataclass(frozen=True)
class RepQConfig:
    """Nothing to set."""


class RepQ(Backend):
    """Channel-wise calibration behind LayerNorm, log-sqrt2 attention, scale reparameterization."""

    name = "repq"
    version = 2
    paper = "RepQ-ViT (arXiv 2212.08254; ICCV 2023)"
    config_class = RepQConfig

    def image_passes(self, config: Any, images: int) -> float:
        """Count one forward pass per image, a third of a forward+backward."""
        return images / 3

    def quantize(
        self, model: nn.Module, images: Tensor, bits: Bits, config: Any, context: QuantizationContext
    ) -> nn.Module:
        """Calibrate on the images, reparameterize, fold the weights."""
        quantized = reparameterized(model, images, bits, context.space)
        fold_weights(quantized)
        context.report(1, 1)
        return quantized


def reparameterized(
    model: nn.Module, images: Tensor, bits: Bits, space: ImageSpace, recipe: Recipe = RECIPE
) -> nn.Module:
    """Return a calibrated and reparameterized copy of `model` whose weights are not folded yet."""
    quantized = insert_quantizers(model, bits, recipe, space)
    calibrate(quantized, images, sequential=True)
    reparameterize(quantized)
    return quantized
