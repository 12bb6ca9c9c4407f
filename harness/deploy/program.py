"""A quantized model as a torch.export program whose quantizers are pairs of quantize and dequantize operations."""

from __future__ import annotations

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
        return export(model, (images,), dynamic_shapes=({0: Dim("batch")},))
