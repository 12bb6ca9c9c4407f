"""`best`: the strongest data-free combination found here, frozen: `blockwise` with parts of its peers.

Residual streams are turned so that no channel stands out, and so are heads where products err less for it
(`methods.models.rotate`); then RepQ-ViT's reparameterized quantizers with weights clipped where their layer errs less
for it, AdaLog's logarithmic grid behind GELU, this project's logarithm for the softmax output, whose last code is the
mean of the tail, ERQ's regression and rounding, and block-wise learning towards GLF-Q's feature loss, on mild crops of
every image beside it. Units learn what the floating-point unit makes of their own input: making up for the errors of
earlier units, as SPDFQ does, fits the calibration images too closely. Activations stay per tensor. Chosen by the KL
divergence from the floating-point model on 384 training images of ImageNet, with DeiT-T at W3A3 and 32 images each of
SPDFQ and PSAQ-ViT of a seed that no table reports; `results/ablation_best` has what each part does and what did not
help.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from methods.backends.blockwise import Blockwise, BlockwiseConfig


@dataclass(frozen=True)
class BestConfig(BlockwiseConfig):
    """Settings of `blockwise` with other defaults."""

    init: str = "erq"
    attention: str = "tail_log"
    weights: str = "measured"
    gelu: str = "shifted_log"
    rotate: bool = True
    rotate_heads: str = "measured"
    views: int = 7
    iterations: int = 100
    batch: int = 16
    target: str = "unit"
    objective: str = "feature"


class Best(Blockwise):
    """Turned streams and heads, ERQ's start, logarithmic grids behind GELU and softmax, GLF-Q's feature loss."""

    name = "best"
    version = 6
    paper = "this project's combination of RepQ-ViT, ERQ, AdaLog, GLF-Q and SPDFQ"
    config_class = BestConfig
    inferred = "the combination"
    # Clipping harms the embedded models (`results/ablation_best`).
    short: ClassVar = {"iterations": 50, "weights": "own"}
