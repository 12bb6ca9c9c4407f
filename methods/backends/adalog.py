"""`adalog`: AdaLog (Wu et al., ECCV 2024) as calibrated on few images, without its retraining; frozen.

Stated: RepQ-ViT's reparameterization behind LayerNorms, logarithmic grids of a base that fits for the softmax output
and, shifted, behind GELU, grids per head for the operands of the attention products. Inferred: ranges and bases by the
error of the values and of their sums (the published search tries them in turns against the error of the layer's
output), bases of 2, 2^(1/2) and 2^(1/4), a uniform grid behind GELU from seven bits on. The retrained rows of the
paper have `adalog.iterations` of 20000, `rounding` of adaround, `scales` of learned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from methods.backends.blockwise import Blockwise, BlockwiseConfig


@dataclass(frozen=True)
class AdaLogConfig(BlockwiseConfig):
    """Settings of `blockwise` with other defaults."""

    init: str = "repq"
    attention: str = "adaptive_log"
    gelu: str = "shifted_log"
    per_head: bool = True
    iterations: int = 0
    batch: int = 32


class AdaLog(Blockwise):
    """Logarithmic grids of fitting bases for softmax and GELU, RepQ-ViT's reparameterization, grids per head."""

    name = "adalog"
    version = 1
    paper = "AdaLog (ECCV 2024), calibration only"
    config_class = AdaLogConfig
    inferred = "search by the error of values and of sums of rows; three bases"
    short: ClassVar = {}
