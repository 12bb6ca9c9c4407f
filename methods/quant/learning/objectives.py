"""How far a unit's output is from its target: what block-by-block learning makes small.

`local` is the squared distance itself. The others (`feature` here, those of KL gradients in
`methods.quant.learning.curvature`) see what the distance does behind the unit, in the floating-point rest of the
network; they are given in units of the local one at its start, so that rates and the weights of other terms mean the
same with each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from methods.models.rest import Rest

Chosen: TypeAlias = Tensor | slice
"""Which of the calibration images a loss is about."""
PART = 64
"""Most images that go through the rest of the network at once where all do."""
TINY = 1e-12


class Objective(ABC):
    """A loss of a unit, made for its targets [n, ..., channels]."""

    def __init__(self, target: Tensor) -> None:
        self.target = target

    def look(self, progress: float, now: Callable[[], Tensor]) -> None:
        """Is called before every step, after a share of them; `now` returns what the unit puts out for all images."""
        return

    @abstractmethod
    def __call__(self, output: Tensor, chosen: Chosen) -> Tensor:
        """Return the loss (0-dim) of what the unit puts out for the chosen images."""


class LocalObjective(Objective):
    """|y^ - y|^2, summed over channels, averaged over images and tokens."""

    def __call__(self, output: Tensor, chosen: Chosen) -> Tensor:
        """Return the distance."""
        return reconstruction_loss(output, self.target[chosen])


class BesideLocal(Objective):
    """A far loss beside the local one: local_0 (far/far_0 + weight local/local_0), _0 being the first batch's."""

    def __init__(self, target: Tensor, local_weight: float) -> None:
        super().__init__(target)
        self._weight = local_weight
        self._first: tuple[Tensor, Tensor] | None = None

    def __call__(self, output: Tensor, chosen: Chosen) -> Tensor:
        """Return the sum."""
        far, near = self.far(output, chosen), reconstruction_loss(output, self.target[chosen])
        if self._first is None:
            self._first = far.detach().clamp(min=TINY), near.detach()
        return self._first[1] / self._first[0] * far + self._weight * near

    @abstractmethod
    def far(self, output: Tensor, chosen: Chosen) -> Tensor:
        """Return what the distance does behind the unit."""


class FeatureObjective(BesideLocal):
    """GLF-Q's global-local feature loss (Sun et al., 2026): |F(y^) - F(y)|^2 / C beside the local distance.

    F is the rest of the network in floating point up to the penultimate feature of width C. The target F(y) is that
    of the unit's own target (inferred; the paper's is the clean network's feature).
    """

    def __init__(self, target: Tensor, rest: Rest, local_weight: float) -> None:
        super().__init__(target, local_weight)
        self._rest = rest
        with torch.no_grad():
            self._features = torch.cat([rest.features(part) for part in target.split(PART)])

    def far(self, output: Tensor, chosen: Chosen) -> Tensor:
        """Return the mean squared distance of features."""
        return functional.mse_loss(self._rest.features(output), self._features[chosen])


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """Return the squared distance of outputs [..., channels], summed over channels and averaged over the rest."""
    return (output - target).square().sum(-1).mean()
