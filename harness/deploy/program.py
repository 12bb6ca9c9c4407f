"""A quantized model as a torch.export program whose quantizers are pairs of quantize and dequantize operations."""

from __future__ import annotations

import io

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram, export

from harness.deploy.graph import tidy
from methods.quant.lower import lowered


def quantized_program(model: nn.Module, image: Tensor) -> ExportedProgram:
    """Return the program of a quantized model for any number of images; image: one of them, [1, C, H, W].

    Raises UsageError for quantizers that are not uniform.
    """
    images = image.cpu().repeat(2, 1, 1, 1)  # one image would be taken for the only number there is
    graph = traced(lowered(model), images).module()
    assert isinstance(graph, fx.GraphModule)
    tidy(graph, images)
    return traced(graph, images)


def traced(model: nn.Module, images: Tensor) -> ExportedProgram:
    """Return the program of a model on the CPU for images [n, C, H, W] of any number n."""
    with torch.no_grad():
        model(images)  # some families keep what they compute first (timm's `attention_bias_cache`); export may not
        return export(model, (images,), dynamic_shapes=({0: Dim("batch")},))


def encoded(program: ExportedProgram, about: dict[str, str]) -> bytes:
    """Return the torch format's file of a program: torch.export.load reads it in a process without this package.

    about: goes among its extra files. Its quantize and dequantize operations are torch's own; a process that runs it
    imports them first: `from torch.ao.quantization.fx import _decomposed`.
    """
    stream = io.BytesIO()
    torch.export.save(program, stream, extra_files={f"{name}.json": text for name, text in about.items()})
    return stream.getvalue()
