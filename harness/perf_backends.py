"""The lines `harness.perf --backends` prints: how long backends quantize, and how fast what they made is evaluated."""

from __future__ import annotations

import argparse

from harness.evaluation_timer import time_evaluation
from harness.inputs.zoo import ModelEntry, select_models

COLUMNS = ["model backend bits", "quantize, s", "FP32 pass, s", "quantized pass, s", "ratio"]
NOTES = [
    "pass: forward, of a batch as large as an evaluation's; FP32 with unfused attention where quantizers need the "
    "attention map; ratio: median of neighbouring passes. Simulated quantization.",
]


def evaluation_lines(arguments: argparse.Namespace) -> list[tuple[str, ...]]:
    """Measure every model, backend and bit-width asked for."""
    return [
        measure(entry, backend, bits, arguments)
        for entry in select_models(arguments.models.split(","))
        for backend in arguments.backends.split(",")
        for bits in arguments.bits.split(",")
    ]


def measure(entry: ModelEntry, backend: str, bits: str, arguments: argparse.Namespace) -> tuple[str, ...]:
    """Quantize a model, time its evaluation and return a line of the table."""
    import torch

    from harness.inputs.seeds import generator
    from harness.inputs.weights import find_weights, image_space, load_model
    from harness.plan.settings import effective_config, read_overrides
    from harness.trial.evaluate import BATCH
    from methods.quant.bits import Bits
    from methods.registry import BACKENDS

    maker, device = BACKENDS.get(backend), torch.device(arguments.device)
    config = effective_config(maker, entry.name, read_overrides(None, arguments.set))
    model = load_model(entry, find_weights(entry, arguments.weights)).to(device)
    shape = (arguments.images, *image_space(entry).shape)
    images = torch.randn(shape, generator=generator(0, "perf")).to(device)
    times = time_evaluation(model, maker, config, Bits.parse(bits), images, BATCH[device.type], arguments.steps)
    figures = [f"{times.quantize:.2f}", f"{times.float_pass:.3f}", f"{times.quantized_pass:.3f}", f"{times.ratio:.2f}"]
    return (f"{entry.name} {backend} {bits}", *figures)
