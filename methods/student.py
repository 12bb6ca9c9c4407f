"""The quantized student of adversarial synthesis: a min-max quantized copy of the model that learns to follow it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from methods.bits import Bits
from methods.quant.calibrate import calibrate
from methods.quant.insert import insert_quantizers, quantized_layers
from methods.quant.recipe import MIN_MAX


class Student:
    """Weights symmetric per channel with the ranges of the model's own, activations asymmetric per tensor.

    Gradients pass straight through rounding, to the pixels and, within `learn`, to weights and biases.
    """

    def __init__(self, model: nn.Module, bits: Bits, learning_rate: float, micro_batch: int) -> None:
        """Copy and quantize the model; raises UsageError for a family that is not supported."""
        self.teacher, self.micro_batch = model, micro_batch
        self.network = insert_quantizers(model, bits, MIN_MAX)
        layers = [layer.layer for _, layer in quantized_layers(self.network)]
        self.parameters = [p for layer in layers for p in (layer.weight, layer.bias) if p is not None]
        self.optimizer = torch.optim.Adam(self.parameters, lr=learning_rate)

    def __call__(self, images: Tensor) -> Tensor:
        """Return the student's logits, differentiable with respect to the images [n, C, H, W]."""
        logits: Tensor = self.network(images)
        return logits

    def calibrate(self, images: Tensor) -> None:
        """Set the ranges of all activations from minimum to maximum over the images."""
        calibrate(self.network, images)

    def learn(self, images: Tensor) -> float:
        """Take one step of Adam towards the model's logits on the images; return the discrepancy before it."""
        self._learning(True)
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        with torch.autocast(images.device.type, enabled=False):
            for batch in images.detach().split(self.micro_batch):
                with torch.no_grad():
                    wanted = self.teacher(batch)
                loss = functional.l1_loss(self(batch), wanted) * len(batch) / len(images)
                loss.backward()
                total += loss.item()
        self.optimizer.step()
        self._learning(False)
        return total

    def _learning(self, on: bool) -> None:
        """Let gradients reach weights and biases, or not, which spares an image step their cost."""
        for parameter in self.parameters:
            parameter.requires_grad_(on)
