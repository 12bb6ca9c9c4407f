"""Block-by-block reconstruction: unit by unit, the quantized network learns to reproduce the original's outputs.

One pass through the quantized network. A hook before each unit catches what comes in from the units learned so
far, learns the unit on it, and lets the pass go on through the learned unit. What is learned of a unit, and how, is
`Learning`; the steps themselves are in `_learn_unit`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from methods.contracts import Report
from methods.models.architecture import reconstruction_units
from methods.quant.insert import activation_quantizers, quantized_layers
from methods.quant.layers import QuantizedLayer
from methods.quant.learned_parts import dropping, learnable, learned_rounding, learned_scales
from methods.quant.learning import Learning
from methods.quant.quantizers.adaround import AdaRoundQuantizer, beta

Target: TypeAlias = Callable[[Tensor], Tensor]
"""Gives what a unit should put out, from what comes in [n, ...]."""


def reconstruct(
    model: nn.Module,
    quantized: nn.Module,
    images: Tensor,
    learning: Learning,
    generator: torch.Generator,
    report: Report,
) -> None:
    """Learn every unit of `quantized` in place, so that it puts out what its counterpart in `model` does (`target`).

    images: [n, C, H, W], of which inputs and targets are made; generator: draws batches and drops; report: is
    called after every step of every unit.
    """
    targets = _unit_outputs(model, images) if learning.target == "network" else dict(reconstruction_units(model))
    total = len(targets) * learning.iterations
    before = []
    for index, name in enumerate(list(targets)):
        unit = quantized.get_submodule(name)
        step_done = partial(_report_from, report, index * learning.iterations, total)
        hook = partial(_learn_unit, targets.pop(name), learning, generator, step_done)
        before.append(unit.register_forward_pre_hook(hook))
    try:
        with torch.no_grad():
            quantized(images)
    finally:
        for handle in before:
            handle.remove()


def _report_from(report: Report, offset: int, total: int, step: int) -> None:
    report(offset + step, total)


def _unit_outputs(model: nn.Module, images: Tensor) -> dict[str, Target]:
    """Return, for every unit, what gives its output in the floating-point model, whatever it is asked for."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str, _module: nn.Module, _arguments: Any, output: Tensor) -> None:
        outputs[name] = output

    after = [unit.register_forward_hook(partial(keep, name)) for name, unit in reconstruction_units(model)]
    try:
        with torch.no_grad():
            model(images)
    finally:
        for hook in after:
            hook.remove()
    return {name: partial(_given, output) for name, output in outputs.items()}


def _given(output: Tensor, _inputs: Tensor) -> Tensor:
    return output


def _learn_unit(
    target: Target,
    learning: Learning,
    generator: torch.Generator,
    report: Callable[[int], None],
    unit: nn.Module,
    arguments: tuple[Tensor],
) -> None:
    """Adam on what is learned of a unit, against its target for what comes in."""
    inputs = arguments[0].detach()
    with torch.no_grad():
        wanted = target(inputs)
    layers = [layer for _, layer in quantized_layers(unit)]
    with (
        learned_rounding(layers if learning.rounding == "adaround" else []) as roundings,
        learned_scales(unit if learning.scales == "learned" else nn.Identity()) as scales,
        dropping(activation_quantizers(unit), learning.drop, generator),
        learnable(plain_parameters(layers)) as plain,
        torch.enable_grad(),
    ):
        groups = [
            {"params": plain, "lr": learning.learning_rate},
            {"params": [rounding.up for rounding in roundings], "lr": learning.rounding_rate},
            {"params": [quantizer.scale for quantizer in scales], "lr": learning.scale_rate},
        ]
        optimizer = torch.optim.Adam([group for group in groups if group["params"]])
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=learning.iterations)
        for step in range(learning.iterations):
            chosen = _batch(len(inputs), learning.batch, generator)
            loss = reconstruction_loss(unit.forward(inputs[chosen]), wanted[chosen])
            loss = loss + learning.rounding_weight * rounding_penalty(roundings, step / learning.iterations)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            report(step + 1)


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """Return the squared distance of outputs [..., channels], averaged over images and tokens."""
    return (output - target).square().sum(-1).mean()


def rounding_penalty(roundings: list[AdaRoundQuantizer], progress: float) -> Tensor | float:
    """Return the sum of the regularisers after a share of the steps."""
    exponent = beta(progress)
    return 0.0 if exponent is None else sum(rounding.regulariser(exponent) for rounding in roundings)


def plain_parameters(layers: Iterable[QuantizedLayer]) -> list[Tensor]:
    """Return the weights that are learned themselves, and all biases."""
    return [
        parameter
        for layer in layers
        for parameter in (
            None if isinstance(layer.weights, AdaRoundQuantizer) else layer.layer.weight,
            layer.layer.bias,
        )
        if parameter is not None
    ]


def _batch(count: int, batch: int, generator: torch.Generator) -> Tensor | slice:
    """Return which of `count` images a step takes; nothing is drawn where all are."""
    return torch.randperm(count, generator=generator)[:batch] if 0 < batch < count else slice(None)
