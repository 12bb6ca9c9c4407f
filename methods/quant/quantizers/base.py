"""What every fake quantizer is: a module that rounds its input to a grid of codes and maps it straight back.

Simulated quantization: the arithmetic stays in floating point, only the values lie on the grid. Gradients
pass straight through inside the range and are zero outside it. The quantizers are the files beside this one.

A fake quantizer is a handful of cheap operations; on a CPU, each of them over a whole activation waits for memory. In
place and part by part (`changed`, `change_`) all but the first find their values in the cache. What they write goes to
memory written before (`workspace`): the system hands out fresh pages at a third of that speed.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class IntegerGrid:
    """q = clip(round(x/scale) + zero_point, low, high), x^ = scale (q - zero_point): the grid of QDQ operations.

    scale and zero_point hold one number, or one per slice along `axis`.
    """

    scale: Tensor
    zero_point: Tensor
    axis: int | None
    low: int
    high: int


class Quantizer(nn.Module, ABC):
    """A fake quantizer of `bits` bits that takes its range from the tensors it observes.

    While `observing` is set, a forward pass fits the range to its input and returns the input unchanged, or,
    with `sequential` set as well, returns it on the grid just fitted.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.observing = False
        self.sequential = False

    @property
    @abstractmethod
    def codes(self) -> range:
        """The integer grid: every code `quantize` can give."""

    @property
    def constants(self) -> int:
        """How many numbers (scales, zero points, offsets) have to be stored with the codes."""
        return sum(number.numel() for number in (*self.buffers(), *self.parameters()))

    @abstractmethod
    def fit(self, x: Tensor) -> None:
        """Choose scale (and zero point) for the finite values of x; the range is always finite."""

    @abstractmethod
    def quantize(self, x: Tensor) -> Tensor:
        """Return the int32 codes of x, same shape; infinities get the outermost codes."""

    @abstractmethod
    def dequantize(self, codes: Tensor) -> Tensor:
        """Return the float32 values that int32 codes stand for, same shape."""

    @abstractmethod
    def inside(self, x: Tensor) -> Tensor:
        """Return a boolean mask of x: where nothing is clipped, so that gradients pass."""

    @abstractmethod
    def describe(self) -> str:
        """Say in a few words what this quantizer does, for the record's list of operations."""

    def to_qdq(self) -> IntegerGrid | None:
        """Return the grid as QDQ operations say it, None if they cannot."""
        return None

    def fake_quantize(self, x: Tensor) -> Tensor:
        """Return x rounded to the grid, same shape."""
        with torch.no_grad():
            value = self.dequantize(self.quantize(x))
        return straight_through(x, value, self.inside)

    def fake_quantize_(self, x: Tensor) -> None:
        """Round x to the grid in place; no gradient passes."""
        x.copy_(self.fake_quantize(x))

    def forward(self, x: Tensor) -> Tensor:
        """Fit the range to x and pass x on while observing; return x on the grid otherwise."""
        if self.observing:
            self.fit(x.detach())
            if not self.sequential:
                return x
        return self.fake_quantize(x)


class _StraightThrough(torch.autograd.Function):
    """The value going forward, the gradient of x where `inside` is set going backward."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, value: Tensor, inside: Tensor) -> Tensor:
        ctx.save_for_backward(inside)
        return value

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (inside,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return gradients[0].masked_fill(~inside, 0.0), None, None


def straight_through(x: Tensor, value: Tensor, inside: Callable[[Tensor], Tensor]) -> Tensor:
    """Return `value` with the gradient of x where `inside(x)`; the mask is made only when one is needed."""
    if not (torch.is_grad_enabled() and x.requires_grad):
        return value
    with torch.no_grad():
        mask = inside(x)
    result: Tensor = _StraightThrough.apply(x, value, mask)
    return result


_BLOCK = 1 << 16
Chain = Callable[[Tensor, Tensor], object]
"""What a quantizer does with a tensor, written to another of its shape, or in place where both are one."""


def changed(x: Tensor, chain: Chain, cut: bool = True) -> Tensor:
    """Return what `chain` makes of x [n, ...]; `cut` says that it may see part of x at a time."""
    result = _room(x)
    for source, part in zip(_parts(x, cut), _parts(result, cut), strict=True):
        chain(source, part)
    return result


def change_(x: Tensor, chain: Chain, cut: bool = True) -> None:
    """Change x [n, ...] in place by `chain`; `cut` says that it may see part of x at a time."""
    for part in _parts(x, cut):
        chain(part, part)


def _parts(x: Tensor, cut: bool) -> tuple[Tensor, ...]:
    """Cut x along its first dimension into parts of about `_BLOCK` values; on other devices it is one part."""
    if not (cut and x.is_cpu and x.dim() and x.numel() > _BLOCK):
        return (x,)
    parts: tuple[Tensor, ...] = x.split(max(1, _BLOCK * len(x) // x.numel()))
    return parts


_SPARE = 2  # a product has two operands


class _Buffers(threading.local):
    """One-dimensional buffers of a thread, float32: spare ones, and those that each `workspace` it is in has taken."""

    def __init__(self) -> None:
        self.spare: list[Tensor] = []
        self.taken: list[list[Tensor]] = []


_BUFFERS = _Buffers()


@contextmanager
def workspace() -> Iterator[None]:
    """Use the memory of what quantizers return inside the `with` again after it, so nothing of it may be kept.

    Without gradients, in inference mode on CPUs, that is; elsewhere what they return is the caller's.
    """
    _BUFFERS.taken.append([])
    try:
        yield
    finally:
        _BUFFERS.spare = sorted([*_BUFFERS.spare, *_BUFFERS.taken.pop()], key=torch.numel)[-_SPARE:]


def _room(x: Tensor) -> Tensor:
    """Return memory for as many values as x has, laid out as x is."""
    reused = _BUFFERS.taken and torch.is_inference_mode_enabled() and x.is_cpu and x.dtype == torch.float32
    if not reused or x.numel() <= _BLOCK:  # what is small stays in the process anyway
        return torch.empty_like(x)
    fitting = [buffer for buffer in _BUFFERS.spare if len(buffer) >= x.numel()]
    buffer = fitting[0] if fitting else x.new_empty(x.numel())
    _BUFFERS.spare = [other for other in _BUFFERS.spare if other is not buffer]
    _BUFFERS.taken[-1].append(buffer)
    return buffer.as_strided(x.shape, torch.empty_like(x, device="meta").stride())
