"""Products with quantizers: layers swapped in for stock ones (linear, convolution, the fused q/k/v projection), and
call sites."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from methods.models.calls import CallSite, StandIn
from methods.models.functions import Function
from methods.quant.quantizers.base import Quantizer, workspace


class QuantizedLayer(StandIn):
    """A linear or convolution layer whose input and weight are fake-quantized.

    `outputs` holds quantizers (or identities) for equal slices of the last dimension of the result: for a fused q/k/v
    projection the three operands of the two attention products. While learning, the weight is quantized
    on every pass; `fold` quantizes it once and for all. norm: the name of the LayerNorm that feeds this layer and
    nothing else, if one does; image: whether the input is the model's own. Whatever else stock code asks of the layer
    it finds.
    """

    def __init__(
        self,
        layer: nn.Linear | nn.Conv2d,
        inputs: Quantizer | None,
        weights: Quantizer | None,
        outputs: list[nn.Module] | None = None,
        norm: str | None = None,
        image: bool = False,
    ) -> None:
        super().__init__()
        self.layer = layer
        self.norm, self.image = norm, image
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

    def __getattr__(self, name: str) -> Any:
        """Return what the layer has by a name that is not our own (its weight, its stride)."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "layer":
                raise
            return getattr(self.layer, name)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the layer on the quantized input with the quantized weight."""
        with workspace():
            x = self._product(x)
        return self._quantized_outputs(x) if self.outputs else x

    def _product(self, x: Tensor) -> Tensor:
        if self.inputs is not None:
            x = self.inputs(x)
        weight = self.layer.weight
        if not self.folded and self.weights is not None:
            weight = self.weights(weight)
        kind = type(self.layer).forward
        if kind is nn.Conv2d.forward:
            result: Tensor = self.layer._conv_forward(x, weight, self.layer.bias)  # type: ignore[operator]
        elif kind is nn.Linear.forward:
            result = nn.functional.linear(x, weight, self.layer.bias)
        else:  # a stock layer with a way of its own, which pads as TensorFlow does
            result = functional_call(self.layer, {"weight": weight}, (x,))
        return result

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


class QuantizedCall(CallSite):
    """A call site whose operands pass quantizers."""

    def forward(self, function: Function, arguments: tuple[Any, ...], options: Mapping[str, Any]) -> Tensor:
        """Compute the call on quantized operands."""
        with workspace():
            return super().forward(function, arguments, options)
