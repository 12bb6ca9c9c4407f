"""Layers with quantizers, swapped in for stock ones: linear, convolution, and the fused q/k/v projection."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from methods.quant.quantizers.base import Quantizer


class QuantizedLayer(nn.Module):
    """A linear or convolution layer whose input and weight are fake-quantized.

    `outputs` holds quantizers (or identities) for equal slices of the last dimension of the result: for a fused q/k/v
    projection the three operands of the two attention products. While learning, the weight is quantized
    on every pass; `fold` quantizes it once and for all.
    """

    def __init__(
        self,
        layer: nn.Linear | nn.Conv2d,
        inputs: Quantizer | None,
        weights: Quantizer | None,
        outputs: list[nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.layer = layer
        self.inputs = inputs
        self.weights = weights
        self.outputs = nn.ModuleList(outputs or [])
        self.folded = weights is None
        if weights is not None:
            weights.fit(layer.weight.detach())

    def fold(self) -> None:
        """Replace the weight by its quantized values; from now on forward passes use it as it is."""
        if self.weights is not None and not self.folded:
            with torch.no_grad():
                self.layer.weight.copy_(self.weights(self.layer.weight))
        self.folded = True

    def forward(self, x: Tensor) -> Tensor:
        """Compute the layer on the quantized input with the quantized weight."""
        if self.inputs is not None:
            x = self.inputs(x)
        weight = self.layer.weight
        if not self.folded and self.weights is not None:
            weight = self.weights(weight)
        if isinstance(self.layer, nn.Conv2d):
            x = self.layer._conv_forward(x, weight, self.layer.bias)
        else:
            x = nn.functional.linear(x, weight, self.layer.bias)
        return self._quantized_outputs(x) if self.outputs else x

    def _quantized_outputs(self, x: Tensor) -> Tensor:
        """Quantize the slices of the result, in place where no gradient is needed."""
        slices = x.chunk(len(self.outputs), dim=-1)
        pairs = list(zip(self.outputs, slices, strict=True))
        plain = all(isinstance(quantizer, Quantizer | nn.Identity) for quantizer in self.outputs)
        if x.requires_grad or not plain or any(isinstance(q, Quantizer) and q.observing for q in self.outputs):
            return torch.cat([quantizer(part) for quantizer, part in pairs], dim=-1)
        for quantizer, part in pairs:
            if isinstance(quantizer, Quantizer):
                quantizer.fake_quantize_(part)
        return x
