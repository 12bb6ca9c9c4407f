"""How far a unit's output is from its target: what block-by-block learning makes small.

`local` is the squared distance itself. The others see what the distance does behind the unit, in the floating-point
rest of the network; they are given in units of the local one at its start, so that rates and the weights of other
terms mean the same with each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from methods.models.rest import Rest

Chosen: TypeAlias = Tensor | slice
"""Which of the calibration images a loss is about."""
_PART = 64
"""Most images that go through the rest of the network at once where all do."""
_TEMPERATURE = 20.0
_TINY = 1e-12


class Objective(ABC):
    """A loss of a unit, made for its targets [n, ..., channels]."""

    def __init__(self, target: Tensor) -> None:
        self.target = target

    @abstractmethod
    def __call__(self, output: Tensor, chosen: Chosen) -> Tensor:
        """Return the loss (0-dim) of what the unit puts out for the chosen images."""


class LocalObjective(Objective):
    """|y^ - y|^2, summed over channels, averaged over images and tokens."""

    def __call__(self, output: Tensor, chosen: Chosen) -> Tensor:
        """Return the distance."""
        return reconstruction_loss(output, self.target[chosen])


class _BesideLocal(Objective):
    """A far loss beside the local one: local_0 (far/far_0 + weight local/local_0), _0 being the first batch's."""

    def __init__(self, target: Tensor, local_weight: float) -> None:
        super().__init__(target)
        self._weight = local_weight
        self._first: tuple[Tensor, Tensor] | None = None

    def __call__(self, output: Tensor, chosen: Chosen) -> Tensor:
        """Return the sum."""
        far, near = self.far(output, chosen), reconstruction_loss(output, self.target[chosen])
        if self._first is None:
            self._first = far.detach().clamp(min=_TINY), near.detach()
        return self._first[1] / self._first[0] * far + self._weight * near

    @abstractmethod
    def far(self, output: Tensor, chosen: Chosen) -> Tensor:
        """Return what the distance does behind the unit."""


class FeatureObjective(_BesideLocal):
    """GLF-Q's global-local feature loss (Sun et al., 2026): |F(y^) - F(y)|^2 / C beside the local distance.

    F is the rest of the network in floating point up to the penultimate feature of width C. The target F(y) is that
    of the unit's own target (inferred; the paper's is the clean network's feature).
    """

    def __init__(self, target: Tensor, rest: Rest, local_weight: float) -> None:
        super().__init__(target, local_weight)
        self._rest = rest
        with torch.no_grad():
            self._features = torch.cat([rest.features(part) for part in target.split(_PART)])

    def far(self, output: Tensor, chosen: Chosen) -> Tensor:
        """Return the mean squared distance of features."""
        return functional.mse_loss(self._rest.features(output), self._features[chosen])


class SensitivityObjective(_BesideLocal):
    """LS-ViT's loss (2026): sum_i dz_i^2 H_i / 2 + (u^T dz)^2 / 2 per image, with dz = y^ - y, beside the local one.

    From one backward pass, g = dKL/dy^ at what the unit puts out before it learns, KL between the rest's softmax of
    target and output at temperature 20:

        H_i = sum_n g_i dz_i / sum_n dz_i^2,  u = mean_n(g sqrt(dz^T g)) / mean_n(dz^T g).

    H and dz^T g are taken as at least 0, so that the loss is bounded below (inferred).
    """

    def __init__(self, target: Tensor, rest: Rest, local_weight: float, before: Tensor) -> None:
        """before: [n, ...], what the unit puts out before it learns."""
        super().__init__(target, local_weight)
        self._diagonal, self._direction = sensitivity(before - target, divergence_gradient(rest, before, target))

    def far(self, output: Tensor, chosen: Chosen) -> Tensor:
        """Return the loss, averaged over images."""
        error = output - self.target[chosen]
        plain = (error.square() * self._diagonal).flatten(1).sum(1)
        along = (error * self._direction).flatten(1).sum(1).square()
        return (plain + along).mean() / 2


def divergence_gradient(rest: Rest, output: Tensor, target: Tensor) -> Tensor:
    """Return the gradient [n, ...], with respect to output, of every image's KL(p(target) || p(output))."""
    gradients = []
    for found, wanted in zip(output.split(_PART), target.split(_PART), strict=True):
        with torch.no_grad():
            teacher = functional.log_softmax(rest.logits(wanted) / _TEMPERATURE, dim=-1)
        with torch.enable_grad():
            leaf = found.detach().requires_grad_(True)
            student = functional.log_softmax(rest.logits(leaf) / _TEMPERATURE, dim=-1)
            divergence = functional.kl_div(student, teacher, reduction="sum", log_target=True)
        gradients.append(torch.autograd.grad(divergence, leaf)[0])
    return torch.cat(gradients)


def sensitivity(error: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Return LS-ViT's H and u [...], each of one image's shape, from errors and gradients [n, ...]."""
    products = error * gradient
    diagonal = (products.sum(0) / error.square().sum(0).clamp(min=_TINY)).clamp(min=0)
    along = products.flatten(1).sum(1).clamp(min=0)
    weights = along.sqrt() / along.sum().clamp(min=_TINY)
    return diagonal, torch.einsum("n,n...->...", weights, gradient)


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """Return the squared distance of outputs [..., channels], summed over channels and averaged over the rest."""
    return (output - target).square().sum(-1).mean()
