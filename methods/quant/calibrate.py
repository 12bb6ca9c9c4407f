"""Passes of the calibration images: activations set their ranges, weights get the better of two quantizers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call

from methods.quant.insert import activation_quantizers, quantized_layers
from methods.quant.layers import QuantizedLayer
from methods.quant.quantizers.base import Quantizer


@contextmanager
def observing(model: nn.Module, sequential: bool = False) -> Iterator[None]:
    """Let every activation quantizer of `model` fit its range to what passes, and pass it on.

    It is passed on as it is, or, if `sequential`, on the grid just fitted.
    """
    quantizers = activation_quantizers(model)
    for quantizer in quantizers:
        quantizer.observing, quantizer.sequential = True, sequential
    try:
        yield
    finally:
        for quantizer in quantizers:
            quantizer.observing = quantizer.sequential = False


def calibrate(model: nn.Module, images: Tensor, sequential: bool = False) -> None:
    """Set all activation ranges from one pass of `images` [n, C, H, W].

    Activations stay in floating point, or, if `sequential`, every quantizer sees what the quantized ones
    before it leave. One pass over the whole set at once: ranges do not depend on how the set is cut into
    batches. Weights are quantized already, so ranges are those the quantized layers will see. Raises ValueError
    for images that are not finite.
    """
    check_finite(images)
    with torch.no_grad(), observing(model, sequential):
        model(images)


def check_finite(images: Tensor) -> None:
    """Raise ValueError for images that hold infinities or NaN: no range could be taken from what they lead to."""
    bad = int((~images.isfinite()).flatten(1).any(1).sum())
    if bad:
        raise ValueError(
            f"{bad} of {len(images)} calibration images hold values that are not finite (infinite or NaN)."
        )


@torch.no_grad()
def choose_weights(model: nn.Module, images: Tensor, other: Callable[[int], Quantizer]) -> None:
    """Give every layer the better of two weight quantizers, its own or what `other` makes for its bits, in place.

    Better is the one with which the layer puts out, for what comes in when `images` [n, C, H, W] pass, what is nearer
    in squared error to the output of its weights as they are; on equal terms its own stays.
    """
    layers = [layer for _, layer in quantized_layers(model) if layer.weights is not None]
    hooks = [layer.register_forward_pre_hook(partial(_choose, other)) for layer in layers]
    try:
        model(images)
    finally:
        for hook in hooks:
            hook.remove()


def _choose(other: Callable[[int], Quantizer], quantized: nn.Module, arguments: tuple[Tensor]) -> None:
    assert isinstance(quantized, QuantizedLayer)
    assert quantized.weights is not None
    layer, rival = quantized.layer, other(quantized.weights.bits)
    rival.fit(layer.weight)
    exact = layer(*arguments)
    own, others = (
        (functional_call(layer, {"weight": quantizer(layer.weight)}, arguments) - exact).square().mean()
        for quantizer in (quantized.weights, rival)
    )
    if others < own:
        quantized.weights = rival
