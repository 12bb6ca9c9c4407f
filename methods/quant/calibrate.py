"""The one calibration pass: every activation quantizer sees the images' activations and sets its range."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from methods.quant.insert import activation_quantizers


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
