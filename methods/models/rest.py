"""The floating-point rest of a network behind one of its units, as a function of what the unit puts out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def _hooked(module: nn.Module, hook: Callable[..., Any]) -> Iterator[None]:
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _noise_like(x: Tensor) -> Tensor:
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x)


class _Given:
    """Takes a module's place in a pass: puts out what it was given; for one image, the same for each that comes in."""

    def __init__(self, output: Tensor) -> None:
        self.output = output

    def __call__(self, inputs: Tensor, *_arguments: object, **_options: object) -> Tensor:
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
        """Make the unit `name`, and with it all before it, stand still.

        False if its output does not decide alone what the features are, as of the classifier, which comes after them,
        and of layers with a path around them; then nothing is changed.
        """
        found: list[Tensor] = []
        with _hooked(self._network.get_submodule(name), lambda *passed: found.append(passed[2])):
            features = self._pooled(self._image)
        if not found or len(found[0]) != 1:
            return False
        with _hooked(self._network.get_submodule(name), lambda *_: found[0].clone()):
            if not torch.equal(self._of_noise(), features):
                return False
        self._unit = _Given(found[0])
        self._network.get_submodule(name).forward = self._unit  # the module stays: others read its attributes
        return True

    def features(self, output: Tensor) -> Tensor:
        """Return the penultimate features [n, width] that the unit's output [n, ...] leads to; differentiable."""
        still, self._unit.output = self._unit.output, output
        features = self._pooled(self._images(output))
        self._unit.output = still
        return features

    def logits(self, output: Tensor) -> Tensor:
        """Return the logits [n, classes] that the unit's output [n, ...] leads to; differentiable."""
        still, self._unit.output = self._unit.output, output
        logits: Tensor = self._network(self._images(output))
        self._unit.output = still
        return logits

    def _of_noise(self) -> Tensor:
        """Return the features where all that comes in, or what stands still last puts out, is noise."""
        still, self._unit.output = self._unit.output, _noise_like(self._unit.output)
        features = self._pooled(_noise_like(self._image))
        self._unit.output = still
        return features

    def _pooled(self, images: Tensor) -> Tensor:
        features: Tensor = self._network.forward_head(self._network.forward_features(images), pre_logits=True)
        return features

    def _images(self, output: Tensor) -> Tensor:
        """Return as many black images as there are outputs: some families read their number off what comes in."""
        return self._image.expand(len(output), *self._image.shape[1:])
