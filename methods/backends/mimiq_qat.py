"""`mimiq_qat`: MimiQ's training of the quantized network (AAAI 2025), by distillation that keeps to each head.

The synthesis, and the citation, is `methods.synthesis.mimiq`. Weights symmetric per channel from minimum to maximum,
anew at every step; activations, operands of both attention products among them, uniform per tensor with learned step
and offset (`methods.quant.quantizers.learned_step`, gradients times 0.01), the image at eight bits (published: in
floating point). SGD with Nesterov's momentum 0.9 from 1e-3 by a cosine to a hundredth, 100 epochs in batches of 16,
weights fixed in the first two; loss T^2 KL of the logits (T = 5) + 10 L_head,
where

    L_head = 1 - mean over layers, images, heads and channels of (2 c_tq + C2) / (v_t + v_q + C2),   C2 = 0.03^2

compares, across tokens, the attention outputs A.V of both networks. The paper reports the best epoch on the validation
set; here the last one counts, as labelled images are not for choosing. Settings are those of a fork of the public
code. Inferred: all is learned at one rate, which falls by the step; the augmentation's strengths; windows as images.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from methods.bits import Bits
from methods.contracts import Backend, QuantizationContext
from methods.errors import UsageError
from methods.models.architecture import attention_sites
from methods.models.attention import attention_outputs
from methods.models.sites import counterparts
from methods.optimisation.loop import DivergenceError
from methods.optimisation.views import random_views
from methods.quant.calibrate import calibrate
from methods.quant.insert import fold_weights, insert_quantizers, quantized_layers
from methods.quant.quantizers.learned_step import LearnedStepQuantizer
from methods.quant.quantizers.ranges import MinMaxRange
from methods.quant.quantizers.uniform import UniformQuantizer
from methods.quant.recipe import MIN_MAX, Recipe


@dataclass(frozen=True)
class MimiQQatConfig:
    """Settings of the training; defaults are the code's."""

    epochs: int = 100
    """Passes over the images (0: calibration alone)."""
    warmup: int = 2
    """Epochs without a step of the weights."""
    batch: int = 16
    """Images per step."""
    learning_rate: float = 1e-3
    """Learning rate at the first step."""
    momentum: float = 0.9
    """Nesterov's momentum."""
    temperature: float = 5.0
    """The T of the loss."""
    head_weight: float = 10.0
    """Weight of L_head."""
    gradient_scale: float = 0.01
    """Factor on LSQ's scale of the gradients of step and offset."""
    augment: bool = True
    """Whether views are random."""

    def __post_init__(self) -> None:
        if min(self.epochs, self.warmup, self.head_weight) < 0 or self.batch < 1:
            raise UsageError("mimiq_qat needs epochs >= 0, warmup >= 0, head_weight >= 0 and batch >= 1.")
        if min(self.learning_rate, self.temperature, self.gradient_scale) <= 0 or not 0 < self.momentum < 1:
            raise UsageError("mimiq_qat needs its rate, temperature and gradient_scale > 0, momentum from 0 to 1.")

    def recipe(self) -> Recipe:
        """Return the quantizers training starts from."""

        def learned(bits: int) -> LearnedStepQuantizer:
            return LearnedStepQuantizer(UniformQuantizer(bits, MinMaxRange()), self.gradient_scale)

        return Recipe(MIN_MAX.weights, learned, learned)


class MimiQQat(Backend):
    """Quantization-aware training with head-wise distillation."""

    name = "mimiq_qat"
    version = 2
    paper = "MimiQ (AAAI 2025), its training"
    config_class = MimiQQatConfig
    inferred = "what is learned at which rate; strengths of the augmentation; last epoch instead of the best"
    short: ClassVar = {"epochs": 30}
    space: ClassVar = {
        "learning_rate": {"min": 1e-5, "max": 1e-1, "scaling": "log"},
        "head_weight": {"min": 0.1, "max": 100.0, "scaling": "log"},
    }

    def image_passes(self, config: Any, images: int) -> float:
        """Count the passes of both networks in every epoch, and the calibration."""
        return float(images * (config.epochs * 4 + 1) / 3)

    def quantize(
        self, model: nn.Module, images: Tensor, bits: Bits, config: Any, context: QuantizationContext
    ) -> nn.Module:
        """Calibrate on the images, train, freeze steps and weights where the last epoch left them."""
        quantized = insert_quantizers(model, bits, config.recipe(), context.space)
        calibrate(quantized, images)
        if config.epochs and not bits.float:
            with _following_weights(quantized), torch.enable_grad():
                _train(model, quantized, images, config, context)
        fold_weights(quantized)
        _freeze(quantized)
        return quantized.requires_grad_(False)


@contextmanager
def _following_weights(quantized: nn.Module) -> Iterator[None]:
    """Let the range of every weight quantizer follow its weights, within the `with` and at its end."""
    pairs = [(layer.weights, layer.layer.weight) for _, layer in quantized_layers(quantized) if layer.weights]
    for quantizer, _ in pairs:
        quantizer.observing = quantizer.sequential = True
    try:
        yield
    finally:
        for quantizer, weight in pairs:
            quantizer.observing = quantizer.sequential = False
            quantizer.fit(weight.detach())


def _train(model: nn.Module, quantized: nn.Module, images: Tensor, config: Any, context: QuantizationContext) -> None:
    """Distil the model into the quantized network."""
    steps = [p for m in quantized.modules() if isinstance(m, LearnedStepQuantizer) for p in (m.scale, m.offset)]
    others = [p for p in quantized.parameters() if not any(p is step for step in steps)]
    optimizer = torch.optim.SGD(steps + others, lr=config.learning_rate, momentum=config.momentum, nesterov=True)
    total = config.epochs * -(-len(images) // config.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total, config.learning_rate / 100)
    loss = Distillation(model, quantized, config.temperature, config.head_weight)
    for epoch in range(config.epochs):
        quantized.requires_grad_(True)
        for parameter in others if epoch < config.warmup and steps else []:
            parameter.requires_grad_(False)
        order = torch.randperm(len(images), generator=context.generator)
        for rows in order.to(images.device).split(config.batch):
            views = random_views(images[rows], context.generator) if config.augment else images[rows]
            optimizer.zero_grad()
            loss(views).backward()
            optimizer.step()
            schedule.step()
        context.report(epoch + 1, config.epochs)


def _freeze(quantized: nn.Module) -> None:
    """Put plain quantizers in the place of those that learned."""
    for parent in list(quantized.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LearnedStepQuantizer):
                setattr(parent, name, child.freeze())


_C2 = 0.03**2


def head_structure_loss(target: Tensor, output: Tensor, prefix: int) -> Tensor:
    """Return L_head of one layer, 0-dim, from attention outputs [n, windows, tokens, heads, d] of both networks.

    One minus the mean over images, windows, heads and channels of (2 c + C2) / (v_t + v_q + C2), variances and
    covariance across tokens, C2 = 0.03^2; prefix: tokens before the patches, which do not count.
    """
    target, output = target[:, :, prefix:], output[:, :, prefix:]
    target, output = target - target.mean(dim=2, keepdim=True), output - output.mean(dim=2, keepdim=True)
    covariance = (target * output).mean(dim=2)
    spread = target.square().mean(dim=2) + output.square().mean(dim=2)
    return 1 - ((2 * covariance + _C2) / (spread + _C2)).mean()


def logit_loss(target: Tensor, output: Tensor, temperature: float) -> Tensor:
    """Return T^2 KL(softmax(target / T) || softmax(output / T)), the mean over rows [n, classes]."""
    target, output = ((logits / temperature).log_softmax(dim=1) for logits in (target, output))
    return temperature**2 * functional.kl_div(output, target, reduction="batchmean", log_target=True)


class Distillation:
    """The loss of a quantized network on images; raises DivergenceError when it stops being finite."""

    def __init__(self, model: nn.Module, quantized: nn.Module, temperature: float, head_weight: float) -> None:
        self.model, self.quantized = model, quantized
        self.temperature, self.head_weight = temperature, head_weight
        self.sites = attention_sites(model) if head_weight > 0 else []
        self.quantized_sites = counterparts(self.sites, model, quantized)

    def __call__(self, images: Tensor) -> Tensor:
        """Return T^2 KL + head_weight L_head, the mean over layers, of images [n, C, H, W]."""
        with torch.no_grad(), attention_outputs(self.sites) as targets:
            expected = self.model(images)
        with attention_outputs(self.quantized_sites) as outputs:
            logits = self.quantized(images)
        loss = logit_loss(expected, logits, self.temperature)
        if self.sites:
            found = zip(targets, outputs, self.sites, strict=True)
            layers = [head_structure_loss(target, output, site.prefix) for target, output, site in found]
            loss = loss + self.head_weight * torch.stack(layers).mean()
        if not math.isfinite(loss.item()):
            raise DivergenceError("Distillation diverged: its loss is not finite; try a smaller learning_rate.")
        return loss
