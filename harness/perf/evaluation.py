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

from harness.inputs.named_models import select_models
from harness.inputs.zoo import ModelEntry
from harness.perf.steps import Timing

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from methods.bits import Bits
    from methods.contracts import Backend


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

    from methods.contracts import ImageSpace, QuantizationContext

    start = _now(images.device)
    _, channels, height, width = images.shape
    space = ImageSpace(height, width, (0.5,) * channels, (0.1,) * channels)
    context = QuantizationContext(torch.Generator().manual_seed(0), space)
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
    plain = copy.deepcopy(model)
    for module in plain.modules():
        if hasattr(module, "fused_attn"):
            vars(module)["fused_attn"] = False
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


COLUMNS = ["model backend bits", "quantize, s", "FP32 pass, s", "quantized pass, s", "ratio"]
NOTES = [
    "pass: forward, of a batch as large as an evaluation's; FP32 with unfused attention where quantizers need the "
    "attention map; ratio: median of neighbouring passes. Simulated quantization.",
]


def evaluation_lines(timing: Timing, backends: list[str], widths: list[str]) -> list[tuple[str, ...]]:
    """Measure every model, backend and bit-width asked for."""
    return [
        measure(entry, backend, bits, timing)
        for entry in select_models(timing.models, timing.weights)
        for backend in backends
        for bits in widths
    ]


def measure(entry: ModelEntry, backend: str, bits: str, timing: Timing) -> tuple[str, ...]:
    """Quantize a model, time its evaluation and return a line of the table."""
    import torch

    from harness.inputs.seeds import generator
    from harness.inputs.weights import find_weights, image_space, load_model
    from harness.plan.settings import effective_config, read_overrides
    from harness.trial.evaluate import BATCH
    from methods.bits import Bits
    from methods.registry import BACKENDS

    maker, device = BACKENDS.get(backend), torch.device(timing.device)
    config = effective_config(maker, entry.name, read_overrides({}, timing.set))
    model = load_model(entry, find_weights(entry, timing.weights)).to(device)
    shape = (timing.images, *image_space(entry).shape)
    images = torch.randn(shape, generator=generator(0, "perf")).to(device)
    times = time_evaluation(model, maker, config, Bits.parse(bits), images, BATCH[device.type], timing.steps)
    figures = [f"{times.quantize:.2f}", f"{times.float_pass:.3f}", f"{times.quantized_pass:.3f}", f"{times.ratio:.2f}"]
    return (f"{entry.name} {backend} {bits}", *figures)
