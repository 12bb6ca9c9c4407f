"""`glf`: GLF-Q's settings of block-wise learning (Sun et al., 2026), frozen; what it leaves open is `blockwise`'s.

Stated: the global-local feature loss with its weight 2, targets of the clean network, Adam on weights at 2e-5, learned
activation scales, QDrop 0.5 and AdaRound, 3000 steps a block, uniform grids, one per head for the operands of the
attention products, a first layer of eight bits, heads turned by rotations that are folded offline. Inferred: ranges by
percentiles, random rotations, batches of 32, rates of scales in units of the scale, AdaRound's rate and weight.
"""

from __future__ import annotations

from dataclasses import dataclass

from methods.backends.blockwise import Blockwise, BlockwiseConfig


@dataclass(frozen=True)
class GlfConfig(BlockwiseConfig):
    """Settings of `blockwise` with other defaults."""

    attention: str = "uniform"
    rotate_heads: str = "all"
    per_head: bool = True
    iterations: int = 3000
    learning_rate: float = 2e-5
    batch: int = 32
    drop: float = 0.5
    rounding: str = "adaround"
    scales: str = "learned"
    objective: str = "feature"


class Glf(Blockwise):
    """The feature loss behind every block, learned scales, roundings and grids per head."""

    name = "glf"
    version = 1
    paper = "GLF-Q (2026)"
    config_class = GlfConfig
    inferred = "initial ranges; rotations; batches; rates of scales and roundings"
