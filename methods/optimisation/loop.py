"""The one optimisation loop of all synthesis methods: Adam on the pixels under a method's loss.

The loop owns optimizer, schedule with its rounds, jitter and flips, clamping to the valid pixel box, loss logs
and the check for divergence. A method gives an objective: for one step, an iterator of weighted loss terms of
the images as they are shown (jittered, flipped), each group backpropagated as soon as it is yielded, so that a
method can walk through its views in micro-batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from methods.contracts import ImageSpace, Report, SynthesisContext, SyntheticImages
from methods.errors import UsageError, unknown_name
from methods.optimisation.snapshots import Progress, Resumption
from methods.optimisation.spectrum import smoothed
from methods.optimisation.views import Jitter

PRECISIONS = ("fp32", "bf16")
Objective: TypeAlias = Callable[[Tensor, int], Iterator[dict[str, Tensor]]]


_EXPLODED = 100.0  # times the first step's loss


class DivergenceError(RuntimeError):
    """A loss term or an image stopped being finite, or the loss exploded; names the step and the term."""


@dataclass(frozen=True)
class LoopSettings:
    """How pixels are optimised."""

    iterations: int
    """Adam steps in all."""
    learning_rate: float
    """Peak of the learning rate."""
    betas: tuple[float, float] = (0.5, 0.9)
    """Adam's decays of both moments."""
    warmup: float = 0.1
    """Share of a round's steps over which the rate rises linearly, before a half cosine takes it to zero."""
    precision: str = "fp32"
    """Of the forward passes, `fp32` or `bf16` (autocast; pixels, losses and Adam stay in fp32)."""
    rounds: int = 1
    """How often the schedule runs, each time over an equal share of the steps, while Adam's moments live on."""
    weight_decay: float = 0.0
    """Of AdamW, plain Adam where it is 0."""
    floor: float = 0.0
    """The factor on the learning rate that the cosine falls to (1: it stays at its peak)."""
    smoothing: float = 0.0
    """The gradient at frequency f is divided by f^smoothing before Adam sees it, so that broad shapes move first."""

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.learning_rate <= 0 or not 0 <= self.warmup < 1:
            raise UsageError("Synthesis needs iterations >= 1, learning_rate > 0 and 0 <= warmup < 1.")
        if self.precision not in PRECISIONS:
            raise unknown_name("precision", self.precision, PRECISIONS)
        if min(self.weight_decay, self.smoothing) < 0 or not 0 <= self.floor <= 1:
            raise UsageError("Synthesis needs smoothing >= 0, weight_decay >= 0 and 0 <= floor <= 1.")
        if not 1 <= self.rounds <= self.iterations:
            raise UsageError(f"Synthesis needs 1 <= rounds <= iterations, not {self.rounds} and {self.iterations}.")

    def round_of(self, step: int) -> int:
        """Return the round a step belongs to, both counted from 0."""
        return min(step * self.rounds // self.iterations, self.rounds - 1)

    def span(self, index: int) -> range:
        """Return the steps of round `index`."""
        first, end = (-(-i * self.iterations // self.rounds) for i in (index, index + 1))
        return range(first, end)

    def rate(self, step: int) -> float:
        """Return the factor on the learning rate at a step counted from 0."""
        span = self.span(self.round_of(step))
        step, steps = step - span.start, len(span)
        rise = round(self.warmup * steps)
        if step < rise:
            return (step + 1) / rise
        wave = 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))
        return self.floor + (1 - self.floor) * wave


def optimize_images(
    start: Tensor,
    objective: Objective,
    settings: LoopSettings,
    space: ImageSpace,
    report: Report,
    jitter: Jitter | None = None,
    resumption: Resumption | None = None,
) -> tuple[Tensor, dict[str, list[float]]]:
    """Minimise the objective over images [n, C, H, W] and return (images, loss history per term).

    With a `resumption` its last state is gone on from. Raises DivergenceError when a term or the images stop being
    finite, or when the sum of the terms exceeds 100 times that of the first step (or 100, where that is less than 1).
    """
    images = start.detach().clone().requires_grad_(True)
    now = Progress(images, _optimizer(images, settings), objective, {})
    if resumption:
        resumption.restore(now)
    while now.step < settings.iterations:
        _advance(now, objective, settings, space, jitter)
        if resumption:
            resumption.save(now)
        report(now.step, settings.iterations)
    if not torch.isfinite(images).all():
        raise DivergenceError("Synthesis diverged: the images hold values that are not finite.")
    return images.detach(), now.history


def _advance(
    now: Progress, objective: Objective, settings: LoopSettings, space: ImageSpace, jitter: Jitter | None
) -> None:
    """Make one step: gradient of the images as shown, Adam at the schedule's rate, back into the box."""
    images, step = now.images, now.step
    now.optimizer.zero_grad(set_to_none=False)
    shown = jitter.show(images, settings.round_of(step)) if jitter else images
    values = _backward(objective(shown, step), images.device.type, settings.precision)
    now.first = now.first if step else sum(values.values())
    _check(values, step, now.first)
    for name, value in values.items():
        now.history.setdefault(name, []).append(value)
    if settings.smoothing > 0:
        assert images.grad is not None
        images.grad.copy_(smoothed(images.grad, settings.smoothing))
    now.optimizer.param_groups[0]["lr"] = settings.learning_rate * settings.rate(step)
    now.optimizer.step()
    low, high = space.bounds(images.device)
    with torch.no_grad():
        images.copy_(torch.minimum(torch.maximum(images, low), high))
    now.step += 1


def _optimizer(images: Tensor, settings: LoopSettings) -> torch.optim.Optimizer:
    """Return Adam on the images, or AdamW where their values decay."""
    rate, betas, decay = settings.learning_rate, settings.betas, settings.weight_decay
    if decay > 0:
        return torch.optim.AdamW([images], lr=rate, betas=betas, weight_decay=decay)
    return torch.optim.Adam([images], lr=rate, betas=betas)


def from_noise(
    count: int,
    objective: Objective,
    settings: LoopSettings,
    context: SynthesisContext,
    jitter: Jitter | None = None,
    targets: Tensor | None = None,
) -> SyntheticImages:
    """Optimise `count` images from standard normal noise; `targets` [count, classes] go with them and give labels."""
    start = torch.randn((count, *context.space.shape), generator=context.generator).to(context.device)
    going_on = Resumption.of(context)
    images, losses = optimize_images(start, objective, settings, context.space, context.report, jitter, going_on)
    if targets is None:
        return SyntheticImages(images.cpu(), losses=losses)
    targets = targets.cpu()
    return SyntheticImages(images.cpu(), targets, losses, {"labels": targets.argmax(dim=1)})


def _check(values: dict[str, float], step: int, first: float) -> None:
    """Raise DivergenceError for a term that is not finite, or a sum far above `first`, that of the first step."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise DivergenceError(f"Synthesis diverged at step {step}: the term {name!r} is {value}.")
    total = sum(values.values())
    if total > _EXPLODED * max(1.0, abs(first)):
        name = max(values, key=lambda term: values[term])
        raise DivergenceError(
            f"Synthesis diverged at step {step}: the loss rose from {first:.4g} to {total:.4g}, "
            f"most of it the term {name!r} with {values[name]:.4g}."
        )


def _backward(groups: Iterator[dict[str, Tensor]], device: str, precision: str) -> dict[str, float]:
    """Backpropagate every group of terms and return the value of each term, summed over the groups."""
    values: dict[str, Tensor] = {}
    while True:
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            terms = next(groups, None)
        if terms is None:
            found = torch.stack([value.double() for value in values.values()])  # a GPU is waited for once
            return dict(zip(values, found.tolist(), strict=True))
        torch.stack([term.float() for term in terms.values()]).sum().backward()
        for name, term in terms.items():
            values[name] = values.get(name, torch.zeros_like(term)) + term.detach()
