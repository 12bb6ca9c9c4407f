"""The plainest recipe, which several backends start from and students of synthesis are made with: min-max ranges."""

from __future__ import annotations

from methods.quant.ranges import MinMaxRange
from methods.quant.swap import Recipe
from methods.quant.uniform import UniformQuantizer

MIN_MAX = Recipe(
    weights=lambda bits: UniformQuantizer(bits, MinMaxRange(), axis=0, symmetric=True),
    activations=lambda bits: UniformQuantizer(bits, MinMaxRange()),
    attention=lambda bits: UniformQuantizer(bits, MinMaxRange()),
)
"""Weights symmetric per output channel, all activations asymmetric per tensor, the softmax output too."""
