"""`best`: the strongest data-free combination found here, frozen: `blockwise` with parts of its peers.

Residual streams are turned so that no channel stands out (`methods.models.rotate`); then RepQ-ViT's reparameterized
quantizers, AdaLog's logarithmic grid behind GELU, this project's logarithm for the softmax output, whose last code is
the mean of the tail, ERQ's regression and rounding, and a little block-wise learning, both on seven mild crops of
every image beside it. Units learn what the floating-point unit makes of their own input: making up for the errors of
earlier units, as SPDFQ does, fits the calibration images too closely. Activations stay per tensor. Chosen by the KL
divergence from the floating-point model on 256 training images of ImageNet, with DeiT-T at W4A4 and 8 images of
SPDFQ, of PSAQ-ViT and real ones, none of which any table reports on; `results/README.md` has its ablation and what
did not help.
"""

from __future__ import annotations

from dataclasses import dataclass

from methods.backends.blockwise import Blockwise, BlockwiseConfig


@dataclass(frozen=True)
class BestConfig(BlockwiseConfig):
    """Settings of `blockwise` with other defaults."""

    init: str = "erq"
    attention: str = "tail_log"
    gelu: str = "shifted_log"
    rotate: bool = True
    views: int = 7
    iterations: int = 50
    batch: int = 16
    target: str = "unit"


class Best(Blockwise):
    """Turned streams, ERQ's start, logarithmic grids behind GELU and softmax, a little block-wise learning."""

    name = "best"
    version = 4
    paper = "this project's combination of RepQ-ViT, ERQ, AdaLog and SPDFQ"
    config_class = BestConfig
    inferred = "the combination"
