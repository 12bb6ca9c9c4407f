"""`minmax`: calibration only. Weights symmetric per channel, activations asymmetric per tensor, min to max.

PSAQ-ViT's quantizer (ECCV 2022) in two protocols. `plain`: all operands of matrix products are quantized, the
softmax output uniformly too; LayerNorm, softmax and GELU stay in floating point. `psaq_vit`: as its published code
has it, every tensor that one operation hands to the next (`methods.quant.every_tensor`), among them both residual
sums, the logits of attention and, with the range seen, the image, while the softmax output stays in floating point;
ranges are those of the floating-point model's activations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from methods.bits import Bits
from methods.contracts import Backend, QuantizationContext
from methods.errors import unknown_name
from methods.quant.calibrate import calibrate
from methods.quant.every_tensor import check_protocol, fold_embeddings, insert_everywhere
from methods.quant.insert import fold_weights, insert_quantizers, weights_in_floating_point
from methods.quant.recipe import MIN_MAX

PROTOCOLS = ("plain", "psaq_vit")


@dataclass(frozen=True)
class MinMaxConfig:
    """Settings of `minmax`."""

    protocol: str = "plain"
    """Which tensors are quantized, "plain" (operands of matrix products) or "psaq_vit" (every tensor)."""

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise unknown_name("protocol", self.protocol, PROTOCOLS)


class MinMax(Backend):
    """Range calibration without learning."""

    name = "minmax"
    version = 2
    paper = "PSAQ-ViT (ECCV 2022), its plain form or its own protocol"
    config_class = MinMaxConfig

    def takes_formats(self, config: Any) -> bool:
        """The operands of matrix products can have any format."""
        return bool(config.protocol == "plain")

    def check(self, model: nn.Module, config: Any) -> None:
        """Refuse models that PSAQ-ViT's protocol does not know, where it is asked for."""
        if config.protocol != "plain":
            check_protocol(model)

    def image_passes(self, config: Any, images: int) -> float:
        """Count one forward pass per image, a third of a forward+backward."""
        return images / 3

    def quantize(
        self, model: nn.Module, images: Tensor, bits: Bits, config: Any, context: QuantizationContext
    ) -> nn.Module:
        """Insert quantizers, calibrate them on the images and fold the weights."""
        if config.protocol == "plain":
            quantized = insert_quantizers(model, bits, MIN_MAX, context.space)
            calibrate(quantized, images)
        else:
            quantized = insert_everywhere(model, bits, MIN_MAX.weights, MIN_MAX.activations)
            with weights_in_floating_point(quantized):
                calibrate(quantized, images)
            fold_embeddings(quantized)
        fold_weights(quantized)
        context.report(1, 1)
        return quantized
