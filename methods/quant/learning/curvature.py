"""Losses of a unit weighted by what its errors do to the logits, read off gradients of the KL divergence.

The divergence is between the softmax of what the floating-point rest of the network makes of a unit's target and of
its output, at temperature 20. LS-ViT's loss, FIMA-Q's and APHQ-ViT's differ in how they get from its gradient to a
curvature.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from methods.models.rest import Rest
from methods.quant.learning.objectives import PART, TINY, BesideLocal, Chosen, Objective, reconstruction_loss

_TEMPERATURE = 20.0
_PERTURBATION = 1e-2


class SensitivityObjective(BesideLocal):
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


class FisherObjective(Objective):
    """FIMA-Q's loss (Wu et al., CVPR 2025), diagonal plus low rank: e^T D B^-1 D^T e / first + e^T diag(d) e / first.

    e = |y^ - y| of an image, D [N, k] the columns |dKL/dy^| averaged over images, one from each of k looks at what the
    unit puts out, B = E^T E with E [N, k] the mean |y^ - y| of these looks, d the mean of D's columns, "first" what
    each term is for the first batch after a look. The first look is before the first step, the others follow at equal
    distances. B's pseudo-inverse stands for its inverse (inferred: looks that saw nearly the same have none).
    """

    def __init__(self, target: Tensor, rest: Rest, rank: int) -> None:
        """rank: k, at least 1."""
        super().__init__(target)
        self._rest, self._rank = rest, rank
        self._gradients = self._errors = target.new_empty((0, target[0].numel()))
        self._inverse = target.new_empty((0, 0))
        self._first: tuple[Tensor, Tensor] | None = None
        self._local: Tensor | None = None

    def look(self, progress: float, now: Callable[[], Tensor]) -> None:
        """Add a column where one more k-th of the steps is done."""
        if len(self._errors) >= self._rank or progress * self._rank < len(self._errors):
            return
        with torch.no_grad():
            output = now()
        gradient = divergence_gradient(self._rest, output, self.target).abs().mean(0).flatten()
        error = (output - self.target).abs().mean(0).flatten()
        self._gradients = torch.cat([self._gradients, gradient[None]])
        self._errors = torch.cat([self._errors, error[None]])
        self._inverse = torch.linalg.pinv(self._errors.double() @ self._errors.double().T, hermitian=True).to(error)
        self._first = None

    def __call__(self, output: Tensor, chosen: Chosen) -> Tensor:
        """Return the mean of both terms, in units of the first local distance."""
        error = (output - self.target[chosen]).abs().flatten(1)
        along = error @ self._gradients.T
        low_rank = ((along @ self._inverse) * along).sum(1).mean()
        diagonal = (error.square() * self._gradients.mean(0)).mean()
        if self._local is None:
            self._local = reconstruction_loss(output, self.target[chosen]).detach()
        if self._first is None:
            self._first = low_rank.detach().clamp(min=TINY), diagonal.detach().clamp(min=TINY)
        return self._local * (low_rank / self._first[0] + diagonal / self._first[1]) / 2


class PerturbationObjective(Objective):
    """APHQ-ViT's loss (Wu et al., CVPR 2025): |y^ - y|^2 weighted by the average perturbation Hessian, of mean 1.

    H_i = mean_n |g_i(y + h) - g_i(y - h)|, g = dKL/dy. h is of one size, 0.01 of y's root mean square, and of random
    signs, the same for all images (both inferred: the published h is 1e-6 everywhere, which LayerNorms take away
    again, as it is the same for all channels, so that what is left is the rounding of single precision).
    """

    def __init__(self, target: Tensor, rest: Rest) -> None:
        super().__init__(target)
        self._importance = importance(perturbed(rest, target))

    def __call__(self, output: Tensor, chosen: Chosen) -> Tensor:
        """Return the weighted distance, summed over channels, averaged over images and tokens."""
        return ((output - self.target[chosen]).square() * self._importance).sum(-1).mean()


def perturbed(rest: Rest, target: Tensor) -> Tensor:
    """Return |g(y + h) - g(y - h)| [n, ...] of every image."""
    step = _PERTURBATION * target.square().mean().sqrt() * signs_like(target)
    return (divergence_gradient(rest, target + step, target) - divergence_gradient(rest, target - step, target)).abs()


def signs_like(target: Tensor) -> Tensor:
    """Return random signs [n, ...], the same for every image and in every run."""
    drawn = torch.randint(2, target.shape[1:], generator=torch.Generator().manual_seed(0))
    return (2 * drawn - 1).to(target).expand_as(target)


def importance(differences: Tensor) -> Tensor:
    """Return the mean of differences [n, ...] over images, divided by its own mean; ones where all are 0."""
    mean = differences.mean(0)
    return mean / mean.mean() if bool(mean.any()) else torch.ones_like(mean)


def divergence_gradient(rest: Rest, output: Tensor, target: Tensor) -> Tensor:
    """Return the gradient [n, ...], with respect to output, of every image's KL(p(target) || p(output))."""
    gradients = []
    for found, wanted in zip(output.split(PART), target.split(PART), strict=True):
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
    diagonal = (products.sum(0) / error.square().sum(0).clamp(min=TINY)).clamp(min=0)
    along = products.flatten(1).sum(1).clamp(min=0)
    weights = along.sqrt() / along.sum().clamp(min=TINY)
    return diagonal, torch.einsum("n,n...->...", weights, gradient)
