"""`best`: the strongest data-free combination found here, frozen: `blockwise` with parts of its peers.

RepQ-ViT's reparameterized quantizers, ERQ's regression and rounding, AdaLog's logarithmic grid behind GELU, this
project's logarithm for the softmax output, whose last code is the mean of the tail, and fifty steps of SPDFQ's
block-wise learning (at three bits they did harm; iterations=0 leaves them out). Activations stay per tensor. Chosen by
the KL divergence from the floating-point model on 256 training images of ImageNet, with DeiT-T at W4A4 and 8 images of
SPDFQ (the softmax output's grid also with PSAQ-ViT's and real training images), none of which any table reports on;
`results/README.md` has its ablation and what did not help.
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
    iterations: int = 50


class Best(Blockwise):
    """ERQ's start, a logarithmic grid behind GELU, a little block-wise learning."""

    name = "best"
    version = 2
    paper = "this project's combination of RepQ-ViT, ERQ, AdaLog and SPDFQ"
    config_class = BestConfig
    inferred = "the combination"

    def default_config(self, model: str) -> BestConfig:
        """Return the frozen combination."""
        return BestConfig()
