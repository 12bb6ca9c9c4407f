"""`blockwise`: SPDFQ's own backend, block-by-block learning of the quantized network (arXiv 2412.16553).

Channel-wise uniform weights, per-tensor uniform activations, log2 for the softmax output. Ranges start
from the percentile clip of least squared error (inferred: the sibling convention of RepQ-ViT, I&S-ViT and
ERQ). Then, unit by unit, weights and biases are learned so that the quantized unit, fed by the quantized
network so far, reproduces the output of the floating-point unit: L_l = ||X_l - X^_l||_2, Adam, learning
rate 4e-5, cosine decay, 100 iterations, all images at once (the last inferred). Ranges, zero points and
the affine parameters of LayerNorm stay as they are (as in the authors' I&S-ViT code).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from methods.architecture import reconstruction_units
from methods.contracts import Backend, QuantizationContext
from methods.errors import UsageError
from methods.quant.bits import Bits
from methods.quant.calibrate import calibrate
from methods.quant.logarithmic import Log2Quantizer
from methods.quant.ranges import ACTIVATION_PERCENTILES, WEIGHT_PERCENTILES, PercentileRange
from methods.quant.swap import Recipe, fold_weights, insert_quantizers, quantized_layers
from methods.quant.uniform import UniformQuantizer

RECIPE = Recipe(
    weights=lambda bits: UniformQuantizer(bits, PercentileRange(WEIGHT_PERCENTILES), axis=0),
    activations=lambda bits: UniformQuantizer(bits, PercentileRange(ACTIVATION_PERCENTILES)),
    attention=lambda bits: Log2Quantizer(bits, PercentileRange(ACTIVATION_PERCENTILES)),
)


@dataclass(frozen=True)
class BlockwiseConfig:
    """Settings of the learning stage; defaults are the paper's where it states them.

    iterations: Adam steps per unit (paper: 100; 0 stops after calibration); learning_rate: at the first
    step, decayed to zero by a half cosine (paper: 4e-5).
    """

    iterations: int = 100
    learning_rate: float = 4e-5

    def __post_init__(self) -> None:
        if self.iterations < 0 or self.learning_rate <= 0:
            raise UsageError("blockwise needs iterations >= 0 and learning_rate > 0.")


class Blockwise(Backend):
    """Percentile ranges, log2 attention, block-wise reconstruction."""

    name = "blockwise"
    version = 1
    paper = "SPDFQ / SARDFQ (arXiv 2412.16553; ICCV 2025)"
    config_class = BlockwiseConfig
    inferred = "initial ranges; all images in every step"
    space: ClassVar = {
        "iterations": {"min": 0, "max": 400},
        "learning_rate": {"min": 1e-6, "max": 1e-3, "scaling": "log"},
    }

    def default_config(self, model: str) -> BlockwiseConfig:
        """Return the paper's defaults; the embedded models take half the steps, so that the demo stays short."""
        return BlockwiseConfig(iterations=50 if model.endswith("_digits") else 100)

    def image_passes(self, config: Any, images: int) -> float:
        """Count every learning step as one forward+backward pass of every image."""
        return float(images * (config.iterations + 1))

    def quantize(
        self, model: nn.Module, images: Tensor, bits: Bits, config: Any, context: QuantizationContext
    ) -> nn.Module:
        """Calibrate on the images, learn unit by unit, fold the weights."""
        quantized = insert_quantizers(model, bits, RECIPE)
        calibrate(quantized, images)
        if config.iterations and not bits.float:
            _learn(model, quantized, images, config, context)
        fold_weights(quantized)
        return quantized


def _learn(
    model: nn.Module, quantized: nn.Module, images: Tensor, config: BlockwiseConfig, context: QuantizationContext
) -> None:
    """Learn every unit in one forward pass of the quantized network.

    A hook before each unit catches the input it gets from the quantized network so far, learns the unit on
    it, and lets the pass go on through the learned unit: the next unit sees what learning left behind.
    """
    targets = _unit_outputs(model, images)
    total = len(targets) * config.iterations
    before = []
    for index, name in enumerate(list(targets)):
        unit = quantized.get_submodule(name)
        report = partial(_report_from, context.report, index * config.iterations, total)
        before.append(unit.register_forward_pre_hook(partial(_learn_unit, targets.pop(name), config, report)))
    with torch.no_grad():
        quantized(images)
    for hook in before:
        hook.remove()


def _report_from(report: Callable[[int, int], None], offset: int, total: int, step: int) -> None:
    report(offset + step, total)


def _unit_outputs(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Return the output of every unit of the floating-point model."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str, _module: nn.Module, _arguments: Any, output: Tensor) -> None:
        outputs[name] = output

    after = [unit.register_forward_hook(partial(keep, name)) for name, unit in reconstruction_units(model)]
    with torch.no_grad():
        model(images)
    for hook in after:
        hook.remove()
    return outputs


def _learn_unit(
    target: Tensor, config: BlockwiseConfig, report: Callable[[int], None], unit: nn.Module, arguments: tuple[Tensor]
) -> None:
    """Adam on weights and biases of the unit's quantized layers against the floating-point output."""
    layers = [layer.layer for _, layer in quantized_layers(unit)]
    parameters = [p for layer in layers for p in (layer.weight, layer.bias) if p is not None]
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(parameters, lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=config.iterations)
    inputs = arguments[0].detach()
    with torch.enable_grad():
        for step in range(config.iterations):
            loss = (unit.forward(inputs) - target).square().sum(-1).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            report(step + 1)
    for parameter in parameters:
        parameter.requires_grad_(False)
        parameter.grad = None
