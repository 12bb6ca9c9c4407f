"""QDrop: while a unit learns, some activations are left in floating point at random (Wei et al., ICLR 2022).

The paper quantizes every value with probability one half, anew in each step, so that what is learned is flat
in the direction of the activations' errors and fits the images seen less closely.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from methods.quant.quantizers.base import Quantizer


@contextmanager
def dropping(quantizers: Iterable[Quantizer], probability: float, generator: torch.Generator) -> Iterator[None]:
    """Let every value pass `quantizers` unquantized with `probability`, rounded to 1/256 (0: nothing changes).

    Gradients of values that pass are not clipped. The CPU `generator` draws, so that all devices drop the same.
    """
    threshold = round(256 * probability)
    leave = partial(_leave, threshold, generator)
    hooks = [quantizer.register_forward_hook(leave) for quantizer in quantizers] if threshold else []
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _leave(
    threshold: int, generator: torch.Generator, _quantizer: nn.Module, arguments: tuple[Tensor], output: Tensor
) -> Tensor:
    x = arguments[0]
    return torch.where(drawn(x.shape, threshold, generator).to(x.device), x, output)


def drawn(shape: torch.Size, threshold: int, generator: torch.Generator) -> Tensor:
    """Return a boolean tensor, True with probability threshold/256 (1..256); a random byte decides each."""
    words = torch.empty(-(-shape.numel() // 8), dtype=torch.int64).random_(-(2**63), None, generator=generator)
    return (words.view(torch.uint8)[: shape.numel()] <= threshold - 1).view(shape)
