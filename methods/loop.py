"""The one optimisation loop of all synthesis methods: Adam on the pixels under a method's loss.

The loop owns optimizer, schedule, clamping to the valid pixel box, loss logs and the check for values that
are not finite. A method gives an objective: for one step, an iterator of weighted loss terms, each group
backpropagated as soon as it is yielded, so that a method can walk through its views in micro-batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from methods.contracts import ImageSpace, Report
from methods.errors import UsageError, unknown_name

PRECISIONS = ("fp32", "bf16")
Objective: TypeAlias = Callable[[Tensor, int], Iterator[dict[str, Tensor]]]


class DivergenceError(RuntimeError):
    """A loss term or an image stopped being finite; names the step and the term."""


@dataclass(frozen=True)
class LoopSettings:
    """iterations: Adam steps; learning_rate: its peak; betas: Adam's; warmup: share of the steps over which the
    rate rises linearly, before a half cosine takes it to zero; precision: of the forward passes, `fp32` or
    `bf16` (autocast; pixels, losses and Adam stay in fp32)."""

    iterations: int
    learning_rate: float
    betas: tuple[float, float] = (0.5, 0.9)
    warmup: float = 0.1
    precision: str = "fp32"

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.learning_rate <= 0 or not 0 <= self.warmup < 1:
            raise UsageError("Synthesis needs iterations >= 1, learning_rate > 0 and 0 <= warmup < 1.")
        if self.precision not in PRECISIONS:
            raise unknown_name("precision", self.precision, PRECISIONS)

    def rate(self, step: int) -> float:
        """Return the factor on the learning rate at a step counted from 0."""
        rise = round(self.warmup * self.iterations)
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, self.iterations - rise)))


def optimize_images(
    start: Tensor, objective: Objective, settings: LoopSettings, space: ImageSpace, report: Report
) -> tuple[Tensor, dict[str, list[float]]]:
    """Minimise the objective over images [n, C, H, W] and return (images, loss history per term).

    Raises DivergenceError when a term or the images stop being finite.
    """
    images = start.detach().clone().requires_grad_(True)
    low, high = space.bounds(images.device)
    optimizer = torch.optim.Adam([images], lr=settings.learning_rate, betas=settings.betas)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, settings.rate)
    history: dict[str, list[float]] = {}
    for step in range(settings.iterations):
        optimizer.zero_grad(set_to_none=False)
        for name, value in _backward(objective(images, step), images.device.type, settings.precision).items():
            if not math.isfinite(value):
                raise DivergenceError(f"Synthesis diverged at step {step}: the term {name!r} is {value}.")
            history.setdefault(name, []).append(value)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            images.copy_(torch.minimum(torch.maximum(images, low), high))
        report(step + 1, settings.iterations)
    if not torch.isfinite(images).all():
        raise DivergenceError("Synthesis diverged: the images hold values that are not finite.")
    return images.detach(), history


def _backward(groups: Iterator[dict[str, Tensor]], device: str, precision: str) -> dict[str, float]:
    """Backpropagate every group of terms and return the value of each term, summed over the groups."""
    values: dict[str, Tensor] = {}
    while True:
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            terms = next(groups, None)
        if terms is None:
            return {name: float(value) for name, value in values.items()}
        torch.stack([term.float() for term in terms.values()]).sum().backward()
        for name, term in terms.items():
            values[name] = values.get(name, torch.zeros_like(term)) + term.detach()
