"""AdaRound: a weight's rounding up or down is learned, the weight itself stays (Nagel et al., ICML 2020).

W^ = s clip(floor(W/s) + h(V), low, high), h(V) = clip((zeta - gamma) sigmoid(V) + gamma, 0, 1) (eq. 22 and 23),
V such that h(V) is the fraction of W/s at the start. The regulariser sum(1 - |2 h(V) - 1|^beta) (eq. 24) drives
h to 0 or 1 as beta falls; as in the published code it rests for the first fifth of the steps, then beta falls
from 20 to 2 along a line. In the end h is rounded.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from methods.quant.quantizers.uniform import UniformQuantizer

ZETA, GAMMA = 1.1, -0.1
_REST = 0.2
_BETAS = (20.0, 2.0)


class AdaRoundQuantizer(UniformQuantizer):
    """The quantizer of one weight, made from a fitted one, that rounds as far up as h(V) says."""

    floor: Tensor

    def __init__(self, start: UniformQuantizer, weight: Tensor) -> None:
        super().__init__(start.bits, start.search, start.axis, start.grid.symmetric)
        self.scale, self.zero_point = start.scale, start.zero_point
        steps = weight.detach() / start.scale
        self.register_buffer("floor", steps.floor())
        self.up = nn.Parameter(torch.logit((steps - self.floor - GAMMA) / (ZETA - GAMMA)))

    def rectified(self) -> Tensor:
        """Return h(V), in [0, 1]."""
        return ((ZETA - GAMMA) * self.up.sigmoid() + GAMMA).clamp(0, 1)

    def fake_quantize(self, x: Tensor) -> Tensor:
        """Return the softly rounded weight it was made for, hard without gradients; x is that weight."""
        return self._scaled(self.floor + self.rectified()) if torch.is_grad_enabled() else self.hardened()

    def hardened(self) -> Tensor:
        """Return the weight rounded up where h(V) >= 1/2 and down elsewhere, on the grid."""
        return self._scaled(self.floor + (self.rectified() >= 0.5))

    def _scaled(self, steps: Tensor) -> Tensor:
        return steps.clamp(self.grid.qmin - self.zero_point, self.grid.qmax - self.zero_point) * self.scale

    def regulariser(self, beta: float) -> Tensor:
        """Return sum(1 - |2 h(V) - 1|^beta)."""
        return (1 - (2 * self.rectified() - 1).abs().pow(beta)).sum()


def beta(progress: float) -> float | None:
    """Return the exponent of the regulariser after a share of the steps, None while it rests."""
    if progress < _REST:
        return None
    first, last = _BETAS
    return last + (first - last) * (1 - progress) / (1 - _REST)
