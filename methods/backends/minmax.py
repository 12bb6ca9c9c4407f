"""`minmax`: calibration only. Weights symmetric per channel, activations asymmetric per tensor, min to max.

The plain form of PSAQ-ViT's quantizer (ECCV 2022): all operands of matrix products are quantized, the
softmax output uniformly too; LayerNorm, softmax and GELU stay in floating point.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from methods.contracts import Backend, QuantizationContext
from methods.quant.bits import Bits
from methods.quant.calibrate import calibrate
from methods.quant.ranges import MinMaxRange
from methods.quant.swap import Recipe, fold_weights, insert_quantizers
from methods.quant.uniform import UniformQuantizer

RECIPE = Recipe(
    weights=lambda bits: UniformQuantizer(bits, MinMaxRange(), axis=0, symmetric=True),
    activations=lambda bits: UniformQuantizer(bits, MinMaxRange()),
    attention=lambda bits: UniformQuantizer(bits, MinMaxRange()),
)


@dataclass(frozen=True)
class MinMaxConfig:
    """Nothing to set."""


class MinMax(Backend):
    """Range calibration without learning."""

    name = "minmax"
    version = 1
    paper = "PSAQ-ViT (ECCV 2022), its plain form"
    config_class = MinMaxConfig

    def image_passes(self, config: Any, images: int) -> float:
        """Count one forward pass per image, a third of a forward+backward."""
        return images / 3

    def quantize(
        self, model: nn.Module, images: Tensor, bits: Bits, config: Any, context: QuantizationContext
    ) -> nn.Module:
        """Insert quantizers, calibrate them on the images and fold the weights."""
        quantized = insert_quantizers(model, bits, RECIPE)
        calibrate(quantized, images)
        fold_weights(quantized)
        context.report(1, 1)
        return quantized
