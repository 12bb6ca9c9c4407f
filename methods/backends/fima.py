"""`fima`: FIMA-Q's settings of block-wise learning (CVPR 2025), frozen; what it leaves open is `blockwise`'s.

Stated: a loss by the Fisher information, diagonal plus low rank (`methods.quant.learning.curvature`), targets of the
clean network, AdaRound, activation scales learned at 4e-5, QDrop 0.5, 20000 steps of 32 images a block, uniform grids,
one per head for the operands of the attention products. Inferred: ranges by percentiles, rates of scales in units of
the scale, AdaRound's rate and weight.
"""

from __future__ import annotations

from dataclasses import dataclass

from methods.backends.blockwise import Blockwise, BlockwiseConfig


@dataclass(frozen=True)
class FimaConfig(BlockwiseConfig):
    """Settings of `blockwise` with other defaults."""

    attention: str = "uniform"
    per_head: bool = True
    iterations: int = 20000
    batch: int = 32
    drop: float = 0.5
    rounding: str = "adaround"
    scales: str = "learned"
    objective: str = "fisher"


class Fima(Blockwise):
    """Learned roundings, scales and grids per head, weighted by the Fisher information."""

    name = "fima"
    version = 1
    paper = "FIMA-Q (CVPR 2025)"
    config_class = FimaConfig
    inferred = "initial ranges; rates of scales and roundings"
