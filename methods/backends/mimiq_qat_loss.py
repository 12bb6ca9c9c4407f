"""MimiQ's distillation: the quantized network follows the logits, and every attention head, of the one it came from.

Choi et al., AAAI 2025; the training as a whole, and what is inferred in it, is in `methods.backends.mimiq_qat`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from methods.models.architecture import attention_sites
from methods.models.attention import attention_outputs
from methods.models.sites import counterparts
from methods.optimisation.loop import DivergenceError

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
