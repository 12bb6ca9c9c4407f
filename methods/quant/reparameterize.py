"""RepQ-ViT's scale reparameterization: from one scale per channel behind a LayerNorm to one for the tensor.

Calibrated channel by channel, activations X have scales s and offsets m (per channel). With the common scale
s~ = mean s and zero point z~, and r = s/s~,

    X' = X/r - b,  b = m/r + s~ z~

lies on the grid of (s~, z~) exactly where X lies on that of (s, m). X' is what the LayerNorm puts out with
weight gamma/r and bias beta/r - b; the next layer undoes it with weight W r and bias + W r b.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from methods.quant.insert import quantized_layers
from methods.quant.layers import QuantizedLayer
from methods.quant.quantizers.uniform import OffsetQuantizer, UniformQuantizer


def reparameterize(model: nn.Module) -> None:
    """Make every calibrated channel-wise quantizer behind a LayerNorm of `model` per tensor, in place.

    The floating-point function stays the same. Weights change, so their quantizers are fitted again.
    """
    for _, layer in quantized_layers(model):
        if layer.norm is not None and isinstance(layer.inputs, OffsetQuantizer):
            norm = model.get_submodule(layer.norm)
            assert isinstance(norm, nn.LayerNorm)
            _reparameterize_pair(norm, layer, layer.inputs)


@torch.no_grad()
def _reparameterize_pair(norm: nn.LayerNorm, quantized: QuantizedLayer, channels: OffsetQuantizer) -> None:
    """Move the ratio of scales and the shift into the norm and the layer; arithmetic in float64."""
    scale, offset = channels.scale.flatten().double(), channels.offset.flatten().double()
    common, zero = common_grid(scale, offset, channels.codes[-1])
    ratio = scale / common
    shift = offset / ratio + common * zero
    norm.weight.copy_(norm.weight.double() / ratio)
    norm.bias.copy_(norm.bias.double() / ratio - shift)
    layer = quantized.layer
    weight = layer.weight.double() * ratio
    bias = weight @ shift
    if layer.bias is not None:
        bias += layer.bias.double()
    layer.weight.copy_(weight)
    layer.bias = nn.Parameter(bias.to(layer.weight.dtype), requires_grad=False)
    quantized.inputs = _per_tensor(channels, common, zero)
    if quantized.weights is not None:
        quantized.weights.fit(layer.weight)


def common_grid(scale: Tensor, offset: Tensor, highest: int) -> tuple[Tensor, Tensor]:
    """Return (s~, z~) of channels with scales [C] and offsets [C]: the mean scale and the mean zero point -m/s.

    The zero point is rounded into 0..highest, so that the grid holds zero (the paper's code leaves the mean as
    it is); the shift makes up for any choice.
    """
    return scale.mean(), (-offset / scale).mean().round().clamp(0, highest)


def _per_tensor(channels: OffsetQuantizer, scale: Tensor, zero: Tensor) -> UniformQuantizer:
    """Return the quantizer of the whole tensor; its search is not asked again."""
    quantizer = UniformQuantizer(channels.bits, channels.search)
    quantizer.scale, quantizer.zero_point = scale.float(), zero.float()
    return quantizer
