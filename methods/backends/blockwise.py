"""`blockwise`: SPDFQ's own backend, block-by-block learning of the quantized network (arXiv 2412.16553).

Channel-wise uniform weights, per-tensor uniform activations, log2 for the softmax output. Ranges start
from the percentile clip of least squared error (inferred: the sibling convention of RepQ-ViT, I&S-ViT and
ERQ). Then, unit by unit, weights and biases are learned so that the quantized unit, fed by the quantized
network so far, reproduces the output of the floating-point unit: L_l = ||X_l - X^_l||_2, Adam, learning
rate 4e-5, cosine decay, 100 iterations, all images at once (the last inferred). Ranges, zero points and
the affine parameters of LayerNorm stay as they are (as in the authors' I&S-ViT code).

Beside the defaults, which are SPDFQ's, learning can start from the quantizers of RepQ-ViT or from ERQ's regression,
and take parts of QDrop, AdaRound and LSQ.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from methods.backends import repq
from methods.backends.erq import ErqConfig, reduce_errors
from methods.bits import FLOAT, Bits
from methods.contracts import Backend, QuantizationContext
from methods.errors import UsageError
from methods.models.rotate import Judge, Rounding, heads_rotated, rotated
from methods.optimisation.views import with_views
from methods.quant.calibrate import calibrate, choose_weights
from methods.quant.insert import fold_weights, insert_quantizers
from methods.quant.layers import QuantizedLayer
from methods.quant.learning.reconstruct import reconstruct
from methods.quant.learning.settings import Learning, check_choices
from methods.quant.quantizers.logarithmic import Log2Quantizer, LogSqrt2Quantizer
from methods.quant.quantizers.ranges import (
    ACTIVATION_PERCENTILES,
    CLIPPING_PERCENTILES,
    WEIGHT_PERCENTILES,
    PercentileRange,
)
from methods.quant.quantizers.shift_uniform_log2 import ShiftUniformLog2Quantizer
from methods.quant.quantizers.shifted_log import ShiftedLogQuantizer
from methods.quant.quantizers.tail_log import AdaptiveLogQuantizer, TailLogQuantizer
from methods.quant.quantizers.uniform import UniformQuantizer
from methods.quant.recipe import Maker, Recipe

SEARCH = PercentileRange(ACTIVATION_PERCENTILES)
RECIPE = Recipe(
    weights=lambda bits: UniformQuantizer(bits, PercentileRange(WEIGHT_PERCENTILES), axis=0),
    activations=lambda bits: UniformQuantizer(bits, SEARCH),
    attention=lambda bits: Log2Quantizer(bits, SEARCH),
)
ATTENTIONS: dict[str, Maker] = {
    "log2": RECIPE.attention,
    "log_sqrt2": lambda bits: LogSqrt2Quantizer(bits, SEARCH),
    "log_sqrt2_strict": lambda bits: LogSqrt2Quantizer(bits, SEARCH, strict=True),
    "shift_uniform_log2": lambda bits: ShiftUniformLog2Quantizer(bits, SEARCH),
    "adaptive_log": AdaptiveLogQuantizer,
    "tail_log": TailLogQuantizer,
    "uniform": RECIPE.activations,
}
ACTIVATED: dict[str, Maker | None] = {
    "uniform": None,
    "shifted_log": lambda bits: (
        ShiftedLogQuantizer(bits, SEARCH) if bits <= _LOG_BITS else UniformQuantizer(bits, SEARCH)
    ),
}


def _clipped(bits: int) -> UniformQuantizer:
    return UniformQuantizer(bits, PercentileRange(CLIPPING_PERCENTILES), axis=0)


WEIGHTS: dict[str, Maker | None] = {"own": None, "clipped": _clipped, "measured": _clipped}
_LOG_BITS = 6  # with more, a uniform grid behind a GELU errs less than powers of 2^(1/4)
_REACH = 0.49
_JUDGED = 16  # images that rotations are judged on: products of all would need much memory
_FAR_PASSES = 7
TURNED = ("none", "all", "measured")
INITS = ("percentile", "repq", "erq")


@dataclass(frozen=True)
class BlockwiseConfig(Learning):
    """Settings of start and learning; defaults are the paper's where it states them, all else is off.

    Of learning, the paper states iterations (100; 0 stops before learning) and learning_rate (4e-5).
    """

    init: str = "percentile"
    """What learning starts from. `percentile`: ranges alone; `repq`: RepQ-ViT's reparameterized ones; `erq`: ERQ's
    weights on top of those, each as near to where it was before rounding as ERQ's rounding lets it be."""
    attention: str = "log2"
    """The softmax output's grid: `log2` (SPDFQ), `log_sqrt2` (RepQ-ViT, ERQ; one value more than its bits hold),
    `log_sqrt2_strict` (without that one), `shift_uniform_log2` (I&S-ViT), `adaptive_log` (AdaLog; one value more
    as well), `tail_log` (this project) or `uniform`."""
    weights: str = "own"
    """Ranges of weights: the percentiles that what learning starts from has of its `own` (RepQ-ViT's and ERQ's clip
    next to nothing), or `clipped`, percentiles from 90 % on, of which the one of least squared error is taken, or
    `measured`, layer by layer those of both with which its output errs less on the images."""
    gelu: str = "uniform"
    """The grid of what a GELU puts out, `uniform` or `shifted_log` (AdaLog; up to six bits)."""
    rotate: bool = False
    """Whether residual streams are turned first, so that no channel stands out (`methods.models.rotate`)."""
    rotate_heads: str = "none"
    """Which attention heads are turned first, `none`, `all` or those where it lowers the error of products on the
    images, `measured` (`methods.models.rotate`)."""
    per_head: bool = False
    """Whether the operands of the attention products have one grid per head, as for FIMA-Q and GLF-Q (a protocol of
    its own), or one per tensor."""
    views: int = 0
    """How many crops of every image, of 70 to 100 % of its area and half of them flipped, regression and learning see
    beside it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choices(
            self,
            {"init": INITS, "attention": ATTENTIONS, "gelu": ACTIVATED, "weights": WEIGHTS, "rotate_heads": TURNED},
        )
        if self.views < 0:
            raise UsageError("views must be at least 0.")

    def grids(self, recipe: Recipe) -> Recipe:
        """Return the recipe with the grids chosen here."""
        return replace(
            recipe,
            weights=WEIGHTS[self.weights] or recipe.weights,
            attention=ATTENTIONS[self.attention],
            activated=ACTIVATED[self.gelu],
            per_head=self.per_head,
        )


class Blockwise(Backend):
    """Percentile ranges, log2 attention, block-wise reconstruction."""

    name = "blockwise"
    version = 2
    paper = "SPDFQ / SARDFQ (arXiv 2412.16553; ICCV 2025)"
    config_class = BlockwiseConfig
    inferred = "initial ranges; all images in every step"
    short: ClassVar = {"iterations": 50}
    space: ClassVar = {
        "iterations": {"min": 0, "max": 400},
        "learning_rate": {"min": 1e-6, "max": 1e-3, "scaling": "log"},
    }

    def takes_formats(self, config: Any) -> bool:
        """Learning works on any format, ERQ's rounding on integers alone."""
        return bool(config.init != "erq")

    def image_passes(self, config: Any, images: int) -> float:
        """Count every learning step as one forward+backward pass of its images, start and regression as one.

        The feature loss goes through what is behind every unit as well: half of the network for each of twelve blocks.
        """
        seen = images * (1 + config.views)
        regression = seen if config.init == "erq" else 0
        passes = _FAR_PASSES if config.objective == "feature" else 1
        return float(images + regression + config.iterations * min(config.batch or seen, seen) * passes)

    def quantize(
        self, model: nn.Module, images: Tensor, bits: Bits, config: Any, context: QuantizationContext
    ) -> nn.Module:
        """Calibrate on the images, learn unit by unit, fold the weights."""
        if config.rotate and not bits.float:
            model = rotated(model)
        if config.rotate_heads != "none" and not bits.float:
            model = heads_rotated(model, _judge(images, bits, config) if config.rotate_heads == "measured" else None)
        seen = with_views(images, config.views, context.generator)
        quantized = _initialized(model, images, seen, bits, config, context)
        if (config.iterations or config.affine) and not bits.float:
            reconstruct(model, quantized, seen, config, context.generator, context.report, len(images))
        fold_weights(quantized)
        return quantized


def _judge(images: Tensor, bits: Bits, config: BlockwiseConfig) -> Judge:
    """Return what judges rotations of heads with the grids that activations and weights will have."""
    recipe = config.grids(RECIPE if config.init == "percentile" else repq.RECIPE)
    roundings = _rounding(recipe.activations, bits.activations), _rounding(recipe.weights, bits.weights)
    return Judge(images[:_JUDGED], *roundings)


def _rounding(maker: Maker, bits: int) -> Rounding:
    def rounded(x: Tensor) -> Tensor:
        if bits == FLOAT:
            return x
        quantizer = maker(bits)
        quantizer.fit(x)
        result: Tensor = quantizer(x)
        return result

    return rounded


def _initialized(
    model: nn.Module, images: Tensor, seen: Tensor, bits: Bits, config: BlockwiseConfig, context: QuantizationContext
) -> nn.Module:
    """Return the copy of `model` that learning starts from: with ranges from the images; regression takes `seen`."""
    own = RECIPE if config.init == "percentile" else repq.RECIPE
    if config.init == "percentile":
        quantized = insert_quantizers(model, bits, config.grids(own), context.space)
        calibrate(quantized, images)
    else:
        quantized = repq.reparameterized(model, images, bits, context.space, config.grids(own))
    if config.weights == "measured" and not bits.float:
        choose_weights(quantized, images, own.weights)
    if config.init == "erq" and not bits.float:
        loosen(reduce_errors(quantized, seen, ErqConfig(), context))
    return quantized


@torch.no_grad()
def loosen(regressed: list[tuple[QuantizedLayer, Tensor]]) -> None:
    """Move rounded weights back towards what they were before, as far as they still round to the same values.

    On the very grid, small steps of learning would change no weight.
    """
    for quantized, before in regressed:
        if isinstance(quantized.weights, UniformQuantizer):
            reach = _REACH * quantized.weights.scale
            weight = quantized.layer.weight
            weight.add_(torch.clamp(before - weight, -reach, reach))
