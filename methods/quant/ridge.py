"""Ridge regression of a linear layer on its quantized input, and rounding of its weight with compensation (ERQ).

All sums run over the rows (tokens) of a calibration set, of inputs centred on their mean: the bias, which is
not penalized (inferred), takes up what the mean leaves over.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from methods.quant.quantizers.uniform import UniformQuantizer


@dataclass(frozen=True)
class Moments:
    """What regression needs of inputs X [n, in] and targets Y [n, out]; Xc, Yc are centred.

    gram: Xc^T Xc; cross: Yc^T Xc; mean: of X; target: mean of Y. All float64.
    """

    gram: Tensor
    cross: Tensor
    mean: Tensor
    target: Tensor

    @classmethod
    def of(cls, inputs: Tensor, targets: Tensor) -> Moments:
        """Take the moments of rows [n, in] and [n, out]."""
        mean, target = inputs.mean(0), targets.mean(0)
        centred = inputs - mean
        gram, cross = centred.T @ centred, (targets - target).T @ centred
        return cls(gram.double(), cross.double(), mean.double(), target.double())

    def ridge(self, weight: Tensor, penalty: float) -> Tensor:
        """Return W + argmin_D |(W + D) Xc^T - Yc^T|^2 + penalty |D|^2 for a weight [out, in]."""
        return weight + solve(self.cross - weight @ self.gram, self.gram, penalty)

    def bias(self, weight: Tensor) -> Tensor:
        """Return the bias with which a weight reproduces the mean target."""
        return self.target - weight @ self.mean


def solve(right: Tensor, gram: Tensor, penalty: float) -> Tensor:
    """Return right (gram + penalty I)^-1 for a symmetric gram [in, in] and right [out, in]."""
    damped = gram + penalty * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return torch.cholesky_solve(right.T, torch.linalg.cholesky(damped)).T


def round_by_halves(weight: Tensor, quantizer: UniformQuantizer, gram: Tensor, penalty: float, flips: int) -> Tensor:
    """Return a weight [out, in] on the grid of a fitted quantizer, with little error of the layer's output.

    Half of the inputs' weights are rounded and their rounding refined (`refined`); ridge regression adds what
    makes up for it best to the other half, D = -E G_sr (G_rr + penalty I)^-1, E being the error of the
    rounded; then half of the rest, until none is left.
    """
    weight, start, end = weight.clone(), 0, weight.shape[1]
    scale, zero = (x.to(weight.dtype).reshape(-1, 1) for x in (quantizer.scale, quantizer.zero_point))
    low, high = quantizer.codes[0] - zero, quantizer.codes[-1] - zero
    while start < end:
        half = start + (end - start + 1) // 2
        exact = weight[:, start:half]
        steps = refined(exact / scale, low, high, scale, gram[start:half, start:half], flips)
        error = steps * scale - exact
        weight[:, start:half] = steps * scale
        weight[:, half:] -= solve(error @ gram[start:half, half:], gram[half:, half:], penalty)
        start = half
    return weight


def refined(exact: Tensor, low: Tensor, high: Tensor, scale: Tensor, gram: Tensor, flips: int) -> Tensor:
    """Round exact steps [out, in] to integers in low..high so that E G E^T is small, E the error times `scale`.

    From the nearest integers, at most `flips` times, every output flips the one input to its other neighbour
    that lowers its error most by the gradient E G and the curvature (the published code follows the
    gradient alone), and stops where none lowers it.
    """
    steps = exact.round().clamp(low, high)
    move = ((steps + (exact - steps).sign()).clamp(low, high) - steps) * scale
    gradient = ((steps - exact) * scale) @ gram
    curvature = move.square() * gram.diagonal()
    rows = torch.arange(len(exact), device=exact.device)
    for _ in range(flips):
        best, index = (2 * move * gradient + curvature).min(dim=1)
        flipping = rows[best < 0]
        if not len(flipping):
            break
        index = index[flipping]
        moved = move[flipping, index]
        steps[flipping, index] += moved / scale[flipping, 0]
        move[flipping, index] = -moved
        gradient[flipping] += moved[:, None] * gram[index]
    return steps.round()
