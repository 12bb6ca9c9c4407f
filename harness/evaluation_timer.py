"""Times a quantized model's forward passes against those of its FP32 self, and how long its quantization takes.

Both run the batch size and, where quantizers need the attention map, the unfused attention of an evaluation; they
take turns, so that both see the machine in the same state.
"""

from __future__ import annotations

import copy
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from methods.contracts import Backend
    from methods.quant.bits import Bits


@dataclass(frozen=True)
class EvaluationTimes:
    """quantize: seconds on all calibration images; float_pass, quantized_pass: median seconds of one forward pass;
    ratio: the median of the ratios of neighbouring passes."""

    quantize: float
    float_pass: float
    quantized_pass: float
    ratio: float


def time_evaluation(
    model: nn.Module, backend: Backend, config: Any, bits: Bits, images: Tensor, batch: int, repeats: int
) -> EvaluationTimes:
    """Quantize a model on images [n, C, H, W] and time passes of `batch` of noise through both.

    One pass of each goes ahead untimed.
    """
    import torch

    from methods.contracts import QuantizationContext

    start = _now(images.device)
    context = QuantizationContext(torch.Generator().manual_seed(0))
    quantized = backend.quantize(model, images, bits, config, context)
    seconds = _now(images.device) - start
    noise = torch.randn((batch, *images.shape[1:]), device=images.device)
    plain = model if bits.float else without_fused_attention(model)
    pairs = [(_pass(plain, noise), _pass(quantized, noise)) for _ in range(1 + repeats)][1:]
    return EvaluationTimes(
        seconds,
        statistics.median(plain for plain, _ in pairs),
        statistics.median(slow for _, slow in pairs),
        statistics.median(slow / plain for plain, slow in pairs),
    )


def without_fused_attention(model: nn.Module) -> nn.Module:
    """Return a copy of a model that computes its attention maps, as a model with quantized attention must."""
    from methods.architecture import attention_modules

    plain = copy.deepcopy(model)
    for attention in attention_modules(plain):
        attention.fused_attn = False
    return plain


def _pass(model: nn.Module, images: Tensor) -> float:
    """Return the seconds of one forward pass."""
    import torch

    start = _now(images.device)
    with torch.inference_mode():
        model(images)
    return _now(images.device) - start


def _now(device: torch.device) -> float:
    """Return the time in seconds, after all work handed to the device."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
