"""The floating-point rest of a network behind one of its units, as a function of what the unit puts out."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


class _Given(nn.Module):
    """Puts out what it was given, whatever comes in: for one image, the same for each that does."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, inputs: Tensor, *_arguments: object, **_options: object) -> Tensor:
        """Return a copy of what was given: what follows may change it in place."""
        alone = len(self.output) == 1
        return (self.output.expand(len(inputs), *self.output.shape[1:]) if alone else self.output).clone()


class Rest:
    """Runs a frozen network from behind a unit on; units are asked for in the order of computation.

    Units before the one asked for are not computed: they stand still at what they make of one black image, so that
    whatever lies between the units, position embeddings and the like, keeps its shapes.
    """

    def __init__(self, model: nn.Module, image: Tensor) -> None:
        """Take a copy of `model`; image: [1, C, H, W], whose values do not matter."""
        self._network: Any = copy.deepcopy(model).requires_grad_(False)
        self._image = torch.zeros_like(image)
        self._unit = _Given(self._image)

    @torch.no_grad()
    def move_behind(self, name: str) -> bool:
        """Make the unit `name`, and with it all before it, stand still; False if it is the classifier."""
        found: list[Tensor] = []
        hook = self._network.get_submodule(name).register_forward_hook(lambda *passed: found.append(passed[2]))
        try:
            self._network.forward_features(self._image)
        finally:
            hook.remove()
        if not found:
            return False
        self._unit = _Given(found[0])
        parent, _, child = name.rpartition(".")
        setattr(self._network.get_submodule(parent), child, self._unit)
        return True

    def features(self, output: Tensor) -> Tensor:
        """Return the penultimate features [n, width] that the unit's output [n, ...] leads to; differentiable."""
        still, self._unit.output = self._unit.output, output
        hidden = self._network.forward_features(self._images(output))
        self._unit.output = still
        features: Tensor = self._network.forward_head(hidden, pre_logits=True)
        return features

    def logits(self, output: Tensor) -> Tensor:
        """Return the logits [n, classes] that the unit's output [n, ...] leads to; differentiable."""
        still, self._unit.output = self._unit.output, output
        logits: Tensor = self._network(self._images(output))
        self._unit.output = still
        return logits

    def _images(self, output: Tensor) -> Tensor:
        """Return as many black images as there are outputs: some families read their number off what comes in."""
        return self._image.expand(len(output), *self._image.shape[1:])
