"""`aphq`: APHQ-ViT's settings of block-wise learning (CVPR 2025), frozen; what it leaves open is `blockwise`'s.

Stated: the squared error of a block weighted by the average perturbation Hessian (`methods.quant.learning.curvature`),
targets of the clean network, AdaRound, activation scales learned at 4e-5, QDrop 0.5, 20000 steps of 32 images a block,
uniform grids, one per head for the operands of the attention products. Left out: MLP reconstruction, which puts ReLU
in the place of GELU before quantization and makes another network. Inferred: ranges by percentiles, the size and signs
of the perturbation, rates of scales in units of the scale, AdaRound's rate and weight.
"""

from __future__ import annotations

from dataclasses import dataclass

from methods.backends.blockwise import Blockwise
from methods.backends.fima import FimaConfig


@dataclass(frozen=True)
class AphqConfig(FimaConfig):
    """Settings of `fima`, which published code has in common with it, with another loss."""

    objective: str = "perturbation"


class Aphq(Blockwise):
    """Learned roundings, scales and grids per head, weighted by the average perturbation Hessian; GELU stays."""

    name = "aphq"
    version = 1
    paper = "APHQ-ViT (CVPR 2025) without its MLP reconstruction"
    config_class = AphqConfig
    inferred = "initial ranges; size and signs of the perturbation; rates of scales and roundings"
