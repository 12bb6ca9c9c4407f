"""What a unit should put out while it learns: from the floating-point network, the floating-point unit, or both."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from methods.models.architecture import reconstruction_units
from methods.quant.learning.settings import Learning


class Targets:
    """Gives a unit's target, (1 - a) f(x^) + a f(x): f the unit in floating point, x what comes in there, x^ here.

    a is 1 for `network`, 0 for `unit` and `Learning.damping` for `damped` (GPTAQ's damping of its asymmetric target,
    arXiv 2504.02692; for units it is inferred).
    """

    def __init__(self, model: nn.Module, images: Tensor, learning: Learning) -> None:
        """images: [n, C, H, W], those that learning sees."""
        self.units = dict(reconstruction_units(model))
        self._share = {"network": 1.0, "unit": 0.0, "damped": learning.damping}[learning.target]
        self._network = unit_outputs(model, images) if self._share else {}

    def of(self, name: str, inputs: Tensor) -> Tensor:
        """Return the target [n, ...] of a unit for what comes in there; to be asked for once."""
        network = self._network.pop(name, None)
        if network is not None and self._share == 1:
            return network
        own: Tensor = self.units[name](inputs)
        return own if network is None else own.lerp(network, self._share)


@torch.no_grad()
def unit_outputs(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Return what every unit puts out in the floating-point network for images [n, C, H, W]."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str, _module: nn.Module, _arguments: Any, output: Tensor) -> None:
        outputs[name] = output

    after = [unit.register_forward_hook(partial(keep, name)) for name, unit in reconstruction_units(model)]
    try:
        model(images)
    finally:
        for hook in after:
            hook.remove()
    return outputs
