"""The plainest recipe, which several backends start from and students of synthesis are made with: min-max ranges."""

from __future__ import annotations

from methods.quant.quantizers.ranges import MinMaxRange
from methods.quant.quantizers.uniform import UniformQuantizer
from methods.quant.swap import Recipe

MIN_MAX = Recipe(
    weights=lambda bits: UniformQuantizer(bits, MinMaxRange(), axis=0, symmetric=True),
    activations=lambda bits: UniformQuantizer(bits, MinMaxRange()),
    attention=lambda bits: UniformQuantizer(bits, MinMaxRange()),
)
"""Weights symmetric per output channel, all activations asymmetric per tensor, the softmax output too."""
